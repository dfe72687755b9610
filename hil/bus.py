"""An emulated RS-485 segment: half duplex, at the pace of each talker's baud rate, over ptys.

Owns: the time of every character on the segment. Promises: the last byte of a frame reaches every listener when it
would on a real wire (start + characters × bits / baud), never before; two who talk at once garble each other; who has
other settings than the talker hears what his UART would make of it; what was spoilt on the way is never reported as
said. Never: knows Modbus.

Programs plug in by a port path (a symlink to a pty); simulated devices are stations called by the bus's one thread.

How true its times are: a request is dated when the bus's thread sees the program's write, so the start is late by a
wake-up (some 50 µs idle, more on a busy machine) and never early. `Spoken.gap_s` of a request is therefore at least
the true gap and `early_requests` may miss a request early by less than that wake-up; it never accuses a request
that kept the silence. What stations say is reckoned from the last byte heard, not from wake-ups, and its last byte is
delivered at its time or later by the thread's delay, so lateness of one exchange never adds up in the next.
A pty carries no baud rate and hides parity: see `hil.waveform.of_port`.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from drivers.sensor import Serial
from hil import waveform
from hil.ports import Port
from hil.talk import Member, Reply, Spoken, Station, Talk

__all__ = ["Bus", "Reply", "Spoken", "Station"]

_SPIN_S = 0.00015
"""The end of a frame is waited for awake this long: a sleep ends up to this much late."""
_IDLE_S = 0.05
"""How often a station is asked whether it wants to talk unasked."""


class Bus:
    """The segment. A context manager: leaving it stops the thread and removes the ports."""

    def __init__(self, serial: Serial | None = None, seed: int = 0, realtime: bool = False) -> None:
        """Make a segment.

        Args:
            serial: what stations without settings of their own have, and ports before a program sets them
                (default 9600 8N1).
            seed: of drops, flips, collisions and noise.
            realtime: ask the kernel to prefer the bus's thread, as hardware needs no CPU; `self.realtime` says
                whether it agreed (root only). For a process of its own.
        """
        self.settings = waveform.settings(serial or Serial())
        self.char_s, self.silence_s = self.settings.char_s, self.settings.silence_s
        self.drop = self.flip = 0.0
        """Chance per byte to vanish, or to lose a bit's value."""
        self.busy_s = 0.0
        """Time somebody talked; what one character hides of another is counted twice."""
        self.collisions = 0
        self.requests = 0
        self.early_requests = 0
        """Of `requests` (frames from ports), those that began less than their own settings' RTU silence after the last
        byte of anything. ASCII lines owe no such silence."""
        self.least_gap_s = float("inf")
        """The shortest gap before a request."""
        self.log: deque[Spoken] = deque(maxlen=100_000)
        """The last frames of everybody, programs included."""
        self.realtime = realtime
        self._rng = random.Random(seed)
        self._ports: dict[str, Member] = {}
        self._stations: list[Member] = []
        self._noise = Member("noise", self.settings)
        self._cut: set[str] = set()
        self._talks: list[Talk] = []
        self._end_s = 0.0
        self._calls: deque[tuple[Callable[[], Any], threading.Event]] = deque()
        self._wake_r, self._wake_w = os.pipe()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)

    def port(self, path: Path, *, echo: bool = False, strict_parity: bool = False) -> str:
        """Add a port a program can open at `path` (a symlink to a pty); return the path as text.

        Args:
            path: where; must not exist, or be an old port's.
            echo: the program hears what it sends.
            strict_parity: the program sets INPCK whenever it wants parity; see `waveform.of_port`.
        """
        made = Port(path, self.settings, echo, strict_parity)
        self._do(lambda: self._ports.update({str(path): Member(str(path), self.settings, port=made)}))
        return str(path)

    def attach(self, station: Station) -> None:
        """Add a simulated device."""
        self._do(lambda: self._stations.append(Member(station.name, self.settings, station)))

    def unplug(self, port: str) -> None:
        """Pull a port out: whoever has it open gets EIO, and the path is gone."""
        self._do(self._adapter(port).unplug)

    def plug(self, port: str) -> None:
        """Put a port back, as a new device under the old path."""
        self._do(self._adapter(port).plug)

    def _adapter(self, port: str) -> Port:
        found = self._ports[port].port
        assert found is not None
        return found

    def cut(self, name: str) -> None:
        """Break the wire to a station or port: it neither hears nor is heard."""
        self._do(lambda: self._cut.add(name))

    def mend(self, name: str) -> None:
        """Mend the wire to a station or port."""
        self._do(lambda: self._cut.discard(name))

    def noise(self, data: bytes) -> None:
        """Let bytes nobody sent appear on the wire."""
        self._do(lambda: self._say(self._noise, data, time.monotonic(), None))

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
        for port in self._ports:
            self._adapter(port).unplug()
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
        if self.realtime:
            try:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            except OSError:
                self.realtime = False
        while not self._stop:
            fds = {member.port.master: member for member in self._ports.values()
                   if member.port and member.port.master >= 0}
            ready = select.select([self._wake_r, *fds], (), (), self._wait_s(time.monotonic()))[0]
            now = time.monotonic()
            for fd in ready:
                if fd == self._wake_r:
                    os.read(fd, 4096)
                    continue
                with contextlib.suppress(OSError):   # nothing to read after all: an opener's flush
                    if data := os.read(fd, 4096):
                        self._say(fds[fd], data, now, None)
            while self._calls:
                call, done = self._calls.popleft()
                call()
                done.set()
            self._carry(time.monotonic())
            self._listen(time.monotonic())
            self._babble(time.monotonic())

    def _wait_s(self, now: float) -> float:
        """How long nothing happens by itself."""
        wait_s = _IDLE_S if any(member.unasked for member in self._stations) else 5.0
        for talk in self._talks:
            due_s = talk.next_s()
            ends = talk.done + talk.lump >= len(talk.data)
            wait_s = min(wait_s, due_s - now - (_SPIN_S if ends else 0.0))
        for member in self._stations:
            if member.heard:
                wait_s = min(wait_s, max(self._silent_s(member), self._busy_until()) - now)
        return max(0.0, wait_s)

    def _silent_s(self, member: Member) -> float:
        """When the line has been silent long enough for a station to take what it heard for a frame."""
        return self._end_s + member.settings().silence_s

    def _busy_until(self) -> float:
        return max((talk.end_s for talk in self._talks if talk.start_s <= self._end_s), default=0.0)

    def _say(self, source: Member, data: bytes, start_s: float, sent: Callable[[float], None] | None) -> None:
        """Put a frame on the wire from `start_s`; more from one who is still talking follows on."""
        made = next((t for t in self._talks if t.source is source and t.start_s <= start_s and sent is None), None)
        if made:
            made.data += data
        else:
            made = Talk(source, data, start_s, sent)
            made.gap_s = start_s - max([self._end_s, *(t.end_s for t in self._talks if t.start_s <= start_s)])
            if source.port:
                self.requests += 1
                self.early_requests += made.gap_s < made.silence_s - 1e-9
                self.least_gap_s = min(self.least_gap_s, made.gap_s)
            self._talks.append(made)
        for other in self._talks:
            if other is not made and made.overlaps(other) and other not in made.clashes:
                self.collisions += 1
                made.clashes.append(other)
                other.clashes.append(made)

    def _on_wire(self, talk: Talk, first: int, end: int) -> bytes:
        """Return what a part of a frame has become on its way."""
        if talk.source.name in self._cut:
            return b""
        out = bytearray()
        for n in range(first, end):
            byte, start_s = talk.data[n], talk.start_s + n * talk.char_s
            over = [o for o in talk.clashes if o.start_s < start_s + talk.char_s and start_s < o.end_s]
            if any(o.start_s < talk.start_s or (o.start_s == talk.start_s and id(o) < id(talk)) for o in over):
                continue   # two talk, listeners hear one stream of characters: that of who was first, spoilt
            if over:
                byte ^= self._rng.randrange(1, 256)
            if self.drop and self._rng.random() < self.drop:
                continue
            if self.flip and self._rng.random() < self.flip:
                byte ^= 1 << self._rng.randrange(8)
            out.append(byte)
        return bytes(out)

    def _carry(self, now: float) -> None:
        """Deliver what has been on the wire long enough."""
        for talk in [t for t in self._talks if t.start_s <= now]:
            # A nanosecond of grace: the wake-up is computed with the same floats as the characters' ends.
            ready = min(len(talk.data), int((now - talk.start_s) / talk.char_s + 1e-6))
            whole = ready == len(talk.data)
            if not whole and ready - talk.done < talk.lump:
                continue
            told = self._on_wire(talk, talk.done, ready)
            talk.spoilt |= told != talk.data[talk.done:ready]
            talk.told += told
            talk.done = ready
            at_s = time.monotonic()
            self._pass_on(talk, told, whole)
            self._end_s = max(self._end_s, talk.start_s + talk.char_s * ready)
            if whole:
                self._talks.remove(talk)
                talk.source.quiet_s = talk.end_s
                self.busy_s += talk.char_s * len(talk.data)
                self.log.append(Spoken(at_s, talk.source.name, bytes(talk.data), not talk.spoilt, talk.gap_s,
                                       talk.end_s))
                if talk.sent is not None and not talk.spoilt:
                    talk.sent(at_s)

    def _pass_on(self, talk: Talk, told: bytes, whole: bool) -> None:
        """Let everybody but the talker hear it, with his own settings; a spoilt talk is one no program could hear."""
        understood = False
        for name, member in self._ports.items():
            port = member.port
            if port is None or port.master < 0 or name in self._cut or (member is talk.source and not port.echo):
                continue
            mine = member.settings()
            if mine.understands(talk.settings):
                understood |= port.say(told)
            elif whole:
                port.say(waveform.heard(bytes(talk.told), talk.settings, mine)[0])
        if talk.source.station is not None and not understood:
            talk.spoilt = True
        for member in self._stations:
            if member is talk.source or member.name in self._cut:
                continue
            mine = member.settings()
            if mine.understands(talk.settings):
                member.heard += told
            elif whole:
                bent, errors = waveform.heard(bytes(talk.told), talk.settings, mine)
                member.heard += bent
                member.broken |= errors > 0

    def _listen(self, now: float) -> None:
        """Let stations take what they heard once their frame has ended."""
        busy = any(talk.start_s <= self._end_s for talk in self._talks)
        for member in self._stations:
            ended = bool(member.end) and member.heard.endswith(member.end)
            if not member.heard or not (ended or (not busy and now + 1e-9 >= self._silent_s(member))):
                continue
            frame, broken = bytes(member.heard), member.broken
            member.heard, member.broken = bytearray(), False
            if broken or member.name in self._cut or member.station is None:
                continue
            least_s = 0.0 if ended else member.settings().silence_s
            for reply in member.station.hear(frame, self._end_s):
                if reply.frame:
                    self._say(member, reply.frame, self._end_s + max(least_s, reply.delay_s), reply.sent or _unheeded)

    def _babble(self, now: float) -> None:
        """Let stations talk that want to without being asked."""
        for member in self._stations:
            if member.unasked and not any(talk.source is member and talk.start_s <= now for talk in self._talks):
                reply = member.unasked(now)
                if reply is not None:
                    start_s = max(member.quiet_s, now - 0.01) + reply.delay_s
                    self._say(member, reply.frame, start_s, reply.sent or _unheeded)


def _unheeded(_: float) -> None:
    """Nobody wants to know when it was said."""
