"""Answers that say no, in the form OpenAI's clients expect."""

from typing import Final

import msgspec

REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
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


def reason(status: int) -> str:
    return REASONS.get(status, "Status")
