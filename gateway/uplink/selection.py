"""Which of the box's business is a platform's.

Owns: the filter of one platform. Promises: what is filtered is gone from rows, snapshots, birth and inventory alike,
and never counted as lost: a gap is told to those who miss it, and where some of it may have been filtered it names no
number. Never: changes what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec import structs

from gateway.config import Filter
from gateway.model import Event, Inventory, Lane, Samples
from gateway.uplink.reader import Decoded


class Selection:
    """One platform's filter over the objects of this box; `hazards`: object → hazard."""

    def __init__(self, platform: str, wanted: Filter, hazards: Mapping[str, str]) -> None:
        self._platform = platform
        self.lanes: frozenset[Lane] = frozenset(wanted.lanes)
        self._decimals = wanted.position_decimals
        self._all = not (wanted.objects or wanted.hazards)
        self._objects = frozenset(o for o, hazard in hazards.items()
                                  if (not wanted.objects or o in wanted.objects)
                                  and (not wanted.hazards or hazard in wanted.hazards))
        self._masks: dict[int, Samples] = {}

    def object(self, name: str) -> bool:
        """Whether an object is this platform's business; what is of no object is everybody's."""
        return self._all or not name or name in self._objects

    def points(self, inventory: Inventory | None) -> Callable[[str], bool]:
        """Whether a point of the inventory is."""
        if self._all or inventory is None:
            return lambda _: True
        mine = {p.point for p in inventory.points if self.object(p.object)}
        return mine.__contains__

    def row(self, decoded: Decoded, inventory: Inventory | None) -> Decoded:
        """What is left of a row.

        Raises:
            ValueError: nobody can say whose it is.
        """
        if isinstance(decoded, list):
            return [self._gap(event) for event in decoded if self.object(event.object) and self._misses(event)]
        if self._all:
            return decoded
        if inventory is None:
            raise ValueError("its inventory is lost: nobody can say whose readings they are")
        mask = self._masks.get(inventory.n)
        if mask is None:
            if len(self._masks) >= 8:
                self._masks.clear()
            mask = self._masks[inventory.n] = np.array([self.object(p.object) for p in inventory.points], bool)
        left: Samples = decoded[mask[decoded["point"]]]
        return left

    def _misses(self, event: Event) -> bool:
        """Whether an event about rows that do not come is about this platform's."""
        why, me = event.why, self._platform
        if event.kind == "uplink.set_aside":
            return bool(why.get("platform", me) == me)
        return event.kind != "journal.gap" or (why.get("lane", "data") in self.lanes
                                               and me in why.get("platforms", (me,)))

    def _gap(self, event: Event) -> Event:
        """Of lost rows nobody knows any more how many readings were this platform's."""
        if self._all or event.kind != "journal.gap" or event.why.get("count") is None:
            return event
        return structs.replace(event, why={**event.why, "count": None},
                               text_zh=f"{event.text_zh}；其中属于本平台的条数不详",
                               text_en=f"{event.text_en}; how many of them were this platform's is not known")

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Birth without other people's objects, positions as exact as they may be, streams that are served."""
        out = dict(facts)
        out["objects"] = [self._placed(o) for o in facts.get("objects", ()) if self.object(o["object"])]
        out["streams"] = [s for s in facts.get("streams", ()) if s["lane"] in self.lanes]
        return out

    def _placed(self, o: Mapping[str, Any]) -> dict[str, Any]:
        position, decimals = o.get("position"), self._decimals
        if position is None or decimals is None:
            return dict(o)
        return {**o, "position": {"lat": round(position.lat, decimals), "lon": round(position.lon, decimals),
                                  "datum": position.datum}}
