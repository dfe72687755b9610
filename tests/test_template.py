"""A template proves itself, or says what is wrong and where."""

import struct
from pathlib import Path

import msgspec
import pytest

from drivers import Note, SetupError
from drivers.exchange import checked
from drivers.identify import Identify
from drivers.imitation import image, write
from drivers.reader import Reader, texts
from drivers.sensor import Template
from drivers.strictyaml import Problems
from drivers.template import find, infos, load, names, schema
from hil.slaves import Slave

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


DEVICE = """\
maker: Acme
title: {zh: 水位计, en: Level}
manual: page 3
traps: [{zh: 先通电三十秒, en: Power it for 30 s first}]
settle_reads: 2
parameters: {span: {title: {zh: 量程, en: span}, unit: m}}
points:
  - {id: level, register: 0, scale: 0.001, unit: m, resolution: 0.001,
     transform: {kind: current_loop, low: 0, high: span}}
  - {id: temperature, register: 1, type: s8, byte: low, unit: "°C", resolution: 1, errors: {-128: sensor_fault}}
  - {id: total, register: 2, type: bcd16, unit: m3, resolution: 1, counter: {wrap: 10000, resets: never}}
  - {id: delay, register: 3, unit: s, resolution: 1, write: {function: 6}}
  - {id: head, register: 2, unit: m, resolution: 0.1, scale_code: {register: 1, bits: [8, 8], map: {0: 1, 1: 0.1}},
     status: {register: 3, bits: [3, 2], flags: {0: warm_up}}, age: {register: 1, bits: [8, 2], limit_s: 5},
     all_zero: {register: 0, count: 4}}
texts:
  - {id: serial, register: 4, registers: 2}
identify: {register: 0, count: 6, checks: [{register: 4, text: LV},
           {register: 1, type: u8, byte: high, between: [0, 3]}]}
set_address:
  - {register: 17, value: 0x18, broadcast: true, pause_ms: 100}
  - {register: 19, value: address, broadcast: true}
actions:
  - {id: sound, title: {zh: 响, en: sound}, request: 01 10 00 1A 00 01 01 CE 18, source: page 9}
examples:
  - request: 01 03 00 00 00 06 C5 C8
    answer: ANSWER
    values: {level: 2.5, temperature: -5, total: 1234, delay: 7, head: 4660}
    texts: {serial: LV07}
    parameters: {span: 5}
    source: computed
"""
WORDS = (12000, 0xFB, 0x1234, 7, 0x4C56, 0x3037)


def test_a_template_says_what_a_datasheet_says(save):
    model = load(save(DEVICE, words=WORDS))
    assert model.point("head").span().count == 4
    assert model.traps[0].zh == "先通电三十秒"
    assert model.settle_reads == 2
    assert msgspec.json.decode(msgspec.json.encode(model), type=Template) == model
    assert infos(model, {"span": 10.0})["level"].high == pytest.approx(10.3125)
    assert infos(model)["level"].high is None
    assert infos(model)["total"].wrap == 10000
    assert schema()["$defs"]["Point"]["properties"].keys() >= {"errors", "age", "write"}


@pytest.mark.parametrize(("old", "new", "path", "text"), [
    ("high: span", "high: spam", "points[0].transform", "'spam' is not declared: add it under parameters"),
    ("high: span", "high: 5", "parameters.span", "no point's transform uses it"),
    ("high: span", "high: 0", "points[0].transform.high", "every current would give the same value"),
    ("    parameters: {span: 5}\n", "", "examples[0].parameters", "level needs the parameter span (span, 量程; m)"),
    ("{span: 5}", "{span: 5, x: 1}", "examples[0].parameters", "parameter 'x' is not one of"),
    ("{span: 5}", "{span: 6}", "examples[0].values.level", "the answer says 3.0, the example 2.5"),
    ("type: s8, byte: low", "type: s8", "points[1].byte", "the high or the low byte"),
    ("errors: {-128: sensor_fault}", "errors: {128: sensor_fault}", "points[1].errors", "as the type reads it"),
    ("errors: {-128: sensor_fault}", "errors: {-128: broken}", "points[1].errors.-128", "expected one of no_data"),
    ("errors: {-128: sensor_fault}", "errors: {-128: sensor_fault}, no_data: [-128]", "points[1].errors",
     "leave one out"),
    ("wrap: 10000", "wrap: 65536", "points[2].counter.wrap", "counts to 9999 at most"),
    ("type: bcd16", "type: f16", "points[2].counter.wrap", "f16 counts"),
    ("type: bcd16", "type: bcd16, bits: [0, 4]", "points[2].bits", "bits of bcd16"),
    ("write: {function: 6}", "write: {function: 5}", "points[3].write.function", "use 6 or 16"),
    ("write: {function: 6}", "function: 4, write: {function: 6}", "points[3].write.function", "it can't be written"),
    ("write: {function: 6}", "bits: [0, 4], write: {function: 6}", "points[3].write.function", "declare the whole"),
    ("write: {function: 6}", "type: u32, write: {function: 6}", "points[3].write.function", "u32 has 2: use 16"),
    ("all_zero:", "write: {function: 6}, all_zero:", "points[4].write.function", "such a point is read-only"),
    ("flags: {0: warm_up}", "flags: {2: warm_up}", "points[4].status.flags", "only 2 bits"),
    ("flags: {0: warm_up}", "flags: {0: warm_up}, words: {0: ok}", "points[4].status", "either words"),
    ("map: {0: 1, 1: 0.1}", "map: {0: 1, 1: 0}", "points[4].scale", "so far from its unit"),
    ("scale_code: {register: 1, bits: [8, 8], map: {0: 1, 1: 0.1}}", "unit_code: {register: 1}", "points[4].unit_code",
     "either equals"),
    ("registers: 2", "registers: 126", "texts[0].registers", "≤ 125"),
    ("registers: 2", "registers: 3", "texts[0]", "no example shows 'serial'"),
    ("texts: {serial: LV07}", "texts: {serial: LV08}", "examples[0].texts",
     "the answer says 'LV07', the example 'LV08'"),
    ("text: LV", "text: LX", "examples[0].answer", "does not recognise its own model"),
    ("text: LV", "text: LV07X", "identify.checks[0].register", "registers 4 to 6 are not among the 6"),
    ("text: LV", "text: LV, among: [1]", "identify.checks[0]", "one of among, between and text"),
    ("between: [0, 3]", "between: [3, 0]", "identify.checks[1].between", "expected from, to"),
    ("value: address, broadcast", "value: 7, broadcast", "set_address", "one needs value: address"),
    ("value: 0x18, broadcast: true", "value: 0x18, moved: true", "set_address[0].moved", "only after the step"),
    ("value: 0x18", "value: 70000", "set_address[0].value", "0 to 65535"),
    ("text: LV}", "text: LV}, {register: 0, type: s16, among: [65535]}", "identify.checks[1].among",
     "as the type reads it"),
    ("text: LV}", "text: LV}, {register: 0, type: f32, among: [1]}", "identify.checks[1].among", "use between"),
    ("total, register: 2, type: bcd16", "total, register: 2, type: bcd16, decimals: {register: 3}",
     "points[2].counter.wrap", "no fixed value"),
    ("settle_reads: 2", "contiguous: false", "points[4].register", "make it a point of its own"),
    ("01 CE 18", "01 CE 19", "actions[0].request", "its CRC should be CE 18"),
    ("request: 01 10 00 1A 00 01 01 CE 18", "request: 02 10 00 1A 00 01 01 FD 18", "actions[0].request",
     "factory address is 1"),
])
def test_what_contradicts_itself_is_said(save, old, new, path, text):
    assert old in DEVICE
    with pytest.raises(Problems) as error:
        load(save(DEVICE.replace(old, new), words=WORDS))
    assert any(path in str(p) and text in str(p) for p in error.value.problems), str(error.value)


def test_the_simulated_device_is_the_model(save):
    model = load(save(DEVICE, words=WORDS))
    slave = Slave(model, 1)
    reader = Reader(model.points, 3, 0, 6, model.sample())
    for name, value in (("level", 3.2), ("temperature", -100), ("total", 9999), ("delay", 3), ("level", None)):
        slave.set(name, value)
        answer = slave.answer(bytes.fromhex("03 00 00 00 06"))
        assert model.identify.matches(answer[2:])
        assert texts(model, 3, 0, 6, answer[2:]) == {"serial": "LV07"}
        values = dict(zip(reader.points, reader.decode(answer, 2)[0], strict=True))
        assert values[name] == (None if value is None else pytest.approx(value))
        assert slave.said(bytes.fromhex("03 00 00 00 06"), answer) == values
    slave.set("head", 500)   # the same register as the total
    assert slave.said(bytes.fromhex("03 00 00 00 06"), slave.answer(bytes.fromhex("03 00 00 00 06")))["head"] == 500


def test_a_siren_needs_no_points(save):
    text = DEVICE[:DEVICE.index("parameters:")] + "points: []\nexamples: []\n" \
        + DEVICE[DEVICE.index("actions:"):DEVICE.index("examples:")]
    assert load(save(text)).actions[0].id == "sound"
    with pytest.raises(Problems, match="needs points to read, or actions"):
        load(save(text[:text.index("actions:")]))
