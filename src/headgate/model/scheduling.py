"""The rules by which an engine fills its iterations, by name."""

from dataclasses import dataclass

from headgate.core.errors import InputError
from headgate.kernels.serving.layout import Rules

PROFILES = ("sarathi", "vidur", "vllm-v1")


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A scheduler profile and its settings.

    `sarathi`: chunked prefill as in Vidur's Sarathi scheduler. `vidur`: the same with Vidur's
    restart of a prompt preempted midway, to be held against its results. `vllm-v1`: vLLM's V1
    scheduler. docs/why/serving-kernel.md names every rule in which they differ.
    """

    profile: str = "sarathi"
    chunk: int = 512  # tokens in a step
    batch_cap: int = 128  # sequences holding memory
    block_tokens: int = 16
    watermark: float = 0.01  # share of the blocks an admission leaves free; vllm-v1 has none
    plan_ahead: bool = True  # vllm-v1: asynchronous scheduling, vLLM's default since 0.14
    prefix_caching: bool = True  # vllm-v1: a preempted sequence finds again what is not overwritten

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise InputError(
                f"profile is {self.profile!r}, which is not known; choose one of "
                f"{', '.join(PROFILES)}."
            )
        for name, most in (("chunk", 1 << 20), ("batch_cap", 1 << 16), ("block_tokens", 1 << 12)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(
                    f"{name} is {getattr(self, name)}, which must be from 1 to {most}; "
                    "give the engine's own setting."
                )
        if self.block_tokens & (self.block_tokens - 1):
            raise InputError(
                f"block_tokens is {self.block_tokens}, which must be a power of two; "
                "engines use 16, 32, 64 or 128."
            )
        if not 0.0 <= self.watermark < 1.0:
            raise InputError(
                f"watermark is {self.watermark}, which must be at least 0 and below 1; "
                "Vidur uses 0.01."
            )
        if self.profile == "vllm-v1" and self.chunk < self.batch_cap:
            raise InputError(
                f"chunk is {self.chunk}, below batch_cap {self.batch_cap}; vllm-v1 needs a token "
                "for every sequence, so give a chunk of at least the batch cap."
            )

    def usable(self, kv_blocks: int) -> int:
        """KV blocks that sequences can have of those the engine reports: vLLM keeps one empty."""
        return kv_blocks - 1 if self.profile == "vllm-v1" else kv_blocks

    def reserve(self, kv_blocks: int) -> int:
        """KV blocks that an admission must leave free."""
        return 0 if self.profile == "vllm-v1" else int(self.watermark * kv_blocks)

    def rules(
        self, levels: int = 1, yields: bool = False, walk: bool = False, weigh: bool = True
    ) -> Rules:
        """The profile as the kernel's numbers."""
        vllm = self.profile == "vllm-v1"
        return Rules(
            chunk=self.chunk,
            cap=self.batch_cap,
            block=self.block_tokens,
            shift=self.block_tokens.bit_length() - 1,
            levels=levels,
            spare=0 if vllm else 1,
            whole_prompt=0 if vllm else 1,
            truncate=1 if self.profile == "vidur" else 0,
            keep_prefix=1 if vllm and self.prefix_caching else 0,
            calm=1 if vllm else 0,
            yields=1 if yields else 0,
            weigh=1 if weigh else 0,
            walk=1 if walk else 0,
            ahead=1 if vllm and self.plan_ahead else 0,
        )
