"""Derive speeds by generation from measured profiles: prints src/headgate/scenarios/speeds.toml.

    uv run python tools/derive_speeds.py --data DIR > src/headgate/scenarios/speeds.toml

What was chosen among the measured configurations, how well each is fitted, and how the fits
compare with MLPerf's results goes to stderr.
"""

import argparse
import sys
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from headgate.model import speed
from headgate.sim.traces import perf

SYSTEMS = {"h100_sxm": "H100", "h200_sxm": "H200", "b200_sxm": "B200"}
GENERATIONS = ("L40S", "A100-80G", "H100", "H200", "B200")
LEAST_POINTS = 8
# Groups that mix different set-ups (such as speculative decoding on and off) fit no one curve.
ERROR_MOST = 0.15
# A fit is trusted up to twice the concurrency that was measured with it.
BEYOND_MEASURED = 2.0
# Start of an engine with its caches warm, and reading of the weights: Llama-3.1-8B on an L40S,
# 64 s and 16 GB in 18 s (Tensorfuse, Reducing GPU cold start time when using vLLM, 2025). Larger
# replicas read their shards side by side: assumption.
ENGINE_START_S, LOAD_GB_PER_S = 64.0, 0.9


@dataclass(frozen=True)
class Service:
    name: str
    model: str
    paths: tuple[str, ...]  # in the measurements
    active_parameters: float
    isl: float  # mean of the ServeGen model that it stands for, weighted by requests
    osl: float
    ttft_s: float
    tpot_ms: float
    objective: str
    weights_gb: dict[str, float]  # by precision as served


CHAT = "TPOT as MLPerf's interactive Llama-2-70B, TTFT as its server scenario"
SERVICES = (
    Service(
        name="small",
        model="Llama-3.1-8B",
        paths=("meta-llama/Llama-3.1-8B-Instruct", "nvidia/Llama-3.1-8B-Instruct-FP8"),
        active_parameters=8.0e9,
        isl=145,
        osl=22,
        ttft_s=2.0,
        tpot_ms=40.0,
        objective=CHAT,
        weights_gb={"bf16": 16, "fp8": 9},
    ),
    Service(
        name="mid",
        model="gpt-oss-120b (117B mixture of experts, 5.1B active)",
        paths=("openai/gpt-oss-120b",),
        active_parameters=5.1e9,
        isl=330,
        osl=60,
        ttft_s=2.0,
        tpot_ms=40.0,
        objective=CHAT,
        weights_gb={"fp4": 65},
    ),
    Service(
        name="large",
        model="Llama-3.1-70B",
        paths=("meta-llama/Llama-3.1-70B",),
        active_parameters=70.6e9,
        isl=1031,
        osl=168,
        ttft_s=2.0,
        tpot_ms=40.0,
        objective=CHAT,
        weights_gb={"fp8": 73, "fp4": 43},
    ),
    Service(
        name="reasoning",
        model="DeepSeek-R1 (671B mixture of experts, 37B active)",
        paths=("deepseek-ai/DeepSeek-R1",),
        active_parameters=37e9,
        isl=1377,
        osl=1502,
        ttft_s=5.0,
        tpot_ms=80.0,
        objective="TPOT as MLPerf's DeepSeek-R1 server scenario; TTFT is an assumption",
        weights_gb={"fp8": 689, "fp4": 397},
    ),
)


@dataclass(frozen=True)
class Replica:
    service: Service
    generation: str
    precision: str
    gpus: int
    step: speed.StepTime
    in_flight_max: float
    source: str

    def capacity(self, isl: float, osl: float, tpot_ms: float) -> speed.Capacity:
        return speed.capacity(self.step, isl, osl, tpot_ms, self.in_flight_max)

    @property
    def found(self) -> speed.Capacity:
        service = self.service
        return self.capacity(service.isl, service.osl, service.tpot_ms)

    @property
    def boot_s(self) -> float:
        gb = self.service.weights_gb[self.precision]
        return ENGINE_START_S + gb / (self.gpus * LOAD_GB_PER_S)

    def slower(self, to: str, decode: float, prefill: float, source: str) -> "Replica":
        step = self.step.slower(decode, prefill)
        return Replica(
            self.service, to, self.precision, self.gpus, step, self.in_flight_max, source
        )


def measured(data: Path, service: Service) -> list[Replica]:
    """A replica for each measured configuration that one step time fits."""
    points = perf.serving_points(data).filter(
        pl.col("mode") == "agg",
        pl.col("concurrency") > 0,
        pl.col("silicon_tpot_ms") > 0,
        pl.col("silicon_ttft_ms") <= service.ttft_s * 1e3,
        pl.col("model_path").is_in(service.paths),
        pl.col("system").is_in(SYSTEMS),
    )
    one = {name: pl.col(name).fill_null(1).cast(pl.Int64) for name in ("tp_size", "pp_size")}
    points = points.with_columns(
        pl.col("precision").replace("", None).fill_null("bf16"),
        copies=pl.col("attention_dp_size").fill_null(1).cast(pl.Int64),
        **one,
    ).with_columns(gpus=pl.col("tp_size") * pl.col("pp_size") * pl.col("copies"))
    groups = points.group_by(
        "system", "backend", "precision", "gpus", "copies", maintain_order=True
    )
    fitted = [_fitted(data, service, key, group) for key, group in groups]
    return [replica for replica in fitted if replica]


def _fitted(
    data: Path, service: Service, key: tuple[object, ...], group: pl.DataFrame
) -> Replica | None:
    system, backend, precision, gpus, _ = key
    assert isinstance(gpus, int)
    if len(group) < LEAST_POINTS or group.select("isl", "osl").unique().height < 2:
        return None
    isl, osl, in_flight, tpot_ms = (
        group[name].cast(pl.Float64).to_numpy()
        for name in ("isl", "osl", "concurrency", "silicon_tpot_ms")
    )
    flops = gpus * product_flops(data, str(system), str(precision))
    least = speed.prompt_least_ms(service.active_parameters, flops)
    step = speed.fit(isl, osl, in_flight, tpot_ms, least)
    error = speed.relative_error(step, isl, osl, in_flight, tpot_ms)
    source = (
        f"{len(group)} points of {backend} {precision}, up to {in_flight.max():g} in flight, "
        f"fitted within {error:.0%} (median)"
    )
    most = BEYOND_MEASURED * float(in_flight.max())
    replica = Replica(service, SYSTEMS[str(system)], str(precision), gpus, step, most, source)
    kept = error <= ERROR_MOST
    say(
        f"{service.name:9} {replica.generation} x{gpus}: {source}, "
        f"{replica.found.requests_per_s / gpus:.2f} requests/s per GPU"
        f"{'' if kept else ', LEFT OUT'}"
    )
    return replica if kept else None


@lru_cache
def product_flops(data: Path, system: str, precision: str) -> float:
    """Median FLOP/s of measured matrix products of 4,096 and more.

    Hopper has no fp4 arithmetic: it keeps such weights and computes in bf16.
    """
    dtype = {"bf16": "bfloat16", "fp8": "fp8", "fp4": "nvfp4"}[precision]
    if dtype == "nvfp4" and system != "b200_sxm":
        dtype = "bfloat16"
    big = perf.matrix_products(data, dtype).filter(
        pl.col("system") == system, pl.min_horizontal("m", "n", "k") >= 4096
    )
    flops = 2.0 * pl.col("m") * pl.col("n") * pl.col("k") / (pl.col("latency") / 1e3)
    return float(big.select(flops.median()).item())


def splitwise_ratios(data: Path) -> tuple[float, float]:
    """Time of an A100 over that of an H100, Llama-2-70B: decode, and prefill of 2,048 tokens up."""
    times = perf.splitwise_times(data).filter(pl.col("model") == "llama2-70b")
    key = ["prompt_size", "batch_size", "token_size", "tensor_parallel"]
    times = times.group_by("hardware", *key).agg(pl.col("prompt_time", "token_time").median())
    both = times.filter(pl.col("hardware") == "a100-80gb").join(
        times.filter(pl.col("hardware") == "h100-80gb"), on=key
    )
    big = both.filter(pl.col("prompt_size") * pl.col("batch_size") >= 2048)
    decode = both.select((pl.col("token_time") / pl.col("token_time_right")).median()).item()
    prefill = big.select((pl.col("prompt_time") / pl.col("prompt_time_right")).median()).item()
    return float(decode), float(prefill)


def mlperf_speeds(data: Path, model: str, scenario: str) -> dict[str, float]:
    """Median closed tokens/s per accelerator, where anyone submitted."""
    results = perf.mlperf_results(data).filter(
        pl.col("Category") == "closed", pl.col("Model") == model, pl.col("Scenario") == scenario
    )
    names = {"L40S": "NVIDIA L40S"} | {name: f"NVIDIA {name}-SXM" for name in SYSTEMS.values()}
    medians = {
        generation: results.filter(pl.col("Accelerator").str.starts_with(name))
        .select(pl.col("perf_per_accelerator").median())
        .item()
        for generation, name in names.items()
    }
    return {name: float(value) for name, value in medians.items() if value is not None}


def training_speeds(data: Path) -> dict[str, float]:
    """Measured bf16 matrix products of 4,096 and more in all directions, relative to H100."""
    names = {"a100_sxm": "A100-80G", "l40s": "L40S"} | SYSTEMS
    big = perf.matrix_products(data).filter(pl.min_horizontal("m", "n", "k") >= 4096)
    shapes = big.group_by("system", "m", "n", "k").agg(pl.col("latency").min())
    table = shapes.pivot("system", index=["m", "n", "k"], values="latency").drop_nulls()
    speeds = {
        name: float(table.select((pl.col("h100_sxm") / pl.col(system)).median()).item())
        for system, name in names.items()
    }
    return {name: speeds[name] for name in GENERATIONS}


def by_generation(data: Path, service: Service) -> list[Replica]:
    """The configuration of each generation that serves most requests a second per GPU."""
    options = measured(data, service)
    decode, prefill = splitwise_ratios(data)
    gain = product_flops(data, "h100_sxm", "fp8") / product_flops(data, "h100_sxm", "bf16")
    for like in [option for option in options if option.generation == "H100"]:
        more = gain if like.precision == "fp8" else 1.0
        why = f"H100's {like.source}; decode takes {decode:.2f} and prefill {prefill * more:.2f} "
        why += "times as long, as Llama-2-70B in Splitwise"
        why += ", and A100 has no fp8 arithmetic" if more > 1 else ""
        options.append(like.slower("A100-80G", decode, prefill * more, why))
    if service.name == "small":
        fast = mlperf_speeds(data, "llama3.1-8b", "Server")
        for base, to in (("H200", "B200"), ("H100", "L40S")):
            ratio = fast[base] / fast[to]
            for like in [o for o in options if o.generation == base and o.gpus == 1]:
                why = f"{base}'s {like.source}; {1 / ratio:.2f} times as fast, as in MLPerf "
                why += "Inference v5.1, Closed, Llama-3.1-8B Server"
                options.append(like.slower(to, ratio, ratio, why))
    best: dict[str, Replica] = {}
    for option in options:
        rate = option.found.requests_per_s / option.gpus
        held = best.get(option.generation)
        if held is None or rate > held.found.requests_per_s / held.gpus:
            best[option.generation] = option
    return [best[name] for name in GENERATIONS if name in best and best[name].found.in_flight > 0]


def compare_with_mlperf(data: Path, found: dict[str, list[Replica]]) -> None:
    """Output tokens/s per GPU at MLPerf's mean lengths and TPOT limits, beside its results.

    Means of its data sets: 294 and 294 tokens (OpenOrca), 778 and 73 (CNN/DailyMail). Its limits
    hold at the 99th percentile and ours at the mean.
    """
    for name, model, isl, osl, scenario, limit_ms in (
        ("large", "llama2-70b-99", 294, 294, "Interactive", 40.0),
        ("large", "llama2-70b-99", 294, 294, "Server", 200.0),
        ("small", "llama3.1-8b", 778, 73, "Interactive", 30.0),
        ("small", "llama3.1-8b", 778, 73, "Server", 100.0),
    ):
        theirs = mlperf_speeds(data, model, scenario)
        for replica in found[name]:
            if replica.generation in theirs:
                rate = replica.capacity(isl, osl, limit_ms).requests_per_s / replica.gpus
                say(
                    f"MLPerf {model} {scenario} {replica.generation}: "
                    f"{theirs[replica.generation]:.0f} tokens/s per GPU, fitted {rate * osl:.0f}"
                )


NATURE = """
[nature]
# 419 unexpected interruptions in 54 days on 16,384 GPUs of 2,048 nodes (Llama 3, 2024): 3.8 in
# 1,000 node-days.
node_failures_per_day = 0.0038
node_repair_s = 43200 # until a node is back: assumption
restart_s = 300 # of a gang, until it computes again: assumption; 150 s on 4,800 devices with
# recovery made for speed (FlashRecovery, arXiv:2509.03047)
checkpoint_every_s = 3600 # assumption, the interval of several vendors' guides
checkpoint_stall_s = 10 # of the gang; written in the background: assumption
"""


def say(line: str) -> None:
    print(line, file=sys.stderr)


def toml(data: Path) -> str:
    lines = [
        "# Speeds by generation. Written by tools/derive_speeds.py from measured profiles; do not",
        "# edit. docs/reference/speeds.md says how they are derived.",
        "",
        "# Training relative to H100: measured bf16 matrix products of 4,096 and more (vLLM tables",
        "# of NVIDIA aiconfigurator). Network and memory are left out: assumption.",
        "[training]",
        *(f"{quoted(name)} = {value:.2f}" for name, value in training_speeds(data).items()),
    ]
    found = {service.name: by_generation(data, service) for service in SERVICES}
    for service in SERVICES:
        lines += service_lines(service, found[service.name])
    compare_with_mlperf(data, found)
    return "\n".join(lines) + "\n" + NATURE


def service_lines(service: Service, found: list[Replica]) -> list[str]:
    logs = [np.log(replica.found.input_weight) for replica in found]
    weight = round(float(np.exp(np.mean(logs))), 2)
    lines = [
        "",
        f"# {service.objective}.",
        "# Capacity counts output tokens, and a prompt token as input_weight of one: the geometric",
        "# mean of the generations, so that one number tells a window's demand.",
        f"[services.{service.name}]",
        f'model = "{service.model}"',
        f"ttft_s = {service.ttft_s:g}",
        f"tpot_s = {service.tpot_ms / 1e3:g}",
        f"input_weight = {weight}",
        f"reference_input_tokens = {service.isl:g}",
        f"reference_output_tokens = {service.osl:g}",
    ]
    for replica in found:
        capacity = replica.found
        lines += [
            "",
            *wrapped(replica.source),
            f"[services.{service.name}.replica.{quoted(replica.generation)}]",
            f"gpus = {replica.gpus}",
            f"tokens_per_s = {capacity.tokens_per_s(service.isl, service.osl, weight):.0f}",
            f"requests_per_s = {capacity.requests_per_s:.2f} # of the reference request",
            f"in_flight = {capacity.in_flight:.0f}",
            f"boot_s = {replica.boot_s:.0f}",
        ]
    return lines


def quoted(name: str) -> str:
    return f'"{name}"' if "-" in name else name


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text + ".", 98, initial_indent="# ", subsequent_indent="# ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    sys.stdout.write(toml(parser.parse_args().data))
