"""Readings that are believed only while another one, read apart, vouches for them.

Owns: what the vouching points of one device said last. Promises: a reading whose voucher is missing, bad, or older
than two of its own polls is no_data, never a number: a radio head that is lost cannot leave its last value behind.
Never: does I/O, reads a clock; what lies in the same block is a helper register's business (`sheet`).
"""

from __future__ import annotations

from collections.abc import Mapping

from drivers import Note
from drivers.reader import Notes, Values
from drivers.sensor import Template

_OLD_POLLS = 2.0


class Vouching:
    """The vouchers of one device."""

    def __init__(self, template: Template) -> None:
        self._by = {point.id: dict(point.vouched_by) for point in template.points if point.vouched_by}
        self._vouchers = frozenset(name for limits in self._by.values() for name in limits)
        self._polls: dict[str, float] = {}
        self._said: dict[str, tuple[float | None, float]] = {}

    def polls(self, points: Mapping[str, float]) -> dict[str, float]:
        """Return the polls (point → period in s) with those of the vouchers they need, vouchers first."""
        needed: dict[str, float] = {}
        for name, poll_s in points.items():
            for voucher in self._by.get(name, ()):
                needed[voucher] = min(needed.get(voucher, poll_s), poll_s, points.get(voucher, poll_s))
        self._polls = needed | self._polls   # a read asked for once changes nothing of what is polled
        return {**needed, **{name: poll_s for name, poll_s in points.items() if name not in needed}}

    def look(self, points: tuple[str, ...], values: Values, notes: Notes, at_s: float) -> tuple[Values, Notes]:
        """Note what vouchers say in an answer, and take away the values nobody vouches for."""
        if self._vouchers.isdisjoint(points) and self._by.keys().isdisjoint(points):
            return values, notes
        for name, value in zip(points, values, strict=True):
            if name in self._vouchers:
                self._said[name] = (value, at_s)
        unsaid = [n for n, name in enumerate(points) if name in self._by and not self._stands(name, at_s)]
        if not unsaid:
            return values, notes
        kept, remarks = list(values), list(notes or ("",) * len(values))
        for n in unsaid:
            kept[n] = None
            remarks[n] = remarks[n] or Note.NO_DATA
        return tuple(kept), tuple(remarks)

    def _stands(self, name: str, at_s: float) -> bool:
        for voucher, (low, high) in self._by[name].items():
            value, said_s = self._said.get(voucher, (None, at_s))
            if value is None or not low <= value <= high:
                return False
            if at_s - said_s > _OLD_POLLS * self._polls.get(voucher, 0.0):
                return False
        return True
