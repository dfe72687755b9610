"""Patterns, bursts, silence and failing relays, on a clock that only the test moves; and the real pin's delay."""

import json
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from drivers.pins import open_relay
from gateway.config import Burst, Output
from gateway.model import Colour, Demand
from gateway.outputs import NEVER_MS, BurstMs, Outputs, level_at
from gateway.safe import outputs_of
from hil.pins import Pins

SIREN = Output(id="siren", kind="siren", wire="pins", pin=17, active="high")
BURSTING = Output(id="siren", kind="siren", wire="pins", pin=17, active="high",
                  burst=Burst(max_s=3, sound_s=1, every_s=5))
STROBE = Output(id="strobe", kind="strobe", wire="pins", pin=27, active="high", yellow=(0.2, 1.8))
LAMP = Output(id="lamp", kind="fault_lamp", wire="pins", pin=22, active="high")


class Clock:
    def __init__(self, now_s=1000.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


class FakeRelay:
    """Records what it was told; refuses while `broken`."""

    def __init__(self, log=None, name=""):
        self.told = []
        self.broken = False
        self.log = log if log is not None else []
        self.name = name

    def _say(self, word):
        if self.broken:
            raise OSError("coil burnt")
        self.told.append(word)
        self.log.append((self.name, word))

    def on(self):
        self._say("on")

    def off(self):
        self._say("off")

    def close(self):
        self._say("close")


def red(output="siren", **keys):
    return Demand(output=output, **{"colour": Colour.RED, "alarm": "a1", "since_ms": 1_000_000} | keys)


def box(*outputs, clock, reopen=None, without=()):
    log = []
    relays = {o.id: FakeRelay(log, o.id) for o in outputs if o.id not in without}
    return Outputs(outputs, relays, clock, reopen), relays, log


def play(out, clock, relay, until_s, step_s=0.001):
    """Edges as (seconds since start, on) while the clock walks to `until_s` in even steps."""
    start, n, edges = clock.now_s, 0, []
    while clock.now_s < until_s:
        before = len(relay.told)
        out.step(0)
        edges += [(round(clock.now_s - start, 3), word == "on") for word in relay.told[before:]]
        n += 1
        clock.now_s = start + n * step_s
    return edges


def brute(pattern, burst, at):
    """The same question, answered by walking millisecond by millisecond through the rules' own words."""
    quiet_left, sound_left, begun = None, burst.max if burst else None, 0
    for ms in range(at + 1):
        if burst and sound_left == 0:
            quiet_left, sound_left = burst.every - burst.sound, None
        if quiet_left == 0:
            quiet_left, sound_left, begun = None, burst.sound, ms
        if ms == at:
            break
        if burst:
            quiet_left = None if quiet_left is None else quiet_left - 1
            sound_left = None if sound_left is None else sound_left - 1
    if not pattern or quiet_left is not None:
        return False
    if len(pattern) == 1:
        return True
    into = (at - begun) % sum(pattern)
    on = True
    for length in pattern:
        if into < length:
            return on
        into -= length
        on = not on
    raise AssertionError


patterns = st.lists(st.integers(1, 40), max_size=4).map(tuple)
bursts = st.none() | st.builds(BurstMs, st.integers(1, 60), st.integers(1, 60), st.integers(1, 90))


@given(patterns, bursts, st.integers(0, 400))
def test_a_level_is_what_walking_through_time_says(pattern, burst, at):
    assume(burst is None or burst.sound < burst.every)  # no pause at all: see below
    assert level_at(pattern, burst, at)[0] == brute(pattern, burst, at)


@given(patterns, bursts, st.integers(0, 400))
def test_a_level_holds_until_the_next_look_and_the_next_look_comes(pattern, burst, at):
    on, change = level_at(pattern, burst, at)
    assert change > at
    for ms in range(at, min(change, 500)):
        assert level_at(pattern, burst, ms)[0] == on


def test_a_burst_without_pause_never_pauses():
    assert {level_at((5,), BurstMs(10, 30, 30), ms)[0] for ms in range(200)} == {True}


def test_a_worse_colour_without_a_pattern_is_not_quieter_than_a_milder_one():
    clock = Clock()
    gapped = Output(id="siren", kind="siren", wire="pins", pin=17, active="high", orange=(1.0,), red=())
    out, relays, _ = box(gapped, clock=clock)
    for colour, on in ((Colour.YELLOW, False), (Colour.ORANGE, True), (Colour.RED, True)):
        out.follow((red(colour=colour),))
        out.step(0)
        assert (out.present()["siren"]["on"], relays["siren"].told[-1]) == (on, "on" if on else "off")


def test_a_burst_shorter_than_a_millisecond_stops_no_output():
    clock = Clock()
    tiny = Output(id="siren", kind="siren", wire="pins", pin=17, active="high",
                  burst=Burst(max_s=1e-4, sound_s=1e-4, every_s=4e-4))
    out, _, _ = box(tiny, clock=clock)
    out.follow((red(),))
    clock.now_s += 10
    out.step(0)
    assert out.faults() == {}


def test_an_empty_pattern_is_off_for_ever():
    assert level_at((), None, 7) == (False, NEVER_MS)


def test_each_colour_plays_its_pattern_to_the_millisecond():
    clock = Clock()
    out, relays, _ = box(STROBE, clock=clock)
    out.follow((red("strobe", colour=Colour.YELLOW),))
    assert play(out, clock, relays["strobe"], 1004.1) == [
        (0.0, True), (0.2, False), (2.0, True), (2.2, False), (4.0, True)]


def test_a_siren_sounds_its_limit_then_a_burst_in_every_period():
    clock = Clock()
    out, relays, _ = box(BURSTING, clock=clock)
    out.follow((red(),))
    assert play(out, clock, relays["siren"], 1014, 0.01) == [
        (0.0, True), (3.0, False), (7.0, True), (8.0, False), (12.0, True), (13.0, False)]


def test_a_strobe_has_no_burst_limit():
    clock = Clock()
    out, relays, _ = box(STROBE, clock=clock)
    out.follow((red("strobe"),))
    clock.now_s += 86400
    out.step(0)
    assert relays["strobe"].told == ["off", "on"]


def test_a_silence_quiets_the_siren_not_the_strobe_and_ends_by_itself():
    clock = Clock()
    out, relays, _ = box(SIREN, STROBE, clock=clock)
    out.follow((red(), red("strobe")))
    out.step(0)
    clock.now_s += 5
    out.follow((red(silenced_until_ms=1_025_000), red("strobe", silenced_until_ms=1_025_000)))
    out.step(0)
    assert (out.present()["siren"]["on"], out.present()["siren"]["silenced"]) == (False, True)
    assert out.present()["strobe"]["on"] is True
    clock.now_s = 1024.999
    out.step(0)
    assert relays["siren"].told == ["off", "on", "off"]
    clock.now_s = 1025.0
    out.step(0)
    assert relays["siren"].told == ["off", "on", "off", "on"]
    assert relays["strobe"].told == ["off", "on"]


def test_the_highest_colour_wins_and_a_silenced_object_does_not_mute_another():
    clock = Clock()
    out, _, _ = box(SIREN, clock=clock)
    orange = red(colour=Colour.ORANGE, alarm="a2")
    out.follow((orange, red()))
    out.step(0)
    assert out.present()["siren"]["colour"] == Colour.RED
    out.follow((orange, red(silenced_until_ms=2_000_000)))
    out.step(0)
    assert (out.present()["siren"]["colour"], out.present()["siren"]["alarm"]) == (Colour.ORANGE, "a2")


def test_unknown_and_none_sound_nothing():
    clock = Clock()
    out, relays, _ = box(SIREN, clock=clock)
    out.follow((red(colour=Colour.UNKNOWN), red(colour=Colour.NONE)))
    out.step(0)
    assert relays["siren"].told == ["off"]


def test_the_same_demand_twice_is_the_same_once():
    clock = Clock()
    out, relays, _ = box(SIREN, clock=clock)
    for _ in range(3):
        out.follow((red(),))
        out.step(0)
    assert relays["siren"].told == ["off", "on"]
    out.follow(())
    out.step(0)
    assert relays["siren"].told == ["off", "on", "off"]


@pytest.mark.parametrize("since_ms", [1_000_000, 1_000_001, 9_000_000])
def test_a_demand_from_the_future_begins_now(since_ms):
    clock = Clock()
    out, relays, _ = box(BURSTING, clock=clock)
    out.follow((red(since_ms=since_ms),))
    assert play(out, clock, relays["siren"], 1004, 0.01) == [(0.0, True), (3.0, False)]


def test_the_fault_lamp_follows_the_fault_and_nothing_else():
    clock = Clock()
    out, relays, _ = box(SIREN, LAMP, clock=clock)
    out.follow((red("lamp"),))
    out.step(0)
    assert relays["lamp"].told == ["off"]
    out.fault(True)
    out.step(0)
    out.fault(False)
    out.step(0)
    assert relays["lamp"].told == ["off", "on", "off"]
    assert relays["siren"].told == ["off"]


def test_a_broken_relay_harms_only_itself_is_said_once_and_comes_back(caplog):
    clock = Clock()
    out, relays, _ = box(SIREN, STROBE, clock=clock)
    relays["siren"].broken = True
    out.follow((red(), red("strobe")))
    for _ in range(5):
        out.step(0)
        clock.now_s += 1
    assert relays["strobe"].told == ["off", "on"]
    assert out.faults() == {"siren": "coil burnt"}
    assert out.failures == 5
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    relays["siren"].broken = False
    out.step(0)
    assert relays["siren"].told == ["off", "on"]
    assert out.faults() == {}
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == ["output works again output=siren"]


def test_a_broken_relay_is_tried_at_once_when_the_demand_changes():
    clock = Clock()
    out, relays, _ = box(SIREN, clock=clock)
    relays["siren"].broken = True
    out.follow((red(),))
    out.step(0)
    relays["siren"].broken = False
    clock.now_s += 0.1
    out.step(0)
    assert relays["siren"].told == ["off"]
    out.follow(())
    out.step(0)
    assert relays["siren"].told == ["off", "off"]


def test_a_missing_relay_is_opened_when_it_can_be_and_catches_up():
    clock = Clock()
    late, asked = FakeRelay(), []

    def reopen(output):
        asked.append(output)
        if len(asked) < 3:
            raise OSError("no /dev/gpiochip0")
        return late

    out, _, _ = box(SIREN, clock=clock, reopen=reopen, without={"siren"})
    out.follow((red(),))
    for _ in range(4):
        out.step(0)
        clock.now_s += 1
    assert asked == ["siren"] * 3
    assert late.told == ["on"]
    assert out.faults() == {}


def test_close_leaves_all_off_with_the_siren_last_and_may_be_called_twice():
    clock = Clock()
    out, relays, log = box(SIREN, LAMP, STROBE, clock=clock)
    out.follow((red(), red("strobe")))
    out.step(0)
    relays["strobe"].broken = True
    log.clear()
    out.close()
    out.close()
    out.follow(())
    out.step(0)
    assert log == [("lamp", "off"), ("lamp", "close"), ("siren", "off"), ("siren", "close")]


@pytest.mark.timing
def test_a_demand_reaches_the_real_pin_within_milliseconds(tmp_path):
    path = tmp_path / "pins.sock"
    with_relay = {"siren": open_relay(f"mock:{path}", 17, "high")}
    out = Outputs([SIREN], with_relay, time.monotonic)
    stop = threading.Event()

    def run():
        while not stop.is_set():
            out.step(1.0)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    thread = threading.Thread(target=run)
    thread.start()
    delays = []
    try:
        with Pins(path) as pins:
            pins.wait_connected(5)
            for i in range(40):
                asked_s = time.monotonic()
                out.follow((red(alarm=f"a{i}", since_ms=int(asked_s * 1000)),))
                delays.append((pins.wait_for(17, 1, 5).at_s - asked_s) * 1000)
                out.follow(())
                pins.wait_for(17, 0, 5)
    finally:
        stop.set()
        out.follow((red(),))
        thread.join(5)
        out.close()
        sys.setswitchinterval(switch)
    assert statistics.median(delays) < 1.0, sorted(delays)


def write_site(tmp_path, **keys):
    path = tmp_path / "site.yaml"
    path.write_text(textwrap.dedent(f"""\
        broken: [of, no, concern]
        wires:
          - {{id: bus, driver: modbus, port: /dev/ttyUSB0}}
          - {{id: pins, driver: gpio, port: "{keys.get('port', f'mock:{tmp_path}/pins.sock')}"}}
        outputs:
          - {{id: siren-1, kind: siren, wire: pins, pin: 17, active: low}}
          - {{id: nonsense, pin: seventeen}}
          - {{id: strobe-1, wire: pins, pin: 27, active: high}}
        """), encoding="utf-8")
    return path


def safe(path, **keys):
    return subprocess.run([sys.executable, "-m", "gateway.safe", str(path)], capture_output=True, text=True, timeout=20,
                          check=False, **keys)


def test_the_safe_helper_reads_what_can_be_read(tmp_path):
    port = f"mock:{tmp_path}/pins.sock"
    assert outputs_of(write_site(tmp_path).read_text()) == [("siren-1", port, 17, "low"),
                                                            ("strobe-1", port, 27, "high")]
    assert outputs_of("wires: 3\noutputs: {a: b}\n") == outputs_of("") == []


def test_after_a_kill_the_safe_helper_leaves_every_output_an_undriven_input(tmp_path):
    path = write_site(tmp_path)
    code = (f"import time; from drivers.pins import open_relay\n"
            f"r = open_relay('mock:{tmp_path}/pins.sock', 17, 'low'); r.on(); time.sleep(60)")
    gateway = subprocess.Popen([sys.executable, "-c", code])
    with Pins(tmp_path / "pins.sock") as pins:
        assert pins.wait_for(17, 0, 20).function == "output"
        gateway.send_signal(signal.SIGKILL)
        gateway.wait(10)
        began = time.monotonic()
        done = safe(path)
        took_s = time.monotonic() - began
        assert (done.returncode, done.stderr) == (0, "")
        assert not Path(tmp_path / "pins.sock").exists()
    print(f"took {took_s:.2f} s")
    assert took_s < 5.0


def test_the_safe_helper_has_nothing_to_do_without_outputs(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("version: 1\n")
    assert safe(path).returncode == 0


def test_the_safe_helper_says_what_it_could_not_make_safe(tmp_path):
    done = safe(write_site(tmp_path, port="lgpio:99"))
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["output siren-1", "output strobe-1"]
    assert "/dev/gpiochip99" in done.stderr


def test_the_safe_helper_leaves_a_living_gateway_alone(tmp_path):
    path = write_site(tmp_path)
    relay = open_relay(f"mock:{tmp_path}/pins.sock", 17, "low")
    try:
        relay.on()
        assert safe(path).returncode == 1
        assert relay.is_on
    finally:
        relay.close()


def test_the_safe_helper_imports_no_gateway_vocabulary():
    heavy = ["numpy", "paho", "pymodbus", "typer", "sqlite_utils", "gateway.model"]
    code = f"import sys, gateway.safe, drivers.pins; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True,
                          env=os.environ | {"PYTHONWARNINGS": "error"})
    assert done.stdout.strip() == "[]"


def test_present_can_be_written_as_json():
    out, _, _ = box(SIREN, STROBE, LAMP, clock=Clock())
    assert set(json.loads(json.dumps(out.present()))) == {"siren", "strobe", "lamp"}
