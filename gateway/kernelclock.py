"""What the kernel says about its wall clock; asked directly, or through the small process that may ask.

Owns: the reading of adjtimex(2) and the file by which it reaches a confined gateway. Promises: changes no clock;
an answer too old to be true is none. Never: imports anything but the standard library (the process is small).

A seccomp filter cannot tell reading the clock's state from setting it, so the gateway's unit forbids both. On a box
``python -m gateway.kernelclock FILE`` runs beside it in a unit of its own, without network, and only tells.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

STATE = Path("/run/mingluo-clock/state")
"""``synced error_us monotonic_s``, one line, replaced whole. On a file system that is memory."""
EVERY_S = 5.0
OLD_S = 20.0
UNSYNCED_US = 16_000_000
"""The kernel counts its bound up by 500 ppm to this, and begins there: nobody disciplines the clock. The flag
STA_UNSYNC says less: chrony without `rtcsync` leaves it set for ever (timedatectl goes by the bound, too)."""


class Kernel(NamedTuple):
    """The kernel's opinion of its wall clock."""

    synced: bool
    error_ms: float | None = None
    """The kernel's own bound on the error, while it is synchronised."""


class Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("constant", ctypes.c_long),
        ("precision", ctypes.c_long), ("tolerance", ctypes.c_long), ("time_s", ctypes.c_long),
        ("time_us", ctypes.c_long), ("tick", ctypes.c_long), ("ppsfreq", ctypes.c_long), ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int), ("stabil", ctypes.c_long), ("jitcnt", ctypes.c_long), ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long), ("stbcnt", ctypes.c_long), ("tai", ctypes.c_int), ("spare", ctypes.c_int * 11))


def adjtimex() -> Kernel:
    """Ask the kernel; ``modes = 0`` changes nothing and needs no privilege.

    Raises:
        OSError: the call is refused (a seccomp filter).
    """
    timex = Timex(modes=0)
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "adjtimex")
    synced = timex.maxerror < UNSYNCED_US
    return Kernel(synced, timex.maxerror / 1000 if synced else None)


def ask(state: Path = STATE) -> Kernel:
    """Ask the kernel, or where that is forbidden read what the process beside us was told.

    Raises:
        OSError: forbidden, and nobody tells (or told something too old or unreadable).
    """
    try:
        return adjtimex()
    except PermissionError as refused:
        try:
            synced, error_us, at_s = state.read_text(encoding="ascii").split()
            age_s = time.monotonic() - float(at_s)
            kernel = Kernel(synced == "1", int(error_us) / 1000 if synced == "1" else None)
        except (OSError, ValueError) as error:
            raise OSError(f"adjtimex is forbidden and {state} cannot be read ({error}): "
                          f"is mingluo-clock.service running?") from refused
        if not 0 <= age_s <= OLD_S:
            raise OSError(f"{state} is {age_s:.0f} s old: is mingluo-clock.service running?") from refused
        return kernel


def tell(state: Path) -> None:
    """Write what the kernel says now, for `ask`.

    Raises:
        OSError: the kernel refuses, or the file cannot be written.
    """
    kernel = adjtimex()
    error_us = round((kernel.error_ms or 0) * 1000)
    fresh = state.with_suffix(".new")
    fresh.write_text(f"{kernel.synced:d} {error_us} {time.monotonic()!r}\n", encoding="ascii")
    fresh.chmod(0o644)
    fresh.replace(state)


def main() -> None:
    """Tell for ever; any failure ends the process and systemd starts it again."""
    while True:
        tell(Path(sys.argv[1]))
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
