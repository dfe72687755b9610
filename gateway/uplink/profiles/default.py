"""The default profile: topics and JSON a county's programmer reads without us.

Owns: every topic name and every key of contract version 1 (CONTRACT.md beside `uplink` shows one message a topic).
Promises: UTF-8 JSON, Chinese in clear; times are integer ms UTC; numbers rounded to the point's resolution; a value
that cannot be believed is null or carries its flag and reason. Never: does I/O, reads a clock, keeps rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import DecodeError, Meta, Struct, ValidationError, convert, json, structs

from gateway.model import (
    Colour,
    Door,
    Event,
    Inventory,
    InventoryPoint,
    PresentObject,
    Row,
    Why,
)
from gateway.uplink.message import Message
from gateway.uplink.profile import Heard, Mark, Order, Outcome, Part, Receipt, Talk, TimeAnswer, Topic
from gateway.uplink.profiles.columns import Meaning, columns, readings
from gateway.uplink.reader import Decoded

VERSION = 1
_encode = json.Encoder().encode

_COLOUR_ZH = {Colour.NONE: "无预警", Colour.BLUE: "蓝色预警", Colour.YELLOW: "黄色预警", Colour.ORANGE: "橙色预警",
              Colour.RED: "红色预警", Colour.UNKNOWN: "情况不明"}
_STATUS_ZH = {"Actual": "", "Exercise": "【演练】", "Test": "【测试】"}


JSON = "application/json"
_ORDERS = ("ack", "silence", "clear", "confirm", "refuse", "service", "replay", "read_now")
Seq = Annotated[int, Meta(ge=0, lt=1 << 40)]
Word = Annotated[str, Meta(max_length=64)]


class _Stored(Struct):
    """One stream of a `stored` receipt."""

    epoch: Word
    lane: Literal["alarm", "event", "data"]
    up_to: Seq
    ranges: Annotated[tuple[tuple[Seq, Seq], ...], Meta(max_length=1000)] = ()


class _Receipt(Struct):
    v: Literal[1]
    streams: Annotated[tuple[_Stored, ...], Meta(max_length=1000)]


class _Time(Struct):
    v: Literal[1]
    id: Word
    utc_ms: Annotated[int, Meta(ge=0, lt=1 << 48)]


class _Command(Struct):
    """The envelope of every `cmd/{name}`; what is left are its arguments."""

    v: Literal[1]
    id: Annotated[str, Meta(min_length=1, max_length=64)]
    by: Annotated[str, Meta(max_length=100)] = ""
    role: Annotated[str, Meta(max_length=100)] = ""
    expires: Annotated[int, Meta(ge=0, lt=1 << 48)] | None = None
    nonce: Word = ""


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


class Default:
    """Topics and bodies for one gateway and one connection after another."""

    keyed_by_time = False

    def __init__(self, root: str, gateway: str, names: Mapping[str, str] | None = None, *,
                 compact: bool = False) -> None:
        """`names`: point id → what people call it, for the Chinese sentences of `warn`."""
        self.gateway = gateway
        self._base = f"{root}/{VERSION}/{gateway}/"
        self._names = names or {}
        self._compact = compact
        self.subscriptions = tuple(self._base + name for name in ("stored", "cmd/+", "time/answer"))

    def topic(self, name: str) -> str:
        """A topic by its last part: ``state``, ``birth``, ``data``, ``warn/slope``."""
        return self._base + name

    def _head(self) -> dict[str, Any]:
        return {"v": VERSION, "gateway": self.gateway}

    def _say(self, name: str, body: bytes, *, retain: bool = False, qos: int = 1,
             expiry_s: int | None = None) -> Message:
        return Message(self._base + name, body, retain, qos, expiry_s, JSON)

    # who we are

    def _state(self, online: bool, session: str, **more: Any) -> Message:
        """Retained, and the last will: believe an offline only when its session is the one last seen online."""
        return self._say("state", _encode(self._head() | {"online": online, "session": session} | more), retain=True)

    def will(self, session: str) -> Message:
        """`state`, offline."""
        return self._state(False, session, reason="lost")

    def hello(self, talk: Talk, facts: Mapping[str, Any]) -> Sequence[Message]:
        """`state` and `birth`: what this box is, what it watches, which promises hold."""
        return (self._state(True, talk.session, since=talk.t),
                self._say("birth", _encode(self._head() | {
                    "session": talk.session, "t": talk.t, "boot": talk.door.boot, "clock": {"trust": talk.door.trust}}
                    | dict(facts)), retain=True))

    def bye(self, talk: Talk) -> Sequence[Message]:
        """`state`, stopped in order."""
        return (self._state(False, talk.session, t=talk.t, reason="stopped"),)

    # readings and events

    def inventory(self, inventory: Inventory, wanted: Callable[[str], bool]) -> Sequence[Message]:
        """The list a row's point ids come from: units, resolution, reporting, origin. Others' points are null."""
        head = _encode(self._head() | {"inventory": inventory.n})
        points = (_inventory_point(p) if wanted(p.point) else b"null" for p in inventory.points)
        return (self._say(f"inventory/{inventory.n}", head[:-1] + b',"points":[' + b",".join(points) + b"]}",
                          retain=True),)

    def meaning(self, inventory: Inventory | None, n: int) -> Meaning:
        """Names and roundings, laid out for whole columns."""
        return Meaning(inventory, n)

    def row(self, row: Row, decoded: Decoded, meaning: Meaning, past: Callable[[int], bool]) -> Part | None:
        """One row of a message; None when the filter left nothing of it (its seq is covered all the same).

        Raises:
            ValueError: the row names a point its inventory does not have.
        """
        if not len(decoded):
            return None
        head: dict[str, Any] = {"seq": row.seq, "offset_ms": row.door.offset_ms}
        if row.thinned:
            head["thinned"] = {"step": row.thinned, "of": row.of}
        if isinstance(decoded, list):
            head["events"] = [_event(e, row.door.offset_ms, past(e.t_ms)) for e in decoded]
        elif self._compact and meaning.known and row.thinned != "aggregate":
            head |= columns(decoded, meaning, row.door.offset_ms)
        else:
            head["readings"] = readings(decoded, meaning, row.door.offset_ms)
        body = _encode(head)
        return Part(len(body), body)

    def message(self, topic: Topic, rows: Sequence[Row], parts: Sequence[Part | None]) -> Message | None:
        """A message of whole rows with consecutive seqs and one header."""
        first = rows[0]
        head = self._head() | {
            "epoch": first.epoch, "lane": first.lane, "covers": [first.seq, rows[-1].seq],
            "inventory": first.inventory, "boot": first.door.boot, "clock": {"trust": first.door.trust}}
        if self._compact and first.lane == "data":
            head["compact"] = True
        body = b",".join([part.content for part in parts if part is not None])
        return self._say(topic, _encode(head)[:-1] + b',"rows":[' + body + b"]}")

    # the present

    def warn(self, o: PresentObject, door: Door, t_ms: int, valid_s: float) -> Message | None:
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
        return self._say(f"warn/{o.object}", _encode(self._head() | {
            "object": o.object, "name": o.name, "hazard": o.hazard, "service": o.service, "status": o.status,
            "colour": o.colour, "alarm": o.alarm or None, "alarm_colour": o.alarm_colour,
            "acknowledged": o.acknowledged, "since": o.since_ms + door.offset_ms if o.since_ms else None,
            "as_of": as_of, "valid_until": as_of + round(valid_s * 1000), "valid_s": valid_s, "boot": door.boot,
            "clock": {"trust": door.trust}, "why": [structs.asdict(w) for w in o.why], "lost": list(o.lost),
            "text_zh": zh, "text_en": en}), retain=True, expiry_s=math.ceil(valid_s))

    def diag(self, talk: Talk, facts: Mapping[str, Any]) -> Message | None:
        """The box's own health; QoS 0, nobody needs an old one."""
        return self._say("diag", _encode(self._head() | {
            "t": talk.t, "boot": talk.door.boot, "clock": {"trust": talk.door.trust}, "status": dict(facts)}), qos=0)

    # what the platform says

    def ask_time(self, name: str, door: Door) -> Message | None:
        """`time/ask`: an answer counts only while it is young, so an old question is worth nothing."""
        return self._say("time/ask", _encode(self._head() | {"id": name, "boot": door.boot}), qos=0, expiry_s=10)

    def hear(self, topic: str, payload: bytes) -> Heard | None:
        """`stored`, `cmd/{name}`, `time/answer`.

        Raises:
            ValueError: it is not what the contract says.
        """
        name = topic.removeprefix(self._base)
        try:
            if name == "stored":
                said = json.decode(payload, type=_Receipt)
                return Receipt(tuple(Mark(s.epoch, s.lane, s.up_to, s.ranges) for s in said.streams))
            if name == "time/answer":
                answer = json.decode(payload, type=_Time)
                return TimeAnswer(answer.id, answer.utc_ms)
            if name.startswith("cmd/"):
                return self._order(name.removeprefix("cmd/"), payload)
        except (ValidationError, DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{topic}: {error}; see the MQTT contract in gateway/uplink/CONTRACT.md") from error
        return None

    def _order(self, name: str, payload: bytes) -> Order:
        said = json.decode(payload, type=dict[str, Any])
        command = convert(said, _Command)
        return Order(id=command.id, name=name, by=command.by, role=command.role, expires=command.expires,
                     nonce=command.nonce, arguments={k: v for k, v in said.items() if k not in _ENVELOPE})

    def reply(self, order: Order, outcome: Outcome, t: int) -> Message | None:
        """`resp/{name}`; of no more use than the command itself."""
        name = order.name if order.name in _ORDERS else "unknown"
        return self._say(f"resp/{name}", _encode(self._head() | {
            "id": order.id, "ok": outcome.ok, "text_zh": outcome.text_zh, "text_en": outcome.text_en, "t": t}
            | dict(outcome.more)), expiry_s=86400)


_ENVELOPE = frozenset(_Command.__struct_fields__)
