"""What people do with a journal from outside: stats, export, verify, vacuum; on a live box and on a copied file."""

import csv
import io
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from datetime import timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import sqlite_utils

from gateway.journal.archive import Archive, Unusable
from gateway.journal.claim import claimed
from gateway.journal.export import export
from gateway.journal.journal import Journal
from gateway.journal.readings import Wanted, Words
from gateway.journal.records import key_of
from gateway.journal.stats import stats
from gateway.journal.vacuum import needs, vacuum
from gateway.journal.verify import verify
from gateway.model import SAMPLE, Colour, Door, Event, Inventory, InventoryPoint

CHINA = timezone(timedelta(hours=8))
T0 = 1_790_000_000_000
POINTS = tuple(InventoryPoint(point=f"p{n}", name=f"测点{n}", object="slope", unit="mm", resolution=0.01, poll_s=10,
                              report_every_s=10) for n in range(5))


class Life:
    """A journal of one boot after another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.boots = folder, 100.0, 0
        self.readings: list[tuple[int, str, float]] = []
        """(UTC ms, point, value), in order of arrival."""
        self.journal: Journal

    def boot(self, trust="synced", offset_ms=T0, **settings):
        self.boots += 1
        self.clock = 100.0
        boot = f"boot-{self.boots}"
        self.journal = Journal(self.folder, self.folder / f"run{self.boots}", "gw-1", boot=boot,
                               now=lambda: self.clock, new_epoch=lambda: f"e{self.boots}",
                               platforms=("county", "city"), **settings)
        self.journal.open()
        self.number = self.journal.adopt(Inventory(0, POINTS))
        self.door = Door(boot, offset_ms, trust)
        self.true_ms = T0 + self.boots * 10_000_000
        return self

    def run(self, count, rng, value=None):
        for _ in range(count):
            samples = np.zeros(len(POINTS), SAMPLE)
            samples["t_ms"], samples["point"], samples["flag"] = round(self.clock * 1000), range(len(POINTS)), 1
            samples["value"] = [round(rng.uniform(0, 100), 2) for _ in POINTS]
            self.journal.record(self.door, self.number, samples)
            offset = self.true_ms if self.door.trust == "unset" else self.door.offset_ms
            self.readings += [(round(self.clock * 1000) + offset, p.point, float(v))
                              for p, v in zip(POINTS, samples["value"], strict=True)]
            self.clock += 10
            self.journal.write(0.0)
        return self

    def tell(self, kind="alarm.raised", **why):
        self.journal.record(self.door, self.number, None, [Event(
            id=f"{self.door.boot}-{self.clock:.0f}", kind=kind, t_ms=round(self.clock * 1000), object="slope",
            colour=Colour.RED, text_zh="滑坡", text_en="slope", why=why)])
        self.journal.write(0.0)
        return self

    def end(self):
        assert self.journal.flush(5.0)
        self.journal.close()
        return self


@pytest.fixture
def life(tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    one = Life(tmp_path / "box").boot()
    one.run(30, rng).tell().end()
    one.boot("unset", 5).run(30, rng)
    one.tell("clock.offset", boot=one.door.boot, offset_ms=one.true_ms, error_ms=20.0, trust="synced")
    reader = one.journal.reader("county")
    for row in reader.pending(("data",), limit=3):
        reader.settle(row.epoch, row.lane, [row.seq])
    reader.close()
    return one.end()


def mingluo(*arguments):
    done = subprocess.run([sys.executable, "-m", "gateway", "journal", *map(str, arguments)], capture_output=True,
                          text=True, check=False, timeout=60)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def damage(path, key, flip=lambda body: body[:-1] + bytes([body[-1] ^ 1])):
    with sqlite3.connect(path) as connection:
        body, = connection.execute("SELECT body FROM rows WHERE id = ?", (key,)).fetchone()
        connection.execute("UPDATE rows SET body = ? WHERE id = ?", (flip(body), key))
    connection.close()


# --- stats


def test_stats_count_what_is_there(life):
    with Archive(life.folder) as archive:
        found = stats(archive)
    lanes = {one.lane: one for one in found.lanes}
    assert [e["epoch"] for e in found.epochs] == ["e1", "e2"]
    assert lanes["data"].records == len(life.readings)
    assert (lanes["data"].oldest_ms, lanes["data"].newest_ms) == (life.readings[0][0], life.readings[-1][0])
    assert lanes["data"].trusted   # the second boot's clock became known
    assert (lanes["alarm"].rows, lanes["alarm"].records) == (1, 1)
    county = next(m for m in found.platforms if (m.platform, m.lane) == ("county", "data"))
    assert (county.sent, county.waiting) == (3, lanes["data"].rows - 3)
    assert found.reading_bytes == found.file_bytes / len(life.readings)


def test_a_running_box_is_looked_at_while_it_writes(life):
    life.boot().run(3, random.Random(1))
    with Archive(life.folder) as archive:
        before = stats(archive)
        assert verify(archive, live=claimed(life.folder)).faults == []
    assert claimed(life.folder)
    life.run(10, random.Random(2))
    done = mingluo("stats", "--folder", life.folder, "--json")
    after = json.loads(done.stdout)
    assert after["lanes"][2]["rows"] > before.lanes[2].rows
    life.end()
    assert not claimed(life.folder)
    assert not list(life.folder.glob("*-shm"))   # nothing is left in the gateway's way


# --- export


@pytest.mark.parametrize("form", ["csv", "json", "sqlite"])
def test_every_reading_is_exported_once_with_its_time(life, tmp_path, form):
    out = tmp_path / f"out.{form}"
    with Archive(life.folder) as archive:
        done = export(Words(archive, Wanted(), CHINA), out)
    assert done.damaged == 0
    readings, events = load(out)
    assert [(int(r["t_ms"]), r["point"], float(r["value"])) for r in readings] == life.readings
    assert len(readings) == done.readings
    assert done.events == len(events) == len({e["id"] for e in events})
    first = readings[0]
    assert first["utc"].endswith("Z")
    assert first["local"][11:13] == f"{(int(first['utc'][11:13]) + 8) % 24:02d}"
    assert first["local"].endswith("+0800")
    assert (first["quality"], first["status"], first["epoch"], first["boot"], first["trust"], first["name"]) == (
        "good", "Actual", "e1", "boot-1", "synced", "测点0")
    assert readings[-1]["trust"] == "dated"
    alarm = next(e for e in events if e["kind"] == "alarm.raised")
    assert (alarm["lane"], alarm["colour"], alarm["text_zh"]) == ("alarm", "red", "滑坡")
    assert not list(tmp_path.glob("*.part*"))


def load(out: Path):
    if out.suffix == ".csv":
        return [list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
                for path in (out, out.with_suffix(".events.csv"))]
    if out.suffix == ".json":
        whole = json.loads(out.read_text(encoding="utf-8"))
        return whole["readings"], whole["events"]
    database = sqlite_utils.Database(out)
    try:
        return [list(database[name].rows_where(order_by="rowid")) for name in ("readings", "events")]
    finally:
        database.close()


def test_only_what_was_asked_for_is_exported(life, tmp_path):
    out = tmp_path / "one.csv"
    since, until = life.readings[100][0], life.readings[200][0]
    with Archive(life.folder) as archive:
        done = export(Words(archive, Wanted(points=("p2",), lanes=("data",), since_ms=since, until_ms=until)), out)
    expected = [r for r in life.readings if r[1] == "p2" and since <= r[0] <= until]
    assert (done.readings, done.events, done.files) == (len(expected), 0, (out,))
    with out.open(encoding="utf-8-sig", newline="") as file:
        assert [float(r["value"]) for r in csv.DictReader(file)] == [v for _, _, v in expected]


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Thirty times the readings: the same memory at the top, within a page of rows."""
    peaks = []
    for count in (40, 1200):
        one = Life(tmp_path / str(count)).boot(commit_s=0.1)
        one.run(count, random.Random(count)).end()
        tracemalloc.start()
        with Archive(one.folder) as archive:
            for form in ("csv", "json", "sqlite"):
                assert export(Words(archive, Wanted()), tmp_path / f"{count}.{form}").readings == count * len(POINTS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print(peaks)
    assert peaks[1] < peaks[0] + 2_000_000


def test_aggregated_rows_keep_their_extremes(tmp_path):
    one = Life(tmp_path / "box").boot(max_bytes=1 << 20, commit_s=0.1)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    for _ in range(3600):   # what does not compress, until room runs out
        samples = np.zeros(250, SAMPLE)
        samples["t_ms"], samples["point"], samples["flag"] = round(one.clock * 1000), np.arange(250) % 5, 1
        samples["value"] = rng.uniform(0, 100, 250)
        one.journal.record(one.door, one.number, samples)
        one.clock += 1
        one.journal.write(0.0)
    one.end()
    out = tmp_path / "out.json"
    with Archive(one.folder) as archive:
        export(Words(archive, Wanted(lanes=("data",))), out)
        assert verify(archive, live=False).faults == []
    readings = json.loads(out.read_text(encoding="utf-8"))["readings"]
    merged = [r for r in readings if r["thinned"] == "aggregate" and r["readings"] > 1]
    assert merged
    assert all(r["min"] <= r["mean"] <= r["max"] and r["since_utc"] <= r["utc"] for r in merged)
    assert all(r["readings"] is None for r in readings if not r["thinned"])


def test_nothing_is_overwritten_unasked_and_nothing_half_is_left(life, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    done = mingluo("export", "--folder", life.folder, "--to", out, "--lang", "en")
    assert (done.returncode, "--overwrite" in done.stderr, out.read_text()) == (1, True, "mine")
    full = mingluo("export", "--folder", life.folder, "--to", "/proc/out.csv")
    assert full.returncode == 1
    assert mingluo("export", "--folder", life.folder, "--to", out, "--overwrite").returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["box", "out.csv", "out.events.csv"]


def test_a_damaged_row_is_left_out_and_said(life, tmp_path):
    damage(life.folder / "journal.sqlite", key_of(1, "data", 2))
    done = mingluo("export", "--folder", life.folder, "--to", tmp_path / "out.csv", "--lang", "en")
    assert (done.returncode, "1 rows are damaged" in done.stderr) == (1, True)


# --- verify


def test_a_whole_journal_has_no_faults(life):
    done = mingluo("verify", "--folder", life.folder)
    assert (done.returncode, done.stderr) == (0, "")


def flipped(path):
    damage(path, key_of(2, "data", 3))


def emptied(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM inventories")


def holed(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM rows WHERE id = ?", (key_of(1, "data", 4),))


def forged(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE state SET value = X'0000000000' WHERE key = 'extent/e1/data'")


def torn(path):
    """The root of the table `state` becomes no page of a tree."""
    with sqlite3.connect(path) as connection:
        page, = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'state'").fetchone()
    raw = bytearray(path.read_bytes())
    raw[(page - 1) * 4096:page * 4096] = b"\xff" * 4096
    path.write_bytes(raw)


@pytest.mark.parametrize(("harm", "where", "what"), [
    (flipped, "e2 data 3", "checksum"), (emptied, "e1 data 1", "inventory"), (holed, "e1 data 4-4", "no gap was told"),
    (forged, "journal.sqlite", "extent/e1/data"), (torn, "journal.sqlite", "SQLite")])
def test_every_fault_is_named_with_its_place(life, harm, where, what):
    harm(life.folder / "journal.sqlite")
    done = mingluo("verify", "--folder", life.folder, "--lang", "en")
    assert done.returncode == 1
    assert any(where in line and what in line for line in done.stdout.splitlines()), done.stdout
    if harm in (forged, torn):
        assert "verify" in mingluo("stats", "--folder", life.folder, "--lang", "en").stderr


def test_what_was_told_as_a_gap_is_no_fault(life):
    damage(life.folder / "journal.sqlite", key_of(1, "data", 2))
    life.boot()
    reader = life.journal.reader("city")
    reader.pending(("data",))   # meets the damage: the row goes, and a gap is told
    reader.close()
    life.end()
    with Archive(life.folder) as archive:
        found = verify(archive, live=False)
    assert found.faults == []
    assert [note.where for note in found.notes] == ["e1 data 2-2"]


# --- vacuum


def test_vacuum_gives_room_back_and_the_box_goes_on(life):
    path = life.folder / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE ballast AS SELECT randomblob(4000) FROM rows")
        connection.execute("DROP TABLE ballast")
    connection.close()
    with Archive(path) as archive:
        said, before = needs(archive), stats(archive)
    path.chmod(0o640)
    done = vacuum(life.folder)
    assert done.after < done.before
    assert done.after <= said
    assert path.stat().st_mode & 0o777 == 0o640
    with Archive(path) as archive:
        assert verify(archive, live=False).faults == []
        assert stats(archive).lanes == before.lanes
    assert [p.name for p in life.folder.iterdir() if p.is_file()] == ["journal.sqlite"]
    life.boot().run(3, random.Random(1)).end()


def test_vacuum_waits_for_the_gateway_to_stop_and_for_room(life):
    life.boot()
    done = mingluo("vacuum", "--folder", life.folder, "--lang", "en")
    assert (done.returncode, "systemctl stop mingluo" in done.stderr) == (1, True)
    life.end()
    with pytest.raises(Unusable, match="must be free"):
        vacuum(life.folder, free=lambda _: 4096)
    assert mingluo("vacuum", "--folder", life.folder).returncode == 0


# --- what people get wrong


@pytest.mark.parametrize(("make", "said"), [
    (lambda path: None, "no such file"),
    (lambda path: path.write_bytes(b"not a database, just text" * 50), "not an SQLite file"),
    (lambda path: sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close(), "not a journal of mingluo"),
])
@pytest.mark.parametrize("command", ["stats", "verify", "vacuum", "export"])
def test_what_is_no_journal_is_said_in_both_languages(tmp_path, make, said, command):
    path = tmp_path / "journal.sqlite"
    make(path)
    more = ("--to", tmp_path / "o.csv") if command == "export" else ()
    done = mingluo(command, "--folder", path, *more)
    assert done.returncode == 1
    chinese, english = done.stderr.splitlines()
    assert said in english
    assert str(path) in chinese


def test_a_newer_journal_is_not_guessed_at(life):
    with sqlite3.connect(life.folder / "journal.sqlite") as connection:
        connection.execute("PRAGMA user_version = 77")
    connection.close()
    assert "use a newer mingluo" in mingluo("stats", "--folder", life.folder).stderr


@pytest.mark.parametrize(("arguments", "said"), [
    (("--point", "p9"), "no point p9; there are p0, p1"), (("--since", "yesterday"), "is no time"),
    (("--lane", "dada"), "expected alarm, event, data"), (("--to", "o.xlsx"), "expected a name ending in .csv")])
def test_a_wrong_argument_is_said_with_what_was_expected(life, tmp_path, arguments, said):
    done = mingluo("export", "--folder", life.folder, "--to", tmp_path / "o.csv", *arguments)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


def test_an_old_journal_is_read_without_being_touched(tmp_path):
    old = Path(shutil.copy(Path(__file__).parent / "journals/v1.sqlite", tmp_path / "journal.sqlite"))
    before = old.read_bytes()
    with Archive(old) as archive:
        assert archive.schema == 1
        assert stats(archive).lanes[2].rows == 24
        assert verify(archive, live=False).faults == []
    assert old.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["journal.sqlite"]
