"""Keep the examples of the pages true: `uv run python tools/examples.py [--all]`.

A comment before a fenced block says where the block comes from:

    <!-- shows PATH -->                  a file of this repository
    <!-- shows PATH from START to END --> its lines from the one that is START to before END
    <!-- prints COMMAND -->              what a command prints, run in the order of the page
    <!-- printed COMMAND -->             the same, of a command that is run with --all alone
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?P<head><!-- (?P<verb>shows|prints|printed) (?P<what>.*?) -->\n\n```\w*\n)"
    r"(?P<body>.*?)(?P<tail>```\n)",
    re.DOTALL,
)
WIDTH = "88"


def pages() -> list[Path]:
    """Every page that has a block of these."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return [page for page in found if BLOCK.search(page.read_text(encoding="utf-8"))]


def shown(what: str) -> str:
    """The file, or the part of it, that a block shows."""
    path, _, part = what.partition(" from ")
    text = (ROOT / path).read_text(encoding="utf-8")
    if not part:
        return text
    start, end = part.split(" to ")
    lines = text.splitlines()
    first = lines.index(start)
    last = lines.index(end, first)
    return "\n".join(lines[first:last]).rstrip() + "\n"


def printed(command: str, folder: Path) -> str:
    """What a command prints, with `folder` as the place it writes to."""
    ran = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=folder,
        env=os.environ | {"COLUMNS": WIDTH, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )
    lines = [line.rstrip() for line in ran.stdout.splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def renewed(page: Path, verbs: set[str]) -> str:
    """The page's text with the blocks of those verbs made again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "docs").symlink_to(ROOT / "docs")

        def block(match: re.Match[str]) -> str:
            if match["verb"] not in verbs:
                return match[0]
            make = shown(match["what"]) if match["verb"] == "shows" else None
            body = printed(match["what"], folder) if make is None else make
            return match["head"] + body + match["tail"]

        return BLOCK.sub(block, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    wanted = {"shows", "prints"} | ({"printed"} if "--all" in sys.argv else set())
    for page in pages():
        page.write_text(renewed(page, wanted), encoding="utf-8")
        print(page)
