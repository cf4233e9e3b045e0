"""Write docs/reference/traces.md from the catalogue: `uv run python tools/traces_page.py`."""

from pathlib import Path

from headgate.sim.traces.catalogue import TABLES
from headgate.sim.traces.tables import Table

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "traces.md"

HEAD = """\
# Traces

<!-- Written by tools/traces_page.py from src/headgate/sim/traces; do not edit. -->

Headgate replays public traces that you download; it ships none of them. `--data DIR` names the
folder that holds them, laid out as below. `headgate data check DIR` reads every table it finds to
the last cell. A table that is missing or damaged stops the run with one sentence that names the
file, the column, the row (counted from 1 below the header) and the value.

CSV tables may lie packed (`.csv.gz`) or unpacked (`.csv`); the others are Parquet. Times are
`YYYY-MM-DD hh:mm:ss`. Columns that are not named here are left unread. Each table is its source's
file with the columns below, row for row, in one file; where the source has one file for each
client, machine or virtual cluster, they are stacked and that name becomes a column.

Licence classes: **A** may be redistributed with attribution; **B** is for research and study;
**C** states none. Published rates and counts are samples, often scaled by their publisher: use
their shapes, and say how you scaled them.
"""


def page() -> str:
    return HEAD + "".join(_section(table) for table in TABLES.values())


def _section(table: Table) -> str:
    lines = [
        f"\n## {table.name}\n",
        f"`{table.path}`: {table.about}. {table.rows:,} rows, licence class {table.licence}.\n",
        "| column | is | meaning |",
        "|---|---|---|",
    ]
    for column in table.columns:
        empty = " or empty" if column.may_be_empty else ""
        lines.append(f"| `{column.name}` | {column.wanted}{empty} | {column.means} |")
    lines.append("")
    if table.quirks:
        lines.append(f"{table.quirks}\n")
    lines.append(f"From {table.source}. SHA-256 `{table.sha256}`.\n")
    lines.append(f"Cite: {table.cite}.\n")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
