"""What the sections of the benchmark share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import Sizes

CONTESTANTS = "benchmarks.contestants"


@dataclass(frozen=True)
class Bench:
    """What the sections share.

    Attributes:
        root: Where data and results lie.
        sizes: How much is measured.
        repeats: How often each contestant runs; the quickest counts.
        is_quick: Whether this only shows that everything works.
    """

    root: Path
    sizes: Sizes
    repeats: int
    is_quick: bool

    def path(self, name: str, write: Callable[[Path], None]) -> str:
        """Return the name of a data file, written if it is not there."""
        path = self.root / name
        if not path.exists():
            write(path)
        return name

    def folder(self, name: str) -> Path:
        """Return a folder, made if it is not there."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        return folder
