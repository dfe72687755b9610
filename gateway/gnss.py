"""The time from a satellite receiver on a serial port (NMEA 0183).

Owns: the port, its sentences and the offset they give. Promises: nothing is a time that has no fix, no checksum that
holds, or only itself to confirm it; a sentence is only ever late, so of many the earliest to arrive counts, and the
bound says how much that leaves open. Never: writes to the receiver.

RMC has date and time and says whether they are valid. ZDA has no such word (receivers say it from their own clock chip
before they see a satellite): it counts while RMC or GGA say that there is a fix. Not seen from here: a receiver that is
seconds wrong until it has heard the leap seconds (up to 12.5 minutes after a cold start, if its maker built in none).
"""

from __future__ import annotations

import os
import re
import select
import termios
import tty
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from typing import NamedTuple

from drivers import LinkError

LATE_MS = 600.0
"""Without a pulse a second a receiver speaks this long after the moment it speaks of, at the latest when quickest."""
_KEPT = 30
_CONFIRMED = 5
"""So many sentences in a row must agree."""
_NEAR_MS = 1500
"""Within this they agree: a burst of other sentences, a busy box."""
_FIX_S = 5.0
"""So long RMC or GGA vouch for ZDA."""
_SILENT_S = 30.0
_LONGEST = 4096
_SPEEDS = {4800: termios.B4800, 9600: termios.B9600, 19200: termios.B19200, 38400: termios.B38400,
           57600: termios.B57600, 115200: termios.B115200}
_SENTENCE = re.compile(rb"\$(..)(RMC|ZDA|GGA),([^*\r\n]*)\*([0-9A-Fa-f]{2})\s*$")
_TIME = re.compile(r"^(\d\d)(\d\d)(\d\d)(?:\.(\d{1,3})\d*)?$")
_RMC_MODES = frozenset("ADFPR")
"""Autonomous, differential, float and fixed RTK, precise. Not: estimated, manual, simulated, none."""
_GGA_QUALITIES = frozenset("12345")
"""The same as numbers; 0 none, 6 estimated, 7 manual, 8 simulated."""


class Said(NamedTuple):
    """What one sentence says of time."""

    utc_ms: int | None = None
    fix: bool | None = None
    """Whether it is valid; None = this kind of sentence does not say."""


def said(line: bytes) -> Said | None:
    """Read one line; None when it is not a whole sentence of a kind we read. Rubbish before its $ is passed over."""
    found = _SENTENCE.search(line)
    if found is None or int(found[4], 16) != reduce(lambda a, b: a ^ b, line[found.start() + 1:found.start(4) - 1], 0):
        return None
    fields = found[3].decode("ascii", "replace").split(",")
    if found[2] == b"GGA":
        return Said(fix=len(fields) > 5 and fields[5] in _GGA_QUALITIES)
    if found[2] == b"ZDA":
        return Said(_utc_ms(fields[0], *fields[1:4]) if len(fields) > 3 else None)
    if len(fields) < 9:
        return None
    mode = fields[11] if len(fields) > 11 else "A"   # receivers before NMEA 2.3 do not say
    date = fields[8]
    return Said(_utc_ms(fields[0], date[:2], date[2:4], f"20{date[4:]}"), fields[1] == "A" and mode in _RMC_MODES)


def _utc_ms(time: str, day: str, month: str, year: str) -> int | None:
    at = _TIME.match(time)
    try:
        if at is None:
            return None
        hour, minute, second = (int(part) for part in at.groups()[:3])
        leap = second == 60   # datetime has none
        whole = datetime(int(year), int(month), int(day), hour, minute, second - leap, tzinfo=UTC)
    except ValueError:
        return None
    return 1000 * (round(whole.timestamp()) + leap) + int((at[4] or "0").ljust(3, "0"))


class Gnss:
    """A receiver: `open`, `step` again and again, `close`; one thread. `report` may be asked from any."""

    def __init__(self, port: str, baud: int, offer: Callable[[int, float], object], now: Callable[[], float]) -> None:
        """`offer` takes offset and error in ms."""
        self._port, self._baud, self._offer, self._now = port, baud, offer, now
        self._fd = -1
        self._heard = b""
        self._offsets: deque[int] = deque(maxlen=_KEPT)
        self._spoke_s = self._fix_s = float("-inf")

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
            termios.tcflush(self._fd, termios.TCIFLUSH)   # what waited there is old
        except (OSError, termios.error) as error:
            self.close()
            raise LinkError(f"GNSS port {self._port}: {error}; is the receiver plugged in?") from error
        self._heard, self._spoke_s = b"", self._now()
        self._offsets.clear()

    def step(self, timeout_s: float) -> None:
        """Listen for up to `timeout_s`.

        Raises:
            LinkError: the port is gone, or says nothing that is NMEA.
        """
        ready = select.select([self._fd], [], [], timeout_s)[0]
        at_s = self._now()
        if at_s - self._spoke_s > _SILENT_S:
            self._spoke_s = at_s
            raise LinkError(f"GNSS port {self._port}: no NMEA sentence for {_SILENT_S:.0f} s; is baud {self._baud} "
                            f"what the receiver speaks?")
        if not ready:
            return
        try:
            chunk = os.read(self._fd, 1024)
        except OSError as error:
            raise LinkError(f"GNSS port {self._port} is gone: {error}") from error
        if not chunk:
            raise LinkError(f"GNSS port {self._port} is gone")
        *lines, rest = (self._heard + chunk).split(b"\n")
        self._heard = rest[-_LONGEST:]
        for line in lines:
            if (sentence := said(line)) is not None:
                self._take(sentence, at_s)

    def _take(self, sentence: Said, at_s: float) -> None:
        self._spoke_s = at_s
        if sentence.fix is not None:
            self._fix_s = at_s if sentence.fix else float("-inf")
        if sentence.utc_ms is None or at_s - self._fix_s > _FIX_S:
            return
        self._offsets.append(sentence.utc_ms - round(1000 * at_s))
        near = sorted(offset for offset in self._offsets if abs(offset - self._offsets[-1]) <= _NEAR_MS)
        latest = list(self._offsets)[-_CONFIRMED:]
        if len(latest) < _CONFIRMED or max(latest) - min(latest) > _NEAR_MS:
            return
        # The earliest to arrive makes the largest offset. How far the usual one lies behind it tells how sure it is
        # that another could not have been earlier still.
        jitter_ms = near[-1] - near[len(near) // 2]
        self._offer(near[-1] + round(LATE_MS / 2), LATE_MS / 2 + jitter_ms)

    def report(self) -> dict[str, object]:
        """How it is doing, for status."""
        now_s = self._now()
        return {"port": self._port, "heard": now_s - self._spoke_s < _FIX_S, "fix": now_s - self._fix_s < _FIX_S}

    def close(self) -> None:
        """Let go; twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
