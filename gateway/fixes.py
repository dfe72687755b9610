"""What sources of time say, and which of them is believed.

Owns: the newest fix of each source, its bound as it grows with age, and the choice. Promises: the most trustworthy
source wins, and among those that agree with it the tightest; never an average with a liar; a time from before the
journal's last word is believed only of two sources that agree, or of one that insists. Never: reads a clock.

A *live* source looks at UTC now (a receiver, the kernel under NTP, a platform's answer); a *remembered* one only says
what somebody once knew: `kept` is what this very boot knew before, `rtc` the clock chip. A remembered time is never
called synced.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, structs

Source = Literal["gnss", "kernel", "broker", "kept", "rtc"]
LIVE: tuple[Source, ...] = ("gnss", "kernel", "broker")
"""The most trustworthy first."""
SYNCED_MS = 1000.0
"""A time with a larger bound is not called synced."""
INSISTS_S = 3600.0
"""So long a live source must contradict the journal's last word for that to be the one in error."""
FUTURE_MS = 1024 * 7 * 86_400_000
"""Nothing is believed that is further than this (20 years) after the journal's last word: rubbish in a chip, a receiver
whose count of weeks ran over."""
_APART_MS = 1000.0
"""Beyond their bounds two sources may differ so much before it is said."""
_WORSE = 1.1
"""A new fix replaces one that it confirms once that has grown this much worse, so that rows are not split by jitter."""


class Fix(Struct, frozen=True):
    """A source's word: UTC ms = monotonic ms + offset_ms, within error_ms as of `at_s` (monotonic)."""

    source: Source
    offset_ms: int
    error_ms: float
    at_s: float

    @property
    def utc_ms(self) -> int:
        """What it said the time was."""
        return self.offset_ms + round(self.at_s * 1000)


class Quarrel(Struct, frozen=True):
    """Two sources contradict each other; the second may be the journal, whose last word it is earlier than."""

    one: Source
    other: Source | Literal["journal"]
    apart_s: float


class Fixes:
    """The newest of each source."""

    def __init__(self, floor_ms: int, drift_ppm: float) -> None:
        """`floor_ms`: UTC before which it cannot be; `drift_ppm`: how much the box's oscillator may run wrong."""
        self.floor_ms, self._drift = floor_ms, drift_ppm
        self._newest: dict[Source, Fix] = {}
        self._early: dict[Source, Fix] = {}
        """Live sources that contradict the journal: what each said first."""
        self._told: set[tuple[str, str]] = set()

    def take(self, fix: Fix) -> bool:
        """Hear a source; False when what it says is not believed."""
        if fix.utc_ms > self.floor_ms + FUTURE_MS:
            return False
        if fix.utc_ms + fix.error_ms < self.floor_ms:
            if not self._overrules(fix):
                return False
            self.floor_ms, self._early = round(fix.utc_ms - fix.error_ms), {}
        else:
            self._early.pop(fix.source, None)
        old = self._newest.get(fix.source)
        if old is None or _WORSE * fix.error_ms <= self.error_ms(old, fix.at_s) or not self._agree(old, fix, fix.at_s):
            self._newest[fix.source] = fix
        return True

    def _overrules(self, fix: Fix) -> bool:
        """Whether the journal's last word was wrong: two live sources agree on it, or one insists."""
        if fix.source not in LIVE:
            return False
        first = self._early.get(fix.source)
        if first is None or not self._agree(first, fix, fix.at_s):
            first = self._early[fix.source] = fix
        return fix.at_s - first.at_s >= INSISTS_S or any(
            self._agree(other, fix, fix.at_s) for source, other in self._early.items() if source != fix.source)

    def raise_floor(self, floor_ms: int) -> None:
        """It cannot be earlier than this; what was said to the contrary is forgotten."""
        self.floor_ms = max(self.floor_ms, floor_ms)
        self._newest = {source: fix for source, fix in self._newest.items()
                        if fix.utc_ms + fix.error_ms >= self.floor_ms}

    def lapse(self, source: Source) -> None:
        """A live source is silent, or was set to another time: what it said is only remembered from now on."""
        self._early.pop(source, None)
        if (fix := self._newest.pop(source, None)) is not None:
            self._newest["kept"] = structs.replace(fix, source="kept")

    def error_ms(self, fix: Fix, now_s: float) -> float:
        """The bound as of now: what the oscillator may have run wrong since (or until then) is added."""
        return fix.error_ms + abs(now_s - fix.at_s) * self._drift / 1000

    def aged(self, fix: Fix, now_s: float) -> Fix:
        """The same word as of now: so it is held against the journal's last word, which may be younger than the fix."""
        return structs.replace(fix, error_ms=self.error_ms(fix, now_s), at_s=now_s)

    def best(self, now_s: float) -> Fix | None:
        """The one to go by; its bound as of now says how far.

        Live sources that are good to a second come first, else any live one, else what is remembered; of those that
        agree with the first the tightest.
        """
        live = [self._newest[source] for source in LIVE if source in self._newest]
        pool = [fix for fix in live if self.error_ms(fix, now_s) <= SYNCED_MS]
        if not (leader := next(iter(pool), None)):
            pool = list(self._newest.values())
            leader = min(live or pool, key=lambda fix: self.error_ms(fix, now_s), default=None)
        return min((fix for fix in pool if leader and self._agree(fix, leader, now_s, apart_ms=0.0)),
                   key=lambda fix: self.error_ms(fix, now_s), default=None)

    def quarrels(self, now_s: float) -> list[Quarrel]:
        """Contradictions beyond all bounds, each told once for as long as it lasts."""
        known = [fix for fix in self._newest.values() if fix.source != "kept"]
        found = [Quarrel(one.source, other.source, (one.offset_ms - other.offset_ms) / 1000)
                 for n, one in enumerate(known) for other in known[n + 1:] if not self._agree(one, other, now_s)]
        found += [Quarrel(fix.source, "journal", (fix.utc_ms - self.floor_ms) / 1000) for fix in self._early.values()]
        news = [quarrel for quarrel in found if (quarrel.one, quarrel.other) not in self._told]
        self._told = {(quarrel.one, quarrel.other) for quarrel in found}
        return news

    def _agree(self, one: Fix, other: Fix, now_s: float, apart_ms: float = _APART_MS) -> bool:
        return abs(one.offset_ms - other.offset_ms) <= (
            apart_ms + self.error_ms(one, now_s) + self.error_ms(other, now_s))
