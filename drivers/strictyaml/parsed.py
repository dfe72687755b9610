"""What became of a file: its struct, its problems, and where in the text everything stands.

Owns: Parsed, Variant. Promises: every path leads to a line, also a path to something that is missing.
Never: reads text, decides what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from drivers.strictyaml.text import Path, Problem, dotted
from drivers.strictyaml.tree import Node

T = TypeVar("T")
Item = TypeVar("Item")


class Variant(msgspec.Struct, frozen=True):
    """How a scalar picks the concrete struct: `key` holds a name, `lookup` turns it into a subclass of the base.

    `lookup` raises `drivers.SetupError` for a name it does not know; `names` lists those it does.
    """

    key: str
    lookup: Callable[[str], type]
    names: Callable[[], Iterable[str]]


class Parsed(Generic[T]):
    """What became of a file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.value: T | None = None
        """The struct; None as soon as anything is wrong."""
        self.mended: T | None = None
        """The struct with what could be read: bad items of lists left out, stand-ins at the paths in `tainted`."""
        self.problems: list[Problem] = []
        self.tainted: set[Path] = set()
        """Paths whose value is missing, out of bounds or a stand-in: nothing may be concluded from them."""
        self.root: Node | None = None
        """The file itself, for the places of what is in it."""
        self.kept: dict[Path, list[int]] = {}
        """Lists that lost items in `mended`: the numbers, in the file, of those that stayed."""

    def mark(self, path: Path) -> tuple[int, int]:
        """Line and column (from 1) of the value at `path`, or of the nearest thing around it that is in the file."""
        if self.root is None:
            return 1, 1
        line, column, _ = self.root.tree.nearest(path)
        return line + 1, column + 1

    def line(self, path: Path) -> int:
        """Line (from 1) of the value at `path`, or of the nearest thing around it that is in the file."""
        return self.mark(path)[0]

    def problem(self, path: Path, message: str) -> Problem:
        """Make a Problem about the value at `path`."""
        return Problem(self.file, *self.mark(path), dotted(path), message)

    def numbered(self, path: Path, items: Sequence[Item]) -> list[tuple[Path, Item]]:
        """Pair the items of a mended list with their paths in the file, where left-out items still count."""
        return [((*path, n), item) for n, item in zip(self.kept.get(path, range(len(items))), items, strict=True)]

    def given(self, path: Path) -> bool:
        """Whether the file has something at `path` (and no default took its place)."""
        return self.root is not None and self.root.tree.nearest(path)[2]

    def sound(self, path: Path) -> bool:
        """Whether nothing at or below `path` is tainted."""
        return not any(t[:len(path)] == path for t in self.tainted)
