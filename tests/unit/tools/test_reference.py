"""The reference pages say what the code says."""

import re

import pytest
from tools.reference.pages import FOLDER, PAGES

from headgate.core import facts
from headgate.core.rules import MEANINGS, NAMES, STANDING


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_reference_page_is_the_code_as_it_stands(name):
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run: uv run python -m tools.reference"


def test_every_rule_has_a_meaning():
    assert {*NAMES.values(), STANDING} == set(MEANINGS)


def test_every_fact_and_wish_is_described():
    page = PAGES["facts-and-wishes.md"]()
    for kind in (*facts.Fact.__args__, *facts.Wish.__args__):
        assert f"\n### {kind.__name__}\n" in page


def test_every_link_on_a_page_leads_to_one_of_its_headings():
    for name in PAGES:
        page = PAGES[name]()
        headings = re.findall(r"(?m)^#+ (.*)$", page)
        anchors = {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in headings}
        assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors, name
