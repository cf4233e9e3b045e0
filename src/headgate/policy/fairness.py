"""Whose request is next: order by class and tier, then fair between the tenants inside.

Costs are estimated tokens; what a request really used is charged afterwards, so that a tenant
whose estimates are low gains nothing.
"""

from collections import deque
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Less than most requests: shares are then even to about one request, and no tenant sends two in
# a row while others wait.
QUANTUM_TOKENS: Final = 64.0

TIERS_IN_CLASS: Final = ("reserved", "priority", "default")
"""Tiers served in the order of classes. `flex`, then `batch`, come after every class."""


def level(class_rank: int, classes: int, tier: str) -> int:
    """Place in the order of service; 0 is served first.

    Classes come first, tiers inside a class; flex and batch work of all classes shares the two
    last places, because it was sold as what capacity is left.
    """
    if tier == "flex":
        return classes * len(TIERS_IN_CLASS)
    if tier == "batch":
        return classes * len(TIERS_IN_CLASS) + 1
    return class_rank * len(TIERS_IN_CLASS) + TIERS_IN_CLASS.index(tier)


class _Tenant(Generic[T]):
    __slots__ = ("deficit", "name", "waiting", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.weight = 1.0
        self.deficit = 0.0  # tokens it may still send in this turn; below 0 is a debt
        self.waiting: deque[tuple[float, T]] = deque()


class FairRing(Generic[T]):
    """Tenants of one level taking turns: deficit round robin (Shreedhar and Varghese, 1996).

    Over any backlogged interval each tenant's tokens differ from its share by at most one
    quantum and one request. A tenant's debt outlives its queue; a credit does not.
    """

    def __init__(self, quantum_tokens: float = QUANTUM_TOKENS) -> None:
        self.quantum_tokens = quantum_tokens
        self._tenants: dict[str, _Tenant[T]] = {}
        self._turns: deque[_Tenant[T]] = deque()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, tenant: str, weight: float, cost_tokens: float, item: T) -> None:
        entry = self._tenants.get(tenant)
        if entry is None:
            entry = self._tenants[tenant] = _Tenant(tenant)
        entry.weight = weight
        if not entry.waiting:
            self._turns.append(entry)
        entry.waiting.append((cost_tokens, item))
        self._waiting += 1

    def push_front(self, tenant: str, weight: float, cost_tokens: float, item: T) -> None:
        """Put back what was taken but could not be served; its cost is refunded."""
        self.push(tenant, weight, cost_tokens, item)
        entry = self._tenants[tenant]
        entry.waiting.rotate(1)
        entry.deficit += cost_tokens

    def ahead_of(self, tenant: str) -> int:
        """How many are served before a new item of this tenant, if all cost the same."""
        entry = self._tenants.get(tenant)
        own = len(entry.waiting) if entry is not None else 0
        return min(self._waiting, (own + 1) * len(self._turns))

    def pop(self) -> T:
        """Take the next item; the ring must not be empty."""
        turns = self._turns
        barren = 0
        while True:
            entry = turns[0]
            cost = entry.waiting[0][0]
            if entry.deficit >= cost:
                break
            entry.deficit += self.quantum_tokens * entry.weight
            turns.rotate(-1)
            barren += 1
            if barren >= len(turns):
                self._advance()
                barren = 0
        _, item = entry.waiting.popleft()
        entry.deficit -= cost
        self._waiting -= 1
        if not entry.waiting:
            turns.popleft()
            entry.deficit = min(entry.deficit, 0.0)
        return item

    def charge(self, tenant: str, tokens: float) -> None:
        """Correct a tenant's account by what its request used beyond its estimate."""
        entry = self._tenants.get(tenant)
        if entry is not None:
            entry.deficit -= tokens
            if not entry.waiting and entry.deficit > 0.0:
                entry.deficit = 0.0

    def remove(self, tenant: str, item: T) -> bool:
        """Take out an item that no longer waits; False if it was not there."""
        entry = self._tenants.get(tenant)
        if entry is None:
            return False
        for position, (_, held) in enumerate(entry.waiting):
            if held is item:
                del entry.waiting[position]
                self._waiting -= 1
                if not entry.waiting:
                    self._turns.remove(entry)
                    entry.deficit = min(entry.deficit, 0.0)
                return True
        return False

    def forget_idle(self) -> None:
        """Drop tenants that wait for nothing and owe nothing."""
        idle = [name for name, t in self._tenants.items() if not t.waiting and t.deficit >= 0.0]
        for name in idle:
            del self._tenants[name]

    def _advance(self) -> None:
        """Give all tenants at once the rounds that the nearest of them still lacks."""
        rounds = min(
            (entry.waiting[0][0] - entry.deficit) / (self.quantum_tokens * entry.weight)
            for entry in self._turns
        )
        if rounds > 1.0:
            for entry in self._turns:
                entry.deficit += int(rounds) * self.quantum_tokens * entry.weight


class OrderedQueue(Generic[T]):
    """Levels in strict order, a fair ring in each."""

    def __init__(self, levels: int, quantum_tokens: float = QUANTUM_TOKENS) -> None:
        self.rings: list[FairRing[T]] = [FairRing(quantum_tokens) for _ in range(levels)]
        self.waiting = 0

    def push(self, level: int, tenant: str, weight: float, cost_tokens: float, item: T) -> None:
        self.rings[level].push(tenant, weight, cost_tokens, item)
        self.waiting += 1

    def push_front(
        self, level: int, tenant: str, weight: float, cost_tokens: float, item: T
    ) -> None:
        self.rings[level].push_front(tenant, weight, cost_tokens, item)
        self.waiting += 1

    def first_level(self) -> int:
        """The highest level with anything waiting; the number of levels if none."""
        for level_, ring in enumerate(self.rings):
            if len(ring):
                return level_
        return len(self.rings)

    def pop(self, level: int) -> T:
        self.waiting -= 1
        return self.rings[level].pop()

    def remove(self, level: int, tenant: str, item: T) -> bool:
        removed = self.rings[level].remove(tenant, item)
        if removed:
            self.waiting -= 1
        return removed
