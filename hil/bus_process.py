"""A bus with slaves in a process of its own, so that what is measured shares no interpreter with it.

Owns: one Bus, one port, slaves. Promises: answers each line on its standard input with one line of JSON. Never:
outlives its standard input.

Usage: python -m hil.bus_process CONFIG.json        (keys: `Config`, `Device`)
Prints {"port", "realtime"}, then obeys
  stats               {"at_s", "last_s" (when the last answer ended), "busy_s", "requests", "early_requests",
                       "least_gap_s", "collisions", "answers": {device: honest answers gone out whole}}
  fault NAME DEVICE   a fault of `hil.faults`, or - for none
  chance NAME SHARE   that fault on every device, drawn for each exchange
  set DEVICE POINT VALUE
  stop                (or the end of its input)
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from drivers import template
from drivers.sensor import Example, Point, Serial, Template, Title
from hil.bus import Bus
from hil.device import Answer, Slave
from hil.faults import FAULTS
from hil.station import RtuStation, attach

SENSORS = Path(__file__).resolve().parent.parent / "config" / "sensors"


class Device(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One slave."""

    address: int
    name: str = ""
    """Default: d and the address."""
    template: str = ""
    """A model; empty: plain holding registers from 0 that hold 100 × address + register, points r0, r1, …"""
    registers: int = 10
    turnaround_s: float | Literal["silence"] = "silence"
    """silence: as short as the standard allows."""
    late_s: float = 1.0
    serial: Serial | None = None
    """None: the bus's."""
    fault: str = ""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bus."""

    port: str
    """Where programs find it."""
    devices: tuple[Device, ...]
    serial: Serial = Serial()
    echo: bool = False
    framing: Literal["rtu", "ascii"] = "rtu"
    seed: int = 0
    realtime: bool = True
    """Ask the kernel to prefer the bus's thread; works for root."""


def plain(registers: int) -> Template:
    """Return a model of u16 holding registers from 0, each a point: r0, r1 and so on."""
    points = tuple(Point(id=f"r{n}", register=n, unit="1", resolution=1) for n in range(registers))
    title = Title(zh="寄存器", en="registers")
    shown = Example(request="01 03 00 00 00 01 84 0A", answer="01 03 02 00 00 B8 44", values={"r0": 0},
                    source="computed")
    return Template(model=f"registers-{registers}", maker="hil", title=title, manual="hil", points=points,
                    examples=(shown,))


class _Count(Counter[str]):
    """A log that keeps only how many, and when the last came."""

    last_s = 0.0

    def append(self, answer: Answer) -> None:
        self[answer.device] += not answer.fault
        self.last_s = answer.at_s


def slave(device: Device, bus: Bus) -> Slave:
    """Make one slave."""
    model = template.find(device.template, (SENSORS,)) if device.template else plain(device.registers)
    values = {} if device.template else {f"r{n}": 100.0 * device.address + n for n in range(device.registers)}
    made = Slave(model, device.address, values, name=device.name or f"d{device.address}", serial=device.serial,
                 turnaround_s=bus.silence_s if device.turnaround_s == "silence" else device.turnaround_s)
    made.late_s = device.late_s
    made.fault = _fault(device.fault)
    return made


def _fault(name: str) -> Any:
    if name not in FAULTS and name != "-":
        raise ValueError(f"no fault called {name!r}: there are {', '.join(FAULTS[1:])}, and - for none")
    return "" if name == "-" else name


def main(path: str) -> None:
    """Serve until standard input ends."""
    config = msgspec.json.decode(Path(path).read_bytes(), type=Config)
    counts = _Count()
    with Bus(config.serial, config.seed, config.realtime) as bus:
        slaves = {made.name: made for made in (slave(device, bus) for device in config.devices)}
        if len({made.serial for made in slaves.values()}) == 1:   # one transceiver costs less than many
            bus.attach(RtuStation(slaves.values(), counts, framing=config.framing))
        else:
            attach(bus, slaves.values(), counts, config.framing)
        bus.port(Path(config.port), echo=config.echo)
        _tell({"port": config.port, "realtime": bus.realtime})
        for line in sys.stdin:
            try:
                match line.split():
                    case ["stats"]:
                        _tell({"at_s": time.monotonic(), "last_s": counts.last_s, "busy_s": bus.busy_s,
                               "requests": bus.requests, "early_requests": bus.early_requests,
                               "least_gap_s": bus.least_gap_s, "collisions": bus.collisions, "answers": dict(counts)})
                    case ["fault", name, device]:
                        slaves[device].fault = _fault(name)
                        _tell({"fault": name, "device": device})
                    case ["chance", name, share]:
                        for made in slaves.values():
                            made.chance = {**made.chance, _fault(name): float(share)}
                        _tell({"chance": name, "share": float(share)})
                    case ["set", device, point, value]:
                        slaves[device].set(point, float(value))
                        _tell({"set": point, "device": device})
                    case ["stop"]:
                        return
                    case _:
                        _tell({"error": f"{line.strip()!r}: expected stats, fault, chance, set or stop"})
            except (KeyError, ValueError) as error:
                _tell({"error": f"{line.strip()!r}: {error}"})


def _tell(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
