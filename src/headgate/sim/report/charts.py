"""Charts over time as SVG: one panel for each policy, all on one scale."""

import math
from html import escape
from typing import Any

from headgate.sim.report.words import CLASS_COLOURS, USE_COLOURS

Outcome = dict[str, Any]

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 552, 8, 226


def nice(top: float) -> float:
    """The round step that puts two to five lines under `top`."""
    if top <= 0:
        return 1.0
    scale: float = 10.0 ** math.floor(math.log10(top))
    return next(step * scale for step in (0.2, 0.25, 0.5, 1.0, 2.0) if top <= 5.5 * step * scale)


def hours(days: float) -> list[tuple[float, str]]:
    """(hour, label) of the ticks of the time axis."""
    if days > 2:
        every = -(-days // 10)
        return [(24.0 * d, f"day {d + 1}") for d in range(int(-(-days // 1))) if d % every == 0]
    span = days * 24
    step = next((s for s in (0.25, 0.5, 1, 2, 4, 6, 8) if span / s <= 7), 12)
    count = int(span / step) + 1
    return [
        (i * step, f"{int(i * step) % 24:02d}:{int(i * step * 60) % 60:02d}") for i in range(count)
    ]


class Panel:
    """One stacked chart: maps hours and GPUs to the page."""

    def __init__(self, number: int, days: float, top: float) -> None:
        self.number = number
        self.days = days
        self.step = nice(top)
        self.top = max(top, self.step) * 1.03

    def x(self, hour: float) -> float:
        return LEFT + (RIGHT - LEFT) * hour / (24 * self.days)

    def y(self, gpus: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * gpus / self.top

    def _points(self, at_h: list[float], values: list[float]) -> str:
        return " ".join(
            f"{self.x(h):.1f},{self.y(v):.1f}" for h, v in zip(at_h, values, strict=True)
        )

    def _levels(self) -> list[float]:
        return [i * self.step for i in range(int(self.top / self.step) + 1)]

    def _behind(self) -> str:
        """Horizontal lines and the labels of both axes."""
        parts = []
        for level in self._levels():
            y = self.y(level)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            text = f"{level:,.0f}" if self.step >= 1 else f"{level:g}"
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        for hour, label in hours(self.days):
            x = self.x(hour)
            anchor = "end" if x > RIGHT - 12 else "start" if self.days > 2 else "middle"
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{label}</text>'
            )
        return "".join(parts)

    def _before(self) -> str:
        """The same lines faintly over the areas, and the pointer's mark."""
        lines = "".join(
            f'<line class="over" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            for y in map(self.y, self._levels())
        )
        return f'{lines}<line class="cursor" y1="{TOP}" y2="{BOTTOM}" x1="0" x2="0"/>'

    def draw(
        self,
        at_h: list[float],
        stack: list[tuple[str, list[float]]],
        capacity: list[float] | None,
        label: str,
    ) -> str:
        """`stack` holds (colour, values) from the bottom up."""
        areas = []
        base = [0.0] * len(at_h)
        heights = []
        for colour, values in stack:
            base = [b + v for b, v in zip(base, values, strict=True)]
            heights.append((colour, base))
        for colour, height in reversed(heights):  # the highest first, the next painted over it
            if at_h and any(height):
                ends = f"{self.x(at_h[0]):.1f},{BOTTOM} {self._points(at_h, height)}"
                areas.append(
                    f'<polygon class="area" fill="var({colour})" '
                    f'points="{ends} {self.x(at_h[-1]):.1f},{BOTTOM}"/>'
                )
        line = (
            f'<polyline class="capacity" points="{self._points(at_h, capacity)}"/>'
            if capacity
            else ""
        )
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" data-panel="{self.number}" role="img" '
            f'aria-label="{escape(label)}">{self._behind()}{"".join(areas)}{line}'
            f"{self._before()}</svg>"
        )


def _figure(name: str, aside: str, svg: str) -> str:
    return (
        f'<figure class="panel"><figcaption><h3>{escape(name)}</h3>'
        f"<small>{escape(aside)}</small></figcaption>{svg}</figure>"
    )


def use_panels(outcome: Outcome) -> str:
    """Use of the fleet over time against capacity, a panel for each policy."""
    results = outcome["policies"]
    top = max((max(r["series"]["capacity"], default=0.0) for r in results.values()), default=0.0)
    made = []
    for number, (name, result) in enumerate(results.items()):
        series = result["series"]
        stack = [(c, series["use"][use]) for use, c in USE_COLOURS.items() if use in series["use"]]
        svg = Panel(number, outcome["days"], top).draw(
            series["at_h"], stack, series["capacity"], f"Use of the fleet over time under {name}"
        )
        made.append(_figure(name, f"{result['busy_share']:.1%} busy", svg))
    return f'<div class="panels">{"".join(made)}</div>'


def waiting_panels(outcome: Outcome) -> str:
    """GPUs waited for by class over time, a panel for each policy."""
    results = outcome["policies"]
    waiting = {name: r["series"]["waiting_gpus"] for name, r in results.items()}
    top = max(
        (max(map(sum, zip(*w.values(), strict=True)), default=0.0) for w in waiting.values()),
        default=0.0,
    )
    made = []
    for i, (name, result) in enumerate(results.items()):
        at_h = result["series"]["at_h"]
        total = [sum(row) for row in zip(*waiting[name].values(), strict=True)]
        stack = [(CLASS_COLOURS.get(c, "--starting"), waiting[name][c]) for c in waiting[name]]
        svg = Panel(len(results) + i, outcome["days"], top).draw(
            at_h, stack, None, f"GPUs waited for by class under {name}"
        )
        mean = sum(total) / len(total) if total else 0.0
        made.append(_figure(name, f"{mean:,.0f} GPUs on average", svg))
    return f'<div class="panels">{"".join(made)}</div>'


def hover_data(outcome: Outcome) -> dict[str, Any]:
    """What the script shows under the pointer: the panels in the order they are drawn."""
    series = [result["series"] for result in outcome["policies"].values()]
    panels = [_hover(s, s["use"], USE_COLOURS, s["capacity"]) for s in series]
    panels += [_hover(s, s["waiting_gpus"], CLASS_COLOURS, None) for s in series]
    frame = {"left": LEFT, "right": RIGHT, "width": WIDTH}
    return {"days": outcome["days"], "frame": frame, "panels": panels}


def _hover(
    series: dict[str, Any],
    columns: dict[str, list[float]],
    colours: dict[str, str],
    capacity: list[float] | None,
) -> dict[str, Any]:
    lines = [
        {"name": n, "colour": f"var({colours.get(n, '--starting')})", "values": _whole(columns[n])}
        for n in (*(c for c in colours if c in columns), *(c for c in columns if c not in colours))
    ]
    if capacity is not None:
        lines.append({"name": "capacity", "colour": "var(--ink)", "values": _whole(capacity)})
    return {"at_h": series["at_h"], "series": lines}


def _whole(values: list[float]) -> list[int]:
    return [round(value) for value in values]
