"""How much is written to the card in a day.

Owns: the count of the day. Promises: it is what the kernel counts (`write_bytes` of /proc/self/io: every page this
process made the disk write, database, write-ahead log and checkpoints; nothing that lies in memory, and nothing of what
the file system or the card adds); where the kernel does not count, nothing is said; the budget is told once a day.
Never: guesses, stops anybody from writing.

The whole process is counted, not a thread: the service writes nothing to a disk but its journal, and whoever writes
there for the journal (a stop, a search) must not be missed. The day is UTC's while the clock can be trusted; until then
it is the boot's (86 400 s since it). A day is new when it is later than the last one of the same clock.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, structs

DAY_S = 86_400
_COUNTS = Path("/proc/self/io")


class Worn(Struct, frozen=True, array_like=True):
    """What a restart must not forget."""

    utc_day: int | None = None
    """The last one that was known."""
    today_bytes: int = 0
    before_bytes: int | None = None
    """In the last day before this one."""
    told: bool = False
    """That today's budget is used up."""


def written_bytes() -> int | None:
    """By this process so far; None where the kernel does not count it."""
    try:
        return next(int(line.split()[1]) for line in _COUNTS.read_text("ascii").splitlines()
                    if line.startswith("write_bytes:"))
    except (OSError, ValueError, StopIteration):
        return None


class Wear:
    """One per Journal. One thread at a time."""

    def __init__(self, budget_bytes_day: float | None, count: Callable[[], int | None] = written_bytes) -> None:
        self.worn = Worn()
        self.measured = False
        """Whether anybody counts."""
        self.budget_bytes_day = budget_bytes_day
        self._count, self._last = count, count()
        self._boot_day: int | None = None

    def look(self, now_s: float, utc_s: float | None) -> bool:
        """Count what was written since the last look; whether that used up today's budget.

        Args:
            now_s: since the boot.
            utc_s: since 1970, when that can be trusted.
        """
        self._turn(int(now_s // DAY_S), None if utc_s is None else int(utc_s // DAY_S))
        last, self._last = self._last, self._count()
        self.measured = last is not None and self._last is not None
        if last is None or self._last is None:
            return False
        today, told = self.worn.today_bytes + max(0, self._last - last), self.worn.told
        over = self.budget_bytes_day is not None and today > self.budget_bytes_day
        self.worn = structs.replace(self.worn, today_bytes=today, told=told or over)
        return over and not told

    def _turn(self, boot_day: int, utc_day: int | None) -> None:
        known = self.worn.utc_day
        since = boot_day if self._boot_day is None else self._boot_day
        fresh = boot_day > since if utc_day is None else known is not None and utc_day > known
        if utc_day is None or known is None or utc_day >= known:   # a clock that is put back makes no new day
            self._boot_day, day = boot_day, known if utc_day is None else utc_day
            self.worn = (Worn(day, 0, self.worn.today_bytes) if fresh else structs.replace(self.worn, utc_day=day))
