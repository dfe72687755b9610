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
from gateway.uplink.message import Message, squeezed
from gateway.uplink.profile import Profile, Talk
from gateway.uplink.profiles import make

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
_TALK = Talk("0" * 12, 1_790_000_000_000, _DOOR)


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
        self._present = [PresentObject(object=o.id, name=o.name, hazard=o.hazard, service=o.service, colour=Colour.NONE,
                                       status="Actual" if o.service == "in_service" else "Test")
                         for o in config.objects]

    def upstream(self, platform: Platform) -> Upstream:
        """Reckon one platform."""
        gateway = self.config.gateway
        profile = make(platform, gateway.root, gateway.id, {p.point: p.name for p in self.inventory.points})
        month = MONTH_S / self.timeline.seconds
        is_5, tls = platform.mqtt == "5", platform.tls is not None
        payload, data, sent = self._data(profile, platform)
        valid_s = 3 * platform.warn_every_s
        warns = [_wire(profile.warn(o, _DOOR, 86_400_000, valid_s), platform) for o in self._present]
        looks = MONTH_S / platform.warn_every_s
        diags = MONTH_S / platform.diag_every_s
        diag = profile.diag(_TALK, self._health())
        diag_bytes = 0 if diag is None else _segments(3 + 2 + len(diag.topic) + is_5 + _size(diag, platform), tls,
                                                      answered=False)
        connects = RECONNECTS_DAY * MONTH_S / 86400
        connect = self._connect(profile, platform) + sum(warns)
        parts = {"data": data * month, "warn": sum(warns) * looks, "diag": diag_bytes * diags,
                 "ping": self._pings(platform) * month * ping(tls), "connect": connect * connects}
        return Upstream(platform=platform.id, parts=parts, payload=payload * month,
                        messages=sent * month + len(warns) * looks + diags + connects * (3 + len(warns)))

    def _data(self, profile: Profile, platform: Platform) -> tuple[float, float, int]:
        """(payload, on the network, messages) of the readings in the timeline."""
        average, row, head, squeeze, topic = self._sizes(profile, platform)
        is_5, tls = platform.mqtt == "5", platform.tls is not None
        payload = network = 0.0
        messages = 0
        for commit in self.timeline.data:
            rows = self._rows.split(commit.readings)
            size = head + sum(row + count * average for count in rows)
            parts = math.ceil(size / MESSAGE_BYTES)
            size = (size + (parts - 1) * head) * squeeze
            payload += size
            messages += parts
            network += parts * on_wire(round(size / parts), topic, is_5, tls)
        return payload, network, messages

    def _sizes(self, profile: Profile, platform: Platform) -> tuple[float, int, int, float, int]:
        """Bytes of a reading, of a row and of a message without readings; what compression leaves; and the topic's.

        By name a reading counts as often as its point is reported. By position all points are taken to be reported
        together.
        """
        row = Row(epoch=_EPOCH, lane="data", seq=_SEQ, inventory=1, door=_DOOR, count=0, body=b"")
        meaning = profile.meaning(self.inventory, 1)
        n = len(self.inventory.points)

        def size(samples: Samples) -> int:
            part = profile.row(row, samples, meaning, _never)
            return 0 if part is None else part.size_bytes

        made = typical(self.inventory, 16 * max(1, n))
        average, bare = 0.0, 0
        if n and platform.compact:
            made["t_ms"] = 86_400_000 + np.arange(len(made)) // n * 1000
            bare = 2 * size(made[:n]) - size(made[:2 * n])
            average = (size(made) - bare) / len(made)
        elif n:
            one = np.array([size(made[k:k + 1]) for k in range(n)])
            each = np.array([size(made[k::n]) for k in range(n)])
            reports = self.timeline.reports
            average = float(((each - one) * reports).sum() / max(1.0, reports.sum())) / 15
            bare = round(float(one.mean()) - average)
        whole = profile.message("data", [row], [profile.row(row, made[:350], meaning, _never)])
        head = profile.message("data", [row], [None])
        if whole is None:
            return 0.0, 0, 0, 1.0, 0
        squeeze = _size(whole, platform) / len(whole.payload)
        return average, bare + 1, 0 if head is None else len(head.payload), squeeze, len(whole.topic)

    def _pings(self, platform: Platform) -> int:
        """Pauses longer than the keepalive, in the timeline."""
        seconds = self.timeline.seconds
        times = np.sort(np.concatenate([np.array([0.0, seconds] + [c.at_s for c in self.timeline.data]),
                                        np.arange(0, seconds, platform.warn_every_s)]))
        pauses = np.diff(times)
        return int(np.floor(pauses / platform.keepalive_s).sum())

    def _connect(self, profile: Profile, platform: Platform) -> float:
        config, gateway = self.config, self.config.gateway
        is_5, tls = platform.mqtt == "5", platform.tls is not None
        facts = {"name": gateway.name, "version": "0.0.0", "promises": {"commit_s": 10.0, "settled_on": "stored"},
                 "link": "normal", "nonce": _EPOCH,
                 "objects": [{"object": o.id, "name": o.name, "hazard": o.hazard, "code": o.code, "service": o.service,
                              "people": o.people, "position": o.position} for o in config.objects],
                 "streams": [{"epoch": _EPOCH, "lane": lane, "oldest_seq": _SEQ, "next_seq": _SEQ, "closed": False}
                             for lane in ("alarm", "event", "data")]}
        will = profile.will(_TALK.session)
        named = len(platform.client_id or gateway.id) + len(platform.username or "") + 32
        asked = 10 + 2 + 2 * is_5 + named + len(will.topic) + _size(will, platform)
        subscribe = sum(5 + len(topic) for topic in profile.subscriptions)
        first = [*profile.hello(_TALK, facts), *profile.inventory(self.inventory, lambda _: True)]
        return (3 * 60 + 4 * HEADERS + (HANDSHAKE_BYTES + 8 * HEADERS) * tls + _segments(asked, tls, answered=True)
                + _segments(20, tls, answered=False) + 2 * _segments(10 + subscribe, tls, answered=True)
                + sum(_wire(message, platform) for message in first))

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


def _size(message: Message, platform: Platform) -> int:
    return len(squeezed(message, platform.compress).payload)


def _wire(message: Message | None, platform: Platform) -> int:
    return 0 if message is None else on_wire(_size(message, platform), len(message.topic), platform.mqtt == "5",
                                             platform.tls is not None)


def _never(_t_ms: int) -> bool:
    return False


def total(found: Sequence[Upstream]) -> float:
    """Bytes of all platforms: they share the card."""
    return math.fsum(one.bytes for one in found)
