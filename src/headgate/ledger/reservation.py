"""What a request holds of its tenant's limits."""


class Reservation:
    """What a request holds of its tenant's limits between `reserve` and `settle`.

    One is made for each request: what differs from the defaults alone is set. Implementations
    may subclass it. Where there is no limit nothing is said of it.
    """

    reserved: bool = False  # inside the tenant's reserved throughput
    requests_said: str = ""  # how `limit_headers` begins to speak of requests
    remaining_requests: int = 0
    reset_requests_s: float = 0.0
    tokens_said: str = ""
    remaining_tokens: int = 0
    reset_tokens_s: float = 0.0

    def __init__(self, tenant: str, model: str, est_tokens: int) -> None:
        self.tenant = tenant
        self.model = model
        self.est_tokens = est_tokens


def said(kind: str, per_min: int) -> str:
    """What the headers of all answers under one limit begin with, made once: up to what is left."""
    return f"x-ratelimit-limit-{kind}: {per_min}\r\nx-ratelimit-remaining-{kind}: "
