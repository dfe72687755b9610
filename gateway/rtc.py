"""The battery-backed clock chip, where the box has one.

Owns: reading /sys/class/rtc. Promises: a chip that lost its battery, stands before the journal's last word or cannot be
read gives no time; its word is good to a second, and its drift since it was set is not known, so it never makes a clock
`synced`. Never: sets it.
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
ERROR_MS = 1500.0
"""Seconds are all it tells, and a moment passes while it is read."""
_VL_READ = 0x80047013
"""RTC_VL_READ, _IOR('p', 0x13, int) (linux/rtc.h): bits of what went wrong with its supply."""


class Chip(NamedTuple):
    """One chip's word."""

    name: str
    offset_ms: int
    """UTC ms = monotonic ms + offset_ms."""


def low_battery(device: Path) -> bool:
    """Whether the chip says that its supply failed; one that cannot say is taken at its word."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(struct.unpack("i", fcntl.ioctl(fd, _VL_READ, bytes(4)))[0])
    except OSError:
        return False
    finally:
        os.close(fd)


def read(classes: Path = CLASS, devices: Path = DEVICES, now: Callable[[], float] = time.monotonic) -> Chip | None:
    """The first chip that gives a time, or None."""
    for chip in sorted(classes.glob("rtc*")):
        try:
            utc_s = int((chip / "since_epoch").read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            log.info("clock chip not read chip=%s error=%s", chip.name, error)
            continue
        at_s = now()
        if low_battery(devices / chip.name):
            log.warning("clock chip lost its supply chip=%s do='replace its battery'", chip.name)
            continue
        return Chip(chip.name, round(1000 * (utc_s + 0.5 - at_s)))
    return None
