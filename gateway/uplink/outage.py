"""Being without a connection: since when, why, and when to try again.

Owns: the back-off and the log lines of an outage. Promises: a broker that is back is found within about two seconds;
whoever answered and said no is asked less and less often; each cause is logged once an outage, and its end once.
Never: connects, waits.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping

from gateway.config import Platform
from gateway.uplink.hints import FLAPPING, LOST, Problem, Reach

log = logging.getLogger(__name__)

STABLE_S = 30.0
"""A connection that lived this long was a good one."""
FLAPS = 3
"""This many short connections in a row are forgiven."""
_WAIT_S: Mapping[Reach, tuple[float, float]] = {"near": (0.5, 1.5), "far": (0.5, 30.0), "taken_over": (30.0, 300.0)}
"""First and longest wait before the next attempt, jittered down to its half. A TCP knock is cheap."""


class Outage:
    """Told by `ended` and `lost`; answers with `retry_at_s`. Times are monotonic seconds."""

    def __init__(self, platform: Platform, rng: random.Random, now_s: float) -> None:
        self._platform, self._rng = platform, rng
        self.connected = False
        self.since_s = now_s
        """When the present state, connected or not, began."""
        self.retry_at_s = now_s
        self.problem: Problem | None = None
        self._logged: set[str] = set()
        self._flaps = self._tries = 0

    def ended(self, now_s: float) -> None:
        """The broker said yes."""
        platform = self._platform
        log.info("connected%s platform=%s host=%s port=%d mqtt=%s after_s=%.1f", " again" if self._logged else "",
                 platform.id, platform.host, platform.port, platform.mqtt, now_s - self.since_s)
        self.connected, self.since_s, self.problem = True, now_s, None
        # One that flaps is not well because it is up for a moment: what was said about it stays said.
        self._logged &= {FLAPPING.kind} if self._flaps > FLAPS else set()

    def lost(self, problem: Problem, now_s: float) -> Problem | None:
        """No connection, or no longer. Returns the cause when somebody should be told that names may collide."""
        served = self.connected
        if served:
            self._flaps = 1 if now_s - self.since_s >= STABLE_S else self._flaps + 1
            self.since_s = now_s
            if problem is LOST and self._flaps > FLAPS:
                problem = FLAPPING
        before, self.problem, self.connected = self.problem, problem, False
        self._tries = self._tries + 1 if before is not None and before.reach == problem.reach else 0
        first, last = _WAIT_S[problem.reach]
        doublings = self._tries
        if served and problem.reach != "taken_over":
            last, doublings = _WAIT_S["far"][1], self._flaps - FLAPS
        self.retry_at_s = now_s + min(last, first * 2 ** min(10, max(0, doublings))) * self._rng.uniform(0.5, 1.0)
        if problem.kind in self._logged:
            return None
        self._logged.add(problem.kind)
        collision = problem.reach == "taken_over" or problem is FLAPPING
        log.log(logging.ERROR if collision else logging.WARNING,
                "not connected platform=%s host=%s port=%d error=%s hint=%s", self._platform.id, self._platform.host,
                self._platform.port, problem.kind, problem.en)
        return problem if collision else None

    def stopped(self, now_s: float) -> None:
        """We hung up ourselves."""
        self.connected, self.since_s = False, now_s
