"""What an installer types beside an open cabinet: read, watch, template, set-address; also while the service runs."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drivers import Note
from drivers.sensor import Serial
from drivers.template import find
from gateway.installer import reading
from gateway.installer.watching import Watch
from hil.bus import Bus
from hil.hosts import Hosts
from hil.rig import Rig
from hil.slaves import Slave, attach
from tests.test_discover import example, own_models

SHIPPED = Path(__file__).parents[1] / "config" / "sensors"
LIBRARY = (SHIPPED,)


def mingluo(*arguments: str, cwd: Path, socket: str = "none.sock", stdin: int | None = subprocess.DEVNULL,
            ) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "gateway", *arguments, "--socket", str(cwd / socket)], stdin=stdin,
                          capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
    assert "Traceback" not in done.stdout + done.stderr
    return done


class Wire:
    """A simulated wire and its devices."""

    def __init__(self, bus: Bus, port: str, folder: Path) -> None:
        self.bus, self.port, self.folder = bus, port, folder

    def add(self, model: str, address: int, *library: Path, **values: float) -> Slave:
        slave = Slave(find(model, (*library, SHIPPED)), address, values, name=f"{model}-{address}")
        attach(self.bus, [slave])
        return slave

    def __call__(self, command: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return mingluo(command, self.port, *arguments, cwd=self.folder, **more)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with Bus(Serial()) as bus:
        yield Wire(bus, bus.port(tmp_path / "port"), tmp_path)


# --- read


def test_a_reading_says_every_point_with_unit_state_and_range(wire: Wire) -> None:
    wire.add("gas-self-describing", 1, concentration=3.4, gas=11, temperature=21.5)
    said = wire("read", "--template", "gas-self-describing")
    assert (said.returncode, said.stderr) == (0, "")
    assert "自描述气体检测模组 (gas-self-describing) · 地址 1 · 9600 8N1 · 应答" in said.stdout
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in said.stdout.splitlines() if line.split()}
    assert rows["concentration"] == "3.4 %LEL 正常 0 … 100"
    assert rows["concentration_ppm"] == "— 单位设置不同"
    assert rows["temperature"] == "21.5 °C 正常"
    english = wire("read", "--template", "gas-self-describing", "--lang", "en")
    assert "set to another unit" in english.stdout
    document = json.loads(wire("read", "--template", "gas-self-describing", "--json").stdout)
    assert document["values"][0] == {"point": "concentration", "value": 3.4, "unit": "%LEL", "note": None,
                                     "outside_range": False}


def test_a_silent_device_is_no_reading_and_names_the_doctor(wire: Wire) -> None:
    wire.add("rain-tipping", 2)
    said = wire("read", "--template", "rain-tipping", "--address", "9", "--timeout-ms", "50")
    assert said.returncode == 1
    assert "无应答" in said.stdout
    assert "mingluo doctor" in said.stderr
    assert "--address 9" in said.stderr


def test_raw_registers_are_shown_in_several_ways(wire: Wire) -> None:
    wire.add("rain-tipping", 2, total=144.1)
    said = wire("read", "--address", "2", "--function", "3", "--count", "3")
    assert said.returncode == 0
    assert next(line for line in said.stdout.splitlines() if line.startswith("0")).split()[:4] == [
        "0", "1441", "1441", "05A1"]
    (first, *_) = json.loads(wire("read", "--address", "2", "--function", "3", "--count", "3", "--json").stdout)
    assert (first["raw"], first["u32"], first["bits"]) == (1441, 1441 << 16, "0000010110100001")
    refused = wire("read", "--address", "2", "--function", "3", "--register", "99", "--lang", "en")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[0] == "address 2: the device has no such register"
    silent = wire("read", "--address", "3", "--function", "4", "--timeout-ms", "50")
    assert (silent.returncode, "无应答" in silent.stderr) == (1, True)


def test_wrong_usage_is_told_with_what_was_expected(wire: Wire) -> None:
    for arguments in ((), ("--template", "rain-tipping", "--function", "3")):
        assert wire("read", *arguments).returncode == 2
    unknown = wire("read", "--template", "rain-tiping")
    assert unknown.returncode == 1
    assert "rain-tipping" in unknown.stderr
    assert wire("read", "--template", "rain-tipping", "--baud", "9601").returncode == 2
    assert mingluo("read", "tcp://nowhere", "--template", "rain-tipping", cwd=wire.folder).returncode == 2
    parameter = wire("read", "--template", "rain-tipping", "--parameter", "k=1")
    assert (parameter.returncode, "no parameters" in parameter.stderr) == (2, True)


def test_a_refused_block_is_read_point_by_point(wire: Wire, tmp_path: Path) -> None:
    slave = wire.add("rain-tipping", 2, total=144.1, total_3=18.6)
    slave.refuses = {(3, 1)}
    document = json.loads(wire("read", "--template", "rain-tipping", "--json").stdout)
    assert {v["point"]: (v["value"], v["note"]) for v in document["values"]} == {
        "total": (144.1, None), "total_2": (None, "refused"), "total_3": (18.6, None)}


def test_a_host_is_read_like_a_wire(tmp_path: Path) -> None:
    with Hosts() as hosts:
        slave = Slave(find("rain-tipping", LIBRARY), 2, {"total": 3.5})
        through = hosts.add([slave], framing="rtu")
        straight = hosts.add([slave])
        for host, more in ((straight, ()), (through, ("--framing", "rtu"))):
            said = mingluo("read", f"tcp://127.0.0.1:{host.port}", "--template", "rain-tipping", *more, cwd=tmp_path)
            assert (said.returncode, "3.5 mm" in said.stdout) == (0, True)


def test_words_beyond_a_pair_have_no_float() -> None:
    one, two = reading.words(bytes.fromhex("41480000"), 7)
    assert (one.register, one.f32, one.u32_swapped, one.text) == (7, 12.5, 0x4148, "AH")
    assert (two.register, two.f32, two.u32, two.signed) == (8, None, None, 0)


# --- watch


def test_a_watch_sums_up_what_moved_and_what_failed(wire: Wire) -> None:
    slave = wire.add("rain-tipping", 2, total=1.0)
    slave.chance = {"silent": 0.3}
    said = wire("watch", "--template", "rain-tipping", "--count", "8", "--every-s", "0.05", "--timeout-ms", "50")
    assert said.returncode == 0
    *lines, summary = said.stdout.splitlines()
    assert sum("total=" in line for line in lines) == 8
    assert "读 8 遍" in summary
    assert "无应答×" in summary
    lines = wire("watch", "--template", "rain-tipping", "--count", "2", "--every-s", "0.05", "--json")
    assert [json.loads(line)["asked"] for line in lines.stdout.splitlines()] == [1, 1]
    nobody = wire("watch", "--template", "rain-tipping", "--address", "9", "--count", "1", "--timeout-ms", "50")
    assert nobody.returncode == 1


def test_ctrl_c_ends_a_watch_with_its_sum(wire: Wire) -> None:
    slave = wire.add("crack-cable-bolin", 1, displacement=5.0)
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "gateway", "watch", wire.port, "--template", "crack-cable-bolin", "--every-s", "0.05",
         "--lang", "en", "--socket", str(wire.folder / "none")], stdout=theirs, stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(theirs)
    seen = b""
    while b"5.00 mm" not in seen:
        seen += os.read(ours, 1 << 16)
    slave.set("displacement", 61.5)
    while b"61.50 mm" not in seen:
        seen += os.read(ours, 1 << 16)
    watching.send_signal(signal.SIGINT)
    rest = b""
    while b"no failures\r\n" not in rest:
        rest += os.read(ours, 1 << 16)
    assert (watching.wait(10), watching.stderr.read()) == (0, b"")
    watching.stderr.close()
    os.close(ours)
    assert b"response median/longest" in rest
    (row,) = [line.split() for line in rest.decode().splitlines() if line.startswith("displacement")][-1:]
    assert row[1:7] == ["61.50", "mm", "5.00", "mm", "61.50", "mm"]


def test_a_failed_read_is_never_a_value() -> None:
    point = find("crack-cable-bolin", LIBRARY).points[0]
    watch = Watch()
    for value, note in ((5.0, ""), (None, Note.NO_ANSWER), (7.0, "")):
        failed = {note: 1} if note else {}
        watch.add(reading.Reading((reading.Value(point, value, note),), (0.01,) if not note else (), 1, failed))
    seen = watch.points["displacement"]
    assert (seen.low, seen.high, seen.good, seen.notes, seen.last.value) == (5.0, 7.0, 2, {Note.NO_ANSWER: 1}, 7.0)
    assert (watch.answered, watch.asked, watch.failed) == (2, 3, {Note.NO_ANSWER: 1})


# --- template


def test_a_template_is_shown_and_tried(wire: Wire) -> None:
    wire.add("rain-tipping", 2, total=144.1)
    said = mingluo("template", str(SHIPPED / "rain-tipping.yaml"), "--try", wire.port, cwd=wire.folder)
    assert said.returncode == 0
    for words in ("翻斗式雨量计 (rain-tipping)", "出厂：9600 8N1，地址 2", "实例报文全部", "144.1 mm"):
        assert words in said.stdout
    by_name = mingluo("template", "gas-self-describing", "--lang", "en", cwd=wire.folder)
    assert "wants 500 ms of rest between questions" in by_name.stdout


def test_a_wrong_template_is_told_with_all_its_lines(tmp_path: Path) -> None:
    text = (SHIPPED / "rain-tipping.yaml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("address: 2", "address: 300", 1).replace("unit: mm", "unt: mm", 1), encoding="utf-8")
    said = mingluo("template", str(wrong), cwd=tmp_path)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.count("wrong.yaml:") >= 2
    missing = mingluo("template", "no-such.yaml", cwd=tmp_path)
    assert (missing.returncode, "no-such.yaml" in missing.stderr) == (1, True)


def test_a_number_of_this_very_instrument_is_asked_for(wire: Wire) -> None:
    loop = {"maker": "test", "title": {"zh": "电流模块", "en": "Current loop"}, "manual": "none", "address": 4,
            "parameters": {name: {"title": {"zh": name, "en": name}, "unit": "m"} for name in ("low", "high")},
            "points": [{"id": "level", "register": 0, "scale": 0.001, "unit": "m", "resolution": 0.001,
                        "transform": {"kind": "current_loop", "low": "low", "high": "high"}},
                       {"id": "current", "register": 0, "scale": 0.001, "unit": "mA", "resolution": 0.001}],
            "examples": [{**example(4, 0, [12000]), "parameters": {"low": 0, "high": 10},
                          "values": {"level": 5.0, "current": 12.0}}]}
    file = wire.folder / "loop.yaml"
    file.write_text(yaml.safe_dump(loop, allow_unicode=True), encoding="utf-8")
    wire.add("loop", 4, wire.folder, current=8.0)
    without = wire("read", "--template", str(file))
    assert without.returncode == 0   # the current is a reading all the same
    assert "缺本机参数" in without.stdout
    assert "--parameter high=… --parameter low=…" in without.stdout
    with_them = wire("read", "--template", str(file), "--parameter", "low=0", "--parameter", "high=20", "--json")
    assert {v["point"]: v["value"] for v in json.loads(with_them.stdout)["values"]} == {"level": 5.0, "current": 8.0}
    shown = json.loads(mingluo("template", str(file), "--json", cwd=wire.folder).stdout)
    assert shown["points"][0]["transform"]["kind"] == "current_loop"


# --- set-address


@pytest.fixture
def shouting(tmp_path: Path) -> Path:
    """A model that takes its address by broadcast, after an unlocking."""
    folder = own_models(tmp_path / "sensors")
    (folder / "shouter.yaml").write_text(yaml.safe_dump({
        "maker": "test", "title": {"zh": "气体变送器", "en": "Gas transmitter"}, "manual": "none", "address": 1,
        "points": [{"id": "gas", "register": 0, "unit": "%LEL", "resolution": 1, "range": [0, 100]}],
        "identify": {"register": 0, "count": 1},
        "set_address": [{"register": 0x11, "value": 0x18, "broadcast": True, "pause_ms": 20},
                        {"register": 0x13, "value": "address", "broadcast": True}],
        "examples": [{**example(1, 0, [12]), "values": {"gas": 12}}]}, allow_unicode=True), encoding="utf-8")
    return folder


def test_an_address_is_given_and_proved(wire: Wire) -> None:
    slave = wire.add("rain-tipping", 2)
    other = wire.add("crack-cable-bolin", 12)
    said = wire("set-address", "--template", "rain-tipping", "--new", "7", "--yes")
    assert (said.returncode, said.stderr) == (0, "")
    assert "线上还有别的设备（地址 12）" in said.stdout
    assert "向地址 2 的寄存器 4096 写 7" in said.stdout
    assert "旧地址 2 已无应答" in said.stdout
    assert (slave.address, other.address) == (7, 12)


def test_a_recipe_for_all_is_refused_while_somebody_else_is_there(wire: Wire, shouting: Path) -> None:
    slave = wire.add("shouter", 1, shouting)
    other = wire.add("crack-cable-bolin", 26)
    arguments = ("--template", "shouter", "--new", "9", "--yes", "--sensors", str(shouting))
    refused = wire("set-address", *arguments)
    assert refused.returncode == 1
    assert "地址 26" in refused.stderr
    assert (slave.address, len(slave.written), len(other.written)) == (1, 0, 0)
    other.unplug()
    done = wire("set-address", *arguments, "--lang", "en")
    assert (done.returncode, slave.address) == (0, 9)
    assert "of all devices (broadcast" in done.stdout
    assert [w.broadcast for w in slave.written] == [True, True]


def test_nothing_is_written_without_a_yes(wire: Wire) -> None:
    slave = wire.add("rain-tipping", 2)
    said = wire("set-address", "--template", "rain-tipping", "--new", "7")
    assert (said.returncode, "加 --yes" in said.stderr) == (1, True)
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    declined = wire("set-address", "--template", "rain-tipping", "--new", "7", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert (declined.returncode, "没有写" in declined.stderr) == (1, True)
    assert (slave.address, len(slave.written)) == (2, 0)


@pytest.mark.parametrize(("arguments", "words"), [
    (("--new", "12"), "地址 12 已有设备应答"), (("--new", "7", "--old", "30"), "地址 30 没有应答"),
    (("--new", "2"), "不用改"), (("--new", "7", "--old", "12"), "不像 rain-tipping")])
def test_what_cannot_work_is_refused_before_anything_is_written(wire: Wire, arguments: tuple[str, ...],
                                                                words: str) -> None:
    slaves = [wire.add("rain-tipping", 2), wire.add("crack-cable-bolin", 12)]
    said = wire("set-address", "--template", "rain-tipping", *arguments, "--yes")
    assert (said.returncode, words in said.stderr) == (1, True)
    assert [len(slave.written) for slave in slaves] == [0, 0]


def test_a_device_that_does_not_move_or_refuses_is_told(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    slave = wire.add("rain-tipping", 2)
    slave.fault = "forgets"
    still = wire("set-address", "--template", "rain-tipping", "--new", "7", "--yes")
    assert (still.returncode, "仍在旧地址 2" in still.stderr) == (1, True)
    slave.fault = "refuses_writes"
    refused = wire("set-address", "--template", "rain-tipping", "--new", "7", "--yes", "--lang", "en")
    assert (refused.returncode, "refuses to have register 4096 written" in refused.stderr) == (1, True)
    recipe = wire("set-address", "--template", "crack-cable-bolin", "--new", "7")
    assert (recipe.returncode, "set_address" in recipe.stderr) == (1, True)


# --- while the service runs

SITE = {
    "version": 1, "demo": True, "gateway": {"id": "installer", "name": "调试"},
    "wires": [
        {"id": "bus", "driver": "modbus", "port": "bus", "devices": [
            {"id": "crack", "template": "crack-cable-bolin", "address": 3}]},
        {"id": "lan", "driver": "modbus", "port": "tcp://127.0.0.1:18932", "devices": [
            {"id": "rain", "template": "rain-tipping", "address": 2}]}],
    "objects": [{
        "id": "slope", "name": "滑坡", "hazard": "slope", "service": "in_service",
        "points": [{"id": "crack-1", "name": "裂缝", "read": "crack.displacement", "poll_s": 0.2,
                    "report": {"every_s": 0}},
                   {"id": "rain-1", "name": "雨量", "read": "rain.total", "poll_s": 0.2, "report": {"every_s": 0}}],
        "rules": [{"id": "level", "point": "rain-1", "above": {"yellow": 20}, "latch": [], "off_delay_s": 0}],
        "authority": {"approved_by": "test", "approved_on": "2026-01-01"}}],
    "platforms": [{"id": "county", "host": "127.0.0.1", "port": 18931}],
    "journal": {"folder": "state", "staging": "run/staging", "commit_s": 0.2},
    "control": {"socket": "control.sock"},
}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(SITE, allow_unicode=True), encoding="utf-8")
    with Rig(path, tmp_path / "box") as made:
        made.slaves["crack"].set("displacement", 5.0)
        made.start()
        made.wait("the first readings", lambda: made.county.counters().readings >= 3)
        yield made


def events(rig: Rig) -> list[str]:
    return [row["kind"] for row in rig.county.events()]


def test_a_command_borrows_the_port_and_the_service_goes_on(rig: Rig) -> None:
    port = str(rig.folder / "bus")
    said = mingluo("read", port, "--template", "crack-cable-bolin", "--address", "3", cwd=rig.folder,
                   socket="control.sock")
    assert (said.returncode, said.stderr) == (0, "")
    assert "5.00 mm" in said.stdout
    before = rig.county.counters().readings
    rig.slaves["crack"].set("displacement", 6.5)
    rig.wait("readings go on afterwards", lambda: rig.county.counters().readings > before + 3)
    rig.wait("the loan is in the county's record", lambda: {"wire.lent", "wire.returned"} <= set(events(rig)))


def test_an_alarm_takes_the_port_back_and_lends_it_no_more(rig: Rig) -> None:
    port = str(rig.folder / "bus")
    arguments = (port, "--template", "crack-cable-bolin", "--address", "3")
    with subprocess.Popen(
            [sys.executable, "-m", "gateway", "watch", *arguments, "--every-s", "0.1", "--socket",
             str(rig.folder / "control.sock")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=rig.folder) as watching:
        assert "displacement=5.00 mm" in watching.stdout.readline()
        rig.slaves["rain"].set("total", 30.0)   # on the other wire, which goes on being judged
        out, err = watching.communicate(timeout=20)
    assert watching.returncode == 1
    assert "收回了端口" in err
    assert "the gateway took its port back" in err
    assert "没有失败" in out   # what was watched so far is summed up
    rig.wait("the box reads its own wire again", lambda: "wire.returned" in events(rig))
    refused = mingluo("read", *arguments, cwd=rig.folder, socket="control.sock")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "线路不外借" in refused.stderr
    assert "the box needs its wires now" in refused.stderr
    before = len(rig.county.readings())
    rig.wait("readings go on", lambda: len(rig.county.readings()) > before + 4)
