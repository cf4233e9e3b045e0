"""Measured speeds of accelerators: serving points, submissions, kernels, data sheets."""

from pathlib import Path

import polars as pl

from headgate.sim.traces.tables import Column, Table, read

_AIC_SOURCE = (
    "github.com/ai-dynamo/aiconfigurator at 095f58a51c4ca8e61b66ec108d86f223f8d559ce, "
    "aic-core/src/aiconfigurator_core/systems/"
)
_AIC_CITE = "NVIDIA, aiconfigurator"

AIC_SERVING = Table(
    name="aic-serving",
    path="perf/aic_e2e_measured.csv.gz",
    about="5,221 measured serving points: latency by model, system, shape and concurrency",
    columns=(
        Column("id", "text"),
        Column("backend", "text", "vllm, sglang or trtllm"),
        Column("model_path", "text"),
        Column("system", "text"),
        Column("precision", "text", may_be_empty=True),
        Column("mode", "text", "agg: one engine does prefill and decode; disagg: two do"),
        Column("isl", "whole", "prompt tokens"),
        Column("osl", "whole", "output tokens"),
        Column("tp_size", "number", may_be_empty=True),
        Column("pp_size", "number", may_be_empty=True),
        Column("attention_dp_size", "number", may_be_empty=True),
        Column("moe_tp_size", "number", may_be_empty=True),
        Column("moe_ep_size", "number", may_be_empty=True),
        Column("silicon_ttft_ms", "number", "time to first token"),
        Column("silicon_tpot_ms", "number", "time per output token"),
        Column("concurrency", "number", "requests in flight", may_be_empty=True),
        Column("measured_date", "text", may_be_empty=True),
    ),
    source=_AIC_SOURCE + "silicon_sample.csv",
    licence="A (Apache-2.0)",
    cite=_AIC_CITE,
    rows=5_221,
    sha256="81d3e4a9c676ccceb5664a46981cc406fb82305bd1b7b2ab4133a2bb6325b609",
    quirks="Long times to first token are queueing at overload. Concurrency is missing in 19 rows.",
)
AIC_SYSTEMS = Table(
    name="aic-systems",
    path="perf/aic_gpu_systems.csv.gz",
    about="data sheet numbers of 14 systems",
    columns=(
        Column("system", "text"),
        Column("gpu.mem_bw", "number", "B/s"),
        Column("gpu.mem_capacity", "number", "B"),
        Column("gpu.bfloat16_tc_flops", "number", "FLOP/s, dense"),
        Column("gpu.power", "number", "W"),
    ),
    source=_AIC_SOURCE + "*.yaml",
    licence="A (Apache-2.0)",
    cite=_AIC_CITE,
    rows=14,
    sha256="4461f57745274d158dbcaf4e303b183a424f1525213aed2cf02659b3c8ad2f03",
)
AIC_GEMM = Table(
    name="aic-gemm",
    path="perf/aic_op_gemm.parquet",
    about="measured latency of matrix products by system, type and shape",
    columns=(
        Column("system", "text"),
        Column("gemm_dtype", "text"),
        Column("m", "whole", "tokens", least=1),
        Column("n", "whole", "output width", least=1),
        Column("k", "whole", "input width", least=1),
        Column("latency", "number", "ms"),
    ),
    source=_AIC_SOURCE + "data/<system>/vllm",
    licence="A (Apache-2.0)",
    cite=_AIC_CITE,
    rows=473_687,
    sha256="e635997e7b6d085119a269bffcdde8cef3dc1acc3a6a7ed7d7e1e9e3e3f4e7ed",
)
MLPERF = Table(
    name="mlperf",
    path="perf/mlperf_inference_v5_1_datacenter.csv.gz",
    about="MLPerf Inference v5.1 results, datacenter, with latencies from the logs",
    columns=(
        Column("ID", "text", "result id, to be quoted with the result"),
        Column("Category", "text", "closed or open"),
        Column("Model", "text"),
        Column("Scenario", "text", "Offline, Server or Interactive"),
        Column("Accelerator", "text", may_be_empty=True),
        Column("Performance_Result", "number"),
        Column("Performance_Units", "text"),
        Column("perf_per_accelerator", "number", may_be_empty=True),
    ),
    source="github.com/mlcommons/inference_results_v5.1 at "
    "965182b03376a00fcae415c54e560e1c83937932, summary_results.json and the logs it points to",
    licence="C (none stated in the repository; MLPerf attribution rules apply)",
    cite="MLPerf Inference v5.1, Closed, with the result ID",
    rows=586,
    sha256="f0b44fbac8e6f5b6279e10c378beb34473ed7b81bea9115270594df15eea2d89",
)
SPLITWISE = Table(
    name="splitwise",
    path="perf/splitwise_perf_model.csv.gz",
    about="measured prompt and token times of Llama-2-70B and BLOOM-176B on A100 and H100",
    columns=(
        Column("model", "text"),
        Column("hardware", "text", "a100-80gb, h100-80gb or h100-80gb-pcap"),
        Column("prompt_size", "whole", "tokens"),
        Column("batch_size", "whole"),
        Column("token_size", "whole", "output tokens"),
        Column("prompt_time", "number", "ms for the batch's prompts"),
        Column("token_time", "number", "ms per decode step"),
        Column("tensor_parallel", "whole", "accelerators"),
    ),
    source="github.com/Mutinifni/splitwise-sim at 8f99e7dc9b407f4ce2488d03dd44c0b8b946dab0, "
    "data/perf_model.csv",
    licence="A (MIT)",
    cite="Patel et al., Splitwise, ISCA 2024",
    rows=1_260,
    sha256="0c8f9847935c53bde3597772783ca8a0d202530c86660c7a09a69402d33100be",
)
TABLES = (AIC_SERVING, AIC_SYSTEMS, AIC_GEMM, MLPERF, SPLITWISE)


def serving_points(data_dir: Path) -> pl.DataFrame:
    return read(data_dir, AIC_SERVING)


def gpu_systems(data_dir: Path) -> pl.DataFrame:
    return read(data_dir, AIC_SYSTEMS)


def matrix_products(data_dir: Path, dtype: str = "bfloat16") -> pl.DataFrame:
    return read(data_dir, AIC_GEMM, pl.col("gemm_dtype").cast(pl.String) == dtype)


def mlperf_results(data_dir: Path) -> pl.DataFrame:
    return read(data_dir, MLPERF)


def splitwise_times(data_dir: Path) -> pl.DataFrame:
    return read(data_dir, SPLITWISE)
