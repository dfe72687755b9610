"""Text → a tree of nodes that remember where they stand, and the YAML features that are refused.

Owns: the nodes of one file, syntax, duplicate keys, aliases, anchors, tags, merge keys, several documents.
Promises: bounded time and depth for any input; about thirty bytes a node, so that the configuration of ten thousand
points is read in little memory; every path leads to the place of the nearest thing in the file.
Never: gives a scalar a type (`walk` does), executes anything.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Literal

import yaml

from drivers.strictyaml.text import BREAK, CONTROL, MAX_BYTES, SECRET, Complaint, Path, Source, decode, show

MAX_DEPTH = 32
_SLOW_CHARACTERS = 100_000   # the Python parser takes about a second for this many
_ALIAS = "an alias (*name) is not used here: write the value out, or quote text that begins with *"
_ANCHOR = "an anchor (&name) is not used here: remove it, or quote text that begins with &"
_TAG = "a tag (!name) is not used here: remove it, or quote text that begins with !"
_SECOND = "a second document ('---') begins here: one file holds one"

Kind = Literal["scalar", "map", "list", "refused"]
_PLAIN, _QUOTED, _MAP, _LIST, _REFUSED, _LEFT_OUT = range(6)
_KINDS: tuple[Kind, ...] = ("scalar", "scalar", "map", "list", "refused", "refused")
_CODES: dict[type[yaml.Event], int] = {
    yaml.MappingStartEvent: _MAP, yaml.SequenceStartEvent: _LIST, yaml.AliasEvent: _REFUSED}


class Tree:
    """All nodes in the order of the text: a collection, then what is in it (a mapping: key, value, key, value …)."""

    def __init__(self) -> None:
        self.codes = bytearray()
        self.places = array("I")
        """Four for each node: line, column, line and column of the end."""
        self.after = array("I")
        """Number of the node after this one and all that is in it."""
        self.texts: list[str] = []
        self._known: dict[str, str] = {}
        self._children: dict[int, array[int]] = {}

    def add(self, code: int, place: tuple[int, int, int, int], text: str) -> int:
        """Append a node without content; returns its number."""
        at = len(self.codes)
        self.codes.append(code)
        self.places.extend(place)
        self.after.append(at + 1)
        self.texts.append(self._known.setdefault(text, text))
        return at

    def close(self, at: int, line: int, column: int) -> None:
        """All nodes added since belong to collection `at`, which ends here."""
        self.places[4 * at + 2], self.places[4 * at + 3] = line, column
        self.after[at] = len(self.codes)

    def inside(self, at: int) -> array[int]:
        """Numbers of the nodes directly in a collection, in order."""
        found, n = array("I"), at + 1
        while n < self.after[at]:
            found.append(n)
            n = self.after[n]
        return found

    def _step(self, at: int, step: str | int) -> int | None:
        """The value one step of a path further."""
        if self.codes[at] not in (_MAP, _LIST):
            return None
        children = self._children.get(at)
        if children is None:
            children = self._children[at] = self.inside(at)
        if isinstance(step, int):
            return children[step] if self.codes[at] == _LIST and step < len(children) else None
        if self.codes[at] == _MAP:
            for n in range(0, len(children), 2):
                if self.codes[children[n]] != _LEFT_OUT and self.texts[children[n]] == step:
                    return children[n + 1]
        return None

    def nearest(self, path: Path) -> tuple[int, int, bool]:
        """Line and column (from 0) of the value at `path`, or of the nearest thing around it; and whether it is it."""
        at = 0
        for step in path:
            below = self._step(at, step)
            if below is None:
                return self.places[4 * at], self.places[4 * at + 1], False
            at = below
        return self.places[4 * at], self.places[4 * at + 1], True


class Node:
    """A view of one node. Lines and columns count from 0, as in PyYAML's marks; the end is exclusive."""

    __slots__ = ("_at", "column", "kind", "line", "plain", "text", "tree")

    def __init__(self, tree: Tree, at: int) -> None:
        self.tree, self._at = tree, at
        code = tree.codes[at]
        self.kind = _KINDS[code]
        self.plain = code == _PLAIN
        self.line, self.column = tree.places[4 * at], tree.places[4 * at + 1]
        self.text = tree.texts[at]

    @property
    def end(self) -> tuple[int, int]:
        """Line and column after its last character."""
        return self.tree.places[4 * self._at + 2], self.tree.places[4 * self._at + 3]

    def __len__(self) -> int:
        """Items of a list, or keys and values of a mapping."""
        return len(self.tree.inside(self._at))

    @property
    def items(self) -> Iterator[Node]:
        """What is in a list."""
        return (Node(self.tree, n) for n in self.tree.inside(self._at))

    @property
    def pairs(self) -> list[tuple[Node, Node]]:
        """Keys and values of a mapping, without those that were refused."""
        tree = self.tree
        inside = tree.inside(self._at)
        return [(Node(tree, key), Node(tree, value)) for key, value in zip(inside[::2], inside[1::2], strict=True)
                if tree.codes[key] != _LEFT_OUT]


def compose(data: bytes) -> tuple[Node | None, Source, list[Complaint]]:
    """Read one YAML document into nodes. Returns the root (None when there is none to speak of) and the complaints."""
    if len(data) > MAX_BYTES:
        return None, Source(""), [(0, 0, f"{len(data)} bytes: a configuration has at most {MAX_BYTES}")]
    text, found = decode(data)
    source = Source(text)
    if controls := list(CONTROL.finditer(text))[:5]:
        for m in controls:
            before = BREAK.split(text[:m.start()])
            found.append((len(before) - 1, len(before[-1]), f"control character U+{ord(m.group()):04X}: delete it"))
        return None, source, found
    complaints: list[Complaint] = []
    try:
        try:
            root = _build(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader), complaints)
        except yaml.YAMLError:
            if len(text) > _SLOW_CHARACTERS:
                raise
            # libyaml words its errors differently from version to version: let the Python parser say it
            complaints.clear()
            root = _build(text, yaml.SafeLoader, complaints)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        line = min(line, len(source.lines) - 1)
        causes = source.syntax(line)
        said = ": ".join(part for part in (error.context, error.problem) if part)
        around = source.lines[max(0, line - 1):line + 1]
        if any(SECRET.search(part) for part in around):
            said = "(text not shown)"
        elif error.context_mark and error.context_mark.line != line:
            said += f" (begun on line {error.context_mark.line + 1})"
        note = ", probably because of the characters named here" if causes else ""
        return None, source, [*found, *causes, (line, column, f"not readable as YAML{note}: {said}")]
    return root, source, [*found, *source.tabs(), *complaints]


def _build(text: str, loader: type, found: list[Complaint]) -> Node | None:
    """Build the tree from parser events, without recursion, so that no nesting can hurt."""
    tree = Tree()
    stack: list[int] = []
    documents = 0
    for event in yaml.parse(text, Loader=loader):
        start, end = event.start_mark, event.end_mark
        assert start is not None
        assert end is not None
        if isinstance(event, yaml.ScalarEvent):
            code, word = _QUOTED if event.style else _PLAIN, event.value
        elif isinstance(event, yaml.CollectionEndEvent):
            at = stack.pop()
            tree.close(at, end.line, end.column)
            if tree.codes[at] == _MAP:
                _check_keys(tree, at, found)
            continue
        elif isinstance(event, yaml.NodeEvent):
            code, word = _CODES[type(event)], ""
        elif isinstance(event, yaml.DocumentStartEvent) and documents:
            found.append((start.line, start.column, _SECOND))
            break
        else:
            documents += isinstance(event, yaml.DocumentStartEvent)
            continue
        if code == _REFUSED:
            found.append((start.line, start.column, _ALIAS))
        elif event.anchor is not None:
            found.append((start.line, start.column, _ANCHOR))
        opens = code in (_MAP, _LIST)
        if getattr(event, "tag", None):
            code = _REFUSED
            found.append((start.line, start.column, _TAG))
        at = tree.add(code, (start.line, start.column, end.line, end.column), word)
        if opens:
            if len(stack) == MAX_DEPTH:
                found.append((start.line, start.column, f"nested deeper than {MAX_DEPTH} levels"))
                return None
            stack.append(at)
    return Node(tree, 0) if tree.codes else None


def _check_keys(tree: Tree, at: int, found: list[Complaint]) -> None:
    """Refuse keys that are no plain words, merge keys, and the second of two equal keys (the first one counts)."""
    first: dict[str, int] = {}
    for key in tree.inside(at)[::2]:
        line, column, text = tree.places[4 * key], tree.places[4 * key + 1], tree.texts[key]
        if tree.codes[key] not in (_PLAIN, _QUOTED):
            found.append((line, column, "a key must be a word"))
        elif text == "<<" and tree.codes[key] == _PLAIN:
            found.append((line, column, "merge keys (<<) are not used here: write the keys out"))
        elif text in first:
            message = f"duplicate key {show(text)}: already given on line {first[text] + 1}; keep one"
            found.append((line, column, message))
        else:
            first[text] = line
            continue
        tree.codes[key] = _LEFT_OUT
