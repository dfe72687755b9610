"""The whole box, from the wire to the siren and the county: a real process on simulated hardware."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from gateway import client
from hil.diskfault import DiskFault
from hil.rig import Rig
from tests.sites import BUTTON, RED_MM, SIREN, lost_but_for, site


def ask(rig: Rig, **request: Any) -> dict[str, Any]:
    return client.ask(rig.folder / "run/control.sock", request, 10.0)


def sounds(rig: Rig) -> bool:
    edge = rig.pins.now(SIREN)
    return edge is not None and edge.function == "output" and bool(edge.state)


def kinds(rig: Rig) -> list[str]:
    return [event["kind"] for event in rig.county.events()]


def settle(rig: Rig) -> None:
    """Stop in order and let the county take what is in flight."""
    assert rig.stop() == 0
    rig.wait("the county has everything", lambda: not rig.audit().lost, 60)


@pytest.fixture
def rig(tmp_path: Path):
    with Rig(site(tmp_path / "site"), tmp_path / "box", turnaround_s=0.002) as made:
        made.slaves["crack"].set("displacement", 5.0)
        made.start()
        made.wait("a reading at the county", lambda: made.county.counters().readings)
        yield made


def test_a_crossing_sounds_the_siren_and_reaches_the_county_with_its_reason(rig: Rig) -> None:
    rig.slaves["crack"].set("displacement", 61.5)
    rig.pins.wait_for(SIREN, True, 5, function="output")
    rig.wait("red at the county", lambda: rig.county.warns().get("slope", {}).get("colour") == "red")
    warn = rig.county.warns()["slope"]
    assert warn["status"] == "Actual"
    assert warn["why"][0]["value"] == pytest.approx(61.5)
    assert warn["why"][0]["limit"] == RED_MM
    assert warn["valid_until"] > warn["as_of"]
    raised = rig.wait("the event", lambda: [e for e in rig.county.events() if e["kind"] == "alarm.raised"])[0]
    assert raised["colour"] == "red"
    assert "后山滑坡" in raised["text_zh"]
    assert "1号裂缝" in raised["text_zh"]
    rig.wait("some more readings", lambda: len(rig.said) > 10)
    settle(rig)
    audit = rig.audit()
    assert (audit.lost, audit.invented) == ([], [])
    assert audit.matched > 10


def test_the_officers_button_acknowledges_and_silences_but_only_a_person_clears_red(rig: Rig) -> None:
    rig.slaves["crack"].set("displacement", 70)
    rig.pins.wait_for(SIREN, True, 5, function="output")
    rig.pins.drive(BUTTON, "low")
    rig.pins.wait_for(SIREN, False, 5, function="output")
    rig.wait("acknowledged", lambda: rig.county.warns()["slope"].get("acknowledged"))
    rig.pins.drive(BUTTON, "high")
    rig.slaves["crack"].set("displacement", 5)
    rig.wait("colour falls", lambda: ask(rig, do="status")["objects"][0]["colour"] == "none")
    assert ask(rig, do="status")["objects"][0]["alarm_colour"] == "red"
    reply = ask(rig, do="command", kind="clear", object="slope", who="站长")
    assert reply["ok"], reply
    assert ask(rig, do="status")["objects"][0]["alarm"] == ""
    rig.wait("all steps at the county", lambda: {"alarm.raised", "alarm.acknowledged", "alarm.silenced",
                                                 "alarm.cleared"} <= set(kinds(rig)))


def test_chinese_travels_unharmed_from_config_to_county_and_screen(rig: Rig) -> None:
    birth = rig.wait("birth", lambda: rig.county.retained().get("birth"))
    assert birth["name"] == "测试站"
    assert birth["objects"][0]["name"] == "后山滑坡"
    inventory = next(b for t, b in rig.county.retained().items() if t.startswith("inventory/"))
    assert inventory["points"][0]["name"] == "1号裂缝"
    assert inventory["points"][0]["unit"] == "mm"
    assert ask(rig, do="status")["objects"][0]["name"] == "后山滑坡"
    reply = ask(rig, do="command", kind="acknowledge", object="没有", who="测试员")
    assert not reply["ok"]
    assert "没有" in reply["text_zh"]


def test_a_lost_sensor_is_unknown_never_none_and_its_return_is_told(rig: Rig) -> None:
    rig.slaves["crack"].unplug()
    rig.wait("unknown", lambda: rig.county.warns().get("slope", {}).get("colour") == "unknown")
    missing = rig.wait("the missing reading", lambda: [r for r in rig.county.readings() if r[2] is None])
    assert {(r[3], r[4]) for r in missing} == {(9, "no_answer")}
    rig.slaves["crack"].plug()
    rig.wait("none again", lambda: rig.county.warns()["slope"]["colour"] == "none")
    rig.wait("both told", lambda: kinds(rig).count("point.lost") == 1 and kinds(rig).count("point.returned") == 1)


def test_an_adapter_plugged_in_again_is_read_within_ten_seconds(rig: Rig) -> None:
    bus, port = rig.buses["bus-a"], str(rig.folder / "bus-a")
    bus.unplug(port)
    rig.wait("the loss is told", lambda: "wire.down" in kinds(rig))
    time.sleep(12.0)   # by now it is looked for as seldom as ever
    before = len(rig.said)
    plugged_s = time.monotonic()
    bus.plug(port)
    rig.wait("a poll of the wire", lambda: len(rig.said) > before, 10)
    assert rig.said[before].at_s - plugged_s < 10.0
    rig.wait("the return is told", lambda: "wire.up" in kinds(rig))


def test_gas_for_a_test_never_wakes_the_village_and_the_end_of_maintenance_re_arms(rig: Rig) -> None:
    assert ask(rig, do="command", kind="service", object="slope", service="maintenance", for_s=4.0, who="检修员")["ok"]
    until_s = time.monotonic() + 4.0
    rig.slaves["crack"].set("displacement", 80)
    rig.wait("judged and reported as a test", lambda: [
        e for e in rig.county.events() if e["kind"] == "alarm.raised" and e["status"] == "Test"])
    rig.wait("readings carry Test", lambda: [r for r in rig.county.readings() if r[5] == "Test"])
    assert not sounds(rig)
    assert time.monotonic() < until_s, "maintenance ended before the test could look"
    rig.slaves["crack"].set("displacement", 5)
    rig.wait("service is back by itself", lambda: ask(rig, do="status")["objects"][0]["service"] == "in_service", 10)
    assert not [e for e in rig.pins.edges if e.pin == SIREN and e.function == "output" and e.state]
    rig.slaves["crack"].set("displacement", 80)
    rig.pins.wait_for(SIREN, True, 5, function="output")


def test_a_cut_network_costs_nothing_and_the_siren_does_not_notice(rig: Rig) -> None:
    rig.network.cut()
    rig.wait("readings while cut", lambda: ask(rig, do="status")["platforms"][0]["rows"] > 2)
    rig.slaves["crack"].set("displacement", 66)
    rig.pins.wait_for(SIREN, True, 5, function="output")
    rig.network.restore()
    rig.wait("backlog drained", lambda: rig.county.counters().backlog > 0, 30)
    rig.wait("the alarm arrived late and says so", lambda: [
        e for e in rig.county.events() if e["kind"] == "alarm.raised"])
    settle(rig)
    audit = rig.audit()
    assert (audit.lost, audit.invented) == ([], [])
    assert rig.county.counters().gaps == ()


def test_a_stopped_gateway_turns_grey_and_leaves_its_pins_safe(rig: Rig) -> None:
    rig.slaves["crack"].set("displacement", 66)
    rig.pins.wait_for(SIREN, True, 5, function="output")
    assert rig.stop() == 0
    assert not [e for e in [rig.pins.now(SIREN)] if e is not None and e.function == "output" and e.state]
    rig.wait("offline", lambda: next(iter(rig.county.states().values()))["online"] is False)
    colours = rig.county.colours(now_ms=int(time.time() * 1000) + 60_000)
    assert set(colours.values()) <= {"grey", "unknown"}


def test_the_latched_siren_sounds_again_before_the_first_new_reading(rig: Rig) -> None:
    rig.slaves["crack"].set("displacement", 66)
    rig.pins.wait_for(SIREN, True, 5, function="output")
    # the pin moves before the latch is staged; what the box shows is staged
    rig.wait("it is red", lambda: ask(rig, do="status")["objects"][0]["alarm_colour"] == "red")
    rig.kill()
    rig.slaves["crack"].unplug()  # no new reading can be the reason
    before = len(rig.pins.edges)
    rig.start()
    rig.wait("the siren again", lambda: [e for e in rig.pins.edges[before:]
                                         if e.pin == SIREN and e.function == "output" and e.state])
    rig.wait("the door is open", lambda: reachable(rig))
    assert ask(rig, do="status")["objects"][0]["alarm_colour"] == "red"


def test_a_silence_survives_a_killed_process(rig: Rig) -> None:
    rig.slaves["crack"].set("displacement", 66)
    rig.pins.wait_for(SIREN, True, 5, function="output")
    assert ask(rig, do="command", kind="silence", object="slope", who="站长")["ok"]
    rig.pins.wait_for(SIREN, False, 5, function="output")
    rig.kill()
    before = len(rig.pins.edges)
    rig.start()
    rig.wait("it is red again", lambda: reachable(rig)
             and ask(rig, do="status")["objects"][0]["alarm_colour"] == "red")
    answers = len(rig.said)
    rig.wait("new readings were judged", lambda: len(rig.said) > answers + 5)
    assert not [e for e in rig.pins.edges[before:] if e.pin == SIREN and e.function == "output" and e.state]


def reachable(rig: Rig) -> bool:
    try:
        return bool(ask(rig, do="status"))
    except OSError:
        return False


def database(rig: Rig) -> Path:
    return rig.folder / "state/journal.sqlite"


def identities(rig: Rig) -> list[tuple[str, str, int]]:
    return [tuple(row) for row in rig.county.query("SELECT epoch, lane, seq FROM rows")]


def raise_and_clear(rig: Rig) -> None:
    """One whole alarm, seen by the county."""
    before = kinds(rig).count("alarm.raised")
    rig.slaves["crack"].set("displacement", 66)
    rig.wait("raised", lambda: kinds(rig).count("alarm.raised") == before + 1)
    rig.slaves["crack"].set("displacement", 5)
    rig.wait("colour falls", lambda: ask(rig, do="status")["objects"][0]["colour"] == "none")
    assert ask(rig, do="command", kind="clear", object="slope", who="站长")["ok"]


@pytest.mark.parametrize("how", ["deleted", "yesterday"])
def test_a_lost_or_restored_journal_never_makes_a_new_alarm_a_duplicate(rig: Rig, tmp_path: Path, how: str) -> None:
    raise_and_clear(rig)
    settle(rig)
    keep = tmp_path / "yesterday"
    shutil.copytree(rig.folder / "state", keep)
    rig.start()
    raise_and_clear(rig)  # seqs beyond the copy
    settle(rig)
    shutil.rmtree(rig.folder / "state")
    shutil.rmtree(rig.folder / "run/staging")  # another boot: /run is empty
    if how == "yesterday":
        shutil.copytree(keep, rig.folder / "state")
    before = rig.county.counters()
    rig.start()
    rig.wait("readings again", lambda: rig.county.counters().readings > before.readings)
    raise_and_clear(rig)
    settle(rig)
    assert kinds(rig).count("alarm.raised") == 3
    audit = rig.audit()
    assert (audit.lost, audit.invented) == ([], [])
    assert len(identities(rig)) == len(set(identities(rig)))
    assert len({epoch for epoch, _, _ in identities(rig)}) >= 2


@pytest.mark.parametrize("how", ["deleted", "yesterday"])
def test_a_journal_taken_away_while_the_box_runs_loses_nothing(rig: Rig, tmp_path: Path, how: str) -> None:
    rig.network.cut()
    rig.wait("rows wait", lambda: ask(rig, do="status")["platforms"][0]["rows"] > 1)
    keep = tmp_path / "yesterday"
    keep.mkdir()
    with sqlite3.connect(database(rig)) as source, sqlite3.connect(keep / "journal.sqlite") as copy:
        source.backup(copy)
    rig.slaves["crack"].set("displacement", 66)
    rig.pins.wait_for(SIREN, True, 5, function="output")
    for path in (rig.folder / "state").iterdir():
        path.unlink()
    if how == "yesterday":
        shutil.copyfile(keep / "journal.sqlite", database(rig))
    said = len(rig.said)
    rig.wait("the box goes on", lambda: len(rig.said) > said + 15)
    rig.network.restore()
    rig.wait("the alarm is told", lambda: "alarm.raised" in kinds(rig), 30)
    settle(rig)
    audit = rig.audit()
    assert (audit.lost, audit.invented) == ([], [])
    assert kinds(rig).count("alarm.raised") == 1


def test_a_full_disk_during_an_alarm_neither_stops_the_siren_nor_repeats_an_identity(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    (folder / "state").mkdir(parents=True)
    fault = DiskFault(folder / "state", tmp_path)
    with Rig(site(tmp_path / "site"), folder, turnaround_s=0.002, environment=fault.environment()) as rig:
        rig.slaves["crack"].set("displacement", 5.0)
        rig.start()
        rig.wait("a reading at the county", lambda: rig.county.counters().readings)
        fault.full()
        rig.wait("the fault is known", lambda: ask(rig, do="status")["journal"]["fault"])
        rig.slaves["crack"].set("displacement", 66)
        rig.pins.wait_for(SIREN, True, 5, function="output")
        killed_s = time.monotonic()
        rig.kill()  # the worst moment
        before = len(rig.pins.edges)
        rig.start()
        rig.wait("the siren again", lambda: [e for e in rig.pins.edges[before:]
                                             if e.pin == SIREN and e.function == "output" and e.state])
        said = len(rig.said)
        rig.wait("readings go on", lambda: len(rig.said) > said + 10)
        fault.ok()
        rig.wait("the alarm is told", lambda: "alarm.raised" in kinds(rig), 30)
        assert rig.stop() == 0
        # What was on the wire in the very moment of the kill was not yet handed over.
        rig.wait("the county has everything", lambda: not lost_but_for(rig, [killed_s]), 60)
        assert rig.audit().invented == []
        assert kinds(rig).count("alarm.raised") == 1
        assert rig.county.counters().gaps == ()


def test_the_service_loads_only_what_it_runs(rig: Rig) -> None:
    maps = Path(f"/proc/{rig.gateway.pid}/maps").read_text()
    opened = rig.said_so_far()
    assert "imported after READY" not in opened
    for stranger in ("typer", "rich", "sqlite_utils", "pydantic", "prometheus_client"):
        assert f"/{stranger}/" not in maps
    rig.gateway.send_signal(signal.SIGHUP)
    rig.wait("SIGHUP is answered in the log", lambda: "SIGHUP ignored" in rig.said_so_far())
    json.dumps(ask(rig, do="status"))
