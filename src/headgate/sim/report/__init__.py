"""The report: one HTML file that opens in a browser without a network.

Charts are SVG and HTML that Python writes, so that the page prints, opens at once and weighs a few
hundred kilobytes; the little script only shows the figures under the pointer.
"""

import json
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from headgate.sim.report.charts import hover_data
from headgate.sim.report.sections import SECTIONS

Outcome = dict[str, Any]


def write_report(path: Path, outcome: Outcome) -> None:
    """Write the report of a comparison: what `headgate simulate --json` holds, made visible."""
    path.write_text(page(outcome), encoding="utf-8")


def page(outcome: Outcome) -> str:
    """The whole page as HTML."""
    made = [(name, title, write(outcome)) for name, title, write in SECTIONS]
    there = [(name, title, body) for name, title, body in made if body]
    return Template(_part("page.html")).substitute(
        title=escape(f"{outcome['scenario']} · Headgate"),
        style=_part("page.css"),
        script=_part("page.js"),
        data=json.dumps(hover_data(outcome), separators=(",", ":")).replace("<", "\\u003c"),
        contents="".join(f'<a href="#{n}">{escape(t)}</a>' for n, t, _ in there if t),
        sections="\n".join(_section(*part) for part in there),
    )


def _section(name: str, title: str, body: str) -> str:
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section id="{name}">{heading}{body}</section>'


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
