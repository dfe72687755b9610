"""Monotonic time, the boot it belongs to, and how far the wall clock can be trusted.

Owns: the offset between the two clocks and the word of trust for it. Promises: nothing inside the box is timed by
the wall clock; a step of more than a second is told; `synced` is said only while the kernel says so.
Never: sets a clock, judges a time that came from elsewhere.

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
from gateway.kernelclock import Kernel
from gateway.model import Door, Event, Trust

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd touches it at its first synchronisation of this boot: how a restarted process knows of one."""
STEP_MS = 1000
"""A step beyond this is an event."""
STILL_MS = 10
"""Less than this between two looks is the time it takes to look; the offset is left as it is, so that the door does
not change with every tick."""
TRUST_ZH: dict[Trust, str] = {"synced": "已同步", "holdover": "守时", "unset": "未校时"}


class Clock:
    """The box's time. `now` and `door` may be called from any thread at any rate; `tick` about once a second.

    `mono` and `wall` give seconds, `kernel` the kernel's own opinion: handed in for tests and for replay.
    """

    def __init__(self, *, mono: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
                 kernel: Callable[[], Kernel] = kernelclock.ask, boot: str | None = None,
                 synced_mark: Path = TIMESYNCD_MARK) -> None:
        self.now = mono
        self._wall, self._kernel = wall, kernel
        self._boot = boot if boot is not None else BOOT_ID.read_text(encoding="ascii").strip()
        self._once_synced = synced_mark.exists()
        self._refused = False
        self._lock = threading.Lock()
        self.error_ms: float | None = None
        """The kernel's bound on the error of the wall clock; None while not synced."""
        self.synced_s: float | None = None
        """Monotonic time of the last look at which the clock was synced."""
        self._door = Door(self._boot, self._measure(), self._look())
        self._told_offset = False

    def door(self) -> Door:
        """Give boot, offset and trust as of the last tick."""
        return self._door

    def utc_ms(self, t_ms: int) -> int:
        """Give the wall time of a monotonic millisecond of this boot, as far as it is known."""
        return t_ms + self._door.offset_ms

    def tick(self) -> list[Event]:
        """Look again. Returns what happened since the last look, mostly nothing.

        `clock.step`: the wall clock was set by more than a second · `clock.trust`: the word of trust changed ·
        `clock.offset`: the offset of this boot is known from now on; what was stored before can be dated.
        """
        with self._lock:
            was = self._door
            trust, offset_ms = self._look(), self._measure()
            moved_ms = offset_ms - was.offset_ms
            if abs(moved_ms) < STILL_MS:
                offset_ms, moved_ms = was.offset_ms, 0
            t_ms = round(self.now() * 1000)
            events = []
            if trust != was.trust or moved_ms:
                self._door = Door(self._boot, offset_ms, trust)
            if abs(moved_ms) > STEP_MS:
                log.warning("wall clock stepped by_ms=%d trust=%s", moved_ms, trust)
                events.append(self._event("clock.step", t_ms, f"时钟跳变{moved_ms / 1000:+.1f}秒",
                                          f"the wall clock was set by {moved_ms / 1000:+.1f} s", was_ms=was.offset_ms))
            if trust != was.trust:
                log.warning("clock trust=%s was=%s", trust, was.trust)
                events.append(self._event("clock.trust", t_ms, f"时钟状态：{TRUST_ZH[was.trust]}→{TRUST_ZH[trust]}",
                                          f"clock: {was.trust} → {trust}", was=was.trust))
            if trust == "synced" and (not self._told_offset or moved_ms):
                self._told_offset = True
                events.append(self._event("clock.offset", t_ms, "本次启动的时间偏移已确定",
                                          "the clock offset of this boot is known"))
            return events

    def report(self) -> dict[str, object]:
        """Build the clock's part of the status document."""
        door, now_s = self._door, self.now()
        return {"boot": door.boot, "trust": door.trust, "offset_ms": door.offset_ms, "error_ms": self.error_ms,
                "utc_ms": round(now_s * 1000) + door.offset_ms,
                "synced_ago_s": None if self.synced_s is None else round(now_s - self.synced_s, 1)}

    def _event(self, kind: str, t_ms: int, text_zh: str, text_en: str, **why: object) -> Event:
        door = self._door
        return Event(id=f"{kind}-{door.boot[:8]}-{t_ms}", kind=kind, t_ms=t_ms, text_zh=text_zh, text_en=text_en,
                     why={"boot": door.boot, "offset_ms": door.offset_ms, "trust": door.trust,
                          "error_ms": self.error_ms} | why)

    def _measure(self) -> int:
        """Offset in ms, from the quickest of three looks at both clocks."""
        best_s, offset_s = float("inf"), 0.0
        for _ in range(3):
            before, wall, after = self.now(), self._wall(), self.now()
            if after - before < best_s:
                best_s, offset_s = after - before, wall - (before + after) / 2
        return round(offset_s * 1000)

    def _look(self) -> Trust:
        try:
            kernel = self._kernel()
            self._refused = False
        except OSError as error:
            if not self._refused:
                log.warning("kernel clock state not readable error=%s", error)
            self._refused = True
            kernel = Kernel(synced=False)
        self.error_ms = kernel.error_ms if kernel.synced else None
        if kernel.synced:
            self._once_synced = True
            self.synced_s = self.now()
            return "synced"
        return "holdover" if self._once_synced else "unset"
