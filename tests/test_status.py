"""The status document, its plain text in two languages, and its metrics over a real HTTP port."""

import json
import socket
import subprocess
import sys
import urllib.request

import pytest

from drivers import Health
from gateway import metrics, status
from gateway.model import Colour, Present, PresentObject, Why
from gateway.worker import Worker

PRESENT = Present(t_ms=500_000, objects=(
    PresentObject(object="gas-section", name="城关镇燃气阀井", hazard="gas", service="maintenance", status="Test",
                  colour=Colour.UNKNOWN, lost=("gas-1",)),
    PresentObject(object="slope", name="雷家山后山滑坡", hazard="slope", service="in_service", status="Actual",
                  colour=Colour.ORANGE, alarm="a17", alarm_colour=Colour.RED, since_ms=410_000,
                  why=(Why(rule="crack-level", point="crack-1", value=63.25, limit=60.0, unit="mm"),))))


def broken():
    raise RuntimeError("no such table: rows")


@pytest.fixture
def box(tmp_path):
    worker = Worker("bus-a", lambda _: None)
    return status.document({
        "gateway": lambda: {"id": "demo-1", "name": "石门县雷家山监测站", "version": "0.1.0", "uptime_s": 273_130.4,
                            "epoch": "k3f9"},
        "clock": lambda: {"boot": "b7e1", "trust": "synced", "offset_ms": 1, "error_ms": 3.4},
        "objects": lambda: status.objects(PRESENT, 500_000),
        "outputs": lambda: status.outputs({
            "siren-1": {"on": True, "colour": Colour.RED, "silenced": False, "fault": ""},
            "lamp": {"on": False, "colour": Colour.NONE, "fault": "line 22 busy"}}),
        "wires": lambda: [
            {"wire": "bus-a", "driver": "modbus", "port": "/dev/ttyUSB0", "state": "running", "error": "", "devices": [
                Health("crack", "ok", 1000, 998, {"bad_crc": 2, "late": 3}, 12.4, 20.0, 90.0, 140.0, 1.5, 7,
                       ("3:0-9",)), Health("rain", "quarantined", 40, 0)]},
            {"wire": "lan", "driver": "modbus", "state": "waiting", "error": "LinkError: refused", "devices": []}],
        "platforms": lambda: [{"platform": "county", "connected": False, "rows": 12, "records": 3400,
                               "error": "network unreachable"}],
        "journal": lambda: {"epoch": "k3f9", "bytes": 12_900_000, "max_bytes": 1 << 30,
                            "flash": {"today_bytes": 31_240_000, "before_bytes": 98_760_000,
                                      "budget_bytes_day": 1e8}},
        "disk": lambda: status.disk([tmp_path, tmp_path / "none"]),
        "workers": lambda: status.workers([worker]),
        "detector": broken})


def test_the_document_is_json_and_a_failing_section_harms_only_itself(box):
    assert json.loads(json.dumps(box))["objects"][0]["lost"] == ["gas-1"]
    assert box["errors"] == {"detector": "RuntimeError: no such table: rows"}
    assert "detector" not in box
    assert box["wires"][0]["devices"][0] == {
        "device": "crack", "state": "ok", "asked": 1000, "answered": 998, "errors": {"bad_crc": 2, "late": 3},
        "response_ms": 12.4, "response_p95_ms": 20.0, "response_max_ms": 90.0, "timeout_ms": 140.0, "slip_ms": 1.5,
        "missed": 7, "refused": ("3:0-9",)}


def test_objects_carry_ages_not_monotonic_times(box):
    slope = box["objects"][1]
    assert slope["since_s"] == 90.0
    assert "since_ms" not in slope
    assert slope["colour"] == "orange"


def test_disk_shows_room_and_a_missing_folder_by_its_error(box, tmp_path):
    there, missing = box["disk"]
    assert 0 < there["free_bytes"] <= there["total_bytes"]
    assert missing == {"path": str(tmp_path / "none"), "error": "No such file or directory"}


def text_of(box, lang: str) -> str:
    for one in box["disk"]:
        one["path"] = "/x"
        if "free_bytes" in one:
            one["free_bytes"] = 3 << 30
    return "\n".join(status.lines(box, lang))


def test_lines_in_english(box):
    assert text_of(box, "en") == """\
石门县雷家山监测站 (demo-1) · 0.1.0 · up 3 d 03:52:10 · clock synced ±3 ms
objects
  [ORANGE] 雷家山后山滑坡 (slope) · in service · alarm RED not acknowledged, \
for 00:01:30 [a17] · crack-1 63.25 mm (limit 60)
  [unknown] 城关镇燃气阀井 (gas-section) · maintenance · TEST · lost: gas-1
outputs
  siren-1 · ON · RED
  lamp · off · fault: line 22 busy
wires
  bus-a · modbus /dev/ttyUSB0 · running
    crack ok · answered 99.8 % · 12 ms (95 % 20 ms) · bad_crc×2, late×3 · \
wants an answer timeout of 140 ms · reads round 3:0-9
    rain quarantined · answered 0.0 %
  lan · modbus · waiting · LinkError: refused
platforms
  county · not connected · backlog 3400 records · network unreachable
storage
  journal k3f9 · 12.3 MiB / 1.0 GiB · written today 31.2 of 100 MB, the day before 98.8 MB
  /x · free 3.0 GiB
  /x · No such file or directory
workers
  1 of 1 well
not readable
  detector: RuntimeError: no such table: rows"""


def test_lines_in_chinese(box):
    assert text_of(box, "zh") == """\
石门县雷家山监测站 (demo-1) · 0.1.0 · 已运行 3 天 03:52:10 · 时钟 已同步 ±3 ms
监测对象
  [橙] 雷家山后山滑坡 (slope) · 在役 · 告警 红 未确认, 持续 00:01:30 [a17] · crack-1 63.25 mm (限值 60)
  [未知] 城关镇燃气阀井 (gas-section) · 维护中 · 测试 · 数据缺失: gas-1
输出
  siren-1 · 动作 · 红
  lamp · 静止 · 故障: line 22 busy
线路
  bus-a · modbus /dev/ttyUSB0 · 正常
    crack 正常 · 应答 99.8 % · 12 ms (95 % 20 ms) · bad_crc×2, late×3 · 建议应答超时 140 ms · 绕开 3:0-9
    rain 隔离 · 应答 0.0 %
  lan · modbus · 等待重连 · LinkError: refused
平台
  county · 未连接 · 积压 3400 条 · network unreachable
存储
  日志 k3f9 · 12.3 MiB / 1.0 GiB · 今日写卡 31.2/100 MB, 前一日 98.8 MB
  /x · 剩余 3.0 GiB
  /x · No such file or directory
线程
  1/1 正常
无法读取
  detector: RuntimeError: no such table: rows"""


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_every_section_may_be_missing(box, lang):
    whole = status.lines(box, lang)
    assert status.lines({}, lang) == [" ()"]
    for name in box:
        less = status.lines({key: value for key, value in box.items() if key != name}, lang)
        assert 0 < len(less) <= len(whole)


def test_a_trouble_in_a_worker_is_named(box):
    box["workers"].append({"worker": "writer", "state": "silent", "restarts": 2, "last_error": "no sign of life"})
    shown = status.lines(box, "en")
    assert "  1 of 2 well · restarts 2" in shown
    assert "  writer silent · no sign of life" in shown


def test_an_alarm_that_still_stands_comes_before_a_colour_below_it():
    red_latched = {"object": "a", "colour": "none", "alarm_colour": "red"}
    yellow = {"object": "b", "colour": "yellow", "alarm_colour": "yellow"}
    shown = status.lines({"objects": [yellow, red_latched]}, "en")
    assert shown.index("  [none]  (a)") < shown.index("  [YELLOW]  (b)")


def by_name(box) -> dict[str, list]:
    return {family.name: family.samples for family in metrics.families(box)}


def test_a_colour_is_a_label_and_exactly_one_holds(box):
    for name in ("slope", "gas-section"):
        samples = [(at["colour"], value) for at, value in by_name(box)["mingluo_object_colour"] if at["object"] == name]
        assert [colour for colour, _ in samples] == [c.value for c in Colour]
        assert sum(value for _, value in samples) == 1.0
    assert ({"object": "slope", "colour": "orange"}, 1.0) in by_name(box)["mingluo_object_colour"]


def test_what_is_not_known_is_left_out_not_zero(box):
    assert by_name(box)["mingluo_clock_error_seconds"] == [({}, 0.0034)]
    box["clock"]["error_ms"] = None
    assert "mingluo_clock_error_seconds" not in by_name(box)
    assert metrics.families({}) == []


def test_labels_are_the_same_within_a_family(box):
    for family in metrics.families(box):
        assert len({tuple(labels) for labels, _ in family.samples}) == 1, family.name


def test_metrics_are_served_on_loopback_and_end(box):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    close = metrics.serve(port, lambda: box)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        with pytest.raises(OSError, match="in use"):
            metrics.serve(port, lambda: box)
        with pytest.raises(OSError, match="refused"):  # loopback too, but not the address it listens on
            socket.create_connection(("127.0.0.2", port), timeout=5)
    finally:
        close()
    for line in ('mingluo_info{boot="b7e1",epoch="k3f9",gateway="demo-1",version="0.1.0"} 1.0',
                 'mingluo_device_errors_total{device="crack",kind="bad_crc",wire="bus-a"} 2.0',
                 'mingluo_platform_backlog_records{platform="county"} 3400.0',
                 'mingluo_wire_up{wire="lan"} 0.0', 'mingluo_status_section_failed{section="detector"} 1.0'):
        assert line in text.splitlines()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)


def test_prometheus_is_not_imported_unless_served():
    code = "import sys, gateway.metrics, gateway.status; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
