"""What a scenario asks of the fleet, as columns: the only shape in which demand reaches it.

Trace loaders and generators both end here. Time is in seconds from 0, the start of the scenario;
streams are sorted by it. A `tenant_row` counts into the `tenants` beside it. `notes` are sentences
for the report: what was scaled, filled or assumed on the way.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ServiceDemand:
    """What tenants ask of one service in each window: whole counts, [window, tenant].

    Window i covers `i * window_s` up to `(i + 1) * window_s`. Tokens are those of the requests
    that arrive in the window, whenever they are served.
    """

    service: str
    tenants: tuple[str, ...]
    window_s: float
    requests: Ints
    input_tokens: Ints
    output_tokens: Ints
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.requests.shape
        assert shape == (len(self.requests), len(self.tenants)), shape
        assert self.input_tokens.shape == self.output_tokens.shape == shape
        assert self.window_s > 0

    @property
    def span_s(self) -> float:
        return len(self.requests) * self.window_s


@dataclass(frozen=True, slots=True)
class JobStream:
    """Gang jobs, one row each: `duration_s` of work on all of `gpus` once it has them."""

    submitted_s: Floats
    duration_s: Floats  # on the generation that the scenario names as speed 1
    gpus: Ints
    tenant_row: Ints
    tenants: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _columns(self.submitted_s, self.duration_s, self.gpus, self.tenant_row)
        _rows_of(self.tenant_row, self.tenants)

    def __len__(self) -> int:
        return len(self.submitted_s)


@dataclass(frozen=True, slots=True)
class BatchStream:
    """Batches for one service, one row each: many requests in one file, due at `deadline_s`."""

    service: str
    submitted_s: Floats
    requests: Ints
    input_tokens: Ints  # of all its requests together
    output_tokens: Ints
    deadline_s: Floats  # scenario time, not a span
    tenant_row: Ints
    tenants: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _columns(self.submitted_s, self.requests, self.input_tokens, self.output_tokens)
        _columns(self.submitted_s, self.deadline_s, self.tenant_row)
        _rows_of(self.tenant_row, self.tenants)

    def __len__(self) -> int:
        return len(self.submitted_s)


@dataclass(frozen=True, slots=True)
class LeaseStream:
    """Leases, one row each: asked for at `submitted_s`, wanted from `start_s` for `duration_s`."""

    submitted_s: Floats
    start_s: Floats
    duration_s: Floats
    gpus: Ints
    tenant_row: Ints
    tenants: tuple[str, ...]
    families: tuple[tuple[str, ...], ...]  # product families each tenant uses beside GPUs
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _columns(self.submitted_s, self.start_s, self.duration_s, self.gpus, self.tenant_row)
        _rows_of(self.tenant_row, self.tenants)
        assert len(self.families) == len(self.tenants)

    def __len__(self) -> int:
        return len(self.submitted_s)


@dataclass(frozen=True, slots=True)
class ReplicaStream:
    """Replicas that an application's owner starts and stops, one row each; nothing scales them.

    `deleted_s` is infinite where the replica outlives the scenario.
    """

    created_s: Floats
    deleted_s: Floats
    gpus: Ints
    app_row: Ints
    apps: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _columns(self.created_s, self.deleted_s, self.gpus, self.app_row)
        _rows_of(self.app_row, self.apps)

    def __len__(self) -> int:
        return len(self.created_s)


def _columns(at_s: Floats, *others: Floats | Ints) -> None:
    """A stream's law: columns of one length, in order of time, from 0."""
    assert all(column.shape == (len(at_s),) for column in others)
    assert len(at_s) == 0 or (at_s[0] >= 0 and bool(np.all(np.diff(at_s) >= 0)))


def _rows_of(rows: Ints, names: tuple[str, ...]) -> None:
    assert len(rows) == 0 or (rows.min() >= 0 and rows.max() < len(names))
