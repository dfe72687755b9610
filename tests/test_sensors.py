"""Every shipped sensor model, proven without our codec."""

import importlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers import Note, SetupError
from drivers.exchange import Ask, hear
from drivers.reader import Reader, carried
from drivers.template import find, infos, names

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)
MODELS = names(LIBRARY)


def crc(frame: bytes) -> bytes:
    """CRC-16/Modbus bit by bit, as printed in the standard; not the code under test."""
    register = 0xFFFF
    for byte in frame:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ 0xA001 if register & 1 else register >> 1
    return struct.pack("<H", register)


def rain(words):
    return {"total": words[0] / 10, "total_2": words[1] / 10, "total_3": words[2] / 10}


def crack(words):
    return {"displacement": words[0] / 100}


def gas(words):
    unit, decimals, state = words[0] >> 12, words[0] >> 8 & 0xF, words[5] & 0xFF
    value = words[1] / 10 ** {0: 0, 4: 1, 8: 2, 12: 3}[decimals]
    usable = state in (1, 4, 5, 6, 8, 11, 12)
    return {"concentration": value if usable and unit == 2 else None,
            "concentration_ppm": value if usable and unit == 0 else None,
            "state": state, "gas": words[8] >> 8, "temperature": (words[7] - 500) / 10, "humidity": words[9] / 10}


ORACLES = {"rain-tipping": rain, "crack-cable-bolin": crack, "gas-self-describing": gas}
"""The datasheet's formula, by hand; demanded of every model with a computed example."""


def with_oracles():
    """Return the models that have an oracle in any of the files of sensor tests; each tests its own."""
    files = Path(__file__).parent.glob("test_sensors*.py")
    return {model for path in files for model in importlib.import_module(f"tests.{path.stem}").ORACLES}


def read(model, frame):
    template, body = find(model, LIBRARY), bytes.fromhex(frame)
    ask = Ask(body[0], body[1], 0, body[2] // 2)
    at = hear(ask, body)
    assert isinstance(at, int)
    points = carried(template, ask.function, ask.first, ask.count)
    values, notes = Reader(points, ask.function, ask.first, ask.count).decode(body, at)
    return dict(zip((p.id for p in points), values, strict=True)), notes


def test_the_three_models_are_shipped():
    assert set(MODELS) >= {"rain-tipping", "crack-cable-bolin", "gas-self-describing"}


@pytest.mark.parametrize("model", MODELS)
def test_frames_are_sound_and_values_are_the_oracles(model):
    template = find(model, LIBRARY)
    assert template.model == model
    assert infos(template).keys() == {point.id for point in template.points}
    for example in template.examples:
        for text in (example.request, example.answer):
            frame = bytes.fromhex(text)
            assert crc(frame[:-2]) == frame[-2:], text
        answer = bytes.fromhex(example.answer)
        assert len(answer) == 5 + answer[2]
        if model in ORACLES:
            assert ORACLES[model](struct.unpack(f">{answer[2] // 2}H", answer[3:-2])) == example.values
        elif example.source == "computed":
            assert model in with_oracles(), "a computed example needs an oracle in one of tests/test_sensors*.py"


@pytest.mark.parametrize("model", sorted(ORACLES))
@settings(deadline=None)
@given(data=st.data())
def test_any_registers_read_as_the_datasheet_says(model, data):
    words = data.draw(st.lists(st.integers(0, 0xFFFF), min_size=10, max_size=10))
    words[0] = words[0] & 0xF0FF | data.draw(st.sampled_from([0, 4, 8, 12])) << 8
    template = find(model, LIBRARY)
    count = max(point.span().end for point in template.points)
    points = carried(template, 3, 0, count)
    values, _ = Reader(points, 3, 0, count).decode(struct.pack(">10H", *words)[:2 * count])
    assert dict(zip((p.id for p in points), values, strict=True)) == ORACLES[model](words)


def test_gas_in_the_wrong_unit_is_no_reading():
    values, notes = read("gas-self-describing", find("gas-self-describing", LIBRARY).examples[0].answer)
    assert values["concentration"] is None
    assert notes[0] is Note.UNIT_MISMATCH


def test_the_documents_own_gas_frame_is_refused():
    """As printed it has 21 data bytes for a byte count of 20: no CRC makes that an answer."""
    printed = bytes.fromhex("010314000000000064012C07D00005000000004500000000")
    for ending in (b"\xb6\x87", crc(printed)):
        assert hear(Ask(1, 3, 0, 10), printed + ending) is Note.BAD_CRC


def test_a_model_that_is_not_there_names_its_neighbours():
    with pytest.raises(SetupError, match="rain-tipping"):
        find("rain-tiping", LIBRARY)


def test_no_model_is_data_only_for_us():
    """A template is plain data: it survives JSON."""
    import msgspec
    for model in MODELS:
        assert json.loads(msgspec.json.encode(find(model, LIBRARY)))["model"] == model
