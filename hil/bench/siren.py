"""How long a village waits: from the last byte of the answer on the wire to the siren's pin.

Owns: the crossings. Promises: both ends are read outside the judgement (the simulated line's own log of the byte, the
pin's own log of the edge; one monotonic clock); another wire carries 1 000 readings/s meanwhile, delivered to a broker.
Never: counts a crossing that did not sound.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from drivers import template
from drivers.planner import characters, silence_ms
from drivers.sensor import Serial
from hil.bench import Figure, figure
from hil.bench.child import Child, until
from hil.bench.runs import QUIET, log_end, place, started
from hil.bench.site import Load, load_site, write
from hil.broker import Broker
from hil.bus import Bus
from hil.pins import Pins
from hil.slaves import Answer, RtuStation, Slave

PIN, THRESHOLD_MM, POLL_S, BAUD = 17, 60.0, 0.05, 19200
MODEL, POINT = "crack-cable-bolin", "displacement"
SENSORS = Path(__file__).resolve().parent.parent.parent / "config" / "sensors"


class Size(Struct, frozen=True, kw_only=True):
    """How many crossings, beside which load."""

    crossings: int = 200
    load: Load = Load(hosts=1, units=20)
    commit_s: float = 2.0


QUICK = Size(crossings=5, load=Load(hosts=1, units=2, registers=10, period_s=0.2), commit_s=0.5)


def figures(quick: bool) -> Iterator[Figure]:
    """Measure the family's one figure."""
    size = QUICK if quick else Size()
    seed = random.randrange(1 << 32)
    delays_ms, load_rate = _crossings(size, seed)
    p99 = statistics.quantiles(delays_ms, n=100, method="inclusive")[98]
    silence = silence_ms(characters(BAUD, "none", 1), BAUD)
    yield figure("siren.delay_ms", p99, "ms", silence, "<= 50 (p99)",
                 f"p99 of {len(delays_ms)} crossings; median {statistics.median(delays_ms):.2f}, max "
                 f"{max(delays_ms):.2f}; an RTU line at 19200 baud beside {load_rate:.0f} readings/s on another wire; "
                 f"seed {seed}; reference: the silence that ends a frame of unknown length")


def _site(folder: Path, staging: Path, size: Size, port: int, mqtt_port: int) -> dict[str, Any]:
    """Return the load's site with a crack meter on a line of its own and a siren."""
    site = load_site(size.load, [port], mqtt_port, folder, staging, commit_s=size.commit_s, detector=True)
    site["demo"] = True
    site["wires"] += [
        {"id": "line", "driver": "modbus", "port": "line", "serial": {"baud": BAUD},
         "devices": [{"id": "crack", "template": MODEL, "address": 3}]},
        {"id": "pins", "driver": "gpio", "port": "mock:pins.sock"}]
    site["outputs"] = [{"id": "siren-1", "kind": "siren", "wire": "pins", "pin": PIN, "active": "high"}]
    site["objects"].append({
        "id": "slope", "name": "滑坡", "hazard": "slope", "service": "in_service",
        "points": [{"id": "crack-1", "name": "裂缝", "read": f"crack.{POINT}", "poll_s": POLL_S}],
        "rules": [{"id": "crack-level", "point": "crack-1", "above": {"red": THRESHOLD_MM}, "off_delay_s": 0,
                   "latch": []}],
        "outputs": ["siren-1"], "authority": {"approved_by": "bench", "approved_on": "2026-01-01", "red": "automatic"}})
    return site


def _crossings(size: Size, seed: int) -> tuple[list[float], float]:
    """Cross the threshold again and again; ms from byte to edge, and the readings/s delivered meanwhile."""
    load, rng, said = size.load, random.Random(seed), list[Answer]()
    crack = Slave(template.find(MODEL, (SENSORS,)), 3, {POINT: 0.0}, name="crack")
    with place() as (folder, staging), Broker(folder=folder / "broker", settings=QUIET) as broker, \
            Child("hil.bench.devices", load.hosts, load.units, load.registers) as devices, \
            Child("hil.bench.counter", broker.port) as counter, Bus(Serial(baud=BAUD)) as bus, \
            Pins(folder / "pins.sock") as pins:
        bus.port(folder / "line")
        bus.attach(RtuStation([crack], said))
        site = _site(folder, staging, size, devices.hello["ports"][0], broker.port)
        command = [sys.executable, "-m", "gateway", "run", write(folder, site, load.registers).name]
        with started(command, folder) as process:
            if not until(lambda: process.poll() is not None or (
                    said and devices.ask("count")["answers"] > load.units and pins.now(PIN)), 30) or process.poll():
                raise RuntimeError(f"the gateway did not begin to read; {log_end(folder)}")
            time.sleep(1.0)   # its first commit and publish are over
            began = devices.ask("count")
            delays = [_crossing(crack, said, pins, rng) for _ in range(size.crossings)]
            ended = devices.ask("mute")
            total = ended["answers"] * load.registers
            if not until(lambda: counter.ask("count")["readings"] >= total, 25):
                raise RuntimeError(f"readings of the other wire were lost; {log_end(folder)}")
    return delays, (ended["answers"] - began["answers"]) * load.registers / (ended["at_s"] - began["at_s"])


def _crossing(crack: Slave, said: list[Answer], pins: Pins, rng: random.Random) -> float:
    """Cross the threshold once and come back; ms from the byte to the edge."""
    time.sleep(rng.uniform(0.0, POLL_S))
    seen, heard = len(pins.edges), len(said)
    crack.set(POINT, THRESHOLD_MM + 20.0)
    edge_s = _edge(pins, seen, state=1)
    byte_s = next(s.at_s for s in said[heard:] if (s.values.get(POINT) or 0.0) >= THRESHOLD_MM)
    seen = len(pins.edges)
    crack.set(POINT, 0.0)
    _edge(pins, seen, state=0)
    return 1000 * (edge_s - byte_s)


def _edge(pins: Pins, seen: int, state: int) -> float:
    """Wait for the siren's pin; when it changed."""
    def found() -> list[float]:
        return [e.at_s for e in pins.edges[seen:] if e.pin == PIN and e.state == state and e.function == "output"]

    if not until(found, 10, 0.002):
        raise RuntimeError(f"the siren's pin did not become {state} within 10 s")
    return found()[0]
