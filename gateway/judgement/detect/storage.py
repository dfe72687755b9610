"""A reservoir's storage curve: how much water a level holds.

Owns: the curve (level, volume). Promises: exact at its knots, monotone between them, nothing beyond its ends. Never:
extrapolates.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct


class Storage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Knots of the curve, both ascending; straight lines between them."""

    levels_m: Annotated[tuple[float, ...], Meta(min_length=2)]
    volumes_1e4_m3: Annotated[tuple[float, ...], Meta(min_length=2)]
    """In 10^4 m³ (万立方米), as the tables of small reservoirs have it."""

    def __post_init__(self) -> None:
        if len(self.levels_m) != len(self.volumes_1e4_m3):
            raise ValueError(f"storage curve: {len(self.levels_m)} levels and {len(self.volumes_1e4_m3)} volumes; "
                             "expected as many")
        for name, knots in (("levels_m", self.levels_m), ("volumes_1e4_m3", self.volumes_1e4_m3)):
            for before, after in pairwise(knots):
                if not before < after:
                    raise ValueError(f"storage curve: {name} must ascend, found {before:g} before {after:g}")

    def volume(self, level_m: float) -> float | None:
        """10^4 m³ at a level; None beyond the curve's ends."""
        if not self.levels_m[0] <= level_m <= self.levels_m[-1]:
            return None
        return float(np.interp(level_m, self.levels_m, self.volumes_1e4_m3))
