"""How much of a serial line's physical limit is used, alone and in the running box, and what a bad device costs.

Owns: the runs of a bus. Promises: time, requests and their gaps are those of the simulated line, a process of its own
that asks nobody; every client's every answer is compared; the libraries run on the same line, one after another.
Never: lets a run count in which an answer was wrong.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from drivers.sensor import Serial
from hil import ceiling
from hil.bench import Figure, figure, plan_optimum
from hil.bench.bus_clients import REGISTERS, TIMEOUT_S
from hil.bench.child import Child, until
from hil.bench.runs import QUIET, log_end, place, started
from hil.bench.site import Load, load_site, model, write
from hil.broker import Broker

LINE_MODEL = "bench-line"
PEERS = {"pymodbus_sync": "90 / 96.7 elsewhere", "pymodbus_async": "100 elsewhere, every request early",
         "minimalmodbus": "99.5 / 97.5 elsewhere"}
ALONE = {9600: ">= 99.5", 115200: ">= 97.5"}
IN_BOX = {9600: ">= 98", 115200: ">= 93"}
_PARTS = 5
_BESIDE_BAUD = 9600
_SHARE = 0.75
"""Of the line's time that the polls of the run with bad devices take; 80 % is the most a configuration may ask for."""
_BESIDE_LATE_S = 0.05


class Size(Struct, frozen=True, kw_only=True):
    """How long."""

    devices: int = 30
    seconds: float = 8.0
    box_s: float = 12.0
    bauds: tuple[int, ...] = (9600, 115200)
    load: Load = Load(hosts=1, units=20)
    beside: int = 10
    beside_s: float = 30.0
    beside_after_s: float = 60.0


QUICK = Size(devices=3, seconds=0.5, box_s=1.0, bauds=(115200,), beside=3, beside_s=2.0, beside_after_s=1.0,
             load=Load(hosts=1, units=2, registers=10, period_s=0.2))


class Ran(Struct, frozen=True, kw_only=True):
    """What a run came to."""

    efficiency: float
    """Percent of the physical limit."""
    best: float
    """The same in the best part of the run: what is left when nobody else wants the CPU."""
    requests: int
    early: int
    bad: int = 0
    cpu: float = 0.0
    """Of one core, the client's."""


def figures(quick: bool) -> Iterator[Figure]:
    """Measure all of the family, one after another."""
    size = QUICK if quick else Size()
    ours: list[Ran] = []
    theirs: list[str] = []
    for baud in size.bauds:
        bare = _bare(baud, size)
        best = bare.minimum_s / bare.best_s
        yield figure(f"bus.bare_{baud}", 100 * bare.efficiency, "% of limit", 100.0, "the rig's ceiling",
                     f"a bare client that keeps the silence, {bare.rounds} rounds, the best {best:.1%}; "
                     f"{bare.early_requests} early; limit {bare.minimum_s:.4f} s a cycle of {size.devices} devices")
        alone = client("mingluo", baud, size.devices, size.seconds)
        ours.append(alone)
        yield _percent(f"bus.efficiency_{baud}", alone, 100 * bare.efficiency, ALONE[baud],
                       "the driver alone; reference: the bare client")
        for peer, expected in PEERS.items():
            ran = client(peer, baud, size.devices, size.seconds)
            theirs.append(f"{peer} {baud}: {ran.early} of {ran.requests}")
            yield _percent(f"bus.peer_{peer}_{baud}", ran, 100.0, expected, "reference: the physical limit")
        boxed = in_box(baud, size)
        ours.append(boxed)
        yield _percent(f"bus.in_box_{baud}", boxed, 100 * bare.efficiency, IN_BOX[baud],
                       f"the running gateway: journal, uplink, detector, {size.load.rate:g} readings/s on another wire")
    yield figure("bus.early_requests", sum(ran.early for ran in ours), "requests", None, "0",
                 f"inside the mandatory silence, of {sum(ran.requests for ran in ours)} of ours; {'; '.join(theirs)}")
    value, reference, note = beside(size)
    yield figure("bus.healthy_beside_bad", value, "reads/s", reference, "ratio >= 0.95", note)
    yield from plan_optimum.figures(quick)


def _percent(name: str, ran: Ran, reference: float, goal: str, note: str) -> Figure:
    return figure(name, None if ran.bad else ran.efficiency, "% of limit", reference, goal,
                  f"{note}; {ran.best:.2f} in the best {1 / _PARTS:.0%} of it; {ran.requests} requests, "
                  f"{ran.early} early, {ran.bad} wrong or missing{f', {ran.cpu:.1%} CPU' if ran.cpu else ''}")


def _bare(baud: int, size: Size) -> ceiling.Measured:
    serial = _serial(baud)
    return ceiling.measure(serial, max(2, round(size.seconds / ceiling.minimum_s(serial, size.devices))), size.devices)


def _serial(baud: int) -> Serial:
    return Serial(baud=baud, stop_bits=2)   # type: ignore[arg-type]


def _line(folder: Path, baud: int, devices: int, **habits: Any) -> Child:
    """Start a bus whose port is `folder`/line."""
    config = {"port": str(folder / "line"), "serial": {"baud": baud, "stop_bits": 2},
              "devices": [{"address": u, "registers": REGISTERS, **habits} for u in range(1, devices + 1)]}
    path = folder / "bus.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return Child("hil.bus_process", path)


def client(kind: str, baud: int, devices: int, seconds: float) -> Ran:
    """Let a client of `bus_clients` read all devices as fast as it can."""
    with place() as (folder, _), _line(folder, baud, devices) as line, \
            Child("hil.bench.bus_clients", kind, folder / "line", baud, devices) as reader:
        before, parts, after = reader.ask("count"), _parts(line, seconds), reader.ask("count")
    return _ran(baud, parts, bad=after["bad"],
                cpu=(after["cpu_s"] - before["cpu_s"]) / (parts[-1]["at_s"] - parts[0]["at_s"]))


def _parts(line: Child, seconds: float) -> list[dict[str, Any]]:
    """Return the line's counts now and after each part of the time."""
    parts = [line.ask("stats")]
    for _ in range(_PARTS):
        time.sleep(seconds / _PARTS)
        parts.append(line.ask("stats"))
    return parts


def _ran(baud: int, parts: list[dict[str, Any]], **more: Any) -> Ran:
    least_s = ceiling.minimum_s(_serial(baud), 1, REGISTERS)

    def percent(begin: dict[str, Any], end: dict[str, Any]) -> float:
        answers = sum(end["answers"].values()) - sum(begin["answers"].values())
        return 100 * answers * least_s / (end["last_s"] - begin["last_s"]) if answers else 0.0

    return Ran(efficiency=percent(parts[0], parts[-1]), best=max(map(percent, parts, parts[1:])),
               requests=parts[-1]["requests"], early=parts[-1]["early_requests"], **more)


# --- in the running gateway


def _box_site(folder: Path, staging: Path, size: Size, baud: int, port: int, mqtt_port: int) -> dict[str, Any]:
    """Return the load's site with the line beside it."""
    site = load_site(size.load, [port], mqtt_port, folder, staging, commit_s=2.0, detector=True)
    units = range(1, size.devices + 1)
    points = [point["id"] for point in model(REGISTERS)["points"]]
    period_s = max(0.01, 0.3 * ceiling.minimum_s(_serial(baud), size.devices))   # everything is always due
    site["wires"].append({"id": "line", "driver": "modbus", "port": "line", "serial": {"baud": baud, "stop_bits": 2},
                          "devices": [{"id": f"l{u}", "template": LINE_MODEL, "address": u} for u in units]})
    site["objects"].append({
        "id": "line", "name": "线路", "hazard": "other", "service": "trial",
        "points": [{"id": f"l{u}-{p}", "name": p, "read": f"l{u}.{p}", "poll_s": round(period_s, 4),
                    "report": {"every_s": 0}} for u in units for p in points]})
    return site


def in_box(baud: int, size: Size) -> Ran:
    """Let the running gateway read the line beside a load on another wire."""
    load = size.load
    with place() as (folder, staging), Broker(folder=folder / "broker", settings=QUIET) as broker, \
            Child("hil.bench.devices", load.hosts, load.units, load.registers) as devices, \
            Child("hil.bench.counter", broker.port) as counter:
        site = _box_site(folder, staging, size, baud, devices.hello["ports"][0], broker.port)
        path = write(folder, site, load.registers)
        (folder / "sensors" / f"{LINE_MODEL}.yaml").write_text(yaml.safe_dump(model(REGISTERS), allow_unicode=True),
                                                               encoding="utf-8")
        with _line(folder, baud, size.devices) as line, \
                started([sys.executable, "-m", "gateway", "run", path.name], folder) as process:
            if not until(lambda: process.poll() is not None or (
                    len(line.ask("stats")["answers"]) == size.devices
                    and devices.ask("count")["answers"] > load.units), 30) or process.poll():
                raise RuntimeError(f"the gateway did not begin to read; {log_end(folder)}")
            time.sleep(min(2.0, size.box_s))   # its first commit and publish are over
            other, parts, after = devices.ask("count"), _parts(line, size.box_s), devices.ask("count")
            carried = (after["answers"] - other["answers"]) / (after["at_s"] - other["at_s"]) * load.registers
            told = REGISTERS * sum(parts[-1]["answers"].values()) + load.registers * after["answers"]
            if not until(lambda: counter.ask("count")["readings"] >= told, 25):
                raise RuntimeError(f"of {told} readings {told - counter.ask('count')['readings']} never arrived; "
                                   f"{log_end(folder)}")
    if carried < 0.95 * load.rate:
        raise RuntimeError(f"the other wire carried {carried:.0f} readings/s, not {load.rate:g}; {log_end(folder)}")
    return _ran(baud, parts)


# --- beside bad devices


def beside(size: Size) -> tuple[float | None, float, str]:
    """Kill one device, let another answer too late, and look at the rest.

    Returns:
        Reads/s of the healthy devices beside the bad ones, the same before, how it was measured.
    """
    devices, serial = size.beside, _serial(_BESIDE_BAUD)
    cycle_s = ceiling.minimum_s(serial, devices, REGISTERS)
    period_s = round(cycle_s / _SHARE, 4)
    with place() as (folder, _), _line(folder, _BESIDE_BAUD, devices, late_s=TIMEOUT_S + _BESIDE_LATE_S) as line, \
            Child("hil.bench.bus_clients", "mingluo", folder / "line", _BESIDE_BAUD, devices, period_s) as reader:
        def rate(seconds: float) -> float:
            begin = line.ask("stats")
            time.sleep(seconds)
            end = line.ask("stats")
            return sum(end["answers"][d] - begin["answers"][d] for d in healthy) / (end["at_s"] - begin["at_s"])

        healthy = [f"d{u}" for u in range(3, devices + 1)]
        before = rate(size.beside_s)
        line.ask("fault silent d1")
        line.ask("fault late d2")
        time.sleep(size.beside_after_s)
        during = rate(size.beside_s)
        stats, count = line.ask("stats"), reader.ask("count")
    note = (f"{len(healthy)} devices beside a dead one and one that answers {1000 * _BESIDE_LATE_S:.0f} ms after its "
            f"timeout, polls of {_SHARE:.0%} of the line, counted for {size.beside_s:g} s after "
            f"{size.beside_after_s:g} s; {count['bad']} reads without an answer; {stats['collisions']} collisions; "
            "reference: the same devices before")
    return during, before, note
