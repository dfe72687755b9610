"""The uplink against a real broker: what is settled, what is kept, in which order, and what is said when it fails."""

import json
import logging
import random
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.config import Platform, Tls
from gateway.journal.journal import Journal
from gateway.journal.rows import decode, decode_events
from gateway.model import SAMPLE, Colour, Door, Event, Inventory, InventoryPoint, Present, PresentObject, Row
from gateway.uplink.profiles.default import Default
from gateway.uplink.uplink import Sources, Uplink
from gateway.uplink.walk import Walk
from hil.broker import Broker, Security, find_mosquitto, free_port
from hil.certificates import Authority
from hil.county import County
from hil.proxy import Proxy

if find_mosquitto() is None:
    pytest.fail("mosquitto is not installed: these tests talk to a real broker (apt-get install mosquitto)",
                pytrace=False)

BOOT = "boot-1"
INVENTORY = Inventory(5, (InventoryPoint(point="crack-1", name="1号裂缝", object="slope", unit="mm", resolution=0.01,
                                         poll_s=1, report_every_s=0),))


class Backlog(NamedTuple):
    rows: int
    records: int


class Memory:
    """A journal in memory, with the uplink's Reader."""

    def __init__(self):
        self.streams = {}
        self.decoded = {}
        self.settled = {}
        self.commits, self._seen = 0, -1
        self.news = threading.Condition()
        self.reads = 0

    def door(self):
        return Door(BOOT, time.time_ns() // 1_000_000 - round(time.monotonic() * 1000), "synced")

    def commit(self, *bodies, lane="data", epoch="e1", door=None, seq=None):
        with self.news:
            rows = self.streams.setdefault((epoch, lane), {})
            for body in bodies:
                seq = seq or max(rows, default=0) + 1
                rows[seq] = Row(epoch=epoch, lane=lane, seq=seq, inventory=5, door=door or self.door(), body=b"",
                                count=1 if body is ValueError else len(body))
                self.decoded[epoch, lane, seq] = body
                seq = None
            self.commits += 1
            self.news.notify_all()

    def decode(self, row):
        body = self.decoded[row.epoch, row.lane, row.seq]
        if body is ValueError:
            raise ValueError("damaged")
        return body

    def heads(self):
        with self.news:
            return {stream: max(rows) for stream, rows in self.streams.items()}

    def pending(self, lanes=("alarm", "event", "data"), *, after=None, until=None, limit=100):
        with self.news:
            self._seen = self.commits
            self.reads += bool(lanes)
            out = []
            for stream, rows in self.streams.items():
                if stream[1] in lanes:
                    first, last = (after or {}).get(stream, 0), (until or {}).get(stream, 1 << 40)
                    done = self.settled.get(stream, ())
                    out += [row for seq, row in rows.items() if first < seq <= last and seq not in done]
            return out[:limit]

    def settle(self, epoch, lane, seqs):
        with self.news:
            self.settled.setdefault((epoch, lane), set()).update(seqs)

    def wait(self, timeout_s):
        with self.news:
            return self.news.wait_for(lambda: self.commits != self._seen, timeout_s)

    def inventory(self, n):
        return INVENTORY if n == 5 else None

    def backlog(self):
        with self.news:
            return Backlog(*map(sum, zip((0, 0), *((1, r.count) for s, rows in self.streams.items()
                                                   for r in rows.values() if r.seq not in self.settled.get(s, ())),
                                         strict=True)))

    def count_settled(self, lane="data", epoch="e1"):
        return len(self.settled.get((epoch, lane), ()))


def samples(*values):
    out = np.zeros(len(values), SAMPLE)
    out["t_ms"], out["flag"], out["value"] = round(time.monotonic() * 1000), 1, values
    return out


def event(n, kind="alarm.raised", age_s=0.0):
    return [Event(id=f"ev-{n}", kind=kind, t_ms=round((time.monotonic() - age_s) * 1000), object="slope", alarm="a1",
                  text_zh="后山滑坡：红色预警", text_en="slope: red")]


def until(condition, timeout_s=15.0, what=""):
    """Wait for a condition; a deadline instead of a sleep."""
    end = time.monotonic() + timeout_s
    while not (got := condition()):
        assert time.monotonic() < end, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.005)
    return got


@contextmanager
def uplink(memory, port, present=lambda: None, password=None, reader=None, decode=None, links=(), **platform):
    """A running uplink: the object, its reports; stopped in order at the end."""
    reports = []
    platform = {"id": "county", "host": "127.0.0.1", "warn_every_s": 5, **platform}
    up = Uplink(Platform(port=port, **platform), Default("mingluo", "gw-1", {"crack-1": "1号裂缝"}), Sources(
        reader=reader or memory, decode=decode or memory.decode, present=present, door=memory.door,
        birth=lambda: {"name": "雷家山监测站"}, health=lambda: {"well": True},
        report=lambda kind, why: reports.append((kind, why))), password, time.monotonic, random.Random(1), links)
    stop, errors = threading.Event(), []

    def run():
        try:
            while not stop.is_set():
                up.step(0.2)
            up.close()
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    up.halt = lambda: (stop.set(), thread.join(10))
    try:
        yield up, reports
    finally:
        stop.set()
        thread.join(10)
        up.close()
        assert not errors
        assert not thread.is_alive()


@contextmanager
def listener(port, topic="mingluo/1/#"):
    """A bare subscriber: (topic, payload, retained flag) in order of arrival."""
    got, ready = [], threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = lambda c, *_: c.subscribe(topic, 1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _c, _d, m: got.append((m.topic.split("gw-1/")[1], json.loads(m.payload), m.retain))
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(5)
    try:
        yield got
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.fixture
def broker(tmp_path):
    with Broker(folder=tmp_path / "broker", prefer="mosquitto") as running:
        yield running


@pytest.fixture
def county(broker, tmp_path):
    with County("127.0.0.1", broker.port, db_path=tmp_path / "county.sqlite") as running:
        yield running


def test_readings_arrive_once_and_are_settled(broker, county):
    memory = Memory()
    memory.commit(samples(1.004, 2), samples(float("nan")))
    with uplink(memory, broker.port) as (up, _):
        until(lambda: memory.count_settled() == 2)
        memory.commit(samples(3))
        until(lambda: memory.count_settled() == 3 and county.counters().readings == 4)
        assert [r[2] for r in county.readings()] == [1.0, 2.0, None, 3.0]
        got = county.counters()
        assert (got.backlog, got.live, got.duplicates, got.gaps, got.bad) == (3, 1, 0, (), 0)
        assert abs(county.readings()[3][1] - time.time() * 1000) < 5000
        health = up.health()
        assert (health.connected, health.error) == (True, "")
        assert (health.sent_rows, health.acked_rows, health.refused) == (3, 3, 0)


def test_nothing_is_settled_before_the_broker_answers(broker, county):
    memory = Memory()
    with Proxy(("127.0.0.1", broker.port)) as proxy, uplink(memory, proxy.port) as (up, _):
        until(lambda: up.health().connected)
        memory.commit(samples(1))
        until(lambda: memory.count_settled() == 1)
        proxy.cut("blackhole")
        memory.commit(samples(2), samples(3))
        until(lambda: up.health().sent_rows == 3)
        assert memory.count_settled() == 1
        proxy.restore()
        until(lambda: memory.count_settled() == 3)
        until(lambda: county.counters().rows == 3)


def test_cuts_in_flight_lose_nothing_and_duplicates_are_dropped(broker, county):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    memory, total = Memory(), 0
    with Proxy(("127.0.0.1", broker.port)) as proxy, \
            uplink(memory, proxy.port, backlog_messages_per_s=1000) as (up, _):
        for _ in range(6):
            until(lambda: up.health().connected)
            for _ in range(60):
                memory.commit(samples(*range(total, total + 5)))
                total += 5
            enough = memory.count_settled() + rng.randrange(1, 20)
            until(lambda n=enough: memory.count_settled() >= n)
            rng.choice((proxy.reset, proxy.cut))()
            proxy.restore()
        until(lambda: memory.count_settled() == 360)
    until(lambda: county.counters().readings == total)
    got = county.counters()
    print(got)
    assert sorted(float(n) for n in range(total)) == sorted(r[2] for r in county.readings())
    assert got.gaps == ()


def test_rows_of_a_topic_arrive_in_order(broker):
    memory = Memory()
    memory.commit(*(samples(n) for n in range(300)))
    with listener(broker.port) as got, uplink(memory, broker.port, backlog_messages_per_s=500) as (up, _):
        until(lambda: up.health().connected)
        for n in range(200):
            memory.commit(samples(n))
            if n % 20 == 0:
                memory.commit(event(n), lane="alarm")
        until(lambda: memory.count_settled() == 500 and memory.count_settled("alarm") == 10)
        until(lambda: sum(len(m["rows"]) for t, m, _ in got if t in ("data", "backlog", "event")) == 510)
    for topic, want in (("data", range(301, 501)), ("backlog", range(1, 301)), ("event", range(1, 11))):
        messages = [m for t, m, _ in got if t == topic]
        assert list(want) == [row["seq"] for m in messages for row in m["rows"]]
        for m in messages:
            assert m["covers"] == [m["rows"][0]["seq"], m["rows"][-1]["seq"]]
            assert len(m["rows"]) == m["covers"][1] - m["covers"][0] + 1


def test_covers_never_hides_a_gap_and_holds_one_epoch(broker):
    memory = Memory()
    for epoch, seq in (("e1", 1), ("e1", 2), ("e1", 4), ("e2", 1), ("e2", 2)):
        memory.commit(samples(seq), epoch=epoch, seq=seq)
    with listener(broker.port) as got, uplink(memory, broker.port):
        until(lambda: memory.count_settled() == 3 and memory.count_settled(epoch="e2") == 2)
        until(lambda: sum(len(m["rows"]) for t, m, _ in got if t == "backlog") == 5)
    messages = [(m["epoch"], m["covers"]) for t, m, _ in got if t == "backlog"]
    assert messages == [("e1", [1, 2]), ("e1", [4, 4]), ("e2", [1, 2])]


def test_live_is_not_starved_by_a_long_backlog_and_alarms_go_first(broker):
    memory = Memory()
    memory.commit(*(samples(*range(10)) for _ in range(10_000)))
    memory.commit(event(1), lane="alarm")
    memory.commit(event(2, "sensor.lost"), lane="event")
    delays = []
    with listener(broker.port) as got, uplink(memory, broker.port, backlog_messages_per_s=40) as (up, _):
        until(lambda: up.health().connected)
        for n in range(30):
            before = time.monotonic()
            memory.commit(samples(n))
            until(lambda n=n: any(t == "data" and m["covers"][1] == 10_001 + n for t, m, _ in got))
            delays.append(time.monotonic() - before)
        assert up.health().backlog_rows > 3000, "the backlog was still long"
        assert memory.count_settled() - 30 > 0, "and it moved at the same time"
    order = [f"{t}:{m['lane']}" for t, m, _ in got if t in ("data", "backlog", "event")]
    assert list(dict.fromkeys(o for o in order if o != "data:data")) == ["event:alarm", "event:event", "backlog:data"]
    print("live delay s", max(delays))
    assert max(delays) < 1.0


def test_inventory_and_birth_come_before_the_rows_that_need_them(broker):
    memory = Memory()
    memory.commit(samples(1))
    with listener(broker.port) as got, uplink(memory, broker.port):
        until(lambda: any(t == "backlog" for t, _, _ in got))
    topics = [t for t, _, _ in got]
    assert [t for t in topics if t != "diag"][:4] == ["state", "birth", "inventory/5", "backlog"]
    assert "diag" in topics
    assert next(m for t, m, _ in got if t == "inventory/5")["points"][0]["name"] == "1号裂缝"
    with listener(broker.port) as kept:
        until(lambda: {"state", "birth", "inventory/5"} <= {t for t, _, _ in kept})
        assert all(retained for _, _, retained in kept)


def test_what_the_acl_forbids_is_kept_and_told(tmp_path, caplog):
    forbidding = Security(acl="topic write mingluo/1/gw-1/state\ntopic read #\n")
    with Broker(folder=tmp_path / "b", security=forbidding) as broker:
        memory = Memory()
        memory.commit(samples(1), samples(2))
        memory.commit(event(1), lane="alarm")
        with uplink(memory, broker.port) as (up, reports):
            until(lambda: up.health().refused >= 6, what="refused again and again")
            assert memory.count_settled() + memory.count_settled("alarm") == 0
            assert up.health().connected
            refused = [why for kind, why in reports if kind == "uplink.refused"]
            assert {"birth", "inventory/5", "backlog", "event"} <= {why["topic"] for why in refused}
            assert len(refused) == len({why["topic"] for why in refused}), "told once a topic"
            assert {0x87} == {why["code"] for why in refused}
            broker.reload(Security(acl="topic readwrite #\n"))
            until(lambda: memory.count_settled() == 2 and memory.count_settled("alarm") == 1)
            assert up.health().set_aside == 0
    assert "publish refused, data is kept" in caplog.text


class Said:
    """Answers for a Walk without a broker."""

    def __init__(self, memory, bad):
        self.walk, self.memory, self.bad = Walk("data", "data", 4), memory, bad
        self.walk.restart({})
        self.guilty, self.passed, self.now = [], [], 0.0

    def turn(self, code):
        self.now += 100
        self.walk.look(self.memory.heads(), True)
        batches = []
        while (batch := self.walk.take(self.memory, lambda row: b"x" * 1000, 3000, self.now)) is not None:
            batches.append(batch)
        for batch in batches:
            if self.bad & {row.seq for row in batch.rows}:
                self.guilty += [g.seq for g in (self.walk.refuse(batch, code, self.now),) if g]
            else:
                self.walk.accept(batch)
                self.passed += [row.seq for row in batch.rows]


def test_one_poisonous_row_is_set_aside_and_the_others_pass():
    memory = Memory()
    memory.commit(*(samples(n) for n in range(40)))
    said = Said(memory, {7})
    for _ in range(60):
        said.turn(0x99)
    assert said.guilty == [7]
    assert [n for n in range(1, 41) if n != 7] == sorted(said.passed)


@pytest.mark.parametrize("code", [0x87, 0x97])
def test_missing_rights_never_blame_a_row(code):
    memory = Memory()
    memory.commit(*(samples(n) for n in range(10)))
    said = Said(memory, set(range(1, 11)))
    for _ in range(60):
        said.turn(code)
    assert (said.guilty, said.passed) == ([], [])
    said.bad = set()
    for _ in range(20):
        said.turn(code)
    assert list(range(1, 11)) == sorted(said.passed)


def test_a_refusal_of_everything_blames_nobody():
    memory = Memory()
    memory.commit(*(samples(n) for n in range(10)))
    said = Said(memory, set(range(1, 11)))
    for _ in range(60):
        said.turn(0x80)
    assert said.guilty == []


def test_a_row_that_cannot_be_read_is_set_aside_and_told(broker, county):
    memory = Memory()
    memory.commit(samples(1), samples(2), samples(3))
    memory.decoded["e1", "data", 2] = ValueError
    with uplink(memory, broker.port) as (up, reports):
        until(lambda: memory.count_settled() == 3)
        until(lambda: county.counters().rows == 2)
        assert [(kind, why["from"]) for kind, why in reports] == [("uplink.set_aside", 2)]
        assert up.health().set_aside == 1


def test_old_alarms_say_so(broker, county):
    memory = Memory()
    memory.commit(event("fresh", age_s=2), event("old", age_s=60), lane="alarm")
    memory.commit(event("other-boot"), lane="alarm", door=Door("boot-0", 0, "unset"))
    with uplink(memory, broker.port, warn_every_s=5):
        until(lambda: county.counters().events == 3)
    past = {e["id"]: e.get("past", False) for e in county.events()}
    assert past == {"ev-fresh": False, "ev-old": True, "ev-other-boot": True}


def test_snapshots_go_at_once_and_are_renewed(broker, county):
    def view(colour):
        return Present(t_ms=round(time.monotonic() * 1000), objects=(PresentObject(
            object="slope", name="后山滑坡", hazard="slope", service="in_service", status="Actual", colour=colour),))

    colour, memory = [Colour.NONE], Memory()
    with uplink(memory, broker.port, present=lambda: view(colour[0]), warn_every_s=1):
        first = until(lambda: county.warns().get("slope"))
        assert (first["colour"], first["text_zh"]) == ("none", "后山滑坡：无预警")
        assert first["valid_until"] - first["as_of"] == 3000
        colour[0] = Colour.RED
        before = time.monotonic()
        red = until(lambda: (w := county.warns()["slope"])["colour"] == "red" and w)
        assert time.monotonic() - before < 0.8
        until(lambda: county.warns()["slope"]["as_of"] >= red["as_of"] + 900, what="renewed")
        assert county.colours() == {"slope": "red"}
    last = county.warns()["slope"]
    assert county.colours(last["valid_until"] + 1) == {"slope": "grey"}


def test_orderly_stop_drains_and_says_so_but_a_death_speaks_by_the_will(broker, county):
    memory = Memory()
    with uplink(memory, broker.port) as (up, _):
        until(lambda: county.states().get("gw-1", {}).get("online"))
        memory.commit(*(samples(n) for n in range(50)))
        memory.commit(event(1), lane="alarm")
        up.halt()
    assert memory.count_settled() + memory.count_settled("alarm") == 51
    until(lambda: county.states()["gw-1"].get("reason") == "stopped")
    assert county.states()["gw-1"]["online"] is False

    with Proxy(("127.0.0.1", broker.port)) as proxy, uplink(memory, proxy.port):
        session = until(lambda: (s := county.states()["gw-1"])["online"] and s["session"])
        proxy.cut()
        until(lambda: county.states()["gw-1"] == {"v": 1, "gateway": "gw-1", "online": False, "session": session,
                                                  "reason": "lost"})


def test_broker_killed_and_back_is_served_within_seconds(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    broker = Broker(folder=tmp_path / "b").start()
    memory = Memory()
    try:
        with uplink(memory, broker.port) as (up, _):
            memory.commit(samples(1))
            until(lambda: memory.count_settled() == 1)
            broker.kill()
            until(lambda: not up.health().connected)
            memory.commit(*(samples(n) for n in range(20)))
            until(lambda: up.health().error == "refused")
            assert "服务" in up.health().error_zh
            broker.start()
            before = time.monotonic()
            until(lambda: memory.count_settled() > 1)
            print("broker back to first settled row, s:", time.monotonic() - before)
            assert time.monotonic() - before < 2.5
            until(lambda: memory.count_settled() == 21)
    finally:
        broker.stop()
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("gateway.uplink")]
    assert sum("error=refused" in line for line in lines) == 1, "an outage is logged once"
    assert sum("connected again" in line for line in lines) == 1, "and its end once"


def test_mqtt_311_works_too(broker, county):
    memory = Memory()
    with uplink(memory, broker.port, mqtt="3.1.1"):
        memory.commit(samples(1))
        memory.commit(event(1), lane="alarm")
        until(lambda: memory.count_settled() == 1 and memory.count_settled("alarm") == 1)
        until(lambda: county.counters().readings == 1)
    assert county.events()[0]["text_zh"] == "后山滑坡：红色预警"


@contextmanager
def scripted(*after_connack):
    """A broker that says yes, then the given bytes, then hangs up. Yields its port and the times of connections."""
    server, times = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                times.append(time.monotonic())
                client.recv(4096)
                client.sendall(b"\x20\x03\x00\x00\x00" + b"".join(after_connack))
                client.settimeout(0.5)  # read what was sent meanwhile: a close with unread bytes is a reset
                with suppress(TimeoutError):
                    while client.recv(4096):
                        pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], times
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def test_connections_that_break_at_once_are_tried_less_and_less(caplog):
    with scripted() as (port, times), uplink(Memory(), port) as (up, reports):
        until(lambda: [kind for kind, _ in reports] == ["uplink.flapping"])
        assert (up.health().error, len(times)) == ("flapping", 4)
        assert "client_id" in up.health().error_en


def test_a_second_box_of_the_same_name_is_told_and_waits():
    with scripted(b"\xe0\x02\x8e\x00") as (port, times), uplink(Memory(), port) as (up, reports):
        until(lambda: [kind for kind, _ in reports] == ["uplink.taken_over"])
        assert (up.health().error, len(times)) == ("taken_over", 1)
        assert up._outage.retry_at_s - time.monotonic() > 10, "no tug of war"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    ca = Authority(tmp_path_factory.mktemp("ca"))
    return ca, ca.issue("server", server=True), ca.issue("gw-1")


@pytest.fixture(scope="module")
def tls_broker(authority, tmp_path_factory):
    ca, server, _ = authority
    with Broker(folder=tmp_path_factory.mktemp("tls"), security=Security(server=server, authority=ca)) as running:
        yield running


def test_client_certificate_is_enough_to_get_in(authority, tls_broker):
    ca, _, client = authority
    memory = Memory()
    memory.commit(*(samples(*range(200)) for _ in range(20)))
    with uplink(memory, tls_broker.port, host="localhost", backlog_messages_per_s=500, tls=Tls(
            ca_file=str(ca.cert), cert_file=str(client.cert), key_file=str(client.key))):
        until(lambda: memory.count_settled() == 20)


def _problem(platform_port, **platform):
    memory = Memory()
    memory.commit(samples(1))
    with uplink(memory, platform_port, **platform) as (up, _):
        health = until(lambda: (h := up.health()).error and h)
        assert memory.count_settled() == 0
        assert health.error_zh
        return health


def test_foreign_authority_is_refused_with_what_to_do(authority, tls_broker, tmp_path):
    foreign = Authority(tmp_path / "foreign", "foreign CA")
    own = foreign.issue("gw-1")
    got = _problem(tls_broker.port, tls=Tls(ca_file=str(foreign.cert), cert_file=str(own.cert), key_file=str(own.key)))
    assert got.error == "certificate"
    assert "ca_file" in got.error_en
    ca, _, _ = authority
    got = _problem(tls_broker.port, tls=Tls(ca_file=str(ca.cert), cert_file=str(own.cert), key_file=str(own.key)))
    assert (got.error, "cert_file" in got.error_en) == ("client_certificate", True)
    got = _problem(tls_broker.port, tls=Tls(ca_file=str(ca.cert)))
    assert got.error == "client_certificate"


def test_a_certificate_for_another_host_is_refused(authority, tmp_path):
    ca, _, client = authority
    other = ca.issue("other", names="DNS:county.example", server=True)
    with Broker(folder=tmp_path / "b", security=Security(server=other, authority=ca)) as broker:
        got = _problem(broker.port, tls=Tls(ca_file=str(ca.cert), cert_file=str(client.cert), key_file=str(client.key)))
        assert got.error == "certificate_name"


def test_hints_name_what_to_do(broker, tmp_path, authority):
    ca, _, _ = authority
    assert _problem(free_port()).error == "refused"
    assert _problem(1883, host="no-such-host.invalid").error == "name"
    got = _problem(broker.port, tls=Tls(ca_file=str(tmp_path / "missing.crt")))
    assert (got.error, "missing.crt" in got.error_en) == ("file", True)
    assert _problem(broker.port, tls=Tls(ca_file=str(ca.cert))).error == "not_tls"


def test_passwords_are_used_and_never_logged(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    secret, wrong = "T0p-geheim-秘密", "wr0ng-geheim"
    with Broker(folder=tmp_path / "b", security=Security(passwords={"gw-1": secret})) as broker:
        memory = Memory()
        memory.commit(samples(1))
        with uplink(memory, broker.port, username="gw-1", password=secret):
            until(lambda: memory.count_settled() == 1)
        with uplink(memory, broker.port, username="gw-1", password=wrong) as (up, _):
            health = until(lambda: (h := up.health()).error and h)
            assert health.error in ("credentials", "not_authorised")
    told = caplog.text + repr(health)
    assert secret not in told
    assert wrong not in told


def test_an_idle_uplink_hardly_works(broker):
    memory = Memory()
    with uplink(memory, broker.port) as (up, _):
        until(lambda: up.health().connected)
        reads, begin = memory.reads, time.monotonic()
        until(lambda: time.monotonic() - begin > 2)
        assert memory.reads - reads <= 4 * 4, "rows are looked for once a second"


def test_from_the_real_journal_everything_arrives_once(broker, county, tmp_path):
    journal = Journal(tmp_path / "state", tmp_path / "run", "gw-1", boot=BOOT, now=time.monotonic,
                      new_epoch=lambda: "e1", platforms=("county",), commit_s=0.1)
    journal.open()
    n, door, stop = journal.adopt(INVENTORY), Memory().door(), threading.Event()

    def write():
        while not stop.is_set():
            journal.write(0.1)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    reader = journal.reader("county")
    try:
        with Proxy(("127.0.0.1", broker.port)) as proxy, uplink(
                Memory(), proxy.port, reader=reader, decode=lambda row: decode(row.body) if row.lane == "data"
                else decode_events(row.body), backlog_messages_per_s=500) as (up, _):
            for begin in range(0, 2000, 50):
                journal.record(door, n, samples(*range(begin, begin + 50)), event(begin) if begin % 500 == 0 else ())
                if begin == 500:
                    until(lambda: county.counters().live > 0)
                    proxy.cut()
                if begin == 1500:
                    proxy.restore()
            until(lambda: county.counters().readings == 2000 and county.counters().events == 4)
            until(lambda: reader.backlog().rows == 0)
            until(lambda: up.health().backlog_rows == 0)
        reader.close()
    finally:
        stop.set()
        writer.join(10)
        journal.close()
    got = county.counters()
    print(got)
    assert [float(n) for n in range(2000)] == sorted(r[2] for r in county.readings())
    assert got.gaps == ()
    assert got.backlog > 0
