"""A template proves itself, or says what is wrong and where."""

import struct
from pathlib import Path

import pytest

from drivers import Note, SetupError
from drivers.exchange import checked
from drivers.identify import Identify
from drivers.imitation import image, write
from drivers.reader import Reader
from drivers.strictyaml import Problems
from drivers.template import find, load, names

GOOD = """\
maker: Acme
title: {zh: 水位计, en: Level}
manual: page 3
points:
  - {id: level, register: 4, type: s16, unit: mm, resolution: 1, no_data: [-32768], range: [0, 5000],
     decimals: {register: 3}, unit_code: {register: 2, equals: 2}, status: {register: 1, words: {0: ok, 1: warm_up}}}
examples:
  - {request: 01 03 00 01 00 04 15 C9, answer: ANSWER, values: {level: 12.5}, source: computed}
"""


def answer(*words):
    return checked(b"\x01\x03" + bytes([2 * len(words)]) + struct.pack(f">{len(words)}H", *words)).hex(" ").upper()


@pytest.fixture
def save(tmp_path):
    def made(text, name="level.yaml", words=(0, 2, 1, 125)):
        path = tmp_path / name
        path.write_text(text.replace("ANSWER", answer(*words)), encoding="utf-8")
        return path
    return made


def test_a_good_template_loads_and_is_called_by_its_file(save):
    template = load(save(GOOD))
    assert template.model == "level"
    assert template.point("level").span() == (s := template.point("level").span())
    assert (s.function, s.first, s.count) == (3, 1, 4)


@pytest.mark.parametrize(("old", "new", "path", "text"), [
    ("values: {level: 12.5}", "values: {level: 125}", "examples[0].values.level", "the answer says 12.5"),
    ("values: {level: 12.5}", "values: {depth: 1}", "examples[0].values", "'depth' is not in this answer"),
    ("values: {level: 12.5}", "values: {}", "examples[0].values", "carries 'level' too"),
    ("01 03 00 01 00 04 15 C9", "01 03 00 01 00 04 15 C8", "examples[0].request", "expected 15 C9"),
    ("01 03 00 01 00 04 15 C9", "01 06 00 01 00 04 15 C9", "examples[0].request", "not a read request"),
    ("01 03 00 01 00 04 15 C9", "01 03 00 01 00 03 54 0B", "examples[0].answer", "foreign_answer"),
    ("ANSWER", "01 03 08 00 00 00 02 00 01 00 7D 00 00", "examples[0].answer", "its CRC should be"),
    ("source: computed", "source: computed, notes: {level: warm_up}", "examples[0].notes", "no note"),
    ("type: s16", "type: bit", "points[0].type", "gives registers"),
    ("type: s16", "type: s16, bits: [12, 5]", "points[0].bits", "do not fit"),
    ("resolution: 1,", "resolution: 1, scale: 0,", "points[0].scale", "not 0"),
    ("[0, 5000]", "[5000, 0]", "points[0].range", "low below high"),
    ("no_data: [-32768]", "no_data: [0.5]", "points[0].no_data", "whole raw numbers"),
    ("no_data: [-32768]", "no_data: [32768]", "points[0].no_data", "as the type reads it"),
    ("type: s16, unit", "type: u16, unit", "points[0].no_data", "as the type reads it"),
    ("resolution: 1,", "resolution: 1, scale: 1e308,", "points[0].scale", "so far from its unit"),
    ("resolution: 1,", "resolution: 1, scale: 1e-320,", "points[0].scale", "so far from its unit"),
    ("maker: Acme", "maker: Acme\nmax_registers: 3", "points[0].register", "span 4, but max_registers is 3"),
    ("maker: Acme", "maker: Acme\nmodel: other", "model", "leave the key out"),
    ("examples:", "identify: {register: 0, count: 1, checks: [{register: 4, among: [1]}]}\nexamples:",
     "identify.checks[0].register", "not among"),
    ("examples:", "  - {id: more, register: 9, unit: mm, resolution: 1}\nexamples:", "points[1]",
     "no example shows 'more'"),
    ("examples:", "  - {id: level, register: 9, unit: mm, resolution: 1}\nexamples:", "points[1].id",
     "names must differ"),
])
def test_a_broken_template_says_where_and_why(save, old, new, path, text):
    assert old in GOOD
    with pytest.raises(Problems) as error:
        load(save(GOOD.replace(old, new)))
    assert any(path in str(p) and text in str(p) for p in error.value.problems), str(error.value)


def test_a_template_without_an_example_is_refused(save):
    with pytest.raises(Problems, match="examples"):
        load(save(GOOD[:GOOD.index("examples")]))


def test_the_sites_own_model_comes_before_the_shipped_one(save, tmp_path):
    (tmp_path / "site").mkdir()
    shipped = save(GOOD)
    own = save(GOOD.replace("Acme", "Own"), "site/level.yaml")
    assert find("level", (own.parent, shipped.parent)).maker == "Own"
    assert names((own.parent, shipped.parent)) == ["level"]


@pytest.mark.parametrize("name", ["levels", "../level", "/etc/passwd", ""])
def test_an_unknown_name_lists_what_there_is(save, name):
    with pytest.raises(SetupError, match=r"no sensor model called .* nearest: level;"):
        find(name, (save(GOOD).parent,))


def test_a_broken_file_is_a_setup_error_with_its_line(save):
    path = save(GOOD.replace("maker: Acme", "maker: Acme\nmakr: x"))
    with pytest.raises(SetupError, match=r"level\.yaml:2"):
        find("level", (path.parent,))


@pytest.mark.parametrize(("words", "value", "note"), [
    ((0, 2, 1, 125), 12.5, ""), ((0, 2, 0, 125), 125.0, ""), ((1, 2, 1, 0), None, Note.WARM_UP),
    ((7, 2, 1, 1), None, Note.SENSOR_FAULT), ((0, 1, 1, 1), None, Note.UNIT_MISMATCH),
    ((0, 2, 77, 1), None, Note.NO_DATA), ((0, 2, 1, 0x8000), None, Note.NO_DATA), ((0, 2, 1, 0xFFFF), -0.1, ""),
])
def test_helpers_decide_what_a_value_is_worth(save, words, value, note):
    point = load(save(GOOD)).point("level")
    values, notes = Reader([point], 3, 1, 4).decode(struct.pack(">4H", *words))
    assert values == (value,)
    assert notes == ((note,) if note else ())


@pytest.mark.parametrize("raw", [float("nan"), float("inf"), -float("inf")])
def test_a_float_that_is_no_number_is_no_value(save, raw):
    text = GOOD.replace("type: s16", "type: f32").replace("[-32768]", "[-999.0]")
    path = save(text.replace("01 03 00 01 00 04 15 C9", "01 03 00 01 00 05 D4 09"),
                words=(0, 2, 0, *struct.unpack(">2H", struct.pack(">f", 12.5))))
    reader = Reader([load(path).point("level")], 3, 1, 5)
    assert reader.decode(struct.pack(">3Hf", 0, 2, 0, raw)) == ((None,), (Note.NOT_A_NUMBER,))
    assert reader.decode(struct.pack(">3Hf", 0, 2, 0, -999)) == ((None,), (Note.NO_DATA,))


def test_an_image_at_rest_is_healthy_and_takes_values(save):
    template = load(save(GOOD))
    held, point = image(template, 3), template.point("level")
    reader = Reader([point], 3, 0, len(held) // 2)
    assert reader.decode(bytes(held)) == ((0.0,), ())
    write(point, 1234, held)
    assert reader.decode(bytes(held)) == ((1234.0,), ())
    write(point, None, held)
    assert reader.decode(bytes(held)) == ((None,), (Note.NO_DATA,))


def test_identify_reads_and_compares():
    rule = Identify(register=10, count=2)
    assert rule.matches(bytes(4))
    assert not rule.matches(bytes(2))


def test_library_folders_may_be_missing():
    assert names((Path("/nowhere"),)) == []


def test_a_mark_of_a_float_is_known_as_the_registers_hold_it(save):
    """-999.9 in two registers is -999.9000244140625: compared with what is written, it would pass for a level."""
    text = GOOD.replace("type: s16", "type: f32").replace("register: 4", "register: 3").replace("[-32768]", "[-999.9]")
    text = text.replace("decimals: {register: 3}, unit_code: {register: 2, equals: 2}, ", "")
    path = save(text, words=(0, 0, *struct.unpack(">2H", struct.pack(">f", 12.5))))
    reader = Reader([load(path).point("level")], 3, 1, 4)
    assert reader.decode(struct.pack(">2Hf", 0, 0, -999.9)) == ((None,), (Note.NO_DATA,))
    assert reader.decode(struct.pack(">2Hf", 0, 0, -999.8))[1] == ()


def test_a_number_that_overflows_on_its_way_is_no_number(save):
    text = GOOD.replace("type: s16", "type: f64").replace("register: 4", "register: 1").replace("[-32768]", "[]")
    text = text[:text.index("decimals")] + "scale: 1e10" + text[text.index("}\nexamples"):]
    text = text.replace("{level: 12.5}", "{level: 125000000000.0}")
    path = save(text, words=struct.unpack(">4H", struct.pack(">d", 12.5)))
    reader = Reader([load(path).point("level")], 3, 1, 4)
    assert reader.decode(struct.pack(">d", 1e305)) == ((None,), (Note.NOT_A_NUMBER,))
