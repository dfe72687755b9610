"""Who is on a simulated line, and what they say.

Owns: the shapes a station deals in (`Reply`, `Station`, `Spoken`), and the bus's own view of a member and of a frame on
its way. Promises: plain data and arithmetic. Never: reads a clock, touches a port but to ask its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from msgspec import Struct

from hil.ports import Port
from hil.waveform import Settings


class Reply(Struct):
    """What a station wants to say."""

    delay_s: float
    """From the last byte it heard to its first; never less than the silence that ends a frame."""
    frame: bytes
    sent: Callable[[float], None] | None = None
    """Called with the monotonic time of the last byte, when the frame went out whole and unspoilt."""


class Station(Protocol):
    """A simulated device (or several behind one transceiver).

    It may also have: `settings` (a `Settings`; else the bus's), `end` (bytes that end a frame without a silence) and
    `unasked(now_s) -> Reply | None` (asked often whether it wants to talk by itself).
    """

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
    """False when noise, a collision or a cut spoilt it, or no program has the settings to understand it."""
    gap_s: float
    """Silence before its first byte, from the last byte of anything; negative: somebody was still talking."""
    end_s: float = 0.0
    """When its last byte was due."""


class Member:
    """A port or a station on the segment."""

    def __init__(self, name: str, own: Settings, station: Station | None = None, port: Port | None = None) -> None:
        self.name, self.station, self.port = name, station, port
        self._own: Settings = getattr(station, "settings", None) or own
        self.end: bytes = getattr(station, "end", b"")
        self.unasked: Callable[[float], Reply | None] | None = getattr(station, "unasked", None)
        self.heard, self.broken = bytearray(), False
        self.quiet_s = 0.0

    def settings(self) -> Settings:
        """Its settings now: a program may change them between two requests."""
        return self.port.settings() if self.port and self.port.master >= 0 else self._own


class Talk:
    """A frame on its way."""

    def __init__(self, source: Member, data: bytes, start_s: float, sent: Callable[[float], None] | None) -> None:
        self.source, self.data, self.start_s, self.sent = source, bytearray(data), start_s, sent
        self.settings = source.settings()
        self.char_s = self.settings.char_s
        self.silence_s = self.settings.silence_s
        # Characters passed on together: fewer wake-ups, yet nobody can take the wait for a silence.
        self.lump = max(1, int(0.8 * self.silence_s / self.char_s))
        self.gap_s = 0.0
        self.done = 0
        self.told = bytearray()
        self.spoilt = False
        self.clashes: list[Talk] = []

    @property
    def end_s(self) -> float:
        """When its last character ends."""
        return self.start_s + self.char_s * len(self.data)

    def overlaps(self, other: Talk) -> bool:
        """Whether both are on the wire at some moment."""
        return other.start_s < self.end_s and self.start_s < other.end_s

    def next_s(self) -> float:
        """When its next lump is due."""
        return self.start_s + self.char_s * min(len(self.data), self.done + self.lump)
