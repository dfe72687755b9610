"""The reference subscriber: against a real broker and the real uplink with its journal."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from itertools import pairwise

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from typer.testing import CliRunner

from gateway.county import errands, messages
from gateway.county.commands import app
from gateway.county.database import connect
from gateway.county.rates import rates
from gateway.county.store import Store
from gateway.journal.journal import Journal
from gateway.journal.rows import decode, decode_events
from gateway.model import Door, Event
from gateway.uplink.profile import Outcome
from hil.broker import Broker
from hil.postgres import Postgres, find_postgres
from tests.uplink_site import BOOT, INVENTORY, Memory, county, samples, until, uplink


@pytest.fixture
def broker(tmp_path):
    with Broker(folder=tmp_path / "broker", prefer="mosquitto") as running:
        yield running


@contextmanager
def box(broker, folder, boot=BOOT, **platform):
    """The real journal and its uplink; `record` takes values."""
    names = iter(f"{boot}-{n}" for n in range(100))
    journal = Journal(folder / "state", folder / "run", "gw-1", boot=boot, now=time.monotonic,
                      new_epoch=lambda: next(names), platforms=("county",), commit_s=0.05)
    found = journal.open()
    n, stop = journal.adopt(INVENTORY), threading.Event()
    journal.record(Memory().door(), n, events=found.events)

    def write():
        while not stop.is_set():
            journal.write(0.05)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    reader = journal.reader("county")

    def record(*values, events=(), door=None):
        journal.record(door or Memory().door(), n, samples(*values) if values else None, events)

    try:
        with uplink(Memory(), broker.port, reader=reader, backlog_messages_per_s=500,
                    decode=lambda row: (decode if row.lane == "data" else decode_events)(row.body),
                    sources={"birth": lambda: {"streams": journal.epochs(), "promises": {}, "nonce": "n1"}},
                    **platform) as (up, _):
            up.record, up.journal, up.reader = record, journal, reader
            yield up
        reader.close()
    finally:
        stop.set()
        writer.join(10)
        journal.close()


def reckoned(where, now_ms):
    db = connect(str(where))
    try:
        return rates(db, now_ms - 60_000, now_ms)
    finally:
        db.close()


def values(where):
    with sqlite3.connect(where) as db:
        return [v for (v,) in db.execute("SELECT value FROM readings ORDER BY value")]


def stored(up, platform="county"):
    """Rows that the box knows to be stored, per stream."""
    return {stream: list(d.stored.spans()) for (who, stream), d in up.journal._ledger.deliveries._deliveries.items()
            if who == platform}


@pytest.mark.parametrize("form", [{}, {"compact": True}, {"compress": True, "compact": True}], ids=str)
def test_everything_is_kept_once_and_confirmed(broker, tmp_path, form):
    where = tmp_path / "county.sqlite"
    with county(broker, where) as subscriber, box(broker, tmp_path / "box", **form) as up:
        up.record(*range(700), events=[Event(id="a1", kind="alarm.raised", t_ms=1)])
        up.record(*range(700, 1000))
        until(lambda: subscriber.counts["readings"] == 1000)
        until(lambda: up.reader.confirms)
        heads = up.reader.heads()
        until(lambda: {s: spans[-1][1] for s, spans in stored(up).items() if spans} == heads)
    assert values(where) == [float(n) for n in range(1000)]
    assert subscriber.counts["duplicates"] + subscriber.counts["unreadable"] == 0


def test_what_is_missing_is_asked_for_and_comes(broker, tmp_path):
    where = tmp_path / "county.sqlite"
    with county(broker, where) as subscriber, box(broker, tmp_path / "box") as up:
        for n in range(10):
            up.record(n)
            until(lambda n=n: subscriber.counts["readings"] == n + 1)
        with sqlite3.connect(where) as db:   # somebody lost some of them
            db.execute("DELETE FROM readings WHERE seq BETWEEN 3 AND 5")
            db.execute("DELETE FROM rows WHERE lane = 'data' AND seq BETWEEN 3 AND 5")
            spans = db.execute("SELECT gateway, epoch FROM spans LIMIT 1").fetchone()
            db.execute("DELETE FROM spans WHERE lane = 'data'")
            db.executemany("INSERT INTO spans VALUES (?,?,'data',?,?)", [(*spans, 1, 2), (*spans, 6, 10)])
        until(lambda: len(values(where)) == 10)
    assert values(where) == [float(n) for n in range(10)]
    assert subscriber.counts["replays"] >= 1


def test_a_database_restored_from_yesterday_gets_the_rest_again(broker, tmp_path):
    where, yesterday = tmp_path / "county.sqlite", tmp_path / "yesterday.sqlite"
    with box(broker, tmp_path / "box") as up:
        with county(broker, where) as subscriber:
            up.record(*range(5))
            until(lambda: subscriber.counts["readings"] == 5)
        shutil.copy(where, yesterday)
        with county(broker, where) as subscriber:
            up.record(*range(5, 9))
            until(lambda: subscriber.counts["readings"] == 4)
            until(lambda: {s: spans[-1][1] for s, spans in stored(up).items() if spans} == up.reader.heads())
        for path in tmp_path.glob("county.sqlite*"):
            path.unlink()
        shutil.copy(yesterday, where)
        with county(broker, where):
            until(lambda: len(values(where)) == 9)
    assert values(where) == [float(n) for n in range(9)]


def test_rows_of_an_unset_clock_are_dated_whichever_comes_first(broker, tmp_path):
    where, wall_ms = tmp_path / "county.sqlite", time.time_ns() // 1_000_000
    offset = wall_ms - round(time.monotonic() * 1000)
    known = Event(id="o", kind="clock.offset", t_ms=round(time.monotonic() * 1000), why={
        "boot": BOOT, "offset_ms": offset, "error_ms": 5.0, "trust": "synced"})
    unset = Door(BOOT, 1000, "unset")
    with county(broker, where) as subscriber, box(broker, tmp_path / "box") as up:
        up.record(1, 2, door=unset)
        until(lambda: subscriber.counts["readings"] == 2)
        up.record(events=[known], door=Door(BOOT, offset, "synced"))
        until(lambda: subscriber.store.db.run("SELECT count(*) FROM boots")[0][0] == 1)
        up.record(3, door=unset)
        until(lambda: subscriber.counts["readings"] == 3)
    with sqlite3.connect(where) as db:
        times = [t for (t,) in db.execute("SELECT t FROM readings")]
    assert max(abs(t - wall_ms) for t in times) < 15_000, times


def test_commands_and_their_answers(broker, tmp_path):
    where = tmp_path / "county.sqlite"

    def command(order, answer):
        answer(Outcome(ok=order.arguments.get("object") == "slope", text_en="silenced", text_zh="已消音"))

    with county(broker, where), uplink(Memory(), broker.port, commands=("silence",), sources={
            "command": command, "birth": lambda: {"nonce": "n1", "promises": {}}}) as (up, _):
        until(lambda: up.health().connected)
        run = CliRunner().invoke
        shared = ["--by", "李明", "--port", str(broker.port), "--db", str(where), "--wait-s", "10"]
        good = run(app, ["send", "gw-1", "silence", "--object", "slope", *shared])
        bad = run(app, ["send", "gw-1", "silence", "--object", "dam", *shared])
        refused = run(app, ["send", "gw-1", "clear", "--object", "slope", *shared])
    assert (good.exit_code, good.output.strip()) == (0, "已消音")
    assert (bad.exit_code, refused.exit_code) == (1, 1)
    assert "未授权" in refused.output
    now = time.time_ns() // 1_000_000
    (one,) = reckoned(where, now)
    assert one.commands == pytest.approx(1 / 3)
    told = run(app, ["rates", "--db", str(where)])
    assert "33.33 %" in told.output


def test_one_box_is_never_taken_for_another_of_a_similar_name(tmp_path):
    store = Store(connect(str(tmp_path / "county.sqlite")))
    for name in ("box_1", "boxA1"):
        store.show(name, "birth", {"gateway": name}, 1)
    assert [said["gateway"] for *_, said in store.present("birth", "box_1")] == ["box_1"]
    assert len(store.present("birth")) == 2
    store.db.close()


def test_a_dead_box_turns_grey(broker, tmp_path):
    where = tmp_path / "county.sqlite"
    with county(broker, where) as subscriber:
        with box(broker, tmp_path / "box") as up:
            up.record(1)
            until(lambda: subscriber.counts["readings"] == 1)
        now = lambda: time.time_ns() // 1_000_000   # noqa: E731
        until(lambda: [one.grey for one in reckoned(where, now())] == [True])
    (one,) = reckoned(where, now())
    assert (one.gateway, one.delivered, one.lost_records) == ("gw-1", 1.0, 0)
    assert 0.0 <= one.online <= 1.0


def program(port, where, name):
    """A consumer in a process of its own, to be killed."""
    return subprocess.Popen([sys.executable, "-m", "gateway", "county", "run", "--port", str(port), "--db", str(where),
                             "--client-id", name, "--share", "office"], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def test_two_consumers_share_and_are_killed_and_nothing_is_lost_or_twice(broker, tmp_path):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng, where, total = random.Random(seed), tmp_path / "county.sqlite", 0
    consumers = {name: program(broker.port, where, name) for name in ("one", "two")}
    for consumer in consumers.values():
        assert "subscribed" in consumer.stdout.readline()
    try:
        with box(broker, tmp_path / "box") as up:
            for _ in range(8):
                for _ in range(30):
                    up.record(*range(total, total + 4))
                    total += 4
                name = rng.choice(list(consumers))
                had = len(values(where))
                until(lambda had=had: len(values(where)) > had)
                consumers[name].send_signal(signal.SIGKILL)
                consumers[name].communicate(timeout=10)
                consumers[name] = program(broker.port, where, name)
                assert "subscribed" in consumers[name].stdout.readline()
            until(lambda: len(values(where)) >= total, 40)
            until(lambda: all(spans and spans[0][0] == 1 for spans in stored(up).values()) and {
                s: spans[0][1] for s, spans in stored(up).items()} == up.reader.heads(), 20)
    finally:
        for consumer in consumers.values():
            consumer.send_signal(signal.SIGTERM)
        ended = [consumer.communicate(timeout=10)[0] for consumer in consumers.values()]
    print(ended)
    assert values(where) == [float(n) for n in range(total)]


@pytest.mark.skipif(find_postgres() is None, reason="no PostgreSQL server: apt-get install postgresql")
def test_postgres_keeps_the_same(broker, tmp_path):
    with Postgres(tmp_path / "pg") as server, county(broker, server.url) as subscriber, \
            box(broker, tmp_path / "box") as up:
        up.record(*range(300), events=[Event(id="a1", kind="alarm.raised", t_ms=1)], door=Door(BOOT, 1000, "unset"))
        until(lambda: subscriber.counts["readings"] == 300)
        up.record(events=[Event(id="o", kind="clock.offset", t_ms=1, why={
            "boot": BOOT, "offset_ms": 5_000_000, "error_ms": 5.0, "trust": "synced"})])
        until(lambda: up.reader.confirms)
        db = connect(server.url)
        until(lambda: db.run("SELECT min(t) > 4000000 FROM readings") == [(True,)])
        assert db.run("SELECT count(*), count(DISTINCT value) FROM readings") == [(300, 300)]
        up.record(events=[Event(id="g", kind="journal.gap", t_ms=1, why={
            "epoch": "old", "lane": "data", "from": 1, "to": 3, "count": 21, "reason": "damaged",
            "platforms": ["county"]})])

        def reckoned_here():
            now = time.time_ns() // 1_000_000
            return [(one.gateway, one.lost_records) for one in rates(db, now - 60_000, now)]

        until(lambda: reckoned_here() == [("gw-1", 21)])
        db.close()


HOSTILE = (b"", b"\xff", b"[]", b"null", b"{}", b'{"v":1}', b"x" * 70_000, zlib.compress(b"[" * 10_000_000),
           b"\x78\x9c", json.dumps({"v": 1, "gateway": "other", "epoch": "e", "lane": "data", "covers": [1, 1],
                                    "inventory": 1, "boot": "b", "clock": {"trust": "synced"}, "rows": []}).encode(),
           json.dumps({"v": 1, "gateway": "gw-1", "epoch": "e", "lane": "data", "covers": [5, 1], "inventory": 1,
                       "boot": "b", "clock": {"trust": "synced"}, "rows": []}).encode())


def test_hostile_messages_are_counted_and_dropped(broker, tmp_path):
    where = tmp_path / "county.sqlite"
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    with county(broker, where) as subscriber:
        for name in ("data", "event", "birth", "state", "inventory/1", "warn/slope", "resp/x", "time/ask"):
            for payload in HOSTILE:
                client.publish(f"mingluo/1/gw-1/{name}", payload, qos=1).wait_for_publish(5)
        with box(broker, tmp_path / "box") as up:
            up.record(1)
            until(lambda: subscriber.counts["readings"] == 1)
    client.loop_stop()
    assert subscriber.counts["unreadable"] > 60
    assert values(where) == [1.0]


def test_holes_and_receipts_are_reckoned():
    stream = ("gw", "e", "data")
    births = {"gw": {"streams": [{"epoch": "e", "lane": "data", "oldest_seq": 3, "next_seq": 12},
                                 {"epoch": "f", "lane": "event", "oldest_seq": 1, "next_seq": 1}]}}
    assert errands.holes({stream: [(1, 4), (7, 8)]}, births) == {stream: [(5, 6), (9, 11)]}
    assert errands.holes({stream: [(5, 11)]}, births) == {stream: [(3, 4)]}
    trimmed = {"gw": {"streams": [{"epoch": "e", "lane": "data", "oldest_seq": 9, "next_seq": 12}]}}
    assert errands.holes({stream: [(5, 5), (9, 11)]}, trimmed) == {stream: [(6, 8)]}, "what we had before is ours"
    assert errands.holes({stream: [(9, 11)]}, trimmed) == {}, "what was before us is not"
    assert errands.holes({stream: [(5, 5), (9, 11)]}, trimmed, {stream: [(6, 8)]}) == {}, "answered as gone"
    assert errands.holes({stream: [(2, 2), (4, 4)]}, {}) == {stream: [(1, 1), (3, 3)]}
    assert errands.receipt({stream: [(1, 4), (7, 8)]}, "gw") == {"v": 1, "streams": [
        {"epoch": "e", "lane": "data", "up_to": 4, "ranges": [[7, 8]]}]}
    assert errands.receipt({stream: [(3, 4)]}, "gw")["streams"][0]["up_to"] == 0
    asking = errands.Asking()
    waits = [t for t in range(700) if asking.due(stream, [(1, 1)], t)]
    assert waits[:4] == [2, 4, 8, 16]
    assert max(b - a for a, b in pairwise(waits)) <= 300


def test_nothing_unpacks_to_more_than_is_allowed():
    with pytest.raises(ValueError, match="more than"):
        messages.unpacked(zlib.compress(bytes(messages.MOST_BYTES + 1)))
