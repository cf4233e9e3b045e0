"""The few fields of a request's body that the door reads, and those it adds.

The body itself goes to the engine as the bytes that came, so unknown fields pass through.
"""

from typing import Final

import msgspec

from headgate.gateway.bodies import ABSENT, TOKENS_MAX, Ask
from headgate.gateway.errors import Problem

BYTES_PER_TOKEN: Final = 4  # English text in UTF-8, the usual rule of thumb; settled by real counts

_decoder: Final = msgspec.json.Decoder(Ask)


def read_ask(body: bytes) -> Ask:
    """Decode the fields; a Problem with status 400 says what is wrong with them."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        place = str(error)
        param = place.partition("`$.")[2].rstrip("`") or None
        if param is None and "missing required field `model`" in place:
            param = "model"
        raise Problem(400, "invalid_value", f"The request body is wrong: {place}.", param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, None, f"The request body is not valid JSON: {error}.") from None


def output_max(ask: Ask) -> int | None:
    """The most tokens the client allows for all choices together."""
    most = ask.max_completion_tokens
    if most is None:
        most = ask.max_tokens
        if most is None:
            most = ask.max_output_tokens
            if most is None:
                return None
    return min(max(most, 0) * max(ask.n or 1, 1), TOKENS_MAX)


def extended(body: bytes, ask: Ask, extras: bytes, overrides: dict[str, bytes]) -> bytes:
    """The body with our fields in it.

    `extras` are those same fields as the text `,"name":value...`: normally it is spliced in
    before the closing brace and nothing is parsed or copied twice. Only where the client sent a
    field of that name itself is the object taken apart and put together again.
    """
    if not extras:
        return body
    names_model = extras.find(b'"model"') >= 0
    if ask.priority is ABSENT and ask.stream_options is None and not names_model:
        end = len(body) - 1
        if body[end] != 125:  # }
            end = body.rfind(b"}")
        return b"".join((memoryview(body)[:end], extras, b"}"))
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for name, value in overrides.items():
        fields[name] = msgspec.Raw(value)
    return msgspec.json.encode(fields)
