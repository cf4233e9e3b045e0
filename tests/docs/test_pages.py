"""The pages: links lead somewhere, commands parse, examples are the files they show."""

import re
import shlex
from pathlib import Path

import click
import pytest
from tools.examples import BLOCK, ROOT, pages, renewed, shown

from headgate.cli.main import headgate

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if re.match(r"https?:|mailto:", link):
            continue
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), link
        if anchor:
            assert anchor in anchors(goal), link


def commands(page: Path) -> list[str]:
    """Every `headgate ...` line of a page's shell blocks."""
    blocks = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", page.read_text(encoding="utf-8"))
    text = "\n".join(blocks).replace("\\\n", " ")
    found = re.findall(r"(?m)(?:^|run |&& )\s*headgate +([a-z][^\n&|#>]*)", text)
    return [" ".join(command.split()) for command in found]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_on_a_page_is_one_that_parses(page):
    for command in commands(page):
        found: click.Command = headgate
        words = shlex.split(command)
        while words and isinstance(found, click.Group):
            inner = found.get_command(click.Context(found), words[0])
            assert inner is not None, command
            found, words = inner, words[1:]
        found.make_context("headgate", words)


def test_pages_do_hold_commands_to_parse():
    assert sum(len(commands(page)) for page in PAGES) >= 8


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_shown_file_is_the_file(page):
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["verb"] == "shows":
            assert block["body"] == shown(block["what"]), "run: uv run python tools/examples.py"


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_command_prints_what_its_page_says_but_for_the_figures(page):
    """Figures are those of the day the page was written; words, lines and columns must be alike."""

    def words(text: str) -> list[str]:
        return [re.sub(r"[0-9][0-9.,e-]*|[ ━─]+", " ", line) for line in text.splitlines()]

    written = page.read_text(encoding="utf-8")
    assert words(written) == words(renewed(page, {"prints"})), (
        "run: uv run python tools/examples.py"
    )


def test_every_page_is_on_the_index():
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    missing = {page for page in (ROOT / "docs").rglob("*.md") if page not in listed} - {index}
    assert not missing


def test_structure_names_every_room_and_only_files_that_exist():
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "headgate"
    for room in source.iterdir():
        if room.is_dir() and not room.name.startswith("__"):
            assert f"`{room.name}/`" in text, room.name
    for path in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text):
        assert (source / path).is_file(), path
