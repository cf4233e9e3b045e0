"""The answers of a batch as they come, in two files that survive a crash.

Each answer is one line, written whole before it counts as given; a torn last line is cut off
when the batch is taken up again, and its request is sent again.
"""

import os
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal["output", "error"]


class _Done(msgspec.Struct):
    custom_id: str


class Journal:
    """The output and error lines of one batch."""

    def __init__(self, output: Path, error: Path) -> None:
        """Open, or take up again, the files of a batch. Reads them: not for the event loop."""
        self._paths: dict[Kind, Path] = {"output": output, "error": error}
        self.done: dict[Kind, set[str]] = {
            kind: _recover(path) for kind, path in self._paths.items()
        }
        self._files = {
            kind: os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            for kind, path in self._paths.items()
        }

    def __contains__(self, custom_id: str) -> bool:
        return any(custom_id in done for done in self.done.values())

    def __len__(self) -> int:
        return sum(len(done) for done in self.done.values())

    def add(self, kind: Kind, custom_id: str, line: bytes) -> None:
        """Write an answer; it outlives this process from here on."""
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[os.write(self._files[kind], rest) :]
        self.done[kind].add(custom_id)

    def sync(self) -> None:
        """Returns when what was written outlives the machine. Blocks."""
        for file in self._files.values():
            os.fdatasync(file)

    def size(self, kind: Kind) -> int:
        return os.fstat(self._files[kind]).st_size

    def close(self) -> None:
        """Close the files; one that nothing was written to goes."""
        for kind, file in self._files.items():
            if not self.size(kind):
                self._paths[kind].unlink(missing_ok=True)
            os.close(file)


def _recover(path: Path) -> set[str]:
    """The custom ids of a file's whole lines; what follows them is cut off."""
    done: set[str] = set()
    decoder = msgspec.json.Decoder(_Done)
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return done
    with file:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                done.add(decoder.decode(line).custom_id)
            except msgspec.MsgspecError:
                break
            end += len(line)
        file.truncate(end)
    return done
