"""The gateway, with a detector that keeps one core busy for two seconds a round: the worst neighbour a siren can have.

Usage: python tests/busy_detector.py run CONFIG
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway.app import run
from gateway.judgement.detect.anomaly import Scores

BUSY_S = 2.0


class Busy:
    """Scores nothing, slowly, holding the interpreter like any hot Python loop."""

    def score(self, indices: Any, t_s: Any, values: Any) -> Scores:
        """Burn two seconds."""
        end_s = time.monotonic() + BUSY_S
        while time.monotonic() < end_s:
            sum(range(1000))
        none = np.zeros(0)
        return Scores(none.astype(np.int64), none, none, none, none)


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[2], Busy()))
