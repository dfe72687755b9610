"""Three hours without a network (three days by `make soak`), a restart in the middle, a second cut while it drains.

The outage is lived on a clock moved by hand; the drain is real: the journal's own file, the real uplink in a process of
its own, a real broker, the reference subscriber.
"""

import json
import os
import random
import secrets
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gateway.config import Platform
from gateway.journal.journal import Journal
from gateway.journal.rows import decode, decode_events
from gateway.model import SAMPLE, Door, Event, Inventory, InventoryPoint
from gateway.uplink import profiles
from gateway.uplink.uplink import Sources, Uplink
from hil.broker import Broker
from hil.proxy import Proxy
from tests.uplink_site import listener, until

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
HOURS = 72 if SOAK else 3
RATE = 200
INVENTORY = Inventory(0, tuple(InventoryPoint(point=f"p{n:03d}", name=f"测点{n}", object="slope", unit="mm",
                                              resolution=0.1, poll_s=1, report_every_s=0) for n in range(RATE)))


def journal(folder, boot, now, commit_s):
    return Journal(folder / "state", folder / "run", "gw-1", boot=boot, now=now, new_epoch=lambda: secrets.token_hex(4),
                   platforms=("county",), commit_s=commit_s, max_bytes=4 << 30)


def reading(number, t_ms):
    """A second's worth: each value says which of all readings it is."""
    out = np.zeros(RATE, SAMPLE)
    out["t_ms"], out["point"], out["flag"] = t_ms, np.arange(RATE), 1
    out["value"] = number * RATE + np.arange(RATE)
    return out


def live_offline(folder, seconds):
    """The outage; killed half-way and started again, as staging has it."""
    now = [1000.0]
    door, number = Door("boot-0", 1_790_000_000_000, "synced"), 0
    for half in range(2):
        j = journal(folder, "boot-0", lambda: now[0], 10.0)
        found = j.open()
        n = j.adopt(INVENTORY)
        j.record(door, n, events=found.events)
        for _ in range(seconds // 2):
            now[0] += 1.0
            events = [Event(id=f"old-{number}", kind="alarm.raised", t_ms=round(now[0] * 1000))] \
                if number % 3600 == 0 else ()
            j.record(door, n, reading(number, round(now[0] * 1000)), events)
            j.write(0.0)
            number += 1
        if half:
            assert j.flush(30)
        j.close()
    return number


def box(folder, port, first):
    """The process that drains: `first` is the number of its first live second. A line of JSON a second."""
    j = journal(Path(folder), "boot-1", time.monotonic, 1.0)
    found = j.open()
    n, stop = j.adopt(INVENTORY), threading.Event()
    offset = time.time_ns() // 1_000_000 - round(time.monotonic() * 1000)
    door = Door("boot-1", offset, "synced")
    j.record(door, n, events=found.events)
    reader = j.reader("county")
    platform = Platform(id="county", host="127.0.0.1", port=port, compact=True)
    up = Uplink(platform, profiles.make(platform, "mingluo", "gw-1", {}), Sources(
        reader=reader, decode=lambda row: (decode if row.lane == "data" else decode_events)(row.body),
        present=lambda: None, door=lambda: door, birth=lambda: {"streams": j.epochs(), "promises": {}},
        health=dict, report=lambda kind, why: None), None, time.monotonic, random.Random(1))

    def again(step):
        while not stop.is_set():
            step(0.2)

    threads = [threading.Thread(target=again, args=(step,), daemon=True) for step in (j.write, up.step)]
    for thread in threads:
        thread.start()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    number = first
    while not stop.wait(1.0):
        t_ms = round(time.monotonic() * 1000)
        events = [Event(id=f"live-{number}", kind="alarm.raised", t_ms=t_ms)] if number % 3 == 0 else ()
        j.record(door, n, reading(number, t_ms), events)
        number += 1
        rss_kb = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
        print(json.dumps({"rss_kb": rss_kb, "backlog": up.health().backlog_rows, "next": number}), flush=True)
    for thread in threads:
        thread.join(5)
    assert j.flush(10)
    until(lambda: up.step(0.1) or reader.backlog().rows == 0, 20)
    up.close()
    assert j.flush(10)
    print(json.dumps({"next": number}), flush=True)


def ask(where, sql):
    with closing(sqlite3.connect(where)) as db:
        return db.execute(sql).fetchall()


@pytest.mark.long
@pytest.mark.timing
def test_nothing_is_lost_in_a_long_outage_and_live_goes_on_while_it_drains(tmp_path):
    seconds = HOURS * 3600
    began_s = time.monotonic()
    total = live_offline(tmp_path, seconds)
    print(f"{HOURS} h at {RATE} readings/s lived in {time.monotonic() - began_s:.0f} s")
    where, said, delays, alarms = tmp_path / "county.sqlite", [], [], []
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(folder=tmp_path / "broker", prefer="mosquitto"))
        proxy = stack.enter_context(Proxy(("127.0.0.1", broker.port)))
        office = subprocess.Popen([sys.executable, "-m", "gateway", "county", "run", "--port", str(broker.port), "--db",
                                   str(where), "--client-id", "office"], stdout=subprocess.DEVNULL)
        stack.callback(office.kill)
        until(lambda: where.exists() and ask(where, "SELECT count(*) FROM sqlite_master WHERE name = 'rows'")[0][0], 20)
        got = stack.enter_context(listener(broker.port))
        process = subprocess.Popen([sys.executable, __file__, str(tmp_path), str(proxy.port), str(total)],
                                   stdout=subprocess.PIPE, text=True)
        stack.callback(process.stdout.close)
        stack.callback(process.kill)

        def hear():
            said.extend((time.monotonic(), json.loads(line)) for line in process.stdout)

        threading.Thread(target=hear, daemon=True).start()
        until(lambda: got.of("backlog"), 20)
        drain_s, seen = time.monotonic(), 0

        def watch():
            """Live readings and alarms, as old as they arrive."""
            nonlocal seen
            now_ms = time.time_ns() // 1_000_000
            fresh = list(got)[seen:]
            seen += len(fresh)
            for topic, body, _ in fresh:
                if topic == "data":
                    delays.extend(now_ms - row["t0"] for row in body["rows"])
                elif topic == "event" and body["lane"] == "alarm":
                    alarms.extend(now_ms - e["t"] for row in body["rows"] for e in row["events"]
                                  if e["id"].startswith("live"))

        half = seconds * RATE // 256 // 2
        until(lambda: watch() or (said and said[-1][1]["backlog"] < half), 600)
        proxy.cut()
        until(lambda: len(said) > 2 and said[-1][1]["next"] > said[-3][1]["next"], 10)
        proxy.restore()
        until(lambda: watch() or (said and said[-1][1]["backlog"] < 10), 600)
        drained_s = time.monotonic() - drain_s
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        until(lambda: "next" in said[-1][1] and "rss_kb" not in said[-1][1], 10)
        number = said[-1][1]["next"]
        until(lambda: ask(where, "SELECT count(*) FROM readings")[0][0] >= number * RATE, 120)
        count, different, low, high = ask(
            where, "SELECT count(*), count(DISTINCT value), min(value), max(value) FROM readings")[0]
        ids = [i for (i,) in ask(where, "SELECT id FROM events WHERE kind = 'alarm.raised'")]
        office.send_signal(signal.SIGTERM)
        office.wait(20)
    assert (count, different, low, high) == (number * RATE, number * RATE, 0, number * RATE - 1)
    assert len(ids) == len(set(ids)) == seconds // 3600 + len([n for n in range(total, number) if n % 3 == 0])
    first = {}
    for topic, body, _ in list(got):
        if topic in ("data", "backlog", "event"):
            for row in body["rows"]:
                order = first.setdefault((topic, body["epoch"], body["lane"]), {})
                order.setdefault(row["seq"], len(order))
    assert all(a < b for order in first.values() for a, b in pairwise(order)), "each topic in order"
    rss = [line["rss_kb"] for _, line in said if "rss_kb" in line]
    settled = rss[len(rss) // 4]
    rate = seconds * RATE / drained_s
    print(f"{count} readings, 0 lost; backlog drained in {drained_s:.1f} s, {rate:.0f} readings/s, with a cut "
          f"of 2 s; live p95 {statistics.quantiles(delays, n=20)[-1]} ms, worst {max(delays)} ms; "
          f"alarms' worst {max(alarms, default=0)} ms; RSS {settled} → {rss[-1]} kB")
    assert rss[-1] <= 1.1 * settled
    assert number > total


if __name__ == "__main__":
    box(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
