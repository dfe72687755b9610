"""The battery-backed clock chip, where the box has one.

Owns: reading /sys/class/rtc. Promises: a chip that lost its time, stands in local time or cannot be read gives none;
its bound allows for the drift since it can have been set at the earliest known moment, so it never makes a clock
`synced`. Never: sets it, waits for a second to end (nothing may hold up the siren's start).
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

CLASS = Path("/sys/class/rtc")
DEVICES = Path("/dev")
ADJTIME = Path("/etc/adjtime")
"""hwclock(8) writes LOCAL into it where the chip does not keep UTC."""
_ERROR_MS = 600.0
"""It tells whole seconds: half a second either way, and the moment it takes to ask."""
_VL_READ = 0x80047013
"""RTC_VL_READ, _IOR('p', 0x13, unsigned int) (linux/rtc.h): bits of what went wrong with its supply."""
_DATA_INVALID = 0x01
"""RTC_VL_DATA_INVALID, and what drivers before Linux 5.7 say. Its other bits (a low or empty backup now, a switch to it
in the past) do not make the time wrong."""


class Chip(NamedTuple):
    """One chip's word."""

    name: str
    offset_ms: int
    """UTC ms = monotonic ms + offset_ms."""
    at_s: float
    """Monotonic."""

    @property
    def utc_ms(self) -> int:
        """What it said the time was."""
        return self.offset_ms + round(self.at_s * 1000)

    def error_ms(self, known_ms: int, drift_ppm: float) -> float:
        """Its bound: as if it had drifted ever since `known_ms`, the last UTC the box was sure of."""
        return _ERROR_MS + max(0, self.utc_ms - known_ms) * drift_ppm / 1e6


def supply(device: Path) -> int:
    """What the chip says of its supply, as bits; 0 where it cannot say or may not be asked."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        bits: int = struct.unpack("I", fcntl.ioctl(fd, _VL_READ, bytes(4)))[0]
        return bits
    except OSError:
        return 0
    finally:
        os.close(fd)


def read(classes: Path = CLASS, devices: Path = DEVICES, adjtime: Path = ADJTIME,
         now: Callable[[], float] = time.monotonic, supply: Callable[[Path], int] = supply) -> list[Chip]:
    """Every chip that gives a time; first the one the kernel set its clock from."""
    try:
        local = "LOCAL" in adjtime.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        local = False
    if local:
        log.warning("clock chips not used reason='%s says that they keep local time' "
                    "do='timedatectl set-local-rtc 0'", adjtime)
        return []
    found = []
    for chip in sorted(classes.glob("rtc*"), key=lambda chip: (_text(chip / "hctosys") != "1", chip.name)):
        before_s = now()
        told, after_s = _text(chip / "since_epoch"), now()
        if not told.isdecimal():
            log.info("clock chip not read chip=%s said=%r", chip.name, told)
            continue
        bits = supply(devices / chip.name)
        if bits:
            log.warning("clock chip complains of its supply chip=%s bits=%#x do='replace its battery'", chip.name, bits)
        if bits & _DATA_INVALID or after_s - before_s > 1.0:
            continue
        at_s = (before_s + after_s) / 2
        found.append(Chip(chip.name, round(1000 * (int(told) + 0.5 - at_s)), at_s))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        return f"{error}"
