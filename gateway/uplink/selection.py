"""Which of the box's business is a platform's.

Owns: the filter of one platform. Promises: what is filtered is gone from rows, snapshots, birth and inventory alike,
and never counted as lost. Never: changes what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gateway.config import Filter
from gateway.model import Inventory, Lane, Samples
from gateway.uplink.reader import Decoded


class Selection:
    """One platform's filter over the objects of this box; `hazards`: object → hazard."""

    def __init__(self, wanted: Filter, hazards: Mapping[str, str]) -> None:
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
        """What is left of a row."""
        if self._all:
            return decoded
        if isinstance(decoded, list):
            return [event for event in decoded if self.object(event.object)]
        if inventory is None:
            return decoded[:0]   # nobody can say whose it is
        mask = self._masks.get(inventory.n)
        if mask is None:
            if len(self._masks) >= 8:
                self._masks.clear()
            mask = self._masks[inventory.n] = np.array([self.object(p.object) for p in inventory.points], bool)
        left: Samples = decoded[mask[decoded["point"]]]
        return left

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
