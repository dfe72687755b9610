"""The default profile: topics and JSON a county's programmer reads without us.

Owns: every topic name and every key of contract version 1 (README.md beside `uplink` shows one message a topic).
Promises: UTF-8 JSON, Chinese in clear; times are integer ms UTC; numbers rounded to the point's resolution; a value
that cannot be believed is null or carries its flag and reason. Never: does I/O, reads a clock, keeps rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import repeat
from typing import Any

import numpy as np
from msgspec import Struct, json, structs

from gateway.model import (
    REASONS,
    STATUSES,
    Colour,
    Door,
    Event,
    Inventory,
    InventoryPoint,
    PresentObject,
    Row,
    Samples,
    Why,
)

VERSION = 1
_encode = json.Encoder().encode

_COLOUR_ZH = {Colour.NONE: "无预警", Colour.BLUE: "蓝色预警", Colour.YELLOW: "黄色预警", Colour.ORANGE: "橙色预警",
              Colour.RED: "红色预警", Colour.UNKNOWN: "情况不明"}
_STATUS_ZH = {"Actual": "", "Exercise": "【演练】", "Test": "【测试】"}


class _Reading(Struct, omit_defaults=True, gc=False):
    """One Sample on the wire. `reason` only when there is one."""

    point: str
    t: int
    value: float | None
    quality: int
    status: str
    reason: str = ""


def _words(words: Sequence[str]) -> Samples:
    out = np.empty(256, object)  # one per value of the uint8 column: a newer writer's word never raises
    out[:] = "unknown"
    out[:len(words)] = [str(w) for w in words]
    return out


_STATUS = _words(STATUSES)
_REASON = _words(REASONS)


def _decimals(resolution: float) -> int:
    """Decimals that show a resolution: 0.01 → 2, 0.25 → 2, 5 → 0."""
    if not resolution > 0:
        return 6
    exponent = Decimal(repr(float(resolution))).normalize().as_tuple().exponent
    return min(9, max(0, -int(exponent)))


class Meaning:
    """An inventory, laid out for whole columns."""

    def __init__(self, inventory: Inventory | None, n: int) -> None:
        points = inventory.points if inventory is not None else ()
        self.known = inventory is not None
        self._n = n
        self._names = np.array([p.point for p in points], object)
        self._scale = np.array([10.0 ** _decimals(p.resolution) for p in points])

    def columns(self, point: Samples, value: Samples) -> tuple[list[str], list[float]]:
        """Point ids and rounded values (NaN stays NaN, which JSON shows as null).

        Raises:
            ValueError: the inventory has no such point.
        """
        if not self.known:  # better a number nobody can name than a reading nobody gets
            return [f"{self._n}#{p}" for p in point.tolist()], value.tolist()
        try:
            scale = self._scale[point]
            return self._names[point].tolist(), (np.rint(value * scale) / scale + 0.0).tolist()
        except IndexError as error:
            raise ValueError(f"a row names a point beyond inventory {self._n}: {error}") from error


def readings(samples: Samples, meaning: Meaning, offset_ms: int) -> list[_Reading]:
    """Samples as they go on the wire."""
    names, values = meaning.columns(samples["point"], samples["value"])
    return list(map(_Reading, names, (samples["t_ms"] + offset_ms).tolist(), values, samples["flag"].tolist(),
                    _spelt(_STATUS, samples["status"]), _spelt(_REASON, samples["reason"])))


def _spelt(words: Samples, codes: Samples) -> Iterable[str]:
    """The words of a column; nearly always one word for all of it."""
    if len(codes) and not np.count_nonzero(codes != codes[0]):
        return repeat(words[codes[0]])
    spelt: list[str] = words[codes].tolist()
    return spelt


def _inventory_point(point: InventoryPoint) -> bytes:
    """One at a time: ten thousand points as dictionaries would be most of the memory this box takes."""
    return _encode({k: v for k, v in structs.asdict(point).items() if v is not None and v != ""})


def _event(event: Event, offset_ms: int, past: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"id": event.id, "kind": event.kind, "t": event.t_ms + offset_ms, "status": event.status}
    for key in ("object", "point", "alarm", "colour", "was", "who", "text_zh", "text_en", "why"):
        value = getattr(event, key)
        if value:
            out[key] = value
    if past:
        out["past"] = True
    return out


def _reason_zh(why: Why, names: Mapping[str, str]) -> str:
    value = "无数据" if why.value is None else f"{why.value:g} {why.unit}".rstrip()
    return f"{names.get(why.point, why.point)} {value}（限值 {why.limit:g} {why.unit}".rstrip() + "）"


def _reason_en(why: Why) -> str:
    value = "no data" if why.value is None else f"{why.value:g} {why.unit}".rstrip()
    return f"{why.point} {value} (limit {why.limit:g} {why.unit}".rstrip() + ")"


def shown(o: PresentObject) -> tuple[object, ...]:
    """What makes a snapshot worth sending before its renewal is due: everything but drifting values."""
    return (o.colour, o.alarm, o.alarm_colour, o.acknowledged, o.service, o.status, o.since_ms, o.lost,
            tuple((w.rule, w.point) for w in o.why))


class Default:
    """Topics and bodies for one gateway and one connection after another."""

    def __init__(self, root: str, gateway: str, names: Mapping[str, str] | None = None) -> None:
        """`names`: point id → what people call it, for the Chinese sentences of `warn`."""
        self.gateway = gateway
        self._base = f"{root}/{VERSION}/{gateway}/"
        self._names = names or {}

    def topic(self, name: str) -> str:
        """``state``, ``birth``, ``inventory/3``, ``data``, ``backlog``, ``event``, ``warn/slope``, ``diag``."""
        return self._base + name

    def _head(self) -> dict[str, Any]:
        return {"v": VERSION, "gateway": self.gateway}

    def state(self, online: bool, session: str, **more: Any) -> bytes:
        """Retained, and the last will: believe an offline only when its session is the one last seen online."""
        return _encode(self._head() | {"online": online, "session": session} | more)

    def birth(self, facts: Mapping[str, Any], session: str, t: int, door: Door) -> bytes:
        """What this box is, what it watches, which promises hold. `facts` come from the composition root."""
        return _encode(self._head() | {"session": session, "t": t, "boot": door.boot, "clock": {"trust": door.trust},
                                       "settled_on": "puback"} | dict(facts))

    def inventory(self, inventory: Inventory) -> bytes:
        """The list a row's point ids come from: units, resolution, reporting, origin."""
        head = _encode(self._head() | {"inventory": inventory.n})
        return head[:-1] + b',"points":[' + b",".join(map(_inventory_point, inventory.points)) + b"]}"

    def row(self, row: Row, decoded: Samples | list[Event], meaning: Meaning, past: Callable[[int], bool]) -> bytes:
        """One row of a message. `past(t_ms)` says whether an event of that monotonic time is history.

        Raises:
            ValueError: the row names a point its inventory does not have.
        """
        head: dict[str, Any] = {"seq": row.seq, "offset_ms": row.door.offset_ms}
        if isinstance(decoded, list):
            head["events"] = [_event(e, row.door.offset_ms, past(e.t_ms)) for e in decoded]
        else:
            head["readings"] = readings(decoded, meaning, row.door.offset_ms)
        return _encode(head)

    def message(self, first: Row, last_seq: int, rows: Sequence[bytes]) -> bytes:
        """A message of whole rows with consecutive seqs and one header."""
        head = _encode(self._head() | {
            "epoch": first.epoch, "lane": first.lane, "covers": [first.seq, last_seq], "inventory": first.inventory,
            "boot": first.door.boot, "clock": {"trust": first.door.trust}})
        return head[:-1] + b',"rows":[' + b",".join(rows) + b"]}"

    def warn(self, o: PresentObject, t_ms: int, door: Door, valid_s: float) -> bytes:
        """A snapshot of one object: `as_of` is when the judgement last looked, `valid_until` when to show it grey."""
        as_of = t_ms + door.offset_ms
        zh = _STATUS_ZH[o.status] + f"{o.name}：{_COLOUR_ZH[o.colour]}"
        en = ("" if o.status == "Actual" else f"[{o.status}] ") + f"{o.object}: {o.colour.value}"
        if o.alarm:
            zh += f"，{_COLOUR_ZH[o.alarm_colour].removesuffix('预警')}警报{'已确认' if o.acknowledged else '未确认'}"
            en += f", {o.alarm_colour.value} alarm {'acknowledged' if o.acknowledged else 'not acknowledged'}"
        if o.why:
            zh += "：" + "；".join(_reason_zh(w, self._names) for w in o.why)
            en += ": " + "; ".join(_reason_en(w) for w in o.why)
        if o.lost:
            zh += "；失去数据：" + "、".join(self._names.get(p, p) for p in o.lost)
            en += "; no data from " + ", ".join(o.lost)
        return _encode(self._head() | {
            "object": o.object, "name": o.name, "hazard": o.hazard, "service": o.service, "status": o.status,
            "colour": o.colour, "alarm": o.alarm or None, "alarm_colour": o.alarm_colour,
            "acknowledged": o.acknowledged, "since": o.since_ms + door.offset_ms if o.since_ms else None,
            "as_of": as_of, "valid_until": as_of + round(valid_s * 1000), "valid_s": valid_s, "boot": door.boot,
            "clock": {"trust": door.trust}, "why": [structs.asdict(w) for w in o.why], "lost": list(o.lost),
            "text_zh": zh, "text_en": en})

    def diag(self, t: int, door: Door, facts: Mapping[str, Any]) -> bytes:
        """The box's own health; QoS 0, nobody needs an old one."""
        return _encode(self._head() | {"t": t, "boot": door.boot, "clock": {"trust": door.trust}} | dict(facts))
