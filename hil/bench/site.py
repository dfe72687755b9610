"""The site the load figures are measured on: N hosts with Modbus TCP devices of R registers, quality and a rule on.

Owns: the generated configuration and its sensor model. Promises: every point is polled and reported each period and
has a range; one in ten has a rate limit and a threshold too, which it never crosses. Never: starts anything.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct, structs

from drivers.exchange import checked

MODEL = "bench-registers"
WATCHED = 10
"""One point in so many has a rate limit and a rule; a rate limit lets the whole answer's motion be looked at."""


class Load(Struct, frozen=True, kw_only=True):
    """How much is polled."""

    hosts: int
    units: int
    """Devices behind each host."""
    registers: int = 50
    period_s: float = 1.0
    grouped: bool = False
    """All hosts on one wire, each device with a port of its own; otherwise a wire a host."""

    @property
    def devices(self) -> int:
        """All of them."""
        return self.hosts * self.units

    @property
    def rate(self) -> float:
        """Readings a second."""
        return self.devices * self.registers / self.period_s

    def at(self, rate: float) -> Load:
        """Return the same devices, polled so that this many readings a second come."""
        return structs.replace(self, period_s=round(self.devices * self.registers / rate, 6))


def model(registers: int) -> dict[str, Any]:
    """Return a sensor model with so many points; its example is computed here with struct, not by the codec."""
    raw = [10 * n for n in range(registers)]
    request = checked(struct.pack(">BBHH", 1, 3, 0, registers))
    answer = checked(struct.pack(f">BBB{registers}H", 1, 3, 2 * registers, *raw))
    return {
        "maker": "bench", "title": {"zh": "压测设备", "en": "load device"}, "manual": "none: a device made of load",
        "points": [{"id": f"p{n:02d}", "register": n, "scale": 0.1, "unit": "mm", "resolution": 0.1,
                    "range": [0, 6553.5]} for n in range(registers)],
        "examples": [{"request": request.hex(" ").upper(), "answer": answer.hex(" ").upper(),
                      "values": {f"p{n:02d}": float(n) for n in range(registers)}, "source": "computed"}],
    }


def wires(load: Load, ports: list[int]) -> list[dict[str, Any]]:
    """Return a wire a host, or one for them all."""
    addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
    devices = [[{"id": f"d{h}-{u}", "template": MODEL, "address": u} for u in range(1, load.units + 1)]
               for h in range(load.hosts)]
    if load.grouped:
        return [{"id": "hosts", "driver": "modbus",
                 "devices": [device | {"port": address} for address, behind in zip(addresses, devices, strict=True)
                             for device in behind]}]
    return [{"id": f"host-{h}", "driver": "modbus", "port": address, "devices": behind}
            for h, (address, behind) in enumerate(zip(addresses, devices, strict=True))]


def objects(load: Load) -> list[dict[str, Any]]:
    """Return an object a device."""
    return [{"id": f"o{h}-{u}", "name": f"对象 {h}-{u}", "hazard": "other", "service": "trial",
             "points": [_point(f"d{h}-{u}", n, load.period_s) for n in range(load.registers)],
             "rules": [{"id": f"r{h}-{u}-p{n:02d}", "point": f"d{h}-{u}-p{n:02d}", "above": {"red": 6553.4}}
                       for n in range(0, load.registers, WATCHED)]}
            for h in range(load.hosts) for u in range(1, load.units + 1)]


def _point(device: str, n: int, period_s: float) -> dict[str, Any]:
    quality = {} if n % WATCHED else {"quality": {"rate_per_s": 1e6}}
    return {"id": f"{device}-p{n:02d}", "name": f"p{n}", "read": f"{device}.p{n:02d}", "poll_s": period_s,
            "report": {"every_s": 0}, **quality}


def write(folder: Path, site: dict[str, Any], registers: int) -> Path:
    """Write a configuration with the sensor model beside it; return its path."""
    sensors = folder / "sensors"
    sensors.mkdir(parents=True, exist_ok=True)
    (sensors / f"{MODEL}.yaml").write_text(yaml.safe_dump(model(registers), allow_unicode=True, sort_keys=False),
                                           encoding="utf-8")
    path = folder / "gateway.yaml"
    # Flow style, because ten thousand points are more than a file may be long otherwise.
    path.write_text(yaml.dump(site, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True,
                              sort_keys=False, default_flow_style=True, width=1 << 24), encoding="utf-8")
    return path


def load_site(load: Load, ports: list[int], mqtt_port: int, folder: Path, staging: Path, *, commit_s: float,
              detector: bool, platform: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the whole configuration; `platform`: more of its keys."""
    return {
        "version": 1, "gateway": {"id": "bench", "name": "压测 bench"}, "wires": wires(load, ports),
        "objects": objects(load),
        "platforms": [{"id": "county", "host": "127.0.0.1", "port": mqtt_port} | (platform or {})],
        "journal": {"folder": str(folder / "state"), "staging": str(staging), "commit_s": commit_s},
        "control": {"socket": str(folder / "control.sock")}, "detector": {"enabled": detector},
    }
