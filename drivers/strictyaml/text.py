"""Bytes of a YAML file → a tree of nodes that remember where they stand, and what is wrong with the text itself.

Owns: encodings, full-width marks, tabs, syntax, duplicate keys, and the YAML features that are refused (aliases,
tags, merge keys, several documents). Promises: bounded time and depth for any input; every complaint with line and
column; a text that looks like a secret is never repeated. Never: gives a scalar a type (`strictyaml` does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import yaml
from msgspec import Struct

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_SLOW_CHARACTERS = 100_000   # the Python parser takes about a second for this many
Path = tuple[str | int, ...]


class Problem(Struct, frozen=True, order=True):
    """One thing wrong, ordered by where it is. `line` and `column` count from 1; ``str()`` is the whole message."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return where + (f"{self.path}: {self.message}" if self.path else self.message)


def dotted(path: Path) -> str:
    """Write a path as people do: ``objects[0].points[1].poll_s``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


@dataclass(slots=True)
class Node:
    """A piece of the file. Lines and columns count from 0, as in PyYAML's marks; the end is exclusive."""

    kind: Literal["scalar", "map", "list", "refused"]
    line: int
    column: int
    end_line: int = 0
    end_column: int = 0
    text: str = ""
    plain: bool = False
    pairs: list[tuple[Node, Node]] = field(default_factory=list)
    items: list[Node] = field(default_factory=list)


Complaint = tuple[int, int, str]
"""Line and column from 0, message."""

# U+FF01..FF5E are the full-width twins of ASCII; the others are what Chinese and Office keyboards put in their place.
_TWINS = {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)} | {
    "\u3000": " ", "\u00a0": " ", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "。": ".", "、": ",", "【": "[",
    "】": "]", "「": '"', "」": '"', "『": '"', "』": '"', "《": "<", "》": ">", "—": "-", "–": "-", "−": "-",
    "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": ""}
_WIDE = re.compile(f"[{re.escape(''.join(_TWINS))}]+")
_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")
_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
_SECRET = re.compile(r"pass|pwd|secret|token|credential|api_?key|密码|口令", re.IGNORECASE)
# what YAML 1.1 allows in a stream (YAML 1.1 §5.1)
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ALIAS = "an alias (*name) is not used here: write the value out, or quote text that begins with *"
_ANCHOR = "an anchor (&name) is not used here: remove it, or quote text that begins with &"
_TAG = "a tag (!name) is not used here: remove it, or quote text that begins with !"
# places where a full-width mark can only have been meant as YAML punctuation
_SUSPECT = re.compile(
    r"(?:^|[\s{\[,，｛【])[A-Za-z][A-Za-z0-9_]*(：)"          # key：value
    r"|(，)(?=\s*[a-z][a-z0-9_]*\s*[:：])"                    # x，key: value
    r"|(?<=[0-9\]}])(，)"                                     # [1，2]
    r"|(?:[:,\[]\s+|\[|^\s*-\s+)([“”‘’【［｛「])"             # key: “text”
    r"|(?:^|\s)(＃)"                                          # ＃ comment
    r"|^\s*([－—–])\s"                                        # － item
    r"|^[ \u3000]*?(\u3000+)"                                 # indentation
    r"|(?:[:,]|^\s*-)(\u3000+)"                               # key:　value
    r"|([”’】］｝」])(?=\s*(?:[,，}\]]|$))")


def show(text: str, limit: int = 40) -> str:
    """Quote a piece of the file for a message: shortened, and without anything that could be a secret."""
    text = " ".join(text.split())
    if _SECRET.search(text) or re.search(r"\S:\S*@|://[^/]*@", text):
        return "(text not shown)"
    return repr(text if len(text) <= limit else text[:limit - 1] + "…")


def is_secret(key: str) -> bool:
    """Whether a key looks as if its value were a secret itself (not the name of a file or variable holding one)."""
    return bool(_SECRET.search(key)) and not key.endswith(("_file", "_env"))


def _wide_message(marks: str, text: bool = False) -> str:
    ascii_marks = "".join(_TWINS[c] for c in marks)
    codes = " ".join(f"U+{ord(c):04X}" for c in marks[:4]) + (" …" if len(marks) > 4 else "")
    if not ascii_marks:
        return f"invisible character {codes}: delete it"
    typed = f"'{ascii_marks}'" if ascii_marks.strip() else "ordinary spaces"
    found = f"full-width '{marks}'" if marks.strip() else "full-width space"
    return f"{found} ({codes}): type {typed}" + ", or put the whole text in double quotes" * text


class Source:
    """The decoded text, and the complaints that need it. Lines and columns count from 0."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = _BREAK.split(text)

    def region(self, node: Node) -> Iterator[tuple[int, int, str]]:
        """Yield (line, column, text) of the lines a node covers."""
        for n in range(node.line, min(node.end_line, len(self.lines) - 1) + 1):
            start = node.column if n == node.line else 0
            end = node.end_column if n == node.end_line else None
            yield n, start, self.lines[n][start:end]

    def wide(self, node: Node, text: bool = False) -> list[Complaint]:
        """Name every full-width mark in a node; `text`: it could be meant, if it stood in quotes."""
        return [(n, start + m.start(), _wide_message(m.group(), text))
                for n, start, part in self.region(node) for m in _WIDE.finditer(part)]

    def wide_in_text(self, node: Node) -> list[Complaint]:
        """Name full-width marks in unquoted free text that were meant as YAML, or that stand without any Chinese."""
        if not node.plain or not _WIDE.search(node.text):
            return []
        if not _HAN.search(node.text):
            return self.wide(node, text=True)
        found = []
        for n, start, part in self.region(node):
            # the two characters before let `key: “` be recognised as the start of a value
            lead = self.lines[n][max(0, start - 2):start] if n == node.line else ""
            found += [c for c in _suspects(n, lead + part, start - len(lead), text=True) if c[1] >= start]
        return found

    def syntax(self, upto: int) -> list[Complaint]:
        """What is probably behind a syntax error at line `upto`: full-width marks and tabs up to there."""
        found: list[Complaint] = []
        for n, line in enumerate(self.lines[:upto + 1]):
            found += _suspects(n, _bare(line), 0, text=False)
            found += _tabs(n, line)
        return found

    def tabs(self) -> list[Complaint]:
        """Tabs used as white space of the structure."""
        return [c for n, line in enumerate(self.lines) if "\t" in line for c in _tabs(n, line)]


def _suspects(n: int, line: str, column: int, text: bool) -> list[Complaint]:
    found = [(m.start(m.lastindex or 0), m.group(m.lastindex or 0)) for m in _SUSPECT.finditer(line)]
    if not any(mark in "“‘【［｛「" for _, mark in found):
        found = [(at, mark) for at, mark in found if mark not in "”’】］｝」"]
    return [(n, column + at, _wide_message(mark, text)) for at, mark in found]


def _tabs(n: int, line: str) -> list[Complaint]:
    m = re.match(r"^[ ]*(\t)", line) or re.search(r"(?:[:,\[{]|^\s*-)[ ]*(\t)", _bare(line))
    if not m or not line.strip() or line.lstrip().startswith("#"):
        return []
    return [(n, m.start(1), "tab character: indent and separate with spaces")]


def _bare(line: str) -> str:
    """Blank out quoted text and the comment, keeping columns."""
    # An escaped quote outside a quoted text begins none: without the first branch a line of them takes quadratic time.
    return re.sub(r'\\.|"(?:[^"\\]|\\.)*"|\'[^\']*\'|(?:^|(?<=\s))#.*',
                  lambda m: m.group() if m.group()[0] == "\\" else "x" * len(m.group()), line)


def decode(data: bytes) -> tuple[str, list[Complaint]]:
    """Return the text as it was meant, and what is wrong with its encoding."""
    for mark, codec in ((b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
                        (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            message = f"saved as {codec.upper()} ('Unicode' in Windows): save the file as UTF-8 without BOM"
            return data.decode(codec, errors="replace"), [(0, 0, message)]
    if len(data) > 3 and (data[1::2].count(0) > len(data) // 4 or data[::2].count(0) > len(data) // 4):
        codec = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
        return data.decode(codec, errors="replace"), [(0, 0, "saved as UTF-16: save the file as UTF-8 without BOM")]
    found: list[Complaint] = []
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        found.append((0, 0, "starts with a byte order mark (BOM): save the file as UTF-8 without BOM"))
    try:
        return data.decode(), found
    except UnicodeDecodeError as error:
        before = _BREAK.split(data[:error.start].decode())
        line, column, byte = len(before) - 1, len(before[-1]), data[error.start]
    try:
        text = data.decode("gb18030")
        good = bool(_HAN.search(text))
    except UnicodeDecodeError:
        good = False
    if not good:
        message = f"byte 0x{byte:02x} is not UTF-8: save the file as UTF-8"
        return data.decode(errors="replace"), [*found, (line, column, message)]
    shown = "".join(_BREAK.split(text)[line:line + 1]).strip()
    shown = "(line not shown)" if _SECRET.search(shown) else f"this line reads: {shown[:80]}"
    return text, [*found, (line, column, f"saved as GBK: save the file as UTF-8; {shown}")]


def compose(data: bytes) -> tuple[Node | None, Source, list[Complaint]]:
    """Read one YAML document into nodes. Returns the root (None when there is none to speak of) and the complaints."""
    if len(data) > MAX_BYTES:
        return None, Source(""), [(0, 0, f"{len(data)} bytes: a configuration has at most {MAX_BYTES}")]
    text, found = decode(data)
    source = Source(text)
    if controls := list(_CONTROL.finditer(text))[:5]:
        for m in controls:
            before = _BREAK.split(text[:m.start()])
            found.append((len(before) - 1, len(before[-1]), f"control character U+{ord(m.group()):04X}: delete it"))
        return None, source, found
    complaints: list[Complaint] = []
    try:
        try:
            root = _tree(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader), complaints)
        except yaml.YAMLError:
            if len(text) > _SLOW_CHARACTERS:
                raise
            # libyaml words its errors differently from version to version: let the Python parser say it
            complaints.clear()
            root = _tree(text, yaml.SafeLoader, complaints)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        line = min(line, len(source.lines) - 1)
        causes = source.syntax(line)
        said = ": ".join(part for part in (error.context, error.problem) if part)
        around = source.lines[max(0, line - 1):line + 1]
        if any(_SECRET.search(part) for part in around):
            said = "(text not shown)"
        elif error.context_mark and error.context_mark.line != line:
            said += f" (begun on line {error.context_mark.line + 1})"
        note = ", probably because of the characters named here" if causes else ""
        return None, source, [*found, *causes, (line, column, f"not readable as YAML{note}: {said}")]
    return root, source, [*found, *source.tabs(), *complaints]


def _tree(text: str, loader: type, found: list[Complaint]) -> Node | None:
    """Build nodes from parser events, without recursion, so that no nesting can hurt."""
    root: Node | None = None
    stack: list[tuple[Node, list[Node]]] = []
    documents = 0
    for event in yaml.parse(text, Loader=loader):
        start, end = event.start_mark, event.end_mark
        assert start is not None
        assert end is not None
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                found.append((start.line, start.column, "a second document ('---') begins here: one file holds one"))
                break
            continue
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            node, children = stack.pop()
            node.end_line, node.end_column = end.line, end.column
            if node.kind == "map":
                node.pairs = list(zip(children[::2], children[1::2], strict=True))
                _check_keys(node, found)
            else:
                node.items = children
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        node = Node("scalar", start.line, start.column, end.line, end.column)
        if isinstance(event, yaml.AliasEvent):
            node.kind = "refused"
            found.append((start.line, start.column, _ALIAS))
        elif event.anchor is not None:
            found.append((start.line, start.column, _ANCHOR))
        if getattr(event, "tag", None):
            node.kind = "refused"
            found.append((start.line, start.column, _TAG))
        if stack:
            stack[-1][1].append(node)
        else:
            root = node
        if isinstance(event, yaml.ScalarEvent):
            node.text, node.plain = event.value, not event.style
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(stack) == MAX_DEPTH:
                found.append((start.line, start.column, f"nested deeper than {MAX_DEPTH} levels"))
                return None
            if node.kind == "scalar":
                node.kind = "map" if isinstance(event, yaml.MappingStartEvent) else "list"
            stack.append((node, []))
    return root


def _check_keys(node: Node, found: list[Complaint]) -> None:
    """Refuse keys that are no plain words, merge keys, and the second of two equal keys (the first one counts)."""
    first: dict[str, Node] = {}
    kept = []
    for key, value in node.pairs:
        if key.kind != "scalar":
            found.append((key.line, key.column, "a key must be a word"))
        elif key.text == "<<" and key.plain:
            found.append((key.line, key.column, "merge keys (<<) are not used here: write the keys out"))
        elif key.text in first:
            message = f"duplicate key {show(key.text)}: already given on line {first[key.text].line + 1}; keep one"
            found.append((key.line, key.column, message))
        else:
            first[key.text] = key
            kept.append((key, value))
    node.pairs = kept
