"""Traces of single requests: arrivals and lengths, some with the prefixes they share."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headgate.sim.demand import Floats, Ints
from headgate.sim.traces.tables import Column, Table, read

_AZURE_SOURCE = "github.com/Azure/AzurePublicDataset at b469a113cedca53ddc3bdea71a143dc4b7d8700c"
AZURE_CODE = Table(
    name="azure-code",
    path="llm/azure_llm_2023_code.csv.gz",
    about="57 minutes of requests to a code completion service, November 2023",
    source=f"{_AZURE_SOURCE}, data/AzureLLMInferenceTrace_code.csv",
    rows=8_819,
    sha256="b99df47b5e34740244c5231814f8c3b8172f171a5a4bd7b2aeb16fe4501a874e",
    columns=(
        Column("TIMESTAMP", "time", "time of the call, no zone given", rises=True),
        Column("ContextTokens", "whole", "prompt tokens"),
        Column("GeneratedTokens", "whole", "output tokens"),
    ),
    licence="A (CC-BY-4.0)",
    cite="Patel et al., Splitwise: Efficient Generative LLM Inference Using Phase Splitting, "
    "ISCA 2024",
    quirks="Under an hour long: it has bursts but no day and night.",
)
AZURE_CONVERSATION = replace(
    AZURE_CODE,
    name="azure-conversation",
    path="llm/azure_llm_2023_conv.csv.gz",
    about="58 minutes of requests to a chat service, November 2023",
    source=f"{_AZURE_SOURCE}, data/AzureLLMInferenceTrace_conv.csv",
    rows=19_366,
    sha256="ff242f3e188a47560ece64f1f9583cfed080118422e6307e0d5384eedd6dbbe7",
)

_MOONCAKE_SOURCE = (
    "github.com/kvcache-ai/Mooncake at 3b5a594133958449a1feaf1c9e0fc1b553e34a28, "
    "FAST25-release/traces"
)
MOONCAKE_CONVERSATION = Table(
    name="mooncake-conversation",
    path="llm/mooncake_conversation.parquet",
    about="59 minutes of requests to a chat service with long contexts, with prefix blocks",
    source=f"{_MOONCAKE_SOURCE}/conversation_trace.jsonl",
    rows=12_031,
    sha256="1fb8bca6cb0c056fef542c2e81dee36a31547bfb13d93f6380ae09a8d98820b4",
    columns=(
        Column("timestamp_ms", "whole", "since the start", rises=True),
        Column("input_length", "whole", "prompt tokens"),
        Column("output_length", "whole", "output tokens"),
        Column("hash_ids", "wholes", "ids of 512-token prefix blocks; equal ids share their KV"),
    ),
    licence="A (Apache-2.0)",
    cite="Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025",
    quirks="71 % of the conversation's times are multiples of 3 s: requests are spread evenly, "
    "in their order, over the step they share.",
)
MOONCAKE_SYNTHETIC = replace(
    MOONCAKE_CONVERSATION,
    name="mooncake-synthetic",
    path="llm/mooncake_synthetic.parquet",
    about="17 minutes of requests mixed from public data sets with Poisson arrivals",
    quirks="",
    source=f"{_MOONCAKE_SOURCE}/synthetic_trace.jsonl",
    rows=3_993,
    sha256="8831f4b5bb5f59f3a9593f58667681f07dc9d28d4a9f4f0fd51690f2724cb47f",
)
RAGPULSE = Table(
    name="ragpulse",
    path="llm/ragpulse_trace.parquet",
    about="a week of questions to a university's retrieval service, by session",
    columns=(
        Column("timestamp_s", "whole", "since the start, which is 12:00 of the first day"),
        Column("session", "whole"),
        Column("input_length", "whole", "prompt tokens"),
        Column("output_length", "whole", "output tokens"),
    ),
    source="github.com/flashserve/RAGPulse at 3672232d45d749fdcf45dbc38cc77e5264af4a32, "
    "data/*.jsonl",
    licence="A (MIT)",
    cite="Wang et al., RAGPulse, arXiv:2511.12979",
    rows=7_106,
    sha256="db2575f8f4ce6c359dc04dcb96871994d0f599f626c5077476e3f70944dcd254",
    quirks="Rows are not in order of time and are sorted when read. The week is two weeks laid "
    "over each other, by the source's dates.",
)
ARXIV = Table(
    name="arxiv-lengths",
    path="llm/arxiv_summarization_lengths.csv.gz",
    about="lengths of 28,257 summarisation requests, the shape of a batch's requests",
    columns=(
        Column("num_prefill_tokens", "whole", "prompt tokens"),
        Column("num_decode_tokens", "whole", "output tokens"),
    ),
    source="github.com/microsoft/vidur at 7d47513363ec447a741ac5e47241580b47724fbf, "
    "data/processed_traces/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
    licence="A (MIT)",
    cite="Agrawal et al., Vidur: A Large-Scale Simulation Framework for LLM Inference, MLSys 2024",
    rows=28_257,
    sha256="21b555d8f626c783aa5d077376dc1c808f6dfa50934dbd4cd34781f1592c6bc1",
    quirks="No arrival times. Prompt and output together hold at most 4,096 tokens.",
)
TABLES = (
    AZURE_CODE,
    AZURE_CONVERSATION,
    MOONCAKE_CONVERSATION,
    MOONCAKE_SYNTHETIC,
    RAGPULSE,
    ARXIV,
)


@dataclass(frozen=True, slots=True)
class Requests:
    """Single requests in order of arrival, which counts in seconds from the first."""

    arrived_s: Floats
    input_tokens: Ints
    output_tokens: Ints

    def __len__(self) -> int:
        return len(self.arrived_s)


def azure_requests(data_dir: Path, table: Table = AZURE_CONVERSATION) -> Requests:
    frame = read(data_dir, table)
    since = frame["TIMESTAMP"] - frame["TIMESTAMP"][0]
    return Requests(
        since.dt.total_microseconds().to_numpy() / 1e6,
        frame["ContextTokens"].to_numpy(),
        frame["GeneratedTokens"].to_numpy(),
    )


def mooncake_requests(
    data_dir: Path, table: Table = MOONCAKE_CONVERSATION
) -> tuple[Requests, list[list[int]]]:
    """The requests, and the prefix block ids of each.

    Requests that share a time are spread evenly up to the next time, at most 3 s: the recording
    rounds, its users did not wait for each other.
    """
    frame = read(data_dir, table)
    at_s = frame["timestamp_ms"].to_numpy() / 1e3
    start = np.flatnonzero(np.diff(at_s, prepend=-1.0) > 0)
    count = np.diff(start, append=len(at_s))
    step_s = np.minimum(np.diff(at_s[start], append=at_s[-1] + 3.0), 3.0)
    place = np.arange(len(at_s)) - np.repeat(start, count)
    spread_s = at_s + place * np.repeat(step_s / count, count)
    requests = Requests(
        spread_s - spread_s[0],
        frame["input_length"].to_numpy(),
        frame["output_length"].to_numpy(),
    )
    return requests, frame["hash_ids"].to_list()


def ragpulse_requests(data_dir: Path) -> tuple[Requests, Ints]:
    """The requests in order of time, and the session of each."""
    frame = read(data_dir, RAGPULSE).sort("timestamp_s", maintain_order=True)
    at_s = frame["timestamp_s"].to_numpy().astype(np.float64)
    requests = Requests(
        at_s - at_s[0], frame["input_length"].to_numpy(), frame["output_length"].to_numpy()
    )
    return requests, frame["session"].to_numpy()


def arxiv_lengths(data_dir: Path) -> tuple[Ints, Ints]:
    """Prompt and output tokens of each summarisation request, paired."""
    frame = read(data_dir, ARXIV)
    return frame["num_prefill_tokens"].to_numpy(), frame["num_decode_tokens"].to_numpy()
