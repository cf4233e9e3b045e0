"""Facts, in the past tense, and wishes, in the imperative: all that crosses the machine's edge.

Works are named by their row: the n-th work submitted, counted from 0, replicas that the machine
itself asks for included. `Machine.name(row)` gives the name a person knows. `ref` is the
submitter's own number and comes back with every wish about the work.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Kind = Literal["gang", "lease"]
Row = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class NodeJoined(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A node went live: with its rack, or back after a failure."""

    at_s: float
    node: Row


class NodeFailed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A node is lost. Whoever runs there answers with a WorkStopped of its own."""

    at_s: float
    node: Row


class WorkSubmitted(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Somebody wants accelerators, all at once or not at all."""

    at_s: float
    name: str
    kind: Kind
    tenant: Row
    shape: Row
    bid: NotNegative = 0.0  # worth of one GPU-second
    checkpoint_s: NotNegative = 0.0  # time between checkpoints; 0: a stop loses nothing
    restart_s: NotNegative = 0.0
    priority: Annotated[int, Meta(ge=0, le=1)] = 0  # 1: before the rest of its class
    firm: bool = False  # once it runs it cannot be taken back
    patience_s: NotNegative | None = None  # refused when it has waited longer; None: never
    deadline_s: float | None = None
    ref: int = -1


class WorkStarted(msgspec.Struct, frozen=True, gc=False, tag=True):
    at_s: float
    work: Row


class WorkFinished(msgspec.Struct, frozen=True, gc=False, tag=True):
    at_s: float
    work: Row


class WorkStopped(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A work gave its accelerators back before its end: as wished, or because a node was lost."""

    at_s: float
    work: Row
    lost_gpu_s: NotNegative = 0.0  # running time whose result is lost


class WorkCancelled(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Its owner no longer wants it."""

    at_s: float
    work: Row


class BatchOrdered(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Deferrable tokens with a deadline, in output-equivalent tokens of the service's model."""

    at_s: float
    name: str
    tenant: Row
    service: Row
    tokens: NotNegative
    deadline_s: float


class ServiceWindow(msgspec.Struct, frozen=True, gc=False):
    """What one service saw in one window, in output-equivalent tokens."""

    arrived: NotNegative
    served: NotNegative
    in_objective: NotNegative
    queued: NotNegative  # left at the window's end
    refused: NotNegative
    batch_served: NotNegative


class WindowClosed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A window of request traffic is over; one entry for each service, in order."""

    at_s: float
    window_s: float
    services: tuple[ServiceWindow, ...]


class TenantChanged(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A tenant takes up or gives up product families: its standing changes with them."""

    at_s: float
    tenant: Row
    families: tuple[str, ...]


Fact = (
    NodeJoined
    | NodeFailed
    | WorkSubmitted
    | WorkStarted
    | WorkFinished
    | WorkStopped
    | WorkCancelled
    | BatchOrdered
    | WindowClosed
    | TenantChanged
)


class StartWork(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Start a work on the accelerators that are held for it from now on."""

    fact: int  # number of the fact that led to it
    position: int  # place among that fact's wishes
    work: Row
    pool: Row
    rule: str
    ref: int = -1


class StopWork(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Stop a work; its accelerators are free when it has answered."""

    fact: int
    position: int
    work: Row
    rule: str
    by: int = -1  # the work it makes room for
    ref: int = -1


class RefuseWork(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Tell the submitter that the work will not be served."""

    fact: int
    position: int
    work: Row
    rule: str
    ref: int = -1
    back_s: float | None = None  # the price is expected to be at its bid in so long; None: unknown


Wish = StartWork | StopWork | RefuseWork
