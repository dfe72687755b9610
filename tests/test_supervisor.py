"""Supervisor: a real process under a service manager played by the test: notify socket, signals, exit codes."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from gateway.supervisor import BROKEN, CLEAN, SHARE_S, START, STOP, STOP_S, UNFINISHED, Notifier, Supervisor, watchdog_s
from gateway.worker import Worker

SCRIPT = """
import logging, os, sys, threading, time
from drivers import LinkError
from gateway.supervisor import Supervisor
from gateway.worker import Worker

logging.basicConfig(level="INFO", stream=sys.stderr)
trace = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
say = lambda text: os.write(trace, (text + chr(10)).encode())
flags = set(sys.argv[2:])
folder = os.path.dirname(sys.argv[1])
told = lambda word: os.path.exists(os.path.join(folder, word))

def make(name, **keys):
    def step(timeout_s):
        while told("hang-" + name) or told("hang-all"):
            time.sleep(0.01)
        if told("fail-" + name):
            raise ValueError("broken invariant")
        time.sleep(0.01)
    def open_():
        say("open " + name)
        if "missing-" + name in flags:
            raise LinkError("no such port")
        if "stuck-" + name in flags:
            time.sleep(60)
    def close():
        say("close " + name)
        if "slow-" + name in flags:
            time.sleep(60)
        say("closed " + name)
    return Worker(name, step, open=open_, close=close, backoff_s=(0.01, 0.05), **{"patience_s": 0.6} | keys)

rooms = {"outputs": [make("outputs", gates=True)], "pipeline": [make("pipeline", gates=True)],
         "writer": [make("writer", replace=False)], "uplink": [make("county")], "control": [make("control")],
         "wire": [make("bus-a"), make("pins")], "detector": [make("detector")]}
code = Supervisor(rooms).run()
say("end")
os._exit(code)
"""


class Manager:
    """The service manager's side of a run: what systemd would see and do."""

    def __init__(self, folder: Path, abstract: bool = False) -> None:
        self.folder = folder
        self.trace = folder / "trace"
        name = f"\0mingluo-test-{os.getpid()}-{folder.name}" if abstract else str(folder / "n.sock")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name)
        self.socket.settimeout(0.05)
        self.address = name.replace("\0", "@")
        self.seen: list[tuple[float, str]] = []
        self.process: subprocess.Popen | None = None

    def run(self, *flags: str, watchdog_usec: int = 800_000) -> None:
        environ = os.environ | {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(watchdog_usec)}
        environ.pop("WATCHDOG_PID", None)
        script = self.folder / "box.py"
        script.write_text(textwrap.dedent(SCRIPT))
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen([sys.executable, str(script), str(self.trace), *flags], env=environ,
                                            stderr=log)
        self.until("READY=1")

    def listen(self, seconds: float) -> list[str]:
        """Everything said in the next `seconds`."""
        first, end = len(self.seen), time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                message = self.socket.recv(4096).decode()
            except TimeoutError:
                continue
            self.seen += [(time.monotonic(), field) for field in message.split("\n")]
        return [field for _, field in self.seen[first:]]

    def until(self, word: str, seconds: float = 15.0) -> float:
        end = time.monotonic() + seconds
        while True:
            for at_s, field in self.seen:
                if word in field:
                    return at_s
            assert time.monotonic() < end, f"{word} not said within {seconds} s: {self.seen}\n{self.log()}"
            self.listen(0.05)

    def tell(self, word: str) -> Path:
        path = self.folder / word
        path.touch()
        return path

    def said(self) -> list[str]:
        return self.trace.read_text().split("\n")[:-1]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait(self, seconds: float = 30.0) -> int:
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, self.log()
            self.listen(0.05)
        return self.process.returncode

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.socket.close()


@pytest.fixture
def manager(tmp_path):
    made = Manager(tmp_path)
    yield made
    made.close()


def test_start_order_ready_pings_and_ordered_stop(manager):
    manager.run()
    assert manager.said()[:2] == ["open outputs", "open pipeline"]
    assert manager.listen(1.2).count("WATCHDOG=1") >= 3
    manager.process.send_signal(signal.SIGTERM)
    assert manager.wait() == CLEAN
    assert [field for _, field in manager.seen if field.startswith(("READY", "STOPPING"))] == ["READY=1", "STOPPING=1"]
    closed = [line.split()[1] for line in manager.said() if line.startswith("closed")]
    assert sorted(closed[:2]) == ["bus-a", "pins"]
    assert closed[2:] == ["detector", "pipeline", "writer", "county", "control", "outputs"]
    assert manager.said()[-1] == "end"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_stop_signals_stop_at_once(manager, number):
    manager.run(watchdog_usec=60_000_000)
    began = time.monotonic()
    manager.process.send_signal(number)
    assert manager.wait() == CLEAN
    assert time.monotonic() - began < 5.0


def test_sighup_is_ignored_and_said(manager):
    manager.run()
    manager.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 5
    while "SIGHUP ignored" not in manager.log():
        assert time.monotonic() < end
        manager.listen(0.05)
    assert manager.listen(0.5).count("WATCHDOG=1") >= 1
    assert manager.process.poll() is None


def test_an_abstract_notify_socket_is_reached(tmp_path):
    manager = Manager(tmp_path, abstract=True)
    try:
        manager.run()
        manager.process.send_signal(signal.SIGTERM)
        assert manager.wait() == CLEAN
        manager.until("STOPPING=1")
    finally:
        manager.close()


@pytest.mark.parametrize("name", ["pipeline", "outputs"])
def test_a_hung_siren_path_starves_the_watchdog_until_it_returns(manager, name):
    manager.run()
    flag = manager.tell(f"hang-{name}")
    manager.until(f"{name} silent")
    assert "WATCHDOG=1" not in manager.listen(1.2)
    assert "all stacks follow" in manager.log()
    assert "Thread 0x" in manager.log()
    flag.unlink()
    manager.until("8 of 8 workers well")
    assert "WATCHDOG=1" in manager.listen(1.0)


@pytest.mark.parametrize("name", ["writer", "county", "bus-a", "control", "detector"])
def test_another_hung_worker_does_not_starve_the_watchdog(manager, name):
    manager.run()
    flag = manager.tell(f"hang-{name}")
    manager.until("silent" if name == "writer" else f"{name} given_up")
    assert manager.listen(1.2).count("WATCHDOG=1") >= 3
    flag.unlink()
    manager.listen(0.5)
    assert manager.process.poll() is None
    assert manager.said().count(f"open {name}") == (1 if name == "writer" else 4)


def test_a_missing_wire_does_not_delay_ready(manager):
    began = time.monotonic()
    manager.run("missing-bus-a")
    assert time.monotonic() - began < 2.5
    manager.until("bus-a waiting")


def test_an_open_that_hangs_does_not_hold_ready_for_ever(manager):
    manager.run("stuck-bus-a", "stuck-pins")
    assert "READY does not wait any longer worker=bus-a" in manager.log()


def test_missing_siren_pins_do_not_stop_the_box(manager):
    manager.run("missing-outputs")
    assert manager.listen(1.2).count("WATCHDOG=1") >= 3
    assert any("outputs waiting" in field for _, field in manager.seen)


def test_a_broken_siren_path_ends_the_process_with_an_error(manager):
    manager.run()
    manager.tell("fail-pipeline")
    assert manager.wait() == BROKEN
    assert "siren path is broken" in manager.log()
    assert "broken invariant" in manager.log()
    assert manager.said()[-1] == "end"


def test_a_failing_wire_never_ends_the_process(manager):
    manager.run()
    manager.tell("fail-bus-a")
    manager.until("bus-a failed")
    assert manager.listen(1.0).count("WATCHDOG=1") >= 2
    assert manager.process.poll() is None


def test_a_worker_that_will_not_stop_is_named_and_the_rest_stops(manager):
    manager.run("slow-county")
    manager.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert manager.wait() == UNFINISHED
    assert SHARE_S["uplink"] * 0.9 < time.monotonic() - began < STOP_S
    assert "did not stop in time worker=county" in manager.log()
    assert manager.said()[-2:] == ["closed outputs", "end"]


def test_a_second_signal_hurries(manager):
    manager.run("slow-writer", "slow-county", "slow-bus-a")
    manager.process.send_signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    manager.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert manager.wait() == UNFINISHED
    assert time.monotonic() - began < 5.0
    assert manager.said()[-2:] == ["closed outputs", "end"]


def test_a_suspended_process_accuses_nobody(manager):
    manager.run()
    manager.process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    manager.process.send_signal(signal.SIGCONT)
    assert manager.listen(1.2).count("WATCHDOG=1") >= 3
    assert "stood still" in manager.log()
    assert "fell silent" not in manager.log()
    assert [f for _, f in manager.seen if "silent" in f] == []


def test_a_stop_during_a_hang_is_still_bounded(manager):
    manager.run()
    manager.tell("hang-all")
    manager.until("pipeline silent")
    manager.process.send_signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    manager.process.send_signal(signal.SIGTERM)
    assert manager.wait(STOP_S) == UNFINISHED


def test_every_room_starts_and_stops_and_has_a_share():
    assert sorted(START) == sorted(STOP) == sorted(SHARE_S)
    assert STOP[-1] == START[0] == "outputs"
    assert STOP_S == 17.0


def test_an_unknown_room_is_refused():
    with pytest.raises(ValueError, match=r"no room called \['wires'\]: expected some of outputs"):
        Supervisor({"wires": []})


def test_without_a_service_manager_it_runs_and_stops_from_a_thread():
    steps = []
    worker = Worker("bus-a", lambda _: (steps.append(1), time.sleep(0.01))[1], patience_s=5.0)
    supervisor = Supervisor({"wire": [worker]}, environ={})
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()))
    thread.start()
    end = time.monotonic() + 5
    while not steps:
        assert time.monotonic() < end
        time.sleep(0.01)
    supervisor.stop()
    thread.join(10)
    assert codes == [CLEAN]
    supervisor.stop()  # late, from somebody who does not know: harmless


@pytest.mark.parametrize(("environ", "expected"), [
    ({}, None), ({"WATCHDOG_USEC": "10000000"}, 10.0), ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
    ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, None)])
def test_the_watchdog_of_this_process_only(environ, expected):
    assert watchdog_s(environ, 7) == expected


def test_a_service_manager_that_is_gone_harms_nothing(tmp_path, caplog):
    notify = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone.sock")})
    notify("WATCHDOG=1")
    notify("WATCHDOG=1")
    notify.close()
    assert sum("service manager not reached" in r.getMessage() for r in caplog.records) == 1


def test_a_service_manager_that_does_not_read_never_blocks(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n.sock"))
        notify = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n.sock")})
        began = time.monotonic()
        for _ in range(2000):
            notify("WATCHDOG=1")
        assert time.monotonic() - began < 2.0
        notify.close()
