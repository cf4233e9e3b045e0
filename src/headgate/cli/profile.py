"""`headgate profile`: step times of a model on an accelerator, fitted and calibrated."""

from pathlib import Path

import click
from rich.console import Console

from headgate.core.errors import InputError

FILE = click.Path(path_type=Path)


@click.group()
def profile() -> None:
    """Fit and calibrate how long an engine's iterations take."""


@profile.command()
@click.argument("source", type=FILE)
@click.option("--out", required=True, type=FILE, help="A formula (.json) or tables (.npz).")
@click.option("--layers", type=int, help="Transformer layers, for a layer profile.")
@click.option("--chunk", default=2048, show_default=True, help="Tokens in an iteration.")
@click.option("--batch-cap", default=128, show_default=True, help="Sequences at once.")
@click.option("--system", help="An accelerator of the operator tables, such as h100_sxm.")
@click.option("--model-config", type=FILE, help="The model's config.json, for operator tables.")
@click.option("--tp", default=1, show_default=True, help="Accelerators that share the model.")
def fit(
    source: Path,
    out: Path,
    layers: int | None,
    chunk: int,
    batch_cap: int,
    system: str | None,
    model_config: Path | None,
    tp: int,
) -> None:
    """Fit step times from SOURCE and write them to --out.

    SOURCE is a folder with a layer profile (dense.csv, per_sequence.csv, attention.csv), or one
    that an engine's grid of steps was recorded into (engine.json, grid/steps.jsonl), or, with
    --system and --model-config, the folder of traces with the operator tables.
    """
    from headgate.model.stepfit import designed_steps, fit_formula, tables_of
    from headgate.sim.serving.levels import engine_model, load_engine
    from headgate.sim.serving.operators import layer_profile, load_architecture, load_operators
    from headgate.sim.serving.recorded import load_layer_profile
    from headgate.sim.serving.stepfiles import save_formula, save_tables

    if out.suffix not in (".json", ".npz"):
        raise InputError(f"--out {out}: must end in .json (a formula) or .npz (tables).")
    if (source / "engine.json").is_file():
        if out.suffix == ".npz":
            raise InputError(f"--out {out}: recorded steps give a formula; end it in .json.")
        formula, model = engine_model(source, load_engine(source))
    else:
        if system is not None:
            if model_config is None:
                raise InputError("--system: needs --model-config, the model's config.json.")
            shape = load_architecture(model_config)
            layers = shape.num_hidden_layers
            measured = layer_profile(shape, load_operators(source, system), tp)
        else:
            measured = load_layer_profile(source)
        if layers is None:
            raise InputError("--layers: is missing; give the model's number of layers.")
        model = tables_of(measured, layers, chunk, batch_cap)
        if out.suffix == ".npz":
            save_tables(model, out)
            error = model.error_percent
            known = (
                "its error a step not known"
                if error is None
                else f"{error:.1f} % mean error a step"
            )
            Console().print(f"tables of {model.source} written to {out}: {known}")
            return
        formula = fit_formula(designed_steps(model, chunk, batch_cap))
    save_formula(formula, model, out)
    Console().print(
        f"formula of {model.source} written to {out}: "
        f"{formula.error_percent:.1f} % mean error a step"
    )


@profile.command()
@click.argument("model", type=FILE)
@click.argument("run_dir", type=FILE)
@click.option("--out", required=True, type=FILE, help="Write the calibrated model here.")
@click.option("--batch-cap", required=True, type=int, help="The engine's max_num_seqs.")
@click.option("--chunk", required=True, type=int, help="The engine's max_num_batched_tokens.")
@click.option("--kv-blocks", required=True, type=int, help="The engine's num_gpu_blocks.")
@click.option("--block-tokens", default=16, show_default=True, help="Tokens in a KV block.")
@click.option("--first", default=100, show_default=True, help="Requests to calibrate on.")
@click.option("--plan-ahead/--plan-in-turn", default=True, show_default=True)
def calibrate(
    model: Path,
    run_dir: Path,
    out: Path,
    batch_cap: int,
    chunk: int,
    kv_blocks: int,
    block_tokens: int,
    first: int,
    plan_ahead: bool,
) -> None:
    """Scale MODEL so that the first requests recorded in RUN_DIR take as long as they did."""
    from dataclasses import replace

    import msgspec

    from headgate.model.scheduling import Scheduler
    from headgate.sim.serving.recorded import calibrate as find_scale
    from headgate.sim.serving.recorded import load_run
    from headgate.sim.serving.service import Settings
    from headgate.sim.serving.stepfiles import load_formula, load_step_model, save_tables

    if out.suffix != model.suffix:
        raise InputError(f"--out {out}: must end in {model.suffix}, as the model does.")
    times = load_step_model(model, tokens=max(chunk, batch_cap))
    run = load_run(run_dir)
    scheduler = Scheduler("vllm-v1", chunk, batch_cap, block_tokens, plan_ahead=plan_ahead)
    scale = find_scale(run, times, Settings(scheduler), kv_blocks, min(first, len(run)))
    on = f", calibrated on {min(first, len(run))} requests of {run.source}"
    if model.suffix == ".npz":
        save_tables(replace(times.scaled(scale), source=times.source + on), out)
    else:
        held = load_formula(model)
        held.scale *= scale
        held.source += on
        out.write_bytes(msgspec.json.format(msgspec.json.encode(held)) + b"\n")
    Console().print(f"scaled by {scale:.4f}, written to {out}")
