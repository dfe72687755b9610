"""Sites for tests of the whole box: a configuration as data, written where a Rig runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hil.audit import Answer
from hil.broker import free_port
from hil.rig import Rig

SIREN, STROBE, BUTTON = 17, 27, 24
RED_MM = 60.0
HANDING_S = 0.1
"""An answer this close to the death of the process may not have been handed over: read, judged and staged."""
APPROVED = {"approved_by": "测试局", "approved_on": "2026-05-01", "yellow": "none", "orange": "none",
            "red": "automatic"}


def site(folder: Path, **changes: Any) -> Path:
    """Write a small slope site to `folder` and return its path; `changes` replace whole top-level sections."""
    whole: dict[str, Any] = {
        "version": 1,
        "demo": True,
        "gateway": {"id": "box-1", "name": "测试站"},
        "wires": [
            {"id": "bus-a", "driver": "modbus", "port": "bus-a",
             "serial": {"baud": 115200, "parity": "none", "stop_bits": 1},
             "devices": [{"id": "crack", "template": "crack-cable-bolin", "address": 3}]},
            {"id": "pins", "driver": "gpio", "port": "mock:pins.sock", "devices": [
                {"id": "ack-button", "kind": "button", "pin": BUTTON, "pull": "up", "active": "low"}]},
        ],
        "objects": [slope()],
        "outputs": [{"id": "siren-1", "kind": "siren", "wire": "pins", "pin": SIREN, "active": "high"},
                    {"id": "strobe-1", "kind": "strobe", "wire": "pins", "pin": STROBE, "active": "high"}],
        "buttons": [{"read": "ack-button.state", "does": ["acknowledge", "silence"], "object": "slope",
                     "who": "责任人"}],
        "platforms": [{"id": "county", "host": "127.0.0.1", "port": free_port(), "warn_every_s": 2}],
        "journal": {"folder": "state", "staging": "run/staging", "commit_s": 1},
        "control": {"socket": "run/control.sock"},
    }
    whole |= changes
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(whole, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def slope(*, poll_s: float = 0.1, latch: tuple[str, ...] = ("red",), service: str = "in_service",
          **rule: Any) -> dict[str, Any]:
    """One object: a crack meter with one rule."""
    return {
        "id": "slope", "name": "后山滑坡", "hazard": "slope", "service": service,
        "points": [{"id": "crack-1", "name": "1号裂缝", "read": "crack.displacement", "poll_s": poll_s,
                    "report": {"every_s": 0}}],
        "rules": [{"id": "crack-level", "point": "crack-1", "above": {"yellow": 20, "red": RED_MM},
                   "off_delay_s": 0, "latch": list(latch)} | rule],
        "outputs": ["siren-1", "strobe-1"],
        "authority": APPROVED,
    }


def lost_but_for(rig: Rig, kills_s: list[float]) -> list[Answer]:
    """What was on a wire and is not at the county, but for answers at the moment of a kill (monotonic seconds)."""
    return [a for a in rig.audit().lost
            if not any(abs(kill_s - (a.at_s - rig.offset_s)) <= HANDING_S for kill_s in kills_s)]
