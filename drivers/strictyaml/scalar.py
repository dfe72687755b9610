"""One scalar against one type: read it, hold it to its bounds, and say in words what was expected.

Owns: what a scalar may look like for each type, and the hints for scalars that are nearly right.
Promises: only the field's type decides; NaN and infinity are no settings. Never: knows files, paths or structs' fields.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import inspect
from msgspec.inspect import Type

from drivers.strictyaml.tree import Node

_LONG = 400   # characters; no number anybody writes is longer, and patterns with two repeats take quadratic time
HOLE: Any = object()
"""Nothing usable could be made of this node."""
NULLS = ("", "~", "null", "Null", "NULL")
SCALARS = (inspect.StrType, inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.LiteralType,
           inspect.EnumType)
LISTS = (inspect.VarTupleType, inspect.ListType, inspect.TupleType, inspect.SetType, inspect.FrozenSetType)
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z", re.ASCII)
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_BOOL_WORDS = {"yes": "true", "on": "true", "y": "true", "1": "true", "是": "true", "no": "false", "off": "false",
               "n": "false", "0": "false", "否": "false"}


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `word`, if any is."""
    names = {k.lower().replace("-", "_"): k for k in known}
    close = difflib.get_close_matches(word.lower().replace("-", "_"), names, 1, 0.6)
    return names[close[0]] if close else None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known name most like `word`, or nothing."""
    name = closest(word, known)
    return f"; did you mean {name!r}?" if name is not None else ""


def bare(kind: Type) -> Type:
    """Strip descriptions off a type."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def convert(node: Node, kind: Type) -> Any:
    """Read a scalar as one type, or return HOLE."""
    text = node.text
    match kind:
        case inspect.StrType():
            return text
        case inspect.LiteralType(values):
            return next((v for v in values if (text == v if isinstance(v, str) else node.plain and text == str(v))),
                        HOLE)
        case inspect.EnumType(cls):
            return next((e for e in cls if str(e.value) == text), HOLE)
    if not node.plain:
        return HOLE
    match kind:
        case inspect.BoolType():
            return _BOOLS.get(text, HOLE)
        case inspect.IntType() if len(text) <= 20 and _INT.match(text):
            return int(text, 16 if "x" in text else 10)
        case inspect.FloatType() if len(text) <= _LONG and _FLOAT.match(text) and math.isfinite(float(text)):
            return float(text)
    return HOLE


def bounds(value: Any, kind: Any) -> str:
    """Return what was expected of a value of the right type, or nothing when it is within bounds."""
    ok = True
    if isinstance(kind, (inspect.IntType, inspect.FloatType)):
        ok = ((kind.ge is None or value >= kind.ge) and (kind.gt is None or value > kind.gt)
              and (kind.le is None or value <= kind.le) and (kind.lt is None or value < kind.lt))
    elif isinstance(kind, inspect.StrType):
        ok = ((kind.min_length is None or len(value) >= kind.min_length)
              and (kind.max_length is None or len(value) <= kind.max_length)
              # $ would let a line end pass
              and (kind.pattern is None or (re.search(kind.pattern, value) is not None and "\n" not in value)))
    return "" if ok else expected([kind])


def expected(kinds: Sequence[Any]) -> str:
    """Say in words what a field takes."""
    return " or ".join(dict.fromkeys(_expected_one(bare(k)) for k in kinds))


def _expected_one(kind: Any) -> str:
    match kind:
        case inspect.IntType() | inspect.FloatType():
            word = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            limits = (("≥", kind.ge), (">", kind.gt), ("≤", kind.le), ("<", kind.lt))
            return f"{word} {' and '.join(f'{sign} {limit}' for sign, limit in limits if limit is not None)}".rstrip()
        case inspect.StrType():
            if kind.pattern:
                most = f", at most {kind.max_length} characters" if kind.max_length else ""
                return _PATTERNS.get(kind.pattern, f"text of the form {kind.pattern}") + most
            if kind.max_length:
                return f"text of {kind.min_length or 0} to {kind.max_length} characters"
            return "text that is not empty" if kind.min_length else "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values):
            return "one of " + ", ".join(map(str, values)) if len(values) > 1 else str(values[0])
        case inspect.EnumType(cls):
            return "one of " + ", ".join(str(e.value) for e in cls)
        case inspect.StructType():
            return f"keys and values ({', '.join(f.encode_name for f in kind.fields)})"
        case inspect.DictType():
            return "keys and values"
        case inspect.UnionType(types):
            return expected([t for t in types if not isinstance(t, inspect.NoneType)])
    return "a list" if isinstance(kind, LISTS) else "a value"


_PATTERNS = {r"^[a-z0-9_-]+$": "lower-case letters, digits, - and _ (Chinese belongs in name)",
             r"^[a-z0-9_-]+\.[a-z0-9_-]+$": "device.point, both of lower-case letters, digits, - and _",
             r"^\d{4}-\d{2}-\d{2}$": "a date like 2026-05-01"}


def hint(node: Node, kind: Any) -> str:
    """Say what to do about a scalar that is nearly right."""
    text = node.text.strip()
    if isinstance(kind, inspect.LiteralType):
        return nearest(text, [str(v) for v in kind.values])
    if isinstance(kind, inspect.EnumType):
        return nearest(text, [str(e.value) for e in kind.cls])
    number = isinstance(kind, (inspect.IntType, inspect.FloatType))
    if len(text) > _LONG:
        return ""
    if not node.plain and (_FLOAT.match(text) if number else text in _BOOLS):
        return "; remove the quotes"
    if isinstance(kind, inspect.BoolType):
        word = _BOOL_WORDS.get(text.lower())
        return f"; did you mean {word}?" if word else ""
    if not number:
        return ""
    plain = text.lstrip("+-")
    if plain.lower().lstrip(".") in ("nan", "inf", "infinity"):
        return "; infinity and not-a-number are no settings"
    hints = ((r"[0-9][0-9_]*_[0-9_.]*\Z", "; write it without _"), (r"0[0-7]+\Z", "; write it without the leading 0"),
             (r"0[0-9]+\Z", "; write it without the leading 0"), (r"0[ob][0-9]+\Z", "; write it in decimal or as 0x…"),
             (r"[0-9]+(:[0-9]+)+\Z", "; write plain seconds or units, not h:m:s"),
             (r"[0-9]+(\.[0-9]+)?(e[0-9]+)?\Z", "; without a fraction" if isinstance(kind, inspect.IntType) else
              "; too large"),
             (r"[0-9]+,[0-9]+\Z", "; use a point for decimals"),
             (r"[0-9.]+ ?[^0-9.,:_ex ][^0-9]*\Z", "; write the number alone, its unit is fixed"))
    return next((hint for pattern, hint in hints if re.match(pattern, plain, re.IGNORECASE)), "")
