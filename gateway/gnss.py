"""The time from a satellite receiver on a serial port (NMEA 0183: RMC and ZDA sentences).

Owns: the port, its sentences and the offset they give. Promises: a sentence without a checksum that holds, without a
fix, or half a sentence is nothing; of many the earliest to arrive counts, because a sentence is only ever late.
Never: writes to the receiver.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import re
import select
import termios
import tty
from collections import deque
from collections.abc import Callable
from functools import reduce

from drivers import LinkError

ERROR_MS = 500.0
"""Without a pulse a second a receiver says its sentence up to half a second after the moment it speaks of."""
_KEPT = 30
_LONGEST = 4096
_SPEEDS = {4800: termios.B4800, 9600: termios.B9600, 19200: termios.B19200, 38400: termios.B38400,
           57600: termios.B57600, 115200: termios.B115200}
_TIME = re.compile(rb"^(\d{2})(\d{2})(\d{2})(?:\.(\d{1,3})\d*)?$")


def utc_ms(sentence: bytes) -> int | None:
    """The UTC of one sentence ($…*hh without line end), or None when it gives none."""
    body, star, check = sentence.strip().removeprefix(b"$").partition(b"*")
    if not star or not sentence.lstrip().startswith(b"$"):
        return None
    with contextlib.suppress(ValueError):
        if int(check[:2], 16) != reduce(lambda a, b: a ^ b, body, 0):
            return None
        fields = body.split(b",")
        if fields[0][-3:] == b"RMC" and len(fields) > 9 and fields[2] == b"A":
            day, month, year = int(fields[9][:2]), int(fields[9][2:4]), 2000 + int(fields[9][4:6])
        elif fields[0][-3:] == b"ZDA" and len(fields) > 4:
            day, month, year = int(fields[2]), int(fields[3]), int(fields[4])
        else:
            return None
        at = _TIME.match(fields[1])
        if at is None or not (1 <= day <= 31 and 1 <= month <= 12 and 2020 <= year < 2100):
            return None
        hour, minute, second = (int(part) for part in at.groups()[:3])
        millis = int((at[4] or b"0").ljust(3, b"0"))
        return 1000 * calendar.timegm((year, month, day, hour, minute, second)) + millis
    return None


class Gnss:
    """A receiver: `open`, `step` again and again, `close`; one thread."""

    def __init__(self, port: str, baud: int, offer: Callable[[int, float], object], now: Callable[[], float]) -> None:
        """`offer` takes offset and error in ms."""
        self._port, self._baud, self._offer, self._now = port, baud, offer, now
        self._fd = -1
        self._heard = b""
        self._offsets: deque[int] = deque(maxlen=_KEPT)

    def open(self) -> None:
        """Take the port.

        Raises:
            LinkError: it is not there.
        """
        try:
            self._fd = os.open(self._port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            tty.setraw(self._fd)
            settings = termios.tcgetattr(self._fd)
            settings[4] = settings[5] = _SPEEDS[self._baud]
            termios.tcsetattr(self._fd, termios.TCSANOW, settings)
        except (OSError, termios.error) as error:
            self.close()
            raise LinkError(f"GNSS port {self._port}: {error}; is the receiver plugged in?") from error
        self._heard = b""

    def step(self, timeout_s: float) -> None:
        """Listen for up to `timeout_s`.

        Raises:
            LinkError: the port is gone.
        """
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return
        at_s = self._now()
        try:
            chunk = os.read(self._fd, 1024)
        except OSError as error:
            raise LinkError(f"GNSS port {self._port} is gone: {error}") from error
        if not chunk:
            raise LinkError(f"GNSS port {self._port} is gone")
        *lines, rest = (self._heard + chunk).split(b"\n")
        self._heard = rest[-_LONGEST:]
        for line in lines:
            if (utc := utc_ms(line)) is not None:
                self._offsets.append(utc - round(1000 * at_s))
        if any(utc_ms(line) is not None for line in lines):
            # The earliest to arrive makes the largest offset; an older clock jump would keep a stale one on top.
            near = [offset for offset in self._offsets if abs(offset - self._offsets[-1]) < 2000]
            self._offer(max(near), ERROR_MS)

    def close(self) -> None:
        """Let go; twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
