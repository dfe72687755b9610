"""How a device finds requests in what it hears and wraps its answers: RTU, ASCII, and TCP's header.

Owns: the three framings from the device's side. Promises: only a sound frame is a request. Never: keeps time.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Literal, NamedTuple

from drivers.exchange import MBAP, checked, lrc, sound

Name = Literal["rtu", "ascii", "tcp"]


class Request(NamedTuple):
    """One question."""

    unit: int
    pdu: bytes
    transaction: int = 0


class Framing(NamedTuple):
    """One way to put units and PDUs on a wire."""

    open: Callable[[bytes], Request | None]
    """Read a whole frame; None when it is not sound."""
    wrap: Callable[[int, bytes, int], bytes]
    """Unit, PDU and transaction → the frame."""
    split: Callable[[bytes], tuple[list[bytes], bytes] | None]
    """A stream's bytes → whole frames and the rest; None when it cannot be this framing."""
    end: bytes
    """What ends a frame without a silence."""


def _open_rtu(frame: bytes) -> Request | None:
    return Request(frame[0], frame[1:-2]) if len(frame) >= 4 and sound(frame) else None


def _split_rtu(heard: bytes) -> tuple[list[bytes], bytes]:
    """RTU over TCP has no silences: a request's length follows from its function."""
    frames = []
    while len(heard) >= 8:
        size = 9 + heard[6] if heard[1] in (15, 16) else 10 if heard[1] == 22 else 8
        if len(heard) < size:
            break
        frames.append(heard[:size])
        heard = heard[size:]
    return frames, heard


def _open_ascii(frame: bytes) -> Request | None:
    try:
        plain = binascii.unhexlify(frame[frame.rindex(b":") + 1:frame.rindex(b"\r\n")])
    except ValueError:   # no colon, no end, or no hexadecimal
        return None
    return Request(plain[0], plain[1:-1]) if len(plain) >= 3 and lrc(plain[:-1]) == plain[-1] else None


def _wrap_ascii(unit: int, pdu: bytes, _: int) -> bytes:
    plain = bytes([unit]) + pdu
    return b":" + (plain + bytes([lrc(plain)])).hex().upper().encode() + b"\r\n"


def _split_ascii(heard: bytes) -> tuple[list[bytes], bytes]:
    *frames, rest = heard.split(b"\r\n")
    return [frame + b"\r\n" for frame in frames], rest


def _open_tcp(frame: bytes) -> Request:
    transaction, _, _, unit = MBAP.unpack_from(frame)
    return Request(unit, frame[MBAP.size:], transaction)


def _split_tcp(heard: bytes) -> tuple[list[bytes], bytes] | None:
    frames = []
    while len(heard) >= MBAP.size:
        _, protocol, length, _ = MBAP.unpack_from(heard)
        if protocol or not 2 <= length <= 254:
            return None
        if len(heard) < 6 + length:
            break
        frames.append(heard[:6 + length])
        heard = heard[6 + length:]
    return frames, heard


FRAMINGS: dict[Name, Framing] = {
    "rtu": Framing(_open_rtu, lambda unit, pdu, _: checked(bytes([unit]) + pdu), _split_rtu, b""),
    "ascii": Framing(_open_ascii, _wrap_ascii, _split_ascii, b"\r\n"),
    "tcp": Framing(_open_tcp, lambda unit, pdu, number: MBAP.pack(number, 0, len(pdu) + 1, unit) + pdu, _split_tcp,
                   b"")}
