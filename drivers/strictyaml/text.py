"""Bytes of a file → text and its lines, and what is wrong with them before anybody asks what they mean.

Owns: encodings, full-width marks, tabs, secrets that must not be shown, and how a problem is worded with its place.
Promises: bounded time for any input; every complaint with line and column; a text that looks like a secret is never
repeated. Never: reads YAML (`tree` does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

MAX_BYTES = 1 << 20
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


class Piece(Protocol):
    """A piece of the file. Lines and columns count from 0; the end is exclusive."""

    line: int
    column: int
    text: str
    plain: bool

    @property
    def end(self) -> tuple[int, int]:
        """Line and column after its last character."""
        ...


Complaint = tuple[int, int, str]
"""Line and column from 0, message."""

# U+FF01..FF5E are the full-width twins of ASCII; the others are what Chinese and Office keyboards put in their place.
_TWINS = {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)} | {
    "\u3000": " ", "\u00a0": " ", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "。": ".", "、": ",", "【": "[",
    "】": "]", "「": '"', "」": '"', "『": '"', "』": '"', "《": "<", "》": ">", "—": "-", "–": "-", "−": "-",
    "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": ""}
_WIDE = re.compile(f"[{re.escape(''.join(_TWINS))}]+")
_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")
BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
SECRET = re.compile(r"pass|pwd|secret|token|credential|api_?key|密码|口令", re.IGNORECASE)
# what YAML 1.1 allows in a stream (YAML 1.1 §5.1)
CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
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
    if SECRET.search(text) or re.search(r"\S:\S*@|://[^/]*@", text):
        return "(text not shown)"
    return repr(text if len(text) <= limit else text[:limit - 1] + "…")


def is_secret(key: str) -> bool:
    """Whether a key looks as if its value were a secret itself (not the name of a file or variable holding one)."""
    return bool(SECRET.search(key)) and not key.endswith(("_file", "_env"))


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
        self.lines = BREAK.split(text)
        self._wide = frozenset(n for n, line in enumerate(self.lines) if _WIDE.search(line))
        """Lines with full-width marks; most files have few or none, and then no scalar has to be looked at."""

    def region(self, node: Piece) -> Iterator[tuple[int, int, str]]:
        """Yield (line, column, text) of the lines a node covers."""
        end_line, end_column = node.end
        for n in range(node.line, min(end_line, len(self.lines) - 1) + 1):
            start = node.column if n == node.line else 0
            yield n, start, self.lines[n][start:end_column if n == end_line else None]

    def wide(self, node: Piece, text: bool = False) -> list[Complaint]:
        """Name every full-width mark in a node; `text`: it could be meant, if it stood in quotes."""
        if not self._wide or self._wide.isdisjoint(range(node.line, node.end[0] + 1)):
            return []
        return [(n, start + m.start(), _wide_message(m.group(), text))
                for n, start, part in self.region(node) for m in _WIDE.finditer(part)]

    def wide_in_text(self, node: Piece) -> list[Complaint]:
        """Name full-width marks in unquoted free text that were meant as YAML, or that stand without any Chinese."""
        if not self._wide or not node.plain or not _WIDE.search(node.text):
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
        before = BREAK.split(data[:error.start].decode())
        line, column, byte = len(before) - 1, len(before[-1]), data[error.start]
    try:
        text = data.decode("gb18030")
        good = bool(_HAN.search(text))
    except UnicodeDecodeError:
        good = False
    if not good:
        message = f"byte 0x{byte:02x} is not UTF-8: save the file as UTF-8"
        return data.decode(errors="replace"), [*found, (line, column, message)]
    shown = "".join(BREAK.split(text)[line:line + 1]).strip()
    shown = "(line not shown)" if SECRET.search(shown) else f"this line reads: {shown[:80]}"
    return text, [*found, (line, column, f"saved as GBK: save the file as UTF-8; {shown}")]
