"""SenML (RFC 8428) as an encoding of readings; everything else is the default profile's.

Owns: packs of readings, their names, units and times. Promises: what a resolver of RFC 8428 §4.6 makes of a pack is
every reading that can be believed, in the registry's units, to the millisecond; doubt is a record of its own
(``{point}/quality``), so that a missing value is never a number. Never: does I/O, keeps rows.

A pack goes to ``{root}/1/{gateway}/senml/{data|backlog}/{epoch}/{first}-{last}``: the topic says which rows it covers,
as `covers` does elsewhere. Names are ``{gateway}/{point}``. Units are those of RFC 8428 §12.1 and RFC 8798; a quantity
they do not have comes without unit, in the inventory's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import json

from gateway.model import REASONS, STATUSES, Door, Inventory, PresentObject, Row
from gateway.uplink.message import Message
from gateway.uplink.profile import Heard, Order, Outcome, Part, Talk, Topic
from gateway.uplink.profiles.columns import Meaning
from gateway.uplink.profiles.default import Default
from gateway.uplink.reader import Decoded

TYPE = "application/senml+json"
UNITS: Mapping[str, tuple[str, float]] = {
    "m": ("m", 1), "mm": ("mm", 1), "cm": ("cm", 1), "km": ("km", 1), "s": ("s", 1), "min": ("min", 1), "h": ("h", 1),
    "°C": ("Cel", 1), "K": ("K", 1), "V": ("V", 1), "mV": ("mV", 1), "A": ("A", 1), "mA": ("mA", 1), "Hz": ("Hz", 1),
    "Pa": ("Pa", 1), "hPa": ("hPa", 1), "kPa": ("Pa", 1e3), "MPa": ("Pa", 1e6), "bar": ("Pa", 1e5), "m/s": ("m/s", 1),
    "m³/s": ("m3/s", 1), "m³/h": ("m3/s", 1 / 3600), "mm/h": ("mm/h", 1), "mm/min": ("mm/h", 60), "ppm": ("ppm", 1),
    "%": ("/100", 1), "%VOL": ("/100", 1), "%RH": ("%RH", 1), "pH": ("pH", 1), "dB": ("dB", 1), "dBm": ("dBm", 1),
    "µS/cm": ("S/m", 1e-4), "W/m²": ("W/m2", 1), "lx": ("lx", 1), "kg": ("kg", 1), "N": ("N", 1), "W": ("W", 1)}
"""Ours → the registry's, and what a value is multiplied by."""
_encode = json.Encoder().encode


class _Points:
    """An inventory: names, roundings, and units of the registry."""

    def __init__(self, inventory: Inventory | None, n: int) -> None:
        self.columns = Meaning(inventory, n)
        self.units = [UNITS.get(p.unit, ("", 1.0)) for p in inventory.points] if inventory is not None else []


class Senml:
    """The default profile with SenML for `data` and `backlog`."""

    keyed_by_time = True

    def __init__(self, default: Default) -> None:
        self._default = default
        self.gateway, self.subscriptions = default.gateway, default.subscriptions

    # everything but readings

    def will(self, session: str) -> Message:
        """As the default's."""
        return self._default.will(session)

    def hello(self, talk: Talk, facts: Mapping[str, Any]) -> Sequence[Message]:
        """As the default's."""
        return self._default.hello(talk, facts)

    def bye(self, talk: Talk) -> Sequence[Message]:
        """As the default's."""
        return self._default.bye(talk)

    def inventory(self, inventory: Inventory, wanted: Callable[[str], bool]) -> Sequence[Message]:
        """As the default's."""
        return self._default.inventory(inventory, wanted)

    def warn(self, o: PresentObject, door: Door, t_ms: int, valid_s: float) -> Message | None:
        """As the default's."""
        return self._default.warn(o, door, t_ms, valid_s)

    def diag(self, talk: Talk, facts: Mapping[str, Any]) -> Message | None:
        """As the default's."""
        return self._default.diag(talk, facts)

    def ask_time(self, name: str, door: Door) -> Message | None:
        """As the default's."""
        return self._default.ask_time(name, door)

    def hear(self, topic: str, payload: bytes) -> Heard | None:
        """As the default's."""
        return self._default.hear(topic, payload)

    def reply(self, order: Order, outcome: Outcome, t: int) -> Message | None:
        """As the default's."""
        return self._default.reply(order, outcome, t)

    # readings

    def meaning(self, inventory: Inventory | None, n: int) -> tuple[_Points, Meaning]:
        """For readings and for events."""
        points = _Points(inventory, n)
        return points, points.columns

    def row(self, row: Row, decoded: Decoded, meaning: tuple[_Points, Meaning], past: Callable[[int], bool],
            ) -> Part | None:
        """The records of one row, times absolute; `message` makes them relative.

        Raises:
            ValueError: the row names a point its inventory does not have.
        """
        if isinstance(decoded, list):
            return self._default.row(row, decoded, meaning[1], past)
        if not len(decoded):
            return None
        points, out = meaning[0], list[dict[str, Any]]()
        names, values = points.columns.columns(decoded["point"], decoded["value"])
        for name, point, t_ms, value, flag, reason, status in zip(
                names, decoded["point"].tolist(), decoded["t_ms"].tolist(), values, decoded["flag"].tolist(),
                decoded["reason"].tolist(), decoded["status"].tolist(), strict=True):
            t = t_ms + row.door.offset_ms
            unit, factor = points.units[point] if point < len(points.units) else ("", 1.0)
            if value == value and flag in (1, 2, 3):
                out.append({"n": name.replace("#", "-"), "t": t} | ({"u": unit} if unit else {})
                           | {"v": value * factor if factor != 1 else value})
            if flag != 1:
                why = str(REASONS[reason]) if reason < len(REASONS) else "unknown"
                out.append({"n": f"{name.replace('#', '-')}/quality", "t": t, "vs": f"{flag} {why}".rstrip()})
            if status:
                out.append({"n": f"{name.replace('#', '-')}/status", "t": t, "vs": STATUSES[status]})
        return Part(sum(len(record["n"]) + 40 for record in out), out)

    def message(self, topic: Topic, rows: Sequence[Row], parts: Sequence[Part | None]) -> Message | None:
        """One pack; base name and base time stand in its first record."""
        if topic == "event":
            return self._default.message(topic, rows, parts)
        records = [record for part in parts if part is not None for record in part.content]
        if not records:
            return None
        base = min(record["t"] for record in records) // 1000 * 1000
        pack = [{**record, "t": (record["t"] - base) / 1000} for record in records]
        for record in pack:
            if not record["t"]:
                del record["t"]
        pack[0] = {"bn": f"{self.gateway}/", "bt": base // 1000} | pack[0]
        name = f"senml/{topic}/{rows[0].epoch}/{rows[0].seq}-{rows[-1].seq}"
        return Message(self._default.topic(name), _encode(pack), content_type=TYPE)
