"""Journals of every older program: opened whole, and whole still when the power goes in the middle."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.journal import migrations, store
from gateway.journal.journal import Journal
from gateway.journal.quota import Shares
from gateway.journal.records import PAGE_BYTES, Stored, record_of, row_of
from gateway.journal.rows import decode, decode_events
from gateway.journal.state import State, pack
from gateway.journal.store import SCHEMA, NewerError, Store
from gateway.journal.transaction import Changes
from gateway.model import Door, Row
from hil.powercut.disk import MODES, Disk
from hil.powercut.recording import Call, build, compiler, environment, read

FILES = sorted((Path(__file__).parent / "journals").glob("v*.sqlite"))
PLATFORMS = ("county", "city")


def journal(folder):
    return Journal(folder, folder / "run", "gw-1", boot="boot-3", now=lambda: 1000.0, new_epoch=lambda: "e3",
                   platforms=PLATFORMS)


def test_every_older_schema_has_a_file():
    assert [path.stem for path in FILES] == [f"v{n}" for n in range(1, SCHEMA)]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def old(request, tmp_path):
    return Path(shutil.copy(request.param, tmp_path / "journal.sqlite"))


def test_an_old_journal_is_opened_whole(old, tmp_path):
    found = (j := journal(tmp_path)).open()
    assert found.reason == "boot"
    assert found.latch == b"latch-boot-2-11"
    assert j.flush(5)
    county, city = j.reader("county"), j.reader("city")
    pending = [(r.epoch, r.seq) for r in county.pending(("data",))]
    assert pending == [(e, n) for e in ("e1", "e2") for n in (4, 7, 8, 10, 11, 12)]
    assert [(r.epoch, r.seq) for r in city.pending(("alarm",))] == [(e, 2) for e in ("e1", "e2")]
    values = [v for r in city.pending(("data",)) for v in decode(r.body)["value"].tolist()]
    assert values == [k * 1000 + m * 10 + n / 8 for k in (0, 1) for m in range(12) for n in range(6)]
    first = city.pending(("alarm", "event"))[0]
    assert decode_events(first.body)[0].kind == "alarm.raised"
    assert [p.point for p in city.inventory(city.pending(("data",))[0].inventory).points] == ["p0-0", "p0-1", "p0-2"]
    assert city.stored("e1", "data", 13, ()).refused
    assert city.stored("e9", "data", 1, ()).stale
    assert county.stored("e1", "data", 3, ()).refused == ""
    assert county.confirms
    assert j.flush(5)
    county.close()
    city.close()
    j.close()
    again = Store(old, 1 << 30)
    assert again.cursors["county", ("e1", "data")].saved() == (3, [(5, 6), (9, 9)], 3, [])
    assert all(row_of(r) for r in again.connection.execute("SELECT * FROM rows"))
    again.close()


def everything(path):
    """All a file holds, as whoever wrote it would read it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("rows", "state", "inventories")]


def version(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_a_cut_in_the_middle_leaves_the_old_version(old, monkeypatch):
    def cut(connection):
        whole(connection)
        raise KeyboardInterrupt("the power went")

    before = everything(old)
    step, whole = max(migrations._STEPS.items())
    monkeypatch.setitem(migrations._STEPS, step, cut)
    with pytest.raises(KeyboardInterrupt, match="power"):
        Store(old, 1 << 30)
    assert f"v{version(old)}" in {path.stem for path in FILES}
    assert everything(old) == before
    monkeypatch.undo()
    Store(old, 1 << 30).close()
    assert version(old) == SCHEMA


KILLED = """
import os, signal, sys
from pathlib import Path
from gateway.journal import migrations
from gateway.journal.store import Store
step, whole = max(migrations._STEPS.items())
def killed(connection):
    connection.execute("PRAGMA cache_spill = 1")
    whole(connection)
    os.kill(os.getpid(), signal.SIGKILL)
migrations._STEPS[step] = killed
Store(Path(sys.argv[1]), 1 << 30)
"""


def test_a_process_killed_in_the_middle_leaves_the_old_version(old):
    before = everything(old)
    assert subprocess.run([sys.executable, "-c", KILLED, str(old)], timeout=60).returncode == -signal.SIGKILL
    assert everything(old) == before
    Store(old, 1 << 30).close()
    assert version(old) == SCHEMA


OPENS = """
import sys
from pathlib import Path
from gateway.journal.store import Store
Store(Path(sys.argv[1]), 1 << 30)
"""


@pytest.mark.skipif(compiler() is None, reason="no C compiler: apt-get install gcc libc6-dev")
def test_a_power_cut_at_any_call_of_it_leaves_the_old_version_or_the_new(old, tmp_path):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng, disk = random.Random(seed), Disk()
    aside, where, log = shutil.copy(old, tmp_path / "before"), tmp_path / "after", tmp_path / "log"
    before = everything(aside)
    subprocess.run([sys.executable, "-c", OPENS, str(old)], check=True, timeout=60,
                   env=os.environ | environment(build(tmp_path), tmp_path, log))
    calls = read(log, tmp_path)
    new = everything(old)
    disk.take(Call("W", old.name, 0, Path(aside).read_bytes()))
    disk.take(Call("S", old.name, 0, b""))
    found = set()
    for call in calls:
        disk.take(call)
        for mode in MODES * 3:
            shutil.rmtree(where, ignore_errors=True)
            where.mkdir()
            for name, image in disk.after(rng, mode).items():
                (where / name).write_bytes(image)
            left = version(where / old.name)
            assert everything(where / old.name) == (new if left == SCHEMA else before)
            found.add(left)
            Store(where / old.name, 1 << 30).close()
            assert everything(where / old.name) == new
    assert len(found) == 2


def test_a_full_journal_finds_room_to_become_newer(old, tmp_path):
    """Not one page is free, and the quota was lowered with the new program."""
    with contextlib.closing(sqlite3.connect(old)) as connection:
        names = [name for _, name, *_ in connection.execute("PRAGMA table_info(rows)")]
        body = random.Random(1).randbytes(3000)
        for seq in range(100, 400):
            row = Row(epoch="e2", lane="data", seq=seq, inventory=1, door=Door("b", 0, "synced"), count=1, body=body)
            connection.execute(f"INSERT INTO rows ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
                               record_of(Stored(row, seq), 2)[:len(names)])
        for n in range(3000):
            key = f"cursor/e2/data/p{n}"
            value = pack(key, (n, [])) if version(old) == 1 else pack(key, (n, [], 0, []))
            connection.execute("INSERT INTO state VALUES (?, ?)", (key, value))
        connection.commit()
        connection.execute("VACUUM")   # every page is filled to its end
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
    with contextlib.closing(Store(old, 64 * PAGE_BYTES)) as opened:
        assert opened.state.latch
        assert old.stat().st_size > 250 * PAGE_BYTES


def test_an_inventory_of_an_old_journal_goes_with_the_last_row_that_may_name_it(old):
    with contextlib.closing(Store(old, 1 << 30)) as opened:
        named = {n for extent in opened.streams.values() for n in extent.named()}
        assert named == set(opened.inventories)
        assert len(named) == 2
        opened.shares = Shares(16, 24, 24)   # everything has to go
        for n in range(3):
            state = State(gateway="gw-1", boot="boot-2", epoch="e2", commit=opened.state.commit)
            opened.commit(Changes(state=state, inventory=max(named), rows=[Stored(Row(
                epoch="e2", lane="data", seq=100 + n, inventory=max(named), door=Door("b", 0, "synced"), count=1,
                body=b"x"), 100 + n)]), PLATFORMS)
        assert set(opened.inventories) == {max(named)}


def test_a_journal_of_a_newer_program_is_kept_aside_and_the_box_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SCHEMA", SCHEMA + 1)
    monkeypatch.setitem(migrations._STEPS, SCHEMA + 1, lambda connection: None)
    monkeypatch.setattr(store, "_CREATE", (*store._CREATE[:-1], f"PRAGMA user_version = {SCHEMA + 1}"))
    j = journal(tmp_path)
    j.open()
    j.flush(5)
    j.close()
    monkeypatch.undo()
    before = (tmp_path / "journal.sqlite").read_bytes()
    with pytest.raises(NewerError, match="use a newer one"):
        Store(tmp_path / "journal.sqlite", 1 << 30)
    found = (again := journal(tmp_path)).open()
    assert found.reason == "newer"
    assert "newer program" in found.events[0].text_en
    assert again.flush(5)
    again.close()
    (aside,) = tmp_path.glob("journal.sqlite.newer-*")
    assert aside.read_bytes() == before
    assert version(aside) == SCHEMA + 1


def test_a_newer_journal_that_appears_under_a_running_box_is_kept_aside_too(tmp_path):
    """At the start its folder cannot be reached: a card that comes up late."""
    blocker = tmp_path / "state"
    blocker.write_bytes(b"")
    j = Journal(blocker / "deep", tmp_path / "run", "gw-1", boot="boot-3", now=lambda: 1000.0, new_epoch=lambda: "e3",
                platforms=PLATFORMS)
    assert j.open().reason == "unreachable"
    blocker.unlink()
    path = blocker / "deep" / "journal.sqlite"
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    assert j.flush(5)
    with contextlib.closing(j.reader("county")) as reader:
        kinds = [e.kind for row in reader.pending(("event",)) for e in decode_events(row.body)]
    assert kinds == ["journal.newer"]
    j.close()
    assert len(list(path.parent.glob("journal.sqlite.newer-*"))) == 1
