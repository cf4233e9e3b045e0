"""Draw docs/images/pool-day.png from a result: `uv run python tools/picture.py RESULT.json`.

RESULT.json is what `headgate simulate --json RESULT.json` wrote. The picture is the head of the
report and the use of the fleet, drawn by Chromium, which must be on the path.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from headgate.sim.report import page

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "pool-day.png"
WIDTH, HEIGHT = 1200, 1186
ONLY = (
    "<style>section:not(#head, #use), nav { display: none; } main { padding: 26px 30px; }</style>"
)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1.25",
]


def draw(result: Path) -> None:
    """Write the picture of one comparison."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("tools/picture.py needs chromium on the path; install it.")
    html = page(json.loads(result.read_text(encoding="utf-8"))).replace("</head>", f"{ONLY}</head>")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.html"
        report.write_text(html, encoding="utf-8")
        command = [
            browser, *QUIET, f"--user-data-dir={folder}/profile", f"--screenshot={PICTURE}",
            f"--window-size={WIDTH},{HEIGHT}", report.as_uri(),
        ]  # fmt: skip
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    print(PICTURE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: uv run python tools/picture.py RESULT.json")
    draw(Path(sys.argv[1]))
