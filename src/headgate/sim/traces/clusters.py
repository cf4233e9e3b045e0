"""Traces of clusters: training jobs, serving replicas, and how full a quota is over time."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from headgate.core.errors import InputError
from headgate.sim.demand import Floats, Ints
from headgate.sim.traces.tables import Column, Table, locate, read

PHILLY = Table(
    name="philly-jobs",
    path="cluster/philly_jobs.csv.gz",
    about="training jobs of 14 virtual clusters at Microsoft, September to November 2017",
    columns=(
        Column("timestamp", "time", "submission; no zone given"),
        Column("duration", "number", "s of execution"),
        Column("num_gpus", "whole", "accelerators of the gang", least=1),
        Column("cluster", "text", "virtual cluster: the tenant"),
    ),
    source="github.com/petuum/adaptdl, branch osdi21-artifact at "
    "c793c7089bd307462686339d29707925c461f9a9, simulator/traces/philly.csv; first published as "
    "github.com/msr-fiddle/philly-traces",
    licence="A (CC-BY-4.0)",
    cite="Jeon et al., Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training "
    "Workloads, USENIX ATC 2019; Qiao et al., Pollux, OSDI 2021",
    rows=68_063,
    sha256="f2bb782932b4a3206c4155f89b5a8aa72b396e441cdaa0cc0e4968459a7d47ed",
    quirks="Rows are not in order of time and are sorted when read. Few jobs before 2017-09-24. "
    "65 rows appear twice and are kept: sweeps submit equal jobs together.",
)
PHILLY_NODES = Table(
    name="philly-nodes",
    path="cluster/philly_active_nodes_minute.csv.gz",
    about="machines of the same clusters that ran something, minute by minute",
    columns=(
        Column("time", "time", rises=True),
        Column("active", "whole", "machines running a job"),
        Column("total", "whole", "machines"),
    ),
    source="github.com/S-Lab-System-Group/HeliosArtifact at "
    "bdaae109c21f8038a2331e6a23a582d5ae78ab5b, framework/CES Service/data/philly_node_sequence.csv",
    licence="A (MIT; data CC-BY-4.0)",
    cite="Jeon et al., USENIX ATC 2019; Hu et al., SC 2021",
    rows=105_644,
    sha256="62806ef2ab599ed275b1dee47861bbe567396d7914d6ec72d16853b78b4bca16",
    quirks="Jumps ten hours on 2017-10-25 at 14:00; 1,131 minutes say 0 machines, which is lost "
    "recording: they are dropped.",
)
DLRM = Table(
    name="dlrm-replicas",
    path="cluster/alibaba_dlrm_2025.csv.gz",
    about="31 days of long-running recommendation replicas of 156 applications",
    columns=(
        Column("role", "text", "HN holds a GPU, CN holds none"),
        Column("app_name", "text"),
        Column("gpu_request", "whole", "GPUs of the replica"),
        Column("creation_time", "number", "s from the start; empty: before it", may_be_empty=True),
        Column("deletion_time", "number", "s from the start; empty: after it", may_be_empty=True),
    ),
    source="github.com/alibaba/clusterdata at 7a6c496e4f4b6ce6150be8f881cb051bf2abff42, "
    "cluster-trace-gpu-v2025/disaggregated_DLRM_trace.csv",
    licence="B (research and study)",
    cite="Yang et al., GPU-Disaggregated Serving for Deep Learning Recommendation Models at "
    "Scale, NSDI 2025",
    rows=23_871,
    sha256="11cc80fa886b7c03b4918f835946378f27baa4b49ed9a9b49771fa995b7be41e",
    quirks="Replicas are started and stopped by deployments, not by load.",
)
HELIOS = Table(
    name="helios-earth",
    path="cluster/helios_earth_vc_minute.parquet",
    about="running and pending GPUs of 16 virtual clusters at SenseTime, May 2020, by minute",
    columns=(
        Column("vc", "text", "virtual cluster"),
        Column("time", "time", "local time of the data centre"),
        Column("total_gpu_num", "whole", "quota"),
        Column("running_gpu_num", "whole"),
        Column("pending_gpu_num", "whole"),
    ),
    source="github.com/S-Lab-System-Group/HeliosArtifact at "
    "bdaae109c21f8038a2331e6a23a582d5ae78ab5b, "
    "analysis/2_cluster characterization/Earth_vcs/*/cluster_sequence_vc.csv",
    licence="A (MIT; data CC-BY-4.0)",
    cite="Hu et al., Characterization and Prediction of Deep Learning Workloads in Large-Scale "
    "GPU Datacenters, SC 2021",
    rows=714_240,
    sha256="9c268cc100172a68e265a86cc610f919418e7200ab633ca88ab15524ddb09f46",
    quirks="An outage from 2020-05-09 23:56 to 2020-05-12 16:01, with 1,566 minutes in which "
    "nothing runs anywhere: the whole of it is left out.",
)
TABLES = (PHILLY, PHILLY_NODES, DLRM, HELIOS)


@dataclass(frozen=True, slots=True)
class PhillyJobs:
    """Gang jobs in order of submission."""

    first: datetime  # when the first was submitted; `submitted_s` counts from its midnight
    submitted_s: Floats
    duration_s: Floats
    gpus: Ints
    tenant_row: Ints
    tenants: tuple[str, ...]


def philly_jobs(data_dir: Path) -> PhillyJobs:
    frame = read(data_dir, PHILLY).sort("timestamp", maintain_order=True)
    first = frame["timestamp"][0]
    assert isinstance(first, datetime)
    tenants = frame["cluster"].unique().sort()
    return PhillyJobs(
        first=first,
        submitted_s=_seconds_since(frame["timestamp"], _midnight(first)),
        duration_s=frame["duration"].to_numpy(),
        gpus=frame["num_gpus"].to_numpy(),
        tenant_row=tenants.search_sorted(frame["cluster"]).to_numpy().astype(np.int64),
        tenants=tuple(tenants.to_list()),
    )


@dataclass(frozen=True, slots=True)
class ActiveNodes:
    """Minutes in which the recording worked; `at_s` counts from the first one's midnight."""

    at_s: Floats
    active: Ints
    total: Ints


def philly_active_nodes(data_dir: Path) -> ActiveNodes:
    frame = read(data_dir, PHILLY_NODES).filter(pl.col("active") > 0)
    return ActiveNodes(
        _seconds_since(frame["time"], _midnight(frame["time"][0])),
        frame["active"].to_numpy(),
        frame["total"].to_numpy(),
    )


@dataclass(frozen=True, slots=True)
class DlrmReplicas:
    """Replicas that hold GPUs, in the file's order; infinite where outside the recording."""

    app_row: Ints
    apps: tuple[str, ...]
    gpus: Ints
    created_s: Floats  # -inf: before the start
    deleted_s: Floats  # inf: after the end


def dlrm_replicas(data_dir: Path) -> DlrmReplicas:
    frame = read(data_dir, DLRM).filter(pl.col("gpu_request") > 0)
    apps = frame["app_name"].unique().sort()
    return DlrmReplicas(
        app_row=apps.search_sorted(frame["app_name"]).to_numpy().astype(np.int64),
        apps=tuple(apps.to_list()),
        gpus=frame["gpu_request"].to_numpy(),
        created_s=frame["creation_time"].fill_null(-np.inf).to_numpy(),
        deleted_s=frame["deletion_time"].fill_null(np.inf).to_numpy(),
    )


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """GPUs of virtual clusters, [minute, cluster]; the minutes of the outage are left out."""

    clusters: tuple[str, ...]
    at_s: Floats  # from midnight of the first day
    quota: Ints
    running: Ints
    pending: Ints


def helios_quota_use(data_dir: Path) -> QuotaUse:
    """All minutes but those from the first to the last in which nothing ran anywhere."""
    frame = read(data_dir, HELIOS).sort("time", "vc")
    clusters, times = frame["vc"].unique().sort(), frame["time"].unique().sort()
    if len(frame) != len(clusters) * len(times):
        raise InputError(
            f"{locate(data_dir, HELIOS)} has {len(frame)} rows for {len(clusters)} clusters and "
            f"{len(times)} minutes; every cluster needs one row in every minute."
        )
    shape = (len(times), len(clusters))
    quota, running, pending = (
        frame[name].to_numpy().reshape(shape)
        for name in ("total_gpu_num", "running_gpu_num", "pending_gpu_num")
    )
    up = np.full(len(times), True)
    silent = np.flatnonzero(running.sum(axis=1) == 0)
    up[silent.min(initial=len(up)) : silent.max(initial=-1) + 1] = False
    at_s = _seconds_since(times, _midnight(times[0]))
    return QuotaUse(tuple(clusters.to_list()), at_s[up], quota[up], running[up], pending[up])


def _midnight(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def _seconds_since(times: pl.Series, start: datetime) -> Floats:
    since: Floats = (times - start).dt.total_microseconds().to_numpy() / 1e6
    return since
