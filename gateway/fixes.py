"""What sources of time say, and which of them is believed.

Owns: the newest fix of each source, its error as it grows with age, and the choice. Promises: the most trustworthy
source wins, never an average with a liar; a fix from before the journal's last word is none. Never: reads a clock.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Source = Literal["gnss", "kernel", "broker", "kept", "rtc"]
RANKS: tuple[Source, ...] = ("gnss", "kernel", "broker", "kept", "rtc")
"""The most trustworthy first. `kept` is what this very boot knew before the process was started again."""
SYNCED_MS = 1000.0
"""A time with a larger bound is not called synced."""
HOLDOVER_MS = 60_000.0
"""And with one larger than this it is not called a time."""
_APART_MS = 1000.0
"""Beyond their bounds two sources may differ so much before it is said."""


class Fix(Struct, frozen=True):
    """A source's word: UTC ms = monotonic ms + offset_ms, within error_ms as of `at_s` (monotonic)."""

    source: Source
    offset_ms: int
    error_ms: float
    at_s: float


class Fixes:
    """The newest of each source."""

    def __init__(self, floor_ms: int, drift_ppm: float) -> None:
        """`floor_ms`: UTC before which it cannot be; `drift_ppm`: how much the box's oscillator may run wrong."""
        self.floor_ms, self._drift = floor_ms, drift_ppm
        self._newest: dict[Source, Fix] = {}
        self._odd: set[frozenset[Source]] = set()

    def take(self, fix: Fix) -> bool:
        """Hear a source; False when what it says cannot be true."""
        if fix.offset_ms + round(fix.at_s * 1000) < self.floor_ms - round(fix.error_ms):
            return False
        old = self._newest.get(fix.source)
        # A poor fix does not replace a better one that has not grown worse than it yet.
        if old is None or fix.error_ms <= self.error_ms(old, fix.at_s) or not self._agree(old, fix, fix.at_s):
            self._newest[fix.source] = fix
        return True

    def drop(self, source: Source) -> None:
        """A source takes back what it said."""
        self._newest.pop(source, None)

    def error_ms(self, fix: Fix, now_s: float) -> float:
        """The bound as of now: what the oscillator may have run wrong since is added."""
        return fix.error_ms + max(0.0, now_s - fix.at_s) * self._drift / 1000

    def best(self, now_s: float) -> Fix | None:
        """The most trustworthy one that is still good to a second, or else the best that is left."""
        known = [self._newest[source] for source in RANKS if source in self._newest]
        usable = [fix for fix in known if self.error_ms(fix, now_s) <= HOLDOVER_MS]
        for fix in usable:
            if fix.source != "rtc" and self.error_ms(fix, now_s) <= SYNCED_MS:
                return fix
        return min(usable, key=lambda fix: (fix.source == "rtc", self.error_ms(fix, now_s)), default=None)

    def quarrels(self, now_s: float) -> list[tuple[Fix, Fix]]:
        """Pairs that contradict each other beyond their bounds, each told once for as long as it lasts."""
        known, odd, out = list(self._newest.values()), set[frozenset[Source]](), list[tuple[Fix, Fix]]()
        for n, one in enumerate(known):
            for other in known[n + 1:]:
                if not self._agree(one, other, now_s):
                    pair = frozenset((one.source, other.source))
                    odd.add(pair)
                    if pair not in self._odd:
                        out.append((one, other))
        self._odd = odd
        return out

    def _agree(self, one: Fix, other: Fix, now_s: float) -> bool:
        return abs(one.offset_ms - other.offset_ms) <= (
            _APART_MS + self.error_ms(one, now_s) + self.error_ms(other, now_s))
