"""The detector's thread: scores readings in batches, away from everything that must not wait.

Owns: the queue of good readings and its bound. Promises: feeding never blocks; a detector that is late or busy loses
the oldest readings *for itself* (counted) and nothing else notices. Never: sounds a siren, writes a row, sees a reading
that quality has refused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from gateway.judgement.detect.anomaly import Scores
from gateway.judgement.outcome import Feed

ROUND_S = 0.5
"""Readings are gathered this long: numpy pays per call, not per reading."""


class Scorer(Protocol):
    """What scores (`judgement.detect.anomaly.Anomaly`)."""

    def score(self, indices: Any, t_s: Any, values: Any) -> Scores: ...  # noqa: D102


class Detector:
    """A bounded queue in front of a scorer; `step` is the body of its thread."""

    def __init__(self, scorer: Scorer, told: Callable[[Scores], None], now: Callable[[], float],
                 feeds: int = 50_000) -> None:
        self._scorer, self._told, self._now = scorer, told, now
        self._feeds: deque[Feed] = deque(maxlen=feeds)
        self._fed = 0
        self._scored = 0

    @property
    def missed(self) -> int:
        """Feeds the scorer never saw, since start."""
        return max(0, self._fed - self._scored - len(self._feeds))

    def feed(self, feed: Feed) -> None:
        """Take readings from the pipeline's thread; the oldest go when the detector does not keep up."""
        self._feeds.append(feed)
        self._fed += 1

    def step(self, timeout_s: float) -> None:
        """Gather for a round, then score what came, oldest first."""
        time.sleep(min(timeout_s, ROUND_S))
        batch = [self._feeds.popleft() for _ in range(len(self._feeds))]
        if not batch:
            return
        self._scored += len(batch)
        scores = self._scorer.score(
            np.concatenate([f.indices for f in batch]),
            np.repeat([f.t_s for f in batch], [len(f.indices) for f in batch]),
            np.concatenate([f.values for f in batch]))
        if len(scores.indices):
            self._told(scores)
