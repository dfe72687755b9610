"""ThingsBoard's MQTT gateway API: each object of the box is a device of its own.

Owns: the mapping. Promises: a value that cannot be believed is never a number there; a test never touches the key that
alarm rules look at; two readings of one point and millisecond are both kept (the second one millisecond later); what
ThingsBoard would file under the wrong time waits until it can be dated, but for alarms, which go without a time.
Never: does I/O, keeps rows.

Topics and shapes: ThingsBoard documentation, "MQTT Gateway API" and "MQTT Device API" (thingsboard.io/docs/reference).
A device is called ``{gateway}/{object}``; what is of no object is the gateway's own device. Keys of telemetry are point
ids; ``{point}_quality`` and ``{point}_reason`` come when the quality is not good, and once when it is again;
``{point}_test`` holds what is not Actual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import DecodeError, json

from gateway.model import REASONS, STATUSES, Door, Event, Inventory, PresentObject, Row, Samples
from gateway.uplink.message import Message
from gateway.uplink.profile import Heard, Order, Outcome, Part, Talk, Topic
from gateway.uplink.profiles.columns import Meaning
from gateway.uplink.reader import Decoded

ME = "v1/devices/me/"
_encode = json.Encoder().encode
_BELIEVED = (1, 2, 3)
Telemetry = dict[str, list[dict[str, Any]]]
"""Device → entries ``{"ts", "values"}``."""


class _Points:
    """An inventory: names and roundings, and which object each point is of."""

    def __init__(self, inventory: Inventory | None, n: int) -> None:
        self.columns = Meaning(inventory, n)
        self.objects = [p.object for p in inventory.points] if inventory is not None else []


class ThingsBoard:
    """One gateway of a ThingsBoard."""

    keyed_by_time = True
    subscriptions: tuple[str, ...] = ("v1/gateway/rpc", ME + "rpc/request/+")

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self._session = ""
        self._flags: dict[str, int] = {}
        """The quality last told of each point."""

    def _device(self, name: str) -> str:
        return f"{self.gateway}/{name}"

    def will(self, session: str) -> Message:
        """An attribute of the gateway's own device; ThingsBoard's own notion of activity needs none."""
        return Message(ME + "attributes", _encode({"online": False, "session": session}))

    def hello(self, talk: Talk, facts: Mapping[str, Any]) -> Sequence[Message]:
        """Connect each object, and tell what it is."""
        self._session = talk.session
        self._flags.clear()
        objects = facts.get("objects", ())
        own = {"online": True, "session": talk.session, "name": facts.get("name"), "version": facts.get("version"),
               "clock": talk.door.trust, **facts.get("promises", {})}
        out = [Message(ME + "attributes", _encode({k: v for k, v in own.items() if v is not None}))]
        out += [Message("v1/gateway/connect", _encode({"device": self._device(o["object"]), "type": o.get(
            "hazard", "default")})) for o in objects]
        if objects:
            out.append(Message("v1/gateway/attributes", _encode({
                self._device(o["object"]): _flat(o) for o in objects})))
        return out

    def bye(self, talk: Talk) -> Sequence[Message]:
        """Offline, in order."""
        return (Message(ME + "attributes", _encode({"online": False, "session": talk.session})),)

    def inventory(self, inventory: Inventory, wanted: Callable[[str], bool]) -> Sequence[Message]:
        """Units are attributes of the device."""
        units: dict[str, dict[str, str]] = {}
        for p in inventory.points:
            if wanted(p.point) and p.object:
                units.setdefault(self._device(p.object), {})[f"{p.point}_unit"] = p.unit
        return (Message("v1/gateway/attributes", _encode(units)),) if units else ()

    def meaning(self, inventory: Inventory | None, n: int) -> _Points:
        """Names, roundings, objects."""
        return _Points(inventory, n)

    def row(self, row: Row, decoded: Decoded, meaning: _Points, past: Callable[[int], bool]) -> Part | None:
        """One row as telemetry.

        Raises:
            ValueError: the row names a point its inventory does not have.
        """
        told: Telemetry = {}
        if isinstance(decoded, list):
            for event in decoded:
                self._event(told, event, row.door, past(event.t_ms))
        else:
            self._readings(told, decoded, meaning, row.door.offset_ms)
        return Part(len(_encode(told)), told) if told else None

    def _readings(self, told: Telemetry, samples: Samples, points: _Points, offset_ms: int) -> None:
        names, values = points.columns.columns(samples["point"], samples["value"])
        at: dict[tuple[str, int], dict[str, Any]] = {}
        for name, point, t_ms, value, flag, reason, status in zip(
                names, samples["point"].tolist(), samples["t_ms"].tolist(), values, samples["flag"].tolist(),
                samples["reason"].tolist(), samples["status"].tolist(), strict=True):
            said: dict[str, Any] = {}
            if value == value and flag in _BELIEVED:
                said[name if STATUSES[status] == "Actual" else f"{name}_test"] = value
            if flag != self._flags.get(name, 0):
                said[f"{name}_quality"] = flag
                said[f"{name}_reason"] = str(REASONS[reason]) if reason < len(REASONS) else "unknown"
                self._flags[name] = flag
            device = self._device(points.objects[point]) if point < len(points.objects) else self.gateway
            ts = t_ms + offset_ms
            while not at.setdefault((device, ts), {}).keys().isdisjoint(said):
                ts += 1
            at[device, ts] |= said
        for (device, ts), said in at.items():
            if said:
                told.setdefault(device, []).append({"ts": ts, "values": said})

    def _event(self, told: Telemetry, event: Event, door: Door, past: bool) -> None:
        said: dict[str, Any] = {"event": event.kind, "event_text": event.text_zh or event.text_en}
        if event.kind.startswith("alarm."):
            said["alarm"] = event.alarm
            if event.status == "Actual" and not past:
                said["alarm_colour"] = event.colour
        if event.status != "Actual":
            said["event_status"] = event.status
        device = self._device(event.object) if event.object else self.gateway
        # Without a time ThingsBoard takes the moment of arrival.
        told.setdefault(device, []).append(said if door.trust == "unset" else
                                           {"ts": event.t_ms + door.offset_ms, "values": said})

    def message(self, topic: Topic, rows: Sequence[Row], parts: Sequence[Part | None]) -> Message | None:
        """All rows' telemetry together; the gateway's own device is one among the others."""
        told: Telemetry = {}
        for part in parts:
            for device, entries in (part.content if part is not None else {}).items():
                told.setdefault(device, []).extend(entries)
        return Message("v1/gateway/telemetry", _encode(told)) if told else None

    def warn(self, o: PresentObject, door: Door, t_ms: int, valid_s: float) -> Message | None:
        """The present state as attributes; ThingsBoard has no notion of its expiry, so it is one of them."""
        as_of = t_ms + door.offset_ms
        return Message("v1/gateway/attributes", _encode({self._device(o.object): {
            "colour": o.colour, "alarm_colour": o.alarm_colour, "acknowledged": o.acknowledged, "service": o.service,
            "status": o.status, "as_of": as_of, "valid_until": as_of + round(valid_s * 1000)}}))

    def diag(self, talk: Talk, facts: Mapping[str, Any]) -> Message | None:
        """The numbers of the box as telemetry of its own device."""
        journal, box = facts.get("journal", {}), facts.get("gateway", {})
        said = {"uptime_s": box.get("uptime_s"), "journal_rows": journal.get("rows"),
                "journal_bytes": journal.get("bytes"), "clock": talk.door.trust}
        return Message(ME + "telemetry", _encode({k: v for k, v in said.items() if v is not None}), qos=0)

    def ask_time(self, name: str, door: Door) -> Message | None:
        """ThingsBoard tells nobody the time."""
        return None

    def hear(self, topic: str, payload: bytes) -> Heard | None:
        """A server-side RPC to an object, or to the gateway itself.

        Raises:
            ValueError: it is none.
        """
        try:
            said = json.decode(payload, type=dict[str, Any])
            if topic == "v1/gateway/rpc":
                device, call = str(said["device"]), said["data"]
                number = call["id"]
            elif topic.startswith(ME + "rpc/request/"):
                device, call, number = "", said, topic.rsplit("/", 1)[1]
            else:
                return None
            arguments = dict(call.get("params") or {})
            if device.startswith(f"{self.gateway}/"):
                arguments.setdefault("object", device.removeprefix(f"{self.gateway}/"))
            # Numbers begin anew with each connection, so the session is part of the name.
            return Order(id=f"{self._session}-{device}-{number}"[:64], name=str(call["method"])[:64], by="ThingsBoard",
                         fresh=True, arguments=arguments, reply_to=(device, number))
        except (DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{topic}: not an RPC: {error!r}") from error

    def reply(self, order: Order, outcome: Outcome, t: int) -> Message | None:
        """The answer to an RPC."""
        device, number = order.reply_to or ("", "")
        body = {"success": outcome.ok, "text_zh": outcome.text_zh, "text_en": outcome.text_en}
        if device:
            return Message("v1/gateway/rpc", _encode({"device": device, "id": number, "data": body}))
        return Message(f"{ME}rpc/response/{number}", _encode(body))


def _flat(o: Mapping[str, Any]) -> dict[str, Any]:
    """An object of birth as attributes."""
    out = {key: o[key] for key in ("name", "hazard", "code", "people", "service") if o.get(key) not in (None, "")}
    position = o.get("position")
    if position is not None:
        get = position.get if isinstance(position, Mapping) else lambda key: getattr(position, key)
        out |= {"latitude": get("lat"), "longitude": get("lon"), "datum": get("datum")}
    return out
