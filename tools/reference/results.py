"""The keys of a result, with what they mean; a test holds them to what a run writes.

results.txt beside this file has one line for each: key | unit | meaning; P stands for
policies.NAME.
"""

from pathlib import Path

LINES = (Path(__file__).parent / "results.txt").read_text(encoding="utf-8").splitlines()


def _key(line: str) -> tuple[str, str, str]:
    key, unit, meaning = (part.strip() for part in line.split("|"))
    return key.replace("P.", "policies.NAME.", 1) if key.startswith("P.") else key, unit, meaning


KEYS = tuple(_key(line) for line in LINES)
