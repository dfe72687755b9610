"""A satellite receiver on a serial port: NMEA 0183 sentences, as several makers' firmware says them.

Owns: the sentences of one epoch, their order and their checksums. Promises: says the time it is told, late by what it
is told, with or without a fix. Never: reads a clock by itself, shares code with what reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from hil.ports import Port
from hil.waveform import Settings

NONE, AUTONOMOUS, SIMULATED = ("V", "N", "0"), ("A", "A", "1"), ("A", "S", "8")
"""How good its fix is: RMC's status and mode, GGA's quality."""


def sentence(body: str) -> bytes:
    """A body between $ and *, with its checksum."""
    check = 0
    for byte in body.encode():
        check ^= byte
    return f"${body}*{check:02X}\r\n".encode()


def epoch(utc_ms: int, fix: tuple[str, str, str] = AUTONOMOUS, kinds: str = "GGA GSV RMC ZDA") -> bytes:
    """All that is said of one moment."""
    at = datetime.fromtimestamp(utc_ms // 1000, UTC)
    clock = f"{at:%H%M%S}.{utc_ms % 1000 // 10:02d}"
    status, mode, quality = fix
    bodies = {
        "RMC": f"GNRMC,{clock},{status},2935.4000,N,11122.8000,E,0.012,,{at:%d%m%y},,,{mode}",
        "GGA": f"GNGGA,{clock},2935.4000,N,11122.8000,E,{quality},09,0.92,231.4,M,-12.7,M,,",
        "ZDA": f"GNZDA,{clock},{at:%d,%m,%Y},00,00",
        "GSV": "GPGSV,1,1,04,05,21,133,33,07,67,040,41,13,38,300,38,15,12,210,29"}
    return b"".join(sentence(bodies[kind]) for kind in kinds.split())


class Receiver:
    """One on a pty at `path`; by itself it says nothing. As a context manager it speaks each second.

    Args:
        path: the port.
        utc_s: what time it is; asked by `run` only.
        late_s: how long after the second it speaks.
    """

    def __init__(self, path: Path, utc_s: Callable[[], float] | None = None,
                 late_s: Callable[[], float] = lambda: 0.1) -> None:
        self.port = Port(path, Settings(9600, "none", 1))
        self.fix = AUTONOMOUS
        self._utc_s, self._late_s = utc_s, late_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def say(self, utc_ms: int) -> None:
        """One epoch, at once."""
        self.port.say(epoch(utc_ms, self.fix))

    def _run(self) -> None:
        assert self._utc_s is not None
        while True:
            now_s, late_s = self._utc_s(), self._late_s()
            second = int(now_s - late_s) + 1
            if self._stop.wait(max(0.0, second + late_s - now_s)):
                return
            self.say(1000 * second)

    def __enter__(self) -> Self:
        """Begin to speak."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Fall silent and pull it out."""
        self._stop.set()
        self._thread.join()
        self.port.unplug()
