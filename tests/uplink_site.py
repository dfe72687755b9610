"""An uplink with a journal in memory, a bare subscriber and the reference one: what tests of the uplink share."""

import json
import random
import threading
import time
import zlib
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.config import Platform
from gateway.county.database import connect
from gateway.county.store import Store
from gateway.county.subscriber import Address, Subscriber
from gateway.model import SAMPLE, Door, Event, Inventory, InventoryPoint, Row
from gateway.uplink import profiles
from gateway.uplink.uplink import Sources, Uplink

BOOT = "boot-1"
INVENTORY = Inventory(5, (InventoryPoint(point="crack-1", name="1号裂缝", object="slope", unit="mm", resolution=0.01,
                                         poll_s=1, report_every_s=0),))


class Backlog(NamedTuple):
    rows: int
    records: int


class Verdict(NamedTuple):
    refused: str = ""
    again: bool = False
    stale: bool = False


class Memory:
    """A journal in memory, with the uplink's Reader."""

    def __init__(self):
        self.streams = {}
        self.decoded = {}
        self.settled = {}
        self.commits, self._seen = 0, -1
        self.news = threading.Condition()
        self.reads = self.rewound = 0
        self.receipts, self.offsets = [], {}
        self.verdict = Verdict()

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

    def skip(self, epoch, lane, first, last):
        self.settle(epoch, lane, range(first, last + 1))

    confirms = False

    def stored(self, epoch, lane, up_to, ranges):
        self.receipts.append((epoch, lane, up_to, tuple(ranges)))
        return self.verdict

    def replay(self, epoch, lane, ranges):
        with self.news:
            asked = {seq for a, b in ranges for seq in range(a, b + 1)}
            kept = asked & set(self.streams.get((epoch, lane), ()))
            self.settled.get((epoch, lane), set()).difference_update(kept)
            return [(n, n) for n in sorted(kept)], [(n, n) for n in sorted(asked - kept)]

    def rewind(self):
        self.rewound += 1
        return False

    def offset(self, boot):
        return self.offsets.get(boot)

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
def uplink(memory, port, present=lambda: None, password=None, reader=None, decode=None, sources=None,
           speak=lambda profile: profile, **platform):
    """A running uplink: the object, its reports; stopped in order at the end."""
    reports = []
    platform = Platform(**{"id": "county", "host": "127.0.0.1", "port": port, "warn_every_s": 5, **platform})
    up = Uplink(platform, speak(profiles.make(platform, "mingluo", "gw-1", {"crack-1": "1号裂缝"})), Sources(**{
        "reader": reader or memory, "decode": decode or memory.decode, "present": present, "door": memory.door,
        "birth": lambda: {"name": "雷家山监测站"}, "health": lambda: {"well": True},
        "report": lambda kind, why: reports.append((kind, why)), **(sources or {})}), password, time.monotonic,
        random.Random(1))
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


class Got(list):
    """What a listener heard."""

    def of(self, *topics):
        return [body for topic, body, _ in self if topic in topics]


def read(payload):
    return json.loads(zlib.decompress(payload) if payload[:1] == b"\x78" else payload)


@contextmanager
def listener(port, topic="mingluo/1/#"):
    """A bare subscriber: (topic, payload, retained flag) in order of arrival; `got.say` publishes."""
    got, ready = Got(), threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = lambda c, *_: c.subscribe(topic, 1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _c, _d, m: got.append((m.topic.split("gw-1/")[1], read(m.payload), m.retain))
    got.say = lambda name, body: client.publish(f"mingluo/1/gw-1/{name}", json.dumps(body), qos=1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(5)
    try:
        yield got
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def county(broker, where, now_ms=lambda: time.time_ns() // 1_000_000, **address):
    """The reference subscriber in a thread of its own; `now_ms` is its computer's clock."""
    subscriber = Subscriber(Address(port=broker.port, **address), Store(connect(str(where))), now_ms=now_ms).start()
    stop, errors = threading.Event(), []

    def run():
        try:
            while not stop.is_set():
                subscriber.step(0.05)
            subscriber.stop()
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield subscriber
    finally:
        stop.set()
        thread.join(10)
        subscriber.store.db.close()
        assert not errors
