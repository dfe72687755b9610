"""What bytes on a line are, when nobody knows who said them: frames, echoes, noise.

Owns: finding sound frames in a stream. Promises: a frame is only what its CRC proves. Never: does I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from drivers.exchange import READS, WRITES, length, sound

REQUEST_BYTES = 8
ECHO_BYTES = 3
"""So many first bytes of the own request, come back, are no accident."""


class Frame(NamedTuple):
    """A sound frame somebody sent."""

    data: bytes
    is_request: bool
    """By its shape: 8 bytes, a function that exists."""

    @property
    def unit(self) -> int:
        """Who is asked, or answers."""
        return self.data[0]


def frames(heard: bytes) -> list[Frame]:
    """Return the sound frames in what was heard, in order; bytes between them are passed over."""
    found, at = [], 0
    while at + 5 <= len(heard):
        frame = _frame(heard, at)
        if frame is None:
            at += 1
        else:
            found.append(frame)
            at += len(frame.data)
    return found


def _frame(heard: bytes, at: int) -> Frame | None:
    if heard[at] > 247:
        return None
    size = length(heard[at + 1], heard[at + 2])
    if size and at + size <= len(heard) and sound(heard[at:at + size]):
        return Frame(heard[at:at + size], False)
    request = heard[at:at + REQUEST_BYTES]
    if len(request) == REQUEST_BYTES and request[1] in READS + WRITES and sound(request):
        return Frame(request, True)
    return None


def is_echo(request: bytes, heard: bytes) -> bool:
    """Whether what was heard is, or begins with, what was just sent."""
    size = min(len(request), len(heard))
    return size >= ECHO_BYTES and heard[:size] == request[:size]


def is_noise(heard: bytes) -> bool:
    """Whether these are only the bytes that switching a line's direction makes."""
    return not any(0 < byte < 248 for byte in heard)
