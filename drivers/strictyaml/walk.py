"""The walk of a node tree along a struct's annotations.

Owns: which node fits which type, and what to say when none does. Promises: goes on after every error, leaves a stand-in
where it can, and notes its path as tainted. Never: stops early, reads bytes, repeats a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import inspect
from msgspec.inspect import Type

from drivers import SetupError
from drivers.strictyaml.annotations import Annotations, Wanted
from drivers.strictyaml.scalar import (
    HOLE,
    LISTS,
    NULLS,
    bare,
    bounds,
    closest,
    convert,
    expected,
    hint,
    nearest,
)
from drivers.strictyaml.text import Path, Problem, Source, dotted, is_secret, show
from drivers.strictyaml.tree import Node

if TYPE_CHECKING:
    from drivers.strictyaml.parsed import Parsed, Variant


PROBLEMS_MAX = 1000
"""Nobody reads more, and a megabyte can hold half a million of them."""


class Enough(Exception):  # noqa: N818 - it is no error of ours
    """There are more problems than anybody wants to read."""


class Walk:
    """One walk of one tree; collects into `parsed`."""

    def __init__(self, parsed: Parsed[Any], source: Source, variants: Mapping[type, Variant]) -> None:
        self.parsed = parsed
        self.source = source
        self.variants = variants
        self.annotations = Annotations()

    def complain(self, path: Path, line: int, column: int, message: str) -> None:
        """Note a problem; line and column from 0. Raises Enough in the place of one too many."""
        if len(self.parsed.problems) >= PROBLEMS_MAX:
            raise Enough
        self.parsed.problems.append(Problem(self.parsed.file, line + 1, column + 1, dotted(path), message))

    def bad(self, node: Node, kind: Type, path: Path, message: str) -> Any:
        """Note an error of a value and return what may stand in for it."""
        self.complain(path, node.line, node.column, message)
        return self.stand_in(kind, path, node.text)

    def stand_in(self, kind: Type, path: Path, text: str = "") -> Any:
        """Return what may stand in for a value that could not be read, so that cross-checks can go on."""
        self.parsed.tainted.add(path)
        if isinstance(kind, (inspect.StrType, inspect.LiteralType)):
            return text
        if isinstance(kind, inspect.IntType):
            return -1
        return math.nan if isinstance(kind, inspect.FloatType) else HOLE

    def value(self, node: Node, kind: Type, path: Path) -> Any:
        """Read any node as any type."""
        wanted = self.annotations.wanted(kind)
        if node.kind == "refused":
            return self.stand_in(wanted.kind, path)
        if isinstance(wanted.kind, inspect.AnyType):
            return self.anything(node, path)
        empty = node.kind == "scalar" and node.plain and node.text in NULLS
        if empty and wanted.optional:
            return None
        fitting = wanted.fits[node.kind]
        if not fitting:
            return self.misfit(node, wanted.kinds, path, empty)
        if empty:
            return self.bad(node, fitting[0], path, f"is empty: expected {expected(wanted.kinds)}")
        if node.kind == "scalar":
            return self.scalar(node, wanted, path)
        if node.kind == "list":
            return self.sequence(node, fitting[0], path)
        if isinstance(fitting[0], inspect.DictType):
            return self.dictionary(node, fitting[0], path)
        return self.struct(node, _tagged(fitting, node), path)

    def misfit(self, node: Node, kinds: list[Type], path: Path, empty: bool) -> Any:
        """Say that a scalar, list or mapping stands where another of them belongs."""
        kind = kinds[0]
        found = "is empty" if empty else {"map": "found keys and values", "list": "found a list"}.get(
            node.kind, f"found {show(node.text)}")
        advice = ""
        if node.kind == "scalar" and not empty:
            if wide := self.source.wide(node):
                for line, column, message in wide:
                    self.complain(path, line, column, message)
                return self.stand_in(kind, path)
            if isinstance(kind, LISTS):
                advice = "; put it in square brackets"
            elif re.match(r"[A-Za-z_]\w*:\S", node.text):
                advice = "; put a space after the colon"
        elif node.kind == "list" and isinstance(kind, inspect.StructType):
            advice = "; remove the '-' or brackets"
        elif node.kind == "map" and isinstance(kind, LISTS):
            advice = "; begin each item with '- '"
        return self.bad(node, kind, path, f"{found}, expected {expected(kinds)}{advice}")

    def scalar(self, node: Node, wanted: Wanted, path: Path) -> Any:
        """Read a scalar as the first of the types that takes it."""
        kinds = wanted.fits["scalar"]
        wide = self.source.wide_in_text(node) if wanted.free else self.source.wide(node)
        if wide:
            for line, column, message in wide:
                self.complain(path, line, column, message)
            return self.stand_in(kinds[0], path, node.text)
        if wanted.known is not None and (known := wanted.known.get((node.text, node.plain), HOLE)) is not HOLE:
            return known
        for kind in wanted.scalars:
            value = convert(node, kind)
            if value is HOLE:
                continue
            if complaint := bounds(value, kind):
                secret = bool(path) and is_secret(str(path[-1]))
                found = "the value" if secret else show(node.text)
                self.complain(path, node.line, node.column, f"found {found}, expected {complaint}")
                self.parsed.tainted.add(path)
            elif wanted.known is not None:
                wanted.known[node.text, node.plain] = value
            return value
        return self.bad(node, kinds[0], path,
                        f"found {show(node.text)}, expected {expected(kinds)}{hint(node, kinds[0])}")

    def sequence(self, node: Node, kind: Any, path: Path) -> Any:
        """Read a list."""
        fixed = isinstance(kind, inspect.TupleType)
        count = len(node)
        if fixed and count != len(kind.item_types):
            return self.bad(node, kind, path, f"found {count} items, expected {len(kind.item_types)}")
        if not fixed:
            low, high = kind.min_length or 0, kind.max_length
            if count < low or (high is not None and count > high):
                limit = f"at least {low}" if count < low else f"at most {high}"
                self.complain(path, node.line, node.column, f"found {count} items, expected {limit}")
                self.parsed.tainted.add(path)
        types = kind.item_types if fixed else [kind.item_type] * count
        values = [self.value(item, t, (*path, n)) for n, (item, t) in enumerate(zip(node.items, types, strict=True))]
        if HOLE in values:
            self.parsed.tainted.add(path)
            if fixed:
                return HOLE
            self.parsed.kept[path] = [n for n, v in enumerate(values) if v is not HOLE]
            values = [v for v in values if v is not HOLE]
        make = {inspect.ListType: list, inspect.SetType: set, inspect.FrozenSetType: frozenset}
        return make.get(type(kind), tuple)(values)

    def dictionary(self, node: Node, kind: inspect.DictType, path: Path) -> Any:
        """Read a mapping with free keys."""
        result: dict[Any, Any] = {}
        pairs = node.pairs
        for key, value_node in pairs:
            below = (*path, key.text)
            name = self.scalar(key, self.annotations.wanted(kind.key_type), below)
            value = self.value(value_node, kind.value_type, below)
            if value is not HOLE:
                result[name] = value
        low, high = kind.min_length or 0, kind.max_length
        if len(pairs) < low or (high is not None and len(pairs) > high):
            limit = f"at least {low}" if len(pairs) < low else f"at most {high}"
            self.complain(path, node.line, node.column, f"found {len(pairs)} keys, expected {limit}")
            self.parsed.tainted.add(path)
        return result

    def struct(self, node: Node, kind: inspect.StructType, path: Path) -> Any:
        """Read a mapping whose keys are fields."""
        kind, open_keys = self.variant(node, kind, path)
        fields = self.annotations.fields(kind)
        given: dict[str, Any] = {}
        holes = False
        pairs = node.pairs
        words: frozenset[str] | None = None   # all keys; worked out once, when one of them is unknown
        for key, value_node in pairs:
            below = (*path, key.text)
            if key.text not in fields:
                if key.text != kind.tag_field and not open_keys:
                    words = frozenset(k.text for k, _ in pairs) if words is None else words
                    self.unknown_key(key, fields, words, path)
                continue
            f = fields[key.text]
            value = self.value(value_node, f.type, below)
            if value is not HOLE:
                given[f.name] = value
            else:
                self.parsed.tainted.add(below)
        for name, f in fields.items():
            if f.name in given or not f.required:
                continue
            below = (*path, name)
            if below not in self.parsed.tainted:
                variant = self.variants.get(kind.cls)
                what = (f"one of {', '.join(variant.names())}" if variant is not None and variant.key == name
                        else expected([bare(f.type)]))
                self.complain(path, node.line, node.column, f"missing key {name!r}, expected {what}")
            value = self.stand_in(bare(f.type), below)
            if value is HOLE:
                holes = True
            else:
                given[f.name] = value
        if holes:
            return HOLE
        try:
            return kind.cls(**given)
        except (ValueError, TypeError, AttributeError) as error:
            if self.parsed.sound(path):
                self.complain(path, node.line, node.column, str(error))
            return HOLE

    def variant(self, node: Node, kind: inspect.StructType, path: Path) -> tuple[inspect.StructType, bool]:
        """Return the struct to use, and whether unknown keys are to be let pass (the variant is not known)."""
        variant = self.variants.get(kind.cls)
        if variant is None:
            return kind, False
        chosen = next((v for k, v in node.pairs if k.text == variant.key), None)
        if chosen is None or chosen.kind != "scalar" or chosen.text in NULLS or self.source.wide(chosen):
            return kind, True   # said when the key itself is walked
        try:
            found = inspect.type_info(variant.lookup(chosen.text))
        except (SetupError, ImportError, AttributeError) as error:
            below = (*path, variant.key)
            reason = (f"{error}{nearest(chosen.text, variant.names())}" if isinstance(error, SetupError)
                      else f"{show(chosen.text)} cannot be loaded: {error}")
            self.complain(below, chosen.line, chosen.column, reason)
            self.parsed.tainted.add(below)
            return kind, True
        assert isinstance(found, inspect.StructType)
        return found, False

    def unknown_key(self, key: Node, fields: Mapping[str, Any], given: frozenset[str], path: Path) -> None:
        """Say that a key is none of the fields, and which one was probably meant."""
        below = (*path, key.text) if len(key.text) <= 40 else path
        # the field that was probably meant is neither missing nor absent on purpose
        meant = closest(re.split("[:：]", key.text)[0], fields)
        if meant is not None and meant not in given:
            self.parsed.tainted.add((*path, meant))
        if wide := self.source.wide(key):
            for line, column, message in wide:
                self.complain(path, line, column, message)
            return
        if is_secret(key.text):
            message = ("a secret does not belong in this file: put it in a file of mode 0600 named by password_file, "
                       "or in an environment variable named by password_env, and change it, as it was written here")
        elif ":" in key.text:
            below, message = path, f"found {show(key.text)}, expected 'key: value'; put a space after the colon"
        else:
            message = f"unknown key{nearest(key.text, fields)} (known: {', '.join(fields)})"
        self.complain(below, key.line, key.column, message)

    def anything(self, node: Node, path: Path) -> Any:
        """Plain data where the annotation is Any (YAML 1.2 core meaning)."""
        if node.kind == "list":
            values = [self.value(item, inspect.AnyType(), (*path, n)) for n, item in enumerate(node.items)]
            return [v for v in values if v is not HOLE]
        if node.kind == "map":
            pairs = {k.text: self.value(v, inspect.AnyType(), (*path, k.text)) for k, v in node.pairs}
            return {k: v for k, v in pairs.items() if v is not HOLE}
        if node.plain and node.text in NULLS:
            return None
        for kind in (inspect.BoolType(), inspect.IntType(), inspect.FloatType()):
            if (value := convert(node, kind)) is not HOLE:
                return value
        return node.text


def _tagged(kinds: list[Any], node: Node) -> inspect.StructType:
    """Of several structs take the one whose tag the mapping carries."""
    if len(kinds) == 1:
        only: inspect.StructType = kinds[0]
        return only
    given = {k.text: v.text for k, v in node.pairs}
    for kind in kinds:
        if isinstance(kind, inspect.StructType) and kind.tag_field and given.get(kind.tag_field) == str(kind.tag):
            return kind
    first: inspect.StructType = kinds[0]
    return first
