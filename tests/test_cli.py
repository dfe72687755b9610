"""The commands people type, as processes: answers, exit codes, and never a traceback."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hil.broker import free_port
from hil.rig import Rig

ROOT = Path(__file__).resolve().parent.parent
NO_BOX = 2


def mingluo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "MINGLUO_SOCKET"}
    done = subprocess.run([sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, check=False,
                          timeout=60, env={**clean, **environment})
    assert "Traceback" not in done.stdout + done.stderr
    return done


def wait(what: str, condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)
    return found


def demo_site(folder: Path) -> Path:
    """The demo's site on ports of its own, and with an officer to ask from orange up."""
    site = yaml.safe_load((ROOT / "config/demo.yaml").read_text(encoding="utf-8"))
    lan = next(w for w in site["wires"] if w["id"] == "lan")
    lan["port"] = f"tcp://127.0.0.1:{free_port()}"
    site["platforms"][0]["port"] = free_port()
    site["objects"][0]["authority"] |= {"orange": "confirm", "red": "automatic", "confirm_s": 120}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(site, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


class Box:
    """A running gateway and the command line pointed at it."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.socket = rig, str(rig.folder / "run/control.sock")

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return mingluo(*arguments, "--socket", self.socket)

    def object(self, name: str) -> dict[str, Any]:
        return next(o for o in json.loads(self("status", "--json").stdout)["objects"] if o["object"] == name)

    def move_to(self, mm: float, colour: str) -> None:
        self.rig.slaves["crack"].set("displacement", mm)
        wait(colour, lambda: self.object("slope")["colour"] == colour)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("cli")
    with Rig(demo_site(folder / "site"), folder / "box", turnaround_s=0.002) as rig:
        rig.slaves["rain"].set("total", 12.4)
        rig.slaves["crack"].set("displacement", 5.0)
        rig.slaves["gas"].set("concentration", 1.0)
        rig.pins.drive(23, "high")
        rig.pins.drive(24, "high")
        rig.start()
        rig.wait("a reading at the county", lambda: rig.county.counters().readings, 30)
        yield Box(rig)


# --- a running box


def test_status_speaks_both_languages_and_json(box: Box) -> None:
    zh, en = box("status"), box("status", "--lang", "en")
    assert (zh.returncode, en.returncode, zh.stderr, en.stderr) == (0, 0, "", "")
    assert "石门县雷家山监测站（演示）" in zh.stdout
    assert {"监测对象", "线路"} <= set(zh.stdout.splitlines())
    assert {"objects", "wires"} <= set(en.stdout.splitlines())
    document = json.loads(box("status", "--json").stdout)
    assert document["ok"] is True
    assert {o["object"] for o in document["objects"]} == {"slope", "gas-section"}
    assert document["gateway"]["pid"] == box.rig.gateway.pid


def test_the_socket_may_come_from_the_environment(box: Box) -> None:
    said = mingluo("status", "--json", MINGLUO_SOCKET=box.socket)
    assert (said.returncode, json.loads(said.stdout)["gateway"]["pid"]) == (0, box.rig.gateway.pid)


def test_a_terminal_gets_colours_and_a_pipe_does_not(box: Box) -> None:
    assert "\x1b[" not in box("status").stdout
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "gateway", "status", "--socket", box.socket], stdout=theirs,
                          env={**os.environ, "TERM": "xterm-256color"}) as shown:
        os.close(theirs)
        said = b""
        while select.select([ours], [], [], 20)[0]:
            try:
                said += os.read(ours, 1 << 16)
            except OSError:  # EIO: the other side is closed
                break
        os.close(ours)
    assert shown.returncode == 0
    assert b"\x1b[" in said
    assert "监测对象" in said.decode()


def test_an_alarm_is_acknowledged_silenced_and_cleared_by_hand(box: Box) -> None:
    box.move_to(61.5, "red")
    done = [box(command, "slope") for command in ("ack", "silence")]
    assert [(d.returncode, d.stdout, d.stderr) for d in done] == [(0, "已执行\n", "")] * 2
    assert box.object("slope")["acknowledged"] is True
    outputs = json.loads(box("status", "--json").stdout)["outputs"]
    assert next(o for o in outputs if o["output"] == "siren-1")["silenced"]
    refused = box("clear", "slope", "--lang", "en")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "cause still stands" in refused.stderr.splitlines()[0]
    assert "不能解除" in refused.stderr.splitlines()[1]
    box.move_to(5.0, "none")
    wait("the alarm ends", lambda: box.object("slope")["alarm"] == "" or box("clear", "slope").returncode == 0, 30)
    wait("no alarm", lambda: box.object("slope")["alarm"] == "")


@pytest.mark.parametrize(("command", "kind"), [("confirm", "alarm.confirmed"), ("refuse", "alarm.refused")])
def test_the_officer_answers_what_waits(box: Box, command: str, kind: str) -> None:
    nothing = box(command, "slope")
    assert (nothing.returncode, "雷家山后山滑坡 当前没有预警" in nothing.stderr) == (1, True)
    before = [e["kind"] for e in box.rig.county.events()].count(kind)
    box.move_to(45.0, "orange")
    said = box(command, "slope", "--lang", "en")
    assert (said.returncode, said.stdout) == (0, "done\n"), said.stderr
    wait(kind, lambda: [e["kind"] for e in box.rig.county.events()].count(kind) == before + 1)
    box.move_to(5.0, "none")
    wait("no alarm", lambda: box.object("slope")["alarm"] == "", 30)


def test_maintenance_lasts_the_hours_asked_and_ends_by_hand(box: Box) -> None:
    assert box("service", "gas-section", "maintenance", "--hours", "0.5").returncode == 0
    assert box.object("gas-section")["service"] == "maintenance"
    told = wait("told", lambda: [e for e in box.rig.county.events() if e["kind"] == "object.service"])
    assert told[-1]["object"] == "gas-section"
    assert box("service", "gas-section", "in_service").returncode == 0
    assert box.object("gas-section")["service"] == "in_service"
    too_long = box("service", "gas-section", "maintenance", "--hours", "1000")
    assert (too_long.returncode, "72" in too_long.stderr) == (2, True)
    nonsense = box("service", "gas-section", "asleep")
    assert (nonsense.returncode, "maintenance" in nonsense.stderr) == (2, True)


@pytest.mark.parametrize("command", ["ack", "silence", "clear", "confirm", "refuse"])
def test_an_unknown_object_is_named_in_both_languages(box: Box, command: str) -> None:
    said = box(command, "no-such")
    assert (said.returncode, said.stdout) == (1, "")
    zh, en = said.stderr.splitlines()
    assert "没有名为 no-such 的监测对象" in zh
    assert "no object is called no-such" in en


# --- no box


@pytest.mark.parametrize("command", [["status"], ["ack", "slope"], ["service", "slope", "trial"]])
def test_without_a_gateway_there_is_advice_in_both_languages(tmp_path: Path, command: list[str]) -> None:
    said = mingluo(*command, "--socket", str(tmp_path / "none.sock"))
    assert (said.returncode, said.stdout) == (NO_BOX, "")
    zh, en = said.stderr.splitlines()
    assert "网关是否在运行" in zh
    assert "is the gateway running? (systemctl status mingluo)" in en


def test_schema_is_the_shipped_file() -> None:
    said = mingluo("schema")
    shipped = (ROOT / "config/schema/gateway.schema.json").read_text(encoding="utf-8")
    assert (said.returncode, said.stdout) == (0, shipped)


def test_check_prints_every_error_and_counts_them() -> None:
    case = ROOT / "tests/check/many_errors_at_once"
    said = mingluo("check", str(case / "gateway.yaml"))
    *errors, count = said.stderr.splitlines()
    assert (said.returncode, said.stdout) == (1, "")
    assert len(errors) > 1
    assert count == f"{case / 'gateway.yaml'}: {len([e for e in errors if 'gateway.yaml:' in e])} errors"
    good = mingluo("check", str(ROOT / "config/demo.yaml"))
    assert (good.returncode, good.stderr) == (0, "")


def test_a_missing_configuration_is_one_clear_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    for command, code in (("run", 78), ("check", 1)):
        said = mingluo(command, str(missing))
        first, *more = said.stderr.splitlines()
        assert (said.returncode, said.stdout) == (code, "")
        assert first == f"{missing}:1:1: cannot be read: No such file or directory"
        assert len(more) == (command == "check")


def test_help_says_what_the_exit_codes_mean() -> None:
    said = mingluo("--help")
    assert said.returncode == 0
    text = " ".join(said.stdout.split())
    for words in ("0 done", "1 refused", "2 wrong usage, or no gateway answers", "78 (run)"):
        assert words in text


def test_without_arguments_there_is_help_and_nonsense_is_answered() -> None:
    bare = mingluo()
    assert (bare.returncode, "Usage:" in bare.stderr) == (2, True)
    nonsense = mingluo("nonsense")
    assert (nonsense.returncode, "No such command 'nonsense'" in nonsense.stderr) == (2, True)


def test_a_demo_that_cannot_begin_says_why_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = mingluo("demo", "--json", "--folder", str(tmp_path / "file"))
    assert (said.returncode, said.stdout) == (1, "")
    (line,) = said.stderr.splitlines()
    assert line.startswith("mingluo: ")
    assert str(tmp_path / "file") in line


def in_session(session: int) -> list[str]:
    """The command lines of all processes of a session (stat: pid (comm) state ppid pgrp session …, proc(5))."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state != "Z":
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    # One after the other: both would want the ports the demo's site names.
    for how in ("ctrl-c", "kill"):
        interrupt_a_demo(tmp_path / how, how)


def interrupt_a_demo(folder: Path, how: str) -> None:
    folder.mkdir()
    with (folder / "said").open("wb") as said:
        demo = subprocess.Popen([sys.executable, "-m", "gateway", "demo", "--folder", str(folder / "demo")],
                                stdout=said, stderr=said, start_new_session=True)
    try:
        log = folder / "demo" / "gateway.log"
        wait("the gateway is up", lambda: log.exists() and " ready " in log.read_text(encoding="utf-8"), 30)
        assert len(in_session(demo.pid)) >= 2
        if how == "ctrl-c":
            os.killpg(demo.pid, signal.SIGINT)  # a terminal sends it to everybody in front of it
        else:
            demo.terminate()
        demo.wait(40)
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
    wait("all are gone", lambda: not in_session(demo.pid), 5)
    text = (folder / "said").read_text(encoding="utf-8")
    assert "Traceback" not in text, text
    assert demo.returncode in (1, 130), text
