"""What a reader of the report must find, and what the page must never do."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.unit.sim.report.outcome import CLASSES, outcome, result

from headgate.core.rules import MEANINGS
from headgate.sim.report import page, write_report
from headgate.sim.report.books import ledger_lines
from headgate.sim.report.charts import Panel, nice
from headgate.sim.report.words import FIGURES, best_of

VOID = {"meta", "line", "polygon", "polyline", "br"}


class Balance(HTMLParser):
    """Fails on a tag that is closed by another's end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)


def parsed(text: str) -> Balance:
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def two() -> dict:
    return outcome(silos=result(4000.0, busy=0.8), headgate=result(5000.0))


def test_the_page_refers_to_nothing_outside_itself(two, tmp_path: Path):
    write_report(tmp_path / "report.html", two)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""https?:|//[a-z0-9-]+\.|\bsrc=|@import|url\(|<link|<iframe""", text)
    assert set(re.findall(r'href="(.)', text)) == {"#"}


def test_every_tag_is_closed_and_every_link_leads_somewhere(two):
    text = page(two)
    ids = parsed(text).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#(\w+)"', text)) <= set(ids)


def test_every_policy_figure_class_service_pool_and_note_appears(two):
    texts = " ".join(parsed(page(two)).texts)
    named = ["silos", "headgate", *CLASSES, "chat", "new", "B200", "gangs: every job twice."]
    for word in (*named, *(figure.label for figure in FIGURES)):
        assert word in texts, word
    assert MEANINGS["patience-over"] in texts
    assert "assumption: for the test" in texts
    assert "list price of 2025" in texts


def test_the_lead_says_by_how_much_the_best_policy_leads(two):
    assert "headgate</b> did work worth 5 k$: 25.0% more than silos" in page(two)


def test_the_best_of_a_line_is_marked_and_a_tie_of_all_is_not(two):
    results = two["policies"]
    marked = {figure.label: best_of(figure, results) for figure in FIGURES}
    assert marked["Value, k$"] == {"headgate"}
    assert marked["Work lost"] == set()


def test_a_run_that_was_stopped_says_so_and_names_no_best():
    made = page(outcome(silos=result(4000.0), headgate=result(5000.0, partial=True)))
    assert "these figures are partial" in made
    assert "headgate 1.0 h" in made
    assert "class=best" not in made
    assert "more than" not in made.split("<h2>")[0]


def test_a_run_stopped_before_any_policy_began_still_makes_a_page():
    made = page(outcome())
    assert "No policy had begun" in made
    parsed(made)


def test_a_run_stopped_before_its_first_window_still_makes_a_page():
    empty = result(0.0, partial=True)
    empty["series"] = {"at_h": [], "capacity": [], "use": {}, "waiting_gpus": {}}
    parsed(page(outcome(silos=empty)))


def test_a_scenario_without_services_or_batch_has_no_such_sections():
    bare = result(1.0)
    bare["services"], bare["batch"] = {}, dict(bare["batch"], orders=0)
    made = page(outcome(fifo=bare) | {"services": []})
    assert "<h2>Services" not in made
    assert "<h2>Batch" not in made


def test_hours_that_were_not_reached_are_dashes_and_not_zeros(two):
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page(two).split('class="hours"')[1])
    assert cells[:24] == ["80", "80", *["–"] * 22]


def test_names_are_text_and_never_markup():
    wicked = "</script><b onclick='x'>&\""
    told = outcome(**{wicked: result(1.0)}) | {"scenario": wicked, "notes": [wicked]}
    text = page(told)
    assert wicked not in text
    assert "<b onclick" not in text
    assert wicked in "".join(parsed(text).texts)
    data = re.search(r'id="hover">(.*?)</script>', text)
    assert data is not None
    assert len(json.loads(data[1])["panels"]) == 2


def test_the_ledger_on_the_page_adds_up_to_the_fleet():
    told = result(1.0)
    assert sum(ledger_lines(told).values()) == pytest.approx(told["ledger_gpu_hours"]["fleet"])


@pytest.mark.parametrize("top", [0.0, 0.3, 1.0, 7.0, 99.0, 640.0, 4288.0, 1e6])
def test_an_axis_has_a_readable_number_of_lines_and_reaches_the_top(top):
    panel = Panel(0, 1.0, top)
    assert panel.top >= top
    assert 1 <= top / nice(top) <= 6 or top == 0.0


def test_areas_are_stacked_in_the_order_given():
    svg = Panel(0, 1.0, 10.0).draw([6, 12], [("--a", [2.0, 2.0]), ("--b", [3.0, 3.0])], None, "x")
    first, second = re.findall(r'<polygon class="area" fill="var\((--.)\)" points="([^"]*)"', svg)
    assert (first[0], second[0]) == ("--b", "--a")  # the higher one is painted first
    panel = Panel(0, 1.0, 10.0)
    assert f",{panel.y(5.0):.1f}" in first[1]
    assert f",{panel.y(2.0):.1f}" in second[1]
