"""First lines and headers of answers, put together as bytes."""

from typing import TYPE_CHECKING

from headgate.gateway.errors import reason

if TYPE_CHECKING:
    from headgate.gateway.exchange import Exchange
    from headgate.ledger.accounts import Reservation


def answer(length: int, exchange: "Exchange", date: bytes) -> bytes:
    """Headers of a good answer, which most are."""
    keep = exchange.keep_alive and exchange.chunked_out
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bx-request-id: %b\r\n"
        b"%b%bcontent-length: %d\r\n\r\n"
    ) % (
        date,
        exchange.id.encode(),
        limits(exchange.reservation),
        b"" if keep else b"connection: close\r\n",
        length,
    )


def whole(
    status: int,
    length: int,
    exchange: "Exchange | None",
    date: bytes,
    content_type: bytes,
    retry_after_s: float | None,
    close: bool,
) -> bytes:
    """Headers of an answer whose length is known."""
    named = b""
    if exchange is not None:
        named = b"x-request-id: %b\r\n%b" % (exchange.id.encode(), limits(exchange.reservation))
        close = close or not exchange.keep_alive or not exchange.chunked_out
    if retry_after_s is not None and retry_after_s > 0.0:
        # Whole seconds for everyone, and milliseconds for OpenAI's clients.
        named += b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (
            -int(-retry_after_s // 1),
            int(retry_after_s * 1000) + 1,
        )
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%b%b%bcontent-length: %d\r\n\r\n" % (
        status,
        reason(status),
        content_type,
        date,
        named,
        b"connection: close\r\n" if close else b"",
        length,
    )


def streamed(
    status: int, exchange: "Exchange", date: bytes, content_type: bytes, relayed: bool
) -> bytes:
    """Headers of an answer that comes in pieces."""
    if not exchange.chunked_out:
        framing = b"connection: close\r\n"
    elif exchange.keep_alive:
        framing = b"transfer-encoding: chunked\r\n"
    else:
        framing = b"transfer-encoding: chunked\r\nconnection: close\r\n"
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%bx-request-id: %b\r\n%b%b%b\r\n" % (
        status,
        reason(status),
        content_type,
        date,
        exchange.id.encode(),
        b"" if relayed else b"cache-control: no-cache\r\n",
        limits(exchange.reservation),
        framing,
    )


def limits(reservation: "Reservation | None") -> bytes:
    """The x-ratelimit headers; nothing where there is no limit."""
    if reservation is None or reservation.limit_requests < 0 > reservation.limit_tokens:
        return b""
    lines = b""
    if reservation.limit_requests >= 0:
        lines = (
            b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
            b"x-ratelimit-reset-requests: %b\r\n"
        ) % (
            reservation.limit_requests,
            max(reservation.remaining_requests, 0),
            span(reservation.reset_requests_s),
        )
    if reservation.limit_tokens >= 0:
        lines += (
            b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\n"
            b"x-ratelimit-reset-tokens: %b\r\n"
        ) % (
            reservation.limit_tokens,
            max(reservation.remaining_tokens, 0),
            span(reservation.reset_tokens_s),
        )
    return lines


def span(seconds: float) -> bytes:
    """A time span as OpenAI writes it: 120ms, 7.5s, 6m0s."""
    if seconds < 1.0:
        return b"%dms" % max(int(seconds * 1000.0), 0)
    if seconds < 60.0:
        return f"{seconds:.3g}s".encode()
    return b"%dm%ds" % (int(seconds // 60), int(seconds % 60))
