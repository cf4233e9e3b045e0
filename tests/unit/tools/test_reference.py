"""The reference pages say what the code says."""

import json
import re
import subprocess
import sys

import pytest
from tools.reference.pages import FOLDER, PAGES

from headgate.core import facts
from headgate.core.rules import MEANINGS, NAMES, STANDING


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Made by a process of their own: click keeps a command's help option from its first call, and
    tests call commands without the group that gives them -h."""
    make = "import json; from tools.reference.pages import PAGES; "
    made = subprocess.run(
        [sys.executable, "-c", make + "print(json.dumps({n: PAGES[n]() for n in PAGES}))"],
        check=True, capture_output=True, text=True, cwd=FOLDER.parents[1],
    )  # fmt: skip
    return json.loads(made.stdout)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_reference_page_is_the_code_as_it_stands(name, pages):
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == pages[name], "run: uv run python -m tools.reference"


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
