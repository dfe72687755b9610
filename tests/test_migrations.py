"""Journals of every older program: opened whole, and whole still when the power goes in the middle."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from gateway.journal import migrations, store
from gateway.journal.journal import Journal
from gateway.journal.records import row_of
from gateway.journal.rows import decode, decode_events
from gateway.journal.store import SCHEMA, NewerError, Store

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
    assert city.stored("e1", "data", 3, ()).refused
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


def test_a_cut_in_the_middle_leaves_the_old_version(old, monkeypatch):
    def cut(connection):
        whole(connection)
        raise KeyboardInterrupt("the power went")

    before = sqlite3.connect(old).execute("SELECT * FROM rows").fetchall()
    step, whole = max(migrations._STEPS.items())
    monkeypatch.setitem(migrations._STEPS, step, cut)
    with pytest.raises(KeyboardInterrupt, match="power"):
        Store(old, 1 << 30)
    connection = sqlite3.connect(old)
    assert f"v{connection.execute('PRAGMA user_version').fetchone()[0]}" in {path.stem for path in FILES}
    assert connection.execute("SELECT * FROM rows").fetchall() == before
    connection.close()
    monkeypatch.undo()
    Store(old, 1 << 30).close()


def test_a_journal_of_a_newer_program_is_kept_aside_and_the_box_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SCHEMA", SCHEMA + 1)
    monkeypatch.setitem(migrations._STEPS, SCHEMA + 1, lambda connection: None)
    monkeypatch.setattr(store, "_CREATE", (*store._CREATE[:-1], f"PRAGMA user_version = {SCHEMA + 1}"))
    j = journal(tmp_path)
    j.open()
    j.flush(5)
    j.close()
    monkeypatch.undo()
    with pytest.raises(NewerError, match="use a newer one"):
        Store(tmp_path / "journal.sqlite", 1 << 30)
    found = (again := journal(tmp_path)).open()
    assert found.reason == "newer"
    assert again.flush(5)
    again.close()
    (aside,) = tmp_path.glob("journal.sqlite.newer-*")
    assert sqlite3.connect(aside).execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)
