"""YAML text → frozen structs, with all errors at once, each with file, line and column.

Owns: the way from bytes to structs (`yamltext` reads the text, `yamlwalk` follows the types, `yamlscalar` the scalars).
Promises: a value comes back only when nothing was wrong;
what could be read in spite of errors (`Parsed.mended`) is good enough for cross-checks to go on. A scalar means what
its field's type says, so YAML 1.1's surprises (`no`, 1_000, 010, 12:30, dates) cannot happen.
Never: executes anything, follows aliases, guesses a type from the text, repeats a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path as File
from typing import Generic, TypeVar

import msgspec
from msgspec import inspect

from drivers.yamlscalar import HOLE, nearest
from drivers.yamltext import MAX_BYTES, Path, Problem, compose, dotted
from drivers.yamlwalk import Walk

__all__ = ["Parsed", "Path", "Problem", "Problems", "Variant", "dotted", "load", "nearest", "parse", "read"]

T = TypeVar("T")
Item = TypeVar("Item")


class Problems(ValueError):  # noqa: N818 - it is what it holds
    """All that is wrong with a file, sorted by line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems))
        super().__init__("\n".join(map(str, self.problems)))


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
        self.marks: dict[Path, tuple[int, int]] = {(): (0, 0)}
        """Line and column, from 0, of every value in the file."""
        self.kept: dict[Path, list[int]] = {}
        """Lists that lost items in `mended`: the numbers, in the file, of those that stayed."""

    def mark(self, path: Path) -> tuple[int, int]:
        """Line and column (from 1) of the value at `path`, or of the nearest thing around it that is in the file."""
        while path not in self.marks:
            path = path[:-1]
        line, column = self.marks[path]
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
        return path in self.marks

    def sound(self, path: Path) -> bool:
        """Whether nothing at or below `path` is tainted."""
        return not any(t[:len(path)] == path for t in self.tainted)


def parse(data: bytes, file: str, into: type[T], variants: Mapping[type, Variant] | None = None) -> Parsed[T]:
    """Read one YAML document into a struct type.

    Args:
        data: the bytes of the file, at most 1 MiB.
        file: what messages call it.
        into: a msgspec Struct type (or any type built from them).
        variants: struct type → how a key picks the subclass to use.
    """
    root, source, complaints = compose(data)
    parsed: Parsed[T] = Parsed(file)
    walk = Walk(parsed, source, variants or {})
    for line, column, message in complaints:
        walk.complain((), line, column, message)
    if root is not None:
        kind = inspect.type_info(into)
        value = walk.value(root, kind, ())
        parsed.mended = None if value is HOLE else value
    elif not complaints:
        walk.complain((), 0, 0, "the file is empty")
    parsed.problems = sorted(set(parsed.problems))
    if not parsed.problems:
        parsed.value = parsed.mended
    return parsed


def load(path: File, into: type[T], variants: Mapping[type, Variant] | None = None) -> T:
    """Read a file into a struct, or raise `Problems` (also when it cannot be read)."""
    parsed = parse(read(path), str(path), into, variants)
    if parsed.value is None:
        raise Problems(parsed.problems)
    return parsed.value


def read(path: File) -> bytes:
    """Return the bytes of a file, never much more than a configuration may have; raises `Problems`."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Problems([Problem(str(path), 1, 1, "", f"cannot be read: {error.strerror}")]) from None
