"""`headgate serve` and `headgate engine`."""

from importlib.util import find_spec
from pathlib import Path

import click

from headgate.core.errors import InputError

WEB = ("httptools", "multipart", "starlette", "uvicorn", "uvloop")


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), help="Instead of the config's; 0 for any.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes on the port.")
def serve(config: Path | None, port: int | None, workers: int | None) -> None:
    """Open the OpenAI-compatible door.

    With no CONFIG.toml it serves an emulated engine, with state in ./headgate-state, and prints a
    curl command that works.
    """
    _need_web("serve")
    from headgate.gateway import compiled

    compiled.use()
    from headgate.gateway.serve import run

    run(config, port, workers)


@click.group()
def engine() -> None:
    """Engines for trying things out."""


@engine.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8100, show_default=True)
@click.option("--model", default="emulated-8b", show_default=True, help="The name it answers to.")
@click.option("--base-ms", type=float, default=7.5, show_default=True, help="Of each step.")
@click.option("--token-us", type=float, default=55.0, show_default=True, help="Per token in it.")
@click.option("--kv-token-ns", type=float, default=6.5, show_default=True, help="Per cached token.")
@click.option("--kv-tokens", type=click.IntRange(1), default=400_000, show_default=True)
@click.option(
    "--sequences", type=click.IntRange(1), default=256, show_default=True, help="At most."
)
@click.option("--step-tokens", type=click.IntRange(1), default=2048, show_default=True)
def emulate(
    host: str,
    port: int,
    model: str,
    base_ms: float,
    token_us: float,
    kv_token_ns: float,
    kv_tokens: int,
    sequences: int,
    step_tokens: int,
) -> None:
    """An OpenAI-compatible engine that computes nothing, timed like a real one.

    A step of n tokens over s cached ones takes base + n x token + s x kv-token. It schedules by
    the request's `priority`, counts tokens, and has vLLM's /metrics.
    """
    _need_web("engine emulate")
    from headgate.gateway.emulate import Profile, run_at

    for name, value in (("base-ms", base_ms), ("token-us", token_us), ("kv-token-ns", kv_token_ns)):
        if not 0.0 <= value < 1e9:
            raise InputError(f"--{name} is {value}; give 0 or more.")
    profile = Profile(
        base_s=base_ms / 1e3,
        per_token_s=token_us / 1e6,
        per_kv_token_s=kv_token_ns / 1e9,
        kv_tokens=kv_tokens,
        sequences_max=sequences,
        step_tokens_max=step_tokens,
    )
    run_at(host, port, profile, model)


def _need_web(command: str) -> None:
    for name in WEB:
        if find_spec(name) is None:
            raise InputError(
                f"{name} is missing: headgate {command} needs the extra `gateway`; "
                f"`pip install 'headgate[gateway]'`, or in a clone "
                f"`uv run --extra gateway headgate {command}`."
            )
