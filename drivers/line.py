"""One serial line's time: silence, one exchange at a time, and what the line says in between.

Owns: the port and the moment of its last byte. Promises: at least 3.5 characters of silence before every request,
measured from the last byte in either direction; nothing heard before a request is taken for its answer; `LinkError`
when the port is gone. Never: retries, knows devices or due times.

Source of the timing: Modbus over Serial Line V1.02, 2.5.1.1 (3.5 characters; fixed 1.75 ms above 19200 baud).
"""

from __future__ import annotations

import os
import select
import termios
import time
from collections.abc import Callable
from typing import Protocol

import serial
from msgspec import Struct

from drivers import LinkError, Note
from drivers.exchange import Ask, hear, leftover
from drivers.planner import characters, silence_ms
from drivers.sensor import Serial

_PAUSE_S = 0.05
"""A pause inside an answer longer than this (and than 10 characters) ends it: USB adapters pass bytes on in lumps
up to 16 ms apart, so the 1.5 characters of the standard cannot be asked of them."""
_SLACK_S = 0.5
"""What an answer may take beyond twice its time on the wire: a line that drips for ever may not hold the others."""
_NAP_S = 0.003
"""Shorter rests of an answer are not worth a sleep of their own."""
_PARITY = {"none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD}


class Heard(Struct, frozen=True, gc=False):
    """What became of one exchange."""

    note: Note | None
    """Why there is no answer; None = there is."""
    data: bytes
    start: int
    """Where the registers or coils begin in `data`."""
    at_s: float
    """Arrival of the last byte (or the moment of giving up), monotonic."""
    response_s: float | None = None
    """Last byte of the request to first byte of the answer."""


class Line(Protocol):
    """What carries exchanges: a serial line or a TCP connection."""

    def open(self) -> None:
        """Take it; raises LinkError while it is not there."""

    def exchange(self, ask: Ask, settings: Serial | None = None) -> Heard:
        """Ask and listen; raises LinkError when the line itself is gone."""
        ...

    def close(self) -> None:
        """Let go; twice is once."""


class SerialLine:
    """One RS-485 (or RS-232) port."""

    def __init__(self, port: str, settings: Serial, answer_timeout_s: float, now: Callable[[], float]) -> None:
        self.port = port
        self._settings = settings
        self._timeout_s = answer_timeout_s
        self._now = now
        self._port: serial.Serial | None = None
        self._fd = -1
        self._last_s = 0.0
        """When the last byte, sent or heard, was on the line."""
        self._set_times(settings)

    def _set_times(self, settings: Serial) -> None:
        char_ms = characters(settings.baud, settings.parity, settings.stop_bits)
        self._char_s = char_ms / 1000
        self._silence_s = silence_ms(char_ms, settings.baud) / 1000
        self._current = settings

    def open(self) -> None:
        """Open the port for this process alone.

        Raises:
            LinkError: there is no such port, it is in use, or it refuses the settings.
        """
        self.close()
        wanted = self._settings
        try:
            self._port = serial.Serial(self.port, wanted.baud, parity=_PARITY[wanted.parity],
                                       stopbits=wanted.stop_bits, timeout=0, write_timeout=0, exclusive=True)
            self._fd = self._port.fileno()
            os.set_blocking(self._fd, False)
        except (OSError, ValueError, termios.error) as error:   # a port pulled out now fails in tcsetattr
            self.close()
            raise LinkError(f"serial port {self.port}: {error}; is the adapter plugged in, is the user in "
                            f"group dialout, does another program hold it?") from error
        self._set_times(wanted)
        self._last_s = self._now()   # what was said before we came is unknown: owe it a silence

    def close(self) -> None:
        """Let go of the port; twice is once."""
        port, self._port, self._fd = self._port, None, -1
        if port is not None:
            try:
                port.close()
            except OSError:
                return   # the device went first; there is nothing left to give back

    def exchange(self, ask: Ask, settings: Serial | None = None) -> Heard:
        """Wait for silence, send, and listen until the answer, its failure, or the end of patience.

        Raises:
            LinkError: the port is gone.
        """
        if self._port is None:
            raise LinkError(f"serial port {self.port} is not open")
        try:
            return self._exchange(ask, settings or self._settings)
        except (OSError, termios.error) as error:
            self.close()
            if isinstance(error, LinkError):
                raise
            raise LinkError(f"serial port {self.port} is gone: {error}") from error

    def _exchange(self, ask: Ask, settings: Serial) -> Heard:
        now = self._now
        if not self._quiet():
            return Heard(Note.FOREIGN, b"", 0, now())   # somebody talks without end: asking would only collide
        if settings != self._current:
            self._apply(settings)
        self._send(ask.frame)
        sent_s = self._last_s = now() + len(ask.frame) * self._char_s
        pause_s = max(_PAUSE_S, 10 * self._char_s)
        deadline = first_deadline = sent_s + self._timeout_s
        end_s = first_deadline + 2 * (ask.data_bytes + 5) * self._char_s + _SLACK_S
        heard, first_s = b"", None
        while True:
            left = deadline - now()
            if left <= 0 or not self._readable(left):
                if now() < deadline:
                    continue
                return Heard(leftover(ask, heard), heard, 0, now(), None)
            chunk = self._take()
            self._last_s = at_s = now()
            if first_s is None:
                first_s = at_s
            heard += chunk
            verdict = hear(ask, heard)
            if isinstance(verdict, Note):
                return Heard(verdict, heard, 0, at_s, first_s - sent_s)
            if verdict is not None:
                return Heard(None, heard, verdict, at_s, max(0.0, first_s - sent_s))
            # An answer that has begun may finish; one that stops half-way may not hold the line.
            # Stray bytes and other units' late answers do not shorten the patience with ours.
            begun = leftover(ask, heard) is Note.BAD_CRC
            deadline = min(at_s + pause_s if begun else max(first_deadline, at_s), end_s)
            if len(heard) > 1024:
                return Heard(Note.FOREIGN, heard, 0, at_s, None)
            # What is still to come needs its time on the wire: sleep through it instead of waking for every lump.
            if begun and heard[0] == ask.unit and heard[1:2] == ask.pdu[:1]:
                rest_s = (ask.data_bytes + 3 - len(heard)) * self._char_s
                if rest_s > _NAP_S:
                    time.sleep(rest_s)
                    deadline = min(deadline + rest_s, end_s)

    def _quiet(self) -> bool:
        """Swallow what is said until the line has been silent long enough; False when it never is."""
        patience = self._now() + self._timeout_s + self._silence_s
        while True:
            if self._readable(0):
                self._take()
                self._last_s = self._now()
                if self._last_s > patience:
                    return False
            left = self._last_s + self._silence_s - self._now()
            if left <= 0:
                return True
            self._readable(left)

    def _readable(self, timeout_s: float) -> bool:
        fd = self._fd
        if fd < 0:
            raise LinkError(f"serial port {self.port} was closed")   # by another thread: select would not say it
        return bool(select.select((fd,), (), (), timeout_s)[0])

    def _take(self) -> bytes:
        try:
            chunk = os.read(self._fd, 1024)
        except BlockingIOError:
            return b""
        if not chunk:
            raise LinkError(f"serial port {self.port} hung up")
        return chunk

    def _send(self, frame: bytes) -> None:
        rest = memoryview(frame)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest):]
            except BlockingIOError:
                if not select.select((), (self._fd,), (), 1.0)[1]:
                    raise LinkError(f"serial port {self.port} takes no bytes") from None

    def _apply(self, settings: Serial) -> None:
        """Change speed and parity between two devices of a mixed wire."""
        port = self._port
        if port is None:
            raise LinkError(f"serial port {self.port} was closed")
        port.baudrate = settings.baud
        port.parity = _PARITY[settings.parity]
        port.stopbits = settings.stop_bits
        self._set_times(settings)
        # The others hear this device's characters at the wrong speed: give them a silence in the new pace too.
        self._last_s = self._now()
        self._quiet()
