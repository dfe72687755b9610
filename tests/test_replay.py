"""Recordings as hardware: their own time, their own failures, and every bad line named before the start."""

import json
import threading
import time

import msgspec
import pytest

import drivers
from drivers import Command, LinkError, Scan, SetupError
from drivers.replay import Replay, ReplayWire
from drivers.strictyaml import parse

GOOD = """\
time_s,device,point,value,note
100.0,crack,displacement,1.5,
100.0,crack,strain,,no_answer
100.0,rain,total,0.2,
100.05,crack,displacement,1.6,over_range
100.05,crack,strain,7,
100.2,rain,total,0.4,
"""
DEVICES = [{"id": "crack", "points": {"displacement": {"unit": "mm", "resolution": 0.1, "low": 0, "high": 500},
                                      "strain": {"resolution": 1}}},
           {"id": "rain", "points": {"total": {"unit": "mm", "resolution": 0.2, "counter": True}}}]
POLLS = {"crack": {"displacement": 1.0, "strain": 1.0}, "rain": {"total": 1.0}}
OFFSETS = [0.0, 0.0, 0.05, 0.2]


class Clock:
    def __init__(self):
        self.now_s = 5000.0

    def __call__(self):
        return self.now_s


def wire(path, **keys):
    return msgspec.convert({"id": "tape", "driver": "replay", "file": str(path), "devices": DEVICES} | keys, ReplayWire)


@pytest.fixture
def tape(tmp_path):
    path = tmp_path / "tape.csv"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_the_registry_finds_the_driver_by_name():
    assert drivers.find("replay") is Replay


def test_lines_of_one_time_and_device_are_one_scan_and_failures_stay_failures(tape):
    clock = Clock()
    driver = Replay(wire(tape), POLLS, (), clock)
    driver.open()
    clock.now_s += 1
    assert driver.read(0) == [
        Scan("crack", 5000.0, ("displacement", "strain"), (1.5, None), ("", "no_answer")),
        Scan("rain", 5000.0, ("total",), (0.2,)),
        Scan("crack", pytest.approx(5000.05), ("displacement", "strain"), (1.6, 7.0), ("over_range", "")),
        Scan("rain", pytest.approx(5000.2), ("total",), (0.4,)),
    ]
    driver.close()


def test_json_lines_and_csv_are_the_same_recording(tape, tmp_path):
    rows = [line.split(",") for line in GOOD.splitlines()[1:]]
    other = tmp_path / "tape.jsonl"
    other.write_text("\n".join(json.dumps({"time_s": float(t), "device": d, "point": p,
                                           "value": float(v) if v else None, "note": n})
                               for t, d, p, v, n in rows) + "\n\n", encoding="utf-8")
    heard = []
    for path in (tape, other):
        driver = Replay(wire(path, speed="at_once"), POLLS, (), Clock())
        driver.open()
        heard.append(driver.read(0))
        driver.close()
    assert heard[0] == heard[1]
    assert len(heard[0]) == 4


def test_each_scan_waits_for_its_own_time(tape):
    clock = Clock()
    driver = Replay(wire(tape), POLLS, (), clock)
    driver.open()
    counts = []
    for at in (0.0, 0.04, 0.06, 0.19, 0.21):
        clock.now_s = 5000.0 + at
        counts.append(len(driver.read(0)))
    assert counts == [2, 0, 1, 0, 1]
    driver.close()


@pytest.mark.parametrize(("speed", "factor"), [("real", 1.0), (4.0, 4.0), (0.5, 0.5)])
def test_a_factor_stretches_the_recorded_spacing(tape, speed, factor):
    clock = Clock()
    driver = Replay(wire(tape, speed=speed), POLLS, (), clock)
    driver.open()
    clock.now_s += 10
    assert [scan.at_s - 5000.0 for scan in driver.read(0)] == pytest.approx([t / factor for t in OFFSETS])
    driver.close()


def test_at_once_keeps_the_spacing_and_never_lies_ahead_of_now(tape):
    clock = Clock()
    driver = Replay(wire(tape, speed="at_once"), POLLS, (), clock)
    driver.open()
    assert [scan.at_s - 5000.0 for scan in driver.read(0)] == pytest.approx([t - 0.2 for t in OFFSETS])
    driver.close()


def test_a_long_recording_comes_in_portions_and_whole(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("time_s,device,point,value\n" + "".join(f"{i},rain,total,{i}\n" for i in range(1000)))
    driver = Replay(wire(path, speed="at_once"), POLLS, (), Clock())
    driver.open()
    portions = []
    while portions[-1:] != [[]]:
        portions.append(driver.read(0))
    assert [scan.values[0] for portion in portions for scan in portion] == list(range(1000))
    assert max(map(len, portions)) < 1000
    driver.close()


def test_real_time_wakes_for_the_next_scan(tape):
    driver = Replay(wire(tape), POLLS, (), time.monotonic)
    driver.open()
    begun_s = time.monotonic()
    scans = []
    while len(scans) < 4:
        got = driver.read(5.0)
        assert got
        scans += got
    assert 0.19 <= time.monotonic() - begun_s < 2.0
    driver.close()


def test_after_the_end_there_is_silence_and_health_says_so(tape):
    driver = Replay(wire(tape, speed="at_once"), POLLS, (), time.monotonic)
    assert {h.state for h in driver.health()} == {"unknown"}
    driver.open()
    assert {h.state for h in driver.health()} == {"ok"}
    assert len(driver.read(0.5)) == 4
    begun_s = time.monotonic()
    assert driver.read(0.1) == []
    assert 0.1 <= time.monotonic() - begun_s < 1.0
    assert [(h.device, h.state, h.answered, dict(h.errors)) for h in driver.health()] == [
        ("crack", "unknown", 2, {"end_of_file": 1}), ("rain", "unknown", 2, {"end_of_file": 1})]
    driver.open()
    assert len(driver.read(0.5)) == 4
    driver.close()


def test_points_nobody_polls_are_left_out(tape):
    driver = Replay(wire(tape, speed="at_once"), {"crack": {"strain": 1.0}}, (), Clock())
    driver.open()
    assert [(s.points, s.values) for s in driver.read(0)] == [(("strain",), (None,)), (("strain",), (7.0,))]
    driver.close()


def test_a_recording_cannot_be_asked(tape):
    clock = Clock()
    driver = Replay(wire(tape), POLLS, (), clock)
    driver.open()
    assert len(driver.read(0)) == 2
    driver.submit(Command(id="1", kind="read_now", device="rain", deadline_s=clock.now_s + 9))
    assert driver.read(0) == []
    driver.close()


def test_close_is_idempotent_wakes_a_read_and_a_closed_wire_says_so(tape):
    driver = Replay(wire(tape, speed=0.001), POLLS, (), time.monotonic)
    driver.close()
    driver.open()
    assert len(driver.read(1.0)) == 2
    timer = threading.Timer(0.05, driver.close)
    timer.start()
    with pytest.raises(LinkError):
        driver.read(30.0)
    timer.join()
    driver.close()


def test_a_file_that_went_away_is_a_dead_wire_not_a_crash(tape):
    driver = Replay(wire(tape), POLLS, (), time.monotonic)
    tape.unlink()
    with pytest.raises(LinkError, match="has gone"):
        driver.open()
    driver.close()


def test_describe_tells_what_the_recording_cannot():
    infos = Replay.describe(wire("nowhere.csv"), ())
    assert (infos["crack"]["displacement"].unit, infos["crack"]["displacement"].high) == ("mm", 500.0)
    assert infos["rain"]["total"].counter is True


@pytest.mark.parametrize(("line", "words"), [
    ("abc,crack,displacement,1,", "time_s 'abc': expected a number"),
    ("101,crack,displacement,nan,", "value 'nan': expected a number or nothing"),
    ("101,crack,displacement,1_0,", "value '1_0'"),
    ("101,crack,displacement,,", "a value is left out exactly when its note says why"),
    ("101,crack,displacement,1,no_answer", "a value is left out exactly when its note says why"),
    ("101,crack,displacement,1,tired", "note 'tired': expected nothing or one of"),
    ("101,crack,displacement,1", "4 columns: expected 5"),
    ("101,crack,width,1,", "crack.width is not among the wire's devices and points"),
    ("99,crack,displacement,1,", "goes back: expected 100.2 or later"),
    ("100.2,rain,total,1,", "rain.total comes twice at 100.2"),
])
def test_a_bad_line_is_named_with_file_and_line_before_the_start(tape, line, words):
    with tape.open("a") as file:
        file.write(line + "\n")
    [(where, text)] = Replay.problems(wire(tape), ())
    assert where == ("file",)
    assert text.startswith(f"{tape}:8: ")
    assert words in text
    with pytest.raises(SetupError, match=r"wire tape: .*:8: "):
        Replay(wire(tape), POLLS, (), Clock())


@pytest.mark.parametrize(("line", "words"), [
    ("{", "is not JSON"), ("[1]", "expected an object with the keys"),
    ('{"time_s": 1, "device": "rain"}', "expected an object"),
    ('{"time_s": 1, "device": "rain", "point": "total", "value": true}', "value True: expected a number"),
    ('{"time_s": 1, "device": "rain", "point": "total", "value": 1, "unit": "mm"}', "expected an object"),
])
def test_a_bad_json_line_is_named_too(tmp_path, line, words):
    path = tmp_path / "tape.jsonl"
    path.write_text('{"time_s": 0, "device": "rain", "point": "total", "value": 1}\n' + line + "\n")
    [(_, text)] = Replay.problems(wire(path), ())
    assert text.startswith(f"{path}:2: ")
    assert words in text


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.csv", b"time,device,point,value\n", "a.csv:1: header"), ("a.csv", b"", "a.csv:1: header"),
    ("a.csv", b"time_s,device,point,value\n", "has no readings"), ("a.txt", b"", "expected a file called"),
    ("a.csv", b"time_s,device,point,value\n1,\xd3\xea,total,1\n", "is not UTF-8"),
])
def test_a_file_that_is_no_recording_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    [(_, text)] = Replay.problems(wire(tmp_path / name), ())
    assert words in text


def test_a_missing_file_and_too_many_errors_stay_readable(tmp_path):
    [(_, text)] = Replay.problems(wire(tmp_path / "none.csv"), ())
    assert "cannot be read" in text
    path = tmp_path / "bad.csv"
    path.write_text("time_s,device,point,value\n" + "x,rain,total,1\n" * 500)
    assert len(Replay.problems(wire(path), ())) == 20


@pytest.mark.parametrize(("text", "expected"), [("", "real"), ("speed: at_once,", "at_once"), ("speed: 10,", 10.0),
                                              ("speed: 0,", None), ("speed: fast,", None)])
def test_speed_is_a_word_or_a_positive_factor_in_the_configuration(text, expected):
    site = f"{{id: t, driver: replay, file: a.csv, {text} devices: [{{id: r, points: {{total: {{resolution: 1}}}}}}]}}"
    parsed = parse(site.encode(), "t.yaml", ReplayWire)
    assert (parsed.value.speed if parsed.value else None) == expected
    assert bool(parsed.problems) == (expected is None)
