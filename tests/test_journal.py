"""The journal's door: what is recorded comes out, whatever happens to the disk."""

import os
import random
import secrets
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gateway.journal.archive import Archive
from gateway.journal.gaps import Gap
from gateway.journal.journal import Journal
from gateway.journal.rows import decode, decode_events
from gateway.model import SAMPLE, Door, Event, Inventory, InventoryPoint
from hil.diskfault import DiskFault

DOOR = Door("boot", 1000, "synced")
POINTS = Inventory(0, (InventoryPoint(point="crack-1", name="1号裂缝", object="slope", unit="mm", resolution=0.1,
                                      poll_s=1, report_every_s=0),))


def samples(*values):
    out = np.zeros(len(values), SAMPLE)
    out["t_ms"] = out["value"] = values
    out["flag"] = 1
    return out


class Box:
    """A journal with a clock of its own and what a process would do with it."""

    def __init__(self, folder: Path, **options):
        self.folder = folder
        self.clock = 1000.0
        self.gateway = "gw"
        self.options = {"commit_s": 10.0, "platforms": ("county",), **options}
        self.start()

    def start(self, boot="boot"):
        self.journal = Journal(self.folder / "state", self.folder / "run", self.gateway, boot=boot,
                               now=lambda: self.clock, new_epoch=lambda: secrets.token_hex(4), **self.options)
        self.found = self.journal.open()
        self.n = self.journal.adopt(POINTS)
        self.reader = self.journal.reader("county")

    def die(self):
        """What SIGKILL leaves: files closed, nothing written."""
        self.journal._staging.close()
        if self.journal._disk.store is not None:
            self.journal._disk.store.connection.close()
        os.close(self.journal._disk._folder_fd)
        self.reader.close()

    def restart(self, boot="boot"):
        self.die()
        self.start(boot)

    def record(self, *values, **more):
        self.journal.record(DOOR, self.n, samples(*values) if values else None, **more)

    def pass_time(self, seconds):
        self.clock += seconds
        return self.journal.write(0)

    def flush(self):
        assert self.journal.flush(5)

    def search(self):
        """Let the writer carry over what it can of a damaged journal."""
        while self.journal.searching:
            self.pass_time(0.1)

    def events(self, kind):
        rows = self.reader.pending(("alarm", "event"), limit=1000)
        return [e for row in rows for e in decode_events(row.body) if e.kind == kind]

    def values(self):
        return [v for row in self.rows() for v in decode(row.body)["value"].tolist()]

    def rows(self):
        return self.reader.pending(("data",), limit=10_000, max_bytes=1 << 30)

    def close(self):
        self.reader.close()
        self.journal.close()


@pytest.fixture
def box(tmp_path):
    box = Box(tmp_path)
    yield box
    box.close()


def alarm(name="a1"):
    return Event(id=name, kind="alarm.raised", t_ms=1, text_zh="红色")


def test_the_first_reading_is_committed_within_a_third_of_a_second_and_later_ones_at_the_interval(box):
    box.record(1)
    assert not box.pass_time(0.1)
    assert box.pass_time(0.15)
    assert box.values() == [1]
    box.record(2)
    assert not box.pass_time(9.9)
    assert box.pass_time(0.2)
    assert box.values() == [1, 2]
    box.journal.urgent(True)
    box.record(3)
    assert box.pass_time(1.01)


def test_alarms_events_and_latch_are_committed_at_once(box):
    box.record(1, events=[alarm(), Event(id="e", kind="sensor.lost", t_ms=2)])
    assert box.pass_time(0)
    assert [(r.lane, r.seq, r.count) for r in box.reader.pending()] == [("alarm", 1, 1), ("event", 1, 1)]
    box.record(latch=b"red")
    assert box.pass_time(0)
    box.record(latch=b"red")
    assert not box.pass_time(0)


def test_a_row_never_mixes_headers_and_stays_small(box):
    for door in (DOOR, Door("boot", 1900, "synced"), Door("boot", 2901, "synced"), Door("boot", 2901, "holdover")):
        box.journal.record(door, box.n, samples(1))
    box.journal.record(Door("boot", 2901, "holdover"), box.n + 1, samples(1))
    box.flush()
    assert [(r.door.offset_ms, r.door.trust, r.count) for r in box.rows()] == [
        (1000, "synced", 2), (2901, "synced", 1), (2901, "holdover", 1), (2901, "holdover", 1)]
    rng = np.random.default_rng(1)
    for _ in range(40):
        box.record(*rng.normal(0, 1e9, 250).astype("i8"))
        box.pass_time(11)
    assert max(len(r.body) for r in box.rows()) <= 4096


def test_wrong_samples_are_refused_before_anything_is_numbered(box):
    with pytest.raises(TypeError, match="expected an array"):
        box.journal.record(DOOR, box.n, np.zeros(3))
    box.flush()
    assert box.rows() == []


def test_an_inventory_has_one_number_for_one_content_on_any_card(box, tmp_path):
    other = Box(tmp_path / "other")
    assert other.n == box.n == box.journal.adopt(Inventory(77, POINTS.points))
    assert box.journal.adopt(Inventory(0, ())) != box.n
    box.record(1)
    box.flush()
    box.restart()
    assert box.reader.inventory(box.rows()[0].inventory) == Inventory(box.n, POINTS.points)
    other.close()


def test_a_dead_process_goes_on_where_it_was_with_everything_it_had_recorded(box):
    box.record(1, 2)
    box.pass_time(1)
    box.record(3, events=[alarm()], latch=b"red")
    box.record(4)
    epoch = box.found.epoch
    box.clock += 5
    box.restart()
    found = box.found
    assert (found.epoch, found.reason, found.replayed, found.events) == (epoch, "", 2, ())
    assert (found.latch, found.latch_same_boot, found.latch_age_s, found.silent_s) == (b"red", True, 5.0, 5.0)
    box.record(5)
    box.flush()
    assert [(r.epoch, r.seq) for r in box.rows()] == [(epoch, 1), (epoch, 2), (epoch, 3)]
    assert box.values() == [1, 2, 3, 4, 5]
    assert [e.id for e in box.events("alarm.raised")] == ["a1"]


@pytest.mark.parametrize("before", [None, b"orange"])
def test_a_latch_that_only_the_disk_could_take_is_the_one_that_comes_back(box, monkeypatch, before):
    """Staging full or failing, the disk well: the newest latch is then in the journal alone."""
    if before:
        box.record(1.0, latch=before)
        box.flush()
        box.clock += 1

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.journal.staging.Staging.append", full)
    monkeypatch.setattr("gateway.journal.staging.Staging.begin", full)
    box.record(2.0, latch=b"red")
    box.flush()
    monkeypatch.undo()
    box.restart()
    assert box.found.latch == b"red"
    assert box.found.latch_same_boot


def offset(boot, offset_ms, **more):
    return Event(id=f"o-{boot}", kind="clock.offset", t_ms=1, why={
        "boot": boot, "offset_ms": offset_ms, "error_ms": 2.5, "source": "gnss", "trust": "synced"} | more)


def test_the_known_offset_of_a_boot_survives_whoever_dies(box):
    box.record(events=[offset("boot", 5000)])
    assert box.reader.offset("boot") == (5000, 2.5)
    box.restart()   # only staged so far
    assert box.journal.offset("boot") == (5000, 2.5)
    box.flush()
    box.record(events=[offset("boot", 5001)])   # better known
    box.flush()
    box.die()
    shutil.rmtree(box.folder / "run")
    box.start("boot-2")
    assert box.reader.offset("boot") == (5001, 2.5)
    assert box.reader.offset("boot-2") is None


def test_the_offsets_of_the_last_64_boots_are_kept(box):
    for n in range(70):
        box.record(events=[offset(f"boot-{n}", n), offset("first", n)])
        box.flush()
    box.restart()
    known = [n for n in range(70) if box.reader.offset(f"boot-{n}")]
    assert known == list(range(7, 70))
    assert box.reader.offset("first") == (69, 2.5)   # said again and again, and so not old


def test_an_offset_nobody_vouches_for_or_can_read_is_none(box):
    box.record(events=[offset("a", 1, trust="unset"), offset("b", "soon"), offset("c", 1, error_ms="small"),
                       offset(7, 1), Event(id="x", kind="clock.step", t_ms=1, why={"boot": "d", "offset_ms": 1})])
    assert not any(box.reader.offset(boot) for boot in "abcd")


def test_a_process_that_dies_again_before_it_commits_keeps_its_numbers(box):
    epoch = box.found.epoch
    for value in (1, 2, 3):
        box.record(value)
        box.restart()
    box.flush()
    assert [(r.epoch, r.seq) for r in box.rows()] == [(epoch, 1), (epoch, 2), (epoch, 3)]
    assert box.values() == [1, 2, 3]


def test_after_a_reboot_numbers_that_were_handed_out_are_not_handed_out_again(box):
    box.record(1, latch=b"red")
    box.flush()
    epoch = box.found.epoch
    box.record(2)  # never committed: the power goes
    box.die()
    shutil.rmtree(box.folder / "run")
    box.start("another boot")
    assert (box.found.reason, box.found.latch, box.found.latch_same_boot) == ("boot", b"red", False)
    assert box.found.alive_utc_ms == 1_001_000
    assert box.found.events[0].why == {"reason": "boot", "epoch": box.found.epoch, "was": epoch, "last": {"data": 1}}
    box.record(3)
    box.flush()
    assert [(r.epoch, r.seq) for r in box.rows()] == [(epoch, 1), (box.found.epoch, 1)]
    streams = {(e["epoch"], e["closed"]): e["next_seq"] for e in box.journal.epochs() if e["lane"] == "data"}
    assert streams == {(epoch, True): 2, (box.found.epoch, False): 2}


def test_the_first_reading_after_a_quiet_while_waits_for_its_own_group(box):
    """A commit costs the card 10 kB whatever is in it: a quiet box makes one a reading, not two."""
    box.record(1)
    box.flush()
    commits = box.journal.health()["commits"]
    for n in range(3):
        box.pass_time(60)
        box.record(2 + n)
        assert not box.pass_time(0.1)
        assert box.pass_time(10)
    assert box.journal.health()["commits"] == commits + 3
    assert box.values() == [1, 2, 3, 4]


@pytest.mark.parametrize("room", [False, True])
def test_a_gap_is_kept_until_the_event_that_tells_it_is_committed(box, room):
    """After a fault the first group takes one lane only: the event that tells a gap may come in a later one."""
    box.flush()
    gap = Gap("e0", "data", 3, 5, 21, "quota", ("county",))
    box.record(1, events=[alarm()])
    with box.journal._ledger.lock:
        box.journal._ledger.lose([gap])
    if not room:
        box.journal._disk.fault = "full a moment ago"
    box.journal._writer._force = True
    assert box.pass_time(100)
    box.journal._writer._force = False
    assert len(box.events("journal.gap")) == room
    box.die()
    shutil.rmtree(box.folder / "run")   # the power goes
    box.start("another boot")
    box.journal.record(DOOR, box.n, events=box.found.events)
    box.flush()
    assert [e.why["count"] for e in box.events("journal.gap")] == [21]


def test_a_box_that_is_renamed_while_it_runs_tells_its_own_readings_under_its_new_name(box):
    box.record(1)
    box.flush()
    box.record(2, latch=b"red")
    box.die()
    box.gateway = "gw-right"
    box.start()
    assert box.found.reason == "renamed"
    box.record(3)
    box.flush()
    assert box.values() == [1, 2, 3]


@pytest.mark.parametrize("staged", [False, True])
def test_the_card_of_another_gateway_tells_nothing_here_and_is_kept(box, staged):
    box.record(1, latch=b"red")
    box.flush()
    box.record(2)
    box.die()
    if not staged:
        shutil.rmtree(box.folder / "run")
    box.gateway = "gw-elsewhere"
    box.start("boot elsewhere")
    assert (box.found.reason, box.found.latch) == ("foreign", None)
    assert "复制" in box.found.events[0].text_zh
    box.record(3)
    box.flush()
    assert box.values() == [3]
    assert [e["epoch"] for e in box.journal.epochs() if e["lane"] == "data"] == [box.found.epoch]
    (aside,) = (box.folder / "state").glob("journal.sqlite.foreign-*")
    with Archive(aside) as archive:
        (page,) = archive.rows(0, 1 << 62)
        assert [v for _, s in page if s.row.lane == "data" for v in decode(s.row.body)["value"].tolist()] == [1]
    box.restart("boot elsewhere")
    assert (box.found.reason, box.values()) == ("", [3])


@pytest.mark.parametrize("what", ["journal_missing", "journal_differs", "staging_missing"])
def test_without_proof_of_continuity_numbering_begins_anew_and_staged_rows_keep_their_names(box, what):
    box.record(1)
    box.flush()
    state = box.folder / "state"
    yesterday = box.folder / "yesterday"
    shutil.copytree(state, yesterday)
    for value in (2, 3):
        box.record(value)
        box.flush()
    delivered = {(r.epoch, r.seq): r for r in box.rows()}
    box.journal._begin_segment()  # otherwise staging itself would bring the committed rows back
    box.record(4)
    epoch = box.found.epoch
    box.die()
    if what == "staging_missing":
        shutil.rmtree(box.folder / "run")
    else:
        shutil.rmtree(state)
        if what == "journal_differs":
            shutil.copytree(yesterday, state)
    box.start()
    assert box.found.reason == what
    assert box.found.epoch != epoch
    box.record(5)
    box.flush()
    rows = box.rows()
    names = [(r.epoch, r.seq) for r in rows]
    expected = {"journal_missing": [(epoch, 4)], "journal_differs": [(epoch, 1), (epoch, 4)],
                "staging_missing": [(epoch, 1), (epoch, 2), (epoch, 3)]}[what]
    assert names == [*expected, (box.found.epoch, 1)]
    assert all(delivered.get((r.epoch, r.seq), r) == r for r in rows)
    gaps = [(e.why["epoch"], e.why["from"], e.why["to"], e.why["count"]) for e in box.found.events
            if e.kind == "journal.gap" and e.why["lane"] == "data"]
    assert gaps == {"journal_missing": [(epoch, 1, 3, 3)], "journal_differs": [(epoch, 2, 3, 2)],
                    "staging_missing": []}[what]


def test_two_processes_cannot_share_a_journal(box, tmp_path):
    with pytest.raises(BlockingIOError):
        Box(tmp_path)


def test_cursors_hold_ranges_survive_a_restart_and_hide_what_is_settled(box):
    for value in range(1, 8):
        box.record(value)
        box.flush()
    epoch = box.found.epoch
    box.reader.settle(epoch, "data", [1, 2, 5])
    assert box.values() == [3, 4, 6, 7]
    box.flush()
    box.restart()
    assert box.values() == [3, 4, 6, 7]
    stream = (epoch, "data")
    assert [r.seq for r in box.reader.pending(("data",), after={stream: 4}, until={stream: 6})] == [6]
    assert [r.seq for r in box.reader.pending(("data",), limit=2)] == [3, 4]
    assert [r.seq for r in box.reader.pending(("data",), max_bytes=1)] == [3]
    backlog = box.reader.backlog()
    assert (backlog.data_rows, backlog.rows - backlog.data_rows) == (4, 0)
    assert (backlog.records, backlog.oldest) == (4, (epoch, "data", 3))
    assert [r.seq for r in box.journal.reader("province").pending(("data",))] == [1, 2, 3, 4, 5, 6, 7]
    assert box.reader.row(epoch, "data", 5).count == 1
    assert box.reader.row(epoch, "data", 50) is None


def test_a_reader_wakes_on_a_commit(box):
    assert box.reader.pending() == []
    assert not box.reader.wait(0)
    woken = []
    thread = threading.Thread(target=lambda: woken.append(box.reader.wait(5)))
    thread.start()
    box.record(events=[alarm()])
    box.flush()
    thread.join(5)
    assert woken == [True]


@pytest.mark.parametrize("what", ["deleted", "exchanged", "log deleted", "overwritten"])
def test_a_file_deleted_or_exchanged_under_the_running_process_loses_nothing(box, what):
    path = box.journal.path
    box.record(1)
    box.flush()
    copy = box.folder / "copy"
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    box.record(2, events=[alarm()])
    box.flush()
    if what == "deleted":
        for file in path.parent.iterdir():
            file.unlink()
    elif what == "log deleted":
        path.with_name(path.name + "-wal").unlink()
    elif what == "exchanged":
        copy.rename(path)
    else:
        path.write_bytes(copy.read_bytes())
    box.record(3, events=[alarm("a2")])
    box.flush()
    epoch = box.found.epoch
    box.search()
    box.flush()
    assert box.values() == [1, 2, 3]
    box.restart()
    assert (box.found.epoch, box.found.reason) == (epoch, "")
    assert box.values() == [1, 2, 3]
    assert [e.id for e in box.events("alarm.raised")] == ["a1", "a2"]
    assert len(box.events("journal.salvaged" if what == "overwritten" else "journal.rescued")) == 1


def test_a_staging_folder_cleaned_by_somebody_is_filled_again(box):
    box.record(1)
    for file in (box.folder / "run").iterdir():
        file.unlink()
    box.record(2, events=[alarm()])
    box.pass_time(0)
    box.record(3)
    box.restart()
    box.flush()
    assert box.values() == [1, 2, 3]


@pytest.mark.parametrize("where", [0, 60, 4096 * 2, -1])
def test_a_damaged_file_never_keeps_the_box_from_starting(box, where):
    for value in range(40):
        box.record(*range(value * 100, value * 100 + 100))
        box.flush()
    box.journal.record(DOOR, box.n, latch=b"red")
    box.flush()
    box.close()
    path = box.journal.path
    raw = bytearray(path.read_bytes())
    at = where if where >= 0 else len(raw) // 2
    raw[at:at + 100] = random.Random(3).randbytes(100)
    path.write_bytes(raw)
    box.start()
    box.search()
    kept = set(box.values())
    box.record(-1)
    box.flush()
    assert -1 in box.values()
    assert kept <= set(range(4000))
    assert len(kept) >= 3000
    if where in (0, 60):
        assert (box.found.reason, box.found.latch) == ("damaged", b"red")
        assert len(kept) == 4000
        assert len(list(path.parent.glob("*.corrupt-*"))) >= 1


def test_a_row_that_rotted_is_told_as_a_gap_and_never_given_out(box):
    for value in (1, 2, 3):
        box.record(value)
        box.flush()
    with sqlite3.connect(box.journal.path) as other:
        other.execute("UPDATE rows SET body = zeroblob(length(body)) WHERE id & 0xffff = 2")
    other.close()
    assert box.values() == [1, 3]
    box.flush()
    assert [(e.why["from"], e.why["to"], e.why["reason"]) for e in box.events("journal.gap")] == [(2, 2, "damaged")]
    assert box.reader.backlog().data_rows == 2


def test_a_row_that_vanished_from_the_file_is_told_and_not_waited_for(box):
    for value in (1, 2, 3):
        box.record(value)
        box.flush()
    with sqlite3.connect(box.journal.path) as other:
        other.execute("DELETE FROM rows WHERE id & 0xffff = 2")
    other.close()
    assert box.values() == [1, 3]
    box.flush()
    assert [(e.why["from"], e.why["to"], e.why["reason"]) for e in box.events("journal.gap")] == [(2, 2, "absent")]
    assert box.reader.backlog().data_rows == 2


def test_the_quota_holds_alarms_stay_and_every_reading_given_up_is_told_once(tmp_path):
    box = Box(tmp_path, max_bytes=1 << 20)
    rng = np.random.default_rng(4)
    for n in range(250):
        box.record(*rng.integers(0, 1 << 60, 600), events=[alarm(f"a{n}")] if n % 50 == 0 else ())
        box.pass_time(11)
        assert box.journal.path.stat().st_size <= 1 << 20
    box.flush()
    box.flush()
    gaps, kept = [e.why for e in box.events("journal.gap")], box.rows()
    assert [row.seq for row in kept] == list(range(1, kept[-1].seq + 1))
    assert {gap["reason"] for gap in gaps} == {"thinned"}
    # Nothing is lost silently: what is kept and what was told to be given up are all there was.
    assert sum(row.count for row in kept) + sum(gap["count"] for gap in gaps) == 250 * 600
    assert {tuple(gap["platforms"]) for gap in gaps} == {("county",)}
    assert len(box.events("alarm.raised")) == 5
    box.close()


def test_a_stalled_writer_bounds_memory_drops_data_exactly_and_never_an_alarm(tmp_path):
    box = Box(tmp_path, staging_bytes=1 << 17)
    for n in range(400):  # nobody writes: the disk hangs
        box.record(*range(n * 50, n * 50 + 50), events=[alarm(f"a{n}")] if n % 20 == 0 else ())
    health = box.journal.health()
    assert health["waiting_bytes"] <= 1 << 17
    assert sum(f.stat().st_size for f in (tmp_path / "run").iterdir()) <= 1 << 18
    box.flush()
    gaps = [e.why for e in box.events("journal.gap")]
    assert [(g["from"], g["count"], g["reason"]) for g in gaps] == [(1, health["dropped_records"], "overload")]
    assert box.values() == list(range(gaps[0]["count"], 20_000))
    assert [e.id for e in box.events("alarm.raised")] == [f"a{n}" for n in range(0, 400, 20)]
    box.close()


def test_a_platform_that_comes_later_does_not_wait_for_rows_that_are_gone(tmp_path):
    box = Box(tmp_path, staging_bytes=1 << 17)
    box.record(-1)
    box.flush()
    for n in range(400):
        box.record(*range(n * 50, n * 50 + 50))
    box.flush()
    box.flush()
    told = box.events("journal.gap")
    assert [e.why["platforms"] for e in told] == [["county"]]
    late = box.journal.reader("late")
    for row in late.pending(limit=10_000, max_bytes=1 << 30):
        late.settle(row.epoch, row.lane, [row.seq])
    assert late.backlog().rows == 0
    assert box.journal.health()["backlog"]["late"] == 0
    box.flush()
    again = [e for e in box.events("journal.gap") if e not in told]
    assert [(e.why["from"], e.why["to"], e.why["platforms"]) for e in again] == [
        (told[0].why["from"], told[0].why["to"], ["late"])]
    late.close()
    box.close()


def test_after_a_death_in_a_stall_the_dropped_range_is_still_told(tmp_path):
    box = Box(tmp_path, staging_bytes=1 << 17)
    for n in range(400):
        box.record(*range(n * 50, n * 50 + 50))
    dropped = box.journal.health()["dropped_records"]
    box.restart()
    box.flush()
    values = box.values()
    told = sum(e.why["count"] for e in box.found.events if e.kind == "journal.gap")
    assert values == list(range(20_000 - len(values), 20_000))
    assert told + len(values) == 20_000
    assert 0 < told <= dropped
    box.close()


def test_recording_fifty_readings_is_cheap(box):
    array = samples(*range(50))
    took = []
    for _ in range(500):
        began = time.perf_counter()
        box.journal.record(DOOR, box.n, array)
        took.append(time.perf_counter() - began)
    print(f"record: {sorted(took)[250] * 1e6:.1f} us")
    assert sorted(took)[100] < 200e-6


PROGRAM = """
import sys, threading, time, secrets, json
sys.path.insert(0, sys.argv[3])
from test_journal import DOOR, POINTS, samples, alarm
from gateway.journal.journal import Journal
j = Journal(sys.argv[1], sys.argv[2], "gw", boot="boot", now=time.monotonic, new_epoch=lambda: secrets.token_hex(4),
            platforms=("county",), commit_s=0.2)
j.open()
n = j.adopt(POINTS)
threading.Thread(target=lambda: [j.write(0.1) for _ in iter(int, 1)], daemon=True).start()
k = 0
for line in sys.stdin:
    word = line.strip()
    if word == "record":
        began = time.perf_counter()
        j.record(DOOR, n, samples(k), events=[alarm(f"a{k}")], latch=str(k).encode())
        k += 1
        print(json.dumps(time.perf_counter() - began), flush=True)
    elif word == "health":
        print(json.dumps(j.health()), flush=True)
    elif word in ("flush", "flush soon"):
        print(json.dumps(j.flush(10 if word == "flush" else 1)), flush=True)
"""


class Other:
    """A journal in a process whose disk can be made to fail."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        (folder / "shim").mkdir()
        self.disk = DiskFault(folder / "state", folder / "shim")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder / "state"), str(folder / "run"), str(Path(__file__).parent)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.disk.environment())

    def ask(self, word):
        import json

        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def until(self, true, timeout_s=15):
        deadline = time.monotonic() + timeout_s
        while not true(health := self.ask("health")):
            assert time.monotonic() < deadline, health
            time.sleep(0.02)
        return health

    def end(self):
        self.disk.ok()
        self.process.stdin.close()
        self.process.kill()
        self.process.wait(5)
        self.process.stdout.close()


@pytest.fixture
def other(tmp_path):
    other = Other(tmp_path / "o")
    yield other
    other.end()


@pytest.mark.parametrize("fault", ["full", "error", "stall", "slow"])
def test_the_pipeline_never_notices_a_failing_disk_and_nothing_is_lost(other, fault, tmp_path):
    other.ask("record")
    assert other.ask("flush")
    commits = other.ask("health")["commits"]
    {"full": other.disk.full, "error": other.disk.error, "stall": other.disk.stall,
     "slow": lambda: other.disk.slow_sync(1.0)}[fault]()
    took = []
    for _ in range(60):
        took.append(other.ask("record"))
        time.sleep(0.01)
    print(f"{fault}: slowest record {max(took) * 1e3:.1f} ms")
    assert sorted(took)[30] < 0.005
    assert max(took) < 0.5
    if fault in ("full", "error"):
        commits = other.until(lambda h: h["fault"])["commits"]   # one that was under way may have come through
        assert not other.ask("flush soon")
        assert other.ask("health")["commits"] == commits
    other.disk.ok()
    other.until(lambda h: not h["fault"] and h["commits"] > commits)
    assert other.ask("flush")
    other.end()
    box = Box(tmp_path / "look")
    box.close()
    box.folder = other.folder
    box.start()
    assert box.values() == list(range(61))
    assert [e.id for e in box.events("alarm.raised")] == [f"a{n}" for n in range(61)]
    assert box.found.latch == b"60"
    told = [len(box.events(f"journal.{word}")) for word in ("fault", "recovered")]
    assert told == ([1, 1] if fault in ("full", "error") else [0, 0])
    box.close()
