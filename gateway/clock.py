"""Monotonic time, the boot it belongs to, and how far the wall clock can be trusted.

Owns: the offset between monotonic time and UTC, and the word of trust for it. Promises: nothing inside the box is timed
by the wall clock; a step of more than a second is told; `synced` is said only while a live source vouches for it within
a second, `holdover` only after that or after a valid clock chip, and until the bound on the error has grown beyond
`unset_beyond_s`; a time that came from a file is `unset`. Never: sets a clock.

CLOCK_MONOTONIC, not CLOCK_BOOTTIME: they differ only by time spent suspended, and this box is never suspended;
threads, sockets and Python itself wait on CLOCK_MONOTONIC, so there is one clock and no conversion. NTP slews both
clocks alike (adjtimex(2)), so the offset between them moves only when somebody sets the wall clock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gateway import kernelclock
from gateway.fixes import LIVE, SYNCED_MS, Fix, Fixes, Source
from gateway.kernelclock import Kernel
from gateway.model import Door, Event, Trust

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd touches it at its first synchronisation of this boot: how a restarted process knows of one."""
BUILT_MS = 1_790_000_000_000
"""21 September 2026: no box of this version ran before."""
STEP_MS = 1000
"""A step beyond this is an event."""
STILL_MS = 10
"""Less than this between two looks is the time it takes to look; the offset is left as it is, so that the door does
not change with every tick."""
TRUST_ZH: dict[Trust, str] = {"synced": "已同步", "holdover": "守时", "unset": "未校时"}


class Clock:
    """The box's time. `now`, `door` and `offer` may be called from any thread at any rate; `tick` about once a second.

    `mono` and `wall` give seconds, `kernel` the kernel's own opinion: handed in for tests and for replay. `floor_ms`
    is a UTC time before which it cannot be, `drift_ppm` how wrong the oscillator may run, `unset_beyond_s` the largest
    bound that is still called a time.
    """

    def __init__(self, *, mono: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
                 kernel: Callable[[], Kernel] = kernelclock.ask, boot: str | None = None,
                 synced_mark: Path = TIMESYNCD_MARK, floor_ms: int = BUILT_MS, drift_ppm: float = 100.0,
                 unset_beyond_s: float = 300.0) -> None:
        self.now = mono
        self._wall, self._kernel = wall, kernel
        self._boot = boot if boot is not None else BOOT_ID.read_text(encoding="ascii").strip()
        self._refused = False
        self._lock = threading.Lock()
        self._fixes = Fixes(floor_ms, drift_ppm)
        self._limit_ms = 1000 * unset_beyond_s
        self.source: Source | None = None
        """Who vouches for the offset now."""
        self.error_ms: float | None = None
        """The bound on the error; None while nobody vouches."""
        self.synced_s: float | None = None
        """Monotonic time of the last look at which the clock was synced."""
        self._wall_ms = self._measure()
        self._take_mark(synced_mark)
        self._door = Door(self._boot, self._wall_ms, "unset")
        self._door = self._look()
        self._told: Fix | None = None

    def door(self) -> Door:
        """Give boot, offset and trust as of the last tick."""
        return self._door

    def utc_ms(self, t_ms: int) -> int:
        """Give the wall time of a monotonic millisecond of this boot, as far as it is known."""
        return t_ms + self._door.offset_ms

    @property
    def wall_off_ms(self) -> int:
        """How far the system's own clock is ahead of what is believed; nobody here sets it."""
        return self._wall_ms - self._door.offset_ms

    def floor(self, utc_ms: int) -> None:
        """It cannot be earlier than this."""
        with self._lock:
            self._fixes.raise_floor(utc_ms)

    def offer(self, source: Source, offset_ms: int, error_ms: float, at_s: float | None = None) -> bool:
        """Hear what a source says (of `at_s`, as a rule now); it counts from the next tick. False: not believed.

        What was `kept` was told when it became known; told again with the bound of today it would only be worse.
        """
        with self._lock:
            now_s = self.now()
            said = Fix(source, offset_ms, error_ms, now_s if at_s is None else at_s)
            fix = self._fixes.aged(said, now_s)
            taken = self._fixes.take(fix)
            if taken and source == "kept":
                self._told = said
        if not taken:
            log.warning("time not believed source=%s utc_ms=%d effect=it is before the journal's last word or far "
                        "after it", source, fix.utc_ms)
        return taken

    def tick(self) -> list[Event]:
        """Look again. Returns what happened since the last look, mostly nothing.

        `clock.step`: the wall clock was set by more than a second · `clock.trust`: the word of trust changed ·
        `clock.offset`: rows of this boot that nobody could date can be dated, or dated better · `clock.quarrel`: two
        sources contradict each other.
        """
        with self._lock:
            was, events, t_ms = self._door, list[Event](), round(self.now() * 1000)
            moved_ms = self._look_at_wall()
            self._door = door = self._look()
            if abs(moved_ms) > STEP_MS:
                log.warning("wall clock stepped by_ms=%d trust=%s", moved_ms, door.trust)
                events.append(self._event("clock.step", t_ms, f"时钟跳变{moved_ms / 1000:+.1f}秒",
                                          f"the wall clock was set by {moved_ms / 1000:+.1f} s",
                                          was_ms=self._wall_ms - moved_ms, to_ms=self._wall_ms))
            if door.trust != was.trust:
                log.warning("clock trust=%s was=%s source=%s", door.trust, was.trust, self.source)
                events.append(self._event(
                    "clock.trust", t_ms, f"时钟状态：{TRUST_ZH[was.trust]}→{TRUST_ZH[door.trust]}",
                    f"clock: {was.trust} → {door.trust}", was=was.trust))
            if self._news(door):
                events.append(self._event("clock.offset", t_ms, "本次启动的时间偏移已确定",
                                          "the clock offset of this boot is known"))
            for n, quarrel in enumerate(self._fixes.quarrels(self.now())):
                log.warning("times contradict one=%s other=%s apart_s=%.1f", quarrel.one, quarrel.other,
                            quarrel.apart_s)
                events.append(self._event(
                    "clock.quarrel", t_ms + n,
                    f"时间源 {quarrel.one} 与 {quarrel.other} 相差 {quarrel.apart_s:+.1f} 秒",
                    f"{quarrel.one} and {quarrel.other} differ by {quarrel.apart_s:+.1f} s",
                    sources=[quarrel.one, quarrel.other], apart_s=quarrel.apart_s))
            return events

    def _news(self, door: Door) -> bool:
        """Whether consumers should date anew what they hold of this boot undated.

        The oscillator's drift since the telling is none: what was told then dates the rows of then better.
        """
        if door.trust == "unset" or self.source is None or self.error_ms is None:
            return False
        now, told, fixes = Fix(self.source, door.offset_ms, self.error_ms, self.now()), self._told, self._fixes
        if told is not None:
            wrong = abs(now.offset_ms - told.offset_ms) > fixes.error_ms(told, now.at_s) + now.error_ms
            better = told.error_ms > 2 * max(STILL_MS, fixes.error_ms(now, told.at_s))
            if not wrong and not better:
                return False
        self._told = now
        return True

    def report(self) -> dict[str, object]:
        """Build the clock's part of the status document."""
        door, now_s = self._door, self.now()
        return {"boot": door.boot, "trust": door.trust, "offset_ms": door.offset_ms, "error_ms": self.error_ms,
                "source": self.source, "utc_ms": round(now_s * 1000) + door.offset_ms,
                "synced_ago_s": None if self.synced_s is None else round(now_s - self.synced_s, 1)}

    def _event(self, kind: str, t_ms: int, text_zh: str, text_en: str, **why: object) -> Event:
        door = self._door
        return Event(id=f"{kind}-{door.boot[:8]}-{t_ms}", kind=kind, t_ms=t_ms, text_zh=text_zh, text_en=text_en,
                     why={"boot": door.boot, "offset_ms": door.offset_ms, "trust": door.trust,
                          "error_ms": self.error_ms, "source": self.source} | why)

    def _measure(self) -> int:
        """Offset of the wall clock in ms, from the quickest of three looks at both clocks."""
        best_s, offset_s = float("inf"), 0.0
        for _ in range(3):
            before, wall, after = self.now(), self._wall(), self.now()
            if after - before < best_s:
                best_s, offset_s = after - before, wall - (before + after) / 2
        return round(offset_s * 1000)

    def _look_at_wall(self) -> int:
        """By how many ms the wall clock was set since the last look; the jitter of looking is 0."""
        wall_ms = self._measure()
        moved_ms = wall_ms - self._wall_ms
        if abs(moved_ms) < STILL_MS:
            return 0
        self._wall_ms = wall_ms
        self._fixes.lapse("kernel")   # what it said was of the clock before
        return moved_ms

    def _take_mark(self, mark: Path) -> None:
        """A process that was restarted: timesyncd synchronised this boot, if its mark is no older than the boot."""
        try:
            marked_s = mark.stat().st_mtime
        except OSError:
            return
        now_s = self.now()
        age_s = now_s + self._wall_ms / 1000 - marked_s
        if 0 <= age_s <= now_s:   # else the clock was set since
            self._fixes.take(self._fixes.aged(Fix("kept", self._wall_ms, SYNCED_MS, now_s - age_s), now_s))

    def _look(self) -> Door:
        """Ask the kernel, and choose."""
        kernel, now_s, fixes = self._asked(), self.now(), self._fixes
        if kernel.synced:
            fixes.take(Fix("kernel", self._wall_ms, kernel.error_ms or 0.0, now_s))
        else:
            fixes.lapse("kernel")
        best = fixes.best(now_s)
        trust: Trust = "unset"
        if best is None:
            self.source, self.error_ms, offset_ms = None, None, self._wall_ms
        else:
            self.source, self.error_ms, offset_ms = best.source, fixes.error_ms(best, now_s), best.offset_ms
            if self.error_ms <= SYNCED_MS and best.source in LIVE:
                trust, self.synced_s = "synced", now_s
            elif self.error_ms <= self._limit_ms:
                trust = "holdover"
        door = Door(self._boot, offset_ms, trust)
        return self._door if door == self._door else door

    def _asked(self) -> Kernel:
        try:
            kernel = self._kernel()
            self._refused = False
        except OSError as error:
            if not self._refused:
                log.warning("kernel clock state not readable error=%s", error)
            self._refused = True
            kernel = Kernel(synced=False)
        return kernel
