"""The JSON that is read, as records: what clients ask for, and the counts in what engines answer.

They stand apart from the code that reads them because msgspec looks at their annotations, which
a compiled module does not keep.
"""

from typing import Annotated

import msgspec

ABSENT = msgspec.Raw()
# More tokens than any request has. What is larger would not fit into sums, nor into the store.
TOKENS_MAX = 1 << 31
Most = Annotated[int, msgspec.Meta(le=TOKENS_MAX)]  # below 0 is for the engine to refuse
Count = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]


class StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Ask(msgspec.Struct, gc=False):
    """What is read of a completion, chat, embedding or response request."""

    model: str
    stream: bool | None = None
    max_tokens: Most | None = None
    max_completion_tokens: Most | None = None
    max_output_tokens: Most | None = None
    n: Most | None = None
    service_tier: str | None = None
    stream_options: StreamOptions | None = None
    priority: msgspec.Raw = ABSENT
    messages: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT


class BatchAsk(msgspec.Struct):
    """What a client sends to begin a batch; fields we do not know are let be."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


class Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """An engine's counts, under the names of chat and those of /v1/responses."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: Details | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: Details | None = None


class Inner(msgspec.Struct, gc=False):
    usage: Usage | None = None


class Answer(msgspec.Struct, gc=False):
    usage: Usage | None = None
    response: Inner | None = None  # a /v1/responses stream wraps its last answer
