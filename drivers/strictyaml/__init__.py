"""YAML text → frozen structs, with all errors at once, each with file, line and column.

Owns: the way from bytes to structs (`text` reads the text, `tree` its YAML, `walk` follows the types,
`annotations` takes them apart, `scalar` reads the scalars).
Promises: a value comes back only when nothing was wrong;
what could be read in spite of errors (`Parsed.mended`) is good enough for cross-checks to go on. A scalar means what
its field's type says, so YAML 1.1's surprises (`no`, 1_000, 010, 12:30, dates) cannot happen.
Never: executes anything, follows aliases, guesses a type from the text, repeats a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path as File
from typing import TypeVar

from msgspec import inspect

from drivers.strictyaml.parsed import Parsed, Variant
from drivers.strictyaml.scalar import HOLE, nearest
from drivers.strictyaml.text import MAX_BYTES, Path, Problem, dotted
from drivers.strictyaml.tree import compose
from drivers.strictyaml.walk import PROBLEMS_MAX, Enough, Walk

__all__ = ["Parsed", "Path", "Problem", "Problems", "Variant", "dotted", "load", "nearest", "parse", "read"]

T = TypeVar("T")


class Problems(ValueError):  # noqa: N818 - it is what it holds
    """All that is wrong with a file, sorted by line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems))
        super().__init__("\n".join(map(str, self.problems)))


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
    parsed.root = root
    walk = Walk(parsed, source, variants or {})
    try:
        for line, column, message in complaints:
            walk.complain((), line, column, message)
        if root is not None:
            value = walk.value(root, inspect.type_info(into), ())
            parsed.mended = None if value is HOLE else value
        elif not complaints:
            walk.complain((), 0, 0, "the file is empty")
    except Enough:
        last = max(parsed.problems)
        parsed.problems.append(Problem(file, last.line, last.column, "", f"more than {PROBLEMS_MAX} problems: the rest "
                                       "of the file was not looked at"))
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
