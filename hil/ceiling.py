"""How much of the physical limit the rig itself leaves: a bare client that keeps the silence and nothing else.

Owns: the client. Promises: the silence is counted from the last byte it has read, so no request of its is early; every
answer is compared byte for byte. Never: uses the product's driver.

Usage: python -m hil.ceiling [BAUD [ROUNDS]]
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from drivers.exchange import checked
from drivers.planner import characters, silence_ms
from drivers.sensor import Serial
from hil.bench.child import Child

_SPIN_S = 0.0002


class Measured(Struct, frozen=True):
    """What came of it."""

    rounds: int
    round_s: float
    """Mean time to read all devices once."""
    best_s: float
    """The quickest round: what is left when nobody else wanted the CPU."""
    minimum_s: float
    """The same by physics: characters and silences alone."""
    early_requests: int
    collisions: int

    @property
    def efficiency(self) -> float:
        """Share of the physical limit."""
        return self.minimum_s / self.round_s


def minimum_s(serial: Serial, devices: int = 30, registers: int = 10) -> float:
    """Return the least time to read each device once: two silences, 8 characters asked, 5 and the data answered."""
    char_ms = characters(serial.baud, serial.parity, serial.stop_bits)
    return devices * (char_ms * (13 + 2 * registers) + 2 * silence_ms(char_ms, serial.baud)) / 1000


@contextlib.contextmanager
def bus(serial: Serial, devices: int = 30, registers: int = 10, **more: Any) -> Iterator[tuple[Child, str]]:
    """Run a bus in a process of its own; yields the process and the port."""
    with tempfile.TemporaryDirectory() as folder:
        port = f"{folder}/line"
        config = {"port": port, "serial": {"baud": serial.baud, "parity": serial.parity,
                                           "stop_bits": serial.stop_bits},
                  "devices": [{"address": n + 1, "registers": registers} for n in range(devices)], **more}
        path = Path(folder) / "bus.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        with Child("hil.bus_process", path) as child:
            yield child, port


def measure(serial: Serial, rounds: int, devices: int = 30, registers: int = 10) -> Measured:
    """Read all devices `rounds` times with the bare client.

    Raises:
        RuntimeError: an answer did not come or was another.
    """
    with bus(serial, devices, registers) as (child, port):
        fd = os.open(port, os.O_RDWR | os.O_NOCTTY)
        try:
            times_s = _poll(fd, serial, rounds, devices, registers)
        finally:
            os.close(fd)
        stats = child.ask("stats")
    return Measured(rounds, sum(times_s) / rounds, min(times_s), minimum_s(serial, devices, registers),
                    stats["early_requests"], stats["collisions"])


def _poll(fd: int, serial: Serial, rounds: int, devices: int, registers: int) -> list[float]:
    tty.setraw(fd)
    mode = termios.tcgetattr(fd)
    mode[4] = mode[5] = getattr(termios, f"B{serial.baud}")
    mode[2] = mode[2] | termios.CSTOPB if serial.stop_bits == 2 else mode[2] & ~termios.CSTOPB
    termios.tcsetattr(fd, termios.TCSANOW, mode)
    char_ms = characters(serial.baud, serial.parity, serial.stop_bits)
    silence_s = silence_ms(char_ms, serial.baud) / 1000
    asks = [(checked(bytes([unit, 3, 0, 0, 0, registers])), checked(bytes([unit, 3, 2 * registers]) + b"".join(
        (100 * unit + n).to_bytes(2, "big") for n in range(registers)))) for unit in range(1, devices + 1)]
    now, last_s = time.monotonic, time.monotonic()
    times_s = []
    for _ in range(rounds):
        began_s = last_s
        for request, expected in asks:
            due_s = last_s + silence_s
            if (rest_s := due_s - now() - _SPIN_S) > 0:
                time.sleep(rest_s)
            while now() < due_s:
                pass
            os.write(fd, request)
            # It knows when the last byte is due and is awake then, as the best of drivers would be.
            end_s = now() + char_ms / 1000 * (len(request) + len(expected)) + silence_s
            time.sleep(max(0.0, end_s - now() - _SPIN_S))
            heard = b""
            while len(heard) < len(expected):
                if now() > end_s + 1.0:
                    raise RuntimeError(f"no answer to {request.hex(' ')}, only {heard.hex(' ')!r}")
                if select.select((fd,), (), (), 0)[0]:
                    heard += os.read(fd, 256)
            last_s = now()
            if heard != expected:
                raise RuntimeError(f"asked {request.hex(' ')}, heard {heard.hex(' ')}")
        times_s.append(last_s - began_s)
    return times_s


def main(baud: int = 0, rounds: int = 0) -> None:
    """Print the rig's ceiling at 9600 and 115200 baud, or at one."""
    for each in (baud,) if baud else (9600, 115200):
        found = measure(Serial(baud=each, stop_bits=2), rounds or max(2, each // 960))   # type: ignore[arg-type]
        print(f"{each} baud: {found.round_s * 1000:.2f} ms a round of 30 × 10 registers, {found.efficiency:.2%} of "
              f"the physical limit ({found.minimum_s / found.best_s:.2%} in the best of {found.rounds} rounds), "
              f"{found.early_requests} early, {found.collisions} collisions")



if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
