"""Rows of which less is kept, under their old identity.

Owns: which rows are thinned alone and which merged with their neighbours. Promises: a row that cannot be read, or of
which nothing would go, stays as it is. Never: does I/O, counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from msgspec import structs

from gateway.journal.records import Stored
from gateway.journal.rows import decode, encode_samples
from gateway.journal.thin import aggregate, intervals_ms, thin
from gateway.model import Inventory, Samples

BLOCK = 16
"""Neighbours merged into the last of them."""
_SURE = 70
"""So many aggregates fit a row whatever they are."""

Change = tuple[Stored, Stored]
"""As it was, as it is."""


def _read(stored: Stored) -> Samples | None:
    try:
        return decode(stored.row.body)
    except ValueError:
        return None


def _with(stored: Stored, samples: Samples, step: Literal["thin", "aggregate"]) -> Stored:
    row = stored.row
    return Stored(structs.replace(row, count=len(samples), body=encode_samples(samples), thinned=step,
                                  of=row.of or row.count), stored.total)


def thinned(rows: Sequence[Stored], inventories: Mapping[int, Inventory]) -> list[Change]:
    """Each row for itself."""
    every: dict[int, Any] = {}
    out = []
    for stored in rows:
        samples, n = _read(stored), stored.row.inventory
        if samples is None or stored.row.thinned:
            continue
        if n not in every:
            every[n] = intervals_ms(inventories.get(n))
        now = _with(stored, thin(samples, every[n]), "thin")
        if _smaller([stored], [now]):
            out.append((stored, now))
    return out


def _smaller(was: Sequence[Stored], now: Sequence[Stored]) -> bool:
    return sum(len(stored.row.body) for stored in now) < sum(len(stored.row.body) for stored in was)


def merged(rows: Sequence[tuple[Stored, tuple[str, ...]]]) -> list[Change]:
    """Rows with those who miss them. The good readings of one block, header and set of platforms go to its last rows.

    What is not good stays in its own row: of a row that a platform acknowledges at this moment it then has all.
    """
    out: list[Change] = []
    for _, block in groupby(rows, key=lambda r: (r[0].row.seq // BLOCK, r[0].row.inventory, r[0].row.door, r[1])):
        mine = [(stored, samples) for stored, _ in block
                if stored.row.thinned != "aggregate" and (samples := _read(stored)) is not None]
        less = aggregate([samples for _, samples in mine], _SURE)
        was = [stored for stored, _ in mine]
        now = [_with(stored, samples, "aggregate") for stored, samples in zip(was, less, strict=False)]
        if less and _smaller(was, now):
            out += zip(was, now, strict=True)
    return out
