"""An emulated RS-485 segment: half duplex, at the pace of its baud rate, over ptys.

Owns: the time of every character on the segment. Promises: the last byte of a frame reaches every listener when it
would on a real wire (start + characters × bits / baud), never before; two who talk at once garble each other; what was
spoilt on the way is never reported as said. Never: knows Modbus.

Programs plug in by a port path (a symlink to a pty); simulated devices are stations called by the bus's one thread.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, Self

from msgspec import Struct

from drivers.planner import characters, silence_ms
from drivers.sensor import Serial


class Reply(Struct):
    """What a station wants to say."""

    delay_s: float
    """From the last byte it heard to its first."""
    frame: bytes
    sent: Callable[[float], None] | None = None
    """Called with the monotonic time of the last byte, when the frame went out whole and unspoilt."""


class Station(Protocol):
    """A simulated device (or several behind one transceiver)."""

    name: str

    def hear(self, frame: bytes, at_s: float) -> Iterable[Reply]:
        """Take a frame somebody else sent, whose last byte came at `at_s`; called in the bus's thread."""
        ...


class Spoken(Struct, frozen=True):
    """One frame as it went over the wire."""

    at_s: float
    """Monotonic, when its last byte was delivered."""
    source: str
    frame: bytes
    whole: bool
    """False when noise, a collision or a cut spoilt it."""
    gap_s: float
    """Silence before its first byte."""


class _Talk:
    """A frame on its way."""

    def __init__(self, source: str, data: bytes, start_s: float, gap_s: float,
                 sent: Callable[[float], None] | None) -> None:
        self.source, self.data, self.start_s, self.gap_s, self.sent = source, bytearray(data), start_s, gap_s, sent
        self.done = 0
        self.spoilt = False
        self.clash = False


class _Port:
    """One pty a program may open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.master = self.slave = -1

    def plug(self) -> None:
        self.master, self.slave = os.openpty()
        for fd in (self.master, self.slave):
            tty.setraw(fd)
        os.set_blocking(self.master, False)
        spare = self.path.with_name(self.path.name + ".new")
        spare.unlink(missing_ok=True)
        spare.symlink_to(os.ttyname(self.slave))
        spare.replace(self.path)

    def unplug(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            os.close(self.slave)
            self.path.unlink(missing_ok=True)
        self.master = self.slave = -1


class Bus:
    """The segment. A context manager: leaving it stops the thread and removes the ports."""

    def __init__(self, serial: Serial | None = None, seed: int = 0) -> None:
        """Make a segment.

        Args:
            serial: pace of the wire (default 9600 8N1).
            seed: of drops, flips and noise.
        """
        serial = serial or Serial()
        char_ms = characters(serial.baud, serial.parity, serial.stop_bits)
        self.char_s = char_ms / 1000
        self.silence_s = silence_ms(char_ms, serial.baud) / 1000
        self.drop = self.flip = 0.0
        """Chance per byte to vanish, or to lose a bit's value."""
        self.busy_s = 0.0
        self.collisions = 0
        self.log: deque[Spoken] = deque(maxlen=100_000)
        """The last frames of everybody, programs included."""
        self._rng = random.Random(seed)
        # Characters passed on together: fewer wake-ups, yet nobody can take the wait for a silence.
        self._chunk = max(1, int(0.8 * self.silence_s / self.char_s))
        self._ports: dict[str, _Port] = {}
        self._stations: list[Station] = []
        self._cut: set[str] = set()
        self._talks: list[_Talk] = []
        self._heard: dict[str, bytearray] = {}
        self._end_s = 0.0
        self._calls: deque[tuple[Callable[[], Any], threading.Event]] = deque()
        self._wake_r, self._wake_w = os.pipe()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)

    def port(self, path: Path) -> str:
        """Add a port a program can open at `path` (a symlink to a pty); return the path as text."""
        made = _Port(path)
        made.plug()
        self._do(lambda: self._ports.update({str(path): made}))
        return str(path)

    def attach(self, station: Station) -> None:
        """Add a simulated device."""
        self._do(lambda: self._stations.append(station))

    def unplug(self, port: str) -> None:
        """Pull a port out: whoever has it open gets EIO, and the path is gone."""
        self._do(self._ports[port].unplug)

    def plug(self, port: str) -> None:
        """Put a port back, as a new device under the old path."""
        self._do(self._ports[port].plug)

    def cut(self, name: str) -> None:
        """Break the wire to a station or port: it neither hears nor is heard."""
        self._do(lambda: self._cut.add(name))

    def mend(self, name: str) -> None:
        """Mend the wire to a station or port."""
        self._do(lambda: self._cut.discard(name))

    def noise(self, data: bytes) -> None:
        """Let bytes nobody sent appear on the wire."""
        self._do(lambda: self._say("noise", data, time.monotonic(), None))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop and remove the ports; twice is once."""
        if self._wake_w < 0:
            return
        self._stop = True
        os.write(self._wake_w, b"x")
        if self._thread.is_alive():
            self._thread.join(5)
        for port in self._ports.values():
            port.unplug()
        os.close(self._wake_r)
        os.close(self._wake_w)
        self._wake_r = self._wake_w = -1

    def _do(self, call: Callable[[], Any]) -> None:
        """Run something in the bus's thread, which alone touches its state, and wait for it."""
        if not self._thread.is_alive():
            call()
            return
        done = threading.Event()
        self._calls.append((call, done))
        os.write(self._wake_w, b"x")
        done.wait(5)

    def _run(self) -> None:
        while not self._stop:
            fds = {port.master: port for port in self._ports.values() if port.master >= 0}
            wait_s = max(0.0, self._next_s() - time.monotonic())
            ready = select.select([self._wake_r, *fds], (), (), min(wait_s, 5.0))[0]
            now = time.monotonic()
            for fd in ready:
                if fd == self._wake_r:
                    os.read(fd, 4096)
                    continue
                with contextlib.suppress(OSError):   # nothing to read after all: an opener's flush
                    if data := os.read(fd, 4096):
                        self._say(str(fds[fd].path), data, now, None)
            while self._calls:
                call, done = self._calls.popleft()
                call()
                done.set()
            self._carry(time.monotonic())

    def _next_s(self) -> float:
        """When something happens by itself."""
        times = [talk.start_s + self.char_s * min(len(talk.data), talk.done + self._chunk) for talk in self._talks]
        if self._heard and not any(talk.start_s <= self._end_s for talk in self._talks):
            times.append(self._end_s + self.silence_s)
        return min(times, default=float("inf"))

    def _say(self, source: str, data: bytes, start_s: float, sent: Callable[[float], None] | None) -> None:
        """Put a frame on the wire from `start_s`; more from one who is still talking follows on."""
        for talk in self._talks:
            if talk.source == source and talk.start_s <= start_s and sent is None:
                talk.data += data
                return
        made = _Talk(source, data, start_s, start_s - self._end_s, sent)
        end_s = start_s + self.char_s * len(data)
        for other in self._talks:
            if other.start_s < end_s and start_s < other.start_s + self.char_s * len(other.data):
                self.collisions += 1
                made.clash = other.clash = True
        self._talks.append(made)

    def _carry(self, now: float) -> None:
        """Deliver what has been on the wire long enough."""
        for talk in [t for t in self._talks if t.start_s <= now]:
            # A nanosecond of grace: the wake-up is computed with the same floats as the characters' ends.
            ready = min(len(talk.data), int((now - talk.start_s) / self.char_s + 1e-6))
            whole = ready == len(talk.data)
            if not whole and ready - talk.done < self._chunk:
                continue
            part = bytes(talk.data[talk.done:ready])
            told = part if talk.source not in self._cut else b""
            if talk.clash:
                told = bytes(byte ^ self._rng.randrange(1, 256) for byte in told)
            if self.flip or self.drop:
                told = bytes(byte ^ (1 << self._rng.randrange(8)) if self._rng.random() < self.flip else byte
                             for byte in told if self._rng.random() >= self.drop)
            talk.spoilt |= told != part
            talk.done = ready
            at_s = time.monotonic()
            self._pass_on(talk, told)
            self._end_s = max(self._end_s, talk.start_s + self.char_s * ready)
            if whole:
                self._talks.remove(talk)
                self.busy_s += self.char_s * len(talk.data)
                self.log.append(Spoken(at_s, talk.source, bytes(talk.data), not talk.spoilt, talk.gap_s))
                if talk.sent is not None and not talk.spoilt:
                    talk.sent(at_s)
        silent = now + 1e-9 >= self._end_s + self.silence_s
        if self._heard and silent and not any(talk.start_s <= self._end_s for talk in self._talks):
            heard, self._heard = self._heard, {}
            for station in self._stations:
                if station.name in heard and station.name not in self._cut:
                    for reply in station.hear(bytes(heard[station.name]), self._end_s):
                        self._say(station.name, reply.frame, max(now, self._end_s + reply.delay_s),
                                  reply.sent or (lambda _: None))

    def _pass_on(self, talk: _Talk, told: bytes) -> None:
        """Let everybody but the talker hear it; a spoilt talk is one that no program could hear."""
        heard_by_program = False
        for name, port in self._ports.items():
            if name != talk.source and name not in self._cut and port.master >= 0:
                with contextlib.suppress(BlockingIOError):   # nobody reads that port and its buffer is full
                    os.write(port.master, told)
                    heard_by_program = True
        if talk.sent is not None and not heard_by_program:
            talk.spoilt = True
        for station in self._stations:
            if station.name != talk.source and told:
                self._heard.setdefault(station.name, bytearray()).extend(told)
