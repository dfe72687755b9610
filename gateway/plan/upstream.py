"""What one platform costs a SIM card in a month, up and down, to the last header.

Owns: the price of a message on the network. Promises: payloads come from the profile's own encoder over made-up
readings; every MQTT, TLS, TCP and IP byte is counted in both directions. Estimated, and said so: how often a
connection breaks, what a handshake takes, the size of `diag`, and that nothing is sent twice. Never: does I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

import drivers
from gateway.config import Config, Platform
from gateway.model import SAMPLE, Colour, Door, Inventory, PresentObject, Row, Samples
from gateway.plan.flash import Rows
from gateway.plan.timeline import Timeline
from gateway.uplink.profiles.default import Default, Meaning

MONTH_S = 30 * 86400.0
RECONNECTS_DAY = 4.0
"""Assumed: mobile networks drop what they know of a connection, cells change, routers restart."""
HANDSHAKE_BYTES = 4500
"""Assumed: TLS 1.3 with a chain of two certificates on the broker's side and one on ours, both directions."""
TLS_RECORD, TLS_MOST = 22, 16384
"""TLS 1.3: header, type and tag of a record; what one carries."""
HEADERS = 52
"""IPv4 20, TCP 20, timestamps 12."""
SEGMENT = 1348
"""What a mobile network's MTU of 1400 leaves."""
MESSAGE_BYTES = 32_000
PARTS = ("data", "warn", "diag", "ping", "connect")
_DOOR = Door("0123456789abcdef0123456789abcdef", 1_790_000_000_000, "synced")
_EPOCH = "0123456789abcdef"
_SEQ = 10_000_000


class Upstream(Struct, frozen=True, kw_only=True):
    """Bytes of one platform in a month."""

    platform: str
    parts: Mapping[str, float]
    """PARTS → bytes."""
    messages: float
    """MQTT messages."""
    payload: float
    """Of the readings alone, in bytes."""

    @property
    def bytes(self) -> float:
        """All of it."""
        return math.fsum(self.parts.values())


def typical(inventory: Inventory, count: int) -> Samples:
    """Make up good readings of all points in turn: any value of the range, at the point's resolution."""
    points = inventory.points
    rng = np.random.default_rng(1)
    made = np.zeros(count, SAMPLE)
    made["point"] = index = np.arange(count) % max(1, len(points))
    made["flag"] = 1
    made["t_ms"] = np.sort(86_400_000 + rng.integers(0, 10_000, count))
    low = np.array([0.0 if p.low is None else p.low for p in points] or [0.0])[index]
    high = np.array([p.high if p.high is not None else (p.low or 0.0) + 1000 * p.resolution for p in points]
                    or [1.0])[index]
    step = np.array([p.resolution for p in points] or [1.0])[index]
    made["value"] = np.rint(rng.uniform(low, high) / step) * step
    return made


def on_wire(payload: int, topic: int, is_5: bool, tls: bool) -> int:
    """Bytes of a QoS 1 publish, its acknowledgement, and everybody's TCP acknowledgements."""
    body = 2 + topic + 2 + is_5 + payload
    packet = 1 + (1 if body < 128 else 2 if body < 16384 else 3) + body
    return _segments(packet, tls, answered=True) + _segments(4, tls, answered=True) + HEADERS


def _segments(packet: int, tls: bool, answered: bool) -> int:
    """Bytes of one write; `answered`: its last acknowledgement travels with an answer."""
    size = packet + (math.ceil(packet / TLS_MOST) * TLS_RECORD if tls else 0)
    pieces = math.ceil(size / SEGMENT)
    acks = pieces // 2 - (pieces % 2 == 0 and answered) + (not answered and pieces % 2)
    return size + HEADERS * (pieces + max(0, acks))


def ping(tls: bool) -> int:
    """Bytes of a PINGREQ and its PINGRESP."""
    return 2 * _segments(2, tls, answered=True) + HEADERS


class Site:
    """What all platforms of a box have in common."""

    def __init__(self, config: Config, inventory: Inventory, timeline: Timeline, rows: Rows) -> None:
        self.config, self.inventory, self.timeline = config, inventory, timeline
        self._rows = rows
        gateway = config.gateway
        self._profile = Default(gateway.root, gateway.id, {p.point: p.name for p in inventory.points})
        self._meaning = Meaning(inventory, 1)
        self._present = [PresentObject(object=o.id, name=o.name, hazard=o.hazard, service=o.service, colour=Colour.NONE,
                                       status="Actual" if o.service == "in_service" else "Test")
                         for o in config.objects]

    def upstream(self, platform: Platform) -> Upstream:
        """Reckon one platform."""
        month = MONTH_S / self.timeline.seconds
        is_5, tls = platform.mqtt == "5", platform.tls is not None
        payload, data, sent = self._data(is_5, tls)
        warns = [self._wire(self._warn(o, platform), f"warn/{o.object}", is_5, tls) for o in self._present]
        looks = MONTH_S / platform.warn_every_s
        diags = MONTH_S / platform.diag_every_s
        diag = len(self._profile.diag(_SEQ, _DOOR, self._health()))
        topic = len(self._profile.topic("diag"))
        connects = RECONNECTS_DAY * MONTH_S / 86400
        connect = self._connect(platform, is_5, tls) + sum(warns)
        parts = {"data": data * month, "warn": sum(warns) * looks,
                 "diag": _segments(3 + 2 + topic + is_5 + diag, tls, answered=False) * diags,
                 "ping": self._pings(platform) * month * ping(tls), "connect": connect * connects}
        return Upstream(platform=platform.id, parts=parts, payload=payload * month,
                        messages=sent * month + len(warns) * looks + diags + connects * (3 + len(warns)))

    def _wire(self, payload: bytes, topic: str, is_5: bool, tls: bool) -> int:
        return on_wire(len(payload), len(self._profile.topic(topic)), is_5, tls)

    def _data(self, is_5: bool, tls: bool) -> tuple[float, float, int]:
        """(payload, on the network, messages) of the readings in the timeline."""
        average, row, head = self._sizes()
        topic = len(self._profile.topic("data"))
        payload = network = 0.0
        messages = 0
        for commit in self.timeline.data:
            rows = self._rows.split(commit.readings)
            size = head + sum(row + count * average for count in rows)
            parts = math.ceil(size / MESSAGE_BYTES)
            size += (parts - 1) * head
            payload += size
            messages += parts
            network += parts * on_wire(round(size / parts), topic, is_5, tls)
        return payload, network, messages

    def _sizes(self) -> tuple[float, int, int]:
        """Bytes of a reading (by how often each point is reported), of a row and of a message without readings."""
        row = Row(epoch=_EPOCH, lane="data", seq=_SEQ, inventory=1, door=_DOOR, count=0, body=b"")
        n = len(self.inventory.points)
        made = typical(self.inventory, 16 * max(1, n))
        bare = len(self._profile.row(row, made[:0], self._meaning, _never))
        each = np.array([len(self._profile.row(row, made[k::n], self._meaning, _never)) - bare + 1 for k in range(n)])
        reports = self.timeline.reports
        average = float((each * reports).sum() / max(1.0, reports.sum())) / 16 if n else 0.0
        return average, bare + 1, len(self._profile.message(row, _SEQ, []))

    def _warn(self, one: PresentObject, platform: Platform) -> bytes:
        return self._profile.warn(one, 86_400_000, _DOOR, 3 * platform.warn_every_s)

    def _pings(self, platform: Platform) -> int:
        """Pauses longer than the keepalive, in the timeline."""
        seconds = self.timeline.seconds
        times = np.sort(np.concatenate([np.array([0.0, seconds] + [c.at_s for c in self.timeline.data]),
                                        np.arange(0, seconds, platform.warn_every_s)]))
        pauses = np.diff(times)
        return int(np.floor(pauses / platform.keepalive_s).sum())

    def _connect(self, platform: Platform, is_5: bool, tls: bool) -> float:
        profile, config, gateway = self._profile, self.config, self.config.gateway
        session = "0" * 12
        facts = {"name": gateway.name, "version": "0.0.0", "promises": {"commit_s": 10.0, "stored": False},
                 "objects": [{"object": o.id, "name": o.name, "hazard": o.hazard, "code": o.code, "service": o.service,
                              "people": o.people, "position": o.position} for o in config.objects],
                 "streams": [{"epoch": _EPOCH, "lane": lane, "oldest": _SEQ, "next": _SEQ, "records": _SEQ}
                             for lane in ("alarm", "event", "data")]}
        will = profile.state(False, session, reason="lost")
        named = len(platform.client_id or gateway.id) + len(platform.username or "") + 32
        asked = 10 + 2 + 2 * is_5 + named + len(profile.topic("state")) + len(will)
        first = {"state": profile.state(True, session, since=_SEQ), "birth": profile.birth(facts, session, _SEQ, _DOOR),
                 "inventory/1": profile.inventory(self.inventory)}
        return (3 * 60 + 4 * HEADERS + (HANDSHAKE_BYTES + 8 * HEADERS) * tls + _segments(asked, tls, answered=True)
                + _segments(20, tls, answered=False)
                + sum(self._wire(payload, topic, is_5, tls) for topic, payload in first.items()))

    def _health(self) -> dict[str, Any]:
        """A document as `mingluo status` has it, as long as that of a box that is well."""
        config = self.config
        objects = [msgspec.to_builtins(o) | {"since_s": 0.0} for o in self._present]
        wires = [{"wire": w.id, "driver": w.driver, "port": getattr(w, "port", ""), "state": "running", "error": "",
                  "devices": [msgspec.to_builtins(drivers.Health(d.id, "ok", _SEQ, _SEQ, {}, 12.345))
                              for d in getattr(w, "devices", ())]} for w in config.wires]
        workers = [{"worker": "uplink county", "state": "running", "alive_s": 0.012, "restarts": 0, "last_error": "",
                    "faults": 0}] * (6 + len(config.wires) + len(config.platforms))
        return {"objects": objects, "wires": wires, "workers": workers,
                "outputs": [{"output": o.id, "on": False, "colour": "none", "silenced": False, "alarm": "", "fault": ""}
                            for o in config.outputs],
                "platforms": ["x" * 420 for _ in config.platforms], "rest": "x" * 1050}


def _never(_t_ms: int) -> bool:
    return False


def total(found: Sequence[Upstream]) -> float:
    """Bytes of all platforms: they share the card."""
    return math.fsum(one.bytes for one in found)
