"""A search finds and names what is on a wire nobody knows, and says what it cannot find."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drivers.exchange import Ask, checked
from drivers.line import SerialLine
from drivers.sensor import Serial
from drivers.template import find, names
from gateway import site
from gateway.installer import block
from gateway.installer.borrow import Loan
from gateway.installer.link import Link
from gateway.installer.search import Search
from gateway.installer.settings import COMMON, LIKELY, Attempt, order, patience_s, to_try
from hil.bus import Bus
from hil.hosts import Hosts
from hil.slaves import Slave, attach

SHIPPED = Path(__file__).parents[1] / "config" / "sensors"
FAST = Serial(baud=115200)


def example(unit: int, first: int, words: list[int]) -> dict[str, Any]:
    ask = Ask(unit, 3, first, len(words))
    answer = checked(bytes([unit, 3, 2 * len(words)]) + struct.pack(f">{len(words)}H", *words))
    return {"request": ask.frame.hex(" "), "answer": answer.hex(" "), "source": "computed"}


def own_models(folder: Path) -> Path:
    """Write two models of our own: one told by its product id, one with odd settings and a range of floats."""
    folder.mkdir()
    sonar = {"maker": "test", "title": {"zh": "超声波测距", "en": "Sonar"}, "manual": "none", "address": 12,
             "serial": {"baud": 19200},
             "points": [{"id": "distance", "register": 5, "unit": "mm", "resolution": 0.1, "scale": 0.1,
                         "range": [0, 1500]}],
             "identify": {"register": 0, "count": 3, "checks": [{"register": 0, "among": [0x27]},
                                                                {"register": 1, "among": [0x3343]}]},
             "examples": [example(12, 0, [0x27, 0x3343, 12]),
                          {**example(12, 5, [1234]), "values": {"distance": 123.4}}]}
    radar = {"maker": "test", "title": {"zh": "雷达水位计", "en": "Radar"}, "manual": "none", "address": 200,
             "serial": {"baud": 9600, "parity": "even"},
             "points": [{"id": "level", "register": 5000, "type": "f32", "unit": "m", "resolution": 0.001,
                         "range": [0, 20]}],
             "identify": {"register": 5000, "count": 2},
             "examples": [{**example(200, 5000, list(struct.unpack(">2H", struct.pack(">f", 4.5)))),
                           "values": {"level": 4.5}}]}
    for name, template in (("sonar", sonar), ("radar", radar)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(template, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture
def sensors(tmp_path: Path) -> Path:
    return own_models(tmp_path / "sensors")


def five(sensors: Path) -> list[Slave]:
    library = (sensors, SHIPPED)
    return [Slave(find("gas-self-describing", library), 1, {"gas": 11, "concentration": 3.4}, serial=Serial()),
            Slave(find("rain-tipping", library), 26, {"total": 12.4}, serial=Serial(baud=4800)),
            Slave(find("sonar", library), 12, {"distance": 812.3}, serial=Serial(baud=19200)),
            Slave(find("radar", library), 200, {"level": 4.5}, serial=Serial(baud=9600, parity="even")),
            Slave(find("crack-cable-bolin", library), 33, {"displacement": 12.5}, serial=Serial())]


FIVE = {1: ("gas-self-describing", 9600), 26: ("rain-tipping", 4800), 12: ("sonar", 19200), 200: ("radar", 9600),
        33: ("crack-cable-bolin", 9600)}


class Terminal:
    """A `mingluo` whose stderr is a terminal, as an installer has it."""

    def __init__(self, *arguments: str) -> None:
        self.ours, theirs = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen([sys.executable, "-m", "gateway", *arguments], stdout=subprocess.PIPE,
                                        stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
        os.close(theirs)

    def wait_for(self, *words: str, timeout_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not all(word in self.seen for word in words):
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"not seen: {words}\n{self.seen[-2000:]}"
            if select.select([self.ours], [], [], left_s)[0]:
                self.seen += os.read(self.ours, 1 << 16).decode(errors="replace")

    def end(self) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=30)
        os.close(self.ours)
        return self.process.returncode, out.decode()


def test_five_unknown_devices_of_different_settings_are_found_and_named(tmp_path: Path, sensors: Path) -> None:
    with Bus(Serial()) as bus:
        attach(bus, five(sensors))
        port = bus.port(tmp_path / "port")
        shown = Terminal("discover", port, "--sensors", str(sensors), "--listen-s", "0.2", "--lang", "en", "--json",
                         "--write", str(tmp_path / "found.yaml"), "--socket", str(tmp_path / "none.sock"))
        # The progress bar tells what it tries and how long it will take; each device is told when it is found.
        shown.wait_for("trying 9600 8N1, 4800 8N1, 9600 8E1, 115200 8N1", "at most")
        shown.wait_for(*(f"address {address} ·" for address in FIVE), "found 5")
        shown.process.send_signal(signal.SIGINT)   # what was found is kept
        code, out = shown.end()
    assert code == 130
    document = json.loads(out)
    assert document["interrupted"] is True
    named = {one["address"]: (one["proposals"][0]["template"], one["serial"]["baud"]) for one in document["found"]}
    assert named == FIVE
    values = {one["proposals"][0]["template"]: {v["point"]: v["value"] for v in one["proposals"][0]["values"]}
              for one in document["found"]}
    assert values["sonar"]["distance"] == 812.3
    assert values["radar"]["level"] == 4.5
    assert values["gas-self-describing"]["concentration"] == 3.4
    sure = {one["address"]: one["proposals"][0]["sure"] for one in document["found"]}
    assert sure[12] > 0.99    # 32 bits of product id
    assert sure[33] < 0.5     # one register at a foreign address: a proposal, and it says how thin it is
    assert accepted(tmp_path / "found.yaml", sensors)["mixed_settings"] is True


def accepted(file: Path, sensors: Path) -> dict[str, Any]:
    """Put a written block into a site and have the real loader check it; return its wire."""
    (wire,) = yaml.safe_load(file.read_text(encoding="utf-8"))["wires"]
    device = wire["devices"][0]
    library = (sensors, SHIPPED)
    point = find(device["template"], library).points[0].id
    whole = {"version": 1, "gateway": {"id": "box", "name": "站"}, "wires": [wire],
             "objects": [{"id": "o", "name": "对象", "hazard": "other", "service": "commissioning",
                          "points": [{"id": "p", "name": "测点", "read": f"{device['id']}.{point}", "poll_s": 60}]}]}
    path = sensors.parent / "gateway.yaml"
    path.write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    assert site.check(path) == []
    return wire


def searched(port: str, sensors: Path, attempts: list[Attempt], settings: Serial = FAST) -> Search:
    library = (sensors, SHIPPED)
    models = [find(name, library) for name in names(library)]
    with Link(port, settings, Loan("/no/such/socket", port, time.monotonic), time.monotonic) as link:
        search = Search(link, models)
        search.run(attempts)
    return search


def fast(addresses: list[int]) -> list[Attempt]:
    return order([], [FAST], addresses)


def test_two_devices_on_one_address_are_told(tmp_path: Path, sensors: Path) -> None:
    library = (SHIPPED,)
    with Bus(FAST) as bus:
        attach(bus, [Slave(find("rain-tipping", library), 7, {"total": 5}, name="one"),
                     Slave(find("rain-tipping", library), 7, {"total": 9}, name="two", turnaround_s=0.0052),
                     Slave(find("crack-cable-bolin", library), 9)])
        search = searched(bus.port(tmp_path / "port"), sensors, fast([6, 7, 8, 9]))
    assert [one.address for one in search.found] == [9]
    (doubt,) = search.doubts()
    assert (doubt.address, doubt.diagnosis.id) == (7, "collision")
    assert "两台设备" in doubt.diagnosis.what.zh
    assert search.general() == []


def test_a_device_that_is_damaged_now_and_then_is_found_all_the_same(tmp_path: Path, sensors: Path) -> None:
    slave = Slave(find("rain-tipping", (SHIPPED,)), 7, seed=3)   # seed 3
    slave.chance = {"garbled": 0.5}
    with Bus(FAST) as bus:
        attach(bus, [slave])
        search = searched(bus.port(tmp_path / "port"), sensors, fast([7]) * 3)
    assert [one.address for one in search.found] == [7]


def test_an_exception_is_a_device_too(tmp_path: Path, sensors: Path) -> None:
    slave = Slave(find("rain-tipping", (SHIPPED,)), 7)
    slave.fault, slave.exception = "exception", 2
    with Bus(FAST) as bus:
        attach(bus, [slave])
        search = searched(bus.port(tmp_path / "port"), sensors, fast([7]))
    assert [(one.address, one.code, one.proposals) for one in search.found] == [(7, 2, ())]


@pytest.mark.timing
def test_an_answer_that_comes_during_a_later_question_is_followed_up(tmp_path: Path, sensors: Path) -> None:
    slave = Slave(find("rain-tipping", (SHIPPED,)), 7, turnaround_s=0.13)   # the first pass waits 64 ms
    with Bus(FAST) as bus:
        attach(bus, [slave])
        search = searched(bus.port(tmp_path / "port"), sensors, fast([7, 8, 9, 10, 11]))
    assert [one.address for one in search.found] == [7]
    assert search.found[0].response_s > 0.12


def test_a_line_with_an_echo_is_recognised_and_searched(tmp_path: Path, sensors: Path) -> None:
    with Bus(FAST) as bus:
        attach(bus, [Slave(find("rain-tipping", (SHIPPED,)), 5, {"total": 12.4})])
        search = searched(bus.port(tmp_path / "port", echo=True), sensors, fast([2, 3, 4, 5, 6]))
    assert search.echo
    assert [one.address for one in search.found] == [5]
    text = block.block("/dev/ttyUSB0", search.found, search.echo)
    assert yaml.safe_load(text)["wires"][0]["echo"] is True


def test_a_host_is_searched_by_unit(tmp_path: Path, sensors: Path) -> None:
    library = (SHIPPED,)
    with Hosts() as hosts:
        host = hosts.add([Slave(find("gas-self-describing", library), 1, {"gas": 11}),
                          Slave(find("rain-tipping", library), 17)])
        port = f"tcp://127.0.0.1:{host.port}"
        search = searched(port, sensors, order([], None, [1, 2, 17]))
    assert sorted((one.address, one.settings) for one in search.found) == [(1, None), (17, None)]
    file = tmp_path / "found.yaml"
    file.write_text(block.block(port, search.found), encoding="utf-8")
    assert "serial" not in accepted(file, sensors)


RULED = [name for name in names((SHIPPED,)) for rule in [find(name, (SHIPPED,)).identify] if rule and rule.checks]


@pytest.mark.parametrize("name", RULED)
def test_a_shipped_model_with_a_rule_is_named_first_wherever_it_is(name: str, tmp_path: Path) -> None:
    """Not at its factory address, and against all other models: what its registers hold must be enough."""
    model = find(name, (SHIPPED,))
    slave = Slave(model, 77)
    for example_ in reversed(model.examples):   # its registers hold what the published frames say
        request, answer = bytes.fromhex(example_.request), bytes.fromhex(example_.answer)
        if request[1] in (3, 4) and answer[1] == request[1]:
            (first,) = struct.unpack(">H", request[2:4])
            for n, word in enumerate(struct.unpack(f">{answer[2] // 2}H", answer[3:3 + answer[2]])):
                if 2 * (first + n) < len(slave._images[request[1]]):   # a frame may carry more than the model names
                    slave.set_register(request[1], first + n, word)
    with Hosts() as hosts:
        search = searched(f"tcp://127.0.0.1:{hosts.add([slave]).port}", tmp_path / "none", order([], None, [77]))
    (found,) = search.found
    assert found.proposals[0].template.model == name
    assert found.proposals[0].sure > 0.5


def test_a_device_of_zeros_is_not_taken_for_a_model(sensors: Path, tmp_path: Path) -> None:
    """Registers nobody filled read 0: rules that allow 0 all fit, and none may look sure."""
    slave = Slave(find("ai-waveshare-8ch", (SHIPPED,)), 77)
    for function, image in slave._images.items():
        for register in range(len(image) // 2 if function > 2 else 0):
            slave.set_register(function, register, 0)
    with Hosts() as hosts:
        search = searched(f"tcp://127.0.0.1:{hosts.add([slave]).port}", tmp_path / "none", order([], None, [77]))
    assert all(proposal.sure < 0.75 for proposal in search.found[0].proposals)


def mingluo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "gateway", *arguments, "--socket", str(cwd / "none.sock")],
                          capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture
def other_master(tmp_path: Path) -> Iterator[str]:
    """A port of a wire on which somebody else asks all the time."""
    stop = threading.Event()
    with Bus(Serial()) as bus:
        attach(bus, [Slave(find("rain-tipping", (SHIPPED,)), 2)])
        line = SerialLine(bus.port(tmp_path / "plc"), Serial(), 0.05, time.monotonic)
        line.open()

        def poll() -> None:
            while not stop.is_set():
                line.exchange(Ask(2, 3, 0, 1))
                stop.wait(0.1)

        thread = threading.Thread(target=poll)
        thread.start()
        yield bus.port(tmp_path / "port")
        stop.set()
        thread.join()
        line.close()


def test_somebody_elses_wire_is_left_alone_unless_forced(tmp_path: Path, other_master: str) -> None:
    said = mingluo("discover", other_master, "--addresses", "2", "--baud", "9600", "--listen-s", "1", cwd=tmp_path)
    assert (said.returncode, said.stdout) == (1, "")
    assert "线上已有人在说话" in said.stderr
    assert "somebody else is talking" in said.stderr
    assert "addresses 2" in said.stderr
    forced = mingluo("discover", other_master, "--addresses", "2", "--baud", "9600", "--listen-s", "0.5", "--force",
                     cwd=tmp_path)
    assert forced.returncode in (0, 1)
    assert "全程最多" in forced.stderr


def test_a_dead_wire_says_what_to_look_at(tmp_path: Path) -> None:
    with Bus(Serial()) as bus:
        port = bus.port(tmp_path / "port")
        said = mingluo("discover", port, "--addresses", "1-3", "--baud", "115200", "--listen-s", "0.1", cwd=tmp_path)
    assert said.returncode == 1
    assert said.stdout.startswith("没有找到设备")
    assert "A、B 是否接反" in said.stdout


def test_a_file_is_never_overwritten_and_is_asked_for_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_text("mine", encoding="utf-8")
    said = mingluo("discover", "/dev/null", "--write", "there.yaml", cwd=tmp_path)
    assert (said.returncode, said.stdout) == (1, "")
    assert "已存在" in said.stderr
    assert (tmp_path / "there.yaml").read_text(encoding="utf-8") == "mine"
    nowhere = mingluo("discover", "/dev/null", "--write", "none/there.yaml", cwd=tmp_path)
    assert nowhere.returncode == 1


@pytest.mark.parametrize("addresses", ["0", "248", "5-300", "x", "9-3"])
def test_addresses_that_do_not_exist_are_refused(tmp_path: Path, addresses: str) -> None:
    said = mingluo("discover", "/dev/null", "--addresses", addresses, cwd=tmp_path)
    assert said.returncode == 2


# --- the order of things


def test_likely_settings_and_addresses_come_first_and_nothing_is_asked_twice() -> None:
    models = [find(name, (SHIPPED,)) for name in names((SHIPPED,))]
    settings = to_try(models, full=False)
    assert settings[:4] == list(COMMON[:4]) == [Serial(baud=9600), Serial(baud=4800),
                                                Serial(baud=9600, parity="even"), Serial(baud=115200)]
    attempts = order(models, settings)
    assert len(attempts) == len(set(attempts))
    factory = {(model.serial.baud, model.address) for model in models}
    first = attempts[:2 * len(models)]
    assert {(a.settings.baud, a.address) for a in first if a.settings} >= factory
    likely = [a.address for a in attempts if a.settings == Serial()]
    assert set(LIKELY) <= set(likely[:len(LIKELY) + 2 * len(models)])
    for one in settings:
        assert {a.address for a in attempts if a.settings == one} == set(range(1, 248))


def test_the_first_pass_is_quick_and_the_full_one_is_patient() -> None:
    for baud in (1200, 9600, 115200):
        settings = Serial(baud=baud)
        assert 0.06 <= patience_s(settings, slow=False) <= 0.1
        assert patience_s(settings, slow=True) >= 0.3
    quick, full = (sum(a.cost_s for a in order([], to_try([], whole), None, whole)) for whole in (False, True))
    assert quick < 3 * 60 < full
    assert len(to_try([], full=True)) > 20


def test_a_port_is_written_down_by_a_name_that_outlives_a_restart(tmp_path: Path) -> None:
    device, folder = tmp_path / "ttyUSB0", tmp_path / "by-path"
    device.write_text("")
    folder.mkdir()
    (folder / "usb-1.3").symlink_to(device)
    assert block.stable(str(device), (tmp_path / "none", folder)) == str(folder / "usb-1.3")
    assert block.stable("tcp://h:502", (folder,)) == "tcp://h:502"
    assert block.stable(str(tmp_path / "other"), (folder,)) == str(tmp_path / "other")
