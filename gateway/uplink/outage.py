"""Being without a connection: since when, why, and when to try again.

Owns: the back-off, the log lines of an outage, and what one connection teaches the next. Promises: a broker that is
back is found within about two seconds, one that answered and said no within 15 s of its change of mind; whoever bans
us or says that our name is taken is asked rarely, and so is a stubborn no over a metered link; each cause is logged
once an outage, and its end once. Never: connects, waits.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping

from gateway.config import Platform
from gateway.uplink.hints import FLAPPING, LOST, SILENT, SUBSCRIPTION, Problem, Reach
from gateway.uplink.pulse import PATIENCE_S

log = logging.getLogger(__name__)

STABLE_S = 30.0
"""A connection that lived this long was a good one."""
FLAPS = 3
"""This many short connections in a row are forgiven."""
_WAIT_S: Mapping[Reach, tuple[float, float]] = {"near": (0.5, 1.5), "far": (0.5, 9.0), "taken_over": (30.0, 300.0),
                                               "banned": (30.0, 300.0)}
"""First and longest wait before the next attempt, jittered down to its half. A TCP knock is cheap; `far`: an attempt
under way when the cause ended takes up to 5 s more, and both together stay under 15 s."""
_STUBBORN_S, _DEAR_S = 3600.0, 300.0
"""An attempt with certificates is 5 kB, every 7 s 60 MB a day: after the first, metered links wait up to the second."""


class Outage:
    """Told by `ended` and `lost`; answers with `retry_at_s`. Times are monotonic seconds."""

    def __init__(self, platform: Platform, rng: random.Random, now_s: float) -> None:
        self._platform, self._rng = platform, rng
        self.connected = False
        self.since_s = now_s
        """When the present state, connected or not, began."""
        self.retry_at_s = now_s
        self.problem: Problem | None = None
        self.subscribes = True
        """Whether the next connection should subscribe: not after one that was closed for it. Sending comes first."""
        self._logged: set[str] = set()
        self._flaps = self._tries = self._mute = 0

    @property
    def patience_s(self) -> float:
        """For the next connection: more after ones that fell silent before their first answer.

        Behind a box that ends TCP on the way, a line too slow for one message looks just like that.
        """
        return PATIENCE_S * (1 << min(2, self._mute))

    def ended(self, now_s: float) -> None:
        """The broker said yes."""
        platform = self._platform
        log.info("connected%s platform=%s host=%s port=%d mqtt=%s after_s=%.1f", " again" if self._logged else "",
                 platform.id, platform.host, platform.port, platform.mqtt, now_s - self.since_s)
        self.connected, self.since_s, self.problem = True, now_s, None
        # One that flaps is not well because it is up for a moment: what was said about it stays said.
        self._logged &= {FLAPPING.kind} if self._flaps > FLAPS else set()

    def lost(self, problem: Problem, now_s: float, *, answered: bool = True, metered: bool = False) -> Problem | None:
        """No connection, or no longer. Returns the cause when somebody should be told that names may collide.

        `answered`: at least one publish of this connection was acknowledged; `metered`: each attempt costs money.
        """
        served = self.connected
        self.subscribes = problem is not SUBSCRIPTION
        if served:
            self._mute = self._mute + 1 if problem is SILENT and not answered else 0
            self._flaps = 1 if now_s - self.since_s >= STABLE_S else self._flaps + 1
            self.since_s = now_s
            if problem is LOST and self._flaps > FLAPS:
                problem = FLAPPING
        before, self.problem, self.connected = self.problem, problem, False
        self._tries = self._tries + 1 if before is not None and before.reach == problem.reach else 0
        first, last = _WAIT_S[problem.reach]
        doublings = self._tries
        if served and problem.reach in ("near", "far"):
            last, doublings = _WAIT_S["far"][1], self._flaps - FLAPS
        elif metered and problem.reach == "far" and now_s - self.since_s > _STUBBORN_S:
            last = _DEAR_S
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
