"""What engines answer: finding the usage in it, and leaving out what the client did not ask for."""

import re
from typing import Final

import msgspec

from headgate.gateway.bodies import Answer, Usage
from headgate.gateway.errors import Problem

_decoder: Final = msgspec.json.Decoder(Answer)
_usage_decoder: Final = msgspec.json.Decoder(Usage | None)

Tokens = tuple[int, int, int]
"""Prompt tokens, cached ones among them, output tokens."""


def usage_of(answer: bytes) -> Tokens | None:
    """The engine's own counts in one JSON answer; None if it gives none."""
    usage: Usage | None
    try:
        # Nearly always the last field: then the rest of the answer need not be read.
        usage = _usage_decoder.decode(answer[answer.rindex(b'"usage":') + 8 : -1])
    except (ValueError, UnicodeDecodeError, RecursionError):
        usage = _usage_anywhere(answer)
    if usage is None:
        return None
    fed, made = usage.prompt_tokens, usage.completion_tokens
    details = usage.prompt_tokens_details
    if fed is None:
        fed, made, details = usage.input_tokens, usage.output_tokens, usage.input_tokens_details
        if fed is None:
            return None
    cached = details.cached_tokens or 0 if details is not None else 0
    return fed, cached if 0 <= cached <= fed else fed, made or 0


def _usage_anywhere(answer: bytes) -> Usage | None:
    try:
        decoded = _decoder.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if decoded.usage is None and decoded.response is not None:
        return decoded.response.usage
    return decoded.usage


def last_usage(events: bytes) -> Tokens | None:
    """The counts in the last event that carries any."""
    end = len(events)
    while True:
        at = events.rfind(b'"usage"', 0, end)
        if at < 0:
            return None
        start = events.rfind(b"data:", 0, at)
        stop = events.find(b"\n", at)
        found = usage_of(events[start + 5 : stop if stop >= 0 else len(events)])
        if found is not None:
            return found
        end = start if start > 0 else 0


def endings(events: bytes) -> int:
    """How many events of a stream that broke off had no text since they end it, by what came last:
    the one that says why it ends, and `[DONE]` behind it."""
    if events.find(b"data: [DONE]") >= 0:
        return 2
    return 1 if _FINISHES.search(events) else 0


_FINISHES: Final = re.compile(rb'"finish_reason":\s*"')
# The usage object of an event holds at most one level of objects (the token details).
_USAGE: Final = re.compile(rb',\s*"usage":\s*(?:null|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_NO_CHOICES: Final = re.compile(rb'"choices":\s*\[\]')


def without_usage(events: bytes, keep_last: bool) -> bytes:
    """Whole events less the usage we asked for on our own account.

    The last one, which carries usage and no choices, is dropped unless the client wants it.
    """
    if not _NO_CHOICES.search(events):
        return _USAGE.sub(b"", events)
    kept = []
    for event in events.split(b"\n\n"):
        if event.find(b'"usage"') < 0:
            kept.append(event)
        elif not _NO_CHOICES.search(event):
            kept.append(_USAGE.sub(b"", event))
        elif keep_last:
            kept.append(event)
    return b"\n\n".join(kept)


def ending_at(events: bytes) -> int:
    """Where the events begin by which clients know that they have all; the length if none do."""
    at = max(events.rfind(b"data: [DONE]"), events.rfind(b"event: response.completed"))
    return at if at >= 0 else len(events)


_TIER: Final = re.compile(rb'"service_tier":\s*(?:null|"[^"]*")')


def with_tier(answer: bytes, tier: bytes) -> bytes:
    """One JSON object with the tier that served it; the engine's own word on it is replaced."""
    field = b'"service_tier":"' + tier + b'"'
    if answer.find(b'"service_tier"') >= 0:
        named, found = _TIER.subn(field, answer, count=1)
        if found:
            return named
    at = answer.find(b"{") + 1
    if at == 0:
        return answer
    comma = b"" if answer[at : at + 1] == b"}" else b","
    return b"%b%b%b%b" % (answer[:at], field, comma, answer[at:])


def engine_error(status: int, answer: bytes) -> bytes:
    """An engine's error in OpenAI's form: passed on if it has it, wrapped if it does not."""
    try:
        fields = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = None
    if isinstance(fields, dict):
        if isinstance(fields.get("error"), dict):
            return answer
        for name in ("message", "detail", "error"):
            if isinstance(fields.get(name), str):
                return Problem(status, None, fields[name]).body()
    text = answer[:500].decode("utf-8", "replace").strip()
    return Problem(status, None, text or f"The engine answered {status}.").body()
