"""A world whose clocks are moved by hand, and the gateway living in it.

`World` is the test's side: it knows the true time, and what the box's two clocks and its kernel say. As a script it is
the gateway, with the clocks of Python taken from the world before anything else is imported: whoever in the gateway
asks for a time, by whatever name, gets the world's. Two hours pass in one `jump`.

Usage: python tests/moved_clock.py WORLD run CONFIG
"""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path
from typing import Self

YEAR_S, DAY_S = 365 * 86_400.0, 86_400.0
BOOTED_S = 20.0
"""What the monotonic clock says when the gateway starts: the system was up before."""
_AHEAD, _WALL, _ERROR = range(3)
"""Where the world's file has: how far its monotonic clock is ahead of the host's (s), what makes wall time of it (s),
the kernel's bound on the wall clock's error (ms; below 0: nobody disciplines it)."""


def _cells(path: Path) -> memoryview:
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("d")


class World:
    """True time, and the clocks of one box. `utc_s` is what a row's time is held against."""

    def __init__(self, path: Path, *, drift_ppm: float = 0.0) -> None:
        """`drift_ppm`: how much slower than the truth the box's oscillator runs, in the time that `jump` makes pass."""
        path.write_bytes(bytes(8 * 4096))
        self.path, self._cells, self._drift = path, _cells(path), drift_ppm / 1e6
        self._truth: list[tuple[float, float]] = []
        """(host's monotonic s, UTC s): from then on both run alike."""
        self._boots = 0

    def boot(self, utc_s: float, wall_s: float) -> Self:
        """Switch the box on, at this true time; its wall clock, which nobody vouches for, says `wall_s`."""
        host_s = time.monotonic()
        self._boots += 1
        boot_id(self.path).write_text(f"{self._boots:08d}-0000-4000-8000-000000000000\n", encoding="ascii")
        self._cells[_AHEAD] = BOOTED_S - host_s
        self._truth.append((host_s, utc_s))
        self.free()
        self._cells[_WALL] = wall_s - BOOTED_S
        return self

    def utc_s(self, host_s: float | None = None) -> float:
        """The truth at a moment of the host's monotonic clock, as a rule now."""
        host_s = time.monotonic() if host_s is None else host_s
        at_s, utc_s = next((then for then in reversed(self._truth) if then[0] <= host_s), self._truth[0])
        return utc_s + host_s - at_s

    def utc_ms(self) -> int:
        """The truth, as a platform's computer has it."""
        return round(1000 * self.utc_s())

    @property
    def wall_s(self) -> float:
        """What the box's wall clock says."""
        return time.monotonic() + self._cells[_AHEAD] + self._cells[_WALL]

    def jump(self, by_s: float) -> None:
        """So much time passes at once, for all clocks; true time by what the oscillator is slow more."""
        host_s = time.monotonic()
        utc_s = self.utc_s(host_s) + by_s * (1 + self._drift)
        self._cells[_AHEAD] += by_s
        self._truth.append((host_s, utc_s))

    def step(self, by_s: float) -> None:
        """Somebody sets the wall clock; the kernel then knows that nobody disciplines it (clock_settime(2))."""
        self.free()
        self._cells[_WALL] += by_s

    def sync(self, error_ms: float = 5.0) -> None:
        """An NTP client sets the wall clock right and tells the kernel."""
        self._cells[_WALL] += self.utc_s() - self.wall_s
        self._cells[_ERROR] = error_ms

    def free(self) -> None:
        """Nobody disciplines the wall clock."""
        self._cells[_ERROR] = -1.0


def boot_id(world: Path) -> Path:
    """The file that stands for /proc/sys/kernel/random/boot_id."""
    return world.with_suffix(".boot")


def live(path: Path) -> None:
    """Take all clocks of this process from the world; before anybody took the host's."""
    cells, host_s = _cells(path), time.monotonic

    def mono_s() -> float:
        return host_s() + cells[_AHEAD]

    def wall_s() -> float:
        return mono_s() + cells[_WALL]

    time.monotonic, time.time = mono_s, wall_s
    time.monotonic_ns = lambda: round(mono_s() * 1e9)
    time.time_ns = lambda: round(wall_s() * 1e9)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from gateway import clock, kernelclock

    clock.BOOT_ID = boot_id(path)
    # The mark of the host's own time client says nothing about this world.
    clock.Clock.__init__.__kwdefaults__["synced_mark"] = path.with_suffix(".no-mark")
    kernelclock.adjtimex = lambda: kernelclock.Kernel(cells[_ERROR] >= 0, max(0.0, cells[_ERROR]))


if __name__ == "__main__":
    live(Path(sys.argv[1]))
    from gateway.app import run

    raise SystemExit(run(sys.argv[3]))
