"""How fast each channel moves now, and when it will reach a limit: a line through its fading past.

Owns: per channel the sums of an exponentially weighted least-squares line (five numbers and a clock).
Promises: constant memory; irregular times, gaps and NaN are normal; the same readings give the same bits however they
are cut into calls, and on every machine: only + - × ÷ and roots, no library function that rounds in its own way.
Never: forecasts a level that is not being approached, or one whose rate could as well be nought.

A reading `dt` old weighs (1 + dt / 8 τ)⁻⁸, which is close to exp(-dt / τ). The rate's standard error is that of
weighted least squares with independent residuals; slow waves make the true one larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

SURE = 3.0
"""A rate smaller than this many standard errors is nought."""
COUNT = 5.0
"""Weight of readings below which there is no rate."""


class Line(NamedTuple):
    """The fitted line at the time of the last reading; arrays, one entry a channel asked for."""

    level: Array
    """In the channel's unit; NaN before the first reading."""
    rate: Array
    """Per second; NaN before there are readings enough."""
    rate_error: Array
    """One standard error of `rate`."""
    spread: Array
    """Standard deviation of readings about the line."""


class Reach(NamedTuple):
    """When a limit will be reached."""

    in_s: float
    error_s: float
    """One standard error."""


class Trend:
    """Lines of `n` channels. `tau_s`: how fast the past fades, one for all or one each."""

    def __init__(self, n: int, tau_s: Array | float) -> None:
        self._tau = np.broadcast_to(np.asarray(tau_s, np.float64), (n,)).copy()
        # about the last reading (time and value), so that sums stay small: weights, x, x², y, xy, y²
        self.sums = np.zeros((n, 6))
        self.t_s = np.full(n, np.nan)
        self.value = np.full(n, np.nan)

    def learn(self, c: Array, t_s: Array, values: Array) -> None:
        """Take at most one reading a channel; not finite or not later than the last one: ignored.

        Args:
            c: channels, int, no repeats.
            t_s: seconds, one each.
            values: float64.
        """
        first = np.isnan(self.t_s[c])
        use = np.isfinite(values) & (first | (t_s > self.t_s[c]))
        c, t_s, values, first = c[use], t_s[use], values[use], first[use]
        dt = np.where(first, 0.0, t_s - self.t_s[c])
        dy = np.where(first, 0.0, values - self.value[c])
        w, x, xx, y, xy, yy = self.sums[c].T
        # seen from the new reading, every older one lies dt further back and dy lower
        yy = yy - 2 * dy * y + dy * dy * w
        xy = xy - dt * y - dy * x + dt * dy * w
        xx = xx - 2 * dt * x + dt * dt * w
        x, y = x - dt * w, y - dy * w
        fade = 1.0 / (1.0 + dt / (8.0 * self._tau[c]))
        fade = fade * fade
        fade = fade * fade
        fade = fade * fade
        self.sums[c] = np.stack([w * fade + 1.0, x * fade, xx * fade, y * fade, xy * fade, yy * fade], axis=1)
        self.t_s[c] = t_s
        self.value[c] = values

    def line(self, c: Array) -> Line:
        """Return the lines of some channels."""
        w, x, xx, y, xy, yy = self.sums[c].T
        weight = np.where(w > 0, w, np.nan)
        middle_x, middle_y = x / weight, y / weight
        sxx = np.maximum(xx - x * middle_x, 0.0)
        sxy = xy - x * middle_y
        syy = np.maximum(yy - y * middle_y, 0.0)
        enough = (w >= COUNT) & (sxx > 0)
        rate = np.where(enough, sxy / np.where(enough, sxx, 1.0), np.nan)
        residual = np.maximum(syy - rate * sxy, 0.0) / np.where(enough, w - 2.0, 1.0)
        spread = np.sqrt(residual)
        level = self.value[c] + np.where(enough, middle_y - rate * middle_x, 0.0)
        return Line(level, rate, spread / np.sqrt(np.where(enough, sxx, 1.0)), spread)

    def forget(self, c: Array) -> None:
        """Begin afresh: another sensor, or a move nobody wants in the rate."""
        self.sums[c] = 0.0
        self.t_s[c] = np.nan
        self.value[c] = np.nan

    def columns(self) -> dict[str, Array]:
        """Return the state; `take` puts it back."""
        return {"trend_sums": self.sums, "trend_t_s": self.t_s, "trend_value": self.value}

    def take(self, columns: Mapping[str, Array]) -> None:
        """Go on from `columns`."""
        self.sums, self.t_s, self.value = (columns[k] for k in ("trend_sums", "trend_t_s", "trend_value"))


def reach(level: float, rate: float, rate_error: float, spread: float, limit: float,
          horizon_s: float = 86400.0) -> Reach | None:
    """When a line reaches `limit`; None when it does not approach it, too slowly to tell, or beyond the horizon.

    Args:
        level: where the line is now.
        rate: per second, NaN when there is none.
        rate_error: one standard error of it.
        spread: standard deviation about the line, taken as the error of `level`.
        limit: the level asked about, above or below.
        horizon_s: nothing is said of what lies further ahead.
    """
    way = limit - level
    if not math.isfinite(rate) or way * rate <= 0 or abs(rate) < SURE * rate_error:
        return None
    in_s = way / rate
    if in_s > horizon_s:
        return None
    return Reach(in_s, math.hypot(spread, in_s * rate_error) / abs(rate))
