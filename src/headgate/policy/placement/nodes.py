"""The nodes that placement chooses from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.kernels.placement import WHOLE, Free

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Nodes:
    """Every node of a fleet, one row each, as it is when empty."""

    cpu_milli: Ints
    memory_mib: Ints
    gpus: Ints
    model: Ints  # row in `models`
    models: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.gpus)

    @property
    def gpu_milli(self) -> int:
        """Thousandths of GPUs that all nodes have together."""
        return int(self.gpus.sum()) * WHOLE

    def reorder(self, rows: Ints) -> "Nodes":
        """The same nodes, row i being row `rows[i]` of these."""
        return Nodes(
            self.cpu_milli[rows],
            self.memory_mib[rows],
            self.gpus[rows],
            self.model[rows],
            self.models,
        )

    def empty(self) -> Free:
        """What the nodes have left when nothing runs."""
        slots = int(self.gpus.max(initial=0))
        gpu = np.where(np.arange(slots) < self.gpus[:, None], WHOLE, 0).astype(np.int64)
        return Free(
            self.cpu_milli.copy(),
            self.memory_mib.copy(),
            gpu,
            self.gpus.copy(),
            self.model.copy(),
            np.zeros((len(self), 1 + slots), dtype=np.int64),
        )
