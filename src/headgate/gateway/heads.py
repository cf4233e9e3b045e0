"""First lines and headers of answers, put together as bytes."""

from typing import TYPE_CHECKING

from headgate.gateway.errors import reason

if TYPE_CHECKING:
    from headgate.gateway.exchange import Exchange
    from headgate.ledger.reservation import Reservation


def answer(length: int, exchange: "Exchange", date: str) -> bytes:
    """Headers of a good answer, which most are."""
    close = "" if exchange.keep_alive and exchange.chunked_out else "connection: close\r\n"
    return (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{date}x-request-id: {exchange.id}"
        f"\r\n{limits(exchange.reservation)}{close}content-length: {length}\r\n\r\n"
    ).encode("latin-1")


def whole(
    status: int,
    length: int,
    exchange: "Exchange | None",
    date: str,
    content_type: str,
    retry_after_s: float | None,
    close: bool,
) -> bytes:
    """Headers of an answer whose length is known."""
    named = ""
    if exchange is not None:
        named = f"x-request-id: {exchange.id}\r\n{limits(exchange.reservation)}"
        close = close or not exchange.keep_alive or not exchange.chunked_out
    if retry_after_s is not None and retry_after_s > 0.0:
        # Whole seconds for everyone, and milliseconds for OpenAI's clients.
        whole_s = -int(-retry_after_s // 1)
        named += f"retry-after: {whole_s}\r\nretry-after-ms: {int(retry_after_s * 1000) + 1}\r\n"
    ending = "connection: close\r\n" if close else ""
    return (
        f"HTTP/1.1 {status} {reason(status)}\r\ncontent-type: {content_type}\r\n"
        f"{date}{named}{ending}content-length: {length}\r\n\r\n"
    ).encode("latin-1")


def streamed(
    status: int, exchange: "Exchange", date: str, content_type: str, more: str = ""
) -> bytes:
    """Headers of an answer that comes in pieces."""
    framing = "transfer-encoding: chunked\r\n" if exchange.chunked_out else ""
    if not exchange.chunked_out or not exchange.keep_alive:
        framing += "connection: close\r\n"
    return (
        f"HTTP/1.1 {status} {reason(status)}\r\ncontent-type: {content_type}\r\n{date}"
        f"x-request-id: {exchange.id}\r\n{more}{limits(exchange.reservation)}{framing}\r\n"
    ).encode("latin-1")


def limits(reservation: "Reservation | None") -> str:
    """The x-ratelimit headers; nothing where there is no limit."""
    if reservation is None:
        return ""
    requests, tokens = reservation.requests_said, reservation.tokens_said
    if requests and tokens:  # as most have
        return (
            f"{requests}{reservation.remaining_requests}\r\n"
            f"x-ratelimit-reset-requests: {span(reservation.reset_requests_s)}\r\n"
            f"{tokens}{reservation.remaining_tokens}\r\n"
            f"x-ratelimit-reset-tokens: {span(reservation.reset_tokens_s)}\r\n"
        )
    lines = ""
    if requests:
        lines = (
            f"{requests}{reservation.remaining_requests}\r\n"
            f"x-ratelimit-reset-requests: {span(reservation.reset_requests_s)}\r\n"
        )
    if tokens:
        lines += (
            f"{tokens}{reservation.remaining_tokens}\r\n"
            f"x-ratelimit-reset-tokens: {span(reservation.reset_tokens_s)}\r\n"
        )
    return lines


def span(seconds: float) -> str:
    """A time span as OpenAI writes it: 120ms, 7.5s, 6m0s."""
    if seconds < 1.0:
        return f"{int(seconds * 1000.0)}ms"
    if seconds < 60.0:
        return f"{seconds:.3g}s"
    return f"{int(seconds // 60)}m{int(seconds % 60)}s"
