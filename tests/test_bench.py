"""`make bench` at sizes that mean nothing: the file's shape, and that what is lost is seen."""

import json
from pathlib import Path

import pytest
from msgspec import structs

from drivers import template
from hil.bench import __main__ as bench
from hil.bench import figure
from hil.bench.runs import Ran, bare, gateway, highest
from hil.bench.site import MODEL, WATCHED, Load, load_site, wires, write

SMALL = Load(hosts=2, units=2, registers=10, period_s=0.1)


def ran(answered: int = 100, delivered: int = 100, numbers: int = 10, on_time: float = 1.0) -> Ran:
    return Ran(readings=100, seconds=1.0, cpu_s=0.002, peak_mib=1.0, answered=answered, delivered=delivered,
               numbers=numbers, on_time=on_time, behind_s=0.0, backlog=0)


def test_the_file_is_a_list_of_figures(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert bench.main(["--quick", "--out", str(out), "siren"]) == 0
    rows = json.loads(out.read_text())
    assert [row["name"] for row in rows] == ["siren.delay_ms"]
    assert [list(row) for row in rows] == [["name", "value", "unit", "reference", "ratio", "goal"]]
    row = rows[0]
    assert 0 < row["value"] < 1000
    assert row["ratio"] == pytest.approx(row["value"] / row["reference"], rel=1e-3)
    assert "siren.delay_ms" in capsys.readouterr().out


def test_the_bus_family_measures_every_client_on_the_same_line(tmp_path):
    out = tmp_path / "bench.json"
    assert bench.main(["--quick", "--out", str(out), "bus"]) == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())}
    assert set(rows) == {"bus.bare_115200", "bus.efficiency_115200", "bus.peer_pymodbus_sync_115200",
                         "bus.peer_pymodbus_async_115200", "bus.peer_minimalmodbus_115200", "bus.in_box_115200",
                         "bus.early_requests", "bus.healthy_beside_bad", "bus.plan_over_optimum"}
    assert rows["bus.early_requests"]["value"] == 0
    # A client that keeps the silence cannot beat the limit; one that does not, can.
    assert all(10 < rows[f"bus.{name}_115200"]["value"] <= 100 for name in ("bare", "efficiency", "in_box"))


def test_the_journal_family_has_a_reference_for_every_figure(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert bench.main(["--quick", "--out", str(out), "journal"]) == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())}
    assert set(rows) == {f"journal.{name}" for name in (
        "put_vs_log", "written_per_reading", "quiet_box_bytes_per_day", "history_readings_per_s", "hold_trim_ms",
        "hold_replay_ms")}
    assert all(row["value"] > 0 and row["reference"] > 0 for row in rows.values())
    # Nobody beats the limit in bytes: the rows themselves, whole pages of them.
    assert all(rows[f"journal.{name}"]["ratio"] > 1 for name in ("written_per_reading", "quiet_box_bytes_per_day"))
    assert "fdatasync max" in capsys.readouterr().out


def test_an_unknown_family_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        bench.main(["sirens"])
    assert "sirens" in capsys.readouterr().err


def test_the_gateway_delivers_every_answer_of_the_load_devices():
    found = gateway(SMALL, warm_up_s=0.1, seconds=0.6, commit_s=0.2)
    assert (found.lost, found.whole(SMALL.registers)) == (0, True)
    assert found.answered > SMALL.devices * SMALL.registers
    assert found.cpu_s > 0
    assert found.peak_mib > 10


def test_the_bare_script_delivers_every_answer_of_the_load_devices():
    found = bare(SMALL, warm_up_s=0.1, seconds=0.6)
    assert (found.lost, found.whole(SMALL.registers)) == (0, True)
    assert found.answered > SMALL.devices * SMALL.registers


def test_a_lost_or_doubled_answer_is_not_whole():
    assert ran().whole(10)
    assert not ran(delivered=90).whole(10)
    assert not ran(delivered=110).whole(10)
    assert not ran(numbers=9).whole(10)   # one lost and another twice: the sum alone looks right


@pytest.mark.parametrize(("limit", "start", "expected", "tries"), [
    (100.0, 10.0, 40.0, 3),      # never met a bad one: a lower bound
    (100.0, 60.0, 84.85, 3),     # 60 good, 120 bad, half-way good
    (100.0, 320.0, 80.0, 3),     # 320 bad, 80 good, half-way bad
    (1.0, 300.0, 0.0, 5)])
def test_the_search_ends_at_the_highest_good_rate(limit, start, expected, tries):
    best, tried = highest(lambda rate: ran(on_time=1.0 if rate <= limit else 0.5), lambda r: r.on_time == 1.0, start,
                          step=2.0)
    assert best == pytest.approx(expected, abs=0.01)
    assert len(tried) == tries


def test_a_figure_without_a_value_has_no_ratio():
    assert figure("a.b", None, "s", 2.0, "x").ratio is None
    assert figure("a.b", 3.00049, "s", 2.0, "x").ratio == 1.5


def test_the_load_site_is_a_configuration_that_runs(tmp_path):
    from gateway.site import load

    site = load_site(SMALL, [1001, 1002], 1003, tmp_path, tmp_path / "staging", commit_s=1.0, detector=False)
    loaded = load(write(tmp_path, site, SMALL.registers))
    points = [p for o in loaded.objects for p in o.points]
    assert len(points) == SMALL.devices * SMALL.registers
    assert sum(len(o.rules) for o in loaded.objects) == len(points) / WATCHED
    assert template.find(MODEL, (Path(tmp_path) / "sensors",)).examples


def test_the_hosts_of_a_load_share_one_wire_or_have_one_each():
    load = Load(hosts=3, units=2, registers=10)
    apart = wires(load, [10001, 10002, 10003])
    assert [wire["port"] for wire in apart] == [f"tcp://127.0.0.1:{10000 + n}" for n in (1, 2, 3)]
    together, = wires(structs.replace(load, grouped=True), [10001, 10002, 10003])
    assert "port" not in together
    assert [(d["id"], d["address"], d["port"][-1]) for d in together["devices"]] == [
        (d["id"], d["address"], wire["port"][-1]) for wire in apart for d in wire["devices"]]


def test_a_load_keeps_its_shape_at_another_rate():
    load = Load(hosts=3, units=2, registers=10, grouped=True).at(600)
    assert (load.period_s, load.rate, load.grouped, load.hosts) == (0.1, 600, True, 3)
