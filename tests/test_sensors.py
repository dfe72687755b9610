"""Every shipped sensor model, proven without our codec."""

import importlib
import json
import re
import struct
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers import Note, SetupError
from drivers.exchange import Ask, hear
from drivers.imitation import image
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
    value = Fraction(words[1], 10 ** {0: 0, 4: 1, 8: 2, 12: 3}[decimals])
    usable = state in (1, 4, 5, 6, 8, 11, 12)
    millionths = {0: 1, 4: 10 ** 4, 8: Fraction(1, 1000)}   # ppm, % by volume, ppb
    return {"concentration": float(value) if usable and unit == 2 else None,
            "concentration_ppm": float(value * millionths[unit]) if usable and unit in millionths else None,
            "state": state, "gas": words[8] >> 8, "temperature": (words[7] - 500) / 10, "humidity": words[9] / 10}


ORACLES = {"rain-tipping": rain, "crack-cable-bolin": crack, "gas-self-describing": gas}
"""The datasheet's formula, by hand; demanded of every model with a computed example."""

ALIKE = {
    frozenset(pair) for pair in (
        ("level-qdy30a", "level-s-yw-01b"),             # the same layout: address, baud code, unit code
        ("flow-microsensor-mfe600", "gas-fukaite"),     # a flow meter at rest is all zeros, as empty registers are
    )}
"""Models whose registers cannot be told apart for certain: discovery proposes both."""


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


@pytest.mark.parametrize("model", MODELS)
def test_a_model_tells_installers_its_traps_in_both_languages(model):
    template = find(model, LIBRARY)
    for title in (template.title, *template.traps):
        assert re.search(r"[\u4e00-\u9fff]", title.zh), title.zh
        assert re.search(r"[A-Za-z]{2}", title.en), title.en
        assert not re.search(r"[\u4e00-\u9fff]", title.en), title.en
    assert template.traps, "what should an installer know before cursing?"


def has(template, function):
    """Registers the model is known to have: a read of any other is refused."""
    rule = template.identify
    spans = [(s.first, s.end) for p in template.points for s in [p.span()] if s.function == function]
    spans += [(text.register, text.register + text.registers) for text in template.texts if text.function == function]
    spans += [(rule.register, rule.register + rule.count)] if rule and rule.function == function else []
    return {register for first, end in spans for register in range(first, end)}


def answers_to(rule, model):
    """What a device of `model` answers to the one read of `rule`, at rest and in its examples."""
    template, found = find(model, LIBRARY), []
    first, end = rule.register, rule.register + rule.count
    if rule.function > 2 and has(template, rule.function).issuperset(range(first, end)):
        found.append(bytes(image(template, rule.function))[2 * first:2 * end])
    for example in template.examples:
        ask, body = Ask.parse(bytes.fromhex(example.request)), bytes.fromhex(example.answer)
        if ask.function == rule.function > 2 and ask.first <= first and end <= ask.first + ask.count:
            found.append(body[3 + 2 * (first - ask.first):3 + 2 * (end - ask.first)])
    return found


def test_no_two_models_are_mistaken_for_each_other_with_equal_right():
    """A device that fits two rules is the model whose rule claims more; a rule without checks claims nothing."""
    rules, mistaken = {model: find(model, LIBRARY).identify for model in MODELS}, set()
    for model, other in permutations(MODELS, 2):
        mine, theirs = rules[model], rules[other]
        if mine and theirs and theirs.weight() and mine.weight() <= theirs.weight() \
                and any(theirs.matches(data) for data in answers_to(theirs, model)):
            mistaken.add(frozenset((model, other)))
    assert mistaken <= ALIKE, "sharpen an identify rule, or list the pair as alike"


def test_no_model_is_data_only_for_us():
    """A template is plain data: it survives JSON."""
    import msgspec
    for model in MODELS:
        assert json.loads(msgspec.json.encode(find(model, LIBRARY)))["model"] == model


def test_the_list_of_models_is_whole():
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", (LIBRARY[0] / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(listed) == len(set(listed))
    assert set(MODELS) <= set(listed)
