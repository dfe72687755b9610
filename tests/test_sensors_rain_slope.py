"""Models for rain, soil, tilt, cracks, vibrating wires, settlement, flow and outputs, proven without our codec."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.reader import Reader, carried
from drivers.template import find
from drivers.writing import action_frames, address_steps, encode

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)
Values = dict[str, float | None]
Words = Sequence[int]
Given = Mapping[str, float]


class Oracle(NamedTuple):
    """What the datasheet says of one read, by hand."""

    function: int
    first: int
    count: int
    values: Callable[[Words, Given], Values]
    """Words (or coils) of that read, parameters of the instrument → value of each point, None = disowned."""


def s16(word: int) -> int:
    return word - 0x10000 if word & 0x8000 else word


def s32(high: int, low: int) -> int:
    number = high * 0x10000 + low
    return number - 0x100000000 if high & 0x8000 else number


def f32(high: int, low: int) -> float | None:
    (number,) = struct.unpack(">f", struct.pack(">HH", high, low))
    return number if math.isfinite(number) else None


def wire(k: float, f0: float, word: int) -> float | None:
    """k (f² - f0²), f in tenths of a hertz; a wire that does not ring says nothing."""
    return k * ((word / 10) ** 2 - f0 ** 2) if word else None


def kunpeng(point: str) -> Callable[[Words, Given], Values]:
    return lambda w, p: {point: wire(p["k"], p["f0"], w[0]), "frequency": w[0] / 10 if w[0] else None,
                         "temperature": s16(w[1]) / 10}


def inclinometer(w: Words, _: Given) -> Values:
    if not any(w):
        return {"x": None, "y": None, "temperature": None}
    return {"x": s16(w[3]) / 100, "y": s16(w[4]) / 100, "temperature": s16(w[2]) / 10}


def loop(word: int) -> float | None:
    """NAMUR NE 43: below 3.6 and above 21 mA the loop is broken or shorted."""
    return word / 1000 if 3600 <= word <= 21000 else None


def flow(w: Words, _: Given) -> Values:
    to_m3_h = {0: 3600.0, 1: 60.0, 2: 1.0, 3: 3.6, 4: 0.06, 5: 0.001}.get(w[2])
    rate, speed, full = f32(w[0], w[1]), f32(w[18], w[19]), w[15] == 0
    return {"flow": rate * to_m3_h if full and rate is not None and to_m3_h else None,
            "velocity": speed if full else None,
            "empty_pipe": w[15], "electrode_alarm": w[14], "excitation_alarm": w[13]}


ORACLES: dict[str, Oracle] = {
    "rain-cg-62": Oracle(3, 0, 4, lambda w, _: {
        "total": w[0] / 100, "event": w[1] / 100, "event_duration": w[2] * 5, "intensity": w[3] / 100}),
    "rain-dfrobot-sen0575": Oracle(4, 6, 7, lambda w, _: {
        "window": (w[0] + w[1] * 65536) / 10000, "total": (w[2] + w[3] * 65536) / 10000, "tips": w[4] + w[5] * 65536,
        "uptime": w[6]}),
    "rain-kunpeng": Oracle(3, 1, 1, lambda w, _: {"total": w[0] / 5}),
    "rain-zhixiangyu": Oracle(3, 10, 8, lambda w, _: {"x": f32(w[3], w[2]), "y": f32(w[7], w[6])}),
    "rain-optical-xm9505": Oracle(3, 0, 1, lambda w, _: {"total": w[0] / 10}),
    "soil-renke": Oracle(3, 0, 4, lambda w, _: {
        "moisture": w[0] / 10, "temperature": s16(w[1]) / 10, "conductivity": w[2], "ph": w[3] / 10}),
    "soil-es-sm-th": Oracle(3, 2, 2, lambda w, _: {"moisture": w[0] / 10, "temperature": s16(w[1]) / 10}),
    "soil-smt100": Oracle(3, 0, 4, lambda w, _: {
        "temperature": (w[0] - 10000) / 100, "moisture": w[1] / 100, "permittivity": w[2] / 100, "counts": w[3]}),
    "tilt-sanzhiyingke": Oracle(4, 0, 18, inclinometer),
    "tilt-s32-38400": Oracle(3, 0, 10, lambda w, _: {
        "x": s32(w[0], w[1]) / 1000, "y": s32(w[2], w[3]) / 1000, "temperature": s16(w[7]) / 100}),
    "tilt-wt901c485": Oracle(3, 0x3D, 3, lambda w, _: {
        "roll": s16(w[0]) * 180 / 32768, "pitch": s16(w[1]) * 180 / 32768}),
    "tilt-wit-high-precision": Oracle(3, 0x3D, 6, lambda w, _: {
        "roll": s32(w[1], w[0]) / 1000, "pitch": s32(w[3], w[2]) / 1000}),
    "crack-cable-feishang": Oracle(3, 0, 1, lambda w, _: {"displacement": s16(w[0]) / 10}),
    "vw-kunpeng-strain": Oracle(3, 1, 2, kunpeng("strain")),
    "vw-kunpeng-piezo": Oracle(3, 1, 2, kunpeng("pressure")),
    "vw-vtn4-16": Oracle(3, 100, 20, lambda w, _: {f"f{n}": w[n - 1] / 10 if w[n - 1] else None for n in range(1, 17)}),
    "static-level-shengdi": Oracle(4, 0, 2, lambda w, _: {"level": f32(w[0], w[1])}),
    "static-level-zhongda": Oracle(3, 4, 1, lambda w, _: {"level": s16(w[0]) / 9.80665}),
    "flow-microsensor-mfe600": Oracle(3, 0, 20, flow),
    "ai-waveshare-8ch": Oracle(4, 0, 8, lambda w, _: {f"ai{n}": loop(w[n - 1]) for n in range(1, 9)}),
    "relay-waveshare-8ch": Oracle(1, 0, 8, lambda w, _: {f"relay_{n}": w[n - 1] for n in range(1, 9)}),
}
"""The datasheet's formula, by hand; demanded of every model with a computed example."""


def words_of(function: int, data: bytes) -> list[int]:
    if function in (1, 2):
        return [byte >> bit & 1 for byte in data for bit in range(8)]
    return list(struct.unpack(f">{len(data) // 2}H", data))


def same(got: Mapping[str, float | None], wanted: Mapping[str, float | None]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        if value is None:
            assert got[name] is None, name
        else:
            assert got[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name   # f32 examples are written short


@pytest.mark.parametrize("model", sorted(ORACLES))
def test_examples_are_the_oracles(model: str) -> None:
    template, oracle = find(model, LIBRARY), ORACLES[model]
    shown = 0
    for example in template.examples:
        request, answer = bytes.fromhex(example.request), bytes.fromhex(example.answer)
        unit, function, first, count = struct.unpack(">BBHH", request[:6])
        assert unit == template.address, "an example is of a sensor as it leaves the factory"
        if (function, first, count) == oracle[:3]:
            same(example.values, oracle.values(words_of(function, answer[3:-2]), example.parameters))
            shown += 1
        else:
            assert not example.values, "a read with values needs an oracle"
    assert shown


@pytest.mark.parametrize("model", sorted(ORACLES))
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_registers_read_as_the_datasheet_says(model: str, data: st.DataObject) -> None:
    template, oracle = find(model, LIBRARY), ORACLES[model]
    bits = oracle.function in (1, 2)
    # Small and edge numbers are as likely as any: a unit code or a state is seldom found among 65536.
    word = st.integers(0, 1) if bits else st.sampled_from([0, 1, 2, 3, 4, 5, 0x7FFF, 0x8000, 0xFFFF]) \
        | st.integers(0, 0xFFFF) | st.integers(3500, 21100)
    words = data.draw(st.lists(word, min_size=oracle.count, max_size=oracle.count))
    packed = sum(bit << n for n, bit in enumerate(words)).to_bytes(oracle.count // 8, "little") if bits \
        else struct.pack(f">{oracle.count}H", *words)
    points = carried(template, *oracle[:3])
    assert {point.id for point in points} == {point.id for point in template.points}
    given_ = template.sample()
    values, _ = Reader(points, *oracle[:3], given_).decode(packed)
    wanted = oracle.values(words, given_)
    got = dict(zip((point.id for point in points), values, strict=True))
    for name, value in wanted.items():
        assert (got[name] is None) == (value is None), name
        # f² - f0² of two near numbers keeps few digits, in the oracle as well
        assert value is None or got[name] == pytest.approx(value, rel=1e-9, abs=1e-6), name


@pytest.mark.parametrize(("model", "unit", "address", "frames"), [
    ("rain-tipping", 2, 3, ["02 06 10 00 00 03 CD 38"]),
    ("rain-cg-62", 2, 3, ["02 10 10 00 00 01 02 00 03 E3 60"]),
    ("relay-waveshare-8ch", 7, 1, ["00 06 40 00 00 01 5C 1B"]),
    ("tilt-wt901c485", 80, 2, ["50 06 00 69 B5 88 22 A1", "50 06 00 1A 00 02 24 4D", "02 06 00 69 B5 88 2F 13",
                               "02 06 00 00 00 00 89 F9"]),
    ("tilt-wit-high-precision", 80, 2, ["50 06 00 69 B5 88 22 A1", "50 06 00 1A 00 02 24 4D",
                                        "02 06 00 69 B5 88 2F 13", "02 06 00 00 00 00 89 F9"]),
])
def test_an_address_is_given_by_the_published_frames(model: str, unit: int, address: int, frames: list[str]) -> None:
    steps = address_steps(find(model, LIBRARY), unit, address)
    assert [step.write.frame.hex(" ").upper() for step in steps] == frames


@pytest.mark.parametrize(("model", "point", "value", "frame"), [
    ("rain-cg-62", "total", 0, "02 10 00 00 00 01 02 00 00 B2 A0"),
    ("relay-waveshare-8ch", "relay_1", 1, "01 05 00 00 FF 00 8C 3A"),
    ("relay-waveshare-8ch", "relay_1", 0, "01 05 00 00 00 00 CD CA"),
    ("relay-waveshare-8ch", "relay_4", 1, "01 05 00 03 FF 00 7C 3A"),
])
def test_a_point_is_written_by_the_published_frame(model: str, point: str, value: float, frame: str) -> None:
    template = find(model, LIBRARY)
    assert encode(template.point(point), value, template.address).frame.hex(" ").upper() == frame


@pytest.mark.parametrize(("action", "frame"), [
    ("sound", "01 10 00 1A 00 01 01 CE 18"), ("sound_2", "01 10 00 1A 00 01 04 0E 1B"),
    ("flash", "01 10 00 1A 00 01 02 8E 19"), ("sound_only", "01 10 00 1A 00 01 03 4F D9"),
    ("sound_2_only", "01 10 00 1A 00 01 05 CF DB"), ("off", "01 10 00 1A 00 01 00 0F D8"),
])
def test_a_siren_is_told_by_the_published_frame(action: str, frame: str) -> None:
    assert action_frames(find("siren-v2", LIBRARY), action, 1).frame.hex(" ").upper() == frame


@pytest.mark.parametrize("model", sorted({*ORACLES, "rain-tipping", "crack-cable-bolin", "siren-v2"}))
def test_the_installer_is_warned_in_both_languages(model: str) -> None:
    template = find(model, LIBRARY)
    assert template.traps
    for told in (template.title, *template.traps):
        assert any("\u4e00" <= letter <= "\u9fff" for letter in told.zh)
        assert not any("\u4e00" <= letter <= "\u9fff" for letter in told.en)
