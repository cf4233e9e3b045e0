"""The reference pages, each a function that returns its text."""

import importlib
from collections.abc import Callable
from pathlib import Path

import click
from tools.reference.results import KEYS
from tools.reference.structs import Struct, rows, structs

from headgate.cli.main import COMMANDS
from headgate.core.rules import KINDS, MEANINGS, STATES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
SOURCE = ROOT / "src" / "headgate"
WRITTEN = "<!-- Written by `uv run python -m tools.reference` from the code; do not edit. -->\n"
STATUSES = (
    ("0", "done"),
    ("1", "a check that was asked for failed"),
    ("2", "bad input, said in one sentence on standard error; nothing was run"),
    ("130", "stopped by Ctrl-C; what was simulated so far is kept and said to be partial"),
)


def commands() -> str:
    """Every command's help, as the command line prints it."""
    parts = [
        f"# Commands\n\n{WRITTEN}\nOnce installed, `headgate COMMAND`; from a clone, "
        "`uv run headgate COMMAND`. What a command is about to read or write is checked before "
        "the work begins.\n\n## Exit status\n\n| status | meaning |\n|---|---|\n"
    ]
    parts += [f"| {status} | {meaning} |\n" for status, meaning in STATUSES]
    for name in sorted(COMMANDS):
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        parts += _helps(command, f"headgate {name}")
    return "".join(parts)


def _helps(command: click.Command, name: str) -> list[str]:
    context = click.Context(command, info_name=name, max_content_width=92, terminal_width=92)
    made = [f"\n## {name}\n\n```\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for inner in sorted(command.list_commands(context)):
            found = command.get_command(context, inner)
            assert found is not None
            made += _helps(found, f"{name} {inner}")
    return made


# Where each record stands in a scenario file.
TABLES = {
    "Scenario": "the file itself",
    "PoolPart": "[[pools]]",
    "Rack": "pools.racks",
    "Drain": "pools.drains",
    "OrderPart": "[order]",
    "TrainingPart": "[training]",
    "FoundationPart": "[[training.foundation]]",
    "GangsPart": "[training.gangs]",
    "PhillyTrace": "training.gangs.trace",
    "GeneratedGangs": "training.gangs.generated",
    "ServicePart": "[[services]]",
    "DemandPart": "services.demand",
    "ServeGenTrace": "services.demand.trace",
    "GeneratedTraffic": "services.demand.generated",
    "ReplicaPart": "services.replicas.POOL",
    "BatchPart": "services.batch",
    "ApplicationsPart": "[applications]",
    "DlrmTrace": "applications.trace",
    "GeneratedReplicas": "applications.generated",
    "LeasesPart": "[leases]",
    "WorthPart": "[worth]",
    "FailuresPart": "[failures]",
}


def scenario() -> str:
    """Every table and field of a scenario file."""
    found = structs(SOURCE / "sim" / "scenario.py")
    parts = {name: struct for name, struct in found.items() if struct.fields}
    missing = set(parts) ^ set(TABLES)
    assert not missing, f"say in tools/reference/pages.py where these stand: {missing}"
    links = {name: f"[`{where}`](#{_anchor(where)})" for name, where in TABLES.items()}
    text = [
        f"# Scenario files\n\n{WRITTEN}\n"
        "A scenario is a TOML file: fleet, order of classes, demand, and what work is worth. "
        "`pool-day` and `pool-week` are bundled; [write a scenario](../how-to/write-a-scenario.md) "
        'shows a small one. A file may begin with `extends = "other.toml"`, a file beside it: its '
        "own values are laid over the other's table by table, and a list replaces the other's "
        "list. An unknown key is an error. A field without a default must be given.\n"
    ]
    for name, where in TABLES.items():
        text.append(f"\n## `{where}`\n\n" if name != "Scenario" else "\n## The file itself\n\n")
        if found[name].doc:
            text.append(f"{found[name].doc}\n\n")
        text.append("\n".join(rows(found[name], links)) + "\n")
    return "".join(text)


def _anchor(heading: str) -> str:
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def facts() -> str:
    """What crosses the machine's edge."""
    path = SOURCE / "core" / "facts.py"
    found = structs(path)
    wishes = ("StartWork", "StopWork", "RefuseWork")
    inner = ("ServiceWindow",)
    text = [
        f"# Facts and wishes\n\n{WRITTEN}\n"
        "A fact says what happened; a wish says what the machine wants done about it. They are "
        "all that crosses the machine's edge, live and in simulation. A log written by "
        "`headgate simulate --log DIR` has a first line with the fleet and the policy, then one "
        "line for each fact: `[fact, [wish, ...]]`, as JSON. `type` holds the name; a field that "
        "has its default is there too. Works, nodes, tenants, shapes and services are named by "
        "their row in the fleet; works are numbered in the order they were submitted, replicas "
        "that the machine asked for included.\n\n## Facts\n"
    ]
    links = {"ServiceWindow": "[ServiceWindow](#servicewindow)"}
    for name, struct in found.items():
        if name not in wishes and name not in inner:
            text.append(_record(struct, links))
    text.append("\n## Wishes\n")
    text += [_record(found[name], links) for name in wishes]
    text.append("\n## Parts\n")
    text += [_record(found[name], links) for name in inner]
    return "".join(text)


def _record(struct: Struct, links: dict[str, str]) -> str:
    doc = f"{struct.doc}\n\n" if struct.doc else ""
    return f"\n### {struct.name}\n\n{doc}" + "\n".join(rows(struct, links)) + "\n"


def rules() -> str:
    """The names that decisions carry."""
    lines = [
        f"# Rules, states and kinds\n\n{WRITTEN}\n"
        "Every decision carries the name of the rule that made it: in wishes, in the log, in the "
        "report.\n\n| rule | what it says of a work |\n|---|---|\n"
    ]
    lines += [f"| `{name}` | {meaning} |\n" for name, meaning in MEANINGS.items()]
    lines.append(
        "\nA work is, in the order of its life: "
        + ", ".join(f"`{state}`" for state in STATES)
        + ". Its kind is one of "
        + ", ".join(f"`{kind}`" for kind in KINDS)
        + f".\n\n## Moves\n\n{_moves()}"
    )
    return "".join(lines)


def _moves() -> str:
    from headgate.core.lifecycle import AFTER
    from headgate.kernels import layout as k

    events = {
        k.WORK_STARTED: "it started",
        k.WORK_FINISHED: "it finished",
        k.WORK_STOPPED: "it gave its accelerators back",
        k.WORK_CANCELLED: "its owner cancelled it",
        k.WORK_REFUSED: "it was refused",
    }
    lines = [
        "A waiting work becomes `starting` when the round gives it accelerators, and a starting "
        "or running one `stopping` when the round wants them back. Facts move it on:\n\n"
        "| state | what happened | state after |\n|---|---|---|\n"
    ]
    for (state, event), after in AFTER.items():
        lines.append(f"| `{STATES[state]}` | {events[event]} | `{STATES[after]}` |\n")
    lines.append(
        "\nA move that is not in the table breaks a law. A work that was cancelled or refused "
        "while it held accelerators is `cancelled` once it has given them back.\n"
    )
    return "".join(lines)


def results() -> str:
    """The keys of the JSON file."""
    lines = [
        f"# Results\n\n{WRITTEN}\n"
        "What `headgate simulate --json FILE` writes; the report is made of the same figures. "
        "NAME stands for a policy, CLASS, POOL, SERVICE, SOURCE and RULE for one of theirs. "
        "Tokens are output-equivalent: input tokens count by the service's `input_weight`. A "
        "share is between 0 and 1.\n\n| key | unit | meaning |\n|---|---|---|\n"
    ]
    lines += [f"| `{key}` | {unit} | {meaning} |\n" for key, unit, meaning in KEYS]
    return "".join(lines)


def index() -> str:
    """The list of all pages, by the folder they lie in and the first heading of each."""
    return f"""\
# Headgate's pages

{WRITTEN}
Read [start](start.md) first, then what you need.

**To learn**: [start](start.md), [glossary](glossary.md), [structure](structure.md).

## To do something

{_titles("how-to")}
## To look up

{_titles("reference")}
## To know why

{_titles("why")}"""


def _titles(folder: str) -> str:
    lines = []
    for page in sorted((ROOT / "docs" / folder).glob("*.md")):
        title = page.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")
        lines.append(f"- [{title}]({folder}/{page.name})\n")
    return "".join(lines)


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "scenario.md": scenario,
    "facts-and-wishes.md": facts,
    "rules.md": rules,
    "results.md": results,
    "../README.md": index,
}
