"""Rows that will never come, and how the county is told.

Owns: what a gap says, and which gaps are known but not told yet. Promises: a gap is told once, with its exact range
and who misses it; neighbours of one reason are told joined, at most once a minute, and once an hour while nobody has
heard the last: in a long outage gaps must not drive each other, and alarms, out of the room for events.
Never: does I/O, reads a clock, decides what is lost.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.model import Event, Lane

_TELL_S, _UNHEARD_S = 60.0, 3600.0
_MOST = 64
"""So many do not wait."""


LESS = frozenset({"thinned", "aggregated"})
"""Reasons of a gap whose rows still come, with fewer readings."""


class Gap(Struct, frozen=True, array_like=True):
    """Rows that will never come: first … last of a stream, `count` Records (None: nobody knows)."""

    epoch: str
    lane: Lane
    first: int
    last: int
    count: int | None
    reason: str
    platforms: tuple[str, ...] = ()
    """Who misses them."""

    def event(self, name: str, t_ms: int) -> Event:
        """What the county is told; `name` becomes the id of the event."""
        count = "?" if self.count is None else self.count
        zh, en = ("记录精简", "records given up") if self.reason in LESS else ("记录缺失", "records lost")
        return Event(id=name, kind="journal.gap", t_ms=t_ms,
                     text_zh=f"{zh}：{self.lane} {self.first}–{self.last}，共 {count} 条（{self.reason}）",
                     text_en=f"{en}: {self.lane} {self.first}-{self.last}, {count} records ({self.reason})",
                     why={"epoch": self.epoch, "lane": self.lane, "from": self.first, "to": self.last,
                          "count": self.count, "reason": self.reason, "platforms": list(self.platforms)})

    def joined(self, later: Gap) -> Gap | None:
        """One gap for both, if `later` follows at once and is of the same kind."""
        if (self.epoch, self.lane, self.reason, self.platforms, self.last + 1) != (
                later.epoch, later.lane, later.reason, later.platforms, later.first):
            return None
        count = None if self.count is None or later.count is None else self.count + later.count
        return Gap(self.epoch, self.lane, self.first, later.last, count, self.reason, self.platforms)


class Untold:
    """Gaps that wait to be told; until then they are part of the saved state."""

    def __init__(self) -> None:
        self.gaps: tuple[Gap, ...] = ()
        self._since_s = 0.0

    def add(self, gap: Gap, now_s: float) -> None:
        """Keep a gap, joined to the one before it where that is possible."""
        if not self.gaps:
            self._since_s = now_s
        for at, old in enumerate(self.gaps):
            if (joined := old.joined(gap)) is not None:
                self.gaps = (*self.gaps[:at], joined, *self.gaps[at + 1:])
                return
        self.gaps = (*self.gaps, gap)

    def due(self, now_s: float, force: bool, heard: bool = True) -> tuple[Gap, ...]:
        """Hand out what has waited long enough, or with `force` all there is; `heard`: the last one was."""
        if not force and now_s < self._since_s + (_TELL_S if heard else _UNHEARD_S) and len(self.gaps) < _MOST:
            return ()
        gaps, self.gaps = self.gaps, ()
        return gaps
