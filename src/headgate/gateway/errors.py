"""Answers that say no, in the form OpenAI's clients expect."""

from typing import Final

import msgspec

REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}

TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "timeout_error",
    429: "rate_limit_error",
    502: "engine_error",
    503: "overloaded_error",
    504: "timeout_error",
}

LIMIT_TYPES: Final = {
    "limit_requests": "requests",
    "limit_tokens": "tokens",
    "limit_growth": "growth",
    "insufficient_quota": "insufficient_quota",
}


class Problem(Exception):  # noqa: N818 - it is an answer, not a fault of the program
    """An answer instead of a result: HTTP status, machine-readable code, sentence."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        kind = LIMIT_TYPES.get(self.code or "") or TYPES.get(self.status, "invalid_request_error")
        if self.status >= 500 and self.status not in TYPES:
            kind = "server_error"
        return msgspec.json.encode(
            {
                "error": {
                    "message": self.message,
                    "type": kind,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )


def reason(status: int) -> bytes:
    return REASONS.get(status, b"Status")
