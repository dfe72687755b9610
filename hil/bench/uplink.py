"""What the way up costs and carries: bytes a reading, the drain of a backlog, how soon a broker is found again.

Owns: the sizes of these figures. Promises: the whole gateway, a real mosquitto, a subscriber in a process of its own;
the drain's reference is paho alone with the very payloads that the gateway sent, through the same broker to the same
subscriber; a lost reading leaves no figure. Never: tunes the gateway for a figure, apart from the backlog's own limit.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from hil.bench import Figure, figure
from hil.bench.child import Child, until
from hil.bench.runs import QUIET, Place, log_end, place, started
from hil.bench.site import Load, load_site, write
from hil.broker import Broker, free_port


class Size(Struct, frozen=True, kw_only=True):
    """How long and how much; `QUICK` only shows that it runs."""

    steady: Load = Load(hosts=20, units=1, grouped=True)
    steady_s: float = 33.0
    fill: Load = Load(hosts=20, units=1, grouped=True, period_s=0.02)
    fill_s: float = 24.0
    windows: tuple[int, ...] = (20, 100)
    outages: int = 5


QUICK = Size(steady=Load(hosts=2, units=1, registers=10, period_s=0.2), steady_s=2.0,
             fill=Load(hosts=2, units=1, registers=10, period_s=0.1), fill_s=1.0, windows=(20,), outages=1)
FORMS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("uplink.bytes_per_reading_plain", {}, "shown"),
    ("uplink.bytes_per_reading", {"compact": True}, "<= 9"),
    ("uplink.bytes_per_reading_compressed", {"compact": True, "compress": True}, "<= 3"),
    ("uplink.bytes_per_reading_plain_compressed", {"compress": True}, "shown"),
)
FAST = {"backlog_messages_per_s": 10000, "backlog_bytes_per_s": 1e9}


def figures(quick: bool) -> Iterator[Figure]:
    """Measure all of the family, one after another."""
    size = QUICK if quick else Size()
    for name, platform, goal in FORMS:
        yield _bytes(size, name, platform, goal)
    yield from _drain(size)
    yield _back(size)


@contextlib.contextmanager
def _gateway(load: Load, devices: Child, mqtt_port: int, at: Place, platform: dict[str, Any], *,
             commit_s: float = 10.0) -> Iterator[Any]:
    site = load_site(load, devices.hello["ports"], mqtt_port, at.folder, at.staging, commit_s=commit_s,
                     detector=False, platform=platform)
    path = write(at.folder, site, load.registers)
    with started([sys.executable, "-m", "gateway", "run", path.name], at.folder) as process:
        yield process


def _bytes(size: Size, name: str, platform: dict[str, Any], goal: str) -> Figure:
    """Payload bytes of the rows, by the readings in them; in steady operation with shipped settings."""
    load = size.steady
    with place() as at, Broker(folder=at.folder / "broker", settings=QUIET) as broker, \
            Child("hil.bench.devices", load.hosts, load.units, load.registers) as devices, \
            Child("hil.bench.counter", broker.port) as counter, \
            _gateway(load, devices, broker.port, at, platform, commit_s=min(10.0, size.steady_s / 3)):
        if not until(lambda: counter.ask("count")["readings"] > 0, 60):
            raise RuntimeError("nothing arrived; " + log_end(at.folder))
        began = counter.ask("count")
        time.sleep(size.steady_s)
        ended = counter.ask("count")
    readings = ended["readings"] - began["readings"]
    sent = ended["bytes"] - began["bytes"]
    messages = ended["messages"] - began["messages"]
    return figure(name, sent / readings if readings else None, "B", None, goal,
                  f"{load.devices} x {load.registers} points, {load.rate:g} readings/s, commit_s 10, "
                  f"{platform or 'as shipped'}: {readings} readings in {messages} messages")


def _drain(size: Size) -> Iterator[Figure]:
    load = size.fill
    with place() as at:
        port, kept = free_port(), at.folder / "payloads"
        with Child("hil.bench.devices", load.hosts, load.units, load.registers) as devices:
            with _gateway(load, devices, port, at, FAST, commit_s=1.0) as process:
                time.sleep(size.fill_s)
                answered = devices.ask("mute")["answers"] * load.registers
                if process.poll() is not None:
                    raise RuntimeError(log_end(at.folder))
            with Broker(port, folder=at.folder / "broker", settings=QUIET):
                with Child("hil.bench.counter", port, kept) as counter, _gateway(load, devices, port, at, FAST):
                    whole = until(lambda: counter.ask("count")["readings"] >= answered, 120, 0.2)
                    got = counter.ask("count")
                ours_s = got["last_s"] - got["first_s"]
                ours = got["readings"] / ours_s if whole and not got["duplicates"] else None
                bare = {window: _bare(port, kept, window, got["readings"]) for window in size.windows}
        best = max(bare.values())
        told = ", ".join(f"window {window}: {rate:.0f}" for window, rate in bare.items())
        yield figure("uplink.drain_vs_paho", ours, "readings/s", best, ">= 0.8",
                     f"{got['readings']} of {answered} readings of an outage in {got['messages']} messages, "
                     f"{got['duplicates']} twice, first to last at the subscriber; reference: paho alone ({told})")


def _bare(port: int, kept: Path, window: int, readings: int) -> float:
    with Child("hil.bench.counter", port) as counter, Child("hil.bench.republish", port, kept, window) as peer:
        peer.ask("go")
        until(lambda: counter.ask("count")["readings"] >= readings, 60, 0.2)
        got = counter.ask("count")
    return float(got["readings"] / (got["last_s"] - got["first_s"]))


def _back(size: Size) -> Figure:
    """From the broker's listening to the first reading at the subscriber."""
    load, took = size.steady, list[float]()
    with place() as at, Broker(folder=at.folder / "broker", settings=QUIET) as broker, \
            Child("hil.bench.devices", load.hosts, load.units, load.registers) as devices, \
            _gateway(load, devices, broker.port, at, {}, commit_s=1.0):
        for n in range(size.outages):
            broker.kill()
            time.sleep(3.0 + n / size.outages)   # long enough for the back-off to grow, at a new phase each time
            broker.start()
            began_s = time.monotonic()
            with Child("hil.bench.counter", broker.port) as counter:
                if not until(lambda: counter.ask("count")["readings"] > 0, 30, 0.02):
                    raise RuntimeError("nothing arrived; " + log_end(at.folder))
                took.append(counter.ask("count")["first_s"] - began_s)
    return figure("uplink.back_s", statistics.median(took), "s", None, "<= 2",
                  f"median of {size.outages}, longest {max(took):.2f} s; from a broker that listens to the first "
                  f"reading at a subscriber, its own start included")
