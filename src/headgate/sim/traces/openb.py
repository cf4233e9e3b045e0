"""Alibaba's openb cluster (2023): nodes, pods that share GPUs, and the placement experiment."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import InputError
from headgate.kernels.placement import WHOLE, Pods
from headgate.policy.placement.nodes import Nodes
from headgate.sim.dice import stream
from headgate.sim.traces.tables import Column, Table, locate, read

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_REPOSITORY = (
    "github.com/hkust-adsl/kubernetes-scheduler-simulator at "
    "8f3d6417353c5083c6d56617f255fadd8dc306bc, data/csv/"
)
_LICENCE = "A (Apache-2.0)"
_CITE = "Weng et al., Beware of Fragmentation, USENIX ATC 2023"

NODES = Table(
    name="openb-nodes",
    path="cluster/openb_node_list_gpu_node.csv.gz",
    about="the 1,213 GPU nodes of a cluster, 6,212 GPUs of seven models",
    columns=(
        Column("cpu_milli", "whole", "thousandths of a core"),
        Column("memory_mib", "whole"),
        Column("gpu", "whole", "GPUs of the node"),
        Column("model", "text", "GPU model", may_be_empty=True),
    ),
    source=_REPOSITORY + "openb_node_list_gpu_node.csv",
    licence=_LICENCE,
    cite=_CITE,
    rows=1_213,
    sha256="e16ebefa8337f852d9f918f595f6fe67e02cfc2ce1e1c7b0181a15a992bea345",
    quirks="Models G1 to G3 are undisclosed; a node without GPUs has no model.",
)

# By trace: lists made from the first by changing its mix have names of their own.
_SHA256 = {
    "default": "84f3958151a17ef423a36025a13d3b0bf8bd94226cbfc996b418e81bbcdff9a7",
    "gpuspec33": "cb072644d4b8d911bb42359810fcb32ee55eaa354eb3f0e8bed9b3e96d5ddeb8",
}

# The experiment: pods arrive until they have asked for this share of the cluster's GPUs.
ARRIVED_SHARE = 1.3
MOST_MODELS = 62  # accepted models are a bit set in a signed 64-bit integer


def pods_table(trace: str, lives: bool = False) -> Table:
    """The pod list of one trace: what its pods want, or their names and times (`lives`)."""
    wanted = (
        Column("cpu_milli", "whole", "thousandths of a core"),
        Column("memory_mib", "whole"),
        Column("num_gpu", "whole", "GPUs of the pod"),
        Column("gpu_milli", "whole", "thousandths of the one GPU it shares, else 1000"),
        Column("gpu_spec", "text", "models it accepts, | between them", may_be_empty=True),
    )
    lived = (
        Column("name", "text"),
        Column("qos", "text", "class of service: LS, BE, Burstable or Guaranteed"),
        Column("creation_time", "number", "s"),
        Column("deletion_time", "number", "s", may_be_empty=True),
        Column("scheduled_time", "number", "s; empty while pending", may_be_empty=True),
    )
    return Table(
        name=f"openb-pods-{trace}",
        path=f"cluster/openb_pod_list_{trace}.csv.gz",
        about="pods that want CPU, memory and GPUs, some a share of one",
        columns=lived if lives else wanted,
        source=f"{_REPOSITORY}openb_pod_list_{trace}.csv",
        licence=_LICENCE,
        cite=_CITE,
        rows=8_152,
        sha256=_SHA256.get(trace, ""),
        quirks="Replayed in real time the pods hold about 42 GPUs at once of 6,212: inflate the "
        "arrivals before using them as load. 99 % arrive in the last 35 of 149 days.",
    )


TABLES = (NODES, pods_table("default"), pods_table("gpuspec33"))


@dataclass(frozen=True, slots=True)
class Lives:
    """Who the pods of a list are and when, one row each, in the file's order.

    Seconds from an unknown origin; NaN where the list has none.
    """

    name: tuple[str, ...]
    qos: tuple[str, ...]
    created_s: Floats
    deleted_s: Floats
    scheduled_s: Floats


def load_nodes(data_dir: Path) -> Nodes:
    """Read the GPU nodes; `models` are sorted by name."""
    table = read(data_dir, NODES)
    cpu, memory, gpus = (table[name].to_numpy() for name in ("cpu_milli", "memory_mib", "gpu"))
    names = table["model"].fill_null("").to_list()
    for row in np.flatnonzero(gpus > 0):
        if not names[row]:
            raise InputError(
                f"{locate(data_dir, NODES)}: column model is empty in row {row + 1}, a node with "
                f"{gpus[row]} GPUs; name their model."
            )
    models = tuple(sorted({name for name in names if name}))
    if len(models) > MOST_MODELS:
        raise InputError(
            f"{locate(data_dir, NODES)}: there are {len(models)} GPU models, at most "
            f"{MOST_MODELS} can be told apart; merge models that no pod chooses between."
        )
    model = np.array([models.index(name) if name else 0 for name in names], dtype=np.int64)
    return Nodes(cpu, memory, gpus, model, models)


def load_pods(data_dir: Path, trace: str, nodes: Nodes) -> Pods:
    """Read what the pods of a trace want of `nodes`, in the file's order.

    Raises InputError, beside damage: a pod of more GPUs than any node has, of an unknown model,
    or of a share of several GPUs.
    """
    table = read(data_dir, pods_table(trace))
    path = locate(data_dir, pods_table(trace))
    cpu, memory, gpus, milli = (
        table[name].to_numpy() for name in ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
    )
    milli = np.where(gpus > 0, milli, 0)
    if not gpus.any():
        raise InputError(
            f"{path}: no pod asks for a GPU (column num_gpu); give a list of which some do."
        )
    _check_gpus(path, gpus, milli, int(nodes.gpus.max(initial=0)))
    specs = table["gpu_spec"].fill_null("").to_list()
    known = {spec: _model_bits(path, spec, specs.index(spec), nodes.models) for spec in set(specs)}
    return Pods(cpu, memory, gpus, milli, np.array([known[s] for s in specs], dtype=np.int64))


def load_lives(data_dir: Path, trace: str) -> Lives:
    """Read who the pods of a trace are and when they came and went."""
    table = read(data_dir, pods_table(trace, lives=True))
    created, deleted, scheduled = (
        table[f"{what}_time"].fill_null(float("nan")).to_numpy()
        for what in ("creation", "deletion", "scheduled")
    )
    names, qos = tuple(table["name"].to_list()), tuple(table["qos"].to_list())
    return Lives(names, qos, created, deleted, scheduled)


def arrivals(nodes: Nodes, pods: Pods, seed: int) -> Pods:
    """The experiment's stream: the pods shuffled, then re-sampled up to `ARRIVED_SHARE`.

    A list that asks for more than that is thinned at random instead. As published, the last
    sample is weighed by its thousandths on one GPU, so a stream may end a few GPUs past the mark.
    """
    asked = pods.gpus * pods.milli
    aim = ARRIVED_SHARE * nodes.gpu_milli
    rows = stream(seed, "placement", "shuffle").permutation(len(asked))
    dice = stream(seed, "placement", "resample")
    total = int(asked.sum())
    if total > aim:
        leaving = dice.permutation(len(rows))
        kept_from = int(np.searchsorted(np.cumsum(asked[rows[leaving]]), total - aim)) + 1
        rows = rows[np.sort(leaving[kept_from:])]
    elif total > 0:
        drawn = []
        while True:
            row = int(dice.integers(len(asked)))
            if total + pods.milli[row] > aim:
                break
            total += int(asked[row])
            drawn.append(row)
        rows = np.concatenate([rows, np.array(drawn, dtype=np.int64)])
    return Pods(*(column[rows] for column in pods))


def _check_gpus(path: Path, gpus: Ints, milli: Ints, most: int) -> None:
    for row in np.flatnonzero(gpus > most):
        raise InputError(
            f"{path}: column num_gpu is {gpus[row]} in row {row + 1}, but no node has more than "
            f"{most} GPUs; split the pod, or add nodes that hold it."
        )
    for row in np.flatnonzero((gpus > 0) & ((milli < 1) | (milli > WHOLE))):
        raise InputError(
            f"{path}: column gpu_milli is {milli[row]} in row {row + 1}; a pod with GPUs wants 1 "
            f"to {WHOLE} thousandths of each."
        )
    for row in np.flatnonzero((gpus > 1) & (milli < WHOLE)):
        raise InputError(
            f"{path}: column gpu_milli is {milli[row]} for {gpus[row]} GPUs in row {row + 1}; "
            f"only one GPU can be shared, so give gpu_milli {WHOLE} or num_gpu 1."
        )


def _model_bits(path: Path, spec: str, row: int, models: tuple[str, ...]) -> int:
    """A `gpu_spec` as a bit set; one that names no model accepts all."""
    bits = 0
    for name in filter(None, spec.split("|")):
        if name not in models:
            raise InputError(
                f"{path}: column gpu_spec names model {name} in row {row + 1}, but the nodes have "
                f"{', '.join(models)}; correct it, or add such a node."
            )
        bits |= 1 << models.index(name)
    return bits or (1 << len(models)) - 1
