"""`history`: readings of some points between two times, against what went into the journal, value by value."""

import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from msgspec import structs

from gateway.journal.archive import Archive, Unusable
from gateway.journal.between import between
from gateway.journal.history import Asked, history
from gateway.journal.journal import Journal
from gateway.journal.lessened import BLOCK, merged, thinned
from gateway.journal.readings import Wanted, Words
from gateway.journal.records import COLUMNS, INSERT, record_of, row_of
from gateway.journal.state import extent_key, pack
from gateway.journal.transaction import PUT
from gateway.model import REASONS, SAMPLE, Door, Event, Flag, Inventory, InventoryPoint, Reason

T0 = 1_790_000_000_000
LEVEL, RAIN = (InventoryPoint(point=point, name=name, object="dam", unit=unit, resolution=0.01, poll_s=10,
                              report_every_s=10)
               for point, name, unit in (("dam.level", "库水位", "m"), ("dam.rain", "雨量", "mm")))


class Life:
    """A journal of one boot after another, written at a time of its own."""

    def __init__(self, folder):
        self.folder, self.clock, self.boots = folder, 100.0, 0

    def boot(self, points=(LEVEL, RAIN), trust="synced", offset_ms=T0):
        self.boots, self.clock = self.boots + 1, 100.0
        boot = f"boot-{self.boots}"
        self.journal = Journal(self.folder, self.folder / f"run{self.boots}", "gw-1", boot=boot,
                               now=lambda: self.clock, new_epoch=lambda: f"e{self.boots}", commit_s=10.0)
        self.journal.open()
        self.door = Door(boot, offset_ms, trust)
        return self.knows(points)

    def knows(self, points):
        self.number = self.journal.adopt(Inventory(0, points))
        return self

    def read(self, *values, flag=Flag.GOOD, reason=Reason.NONE, status=0, after_s=10.0):
        """One value a point, in the order of the inventory; None is missing."""
        samples = np.zeros(len(values), SAMPLE)
        samples["t_ms"], samples["point"], samples["status"] = round(self.clock * 1000), range(len(values)), status
        for sample, value in zip(samples, values, strict=True):
            sample["value"] = np.nan if value is None else value
            sample["flag"] = Flag.MISSING if value is None else flag
            sample["reason"] = REASONS.index(Reason.NO_ANSWER if value is None else reason)
        self.journal.record(self.door, self.number, samples)
        self.clock += after_s
        self.journal.write(0.0)
        return self

    def dated(self, offset_ms):
        self.journal.record(self.door, self.number, None, [Event(
            id=f"{self.door.boot}-dated", kind="clock.offset", t_ms=round(self.clock * 1000),
            why={"boot": self.door.boot, "offset_ms": offset_ms, "error_ms": 5.0, "trust": "synced"})])
        return self

    def end(self):
        assert self.journal.flush(5.0)
        self.journal.close()
        return self

    def ask(self, since_ms, until_ms, *points, most=1000):
        with Archive(self.folder) as archive:
            return history(archive, Asked(points=points, since_ms=since_ms, until_ms=until_ms, most=most))


@pytest.fixture
def life(tmp_path):
    return Life(tmp_path / "box")


def values(series):
    return list(zip(series.t_ms, series.mean, strict=True))


def mingluo(*arguments):
    return subprocess.run([sys.executable, "-m", "gateway", "history", *map(str, arguments)], capture_output=True,
                          text=True, check=False, timeout=60, env=os.environ | {"TZ": "Asia/Shanghai"})


# --- times


def test_each_reading_stands_at_its_time_with_its_value(life):
    life.boot().read(1.0, 5.0).read(2.5, 6.0).read(3.0, None).end()
    found = life.ask(T0, T0 + 200_000)
    level, rain = found.series
    assert (level.point, level.name, level.object, level.unit, level.status) == (
        "dam.level", "库水位", "dam", "m", "Actual")
    assert values(level) == [(T0 + 100_000, 1.0), (T0 + 110_000, 2.5), (T0 + 120_000, 3.0)]
    assert values(rain) == [(T0 + 100_000, 5.0), (T0 + 110_000, 6.0), (T0 + 120_000, None)]
    assert (level.min, level.max, level.n, level.since_ms) == (level.mean, level.mean, [1, 1, 1], level.t_ms)
    assert (rain.readings, rain.bad, rain.unusable, rain.quality, rain.reason) == (
        3, 1, [0, 0, 1], ["good", "good", "missing"], ["", "", "no_answer"])
    assert (found.as_of_ms, found.undated, found.unreadable) == (T0 + 120_000, 0, 0)
    assert (level.bucket_ms, level.gaps) == (None, [(T0, T0 + 100_000)])


def test_both_ends_are_of_the_range(life):
    life.boot().read(1.0).read(2.0).read(3.0).read(4.0).end()
    assert values(life.ask(T0 + 110_000, T0 + 120_000, "dam.level").series[0]) == [
        (T0 + 110_000, 2.0), (T0 + 120_000, 3.0)]
    assert values(life.ask(T0 + 110_001, T0 + 129_999, "dam.level").series[0]) == [(T0 + 120_000, 3.0)]


def test_a_boot_whose_clock_was_unset_is_dated_by_what_was_learnt_later(life):
    life.boot().read(1.0).end()
    life.boot(trust="unset", offset_ms=7).read(2.0).read(3.0).dated(T0 + 1_000_000).end()
    found = life.ask(T0, T0 + 2_000_000, "dam.level")
    assert values(found.series[0]) == [(T0 + 100_000, 1.0), (T0 + 1_100_000, 2.0), (T0 + 1_110_000, 3.0)]
    assert (found.undated, found.series[0].gaps[1:]) == (0, [(T0 + 100_000, T0 + 1_100_000)])
    assert life.ask(0, 1_000_000, "dam.level").series[0].t_ms == []


def test_a_time_that_nobody_ever_learnt_is_called_a_guess(life):
    life.boot(trust="unset", offset_ms=T0).read(1.0, 2.0).read(3.0, None).end()
    assert life.ask(T0, T0 + 200_000).undated == 4
    assert life.ask(T0, T0 + 105_000, "dam.level").undated == 1


# --- gaps


def test_a_stretch_without_readings_is_a_gap_and_a_missing_one_is_not(life):
    life.boot().read(1.0).read(None).read(2.0, after_s=25.0).read(3.0, after_s=26.0).read(4.0).end()
    one = life.ask(T0 + 100_000, T0 + 171_000, "dam.level").series[0]
    assert [v for _, v in values(one)] == [1.0, None, 2.0, 3.0, 4.0]
    assert one.gaps == [(T0 + 145_000, T0 + 171_000)]   # 26 s; 25 s is two and a half intervals


def test_a_point_that_fell_silent_has_a_gap_as_far_as_the_others_go(life):
    life.boot().read(1.0, 1.0)
    for _ in range(5):
        life.knows((RAIN,)).read(2.0)
    life.end()
    level, rain = life.ask(T0 + 90_000, T0 + 10_000_000, "dam.level", "dam.rain").series
    assert (level.gaps, rain.gaps) == ([(T0 + 100_000, T0 + 150_000)], [])


def test_an_empty_range_is_one_gap_and_the_future_none(life):
    life.boot().read(1.0).read(2.0).end()
    before, = life.ask(T0, T0 + 50_000, "dam.level").series
    assert (before.t_ms, before.readings, before.gaps) == ([], 0, [(T0, T0 + 50_000)])
    after, = life.ask(T0 + 200_000, T0 + 300_000, "dam.level").series
    assert (after.t_ms, after.gaps, after.unit, after.status) == ([], [], "m", "Actual")


def test_a_journal_without_readings_answers_too(life):
    life.boot().dated(T0).end()
    found = life.ask(T0, T0 + 1000, "dam.rain")
    assert (found.as_of_ms, [(s.point, s.t_ms, s.gaps) for s in found.series]) == (None, [("dam.rain", [], [])])


# --- what is one series


def test_an_inventory_that_changes_in_the_middle_moves_no_value_to_another_point(life):
    life.boot((LEVEL, RAIN)).read(1.0, 10.0)
    life.knows((RAIN, LEVEL)).read(20.0, 2.0)
    life.knows((RAIN, structs.replace(LEVEL, unit="cm"))).read(30.0, 300.0).end()
    found = life.ask(T0 + 100_000, T0 + 120_000)
    assert {(s.point, s.unit): [v for _, v in values(s)] for s in found.series} == {
        ("dam.level", "m"): [1.0, 2.0], ("dam.level", "cm"): [300.0], ("dam.rain", "mm"): [10.0, 20.0, 30.0]}


def test_a_drill_is_a_line_of_its_own(life):
    life.boot().read(1.0).read(99.0, status=1).read(2.0).read(3.0, status=2).end()
    found = life.ask(T0 + 100_000, T0 + 130_000, "dam.level")
    assert {s.status: [v for _, v in values(s)] for s in found.series} == {
        "Actual": [1.0, 2.0], "Exercise": [99.0], "Test": [3.0]}


def test_series_come_in_the_order_asked_for(life):
    life.boot().read(1.0, 2.0).end()
    assert [s.point for s in life.ask(T0, T0 + 200_000, "dam.rain", "dam.level").series] == ["dam.rain", "dam.level"]


# --- more than fit


def test_buckets_have_exact_extremes_and_means(life):
    life.boot()
    for value in (4.0, 2.0, 3.0, 8.0, None, 6.0):
        life.read(value)
    life.read(1000.0, flag=Flag.FAIL, reason=Reason.OUT_OF_RANGE).read(7.0, flag=Flag.SUSPECT).end()
    one, = life.ask(T0 + 100_000, T0 + 179_999, "dam.level", most=4).series
    assert (one.bucket_ms, one.readings, one.bad) == (20_000, 8, 2)
    assert (one.since_ms, one.t_ms) == ([T0 + t for t in (100_000, 120_000, 140_000, 160_000)],
                                        [T0 + t for t in (110_000, 130_000, 150_000, 170_000)])
    assert (one.min, one.max, one.mean) == ([2.0, 3.0, 6.0, 7.0], [4.0, 8.0, 6.0, 7.0], [3.0, 5.5, 6.0, 7.0])
    assert (one.n, one.unusable) == ([2, 2, 1, 1], [0, 0, 1, 1])
    assert (one.quality, one.reason) == (["good", "good", "missing", "fail"], ["", "", "no_answer", "out_of_range"])
    assert one.gaps == []


def test_a_bucket_without_a_usable_reading_has_no_value(life):
    life.boot().read(1.0).read(2.0).read(None).read(None).read(5.0).end()
    one, = life.ask(T0 + 100_000, T0 + 159_999, "dam.level", most=3).series
    assert (one.mean, one.min, one.n, one.unusable) == ([1.5, None, 5.0], [1.0, None, 5.0], [2, 0, 1], [0, 2, 0])


def lessen(folder, step):
    """Do to every data row what the journal does when its room is used up."""
    with closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        with Archive(folder) as archive:
            inventories, extent = archive.kept.inventories, archive.kept.streams["e1", "data"]
        rows = [row_of(r) for r in connection.execute(f"SELECT {COLUMNS} FROM rows ORDER BY id").fetchall()]
        found = [stored for stored in rows if stored.row.lane == "data"]
        changes = thinned(found, inventories) if step == "thin" else merged([(stored, ()) for stored in found])
        assert changes
        for _, new in changes:
            key, *record = record_of(new, 1)
            connection.execute("DELETE FROM rows WHERE id = ?", (key,))
            connection.execute(INSERT, (key, *record))
        key, done = extent_key(("e1", "data")), structs.replace(extent, thinned=extent.next - 1)
        connection.execute(PUT, (key, pack(key, done)))


def test_what_was_thinned_and_aggregated_counts_with_all_it_stands_for(life):
    life.boot()
    for n in range(900):
        life.read(float(n % 97), None if n % 100 == 50 else 0.5, after_s=1.0)
    life.end()
    lessen(life.folder, "aggregate")
    level, rain = life.ask(T0, T0 + 10_000_000).series
    kept = [float(n % 97) for n in range(900)]
    assert len(level.t_ms) < 100
    assert (sum(level.n), level.readings, min(level.min), max(level.max)) == (900, 900, 0.0, 96.0)
    assert sum(n * m for n, m in zip(level.n, level.mean, strict=True)) == pytest.approx(sum(kept), rel=1e-12)
    assert (level.since_ms[0], level.t_ms[-1]) == (T0 + 100_000, T0 + 999_000)
    assert level.gaps == [(T0, T0 + 100_000)]
    assert (sum(rain.n), rain.bad, rain.mean.count(None)) == (891, 9, 9)
    one, = life.ask(T0, T0 + 10_000_000, "dam.level", most=1).series
    assert (one.n, one.min, one.max, one.mean) == ([900], [0.0], [96.0], [pytest.approx(sum(kept) / 900, rel=1e-12)])


def test_part_of_an_aggregate_brings_all_of_it(life):
    life.boot()
    for n in range(300):
        life.read(float(n), after_s=1.0)
    life.end()
    lessen(life.folder, "aggregate")
    whole, = life.ask(T0, T0 + 10_000_000, "dam.level").series
    middle = (whole.since_ms[0] + whole.t_ms[0]) // 2
    part, = life.ask(middle, middle, "dam.level").series
    assert (part.since_ms, part.t_ms, part.n, part.mean) == (
        whole.since_ms[:1], whole.t_ms[:1], whole.n[:1], whole.mean[:1])


def test_a_thinned_stretch_is_no_gap(life):
    life.boot()
    for n in range(600):
        life.read(float(n), after_s=10.0)
    life.end()
    lessen(life.folder, "thin")
    one, = life.ask(T0 + 100_000, T0 + 10_000_000, "dam.level").series
    assert (len(one.t_ms), one.gaps) == (60, [])
    assert values(one)[1] == (values(one)[0][0] + 100_000, values(one)[0][1] + 10)


# --- against all that is exported


def test_any_range_gives_what_an_export_of_it_gives(life, monkeypatch):
    """Boots, clocks that are set, silences and ranges at random; few rows a page and few readings a pool."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr("gateway.journal.series._POOL", 100)
    monkeypatch.setattr("gateway.journal.between._LEAF", 2 * BLOCK)
    offset = T0
    for _ in range(3):
        life.boot(points=rng.sample((LEVEL, RAIN), 2), trust=rng.choice(("synced", "unset")), offset_ms=offset)
        for _ in range(rng.randrange(100, 200)):
            life.read(*(rng.choice((None, float(rng.randrange(100)))) for _ in range(2)),
                      after_s=rng.choice((5.0, 10.0, 10.0, 90.0)))
            if rng.random() < 0.02 and life.door.trust == "synced":   # the clock is set forward
                life.door = structs.replace(life.door, offset_ms=life.door.offset_ms + rng.randrange(500_000))
        if life.door.trust == "unset" and rng.random() < 0.7:
            life.dated(offset + rng.randrange(5000))
        offset += round(life.clock * 1000) + rng.randrange(1_000_000)
        life.end()
    for _ in range(12):
        since = T0 + rng.randrange(-10_000, offset - T0)
        until = since + rng.choice((0, 30_000, 300_000, 10_000_000))
        with Archive(life.folder) as archive:
            lines = list(Words(archive, Wanted(lanes=("data",), since_ms=since, until_ms=until)).readings())
        most = rng.choice((3, 1000))
        found = life.ask(since, until, most=most)
        for series in found.series:
            mine = sorted((line["t_ms"], line["value"]) for line in lines if line["point"] == series.point)
            good = [v for _, v in mine if v is not None]
            assert (series.readings, series.readings - series.bad, sum(series.n)) == (len(mine), len(good), len(good))
            assert len(series.t_ms) <= most
            if most == 1000:
                assert values(series) == mine
            elif good:
                assert min(v for v in series.min if v is not None) == min(good)
                assert max(v for v in series.max if v is not None) == max(good)
                assert sum(n * (m or 0) for n, m in zip(series.n, series.mean, strict=True)) == pytest.approx(sum(good))
        assert found.undated == sum(line["trust"] == "unset" for line in lines)


def test_few_rows_are_looked_at_for_a_narrow_range(life):
    life.boot()
    for n in range(3000):
        life.read(float(n), 0.0, after_s=10.0)
        life.journal.flush(1.0)   # a row each
    life.end()
    with Archive(life.folder) as archive:
        total, = archive.connection.execute("SELECT count(*) FROM rows").fetchone()
        asked: list[str] = []
        archive.connection.set_trace_callback(asked.append)
        spans = between(archive, T0 + 15_000_000, T0 + 15_100_000)
        found = history(archive, Asked(points=("dam.level",), since_ms=T0 + 15_000_000, until_ms=T0 + 15_100_000))
    assert total == 3000
    assert sum(b - a + 1 for a, b in spans) <= 256
    assert len(asked) < 60
    assert [v for _, v in values(found.series[0])] == [float(n) for n in range(1490, 1501)]


# --- the command


def test_the_command_gives_the_same_while_the_box_writes_and_when_it_is_stopped(life):
    life.boot().read(1.25, 5.0).read(2.5, None).read(3.0, 7.0)
    assert life.journal.flush(5.0)
    arguments = ("--folder", life.folder, "--since", "2026-09-21T14:13:20Z", "--until", "2026-09-21T14:17Z", "--json")
    running = mingluo("dam.level", *arguments)
    life.end()
    stopped = mingluo("dam.level", *arguments)
    assert (running.returncode, running.stderr, stopped.returncode) == (0, "", 0)
    assert json.loads(running.stdout) == json.loads(stopped.stdout)
    said = json.loads(stopped.stdout)
    assert (said["since_ms"], said["until_ms"]) == (T0, T0 + 220_000)
    assert said["series"][0]["mean"] == [1.25, 2.5, 3.0]
    assert not list(life.folder.glob("*-shm"))


def test_the_table_shows_values_and_gaps_in_order(life):
    life.boot().read(1.25, 5.0).read(2.5, None, after_s=600.0).read(3.0, 7.0).end()
    asked = ("--folder", life.folder, "--since", "2026-09-21T14:15:00Z", "--until", "2026-09-21T15:00Z")
    assert mingluo(*asked, "--lang", "en").stdout == """\
dam.level 库水位 [m] · 3 readings
  time                 value  least  most  of  bad  quality
  2026-09-21 22:15:00   1.25
  2026-09-21 22:15:10    2.5
  gap 2026-09-21 22:15:10 – 2026-09-21 22:25:10 (0:10:00)
  2026-09-21 22:25:10      3
dam.rain 雨量 [mm] · 3 readings (1 not usable)
  time                 value  least  most  of  bad  quality
  2026-09-21 22:15:00      5
  2026-09-21 22:15:10      –                        missing no_answer
  gap 2026-09-21 22:15:10 – 2026-09-21 22:25:10 (0:10:00)
  2026-09-21 22:25:10      7
committed up to 2026-09-21 22:25:10
"""
    assert mingluo("dam.rain", *asked, "--max", 1).stdout == """\
dam.rain 雨量 [mm] · 3 个读数（1 个不可用） · 每段 2700 s
  时间                 数值  最小  最大  读数  不可用  质量
  2026-09-21 22:25:10     6     5     7     2       1  缺失 无应答
  缺口 2026-09-21 22:15:10 – 2026-09-21 22:25:10 (0:10:00)
已提交至 2026-09-21 22:25:10
"""


def test_an_unknown_point_is_refused_with_those_that_are_near(life):
    life.boot().read(1.0, 2.0).end()
    with pytest.raises(Unusable, match=r"no point dam\.levle; did you mean dam\.level"):
        life.ask(T0, T0 + 1, "dam.levle")
    done = mingluo("dam.rian", "--folder", life.folder)
    assert (done.returncode, done.stdout) == (1, "")
    zh, en = done.stderr.splitlines()
    assert zh.endswith("没有测点 dam.rian；相近的有：dam.rain")
    assert en.endswith("no point dam.rian; did you mean dam.rain")
    assert "there are dam.level, dam.rain" in mingluo("xyz", "--folder", life.folder).stderr


def test_a_range_that_ends_before_it_begins_is_refused(life):
    life.boot().read(1.0).end()
    done = mingluo("--folder", life.folder, "--since", "1h", "--until", "2h")
    assert done.returncode == 1
    assert "结束早于开始" in done.stderr
    assert "the end lies before the beginning" in done.stderr


def test_a_row_that_is_not_what_was_written_is_counted(life):
    life.boot()
    for n in range(5):
        life.read(float(n))
        life.journal.flush(1.0)
    life.end()
    with closing(sqlite3.connect(life.folder / "journal.sqlite")) as connection, connection:
        keys = [key for key, in connection.execute("SELECT id FROM rows ORDER BY id")]
        connection.execute("UPDATE rows SET crc = crc + 1 WHERE id = ?", (keys[2],))
    found = life.ask(T0 + 100_000, T0 + 140_000, "dam.level")
    assert ([v for _, v in values(found.series[0])], found.unreadable) == ([0.0, 1.0, 3.0, 4.0], 1)
    assert "1 rows are damaged" in mingluo("--folder", life.folder, "--since", "2026-09-21", "--until", "2026-09-22",
                                           "--lang", "en").stdout
