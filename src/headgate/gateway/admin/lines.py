"""The lines of a batch's input: what is wrong with them, and where each one is."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from headgate.store.batches import LineError

# The only addresses a line may name, all of them our own: nothing in a file is ever fetched.
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
ERRORS_MAX = 100  # as many as a person reads
CUSTOM_ID_MAX = 512


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None


@dataclass
class Input:
    """A file that has been looked through. Lines are numbered from 0; empty ones do not count."""

    file: int = -1  # a descriptor, so that the input outlives its deletion while it is used
    custom_ids: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of each line
    ends: list[int] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    errors: list[LineError] = field(default_factory=list)

    def body(self, line: int) -> bytes:
        """What is to be sent for a line, as the file has it."""
        start, end = self.offsets[line], self.ends[line]
        return bytes(_lines.decode(os.pread(self.file, end - start, start)).body)

    def close(self) -> None:
        if self.file != -1:
            os.close(self.file)


_lines = msgspec.json.Decoder(_Line)
_bodies = msgspec.json.Decoder(_Body)


def look_through(
    path: Path, endpoint: str, models: Collection[str] | None, lines_max: int
) -> Input:
    """Check every line of a file. Takes a second for 200 MB: not for the event loop.

    `models` are those the tenant may use; None: any.
    """
    found = Input(os.open(path, os.O_RDONLY))
    seen: set[str] = set()
    offset = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            start, offset = offset, offset + len(text)
            if not text.strip():
                continue
            if len(found.custom_ids) == lines_max:
                found.errors.append(
                    LineError("too_many_tasks", f"A batch has at most {lines_max} requests.")
                )
                break
            if len(found.errors) >= ERRORS_MAX:
                break
            wrong = _check(text, number, endpoint, models, seen, found)
            if wrong is None:
                found.offsets.append(start)
                found.ends.append(offset)
            else:
                found.errors.append(wrong)
    if not found.custom_ids and not found.errors:
        found.errors.append(LineError("empty_file", "The input file has no requests."))
    return found


def _check(
    text: bytes,
    number: int,
    endpoint: str,
    models: Collection[str] | None,
    seen: set[str],
    found: Input,
) -> LineError | None:
    try:
        line = _lines.decode(text)
    except msgspec.ValidationError as error:
        return LineError("invalid_request", f"The line is wrong: {error}.", number)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return LineError("invalid_json_line", "The line is not valid JSON.", number)
    if not line.custom_id or len(line.custom_id) > CUSTOM_ID_MAX:
        return LineError(
            "invalid_custom_id",
            f"custom_id must have 1 to {CUSTOM_ID_MAX} characters.",
            number,
            "custom_id",
        )
    if line.custom_id in seen:
        return LineError(
            "duplicate_custom_id",
            f"The custom_id {line.custom_id!r} stands on an earlier line.",
            number,
            "custom_id",
        )
    if line.method != "POST":
        return LineError("invalid_method", "The method must be POST.", number, "method")
    if line.url != endpoint:
        return LineError(
            "mismatched_url", f"The url must be the batch's endpoint, {endpoint}.", number, "url"
        )
    try:
        body = _bodies.decode(line.body)
    except msgspec.MsgspecError as error:
        return LineError("invalid_body", f"The body is wrong: {error}.", number, "body")
    if models is not None and body.model not in models:
        return LineError(
            "model_not_found",
            f"The model {body.model!r} does not exist or you do not have access to it.",
            number,
            "body.model",
        )
    if body.stream:
        return LineError("invalid_body", "A batch cannot stream.", number, "body.stream")
    seen.add(line.custom_id)
    found.custom_ids.append(line.custom_id)
    found.models.add(body.model)
    return None
