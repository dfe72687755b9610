"""What a block means: no bytes are a false number, and what is written reads back."""

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers import Note, SetupError
from drivers.imitation import image, rest, write, write_text
from drivers.reader import Reader, missing_parameters, texts
from drivers.registers import BCD, FLOATS, size
from drivers.sensor import Example, Point, Template
from drivers.sheet import (
    Age,
    AllZero,
    Decimals,
    Parameter,
    ScaleCode,
    Status,
    Text,
    Title,
    UnitCode,
)
from drivers.transform import CurrentLoop, Temperature, VibratingWire

KINDS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f16", "f32", "f64", "bcd16", "bcd32", "bcd64",
         "sm16", "sm32", "sm64")
ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")
WORDS = ("warm_up", "no_data", "sensor_fault", "over_range", "under_range")


def point(**more):
    return Point(**{"id": "p", "register": 0, "unit": "mm", "resolution": 0.001} | more)


def one(told, words, parameters=None, count=None):
    """The value and note of one point in a block of these registers."""
    reader = Reader([told], told.function, 0, count or len(words), parameters or {})
    values, notes = reader.decode(struct.pack(f">{len(words)}H", *words))
    return values[0], notes[0] if notes else ""


@st.composite
def points(draw):
    """Any point the shapes allow, its registers among the first 20."""
    kind = draw(st.sampled_from(KINDS))
    byte = draw(st.sampled_from(["high", "low"])) if kind in ("u8", "s8") else None
    bits = None
    if kind in ("u16", "s16", "u32", "s64") and draw(st.booleans()):
        low = draw(st.integers(0, size(kind) - 1))
        bits = low, draw(st.integers(1, size(kind) - low))
    register, code = st.integers(0, 19), st.integers(0, 15)
    factor = st.sampled_from([1.0, 0.1, -2.5, 1e-29, 1e29, 101.97])
    word = st.sampled_from(WORDS)
    number = st.one_of(st.floats(-1e30, 1e30), st.sampled_from(["k", "f0"]))
    warmth = Temperature(register=draw(st.integers(0, 16)), type=draw(st.sampled_from(KINDS[2:])), scale=draw(factor))
    transform = draw(st.sampled_from([
        None, None, VibratingWire(k=draw(number), f0=draw(number)), CurrentLoop(low=draw(number), high=draw(number)),
        VibratingWire(k=draw(number), f0=draw(number), kt=draw(number), t0=draw(number), temperature=warmth)]))
    helper = {"register": draw(register), "bits": (draw(st.integers(0, 12)), 4)}

    def perhaps(made):
        return draw(st.sampled_from([None, None, made]))
    return point(
        id=f"p{draw(st.integers(0, 999))}", register=draw(st.integers(0, 16)), type=kind, byte=byte, bits=bits,
        order=draw(st.sampled_from(ORDERS)), scale=draw(factor), offset=draw(st.sampled_from([0.0, -50.0, 1e29])),
        transform=transform, no_data=tuple(draw(st.lists(st.integers(0, 1), max_size=2))),
        errors=draw(st.dictionaries(st.integers(-1, 3), word, max_size=3)),
        decimals=perhaps(Decimals(**helper)),
        scale_code=perhaps(ScaleCode(**helper, map=draw(st.dictionaries(code, factor, min_size=1)))),
        unit_code=perhaps(UnitCode(**helper, map=draw(st.dictionaries(code, factor, min_size=1)))),
        status=draw(st.sampled_from([None, Status(**helper, words={0: "ok", 1: "over_range"}),
                                     Status(**helper, flags={0: "over_range", 1: "warm_up", 2: "ok"})])),
        age=perhaps(Age(register=draw(register), limit_s=30)),
        all_zero=perhaps(AllZero(register=draw(register), count=1)))


@settings(deadline=None, max_examples=400)
@given(st.lists(points(), min_size=1, max_size=4), st.one_of(st.binary(min_size=40, max_size=40), st.sampled_from(
    [bytes(40), b"\xff" * 40, b"\x7f\x80\0\0" * 10,
     b"\x7f\xf0\0\0\0\0\0\0" * 5, b"\x7f\xef\xff\xff\xff\xff\xff\xff" * 5])),
    st.floats(-1e30, 1e30), st.binary(max_size=4))
def test_any_bytes_are_a_finite_number_or_a_reason(told, data, parameter, before):
    reader = Reader(told, 3, 0, 20, {"k": parameter, "f0": parameter})
    values, notes = reader.decode(before + data, len(before))
    assert len(values) == len(told)
    assert notes == () or len(notes) == len(told)
    for n, value in enumerate(values):
        note = notes[n] if notes else ""
        assert isinstance(note, str)
        if value is None:
            assert isinstance(note, Note)
        else:
            assert math.isfinite(value)
            assert note in ("", Note.OVER_RANGE, Note.UNDER_RANGE)


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(ORDERS), st.sampled_from(["high", "low"]),
       st.sampled_from([1.0, 0.1, 0.01, 0.0054931640625, 5.0]), st.sampled_from([0.0, -50.0]), st.data())
def test_what_a_simulator_writes_reads_back(kind, order, byte, factor, offset, data):
    told = point(type=kind, order=order, scale=factor, offset=offset, byte=byte if kind in ("u8", "s8") else None)
    if kind in FLOATS:
        raw = data.draw(st.floats(-60000, 60000, width=size(kind)))
    elif kind in BCD:
        raw = data.draw(st.integers(0, min(10 ** (size(kind) // 4) - 1, 2**50)))
    else:
        most = min(2 ** (size(kind) - 1) - 1, 2**50)
        raw = data.draw(st.integers(0 if kind[0] == "u" else -most, most))
    value = raw * factor + offset
    block = bytearray(8)
    write(told, value, block)
    values, notes = Reader([told], 3, 0, 4).decode(bytes(block))
    step = factor * {"f16": 32, "f32": 0.01}.get(kind, 0.01) if kind in FLOATS else factor / 2
    assert notes == ()
    assert values[0] == pytest.approx(value, rel=1e-9, abs=step * 1.0001)


@pytest.mark.parametrize(("flags", "raw", "value", "note"), [
    ({0: "warm_up", 3: "sensor_fault"}, 0, 7.0, ""),
    ({0: "warm_up", 3: "sensor_fault"}, 1, None, Note.WARM_UP),
    ({0: "warm_up", 3: "sensor_fault"}, 9, None, Note.SENSOR_FAULT),      # the worst wins
    ({0: "under_range", 1: "over_range"}, 3, 7.0, Note.OVER_RANGE),
    ({0: "warm_up", 1: "ok"}, 2, 7.0, ""),                               # a bit that means nothing
    ({0: "warm_up"}, 4, None, Note.SENSOR_FAULT),                        # a bit nobody explained
])
def test_flags_become_the_worst_of_their_words(flags, raw, value, note):
    assert one(point(status=Status(register=1, flags=flags)), (7, raw)) == (value, note)


def test_errors_are_words_and_never_numbers():
    told = point(type="s16", errors={32767: "over_range", 32766: "warm_up", -32768: "sensor_fault"}, no_data=(-1,))
    assert [one(told, (raw,)) for raw in (0x7FFF, 0x7FFE, 0x8000, 0xFFFF, 5)] == [
        (None, Note.OVER_RANGE), (None, Note.WARM_UP), (None, Note.SENSOR_FAULT), (None, Note.NO_DATA), (5.0, "")]


def test_a_level_tells_its_own_unit_and_decimals():
    """QDY30A: 2 unit (1 cm, 2 mm, 3 MPa, 4 Pa, 5 kPa, 6 mA), 3 decimals, 4 value."""
    told = point(register=4, type="s16", unit="m", decimals=Decimals(register=3),
                 unit_code=UnitCode(register=2, map={1: 0.01, 2: 0.001}))
    assert one(told, (1, 3, 1, 1, 1234)) == (1.234, "")
    assert one(told, (1, 3, 2, 0, 1234)) == (1.234, "")
    assert one(told, (1, 3, 2, 0, 0x10000 - 5)) == (-0.005, "")
    for code in (0, 3, 4, 5, 6, 7):
        assert one(told, (1, 3, code, 0, 1234)) == (None, Note.UNIT_MISMATCH)
    assert one(told, (1, 3, 1, 10, 1234)) == (None, Note.NO_DATA)
    block = bytearray(10)
    for value in (1.234, -0.005, 3.0, 300.0):   # 300 m do not fit in mm
        write(told, value, block)
        assert Reader([told], 3, 0, 5).decode(bytes(block)) == ((value,), ())


def test_a_scale_told_by_a_code():
    told = point(scale=0.5, offset=1.0, scale_code=ScaleCode(register=1, map={0: 1.0, 1: 0.1}))
    assert one(told, (10, 0)) == (6.0, "")
    assert one(told, (10, 1)) == (1.5, "")
    assert one(told, (10, 2)) == (None, Note.NO_DATA)


def test_a_radio_reading_gets_old():
    told = point(age=Age(register=1, scale=2.0, limit_s=30))
    assert one(told, (7, 15)) == (7.0, "")
    assert one(told, (7, 16)) == (None, Note.NO_DATA)


def test_zeros_with_a_good_crc_are_no_measurement():
    told = [point(id="level", type="f32", all_zero=AllZero(register=0, count=6)),
            point(id="distance", type="f32", register=2, all_zero=AllZero(register=0, count=6))]
    assert all(p.span().count == 6 for p in told)   # asked for alone it is still told from a true zero
    reader = Reader(told, 3, 0, 16)
    # A radar powered up a moment ago, as published: what is not zero is its set-up.
    warm = bytes.fromhex("C8032000000000000000000000000041A0000040400000000000000000000000000000F7A1")
    assert reader.decode(warm, 3) == ((None, None), (Note.WARM_UP, Note.WARM_UP))
    assert reader.decode(struct.pack(">8f", 0.0, 2.5, 0.0, 20.0, 3.0, 0.0, 0.0, 0.0)) == ((0.0, 2.5), ())


@pytest.mark.parametrize(("ma", "value", "note"), [
    (0.0, None, Note.SENSOR_FAULT), (3.599, None, Note.SENSOR_FAULT), (21.001, None, Note.SENSOR_FAULT),
    (3.6, -0.125, Note.UNDER_RANGE), (3.8, -0.0625, ""), (4.0, 0.0, ""), (12.0, 2.5, ""), (20.0, 5.0, ""),
    (20.5, 5.15625, ""), (20.6, 5.1875, Note.OVER_RANGE), (21.0, 5.3125, Note.OVER_RANGE),
])
def test_a_broken_current_loop_is_never_zero(ma, value, note):
    told = point(scale=0.001, unit="m", transform=CurrentLoop(low=0.0, high="span"))
    got, said = one(told, (round(1000 * ma),), {"span": 5.0})
    assert said == note
    assert got == (None if value is None else pytest.approx(value))


def test_a_wire_that_does_not_ring_is_a_fault_and_temperature_counts():
    told = point(scale=0.1, unit="kPa", transform=VibratingWire(
        k="k", f0="f0", kt=0.5, t0=20.0, temperature=Temperature(register=1, scale=0.1)))
    given = {"k": -0.0005, "f0": 3000.0}
    value, note = one(told, (28000, 253), given)
    assert note == ""
    assert value == pytest.approx(-0.0005 * (2800.0**2 - 3000.0**2) + 0.5 * (25.3 - 20.0))
    assert one(told, (0, 253), given) == (None, Note.SENSOR_FAULT)
    block = bytearray(struct.pack(">2H", 0, 253))
    write(told, 400.0, block, given)
    assert Reader([told], 3, 0, 2, given).decode(bytes(block))[0][0] == pytest.approx(400.0, abs=0.5)
    with pytest.raises(ValueError, match="no frequency"):
        write(told, 1e9, block, given)


def test_a_missing_parameter_is_said_before_anything_is_read():
    told = point(transform=VibratingWire(k="k", f0="f0"))
    with pytest.raises(SetupError, match="p needs the parameter k: it stands on the calibration sheet"):
        Reader([told], 3, 0, 1)
    line = Title(zh="标定系数", en="gauge factor")
    model = Template(model="vw", maker="m", title=line, manual="m", points=(told, point(id="q", register=1)),
                     parameters={"k": Parameter(title=line, unit="kPa/Hz²"),
                                 "f0": Parameter(title=line, unit="Hz", default=0.0)},
                     examples=(Example(request="00", answer="00", source="x", parameters={"k": 0.002, "f0": 2500}),))
    assert missing_parameters(model, ["p"], {}) == [
        "p needs the parameter k (gauge factor, 标定系数; kPa/Hz²), from the instrument's calibration sheet"]
    assert missing_parameters(model, ["q"], {}) == []
    assert missing_parameters(model, ["p"], {"k": 1.0}) == []
    assert missing_parameters(model, ["p"], {"k": math.nan}) == ["parameter k is nan: expected a finite number"]
    assert missing_parameters(model, ["p"], {"k": 1.0, "K": 1.0}) == [
        "parameter 'K' is not one of vw: it has k, f0"]
    assert model.known({"k": 1.0}) == {"k": 1.0, "f0": 0.0}
    assert model.sample() == {"k": 0.002, "f0": 2500}


def test_a_simulated_device_is_healthy_at_rest_and_knows_its_name():
    line = Title(zh="x", en="x")
    label = Text(id="label", register=8, registers=3, order="BADC")
    model = Template(maker="m", title=line, manual="m", texts=(label,), points=(
        point(id="level", type="f32", range=(0, 20), all_zero=AllZero(register=0, count=2)),
        point(id="wire", register=2, scale=0.1, range=(-100, 100), transform=VibratingWire(k="k", f0="f0")),
        point(id="digits", register=3, type="bcd16", errors={0: "warm_up"}),
        point(id="old", register=4, age=Age(register=5, limit_s=10), status=Status(register=6, words={3: "ok"}))),
        parameters={"k": Parameter(title=line, unit="1"), "f0": Parameter(title=line, unit="Hz")},
        examples=(Example(request="00", answer="00", source="x", parameters={"k": 0.001, "f0": 1000},
                          texts={"label": "VW-1"}),))
    held = image(model, 3)
    values, notes = Reader(model.points, 3, 0, len(held) // 2, model.sample()).decode(bytes(held))
    assert notes == ()
    assert values[0] == 10.0
    assert values[1] == pytest.approx(0.0, abs=0.2)
    assert texts(model, 3, 7, 4, bytes(held[14:])) == {"label": "VW-1"}
    assert texts(model, 3, 7, 3, bytes(held[14:])) == {}
    assert texts(model, 4, 7, 4, bytes(held[14:])) == {}


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12), st.sampled_from(["ABCD", "BADC"]),
       st.binary(min_size=14, max_size=14))
def test_texts_survive_and_any_bytes_are_printable(said, order, noise):
    line = Title(zh="x", en="x")
    label = Text(id="label", register=1, registers=6, order=order)
    model = Template(maker="m", title=line, manual="m", texts=(label,), points=(), examples=())
    block = bytearray(14)
    write_text(label, said, block)
    assert texts(model, 3, 0, 7, bytes(block)) == {"label": said}
    assert texts(model, 3, 0, 7, noise)["label"].isprintable()
    with pytest.raises(ValueError, match="does not fit"):
        write_text(label, "x" * 13, block)


@pytest.mark.parametrize(("told", "note"), [
    (point(no_data=(65535,)), Note.NO_DATA), (point(errors={9: "sensor_fault"}), Note.SENSOR_FAULT),
    (point(status=Status(register=1, words={0: "ok", 2: "warm_up"})), Note.WARM_UP),
    (point(status=Status(register=1, flags={4: "sensor_fault"})), Note.SENSOR_FAULT),
    (point(scale=0.001, transform=CurrentLoop(low=0.0, high=5.0)), Note.SENSOR_FAULT),
])
def test_a_simulated_device_can_say_that_it_has_nothing(told, note):
    block = bytearray(4)
    rest(told, block, {})
    assert Reader([told], 3, 0, 2).decode(bytes(block))[1] == ()
    write(told, None, block)
    assert Reader([told], 3, 0, 2).decode(bytes(block)) == ((None,), (note,))


def test_a_simulated_device_refuses_what_it_cannot_say():
    with pytest.raises(ValueError, match="no raw number that means no data"):
        write(point(), None, bytearray(2))
    with pytest.raises(ValueError, match="it always has a value"):
        write(point(type="bit", function=1), None, bytearray(1))
    with pytest.raises(ValueError, match="does not fit"):
        write(point(type="bcd16"), 10000, bytearray(2))
    with pytest.raises(ValueError, match="needs the parameter k"):
        write(point(transform=VibratingWire(k="k", f0=0.0)), 1, bytearray(2))
