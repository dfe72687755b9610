"""Gas, level, radar, pressure, weather and laser models, each proven by the datasheet's formula written by hand.

An oracle takes the registers as whole numbers (register → word) and gives what the datasheet says of them, with plain
arithmetic: nothing of `drivers` is used in it. What lies outside the registers it is given, it leaves out.
"""

import math
import struct
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.reader import Reader
from drivers.template import find

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)


def exact(number, *factors):
    """A whole number times decimal factors, rounded once."""
    for factor in factors:
        number *= Fraction(factor)
    return float(number)


def signed(word):
    return word - 65536 if word > 32767 else word


def number(regs, at):
    """IEEE 754 single, high word first; None where it is no number."""
    (value,) = struct.unpack(">f", struct.pack(">HH", regs[at], regs[at + 1]))
    return value if math.isfinite(value) else None


def has(regs, *registers):
    return all(register in regs for register in registers)


def fukaite(regs):
    found = {}
    if has(regs, *range(0x1F)):
        found["concentration"] = exact(regs[0], Fraction(1, 10 ** regs[0x1E])) if regs[0x1E] <= 4 else None
    if has(regs, 0x1E):
        found["decimals"] = regs[0x1E]
    return found


def oi_7032(regs):
    """The manual's numbers, which begin at 1: reading 0x21, battery 0x81, seconds 0xC1, gas 0x101, fault 0x121."""
    found = {}
    for channel in (1, 2, 3, 4):
        gas, battery = 0x21 - 1 + 2 * (channel - 1), 0x81 - 1 + 2 * (channel - 1)
        seconds, code, fault = (base - 1 + channel - 1 for base in (0xC1, 0x101, 0x121))
        if has(regs, gas, gas + 1):
            found[f"gas_{channel}"] = number(regs, gas)
        if has(regs, *range(battery, seconds + 1)):
            found[f"battery_{channel}"] = number(regs, battery) if regs[seconds] <= 360 else None
        for name, at in (("age", seconds), ("gas_code", code), ("fault", fault)):
            if has(regs, at):
                found[f"{name}_{channel}"] = regs[at]
    return found


def sf6_o2(regs):
    found = {}
    if has(regs, 0):
        found["sf6"] = regs[0]
    if has(regs, 1):
        found["oxygen"] = exact(regs[1], "0.1")
    return found


def sen07xx(regs):
    found = {}
    if has(regs, 7, 8, 9, 10, 11):
        count = regs[10] * 65536 + regs[9]
        value = exact(count, Fraction(1, 10 ** regs[11])) if regs[7] & 1 and regs[11] <= 9 else None
        for name, code in (("methane", 1), ("hydrogen_sulphide", 3), ("carbon_monoxide", 4), ("oxygen", 5)):
            found[name] = value if regs[8] == code else None
    if has(regs, 8):
        found["gas"] = regs[8]
    return found


def with_unit(regs, value_at, factors):
    """Signed value, decimals in register 3 (0 to 3), unit code in register 2."""
    factor = factors.get(regs[2])
    if factor is None or regs[3] > 3:
        return None
    return exact(signed(regs[value_at]), factor, Fraction(1, 10 ** regs[3]))


def qdy30a(regs):
    metres, kilopascals = {1: "0.01", 2: "0.001"}, {3: "1000", 4: "0.001", 5: "1"}
    found = {}
    if has(regs, 2, 3, 4):
        found["level"] = with_unit(regs, 4, metres)
        found["pressure"] = with_unit(regs, 4, kilopascals)
    if has(regs, 2, 3, 4, 5, 6):
        found["level_full_scale"] = with_unit(regs, 6, metres)
    return found


def level_9_17(regs):
    metres = {16: "1", 17: "0.001"}
    found = {}
    if has(regs, 2, 3, 4):
        found["level"] = with_unit(regs, 4, metres)
    if has(regs, 2, 3, 4, 5, 6):
        found["level_full_scale"] = with_unit(regs, 6, metres)
    return found


def pressure_9_17(regs):
    """1 kg/cm2 = 9.80665 N on 1e-4 m2; 1 mH2O = 1000 kg/m3 x 9.80665 m/s2 x 1 m; psi to the digits the table has."""
    metre_of_water = Fraction(1000) * Fraction("9.80665") / 1000
    kilopascals = {9: "1000", 10: "1", 11: "0.001", 12: "100", 13: "0.1",
                   14: Fraction("9.80665") / Fraction("1e-4") / 1000, 15: "6.894757", 16: metre_of_water,
                   17: metre_of_water / 1000}
    found = {}
    if has(regs, 2, 3, 4):
        found["pressure"] = with_unit(regs, 4, kilopascals)
    if has(regs, 2, 3, 4, 5, 6):
        found["range_high"] = with_unit(regs, 6, kilopascals)
    return found


def s_yw_01b(regs):
    found = {}
    if has(regs, 2, 3, 4):
        found["level"] = exact(signed(regs[4]), "0.01") if regs[2] == 1 else None
    if has(regs, 0):
        found["address"] = regs[0]
    return found


def siyb(regs):
    return {name: regs[at] for name, at in (("distance", 1), ("level", 3), ("state", 0x10), ("measuring_range", 0x11))
            if at in regs}


def ld8001h(regs):
    return {name: regs[at] for name, at in (("distance", 1), ("level", 3), ("installation_height", 5),
                                            ("measuring_range", 0x7D4)) if at in regs}


def fmr20(regs):
    names = (("level", 5000), ("distance", 5002), ("signal", 5004), ("temperature", 5006))
    if not has(regs, *range(5000, 5006)):
        return {}
    awake = any(regs[at] for at in range(5000, 5006))
    return {name: number(regs, at) if awake else None for name, at in names if has(regs, at, at + 1)}


def urm14(regs):
    found = {}
    if has(regs, 5, 6, 7, 8):
        found["distance"] = exact(regs[5], "0.1") if not regs[8] & 4 and regs[5] != 65535 else None
    if has(regs, 6):
        found["temperature"] = exact(signed(regs[6]), "0.1")
    if has(regs, 9):
        found["noise"] = regs[9]
    if has(regs, 8):
        found["control"] = regs[8]
    return found


def keller(regs):
    return {name: number(regs, at) for name, at in (("pressure", 0x100), ("temperature", 0x102))
            if has(regs, at, at + 1)}


def nanolevel(regs):
    return {name: number(regs, at) for name, at in (("pressure", 2), ("temperature", 6)) if has(regs, at, at + 1)}


def weather(regs):
    found = {}
    if has(regs, 500):
        found["wind_speed"] = exact(regs[500], "0.01")
    if has(regs, 503):
        found["wind_direction"] = regs[503]
    if has(regs, 504):
        found["humidity"] = exact(regs[504], "0.1") if regs[504] else None
    if has(regs, 504, 505):
        found["temperature"] = exact(signed(regs[505]), "0.1") if regs[504] else None
    if has(regs, 509):
        found["pressure"] = exact(regs[509], "0.1") if regs[509] else None
    if has(regs, 513):
        found["rain"] = exact(regs[513], "0.1")
    return found


def laser(at):
    def distance(regs):
        if not has(regs, at, at + 1):
            return {}
        count = regs[at] * 65536 + regs[at + 1]
        return {"distance": exact(count, "0.1") if 0 < count < 0xFFFFFFFF else None}
    return distance


ORACLES = {
    "gas-dfrobot-sen07xx": sen07xx, "gas-fukaite": fukaite, "gas-oi-7032": oi_7032, "gas-sf6-o2": sf6_o2,
    "keller-level": keller, "keller-nanolevel": nanolevel, "laser-chengtuo": laser(0x2001), "laser-kunpeng": laser(0xF),
    "level-qdy30a": qdy30a, "level-s-yw-01b": s_yw_01b, "level-unit-codes-9-17": level_9_17,
    "pressure-unit-codes-9-17": pressure_9_17, "radar-fmr20": fmr20, "radar-hlk-ld8001h": ld8001h, "radar-siyb": siyb,
    "ultrasonic-urm14": urm14, "weather-500-block": weather,
}

CODES = {
    "gas-dfrobot-sen07xx": {7: [0, 1], 8: [1, 3, 4, 5, 2], 11: [0, 1, 2, 9, 10]},
    "gas-fukaite": {0x1E: [0, 1, 2, 3, 4, 5]},
    "gas-oi-7032": {0xC0: [0, 360, 361], 0xC3: [0, 360, 361]},
    "level-qdy30a": {2: [1, 2, 3, 4, 5, 6, 0], 3: [0, 1, 2, 3, 4]},
    "level-s-yw-01b": {2: [1, 2]},
    "level-unit-codes-9-17": {2: [16, 17, 2], 3: [0, 1, 2, 3, 4]},
    "pressure-unit-codes-9-17": {2: [*range(8, 19)], 3: [0, 1, 2, 3, 4]},
    "radar-fmr20": {at: [0, 0x4120] for at in range(5000, 5006)},
    "ultrasonic-urm14": {8: [0, 2, 4, 12]},
    "weather-500-block": {504: [0, 500], 509: [0, 1013]},
}
"""Registers that steer others: mostly one of these, so that values come out too."""


def registers(request, answer):
    """Register → word, of one example."""
    _, _, first, count = struct.unpack(">BBHH", bytes.fromhex(request)[:6])
    return dict(zip(range(first, first + count), struct.unpack(f">{count}H", bytes.fromhex(answer)[3:-2]),
                    strict=True))


def same(ours, theirs):
    return ours is theirs is None or (ours is not None and theirs is not None
                                      and math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-9))


@pytest.mark.parametrize("model", sorted(ORACLES))
def test_examples_are_what_the_datasheet_says(model):
    for example in find(model, LIBRARY).examples:
        told = ORACLES[model](registers(example.request, example.answer))
        assert told.keys() == example.values.keys()
        assert all(same(told[name], value) for name, value in example.values.items()), (told, example.values)


@pytest.mark.parametrize("model", sorted(ORACLES))
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_registers_read_as_the_datasheet_says(model, data):
    template, codes = find(model, LIBRARY), CODES.get(model, {})
    point = data.draw(st.sampled_from(template.points))
    span = point.span()
    words = {at: data.draw(st.sampled_from(codes[at]) if at in codes else st.integers(0, 0xFFFF))
             for at in range(span.first, span.end)}
    (value,), _ = Reader([point], span.function, span.first, span.count).decode(
        struct.pack(f">{span.count}H", *words.values()))
    assert value == ORACLES[model](words)[point.id]


@pytest.mark.parametrize("model", sorted(ORACLES))
def test_registers_full_of_zeros_are_no_proof_of_a_model(model):
    """Many a device answers 0 to whatever it does not have: a rule that takes that for its model says nothing."""
    rule = find(model, LIBRARY).identify
    assert rule is not None
    assert rule.weight() > 4
    assert not rule.matches(bytes(rule.data_bytes))
