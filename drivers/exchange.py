"""What is asked of a Modbus device, and whether what was heard is the answer to it.

Owns: requests (`Ask` reads, `Write` writes, `Raw` frames that are not legal Modbus), and the judgement of answers.
Promises: unit, function, count, length, CRC or LRC (serial) and transaction (TCP) must all be right before a byte is
looked at as data. Never: does I/O, keeps time, knows templates.

pymodbus gives the PDUs and the checksums. Its own checks are not used: its clients accept answers with another
function or register count, and answers left over from an earlier request.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from drivers import Note

READS = (1, 2, 3, 4)
WRITES = (5, 6, 15, 16)
BROADCAST = 0
"""The unit every device obeys and none answers."""
MBAP = struct.Struct(">HHHB")
"""Transaction, protocol (0), length of what follows, unit (Modbus Messaging on TCP/IP V1.0b, 3.1.3)."""


@cache
def _pymodbus() -> tuple[Any, Any, dict[int, Any]]:
    """Return CRC, LRC and request classes; imported late, because importing costs 60 ms and 12 MiB."""
    from pymodbus.framer.ascii import FramerAscii
    from pymodbus.framer.rtu import FramerRTU
    from pymodbus.pdu import bit_message, register_message
    return FramerRTU.compute_CRC, FramerAscii.compute_LRC, {
        1: bit_message.ReadCoilsRequest, 2: bit_message.ReadDiscreteInputsRequest,
        3: register_message.ReadHoldingRegistersRequest, 4: register_message.ReadInputRegistersRequest,
        5: bit_message.WriteSingleCoilRequest, 6: register_message.WriteSingleRegisterRequest,
        15: bit_message.WriteMultipleCoilsRequest, 16: register_message.WriteMultipleRegistersRequest}


def checked(frame: bytes) -> bytes:
    """Return the frame with its CRC appended, as it travels."""
    crc: int = _pymodbus()[0](frame)
    return frame + crc.to_bytes(2, "big")


def sound(frame: bytes) -> bool:
    """Whether the last two bytes are the CRC of those before."""
    crc: int = _pymodbus()[0](frame[:-2])
    return len(frame) > 2 and crc == frame[-2] << 8 | frame[-1]


def lrc(frame: bytes) -> int:
    """Return the checksum of an ASCII frame's bytes (Modbus over Serial Line V1.02, 2.5.2.2)."""
    found: int = _pymodbus()[1](frame)
    return found


class Verdict(NamedTuple):
    """What a complete answer came to."""

    note: Note | None
    """None = it is the answer."""
    data: bytes = b""
    start: int = 0
    """Where registers or coils begin in `data`."""
    code: int = 0
    """Exception code of a refusal."""


class Request:
    """One question, ready to send in any framing, and the shape its answer must have."""

    __slots__ = ("answer_bytes", "frame", "function", "head", "pdu", "unit")

    def __init__(self, unit: int, pdu: bytes, head: bytes, answer_bytes: int) -> None:
        self.unit = unit
        self.function = pdu[0]
        self.pdu = pdu
        self.head = head
        """What the PDU of the right answer begins with."""
        self.answer_bytes = answer_bytes
        """Length of the right answer's PDU; 0 when nobody answers."""
        self.frame = checked(bytes([unit]) + pdu)
        """The RTU frame."""

    def judge(self, unit: int, pdu: bytes) -> Verdict:
        """Judge a whole, sound answer, its PDU alone."""
        if unit != self.unit:
            return Verdict(Note.FOREIGN)
        if len(pdu) == 2 and pdu[0] == self.function | 0x80:
            return Verdict(refusal(pdu[1]), code=pdu[1])
        if len(pdu) == self.answer_bytes and pdu.startswith(self.head):
            return Verdict(None, pdu, 2)
        return Verdict(Note.FOREIGN)


class Ask(Request):
    """A read of functions 1 to 4."""

    __slots__ = ("count", "data_bytes", "first")

    def __init__(self, unit: int, function: int, first: int, count: int) -> None:
        """Build the request.

        Raises:
            ValueError: not a read of functions 1 to 4, or more than one answer can carry.
        """
        if function not in READS or not 1 <= count <= (2000 if function < 3 else 125) or not 0 <= unit <= 255 \
                or not 0 <= first <= 65536 - count:
            raise ValueError(f"unit {unit}, function {function}, {count} from {first}: no such read exists")
        self.first, self.count = first, count
        self.data_bytes = (count + 7) // 8 if function < 3 else 2 * count
        request = _pymodbus()[2][function](address=first, count=count, dev_id=unit)
        super().__init__(unit, bytes([function]) + request.encode(), bytes([function, self.data_bytes]),
                         2 + self.data_bytes)

    @staticmethod
    def parse(frame: bytes) -> Ask:
        """Read an RTU request.

        Raises:
            ValueError: it is not a sound read request.
        """
        if len(frame) != 8 or frame[1] not in READS:
            raise ValueError(f"{frame.hex(' ').upper()} is not a read request: expected 8 bytes, function 1 to 4")
        if not sound(frame):
            raise ValueError(f"wrong CRC {frame[-2:].hex(' ').upper()}: "
                             f"expected {checked(frame[:-2])[-2:].hex(' ').upper()}")
        first, count = struct.unpack(">HH", frame[2:6])
        return Ask(frame[0], frame[1], first, count)

    def tcp(self, transaction: int) -> bytes:
        """Return the request as it travels on TCP."""
        return MBAP.pack(transaction, 0, len(self.pdu) + 1, self.unit) + self.pdu


class Write(Request):
    """A write of functions 5, 6, 15 or 16."""

    __slots__ = ("first", "values")

    def __init__(self, unit: int, function: int, first: int, values: Sequence[int]) -> None:
        """Build the request.

        Args:
            unit: 0 is every device on the wire; nobody answers then.
            function: 5 one coil, 6 one register, 15 coils, 16 registers.
            first: 0-based register or coil.
            values: bits (0, 1) or words (0 to 65535).

        Raises:
            ValueError: there is no such write.
        """
        most = {5: 1, 6: 1, 15: 1968, 16: 123}.get(function, 0)
        top = 1 if function in (5, 15) else 0xFFFF
        if not 1 <= len(values) <= most or not 0 <= unit <= 247 or not 0 <= first <= 65536 - len(values) \
                or not all(0 <= value <= top for value in values):
            raise ValueError(f"unit {unit}, function {function}, {list(values)} from {first}: no such write exists")
        self.first, self.values = first, tuple(values)
        kind = _pymodbus()[2][function]
        request = kind(address=first, bits=[bool(v) for v in values], dev_id=unit) if top == 1 \
            else kind(address=first, registers=list(values), dev_id=unit)
        pdu = bytes([function]) + request.encode()
        # 5 and 6 are answered by themselves, 15 and 16 by address and count.
        super().__init__(unit, pdu, pdu[:5], 0 if unit == BROADCAST else 5)


class Raw(Request):
    """A frame that is not legal Modbus, sent as it is; some sirens want such. Serial RTU lines only."""

    __slots__ = ("answer",)

    def __init__(self, frame: bytes, answer: bytes | None) -> None:
        """Take whole frames with their CRC; `answer` None = whatever sound frame the unit says, or nothing."""
        if len(frame) < 4 or not sound(frame):
            raise ValueError(f"{frame.hex(' ').upper()} has no right CRC")
        super().__init__(frame[0], frame[1:-2], b"", 0)
        self.answer = answer


def hear_rtu(ask: Request, heard: bytes) -> Verdict | None:
    """Judge what was heard on a line since the request went out.

    Bytes that cannot begin an answer (0, and 248 to 255) are passed over in front and behind: switching the direction
    of a line makes them. A whole answer of *another* unit, late from an earlier request, is passed over too. Anything
    else that is not the answer ends the exchange.

    Returns:
        The verdict; None to listen on.
    """
    if isinstance(ask, Raw):
        return _hear_raw(ask, heard)
    end, start = len(heard), 0
    while True:
        while start < end and (heard[start] == 0 or heard[start] > 247):
            start += 1
        if end - start < 5:
            return None
        unit, function = heard[start], heard[start + 1]
        size = length(function, heard[start + 2])
        if not size:
            return None   # length unknown; the end of the line's patience decides
        stop = start + size
        if end < stop:
            return None
        if not sound(heard[start:stop]):
            return Verdict(Note.BAD_CRC)
        if unit != ask.unit:
            start = stop
            continue
        if function == ask.function | 0x80:
            return Verdict(refusal(heard[start + 2]), code=heard[start + 2])
        if size != ask.answer_bytes + 3 or not heard.startswith(ask.head, start + 1) \
                or any(0 < byte < 248 for byte in heard[stop:]):
            return Verdict(Note.FOREIGN)
        return Verdict(None, heard, start + 3)


def _hear_raw(ask: Raw, heard: bytes) -> Verdict | None:
    trimmed = heard.lstrip(b"\0\xff")
    if ask.answer is not None:
        return Verdict(None, heard, len(heard) - len(trimmed)) if trimmed.startswith(ask.answer) else None
    return Verdict(None, heard, len(heard) - len(trimmed)) if len(trimmed) >= 4 and trimmed[0] == ask.unit \
        and sound(trimmed) else None


def hear(ask: Request, heard: bytes) -> int | Note | None:
    """Judge what was heard: where the data begin, what is wrong, or None to listen on. See `hear_rtu`."""
    verdict = hear_rtu(ask, heard)
    return None if verdict is None else verdict.start if verdict.note is None else verdict.note


def leftover(ask: Request, heard: bytes) -> Note:
    """Name the failure when the line fell silent before `hear` could decide."""
    if not any(0 < byte < 248 for byte in heard):
        return Note.NO_ANSWER
    if len(heard) >= 5 and heard[0] != ask.unit and (size := length(heard[1], heard[2])) and len(heard) >= size \
            and sound(heard[:size]):
        return Note.FOREIGN
    return Note.BAD_CRC


def length(function: int, third: int) -> int:
    """Return the bytes of an answer's RTU frame, told by its function and the byte after; 0 = nobody knows."""
    if function & 0x80:
        return 5 if function & 0x7F in READS + WRITES else 0
    return 5 + third if function in READS else 8 if function in WRITES else 0


def answers_in(heard: bytes) -> list[int]:
    """Return the units of the sound RTU answers among these bytes."""
    units, at = [], 0
    while len(heard) - at >= 5:
        stop = at + (length(heard[at + 1], heard[at + 2]) or 1 << 16)
        if stop <= len(heard) and sound(heard[at:stop]):
            units.append(heard[at])
            at = stop
        else:
            at += 1
    return units


def refusal(code: int) -> Note:
    """Translate an exception code (Modbus Application Protocol V1.1b3, 7).

    5 and 6 mean later; 10 and 11 are a converter saying that it cannot reach the device behind it.
    """
    return Note.BUSY if code in (5, 6) else Note.NO_ANSWER if code in (10, 11) else Note.REFUSED


def hear_tcp(ask: Request, unit: int, pdu: bytes) -> int | Note:
    """Judge the PDU of an answer with the right transaction: where its data begin, or what is wrong."""
    verdict = ask.judge(unit, pdu)
    return verdict.start if verdict.note is None else verdict.note
