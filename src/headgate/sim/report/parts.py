"""Pieces of the page: tables, bars of parts, legends."""

from collections.abc import Iterable
from html import escape

from headgate.sim.report.words import LIGHT


def legend(names: Iterable[tuple[str, str]]) -> str:
    """(name, colour); the colour `rule` stands for a line, `off` for hatching."""
    items = []
    for name, colour in names:
        if colour == "rule":
            items.append(f'<li class="rule" style="--of:var(--ink)">{escape(name)}</li>')
        elif colour == "off":
            items.append(f'<li class="off">{escape(name)}</li>')
        else:
            items.append(f'<li style="--of:var({colour})">{escape(name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def bar(
    name: str, parts: list[tuple[str, str, float]], off: float, whole: float, total: str, unit: str
) -> str:
    """One bar of (name, colour, size) in shares of `whole`; `off` is hatched away at its end."""
    pieces = []
    for what, colour, size in parts:
        if size <= 0:
            continue
        share = size / whole
        text = f"{size:,.0f}" if share > 0.045 else ""
        light = " class=light" if colour in LIGHT else ""
        pieces.append(
            f'<i{light} style="width:{share:.4%};background:var({colour})" '
            f'title="{escape(what)}: {size:,.1f} {unit}">{text}</i>'
        )
    if off > 0:
        end = sum(size for _, _, size in parts if size > 0)
        pieces.append(
            f'<i class="off" style="left:{max(end - off, 0.0) / whole:.4%};'
            f'width:{off / whole:.4%}" title="taken off: {off:,.1f} {unit}"></i>'
        )
    return (
        f'<div class="one"><div class="name">{escape(name)}</div>'
        f'<div class="bar">{"".join(pieces)}</div><div class="total">{escape(total)}</div></div>'
    )


def table(heads: Iterable[str], rows: Iterable[str], kind: str = "") -> str:
    """A table that scrolls sideways by itself where it is too wide."""
    cells = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(head: str, cells: Iterable[str], below: str = "", kind: str = "") -> str:
    """A row whose cells are HTML already; `below` explains the head in small print."""
    more = f"<small>{escape(below)}</small>" if below else ""
    return f'<tr class="{kind}"><th scope="row">{escape(head)}{more}</th>{"".join(cells)}</tr>'


def group(head: str, width: int) -> str:
    return f'<tr class="group"><th colspan="{width}" scope="rowgroup">{escape(head)}</th></tr>'


def cell(text: str, *, best: bool = False, below: str = "") -> str:
    more = f"<small>{escape(below)}</small>" if below else ""
    return f"<td{' class=best' if best else ''}>{escape(text)}{more}</td>"


def metered(text: str, share: float, *, best: bool = False, below: str = "") -> str:
    """A cell with a small bar from 0 to 1 under its figure."""
    more = f"<small>{escape(below)}</small>" if below else ""
    full = min(max(share, 0.0), 1.0)
    return (
        f"<td{' class=best' if best else ''}>{escape(text)}"
        f'<span class="meter"><i style="width:{full:.1%}"></i></span>{more}</td>'
    )
