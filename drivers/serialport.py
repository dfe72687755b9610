"""A tty: bytes out at a moment, bytes in with the moment they came, speed and direction.

Owns: the open port, its settings, and how exactly we wake. Promises: `LinkError` when the port is gone; a wait ends
within some 10 µs of its moment on an idle machine; settings are changed with one call, and only when they differ.
Never: knows frames, silence or devices.

How exactly: a Linux thread's timers may be 50 µs late on purpose (timer slack), so the thread that opens the port asks
for none, and the end of a wait that counts is spent looking at the clock, or for the byte that ends an answer. That
costs 7 % of a core on a line at 115200 baud that never rests and 2 % at 9600.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import serial

from drivers import LinkError
from drivers.direction import AUTO, Direction, set_rts, tell_kernel
from drivers.planner import characters
from drivers.sensor import Serial

NEAR_S = 0.00015
"""The end of a wait that is spent looking at the clock instead of sleeping."""
LAST_LOOK_S = 0.00001
"""How long before the end of a silence the line is looked at last: what is said within it meets the request."""
EARLY_S = 0.0002, 0.0005
"""How long before its moment the last byte is looked for, since that is reckoned from bytes which were late themselves:
half a character, but within these bounds."""
LATE_S = 0.0003
"""How long past its moment a byte is looked for before the thread sleeps for it."""
_PARITY = {"none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD}
_PTY_MAJORS = range(136, 144)


def char_s(settings: Serial) -> float:
    """Seconds of one character on the wire."""
    data_bits: int = settings.data_bits
    return (characters(settings.baud, settings.parity, settings.stop_bits)
            - 1000.0 * (8 - data_bits) / settings.baud) / 1000


class SerialPort:
    """One port, held by this process alone."""

    def __init__(self, path: str, now: Callable[[], float], direction: Direction = AUTO,
                 hear_itself: bool = False) -> None:
        self.path = path
        self.paced = True
        """Bytes need their time on a wire; a pseudo-terminal has none."""
        self._now = now
        self._direction = direction
        self._hear_itself = hear_itself
        self._serial: serial.Serial | None = None
        self._fd = -1
        self._settings = Serial()
        self._char_s = 0.0
        self._known: dict[Serial, list[Any]] = {}

    @property
    def is_open(self) -> bool:
        """Whether it is ours now."""
        return self._fd >= 0

    def open(self, settings: Serial) -> None:
        """Open the port; for the thread that will use it.

        Raises:
            LinkError: there is no such port, it is in use, or it refuses settings or direction.
        """
        self.close()
        direction = self._direction
        try:
            # VMIN = 1 (inter_byte_timeout 0): a read that finds nothing says so; with 0 it would look like a hang-up.
            opened = serial.Serial(timeout=0, write_timeout=0, exclusive=True, inter_byte_timeout=0)
            opened.rts = direction.by == "rts" and direction.rts_to_send == "low"
            opened.port = self.path
            self._serial, self._settings, self._known = opened, Serial(baud=settings.baud), {}
            opened.apply_settings(_pyserial(self._settings))
            opened.open()
            self._fd = opened.fileno()
            os.set_blocking(self._fd, False)
            self.paced = os.major(os.fstat(self._fd).st_rdev) not in _PTY_MAJORS
            self._char_s = char_s(settings)
            self.apply(settings)
            with contextlib.suppress(ValueError):   # USB adapters hold bytes back up to 16 ms unless told not to
                opened.set_low_latency_mode(True)
            if direction.by == "kernel":
                tell_kernel(self._fd, self.path, direction, self._hear_itself)
            elif direction.by == "rts":
                self._take_line(False)
        except LinkError:
            self.close()
            raise
        except (OSError, ValueError, termios.error) as error:   # a port pulled out now fails in tcsetattr
            self.close()
            raise LinkError(f"serial port {self.path}: {error}; is the adapter plugged in, is the user in "
                            f"group dialout, does another program hold it?") from error
        with contextlib.suppress(OSError):   # an old kernel: waits end 50 µs later
            Path(f"/proc/{threading.get_native_id()}/timerslack_ns").write_text("1", encoding="ascii")

    def close(self) -> None:
        """Let go of the port; twice is once."""
        opened, self._serial, self._fd = self._serial, None, -1
        if opened is not None:
            with contextlib.suppress(OSError):   # the device went first; there is nothing left to give back
                opened.close()

    def apply(self, settings: Serial) -> None:
        """Change to other settings."""
        if settings == self._settings:
            return
        opened = self._serial
        if opened is None:
            raise LinkError(f"serial port {self.path} was closed")
        try:
            if speed := getattr(termios, f"B{settings.baud}", None):
                termios.tcsetattr(self._fd, termios.TCSANOW, self._attributes(settings, speed))
            else:   # a speed termios has no word for; pyserial has, but must first see what we did behind its back
                opened.apply_settings(_pyserial(self._settings))
                opened.apply_settings(_pyserial(settings))
        except termios.error as error:
            # A pseudo-terminal has neither parity nor 7 bits, and says so when nothing else changes.
            if self.paced or error.args[0] != errno.EINVAL:
                raise
        self._settings, self._char_s = settings, char_s(settings)

    def _attributes(self, settings: Serial, speed: int) -> list[Any]:
        if settings not in self._known:
            made = termios.tcgetattr(self._fd)
            # A character with the wrong parity is read as 0: no sound frame has it.
            made[0] = made[0] & ~termios.INPCK | (settings.parity != "none") * termios.INPCK
            made[2] &= ~(termios.CSIZE | termios.PARENB | termios.PARODD | termios.CSTOPB)
            made[2] |= (termios.CS7 if settings.data_bits == 7 else termios.CS8) \
                | (settings.parity != "none") * termios.PARENB | (settings.parity == "odd") * termios.PARODD \
                | (settings.stop_bits == 2) * termios.CSTOPB
            made[4] = made[5] = speed
            self._known[settings] = made
        return self._known[settings]

    def rest_until(self, due_s: float) -> None:
        """Wait, and end as near to `due_s` as can be."""
        now = self._now
        if (left := due_s - now() - NEAR_S) > 0:
            time.sleep(left)
        while now() < due_s:
            pass

    def silent_until(self, due_s: float) -> bytes:
        """Wait like `rest_until`, listening; b"" when nothing was said, else what was, at once.

        The end of the wait is spent listening, not only looking at the clock: whoever writes next has his code and
        the port's warm, and need not look again.
        """
        fd, now, read = self._fd, self._now, os.read
        if fd < 0:
            raise LinkError(f"serial port {self.path} was closed")
        if (left := due_s - now() - NEAR_S) > 0:
            time.sleep(left)
        while True:
            near = now() >= due_s - LAST_LOOK_S
            try:
                if chunk := read(fd, 4096):
                    return chunk
            except BlockingIOError:
                if near:
                    break
            else:
                raise LinkError(f"serial port {self.path} hung up")
        while now() < due_s:
            pass
        return b""

    def take(self) -> bytes:
        """Return what has come, without waiting."""
        fd = self._fd
        if fd < 0:
            raise LinkError(f"serial port {self.path} was closed")   # by another thread: a number may be reused
        try:
            chunk = os.read(fd, 4096)
        except BlockingIOError:
            return b""
        if not chunk:
            raise LinkError(f"serial port {self.path} hung up")
        return chunk

    def hear(self, until_s: float) -> bytes:
        """Wait for bytes; b"" when none came until then."""
        while True:
            left = until_s - self._now()   # before the look: whoever was held up in between has still looked at the end
            if chunk := self.take():
                return chunk
            if left <= 0:
                return b""
            select.select((self._fd,), (), (), left)

    def catch(self, count: int, due_s: float) -> tuple[bytes, float]:
        """Sleep through bytes that are on their way and be there when the last comes.

        Args:
            count: how many.
            due_s: when the last is due.

        Returns:
            What came until shortly after, b"" when nothing did; and when it was first looked for.
        """
        now, chunk = self._now, b""
        early_s = min(max(EARLY_S[0], self._char_s / 2), EARLY_S[1])
        if (left := due_s - now() - early_s) > 0:
            time.sleep(left)
        looked_s = now()
        while len(chunk) < count:
            chunk += self.take()
            if now() > due_s + LATE_S:
                break
        return chunk, looked_s

    def send(self, frame: bytes) -> float:
        """Send; returns when the last bit leaves the port, reckoned from the speed."""
        direction = self._direction
        by_hand = direction.by == "rts"
        if by_hand:
            self._take_line(True)
            self.rest_until(self._now() + direction.before_ms / 1000)
        rest = memoryview(frame)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest):]
            except BlockingIOError:
                if not select.select((), (self._fd,), (), 1.0)[1]:
                    raise LinkError(f"serial port {self.path} takes no bytes") from None
        sent_s = self._now() + len(frame) * self._char_s + direction.before_s()
        if by_hand:
            # Draining alone would be told up to a scheduler's tick too late; it only has to confirm.
            self.rest_until(sent_s)
            termios.tcdrain(self._fd)
            self.rest_until(self._now() + direction.after_ms / 1000)
            self._take_line(False)
        return sent_s

    def _take_line(self, take: bool) -> None:
        set_rts(self._fd, self.path, take == (self._direction.rts_to_send == "high"))


def _pyserial(settings: Serial) -> dict[str, object]:
    return {"baudrate": settings.baud, "parity": _PARITY[settings.parity], "stopbits": settings.stop_bits,
            "bytesize": settings.data_bits}
