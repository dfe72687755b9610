"""Samples as JSON: one object a reading, or columns by position.

Owns: rounding to a point's resolution, the words of flags, both forms of a row's readings. Promises: what cannot be
named or rounded is given in full rather than dropped. Never: does I/O, filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import repeat
from typing import Any

import numpy as np
from msgspec import Struct

from gateway.model import REASONS, STATUSES, Inventory, Samples


class _Reading(Struct, omit_defaults=True, gc=False):
    """One Sample on the wire. `reason` only when there is one."""

    point: str
    t: int
    value: float | None
    quality: int
    status: str
    reason: str = ""


class _Aggregate(_Reading, omit_defaults=True, gc=False):
    """Readings merged for want of room: `value` and `t` are the last one's."""

    min: float | None = None
    max: float | None = None
    mean: float | None = None
    since: int | None = None


def _words(words: Sequence[str]) -> Samples:
    out = np.empty(256, object)  # one per value of the uint8 column: a newer writer's word never raises
    out[:] = "unknown"
    out[:len(words)] = [str(w) for w in words]
    return out


_STATUS = _words(STATUSES)
_REASON = _words(REASONS)


def _decimals(resolution: float) -> int:
    """Decimals that show a resolution: 0.01 → 2, 0.25 → 2, 5 → 0."""
    if not resolution > 0:
        return 6
    exponent = Decimal(repr(float(resolution))).normalize().as_tuple().exponent
    return min(9, max(0, -int(exponent)))


class Meaning:
    """An inventory, laid out for whole columns."""

    def __init__(self, inventory: Inventory | None, n: int) -> None:
        points = inventory.points if inventory is not None else ()
        self.known = inventory is not None
        self._n = n
        self._names = np.array([p.point for p in points], object)
        self._scale = np.array([10.0 ** _decimals(p.resolution) for p in points])

    def columns(self, point: Samples, value: Samples) -> tuple[list[str], list[float]]:
        """Point ids and rounded values (NaN stays NaN, which JSON shows as null).

        Raises:
            ValueError: the inventory has no such point.
        """
        if not self.known:  # better a number nobody can name than a reading nobody gets
            return [f"{self._n}#{p}" for p in point.tolist()], value.tolist()
        try:
            scale = self._scale[point]
            return self._names[point].tolist(), (np.rint(value * scale) / scale + 0.0).tolist()
        except IndexError as error:
            raise ValueError(f"a row names a point beyond inventory {self._n}: {error}") from error


def readings(samples: Samples, meaning: Meaning, offset_ms: int) -> Sequence[_Reading]:
    """Samples (or aggregates) as they go on the wire."""
    names, values = meaning.columns(samples["point"], samples["value"])
    if "mean" in (samples.dtype.names or ()):
        more = [meaning.columns(samples["point"], samples[key])[1] for key in ("min", "max", "mean")]
        more.append((samples["since_ms"] + offset_ms).tolist())
        return list(map(_Aggregate, names, (samples["t_ms"] + offset_ms).tolist(), values, samples["flag"].tolist(),
                        _spelt(_STATUS, samples["status"]), _spelt(_REASON, samples["reason"]), *more))
    return list(map(_Reading, names, (samples["t_ms"] + offset_ms).tolist(), values, samples["flag"].tolist(),
                    _spelt(_STATUS, samples["status"]), _spelt(_REASON, samples["reason"])))


def columns(samples: Samples, meaning: Meaning, offset_ms: int) -> dict[str, Any]:
    """Samples by position: `t0`, `scans` of consecutive points at one time, and `marks` where all is not well."""
    t, point = samples["t_ms"], samples["point"].astype(np.int64)
    _, values = meaning.columns(samples["point"], samples["value"])
    starts = np.flatnonzero(np.concatenate(([True], (np.diff(t) != 0) | (np.diff(point) != 1)))).tolist()
    # A whole number needs no ".0", and most readings of a fine instrument are none.
    numbers: list[float | int] = [int(v) if v == v and v.is_integer() else v for v in values]
    t0 = int(t[0])
    scans = [[int(t[a]) - t0, int(point[a]), numbers[a:b]]
             for a, b in zip(starts, [*starts[1:], len(samples)], strict=True)]
    out: dict[str, Any] = {"t0": t0 + offset_ms, "scans": scans}
    if marks := _marks(samples):
        out["marks"] = marks
    return out


def _marks(samples: Samples) -> list[list[Any]]:
    """[first, how many, quality, reason, status] of each run that is not all well."""
    flag, reason, status = samples["flag"], samples["reason"], samples["status"]
    if not (np.any(flag != 1) or np.any(reason) or np.any(status)):
        return []
    changes = (np.diff(flag) != 0) | (np.diff(reason) != 0) | (np.diff(status) != 0)
    starts = np.flatnonzero(np.concatenate(([True], changes))).tolist()
    return [[a, b - a, int(flag[a]), _REASON[reason[a]], _STATUS[status[a]]]
            for a, b in zip(starts, [*starts[1:], len(samples)], strict=True)
            if (flag[a], reason[a], status[a]) != (1, 0, 0)]


def _spelt(words: Samples, codes: Samples) -> Iterable[str]:
    """The words of a column; nearly always one word for all of it."""
    if len(codes) and not np.count_nonzero(codes != codes[0]):
        return repeat(words[codes[0]])
    spelt: list[str] = words[codes].tolist()
    return spelt
