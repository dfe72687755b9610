"""One serial line's time: silence, one exchange at a time, and what the line says in between.

Owns: the moment of the last byte, and which bytes may be an answer. Promises: at least 3.5 characters of silence before
every request, measured from the last byte in either direction, and hardly more; nothing heard before a request, or said
before it was out, is taken for its answer; a talker holds the line no longer than a silent device; `LinkError` when the
port is gone. Never: retries, knows devices or due times.

Source of the timing: Modbus over Serial Line V1.02, 2.5.1.1 (3.5 characters; fixed 1.75 ms above 19200 baud). A byte's
end is taken to be the moment we read it: later than it was, so the silence is never shorter, whatever held it back.

Echo, where declared: our own bytes must come back first and unchanged, else two talked at once (`bad_crc`). A line that
echoes nothing though declared still reads (said once in the log); but one lone copy of a request whose answer repeats
it (functions 5 and 6) counts as the echo, so such a write stays unanswered there rather than be believed.
"""

from __future__ import annotations

import logging
import termios
from collections.abc import Callable
from typing import Protocol, TypeVar

from msgspec import Struct

from drivers import LinkError, Note
from drivers.direction import AUTO, Direction
from drivers.exchange import BROADCAST, Raw, Request
from drivers.framing import FRAMES, Framing
from drivers.planner import silence_ms
from drivers.sensor import Serial
from drivers.serialport import SerialPort, char_s
from drivers.turnaround import Turnarounds

log = logging.getLogger(__name__)
T = TypeVar("T")

_PAUSE_S = 0.05
"""A pause inside an answer longer than this (and than 10 characters) ends it: USB adapters pass bytes on in lumps
up to 16 ms apart, so the 1.5 characters of the standard cannot be asked of them."""
_AT_ONCE_S = 0.0001
"""An answer found within this of the first look had been there before."""
_MOST_BYTES = 1024
"""More than a few whole frames: nobody answers that much."""
_BEGUN_S = 0.001
"""An adapter begins to send so much after it was told, at most (a USB frame): the end of a request is only reckoned."""
_HASTE = 0.9
"""An answer that took less than this part of its time on the wire was begun before the request was out."""
TURNAROUND_S = 0.1
"""Time everybody gets to obey a broadcast (Modbus over Serial Line V1.02, 2.4.1: 100 to 200 ms)."""


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
    code: int = 0
    """Exception code of a refusal."""
    stray: bytes = b""
    """What the line said between the last exchange and this request; swallowed: a late answer, another master."""


class Line(Protocol):
    """What carries exchanges: a serial line or a TCP connection."""

    def open(self) -> None:
        """Take it; raises LinkError while it is not there."""

    def exchange(self, ask: Request, settings: Serial | None = None, timeout_s: float | None = None) -> Heard:
        """Ask and listen; raises LinkError when the line itself is gone."""
        ...

    def listen(self, timeout_s: float) -> bytes:
        """Return what is said without being asked; raises LinkError when the line itself is gone."""
        ...

    def close(self) -> None:
        """Let go; twice is once."""


class SerialLine:
    """One RS-485 (or RS-232) port."""

    def __init__(self, port: str, settings: Serial, answer_timeout_s: float, now: Callable[[], float], *,
                 framing: Framing = "rtu", echo: bool = False, direction: Direction | None = None,
                 turnaround_s: float = TURNAROUND_S, paced: bool | None = None) -> None:
        """Take a port, without opening it.

        Args:
            port: its path.
            settings: of the wire; an exchange may have others.
            answer_timeout_s: from the end of a request to the first byte of its answer.
            now: monotonic seconds.
            framing: how frames travel.
            echo: we hear ourselves.
            direction: who switches the transceiver; None = nobody has to.
            turnaround_s: rest after a broadcast.
            paced: bytes need their time on the wire, so what comes sooner was said before; None = all but
                pseudo-terminals.
        """
        self.port = port
        self._settings = self._current = settings
        self._timeout_s = answer_timeout_s
        self._now = now
        self._frames = FRAMES[framing]
        self._echo = echo
        self._turnaround_s = turnaround_s
        self._paced = paced
        self._tty = SerialPort(port, now, direction or AUTO, hear_itself=echo)
        self._last_s = 0.0
        """When the last byte, sent or heard, was on the line."""
        self._patient = framing == "ascii"   # characters of a frame may be a second apart (2.5.2.1)
        self._said: set[str] = set()
        self._turnarounds = Turnarounds()
        self._set_times(settings)

    def _set_times(self, settings: Serial) -> None:
        self._char_s = char_s(settings)
        self._silence_s = silence_ms(1000 * self._char_s, settings.baud) / 1000
        self._pause_s = self._timeout_s if self._patient else max(_PAUSE_S, 10 * self._char_s)
        self._current = settings

    def open(self) -> None:
        """Open the port for this process alone; by the thread that will use it.

        Raises:
            LinkError: there is no such port, it is in use, or it refuses settings or direction.
        """
        self._tty.open(self._settings)
        self._set_times(self._settings)
        self._last_s = self._now()   # what was said before we came is unknown: owe it a silence

    def close(self) -> None:
        """Let go of the port; twice is once."""
        self._tty.close()

    def exchange(self, ask: Request, settings: Serial | None = None, timeout_s: float | None = None) -> Heard:
        """Wait for silence, send, and listen until the answer, its failure, or the end of patience.

        A broadcast and a raw frame that asks for no answer end with `note` None and no data.

        Raises:
            LinkError: the port is gone.
        """
        return self._guarded(lambda: self._exchange(ask, settings or self._settings, timeout_s or self._timeout_s))

    def listen(self, timeout_s: float) -> bytes:
        """Return all that is said within `timeout_s` without being asked; at most some frames.

        Raises:
            LinkError: the port is gone.
        """
        return self._guarded(lambda: self._listen(self._now() + timeout_s))

    def _guarded(self, do: Callable[[], T]) -> T:
        if not self._tty.is_open:
            raise LinkError(f"serial port {self.port} is not open")
        try:
            return do()
        except (OSError, termios.error) as error:
            self.close()
            if isinstance(error, LinkError):
                raise
            raise LinkError(f"serial port {self.port} is gone: {error}") from error

    def _listen(self, until_s: float) -> bytes:
        heard = b""
        while len(heard) < _MOST_BYTES and (chunk := self._tty.hear(until_s)):
            self._last_s = max(self._last_s, self._now())
            heard += chunk
        return heard

    def _exchange(self, ask: Request, settings: Serial, timeout_s: float) -> Heard:
        frame = self._frames.encode(ask)
        if settings != self._current:
            self._switch(settings)
        quiet, stray = self._quiet(timeout_s)
        if not quiet:   # somebody talks without end: asking would only collide
            return Heard(Note.FOREIGN, b"", 0, self._now(), stray=stray)
        sent_s = self._tty.send(frame)
        self._last_s = sent_s + _BEGUN_S
        if ask.unit == BROADCAST and not ask.answer_bytes and not getattr(ask, "answer", None):
            return self._obeyed(frame, sent_s, stray)
        return self._hear(ask, frame, sent_s, timeout_s, stray)

    def _switch(self, settings: Serial) -> None:
        """Change speed and parity between two devices of a mixed wire.

        The others hear this device's characters at the wrong speed: they get a silence in the new pace from here on,
        and not less than what is left of the old one.
        """
        owed_s = self._last_s + self._silence_s
        self._tty.apply(settings)
        self._set_times(settings)
        self._last_s = max(self._now(), owed_s - self._silence_s)

    def _quiet(self, timeout_s: float) -> tuple[bool, bytes]:
        """Swallow what is said until the line has been silent long enough; False when it never is."""
        tty, stray = self._tty, b""
        patience_s = self._now() + timeout_s + self._silence_s
        while True:
            if not (chunk := tty.silent_until(self._last_s + self._silence_s)):
                return True, stray
            stray = (stray + chunk)[-_MOST_BYTES:]
            self._last_s = self._now()
            if self._last_s > patience_s:
                return False, stray

    def _obeyed(self, frame: bytes, sent_s: float, stray: bytes) -> Heard:
        """Give everybody time to obey."""
        heard = self._listen(sent_s + self._turnaround_s)
        garbled = self._echo and any(heard) and frame not in heard
        return Heard(Note.BAD_CRC if garbled else None, b"", 0, self._now(), stray=stray)

    def _hear(self, ask: Request, frame: bytes, sent_s: float, timeout_s: float, stray: bytes) -> Heard:
        now, frames, char = self._now, self._frames, self._char_s
        size = frames.size(ask)
        deadline_s = first_deadline_s = sent_s + timeout_s
        # An answer that has begun may finish; one that stops half-way, or never ends, may not hold the line.
        end_s = first_deadline_s + 2 * size * char + self._pause_s
        echo = frame if self._echo else b""
        heard, first_s = b"", 0.0
        chunk, looked_s = (b"", 0.0) if echo else self._expected(ask.unit, sent_s, size, deadline_s)
        expected = bool(chunk)
        while True:
            chunk = chunk or self._tty.hear(deadline_s)
            if not chunk:
                talks = bool(heard) and now() >= end_s
                return Heard(*self._silent(ask, heard, bool(echo), talks), now(), stray=stray)
            at_s = now()
            self._last_s = max(self._last_s, at_s)   # somebody may talk while our request is still going out
            first_s = at_s if not heard else first_s
            heard += chunk
            chunk = b""
            if echo:
                if echo.startswith(heard):   # not all of it yet
                    if heard == echo:
                        echo = heard = b""
                    continue
                rest = _behind(echo, heard)
                if rest is not None:
                    echo, heard, first_s = b"", rest, at_s
            verdict = frames.hear(ask, heard)
            if verdict is not None and verdict.note is None and self._hasty(heard, at_s - sent_s):
                heard = b""   # a late answer that came while we were asking
                continue
            if verdict is not None:
                if verdict.note is None and len(heard) == size:
                    first_s = min(first_s, at_s - size * char)   # it came in one piece: its length tells when it began
                    self._turnarounds.learn(ask.unit, max(0.0, first_s - sent_s),
                                            overdue=expected and at_s - looked_s < _AT_ONCE_S)
                if echo and verdict.note is not Note.BAD_CRC:
                    self._say("echo", "declared an echo but none came; if the adapter does not echo, leave `echo` out")
                return Heard(verdict.note, verdict.data or heard, verdict.start, at_s, max(0.0, first_s - sent_s),
                             verdict.code, stray)
            if len(heard) > _MOST_BYTES:
                return Heard(Note.FOREIGN, heard, 0, at_s, stray=stray)
            # Stray bytes and other units' late answers do not shorten the patience with ours.
            half = frames.leftover(ask, heard) is Note.BAD_CRC
            deadline_s = min(at_s + self._pause_s, end_s) if half else max(first_deadline_s, at_s)
            if half and frames.begun(ask, heard) and size > len(heard) and not expected:
                # What is still to come needs its time on the wire: sleep through it, and be there when it ends.
                rest_bytes = size - len(heard)
                chunk = self._tty.catch(rest_bytes, min(at_s + rest_bytes * char, end_s))[0]
            expected = False

    def _expected(self, unit: int, sent_s: float, size: int, deadline_s: float) -> tuple[bytes, float]:
        """Sleep through an answer of a device whose turnaround is known, and be there when it ends.

        Returns:
            What came, and when it was first looked for.
        """
        turnaround_s = self._turnarounds.of(unit)
        if turnaround_s is None or not size:
            return b"", 0.0
        return self._tty.catch(size, min(sent_s + turnaround_s + size * self._char_s, deadline_s))

    def _hasty(self, heard: bytes, took_s: float) -> bool:
        """Whether these bytes cannot all have been said in that time, since the request's last."""
        paced = self._tty.paced if self._paced is None else self._paced
        return paced and took_s < _HASTE * len(heard) * self._char_s

    def _silent(self, ask: Request, heard: bytes, echo_due: bool, talks: bool) -> tuple[Note | None, bytes, int]:
        """What it means that no answer became whole."""
        if talks:
            return Note.FOREIGN, heard, 0
        if isinstance(ask, Raw) and ask.answer is None and not heard:
            return None, b"", 0
        if echo_due and heard:
            return Note.BAD_CRC, heard, 0   # our own bytes came back cut or changed: two talked at once
        return self._frames.leftover(ask, heard), heard, 0

    def _say(self, once: str, text: str) -> None:
        if once not in self._said:
            self._said.add(once)
            log.warning("serial_line port=%s %s", self.port, text)


def _behind(echo: bytes, heard: bytes) -> bytes | None:
    """What came after our own bytes; None when they did not come back whole.

    Switching the direction may make a byte in front (0, or 0xFF).
    """
    at = heard.find(echo)
    return heard[at + len(echo):] if at >= 0 and not heard[:at].strip(b"\0\xff") else None
