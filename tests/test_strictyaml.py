"""YAML text → structs: every type, every surprise of YAML 1.1, all errors at once, bounded for any input."""

import enum
import math
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from drivers import SetupError, strictyaml
from drivers.strictyaml import Problem, Problems, Variant, parse
from drivers.strictyaml.walk import PROBLEMS_MAX


class Shape(enum.Enum):
    ROUND = "round"
    FLAT = "flat"


class Inner(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    n: Annotated[int, Meta(ge=0, lt=10)]
    when: str = ""


class Everything(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text: str = ""
    number: float = 0.0
    count: int = 0
    flag: bool = False
    word: Literal["on", "off", 1, 2] = "off"
    shape: Shape = Shape.FLAT
    many: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    table: Mapping[str, float] = {}
    codes: dict[int, str] = {}
    either: float | str | None = None
    maybe: Annotated[float, Meta(gt=0)] | None = None
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    names: frozenset[str] = frozenset()
    low: Annotated[tuple[int, ...], Meta(min_length=1, max_length=2)] = (1,)


def value(text: str, into: type = Everything) -> Any:
    parsed = parse(text.encode(), "x.yaml", into)
    assert [str(p) for p in parsed.problems] == []
    return parsed.value


def said(text: str | bytes, into: type = Everything, variants: Mapping[type, Variant] | None = None) -> list[str]:
    data = text if isinstance(text, bytes) else text.encode()
    parsed = parse(data, "x.yaml", into, variants)
    assert (parsed.value is None) == bool(parsed.problems)
    return [str(p).removeprefix("x.yaml:") for p in parsed.problems]


def test_every_type_is_read():
    assert value("""
text: 1号 # a comment
number: 5
count: 0x1F
flag: true
word: 2
shape: round
many: [1, -2]
pair: [7, no]
table: {a: 1.5, "b c": 1e3}
codes: {3: three}
either: .5
maybe: ~
inner: {n: 3, when: 2026-05-01}
inners:
  - n: 1
  - {n: 2}
names: [x, y]
low: [1, 2]
""") == Everything(text="1号", number=5.0, count=31, flag=True, word=2, shape=Shape.ROUND, many=(1, -2), pair=(7, "no"),
                   table={"a": 1.5, "b c": 1000.0}, codes={3: "three"}, either=0.5, maybe=None,
                   inner=Inner(n=3, when="2026-05-01"), inners=(Inner(n=1), Inner(n=2)), names=frozenset({"x", "y"}),
                   low=(1, 2))


@pytest.mark.parametrize("text", ["no", "on", "yes", "1_000", "010", "12:30", "2026-05-01", "1e3", "true", "0x1F", "=",
                                  "2001-12-14t21:59:43.10-05:00", "0430726", "+86", ".5", "石门", "a b", "a:b", "a%b"])
def test_text_stays_as_it_is_written(text: str):
    assert value(f"text: {text}").text == text


@pytest.mark.parametrize(("text", "number"), [("5", 5.0), ("-0.5", -0.5), ("5.", 5.0), (".5", 0.5), ("1e3", 1000.0),
                                              ("1.5E-3", 0.0015), ("+2", 2.0)])
def test_numbers_are_read(text: str, number: float):
    assert value(f"number: {text}").number == number


@pytest.mark.parametrize("text", ["1_000", "010.5.1", "12:30", ".inf", "-.inf", ".nan", "nan", "inf", "1e999", "'5'",
                                  "five", "5s", "1,5", "true", "", "~", "[5]", "{a: 5}", "０５", "٣"])
def test_no_number_is_no_number(text: str):
    assert len(said(f"number: {text}")) == 1
    assert "expected a number" in said(f"number: {text}")[0] or "full-width" in said(f"number: {text}")[0]


@pytest.mark.parametrize("text", ["1.0", "010", "1_0", "0b1", "1e3", "'1'", "99999999999999999999999", "yes", "1 2"])
def test_no_whole_number_is_no_whole_number(text: str):
    assert said(f"count: {text}")[0].startswith("1:8: count: found ")


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "1", "'true'", "'false'", "y", "是"])
def test_only_true_and_false_are_true_and_false(text: str):
    [message] = said(f"flag: {text}")
    assert "expected true or false; " in message


def test_union_takes_number_before_text():
    assert value("either: 5").either == 5.0
    assert value("either: '5'").either == "5"
    assert value("either: 5s").either == "5s"
    assert value("either: null").either is None


def test_all_errors_are_said_at_once_in_order():
    assert said("text: [1]\nnumber: x\nwrd: on\nshape: square\nmany: [1, a]\npair: [1]\ntable: {a: b}\nmaybe: 0\n"
                "inner: {n: 10, when: x, n: 1}\ninners:\n  - n: 1\n  - m: 2\nlow: []\ncodes: {a: b}\n") == [
        "1:7: text: found a list, expected text",
        "2:9: number: found 'x', expected a number",
        f"3:1: wrd: unknown key; did you mean 'word'? (known: {', '.join(Everything.__struct_fields__)})",
        "4:8: shape: found 'square', expected one of round, flat",
        "5:11: many[1]: found 'a', expected a whole number",
        "6:7: pair: found 1 items, expected 2",
        "7:12: table.a: found 'b', expected a number",
        "8:8: maybe: found '0', expected a number > 0",
        "9:12: inner.n: found '10', expected a whole number ≥ 0 and < 10",
        "9:25: duplicate key 'n': already given on line 9; keep one",
        "12:5: inners[1]: missing key 'n', expected a whole number ≥ 0 and < 10",
        "12:5: inners[1].m: unknown key (known: n, when)",
        "13:6: low: found 0 items, expected at least 1",
        "14:9: codes.a: found 'a', expected a whole number"]


def test_problems_print_all_lines_and_sort():
    problems = Problems([Problem("f", 2, 1, "b", "two"), Problem("f", 1, 9, "", "one"), Problem("f", 2, 1, "b", "two")])
    assert str(problems) == "f:1:9: one\nf:2:1: b: two"
    assert len(problems.problems) == 2


def test_load_reads_a_file_or_raises(tmp_path: Path):
    file = tmp_path / "x.yaml"
    file.write_text("n: 3\n")
    assert strictyaml.load(file, Inner) == Inner(n=3)
    file.write_text("n: 30\n")
    with pytest.raises(Problems, match=r"x\.yaml:1:4: n: found '30', expected a whole number"):
        strictyaml.load(file, Inner)
    with pytest.raises(Problems, match="cannot be read: No such file"):
        strictyaml.load(tmp_path / "none.yaml", Inner)


def test_lines_of_paths_are_known():
    parsed = parse(b"inners:\n  - n: 1\n  - n: 2\n    when: x\n", "x.yaml", Everything)
    assert [parsed.line(p) for p in ((), ("inners",), ("inners", 1), ("inners", 1, "when"), ("inners", 1, "gone"),
                                     ("pair", 0))] == [1, 2, 3, 4, 3, 1]
    assert str(parsed.problem(("inners", 1, "n"), "odd")) == "x.yaml:3:8: inners[1].n: odd"


def test_a_struct_with_errors_is_mended_for_cross_checks():
    parsed = parse(b"number: x\ncount: 3\nmaybe: -1\ninners: [{n: 1}, nothing, {n: 3}]\n", "x.yaml", Everything)
    assert parsed.value is None
    mended = parsed.mended
    assert mended is not None
    assert math.isnan(mended.number)
    assert (mended.count, mended.maybe, mended.inners) == (3, -1.0, (Inner(n=1), Inner(n=3)))
    assert parsed.numbered(("inners",), mended.inners) == [(("inners", 0), Inner(n=1)), (("inners", 2), Inner(n=3))]
    assert [parsed.sound((p,)) for p in ("number", "count", "maybe", "inners")] == [False, True, False, False]


def test_own_checks_of_a_struct_are_problems():
    class Ordered(Struct, frozen=True):
        low: int
        high: int

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    assert said("low: 1\nhigh: 0\n", Ordered) == ["1:1: low is above high"]
    assert said("low: 1\nhigh: x\n", Ordered) == ["2:7: high: found 'x', expected a whole number"]


class Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    driver: str


class Serial(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    baud: Literal[9600, 19200] = 9600


class Pins(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pin: int


def lookup(name: str) -> type:
    if name == "broken":
        raise ImportError("No module named 'x'")
    try:
        return {"serial": Serial, "pins": Pins}[name]
    except KeyError:
        raise SetupError(f"no driver called {name!r}") from None


VARIANTS = {Wire: Variant("driver", lookup, lambda: ["serial", "pins"])}


def test_variant_is_picked_by_its_key():
    parsed = parse(b"- {id: a, driver: serial, baud: 19200}\n- {driver: pins, pin: 3, id: b}\n", "x.yaml",
                   tuple[Wire, ...], VARIANTS)
    assert parsed.value == (Serial(id="a", driver="serial", baud=19200), Pins(id="b", driver="pins", pin=3))


def test_variant_that_does_not_exist_is_one_problem_each():
    assert said("- {id: a, driver: serail, baud: 19200, x: 1}\n- {id: b, baud: 1}\n- {id: c, driver: broken}\n"
                "- {id: d, driver: pins, baud: 9600}\n- {id: e, driver: serial, baud: 9601}\n- 3\n",
                tuple[Wire, ...], VARIANTS) == [
        "1:19: [0].driver: no driver called 'serail'; did you mean 'serial'?",
        "2:3: [1]: missing key 'driver', expected one of serial, pins",
        "3:19: [2].driver: 'broken' cannot be loaded: No module named 'x'",
        "4:3: [3]: missing key 'pin', expected a whole number",
        "4:25: [3].baud: unknown key (known: id, driver, pin)",
        "5:33: [4].baud: found '9601', expected one of 9600, 19200; did you mean '9600'?",
        "6:3: [5]: found '3', expected keys and values (id, driver)"]


def test_any_is_plain_data():
    assert value("a: [1, 1.5, true, ~, 2026-05-01, 'no', x: {y: z}]", Any) == {
        "a": [1, 1.5, True, None, "2026-05-01", "no", {"x": {"y": "z"}}]}


# --- text


def test_both_parsers_give_the_same(monkeypatch: pytest.MonkeyPatch):
    """Where libyaml is missing, the Python parser says the same, line by line."""
    cases = sorted(Path(__file__).with_name("check").glob("*/gateway.yaml"))
    texts = [c.read_bytes() for c in cases if "tab" not in c.parent.name and c.stat().st_size < 100_000]
    with_c = [said(t, Any) for t in texts]
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert [said(t, Any) for t in texts] == with_c


@pytest.mark.parametrize("data", [b"a: " + b"[" * 500_000, b"{a: " * 200_000, b"- " * 400_000,
                                  b"a: &a [*a]\n" * 50_000, b"? " * 400_000, b"\xef\xbc\x9a" * 300_000,
                                  b"a: 'x" * 100_000, b" " * 1_000_000 + b"x", b"k: " + b"9" * 900_000,
                                  b"a, " * 300_000 + "，".encode() * 100, b"\t" * 900_000,
                                  b"a" * (1 << 21), b"x: " + b"a:" * 400_000])
def test_no_input_takes_long_or_breaks(data: bytes):
    start_s = time.process_time()
    assert len(said(data)) >= 1
    assert time.process_time() - start_s < 8.0   # generous: the machine may be busy


@pytest.mark.parametrize("data", ["".join(f"k{n}: 1\n" for n in range(90_000)), "count: 1" + "_" * 900_000 + "x",
                                  "number: " + "1" * 900_000 + "x", "text: \"" + "\\\"" * 400_000 + "\nb: [",
                                  "text: x" + "\\\"" * 400_000 + " \t y\ncount: x\n",
                                  "text: \"" + "\\\"" * 49_000 + "\nb: [",
                                  "many: [" + "x," * 400_000 + "]", "many: [" + "~," * 400_000 + "]"],
                         ids=["keys", "underscores", "digits", "quotes", "tab", "python", "bad", "empty"])
def test_no_text_takes_more_than_its_length(data: str):
    """Each of these took minutes: a pattern or a list walked anew from every place in it."""
    start_s = time.process_time()
    assert 1 <= len(said(data.encode())) <= PROBLEMS_MAX + 1
    assert time.process_time() - start_s < 8.0   # generous: the machine may be busy


def test_too_many_problems_are_cut_short_and_that_is_said():
    messages = said("".join(f"k{n}: 1\n" for n in range(2 * PROBLEMS_MAX)))
    assert len(messages) == PROBLEMS_MAX + 1
    assert messages[0].startswith("1:1: k0: unknown key")
    assert sum("the rest of the file was not looked at" in m for m in messages) == 1


def test_aliases_cannot_multiply():
    laughs = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (97 + n, 97 + n, b", ".join([b"*%c" % (96 + n)] * 9)) for n in range(1, 20))
    messages = said(laughs, Any)
    assert len(messages) == 20 + 19 * 9


@pytest.mark.parametrize("codec", ["utf-8-sig", "gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wrong_encoding_is_one_problem_and_the_rest_is_read(codec: str):
    [first, second] = said("text: 後山的名字\ncount: x\n".encode(codec))
    assert "save the file as UTF-8" in first
    assert second == "2:8: count: found 'x', expected a whole number"


def test_line_breaks_of_every_system_count():
    for end in ("\n", "\r\n", "\r"):
        assert said(f"text: a{end}count: x{end}") == ["2:8: count: found 'x', expected a whole number"]


@pytest.mark.parametrize(("text", "messages"), [
    ("number：5", ["1:7: full-width '：' (U+FF1A): type ':'"]),
    ("number: 5；", ["1:10: number: full-width '；' (U+FF1B): type ';'"]),
    ("number: －5", ["1:9: number: full-width '－' (U+FF0D): type '-'"]),
    ("number: 0。5", ["1:10: number: full-width '。' (U+3002): type '.'"]),
    ("text: ｈｏ", ["1:7: text: full-width 'ｈｏ' (U+FF48 U+FF4F): type 'ho', or put the whole text in double quotes"]),
    ("word: ”on”",
     ["1:7: word: full-width '”' (U+201D): type '\"'", "1:10: word: full-width '”' (U+201D): type '\"'"]),
    ("text: 石门\n  number：5",
     ["2:9: text: full-width '：' (U+FF1A): type ':', or put the whole text in double quotes"]),
    ("many: [1，2]", ["1:9: many[0]: full-width '，' (U+FF0C): type ','"]),
])
def test_full_width_marks_are_named_with_their_place(text: str, messages: list[str]):
    assert said(text) == messages


@pytest.mark.parametrize("text", ["石门（演示）", "雷家山，后山；一号：甲", '"“石”"', '"ＡＢＣ：“x”"', "'１２３'",
                                  "1号（北）。", "坡脚【甲】"])
def test_full_width_marks_in_chinese_text_are_text(text: str):
    assert value(f"text: {text}").text == (text[1:-1] if text[0] in "\"'" else text)


def test_secrets_are_never_repeated():
    for line in ("password: hunter2", "db_token: [hunter2]", "api_key: *hunter2", "secret: !hunter2 x",
                 "pwd: &hunter2 x", "密码: hunter2", "password: 'hunter2", "password: hunter2: x",
                 "text: {password: hunter2}",
                 "number: mqtt://u:hunter2@h", "number: u:hunter2@h", "text: x\n password: hunter2",
                 "number: x\n  password hunter2", "password hunter2", "? password: hunter2\n: x", "password: @hunter2",
                 "password: [hunter2", "password: \"\\qhunter2\"", "password: |hunter2",
                 "- password: hunter2\ncount: 1"):
        for data in (line.encode(), f"text: 名\n{line}".encode("gbk"), line.encode("utf-16")):
            messages = said(data)
            assert messages != []
            assert [m for m in messages if "hunter2" in m] == []


# --- properties

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff"))
numbers = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, n=st.integers(0, 9), when=texts)


@settings(max_examples=60, deadline=None)
@given(st.builds(Everything, text=texts, number=numbers, count=st.integers(-2**60, 2**60), flag=st.booleans(),
                 word=st.sampled_from(["on", "off", 1, 2]), shape=st.sampled_from(Shape),
                 many=st.lists(st.integers(-999, 999)).map(tuple), table=st.dictionaries(texts, numbers, max_size=3),
                 inner=st.none() | inners, inners=st.lists(inners, max_size=3).map(tuple)))
def test_what_is_written_as_json_comes_back(thing: Everything):
    """JSON is YAML; U+FFFE and U+FFFF are no characters of either."""
    data = msgspec.json.encode(thing)
    if any(c in data.decode() for c in "\ufffe\uffff"):
        return
    parsed = parse(data, "x.yaml", Everything)
    assert [str(p) for p in parsed.problems] == []
    assert parsed.value == thing


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60)
       | st.text("a:- \n\t{}[],'\"#&*!|>%@`？：，“　１石numbertexi", max_size=60).map(str.encode))
def test_no_bytes_break_the_reader(data: bytes):
    parsed = parse(data, "x.yaml", Everything)
    assert (parsed.value is None) == bool(parsed.problems)
    assert parsed.problems == sorted(set(parsed.problems))


def test_every_path_leads_to_the_nearest_place_in_the_file():
    text = "inners:\n- n: 1\n- when: x\n  n: 2\n  n: 3\ntable: {a: 1,\n  b: 2}\n"
    parsed = parse(text.encode(), "x.yaml", Everything)
    assert parsed.mended is not None
    places = {(): (1, 1), ("inners",): (2, 1), ("inners", 1): (3, 3), ("inners", 1, "n"): (4, 6),
              ("inners", 0, "when"): (2, 3), ("inners", 7): (2, 1), ("table", "b"): (7, 6), ("table", "c", "d"): (6, 8),
              ("nowhere",): (1, 1)}
    assert {path: parsed.mark(path) for path in places} == places
    assert [parsed.given(path) for path in ((), ("inners", 1, "n"), ("inners", 0, "when"), ("inners", 2))] == [
        True, True, False, False]


def test_a_long_list_is_read_in_little_memory():
    count = 4000
    data = ("inners: [" + ", ".join(f"{{n: {n % 10}, when: w{n}}}" for n in range(count)) + "]").encode()
    tracemalloc.start()
    try:
        parsed = parse(data, "x.yaml", Everything)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parsed.value is not None
    assert parsed.value.inners[-1] == Inner(n=9, when="w3999")
    assert peak < 600 * count   # five nodes and a struct each; a tree of Python objects takes seven times as much
