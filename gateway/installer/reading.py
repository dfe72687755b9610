"""One reading of a sensor by its model, and what raw registers could mean.

Owns: the requests of one reading and what came of each point. Promises: every point of the model gets a value or the
reason why not; a block the device refuses is asked again point by point. Never: writes, keeps values from before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from msgspec import Struct

from drivers.exchange import Ask
from drivers.line import Heard
from drivers.planner import Cost, characters, plan, silence_ms, split
from drivers.reader import Reader, texts
from drivers.sensor import Point, Serial, Template
from drivers.transform import names
from gateway.installer.link import Link

TURNAROUND_MS = 10.0
PARAMETER = "parameter"
"""Note of a point that was not read: a number of this very instrument is missing."""


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
         timeout_s: float | None = None, given: Mapping[str, float] | None = None) -> Reading:
    """Read every point once; the device gets its rest between requests.

    Args:
        link: the port.
        template: the model.
        address: of the device.
        settings: None = those of the link.
        timeout_s: None = that of the link.
        given: parameters of this very instrument; a point that lacks one is not read.

    Raises:
        LinkError: the port is gone.
        Told: the port is no longer ours.
    """
    parameters = template.known(given or {})
    lacking = {point.id for point in template.points if _lacks(point, parameters)}
    points = [point for point in template.points if point.id not in lacking]
    spans = [point.span() for point in points]
    values: dict[str, Value] = {}
    responses: list[float] = []
    failed: dict[str, int] = {}
    queue = plan(spans, _cost(link, settings or template.serial), template.max_registers, template.contiguous)
    asked = 0
    while queue:
        block = queue.pop(0)
        members = [points[n] for n in block.spans]
        heard = _ask(link, template, Ask(address, block.function, block.first, block.count), settings, timeout_s, asked)
        asked += 1
        if heard.note is None or heard.code:
            responses.append(heard.response_s or 0.0)
        if heard.note is None:
            numbers, notes = Reader(members, block.function, block.first, block.count, parameters).decode(
                heard.data, heard.start)
            for point, number, note in zip(members, numbers, notes or [""] * len(members), strict=True):
                values[point.id] = Value(point, number, note)
        elif heard.code in (2, 3) and (parts := split(block, spans)):
            queue += parts
        else:
            failed[heard.note] = failed.get(heard.note, 0) + 1
            values |= {point.id: Value(point, None, heard.note, heard.code) for point in members}
    told = [values.get(point.id, Value(point, None, PARAMETER)) for point in template.points]
    return Reading(tuple(told), tuple(responses), asked, failed)


def _ask(link: Link, template: Template, ask: Ask, settings: Serial | None, timeout_s: float | None,
         before: int) -> Heard:
    if before and template.min_gap_ms:
        link.rest(template.min_gap_ms / 1000)
    return link.exchange(ask, settings, timeout_s)


def _cost(link: Link, serial: Serial) -> Cost:
    char_ms = 0.0 if link.tcp else characters(serial.baud, serial.parity, serial.stop_bits)
    return Cost(char_ms, TURNAROUND_MS, silence_ms(char_ms, serial.baud))


def _lacks(point: Point, parameters: Mapping[str, float]) -> bool:
    """Whether the point's value needs a number of this instrument that nobody gave."""
    return point.transform is not None and not set(names(point.transform)) <= set(parameters)


def read_texts(link: Link, template: Template, address: int, settings: Serial | None) -> dict[str, str]:
    """Read what the device says of itself in characters (serial number, model name); silence is left out.

    Raises:
        LinkError: the port is gone.
        Told: the port is no longer ours.
    """
    found: dict[str, str] = {}
    for text in template.texts:
        ask = Ask(address, text.function, text.register, text.registers)
        heard = _ask(link, template, ask, settings, None, 1)
        if heard.note is None:
            data = bytes(heard.data[heard.start:heard.start + 2 * text.registers])
            found |= texts(template, text.function, text.register, text.registers, data)
    return found


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
