"""What may be said when bytes cost money: the day's budget, and the pace of a backlog.

Owns: the count of the day (all bytes on the wire, as the kernel counts them), the mode, the tokens. Promises: alarms,
events and warnings always pass; the rest gives way in the order of its worth: at 80 % of the cap the backlog stops,
live readings go once a minute (the newest: what was passed over is
backlog) and `diag` once an hour, at 100 % neither goes; a new day begins anew; nothing is lost by
it, for rows that are not sent stay unsent. Never: knows a clock, a socket or a row.
"""

from __future__ import annotations

from typing import Literal

Mode = Literal["normal", "saver", "alarm_only"]
Kind = Literal["alarm", "event", "live", "backlog", "warn", "diag"]

DAY_S = 86_400
SAVER_SHARE = 0.8
SAVER_EVERY_S: dict[Kind, float] = {"live": 60.0, "diag": 3600.0}
"""How often a message of a kind passes in saver mode."""
_SOON_S = 1e-6
"""What rounding leaves of a wait that is over."""


class Budget:
    """Of one platform, over links that are metered. `cap_bytes_day` None: no cap, always normal.

    The day is UTC's while the clock can be trusted; until then it is the boot's (86 400 s since it). A day is new when
    it is later than the last one of the same clock: a clock that is set for the first time, or put back, makes none.
    """

    def __init__(self, cap_bytes_day: float | None, utc_day: int | None = None, spent_bytes: int = 0) -> None:
        """`utc_day`, `spent_bytes`: what `kept` said before a restart."""
        self._cap = cap_bytes_day
        self.metered = True
        """The link in use is: over one that is not, nothing is counted and nothing held back."""
        self._utc_day, self._boot_day, self._spent = utc_day, 0, spent_bytes
        self._passed_s: dict[Kind, float] = {}

    @property
    def mode(self) -> Mode:
        """What `birth` says, too."""
        if self._cap is None or not self.metered or self._spent < SAVER_SHARE * self._cap:
            return "normal"
        return "saver" if self._spent < self._cap else "alarm_only"

    @property
    def kept(self) -> tuple[int | None, int]:
        """Last day of UTC, and bytes: what a restart must not forget."""
        return self._utc_day, self._spent

    def turn(self, now_s: float, utc_s: float | None) -> bool:
        """Say what time it is: seconds since boot, and since 1970 when that can be trusted. Whether a new day began."""
        boot_day, utc_day = int(now_s // DAY_S), None if utc_s is None else int(utc_s // DAY_S)
        if utc_day is None:
            fresh, self._boot_day = boot_day > self._boot_day, boot_day
        else:
            fresh = self._utc_day is not None and utc_day > self._utc_day
            self._utc_day, self._boot_day = utc_day, boot_day
        if fresh:
            self._spent = 0
            self._passed_s.clear()
        return fresh

    def spent(self, size_bytes: int) -> None:
        """So many bytes went over the link in use, in either direction."""
        if self.metered:
            self._spent += size_bytes

    def allows(self, kind: Kind, size_bytes: int, now_s: float) -> bool:
        """Whether a message of this size may go now (monotonic seconds); a yes counts as gone.

        It does not count the bytes: `spent` does, when they went; `size_bytes` includes what is under way.
        """
        if kind in ("alarm", "event", "warn") or self._cap is None or not self.metered:
            return True
        mode = self.mode
        if mode == "normal":
            return self._spent + size_bytes <= self._cap
        every_s = SAVER_EVERY_S.get(kind)
        if mode == "alarm_only" or every_s is None or self._spent + size_bytes > self._cap:
            return False
        if now_s - self._passed_s.get(kind, float("-inf")) < every_s:
            return False
        self._passed_s[kind] = now_s
        return True


class Bucket:
    """The pace of a backlog, in messages and in bytes a second (None: as many as there are).

    A quarter of a second's worth is saved up, at least one message. A message larger than that goes, and is paid for by
    the wait after it: a limit below the size of one message slows it down and never stops it.
    """

    def __init__(self, messages_per_s: float, bytes_per_s: float | None, now_s: float) -> None:
        self._rates = (messages_per_s, bytes_per_s)
        self._most = (max(1.0, messages_per_s / 4), (bytes_per_s or 0.0) / 4)
        self._messages, self._bytes, self._at_s = 1.0, self._most[1], now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next message may go; 0: now."""
        passed_s, self._at_s = max(0.0, now_s - self._at_s), max(now_s, self._at_s)
        messages_per_s, bytes_per_s = self._rates
        self._messages = min(self._most[0], self._messages + passed_s * messages_per_s)
        wait_s = (1.0 - self._messages) / messages_per_s
        if bytes_per_s is not None:
            self._bytes = min(self._most[1], self._bytes + passed_s * bytes_per_s)
            wait_s = max(wait_s, -self._bytes / bytes_per_s)
        return wait_s if wait_s > _SOON_S else 0.0

    def take(self, size_bytes: int) -> None:
        """One of this size goes."""
        self._messages -= 1.0
        if self._rates[1] is not None:
            self._bytes -= size_bytes
