"""Rows of which less is kept, under their old identity.

Owns: which rows are thinned alone and which merged with their neighbours, and the gaps that say so. Promises: a row
that cannot be read, or of which nothing would go, stays as it is; the counts of gaps are exact. Never: does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from msgspec import structs

from gateway.journal.gaps import Gap
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


def merged(rows: Sequence[Stored], _inventories: Mapping[int, Inventory]) -> list[Change]:
    """Neighbours of one block and one header become the last of them, as few as can hold it; the others stay, empty."""
    out: list[Change] = []
    for _, block in groupby(rows, key=lambda s: (s.row.seq // BLOCK, s.row.inventory, s.row.door)):
        mine = [(stored, samples) for stored in block
                if stored.row.thinned != "aggregate" and (samples := _read(stored)) is not None]
        less = aggregate([samples for _, samples in mine])
        pieces = [less[at:at + _SURE] for at in range(0, len(less), _SURE)]
        if not mine or len(pieces) > len(mine):
            continue
        was = [stored for stored, _ in mine]
        now = [_with(stored, piece, "aggregate")
               for stored, piece in zip(was, [less[:0]] * (len(mine) - len(pieces)) + pieces, strict=True)]
        if _smaller(was, now):
            out += zip(was, now, strict=True)
    return out


def gaps(changed: Sequence[Change], reason: str) -> list[Gap]:
    """What was given up, neighbours joined."""
    out: list[Gap] = []
    for was, now in changed:
        row = was.row
        gap = Gap(row.epoch, row.lane, row.seq, row.seq, row.count - now.row.count, reason)
        joined = out[-1].joined(gap) if out else None
        if joined is not None:
            out[-1] = joined
        else:
            out.append(gap)
    return out
