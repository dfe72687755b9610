"""What may be told to a device: exactly what was asked, or a refusal."""

import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.reader import Reader
from drivers.registers import Field, Layout, width
from drivers.sensor import Action, Point, Step, Template
from drivers.sheet import Title, WriteRule
from drivers.writing import action_frames, address_steps, encode

LINE = Title(zh="报警器", en="siren")
SIREN = Template(
    maker="m", title=LINE, manual="m", points=(), examples=(),
    set_address=(Step(register=0x11, value=0x18, broadcast=True, pause_ms=200), Step(register=0x13, value="address"),
                 Step(register=0x14, value=0, moved=True)),
    actions=(Action(id="on", request="01 10 00 1A 00 01 01 CE 18", source="ZSJCMaster AlarmLamp.cs"),
             Action(id="off", request="01 10 00 1A 00 01 00 0F D8", answer="01 10 00 1A 00 01 20 0E", source="x")))


def point(**more):
    return Point(**{"id": "p", "register": 7, "unit": "s", "resolution": 0.1, "write": WriteRule(function=16)} | more)


def crc(frame: bytes) -> bytes:
    """CRC-16/Modbus bit by bit, as printed in the standard; not the code under test."""
    register = 0xFFFF
    for byte in frame:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ 0xA001 if register & 1 else register >> 1
    return struct.pack("<H", register)


def words_of(told, raw):
    block = bytearray(2 * width(told.type))
    Layout([Field(0, told.type, told.order)], width(told.type)).pack([raw], block)
    return struct.unpack(f">{width(told.type)}H", block)


@settings(deadline=None)
@given(st.sampled_from(["u16", "s16", "u32", "s32", "bcd32", "sm16"]),
       st.sampled_from(["ABCD", "CDAB", "BADC", "DCBA"]), st.sampled_from([1.0, 0.1, 0.25]),
       st.sampled_from([0.0, -50.0]), st.integers(-9999, 32767))
def test_what_is_written_reads_back(kind, order, factor, offset, raw):
    raw = abs(raw) if kind[0] in "ub" else raw
    told = point(type=kind, order=order, scale=factor, offset=offset)
    reader = Reader([told], 3, 7, 2)
    block = struct.pack(">2H", *(*words_of(told, raw), 0, 0)[:2])
    ((value,), _) = reader.decode(block)
    asked = encode(told, value, 5)
    assert (asked.unit, asked.function, asked.first, len(asked.values)) == (5, 16, 7, width(kind))
    assert reader.decode(struct.pack(">2H", *(*asked.values, 0)[:2])) == ((value,), ())


@pytest.mark.parametrize(("told", "value", "frame"), [
    (point(write=WriteRule(function=6)), 30, "01 06 00 07 00 1E"),
    (point(write=WriteRule(function=16, register=9), type="s32", order="CDAB"), -2,
     "01 10 00 09 00 02 04 FF FE FF FF"),
    (point(type="f32"), 1.5, "01 10 00 07 00 02 04 3F C0 00 00"),
    (point(type="bit", function=1, write=WriteRule(function=5)), 1, "01 05 00 07 FF 00"),
    (point(type="bit", function=1, write=WriteRule(function=15)), 0, "01 0F 00 07 00 01 01 00"),
])
def test_the_bytes_that_travel(told, value, frame):
    body = bytes.fromhex(frame)
    assert encode(told, value, 1).frame == body + crc(body)


def test_a_published_write_comes_out_as_published():
    clear = point(register=0, write=WriteRule(function=16))   # the rain gauge's first accumulator
    assert encode(clear, 0, 2).frame.hex() == "021000000001020000b2a0"


@pytest.mark.parametrize(("told", "value", "text"), [
    (point(write=None), 1, "not to be written"), (point(range=(0, 10)), 11, "out of the range"),
    (point(), float("nan"), "out of the range"), (point(), float("inf"), "out of the range"),
    (point(), 70000, "does not fit in u16"), (point(), -1, "does not fit in u16"),
    (point(scale=0.1), 1.23, r"between two counts of p: the nearest are 1\.2 and 1\.3"),
    (point(no_data=(65535,)), 65535, "means no_data"), (point(errors={5: "warm_up"}), 5, "means warm_up"),
    (point(type="bit", function=1, write=WriteRule(function=5)), 2, "0 or 1"),
    (point(type="f16"), 1e5, "does not fit in f16"), (point(type="f16"), 1e-6, "cannot be held"),
    (point(type="bcd16"), 10000, "4 decimal digits"),
])
def test_what_cannot_be_written_exactly_is_refused(told, value, text):
    with pytest.raises(ValueError, match=text):
        encode(told, value, 1)


def test_a_new_address_is_a_list_of_writes():
    """As published: the gas transmitter's unlocking, the rain gauge's register with and without broadcast."""
    assert address_steps(SIREN, 1, 9)[0].write.frame.hex() == "000600110018d814"
    assert [told.pause_s for told in address_steps(SIREN, 1, 9)] == [0.2, 0.0, 0.0]
    assert [told.write.unit for told in address_steps(SIREN, 1, 9)] == [0, 1, 9]
    assert SIREN.alone
    for broadcast, frame in ((False, "020610000003cd38"), (True, "000610000003ccda")):
        rain = msgspec.structs.replace(SIREN, set_address=(Step(register=0x1000, value="address",
                                                                broadcast=broadcast),))
        assert [told.write.frame.hex() for told in address_steps(rain, 2, 3)] == [frame]
        assert rain.alone is broadcast
    for wrong in (0, 248, -1):
        with pytest.raises(ValueError, match="1 to 247"):
            address_steps(SIREN, 1, wrong)


@given(st.integers(1, 247))
def test_a_makers_own_frame_is_sent_to_any_address(address):
    raw = action_frames(SIREN, "on", address)
    body = bytes([address]) + bytes.fromhex("10 00 1A 00 01 01")
    assert raw.frame == body + crc(body)
    assert raw.answer is None


def test_an_action_as_published():
    assert action_frames(SIREN, "on", 1).frame.hex() == "0110001a000101ce18"
    off = action_frames(SIREN, "off", 3)
    assert off.answer is not None
    assert off.answer[0] == 3
    assert crc(off.answer[:-2]) == off.answer[-2:]
    with pytest.raises(KeyError):
        action_frames(SIREN, "flash", 1)
    with pytest.raises(ValueError, match="1 to 247"):
        action_frames(SIREN, "on", 0)
