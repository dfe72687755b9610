"""Events about points, wires and readings that cannot be judged.

Owns: what such an event carries, and how often poison is told.
Promises: a loss, a return, a doubt is told once; poison once an hour for each device, and always counted.
Never: decides whether a point is lost or a score unusual.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

import drivers
from drivers import PointInfo, Scan
from gateway.config import Point
from gateway.judgement import words
from gateway.judgement.alarms import YELLOW, Watch
from gateway.judgement.bench import Bench
from gateway.judgement.detect.anomaly import Scores
from gateway.judgement.limits import CONFIRM_S, Limit
from gateway.judgement.outcome import Tray
from gateway.judgement.quality import Verdict
from gateway.model import REASONS

POISON_HOLD_S = 3600.0
POISON_DEVICES = 64


class Known(NamedTuple):
    """One point of the inventory and whose it is."""

    point: Point
    info: PointInfo
    watch: Watch

    def names(self) -> dict[str, object]:
        """Return object and point as texts name them."""
        return {"object": self.watch.config.name, "point": self.point.name}


def remark(bench: Bench, verdict: Verdict, known: list[Known], t_s: float, tray: Tray) -> None:
    """Tell which points were lost, came back or are suspect, and which of them an alarm stands on."""
    moved = verdict.lost | verdict.returned
    if moved.any():
        tray.latch_moved = True
    for k in np.flatnonzero(moved | verdict.suspect).tolist():
        i = int(bench.indices[k])
        point, _, watch = known[i]
        reason = REASONS[int(verdict.reasons[k])].value
        facts = {**known[i].names(), "reason_zh": words.REASONS_ZH[reason], "reason_en": reason or "no reason given"}
        kinds = []
        if moved[k]:
            kinds.append("point.lost" if verdict.lost[k] else "point.returned")
        in_alarm = verdict.lost[k] and watch.concern >= YELLOW and i in watch.inputs
        if in_alarm:
            kinds.append("alarm.input_lost")
        if verdict.suspect[k]:
            kinds.append("point.suspect")
        for kind in kinds:
            alarm = watch.alarm if kind == "alarm.input_lost" else None
            tray.tell(kind, t_s, facts, object=watch.config.id, point=point.id, status=watch.status,
                      alarm=alarm.id if alarm else "", level=watch.concern if alarm else None,
                      why={"reason": reason, "flag": int(verdict.flags[k])})


def ask(doubted: Iterable[Limit], known: list[Known], t_s: float, tray: Tray) -> None:
    """Ask each device concerned for one confirming read."""
    reads: dict[str, list[str]] = {}
    for limit in doubted:
        device, _, point = known[limit.point].point.read.partition(".")
        if point not in reads.setdefault(device, []):
            reads[device].append(point)
    for device, points in reads.items():
        tray.ask.append(drivers.Command(id=tray.new_id(), kind="read_now", device=device, points=tuple(points),
                                        deadline_s=t_s + CONFIRM_S))


def unusual(scores: Scores, k: int, known: Known, tray: Tray) -> None:
    """Tell that the detector finds the `k`-th reading of `scores` unusual."""
    point, info, watch = known
    value, expected = float(scores.values[k]), float(scores.expected[k])
    tail = f" {info.unit}" if info.unit else ""
    tray.tell("anomaly", float(scores.t_s[k]),
              {**known.names(), "value": words.number(value, info.resolution) + tail,
               "expected": words.number(expected, info.resolution) + tail},
              object=watch.config.id, point=point.id, status=watch.status,
              why={"value": value, "expected": expected, "score": round(float(scores.score[k]), 2), "unit": info.unit,
                   "hint_zh": "疑似异常", "hint_en": "possibly unusual"})


class Poison:
    """Counts what cannot be judged and remembers what was told; a bounded number of devices is remembered."""

    def __init__(self) -> None:
        self.count = 0
        self._told: dict[str, float] = {}

    def tell(self, scan: Scan | None, error: Exception, now_s: float, tray: Tray) -> None:
        """Count one; tell it unless its device was told within the hour. `scan` is None for a damaged latch."""
        self.count += 1
        device = "" if scan is None else str(scan.device)[:48]
        if device not in self._told and len(self._told) >= POISON_DEVICES:
            device = "…"
        if now_s - self._told.get(device, float("-inf")) < POISON_HOLD_S:
            return
        self._told[device] = now_s
        tray.tell("box.poison", now_s, {"device": device, "error": str(error)[:200]},
                  why={"device": device, "error": f"{type(error).__name__}: {error}"[:200],
                       "reading": "" if scan is None else repr((scan.at_s, scan.points, scan.values))[:400]})
