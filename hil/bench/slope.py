"""Slopes that fail, that calm down, that creep and that only breathe: what the slope detector makes of them.

Owns: the synthetic slopes. Promises: seeds are said; the detector sees readings only. Never: shows it the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gateway.judgement.detect.slope import Slope
from gateway.judgement.detect.slope_bins import Bins
from gateway.judgement.detect.slope_failure import forecast
from gateway.judgement.detect.slope_settings import SlopePoint, Thresholds
from hil.bench import Figure, figure

DAY_S = 86400.0
TABLE = Thresholds(yellow_per_d=5, orange_per_d=15, red_per_d=40)
GOALS = {5.0: ("5d", 0.4), 1.0: ("1d", 0.2), 0.5: ("0_5d", 0.05)}


def failing(rng: np.random.Generator, days: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    """Voight's curve (alpha 1.5 to 2.5), 1 mm noise, rain steps, gaps: (days, failure at 0; mm)."""
    p = 1 / (rng.uniform(1.5, 2.5) - 1)
    rate = np.exp(rng.uniform(np.log(5), np.log(40)))
    t = np.arange(-days, -0.02, 1 / 48)
    t = t + rng.uniform(-0.2, 0.2, len(t)) / 48
    scale = rate * 5**p
    s = -scale * np.log(-t) if abs(p - 1) < 1e-6 else scale * (-t) ** (1 - p) / (p - 1)
    return disturbed(rng, t, s - s[0], -0.6)


def calming(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """A slope that accelerates by 5 to 60 mm/d to a peak, then comes to rest: (days, mm, day of the peak)."""
    t = np.arange(0, 60.0, 1 / 48)
    peak_d, width = rng.uniform(25, 40), rng.uniform(1, 5)
    x = (t - peak_d) / width
    shape = (np.exp(-0.5 * x**2), 1 / np.cosh(x) ** 2, np.exp(-np.abs(x)))[rng.integers(3)]
    v = np.exp(rng.uniform(np.log(0.2), np.log(2))) + np.exp(rng.uniform(np.log(5), np.log(60))) * shape
    return *disturbed(rng, t, np.cumsum(v) / 48, 60.0), float(peak_d)


def disturbed(rng: np.random.Generator, t: np.ndarray, s: np.ndarray, last_step_d: float) -> tuple[
        np.ndarray, np.ndarray]:
    """Add noise and rain steps; take readings away."""
    s = s + rng.standard_normal(len(t))
    for _ in range(rng.integers(2, 6)):
        s = s + rng.uniform(2, 12) * np.clip((t - rng.uniform(t[0], last_step_d)) / rng.choice([0.001, 0.1, 0.3]), 0, 1)
    keep = rng.random(len(t)) > 0.1
    for _ in range(3):
        at = rng.uniform(t[0], t[-1] - 1)
        keep &= ~((t > at) & (t < at + rng.uniform(0.1, 1)))
    return t[keep], s[keep]


def _bins(t: np.ndarray, s: np.ndarray, until_d: np.ndarray) -> Iterator[tuple[float, Bins, float]]:
    """The memory as it stands at each of `until_d`."""
    bins, at = Bins(1), 0
    for until in until_d:
        while at < len(t) and t[at] <= until:
            bins.add(np.array([0]), t[at:at + 1] * DAY_S, s[at:at + 1])
            at += 1
        yield float(until), bins, float(t[at - 1]) * DAY_S


def coloured(t_d: np.ndarray, s: np.ndarray, accuracy: float) -> int:
    """How many verdicts have a colour, or forecast a failure."""
    slope, found = Slope([SlopePoint(name="P", accuracy=accuracy, thresholds=TABLE)]), 0
    for t, x in zip(t_d * DAY_S, s, strict=True):
        found += sum(v.colour != "none" or v.failure_s is not None for v in slope.update(
            np.array([0]), t, np.array([x])))
    return found


def figures(quick: bool) -> Iterator[Figure]:
    """Measure."""
    n = 3 if quick else 60
    errors: dict[float, list[float]] = {lead: [] for lead in GOALS}
    refused = dict.fromkeys(GOALS, 0)
    inside = dict.fromkeys(GOALS, 0)
    for seed in range(n):
        t, s = failing(np.random.default_rng(seed))
        for until, bins, last_s in _bins(t, s, -np.array(list(GOALS))):
            found = forecast(bins.series(0, last_s), 1.0)
            at_d = last_s / DAY_S
            errors[-until].append(abs(at_d + found.lead_d) if not found.refused else np.inf)
            refused[-until] += bool(found.refused)
            inside[-until] += not found.refused and at_d + found.least_d <= 0 <= at_d + found.most_d
    for lead, (name, goal) in GOALS.items():
        given = [x for x in errors[lead] if x < np.inf]
        median = float(np.median(errors[lead]))
        yield figure(f"slope.tf_error_{name}", median if median < np.inf else None, "d", goal, "ratio <= 1",
                     f"median error of the failure time {lead:g} d before, refusals counted as infinite; of those "
                     f"given {np.median(given) if given else np.nan:.3f} d, {inside[lead]} of {len(given)} within "
                     f"their 80 % interval; {refused[lead]} of {n} refused; seeds 0 to {n - 1}")
    fooled = 0
    for seed in range(n):
        t, s, peak_d = calming(np.random.default_rng(10_000 + seed))
        fooled += any(not forecast(bins.series(0, last_s), 1.0).refused
                      for _, bins, last_s in _bins(t, s, np.arange(peak_d - 10, peak_d + 10, 2.0)))
    yield figure("slope.calmed_without_forecast", 100 * (1 - fooled / n), "%", 95.0, "ratio >= 1",
                 f"slopes that accelerate and come to rest, asked every other day for 20 d: none of the answers a "
                 f"failure; {n} slopes, seeds from 10000")
    rng = np.random.default_rng(1)
    t = np.arange(0, 10.0 if quick else 30.0, 1 / 48)
    yield figure("slope.creep_alarms", coloured(t, 2 * t + rng.standard_normal(len(t)), 1.0), "verdicts", 0.0, "0",
                 "30 days of uniform creep, 2 mm/d, 1 mm noise, seed 1")
    t = np.arange(0, 10.0 if quick else 365.0, 1 / 24)
    year = 3 * np.sin(2 * np.pi * t) + 6 * np.sin(2 * np.pi * t / 365) + 0.3 * rng.standard_normal(len(t))
    yield figure("slope.temperature_alarms", coloured(t, year, 0.5), "verdicts", 0.0, "0",
                 "a year of temperature: 3 mm a day, 6 mm a season, 0.3 mm noise, accuracy 0.5 mm, seed 1")
