"""One Modbus read, request and answer: built by pymodbus, checked here.

Owns: the frames, and whether what was heard is the answer to what was asked. Promises: unit, function, byte count,
length, CRC (serial) and transaction (TCP) must all be right before a byte is looked at as data. Never: does I/O,
keeps time, knows templates.

pymodbus gives the PDUs and the CRC. Its own checks are not used: its clients accept answers with another function
or register count, and answers left over from an earlier request.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from drivers import Note

_READS = (1, 2, 3, 4)
MBAP = struct.Struct(">HHHB")
"""Transaction, protocol (0), length of what follows, unit (Modbus Messaging on TCP/IP V1.0b, 3.1.3)."""


@cache
def _pymodbus() -> tuple[Any, dict[int, Any]]:
    """Return CRC function and request classes; imported late, because importing costs 60 ms and 12 MiB."""
    from pymodbus.framer.rtu import FramerRTU
    from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
    from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest
    return FramerRTU.compute_CRC, {1: ReadCoilsRequest, 2: ReadDiscreteInputsRequest,
                                   3: ReadHoldingRegistersRequest, 4: ReadInputRegistersRequest}


def checked(frame: bytes) -> bytes:
    """Return the frame with its CRC appended, as it travels."""
    crc: int = _pymodbus()[0](frame)
    return frame + crc.to_bytes(2, "big")


def sound(frame: bytes) -> bool:
    """Whether the last two bytes are the CRC of those before."""
    crc: int = _pymodbus()[0](frame[:-2])
    return len(frame) > 2 and crc == frame[-2] << 8 | frame[-1]


class Ask:
    """A read request, ready to send on either kind of wire, and the shape its answer must have."""

    __slots__ = ("count", "data_bytes", "first", "frame", "function", "pdu", "unit")

    def __init__(self, unit: int, function: int, first: int, count: int) -> None:
        """Build the frames.

        Raises:
            ValueError: not a read of functions 1 to 4, or more than one answer can carry.
        """
        if function not in _READS or not 1 <= count <= (2000 if function < 3 else 125) or not 0 <= unit <= 255 \
                or not 0 <= first <= 65536 - count:
            raise ValueError(f"unit {unit}, function {function}, {count} from {first}: no such read exists")
        self.unit, self.function, self.first, self.count = unit, function, first, count
        request = _pymodbus()[1][function](address=first, count=count, dev_id=unit)
        self.pdu: bytes = bytes([function]) + request.encode()
        self.frame = checked(bytes([unit]) + self.pdu)
        """The RTU frame."""
        self.data_bytes = (count + 7) // 8 if function < 3 else 2 * count

    @staticmethod
    def parse(frame: bytes) -> Ask:
        """Read an RTU request.

        Raises:
            ValueError: it is not a sound read request.
        """
        if len(frame) != 8 or frame[1] not in _READS:
            raise ValueError(f"{frame.hex(' ').upper()} is not a read request: expected 8 bytes, function 1 to 4")
        if not sound(frame):
            raise ValueError(f"wrong CRC {frame[-2:].hex(' ').upper()}: "
                             f"expected {checked(frame[:-2])[-2:].hex(' ').upper()}")
        first, count = struct.unpack(">HH", frame[2:6])
        return Ask(frame[0], frame[1], first, count)

    def tcp(self, transaction: int) -> bytes:
        """Return the request as it travels on TCP."""
        return MBAP.pack(transaction, 0, len(self.pdu) + 1, self.unit) + self.pdu


def hear(ask: Ask, heard: bytes) -> int | Note | None:
    """Judge what was heard on a serial line since the request went out.

    Bytes that cannot begin an answer (0, and 248 to 255) are passed over in front and behind: switching the direction
    of a line makes them. A whole answer of *another* unit, late from an earlier request, is passed over too. Anything
    else that is not the answer ends the exchange.

    Returns:
        Where the data begin when the answer is complete and right; a Note when it is not; None to listen on.
    """
    end, start = len(heard), 0
    while True:
        while start < end and (heard[start] == 0 or heard[start] > 247):
            start += 1
        if end - start < 5:
            return None
        unit, function, third = heard[start], heard[start + 1], heard[start + 2]
        ours = unit == ask.unit
        if ours and function == ask.function and third == ask.data_bytes:
            stop = start + 5 + third
            if end < stop:
                return None
            if not sound(heard[start:stop]):
                return Note.BAD_CRC
            return Note.FOREIGN if any(0 < byte < 248 for byte in heard[stop:]) else start + 3
        if function & 0x7F not in _READS:
            return None   # length unknown; the end of the line's patience decides
        stop = start + (5 if function & 0x80 else 5 + third)
        if end < stop:
            return None
        if not sound(heard[start:stop]):
            return Note.BAD_CRC
        if ours:
            return refusal(third) if function == ask.function | 0x80 else Note.FOREIGN
        start = stop


def leftover(ask: Ask, heard: bytes) -> Note:
    """Name the failure when the line fell silent before `hear` could decide."""
    if not any(0 < byte < 248 for byte in heard):
        return Note.NO_ANSWER
    if len(heard) >= 5 and heard[0] != ask.unit and heard[1] in _READS and len(heard) >= 5 + heard[2] \
            and sound(heard[:5 + heard[2]]):
        return Note.FOREIGN
    return Note.BAD_CRC


def refusal(code: int) -> Note:
    """Translate an exception code (Modbus Application Protocol V1.1b3, 7).

    5 and 6 mean later; 11 is a converter saying that the device behind it kept silent.
    """
    return Note.BUSY if code in (5, 6) else Note.NO_ANSWER if code == 11 else Note.REFUSED


def hear_tcp(ask: Ask, unit: int, pdu: bytes) -> int | Note:
    """Judge the PDU of an answer with the right transaction: where its data begin, or what is wrong."""
    if unit != ask.unit:
        return Note.FOREIGN
    if len(pdu) == 2 and pdu[0] == ask.function | 0x80:
        return refusal(pdu[1])
    if len(pdu) == 2 + ask.data_bytes and pdu[0] == ask.function and pdu[1] == ask.data_bytes:
        return 2
    return Note.FOREIGN
