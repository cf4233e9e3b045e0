"""`headgate bench`: measure one part against published or named baselines."""

import click

from headgate.cli.lazy import LazyCommands

BENCHES: dict[str, str] = {
    "gateway": "headgate.cli.bench_gateway:gateway",
    "serving": "headgate.cli.bench_serving:serving",
    "fleet": "headgate.cli.bench_fleet:fleet",
    "placement": "headgate.cli.bench_placement:placement",
    "pool": "headgate.cli.bench_pool:pool",
}


@click.group(cls=LazyCommands, places=BENCHES)
def bench() -> None:
    """Measure one part against published or named baselines."""
