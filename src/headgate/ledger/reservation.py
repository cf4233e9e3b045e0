"""What a request holds of its tenant's limits."""


class Reservation:
    """What a request holds of its tenant's limits between `reserve` and `settle`.

    One is made for each request: what differs from the defaults alone is set. Implementations
    may subclass it. -1 as a limit means that there is none, and no header is sent.
    """

    reserved: bool = False  # inside the tenant's reserved throughput
    limit_requests: int = -1
    remaining_requests: int = -1
    reset_requests_s: float = 0.0
    limit_tokens: int = -1
    remaining_tokens: int = -1
    reset_tokens_s: float = 0.0

    def __init__(self, tenant: str, model: str, est_tokens: int) -> None:
        self.tenant = tenant
        self.model = model
        self.est_tokens = est_tokens
