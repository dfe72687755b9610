"""What a site says of a slope's points, and what the detector answers.

Owns: the settings (to be part of the configuration) and the shape of a verdict.
Promises: no default that only a professional may choose: without a table of the site a point is monitored only.
Never: computes.

Stages after Xu Qiang's improved tangent angle: 45 degrees is steady creep, from there to 80 initial, to 85 medium
acceleration, above it imminent.
"""

from __future__ import annotations

import math

from msgspec import Struct

from gateway.model import Colour

STAGES = ("learning", "steady", "initial", "medium", "imminent", "step", "intact", "broken")
STAGES_ZH = ("学习中", "匀速", "初加速", "中加速", "临滑", "突变", "完好", "断开")


class Thresholds(Struct, frozen=True, forbid_unknown_fields=True):
    """Rates from which a tangent angle counts, in the point's unit a day; signed for by the site."""

    yellow_per_d: float
    orange_per_d: float
    red_per_d: float
    blue_per_d: float | None = None
    """Steady creep as fast as this is worth attention; None: never blue."""
    broken: Colour = Colour.RED
    """What a broken wire means."""

    def __post_init__(self) -> None:
        """Refuse a table that does not ascend."""
        rates = [x for x in (self.blue_per_d, self.yellow_per_d, self.orange_per_d, self.red_per_d) if x is not None]
        if not all(x > 0 for x in rates) or rates != sorted(rates):
            raise ValueError("rates must be above 0 and ascend from blue to red")


class SlopePoint(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instrument on a slope."""

    name: str
    unit: str = "mm"
    accuracy: float = 0.0
    """Of the instrument, in its unit; from its data sheet. Needed unless it is a contact."""
    contact: bool = False
    """A break-wire: 0 intact, anything else broken."""
    towards: int = 0
    """Which sign is towards failure: 1, -1, or 0 when either is."""
    steady_rate_per_d: float | None = None
    """Uniform-creep rate a professional found; None: learned from the first steady stage and frozen."""
    steady_d: float = 7.0
    """How long a stage must be steady to be learned from."""
    compensated: bool = False
    """The readings are free of temperature: windows shorter than 24 h may give yellow."""
    thresholds: Thresholds | None = None
    """The site's table; None: monitored only, no colour."""

    def __post_init__(self) -> None:
        """Refuse what could not be judged."""
        if not self.contact and not self.accuracy > 0:
            raise ValueError(f"{self.name}: the accuracy of the instrument is needed, in {self.unit}")
        if self.towards not in (-1, 0, 1):
            raise ValueError(f"{self.name}: towards is 1, -1 or 0")
        if not 2 <= self.steady_d <= 10:
            raise ValueError(f"{self.name}: steady_d must be 2 to 10 days")
        if self.steady_rate_per_d is not None and not self.steady_rate_per_d > 0:
            raise ValueError(f"{self.name}: steady_rate_per_d must be above 0")


class Verdict(Struct, frozen=True, kw_only=True):
    """What is known of one point, with the numbers that decided. Per-day numbers in the point's unit; NaN: unknown."""

    channel: int
    t_s: float
    stage: str
    """One of `STAGES`."""
    colour: Colour = Colour.NONE
    monitor_only: bool = False
    value: float = math.nan
    rate_per_d: float = math.nan
    """Over `window_s`; signed."""
    window_s: float = math.nan
    moved: float = math.nan
    """Displacement in that window."""
    counts_from: float = math.nan
    """Displacement from which that window counts: 3 x accuracy, or 5 x what is usual."""
    counts: bool = False
    acceleration_per_d2: float = math.nan
    steady_rate_per_d: float = math.nan
    angle_deg: float = math.nan
    """Improved tangent angle of the rate; NaN while the steady rate is not known or the rate does not count."""
    onset_s: float = math.nan
    """When acceleration began; NaN: it did not."""
    held: Colour = Colour.NONE
    """The colour a sudden step would have: counts when another point of the slope steps too."""
    failure_s: tuple[float, float, float] | None = None
    """Forecast of the failure: 10 %, median, 90 %."""
    refused: str = ""
    """Why there is no forecast."""
