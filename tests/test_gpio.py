"""Pins through the real socket of gpiozero's mock pins: edges, debounce, counting, relays, and what is missing."""

import itertools
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import types

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import drivers
from drivers import Command, LinkError, Scan, SetupError, pins
from drivers.gpio import Debounce, Gpio, GpioDevice, GpioWire
from drivers.pins import open_relay
from hil.pins import Pins

CONTACT = {"id": "wire", "kind": "contact", "pin": 23, "pull": "up", "active": "low", "debounce_ms": 100}
BUCKET = {"id": "rain", "kind": "pulse", "pin": 24, "pull": "up", "active": "low", "debounce_ms": 100,
          "per_pulse": 0.2, "unit": "mm"}


def eventually(question, within_s=5.0):
    end_s = time.monotonic() + within_s
    while not (answer := question()):
        assert time.monotonic() < end_s, "never came true"
        time.sleep(0.002)
    return answer


def make(port, *devices, polls=None):
    wire = msgspec.convert({"id": "pins", "driver": "gpio", "port": port, "devices": devices}, GpioWire)
    return Gpio(wire, polls or {}, (), time.monotonic)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pins.sock"


@pytest.fixture
def rig(path):
    """Returns start(*devices, polls=…) → (opened driver, pins behind the socket)."""
    opened = []

    def start(*devices, polls=None):
        driver = make(f"mock:{path}", *devices, polls=polls)
        driver.open()
        outside = Pins(path)
        opened.extend((outside, driver))
        outside.wait_connected(5)
        return driver, outside

    yield start
    for thing in opened:
        thing.close()


def take(driver, count, within_s=5.0):
    scans, end_s = [], time.monotonic() + within_s
    while len(scans) < count and time.monotonic() < end_s:
        scans += driver.read(0.2)
    return scans


def test_the_registry_finds_the_driver_by_name():
    assert drivers.find("gpio") is Gpio


def test_an_edge_wakes_a_blocked_read_and_carries_its_own_time(rig):
    driver, outside = rig(CONTACT)
    outside.drive(23, "low")
    begun_s = time.monotonic()
    [scan] = driver.read(5.0)
    edge = outside.wait_for(23, 0, 5)
    assert (scan.device, scan.points, scan.values, scan.notes) == ("wire", ("state",), (1.0,), ())
    assert scan.at_s == pytest.approx(edge.at_s, abs=1e-5)
    assert time.monotonic() - begun_s < 2.0


def test_levels_are_said_again_every_poll_and_first_at_once(rig):
    driver, _ = rig(CONTACT, polls={"wire": {"state": 0.05}})
    scans = take(driver, 4)
    assert [scan.values for scan in scans] == [(0.0,)] * 4
    assert scans[-1].at_s - scans[0].at_s >= 0.1   # three periods, of which a busy machine may swallow the first


def test_a_device_nobody_polls_speaks_only_of_its_edges(rig):
    driver, outside = rig(CONTACT)
    assert driver.read(0.05) == []
    outside.drive(23, "low")
    assert [s.values for s in take(driver, 1)] == [(1.0,)]
    assert driver.read(0.05) == []


def test_a_bouncing_contact_is_one_edge_reported_at_its_first_touch(rig):
    driver, outside = rig(CONTACT)
    for level in ("low", "high", "low", "high", "low"):
        outside.drive(23, level)
    first = outside.wait_for(23, 0, 5)
    [scan] = take(driver, 1)
    assert scan.values == (1.0,)
    assert scan.at_s <= first.at_s + 1e-5
    assert driver.read(0.2) == []
    outside.drive(23, "float")
    assert [s.values for s in take(driver, 1)] == [(0.0,)]


def test_a_spark_is_reported_and_taken_back_at_the_end_of_the_debounce(rig):
    driver, outside = rig(CONTACT)
    outside.drive(23, "low")
    outside.drive(23, "high")
    scans = take(driver, 2)
    assert [scan.values for scan in scans] == [(1.0,), (0.0,)]
    assert 0.0 <= scans[1].at_s - scans[0].at_s < 0.1


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=25), st.integers(0, 30),
       st.data())
def test_debounced_edges_do_not_depend_on_how_late_they_are_handed_over(first, steps, deaf, data):
    at, edges = 0, []
    for gap, level in steps:
        at += gap
        edges.append((level, float(at)))

    def believed(looks):
        bounce, changes, pending = Debounce(first, float(deaf)), [], list(edges)
        for look in [*sorted(looks), at + 1000.0]:
            while pending and pending[0][1] <= look:
                changes += bounce.edge(*pending.pop(0))
            changes += bounce.settle(look)
        return changes

    alone = believed([])
    assert believed([t for _, t in edges] + data.draw(st.lists(st.floats(0, 2000), max_size=10))) == alone
    levels = [first, *(level for level, _ in alone)]
    assert all(a != b for a, b in itertools.pairwise(levels))
    assert levels[-1] == (edges[-1][0] if edges else first)


def test_pulses_are_counted_once_each_whatever_the_contact_does(rig):
    driver, outside = rig(BUCKET, polls={"rain": {"total": 60}})
    assert [s.values for s in take(driver, 1)] == [(0.0,)]
    totals = []
    for _ in range(3):
        for level in ("low", "high", "low"):    # closes, bouncing
            outside.drive(24, level)
        [scan] = take(driver, 1)
        totals.append(scan.values[0])
        assert driver.read(0.15) == []
        for level in ("high", "low", "high"):   # opens, bouncing
            outside.drive(24, level)
        assert driver.read(0.2) == []
    assert totals == pytest.approx([0.2, 0.4, 0.6])
    driver.close()
    driver.open()
    assert take(driver, 1)[0].values == pytest.approx((0.6,))


def test_describe_tells_units_and_that_totals_count():
    wire = make("lgpio", CONTACT, BUCKET)._wire
    infos = Gpio.describe(wire, ())
    assert (infos["wire"]["state"].unit, infos["wire"]["state"].high) == ("", 1.0)
    assert (infos["rain"]["total"].unit, infos["rain"]["total"].resolution, infos["rain"]["total"].counter) == (
        "mm", 0.2, True)


@pytest.mark.parametrize(("port", "devices", "expected"), [
    ("gpio", [], {(("port",), "expected lgpio, lgpio:CHIP")}),
    ("lgpio:x", [], {(("port",), "expected lgpio, lgpio:CHIP")}),
    ("mock:", [], {(("port",), "expected lgpio, lgpio:CHIP")}),
    ("mock:/" + "x" * 120, [], {(("port",), "107 bytes at most")}),
    ("lgpio", [CONTACT, BUCKET | {"pin": 23}], {(("devices", 1, "pin"), "already used by wire")}),
    ("lgpio", [CONTACT | {"pin": 2, "pull": "none"}], {(("devices", 0, "pull"), "pull-up resistor on the board")}),
    ("lgpio", [BUCKET | {"per_pulse": None, "unit": ""}],
     {(("devices", 0, "per_pulse"), "needs per_pulse"), (("devices", 0, "unit"), "needs the unit")}),
    ("lgpio", [CONTACT | {"unit": "mm"}], {(("devices", 0, "unit"), "has no unit")}),
    ("lgpio:0", [CONTACT, BUCKET], set()),
])
def test_a_set_up_that_cannot_work_is_named_and_refused(port, devices, expected):
    wire = msgspec.convert({"id": "p", "driver": "gpio", "port": port, "devices": devices}, GpioWire)
    found = Gpio.problems(wire, ())
    assert {path for path, _ in found} == {path for path, _ in expected}
    for path, words in expected:
        assert any(p == path and words in text for p, text in found)
    if expected:
        with pytest.raises(SetupError):
            Gpio(wire, {}, (), time.monotonic)


@pytest.mark.parametrize("bad", [{"pin": 28}, {"pull": "sideways"}, {"debounce_ms": 1001}, {"kind": "door"}])
def test_values_out_of_bounds_never_become_a_device(bad):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(CONTACT | bad, GpioDevice)


def test_read_returns_within_its_timeout(rig):
    driver, _ = rig(CONTACT)
    begun_s = time.monotonic()
    assert driver.read(0.1) == []
    assert 0.1 <= time.monotonic() - begun_s < 1.0
    assert driver.read(0.0) == []


def ask(**keys):
    usual = {"id": "1", "device": "wire", "kind": "read_now", "deadline_s": time.monotonic() + 5}
    return Command(**usual | keys)


def test_the_next_read_honours_a_read_now_from_another_thread(rig):
    driver, _ = rig(CONTACT)
    timer = threading.Timer(0.05, driver.submit, [ask()])
    timer.start()
    begun_s = time.monotonic()
    assert [s.values for s in driver.read(10.0)] == [(0.0,)]
    assert time.monotonic() - begun_s < 5.0
    timer.join()


def test_an_expired_or_foreign_command_is_dropped(rig):
    driver, _ = rig(CONTACT)
    driver.submit(ask(deadline_s=time.monotonic() - 1))
    driver.submit(ask(device="nobody"))
    assert driver.read(0.05) == []


def test_a_pace_holds_until_its_end(rig):
    driver, _ = rig(CONTACT, polls={"wire": {"state": 30.0}})
    assert len(take(driver, 1)) == 1
    driver.submit(ask(kind="pace", period_s=0.02, until_s=time.monotonic() + 0.3))
    scans, end_s = [], time.monotonic() + 0.6
    while time.monotonic() < end_s:
        scans += driver.read(0.05)
    assert 3 <= len(scans) <= 17
    assert driver.read(0.1) == []


@pytest.mark.parametrize("period_s", [None, 0.0, -1.0])
def test_a_pace_without_a_period_is_dropped(rig, period_s):
    driver, _ = rig(CONTACT, polls={"wire": {"state": 30.0}})
    assert len(take(driver, 1)) == 1
    driver.submit(ask(kind="pace", period_s=period_s, until_s=time.monotonic() + 5))
    assert [driver.read(0.02) for _ in range(3)] == [[], [], []]


def test_a_total_is_the_number_people_write(rig):
    driver, outside = rig({**BUCKET, "per_pulse": 0.3, "debounce_ms": 0})
    for _ in range(3):
        for level, state in (("low", 0), ("high", 1)):
            outside.drive(24, level)
            outside.wait_for(24, state, 5)
    assert [s.values for s in take(driver, 3)] == [(0.3,), (0.6,), (0.9,)]   # 3 * 0.3 is 0.8999999999999999


def test_close_is_idempotent_and_a_closed_wire_says_so(rig):
    driver, _ = rig(CONTACT)
    assert [h.state for h in driver.health()] == ["ok"]
    driver.close()
    driver.close()
    with pytest.raises(LinkError):
        driver.read(0.0)
    assert [h.state for h in driver.health()] == ["unknown"]


def test_close_wakes_a_blocked_read(rig):
    driver, _ = rig(CONTACT)
    timer = threading.Timer(0.05, driver.close)
    timer.start()
    with pytest.raises(LinkError):
        driver.read(30.0)
    timer.join()


def test_a_failed_open_lets_go_of_everything(tmp_path):
    driver = make(f"mock:{tmp_path}/no/folder/pins.sock", CONTACT)
    with pytest.raises(LinkError, match="cannot make the socket"):
        driver.open()
    driver.close()
    with pytest.raises(LinkError):
        driver.read(0.0)


def test_a_pin_taken_by_an_output_is_a_link_error_and_frees_the_rest(path):
    relay = open_relay(f"mock:{path}", 24, "high")
    driver = make(f"mock:{path}", CONTACT, BUCKET)
    with pytest.raises(LinkError, match="pin 24"):
        driver.open()
    other = open_relay(f"mock:{path}", 23, "high")
    other.close()
    relay.close()
    assert not path.exists()


# --- relays and the mirror ---

@pytest.mark.parametrize(("active", "off", "on"), [("high", 0, 1), ("low", 1, 0)])
def test_a_relay_opens_off_without_a_pulse_and_closes_to_an_undriven_input(rig, path, active, off, on):
    _, outside = rig(CONTACT)
    relay = open_relay(f"mock:{path}", 17, active)
    outside.wait_for(17, off, 5, "output")
    assert not relay.is_on
    relay.on()
    assert relay.is_on
    relay.off()
    relay.on()
    relay.close()
    relay.close()
    outside.wait_for(17, off, 5, "input")
    assert [(e.state, e.function) for e in outside.edges if e.pin == 17] == [
        (off, "output"), (on, "output"), (off, "output"), (on, "output"), (off, "output"), (off, "input")]
    with pytest.raises(LinkError):
        relay.on()


def test_a_wire_and_its_outputs_share_one_port_and_the_last_one_ends_it(rig, path):
    driver, outside = rig(CONTACT)
    relay = open_relay(f"mock:{path}", 17, "high")
    driver.close()
    relay.on()
    outside.wait_for(17, 1, 5)
    assert path.exists()
    relay.close()
    assert not path.exists()


def test_the_socket_is_for_its_owner_only(rig, path):
    rig(CONTACT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_socket_left_by_a_dead_process_is_replaced_and_a_living_one_respected(path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    relay = open_relay(f"mock:{path}", 17, "high")
    code = f"from drivers.pins import open_relay\nopen_relay('mock:{path}', 17, 'high')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert "another process serves these mock pins" in other.stderr
    assert path.exists()
    relay.close()


def test_a_level_driven_before_the_pin_is_read_is_there_when_it_is(rig, path):
    driver, outside = rig(CONTACT)
    outside.drive(25, "high")
    outside.wait_for(25, 1, 5)
    outside.drive(25, "low")
    outside.wait_for(25, 0, 5)
    relay = open_relay(f"mock:{path}", 17, "high")
    driver.close()
    again = make(f"mock:{path}", CONTACT | {"pin": 25}, polls={"wire": {"state": 60}})
    again.open()
    assert eventually(lambda: [s.values for s in again.read(0.1)]) == [(1.0,)]
    again.close()
    relay.close()


def test_the_outside_connects_again_and_drives_again_after_a_restart(rig, path):
    driver, outside = rig(CONTACT, polls={"wire": {"state": 0.02}})
    outside.drive(23, "low")
    outside.wait_for(23, 0, 5)
    driver.close()
    eventually(lambda: not outside.connected)
    assert outside.now(23) is None
    driver.open()
    eventually(lambda: (1.0,) in [s.values for s in driver.read(0.1)])
    outside.wait_for(23, 0, 5)


def test_a_newcomer_gets_the_present_and_no_old_edges(rig, path):
    _, outside = rig(CONTACT)
    relay = open_relay(f"mock:{path}", 17, "high")
    for _ in range(5):
        relay.on()
        relay.off()
    relay.on()
    outside.wait_for(17, 1, 5)
    with Pins(path) as late:
        late.wait_for(17, 1, 5)
        assert [(e.pin, e.state) for e in late.edges if e.pin == 17] == [(17, 1)]
    relay.close()


def test_a_peer_that_never_reads_does_not_hold_up_a_pin_and_is_cut_off(rig, path):
    _, outside = rig(CONTACT)
    relay = open_relay(f"mock:{path}", 17, "high")
    lazy = socket.socket(socket.AF_UNIX)
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.connect(str(path))
    slowest_s = 0.0
    outside.wait_for(17, 0, 5)
    others = len(outside.edges)
    for i in range(24):
        for _ in range(500):
            begun_s = time.monotonic()
            relay.on()
            relay.off()
            slowest_s = max(slowest_s, time.monotonic() - begun_s)
        # The peer that does read keeps up and misses nothing.
        eventually(lambda seen=others + 1000 * (i + 1): len(outside.edges) == seen, 20)
    assert slowest_s < 1.0
    lazy.settimeout(5)
    received = 0
    while data := lazy.recv(1 << 20):
        received += len(data)
    assert received < 24_000 * 50
    lazy.close()
    relay.close()


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"pin": 99, "drive": "low"}', b'{"pin": 23}',
                                  b'{"pin": true, "drive": "low"}', b'{"pin": 23, "drive": "up"}'])
def test_a_line_that_cannot_be_understood_is_answered_and_harms_nobody(rig, path, line):
    _, outside = rig(CONTACT)
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(5)
    peer.connect(str(path))
    peer.sendall(line + b"\n")
    with peer.makefile("r") as lines:
        assert "expected" in next(found["error"] for found in map(json.loads, lines) if "error" in found)
    peer.close()
    outside.drive(23, "low")
    outside.wait_for(23, 0, 5)


# --- the real chip, as far as a machine without one can show ---

def test_without_a_chip_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(pins, "_DEV", tmp_path)
    for port in ("lgpio", "lgpio:3"):
        driver = make(port, CONTACT)
        with pytest.raises(LinkError, match=r"gpiochip[03]: this machine shows no such pins.*ls /dev/gpiochip"):
            driver.open()
        with pytest.raises(LinkError, match="no such pins"):
            open_relay(port, 17, "high")


@pytest.fixture
def a_chip(monkeypatch, tmp_path):
    monkeypatch.setattr(pins, "_DEV", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "gpiozero.pins.lgpio", raising=False)
    (tmp_path / "gpiochip0").touch()
    yield tmp_path
    sys.modules.pop("gpiozero.pins.lgpio", None)


def test_without_lgpio_the_error_says_how_to_install_it(monkeypatch, a_chip):
    monkeypatch.setitem(sys.modules, "lgpio", None)
    with pytest.raises(LinkError, match="pip install lgpio"):
        open_relay("lgpio:0", 17, "high")


def test_a_chip_that_may_not_be_opened_says_which_group(a_chip, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open anything
    with pytest.raises(LinkError, match="usermod"):
        open_relay("lgpio:0", 17, "high")


@pytest.fixture
def recorder(monkeypatch, a_chip):
    """lgpio's functions, recording what reaches the chip (the C library itself needs a chip to say anything)."""
    calls, level, callbacks = [], {}, {}
    lgpio = types.ModuleType("lgpio")
    lgpio.SET_PULL_NONE, lgpio.SET_PULL_UP, lgpio.SET_PULL_DOWN = 128, 32, 64
    lgpio.RISING_EDGE, lgpio.FALLING_EDGE, lgpio.BOTH_EDGES = 1, 2, 3
    outputs = set()

    def gpio_claim_output(handle, gpio, state=0, flags=0):
        calls.append(("output", gpio, state))
        outputs.add(gpio)
        level[gpio] = state

    def gpio_claim_input(handle, gpio, flags=0):
        calls.append(("input", gpio))
        outputs.discard(gpio)

    def gpio_write(handle, gpio, state):
        calls.append(("write", gpio, int(state)))
        level[gpio] = int(state)

    def callback(handle, gpio, edges, call):
        callbacks[gpio] = call
        return types.SimpleNamespace(cancel=lambda: callbacks.pop(gpio, None))

    lgpio.gpiochip_open = lambda chip: chip
    lgpio.gpiochip_close = lambda handle: calls.append(("close", handle))
    lgpio.gpio_claim_output, lgpio.gpio_claim_input, lgpio.gpio_write = gpio_claim_output, gpio_claim_input, gpio_write
    lgpio.gpio_free = lambda handle, gpio: None
    lgpio.gpio_get_mode = lambda handle, gpio: 2 if gpio in outputs else 0
    lgpio.gpio_read = lambda handle, gpio: level.get(gpio, 1)
    lgpio.gpio_claim_alert = lambda handle, gpio, edges, flags: None
    lgpio.callback = callback
    monkeypatch.setitem(sys.modules, "lgpio", lgpio)
    monkeypatch.setattr("gpiozero.pins.local.get_pi_revision", lambda: 0xA02082)
    return types.SimpleNamespace(calls=calls, level=level, callbacks=callbacks)


@pytest.mark.parametrize(("active", "off"), [("high", 0), ("low", 1)])
def test_on_a_chip_the_line_is_claimed_with_its_inactive_level_in_one_step(recorder, active, off):
    relay = open_relay("lgpio:0", 17, active)
    assert [c for c in recorder.calls if c[0] != "input"] == [("output", 17, off)]
    relay.on()
    relay.close()
    assert [c for c in recorder.calls if c[0] == "write"] == [("write", 17, 1 - off), ("write", 17, off)]
    assert recorder.calls[-2:] == [("input", 17), ("close", 0)]


def test_on_a_chip_an_edge_keeps_the_kernels_time_stamp_when_it_is_of_our_clock(recorder):
    driver = make("lgpio:0", CONTACT | {"debounce_ms": 0})
    driver.open()
    stamp_s = time.monotonic() - 0.003
    recorder.callbacks[23](0, 23, 0, int(stamp_s * 1e9))
    [scan] = driver.read(1.0)
    assert (scan.values, scan.at_s) == ((1.0,), pytest.approx(stamp_s, abs=1e-6))
    now_s = time.monotonic()
    recorder.callbacks[23](0, 23, 1, int(1.7e18))  # wall time, as old kernels stamp
    [scan] = driver.read(1.0)
    assert scan.values == (0.0,)
    assert now_s <= scan.at_s <= time.monotonic()
    driver.close()


def test_an_edge_the_kernel_dropped_is_noticed_by_the_next_poll(recorder):
    driver = make("lgpio:0", CONTACT, polls={"wire": {"state": 0.03}})
    driver.open()
    assert [s.values for s in driver.read(1.0)] == [(0.0,)]
    recorder.level[23] = 0
    scans = driver.read(1.0)
    assert [s.values for s in scans] == [(1.0,), (1.0,)]
    assert isinstance(scans[0], Scan)
    driver.close()


def test_a_chip_that_stops_answering_is_a_link_error(recorder, monkeypatch):
    driver = make("lgpio:0", CONTACT, polls={"wire": {"state": 0.01}})
    driver.open()
    relay = open_relay("lgpio:0", 17, "high")

    def gone(*_):
        raise RuntimeError("No such device")

    monkeypatch.setattr(sys.modules["lgpio"], "gpio_read", gone)
    monkeypatch.setattr(sys.modules["lgpio"], "gpio_write", gone)
    with pytest.raises(LinkError, match="No such device"):
        driver.read(1.0)
    with pytest.raises(LinkError, match="No such device"):
        relay.on()
    relay.close()
    driver.close()


def test_lgpio_itself_refuses_a_chip_that_is_none(a_chip):
    pytest.importorskip("lgpio")
    with pytest.raises(LinkError, match="lgpio:CHIP"):
        open_relay("lgpio:0", 17, "high")
