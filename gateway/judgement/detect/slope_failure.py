"""When will an accelerating slope fail? Fukuzono's inverse velocity in Voight's form, fitted to displacement.

Owns: the fit, its uncertainty, and the reasons to refuse one.
Promises: pure; a forecast comes with an interval in which the fit puts 80 % of its belief; none when the fit is poor,
when growth without an end explains the readings as well, or when the forecast recedes as time goes on.
Never: raises a colour.

Voight (1989, "A relation to describe rate-dependent material failure", Science 243): dv/dt = A v^alpha gives
v = C (tf - t)^-p with p = 1 / (alpha - 1); alpha = 2 is the straight line of Fukuzono (1985), whose 1/v reaches zero
at tf. Rates of noisy readings are worse than the readings, so the integral is fitted: s = s0 + C g(tf - t, p), linear
in s0 and C for every (tf, p), over a grid that closes in (variable projection; Golub & Pereyra 1973). Offsets that no
such curve can explain (rain steps, a knocked instrument) are taken out one by one while each is worth `STEP_GAIN`
(matching pursuit).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gateway.judgement.detect.slope_bins import Series

Array = np.ndarray[Any, np.dtype[Any]]

DAY_S = 86400.0
ALPHA = (1.5, 2.5)
"""Voight's exponent as found in the field: 1.5 to 2.5 (Voight 1989; Crosta & Agliardi 2003)."""
LEADS_D = (0.02, 90.0)
STEPS_MOST = 10
STEP_GAIN = 20.0
"""How much chi-square a step must explain: in 200 places one of pure chance has 20 once in some hundred series."""
SPREAD = 30.0
FLOOR = 0.15
"""Share of the noise that does not average out within a bin: wander, temperature."""
POINTS_LEAST = 16
POOR = 2.5
"""Chi-square per degree of freedom from which the fit is poor."""
WIDE = 1.0
"""Width of the interval as a share of the lead from which it says nothing."""
RISE_LEAST = 4.0
"""How much faster than at the beginning the slope must move at the end."""
END_GAIN = 6.0
"""Chi-square by which an end in finite time must be the better explanation than exponential growth."""
BACK = 0.3
"""The forecast is made again from what was known this share of the lead ago."""
RECEDES = 0.5
"""Receding by that share of the time passed, the end is not coming nearer: a slope that calms down."""


class Failure(NamedTuple):
    """A forecast in days from the last reading; or `refused` says why there is none, and the numbers are NaN."""

    least_d: float
    lead_d: float
    most_d: float
    alpha: float
    refused: str


def _refuse(why: str) -> Failure:
    return Failure(np.nan, np.nan, np.nan, np.nan, why)


class _Fit(NamedTuple):
    lead_d: Array
    """(10 %, median, 90 %) of the belief."""
    p: float
    chi2: float
    freedom: int
    rise: float
    nuisance: Array
    """(N, 1 + steps): weighted, orthonormal."""


def forecast(series: Series, accuracy: float) -> Failure:
    """Forecast the failure of one point.

    Args:
        series: displacement in the channel's unit, towards failure positive, oldest first.
        accuracy: of the instrument, same unit: noise is not taken for less than a tenth of it.

    Returns:
        The forecast, or why it is refused: `few`, `poor`, `slow`, `wide`, `no_end`, `recedes`.
    """
    if len(series.t_s) < POINTS_LEAST:
        return _refuse("few")
    t_d = (series.t_s - series.t_s[-1]) / DAY_S
    sigma = max(noise(t_d, series.values, series.counts), 0.1 * accuracy)
    root = 1 / np.sqrt(sigma**2 / series.counts + (FLOOR * sigma) ** 2)
    found = _fit(t_d, series.values, root)
    least, lead, most = found.lead_d
    if found.chi2 > POOR * found.freedom:
        return _refuse("poor")
    if found.rise < RISE_LEAST:
        return _refuse("slow")
    if most - least > WIDE * lead or most > LEADS_D[1] / 2:
        return _refuse("wide")
    scale = max(1.0, found.chi2 / found.freedom)
    if _growth(t_d, series.values, root, found.nuisance) - found.chi2 < END_GAIN * scale:
        return _refuse("no_end")
    passed = BACK * lead
    then = t_d <= -passed
    if np.count_nonzero(then) < POINTS_LEAST:
        return _refuse("few")
    passed = -float(t_d[then][-1])
    before = _fit(t_d[then] + passed, series.values[then], root[then])
    moved = lead - (before.lead_d[1] - passed)
    if moved > RECEDES * passed and lead > before.lead_d[2] - passed:
        return _refuse("recedes")
    return Failure(float(least), float(lead), float(most), 1 + 1 / found.p, "")


def noise(t_d: Array, values: Array, count: Array) -> float:
    """Standard deviation of one reading, from how far bins lie off the line between their neighbours (robust)."""
    share = (t_d[2:] - t_d[1:-1]) / (t_d[2:] - t_d[:-2])
    off = values[1:-1] - share * values[:-2] - (1 - share) * values[2:]
    unit = np.sqrt(1 / count[1:-1] + share**2 / count[:-2] + (1 - share) ** 2 / count[2:])
    return float(1.4826 * np.median(np.abs(off / unit)))


def _curves(t_d: Array, leads_d: Array, p: Array) -> Array:
    """Displacement since t = 0 for every (lead, p): (L, P, N); its rate at t = 0 is 1 / lead."""
    ratio = np.log1p(-t_d[None, :] / leads_d[:, None])
    curves = np.empty((len(leads_d), len(p), len(t_d)))
    for j, q in enumerate(p):
        curves[:, j] = -ratio if abs(q - 1) < 1e-4 else np.expm1((1 - q) * ratio) / (q - 1)
    return curves


def _misfit(curves: Array, y: Array, root: Array, nuisance: Array) -> Array:
    """Chi-square of the best positive amplitude of each curve."""
    y = root * y
    y = y - nuisance @ (nuisance.T @ y)
    g = curves * root
    lost = g @ nuisance
    norm = (g * g).sum(-1) - (lost * lost).sum(-1)
    inner = g @ y
    gain = np.where(inner > 0, inner * inner / np.maximum(norm, 1e-12), 0.0)
    chi2: Array = y @ y - gain
    return chi2


def _close_in(t_d: Array, y: Array, root: Array, nuisance: Array) -> tuple[Array, Array, Array]:
    """Grid over lead and alpha that closes in on all that is believable: (leads, p, chi-square)."""
    low, high = np.log(LEADS_D)
    alpha = ALPHA
    freedom = max(len(t_d) - nuisance.shape[1] - 3, 1)
    for size in ((60, 11), (25, 11), (25, 11), (25, 13), (41, 17)):
        logs, alphas = np.linspace(low, high, size[0]), np.linspace(*alpha, size[1])
        chi2 = _misfit(_curves(t_d, np.exp(logs), 1 / (alphas - 1)), y, root, nuisance)
        least = float(chi2.min())
        near = chi2 <= least + SPREAD * max(1.0, least / freedom)
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        # a valley narrower than the grid: two cells beyond all that looks near
        low, high = logs[max(rows[0] - 2, 0)], logs[min(rows[-1] + 2, size[0] - 1)]
        alpha = alphas[max(columns[0] - 2, 0)], alphas[min(columns[-1] + 2, size[1] - 1)]
    return np.exp(logs), 1 / (alphas - 1), chi2


def _fit(t_d: Array, y: Array, root: Array) -> _Fit:
    n = len(t_d)
    nuisance = (root / np.linalg.norm(root))[:, None]
    after = (np.arange(n)[:, None] >= np.arange(n)) * root[:, None]
    for step in range(STEPS_MOST + 1):
        leads, p, chi2 = _close_in(t_d, y, root, nuisance)
        i, j = np.unravel_index(int(np.argmin(chi2)), chi2.shape)
        curve = _curves(t_d, leads[i:i + 1], p[j:j + 1])[0, 0] * root
        curve = curve - nuisance @ (nuisance.T @ curve)
        known = np.column_stack([nuisance, curve / np.linalg.norm(curve)])
        rest = root * y - known @ (known.T @ (root * y))
        free = after - known @ (known.T @ after)
        gain = (rest @ free) ** 2 / np.maximum((free * free).sum(0), 1e-6)
        gain[:3] = gain[-5:] = 0.0   # at the ends a step and the curve cannot be told apart
        at = int(np.argmax(gain))
        if gain[at] < STEP_GAIN or step == STEPS_MOST:
            break
        column = after[:, at] - nuisance @ (nuisance.T @ after[:, at])
        nuisance = np.column_stack([nuisance, column / np.linalg.norm(column)])
    freedom = max(n - nuisance.shape[1] - 3, 1)
    least = float(chi2.min())
    belief = np.exp(-(chi2 - least) / (2 * max(1.0, least / freedom))).sum(1)
    belief /= belief.sum()
    quantiles = np.interp([0.1, 0.5, 0.9], np.cumsum(belief) - belief / 2, leads)
    lead, q = float(leads[i]), float(p[j])
    return _Fit(quantiles, q, least, freedom, float((1 - t_d[0] / lead) ** q), nuisance)


def _growth(t_d: Array, y: Array, root: Array, nuisance: Array) -> float:
    """Chi-square of steady creep plus exponential growth: fast, but without an end in sight. As many parameters."""
    line = root * t_d
    line = line - nuisance @ (nuisance.T @ line)
    with_line = np.column_stack([nuisance, line / np.linalg.norm(line)])
    times = np.geomspace(0.02, 60.0, 80)
    return float(_misfit(np.exp(t_d[None, :] / times[:, None]), y, root, with_line).min())
