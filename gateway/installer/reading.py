"""One reading of a sensor by its model, and what raw registers could mean.

Owns: the requests of one reading and what came of each point. Promises: every point of the model gets a value or the
reason why not; a block the device refuses is asked again point by point. Never: writes, keeps values from before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from msgspec import Struct

from drivers import Note
from drivers.exchange import Ask
from drivers.planner import Block, Cost, characters, plan, silence_ms
from drivers.reader import Reader
from drivers.sensor import Point, Serial, Template
from gateway.installer.link import Link

TURNAROUND_MS = 10.0


class Value(Struct, frozen=True):
    """One point as it was read."""

    point: Point
    value: float | None
    note: str = ""
    code: int = 0
    """Exception code where the device refused."""

    @property
    def outside(self) -> bool:
        """Whether the value is one the instrument says it cannot measure."""
        return self.value is not None and self.point.range is not None and not (
            self.point.range[0] <= self.value <= self.point.range[1])

    @property
    def good(self) -> bool:
        """Whether there is a value nothing speaks against."""
        return self.value is not None and not self.note and not self.outside


class Reading(Struct, frozen=True):
    """All points of one device, once."""

    values: tuple[Value, ...]
    responses_s: tuple[float, ...]
    """One for each request that was answered."""
    asked: int
    failed: Mapping[str, int]
    """Note → requests that failed with it."""

    @property
    def answered(self) -> bool:
        """Whether the device said anything sound."""
        return bool(self.responses_s)


def read(link: Link, template: Template, address: int, settings: Serial | None,
         timeout_s: float | None = None) -> Reading:
    """Read every point once; the device gets its rest between requests.

    Raises:
        LinkError: the port is gone.
        Told: the port is no longer ours.
    """
    serial = settings or template.serial
    char_ms = 0.0 if link.tcp else characters(serial.baud, serial.parity, serial.stop_bits)
    cost = Cost(char_ms, TURNAROUND_MS, silence_ms(char_ms, serial.baud))
    points = template.points
    blocks = plan([point.span() for point in points], cost, template.max_registers, template.contiguous)
    queue: list[tuple[Block, list[Point]]] = [(block, [points[n] for n in block.spans]) for block in blocks]
    values: dict[str, Value] = {}
    responses: list[float] = []
    failed: dict[str, int] = {}
    asked = 0
    while queue:
        block, members = queue.pop(0)
        if asked and template.min_gap_ms:
            link.rest(template.min_gap_ms / 1000)
        asked += 1
        heard = link.exchange(Ask(address, block.function, block.first, block.count), settings, timeout_s)
        if heard.note is None:
            responses.append(heard.response_s or 0.0)
            numbers, notes = Reader(members, block.function, block.first, block.count).decode(heard.data, heard.start)
            for point, number, note in zip(members, numbers, notes or [""] * len(members), strict=True):
                values[point.id] = Value(point, number, note)
            continue
        if heard.code:
            responses.append(heard.response_s or 0.0)
        if heard.code in (2, 3) and len(members) > 1:
            queue += [(Block(span.function, span.first, span.count, (0,)), [point])
                      for point in members for span in [point.span()]]
            continue
        failed[heard.note] = failed.get(heard.note, 0) + 1
        values |= {point.id: Value(point, None, heard.note, heard.code) for point in members}
    return Reading(tuple(values[point.id] for point in points), tuple(responses), asked, failed)


class Word(Struct, frozen=True):
    """One register and what it could be, alone and with the next one or three."""

    register: int
    raw: int
    signed: int
    hex: str
    bits: str
    text: str
    f32: float | None = None
    """With the next register, ABCD."""
    f32_swapped: float | None = None
    """The same, CDAB."""
    u32: int | None = None
    u32_swapped: int | None = None


def words(data: bytes, first: int) -> list[Word]:
    """Interpret the registers of an answer (2 bytes each, high byte first)."""
    raw = struct.unpack(f">{len(data) // 2}H", data)
    return [_word(raw[n:n + 2], first + n) for n in range(len(raw))]


def _word(two: Sequence[int], register: int) -> Word:
    pair = struct.pack(">2H", *two) if len(two) == 2 else b""
    swapped = struct.pack(">2H", two[1], two[0]) if len(two) == 2 else b""
    one = struct.pack(">H", two[0])
    return Word(register, two[0], struct.unpack(">h", one)[0], f"{two[0]:04X}", f"{two[0]:016b}",
                "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in one),
                *((struct.unpack(">f", b)[0] if b else None) for b in (pair, swapped)),
                *((struct.unpack(">I", b)[0] if b else None) for b in (pair, swapped)))


def silent(reading: Reading) -> bool:
    """Whether nothing at all was heard of the device."""
    return not reading.answered and set(reading.failed) <= {Note.NO_ANSWER}
