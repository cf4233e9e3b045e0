"""The `headgate` command: its groups, and what an error looks like."""

import importlib
import os
import sys

import click

from headgate import __version__
from headgate.core.errors import InputError

# Commands are imported when they are called, so that `headgate --help` and a gateway's start
# never pay for numba or polars.
COMMANDS: dict[str, str] = {
    "batches": "headgate.cli.batches:batches",
    "bench": "headgate.cli.bench:bench",
    "compile": "headgate.cli.compile:compile_command",
    "data": "headgate.cli.data:data",
    "engine": "headgate.cli.serve:engine",
    "keys": "headgate.cli.accounts:keys",
    "explain": "headgate.cli.logs:explain_command",
    "replay": "headgate.cli.logs:replay_command",
    "profile": "headgate.cli.profile:profile",
    "serve": "headgate.cli.serve:serve",
    "simulate": "headgate.cli.simulate:simulate",
    "tenants": "headgate.cli.accounts:tenants",
    "usage": "headgate.cli.usage:usage",
    "serving": "headgate.cli.serving:serving",
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="headgate")
def headgate() -> None:
    """One shared pool of accelerators under one policy, live and in simulation.

    Exit status: 0 done; 1 a check that was asked for failed; 2 bad input, said in one sentence;
    130 stopped by Ctrl-C.
    """


def main() -> None:
    """Run the command line; bad input ends with one sentence on stderr and status 2."""
    try:
        sys.exit(headgate(standalone_mode=False))
    except InputError as error:
        click.echo(f"headgate: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("headgate: stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has gone; Python must not find that out a second time on exit.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        sys.exit(1)
