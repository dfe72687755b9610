"""Annotations taken apart, once each: a file has thousands of values and a hundred annotations.

Owns: which kinds of node fit an annotation, in which order its types are tried, and what was read already.
Promises: the second value of an annotation costs a dictionary look-up. Never: reads a node, complains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import inspect
from msgspec.inspect import Type

from drivers.strictyaml.scalar import LISTS, SCALARS, bare

_FITTING = {"scalar": SCALARS, "list": LISTS, "map": (inspect.StructType, inspect.DictType)}


class Wanted:
    """One annotation, taken apart."""

    __slots__ = ("fits", "free", "kind", "kinds", "known", "optional", "scalars")

    def __init__(self, kind: Type) -> None:
        self.kind = bare(kind)
        kinds = [bare(k) for k in self.kind.types] if isinstance(self.kind, inspect.UnionType) else [self.kind]
        self.optional = any(isinstance(k, inspect.NoneType) for k in kinds)
        self.kinds = [k for k in kinds if not isinstance(k, inspect.NoneType)]
        self.fits = {node: [k for k in self.kinds if isinstance(k, fitting)] for node, fitting in _FITTING.items()}
        texts = [k for k in self.fits["scalar"] if isinstance(k, inspect.StrType)]
        self.free = bool(texts) and texts[0].pattern is None
        # text last: it would take everything
        self.scalars = [*(k for k in self.fits["scalar"] if k not in texts), *texts]
        self.known: dict[tuple[str, bool], Any] | None = None if texts else {}
        """What (text, plain) was read as, where nothing was wrong; None for text, of which each is another."""


class Annotations:
    """Those of one walk; each is kept beside what was made of it, so that its id stays its own."""

    def __init__(self) -> None:
        self._wanted: dict[int, tuple[Type, Wanted]] = {}
        self._fields: dict[int, tuple[inspect.StructType, Mapping[str, inspect.Field]]] = {}

    def wanted(self, kind: Type) -> Wanted:
        """Return an annotation taken apart."""
        known = self._wanted.get(id(kind))
        if known is None:
            known = self._wanted[id(kind)] = (kind, Wanted(kind))
        return known[1]

    def fields(self, kind: inspect.StructType) -> Mapping[str, inspect.Field]:
        """Return a struct's fields by their names in the file."""
        known = self._fields.get(id(kind))
        if known is None:
            known = self._fields[id(kind)] = (kind, {f.encode_name: f for f in kind.fields})
        return known[1]
