"""The life cycle of an alarm: one per object, from first colour to clearing.

Owns: the objects as the rules see them, their votes and alarms.
Promises: an alarm keeps one id for its life; each step is told once; a latched colour ends only by a person; an
object whose inputs are lost is unknown, never none, unless another vote says yellow or worse.
Never: drives an output, reads a clock, decides which reading counts (that is limits.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gateway.config import Watched
from gateway.judgement import words
from gateway.judgement.limits import Array, Limit
from gateway.judgement.outcome import Tray, colour_facts, milliseconds
from gateway.model import LEVELS, Colour, PresentObject, Service, Status, Why

YELLOW = LEVELS.index(Colour.YELLOW)


@dataclass(slots=True)
class Ask:
    """An officer was asked to confirm a colour."""

    at_s: float
    answer: str = ""
    """"" while open; sound; hold."""


@dataclass(slots=True)
class Alarm:
    """Something is the case, until it is not. Levels are indices into LEVELS, inside judgement only."""

    id: str
    level: int
    since_s: float
    status: Status
    latched: int = 0
    acknowledged: bool = False
    who: str = ""
    silenced_until_s: float | None = None
    silenced_level: int = 0
    asks: dict[int, Ask] = field(default_factory=dict)
    sound: int = 0
    sound_since_s: float = 0.0
    show: int = 0
    show_since_s: float = 0.0
    waiting: bool = False
    """Restored after a long outage: the siren waits for the first believable reading."""


class Watch:
    """One object as the rules see it."""

    __slots__ = ("alarm", "back", "config", "inputs", "limits", "points", "service", "until_s", "vote")

    def __init__(self, config: Watched, points: range) -> None:
        self.config = config
        self.points = points
        ruled = {r.point for r in config.rules}
        self.inputs = [i for i, p in zip(points, config.points, strict=True) if not ruled or p.id in ruled]
        """Points whose loss makes the object unknown: those with rules, or all where there is no rule."""
        self.limits: list[Limit] = []
        self.service: Service = config.service
        self.back: Service = config.service
        self.until_s: float | None = None
        self.vote = 0
        self.alarm: Alarm | None = None

    @property
    def status(self) -> Status:
        """Outside service everything is a test."""
        return "Actual" if self.service == "in_service" else "Test"

    def point_id(self, index: int) -> str:
        """Return the id of a point by its index in the inventory."""
        return self.config.points[index - self.points.start].id

    def among(self, lost: Array) -> Array:
        """The part of a column of the inventory that is about this object's points."""
        return lost[self.points.start:self.points.stop]

    @property
    def concern(self) -> int:
        """The worse of what the rules say and what the alarm holds."""
        return max(self.vote, self.alarm.level if self.alarm else 0)

    def colour(self, lost: Array) -> Colour:
        """What the rules say now: the worst vote, or unknown when that is below yellow and an input is lost."""
        if self.vote < YELLOW and np.count_nonzero(self.among(lost)) and lost[self.inputs].any():
            return Colour.UNKNOWN
        return LEVELS[self.vote]

    def whys(self) -> tuple[Why, ...]:
        """Return the worst limit of each rule that votes, the worst first."""
        worst: dict[str, Limit] = {}
        for limit in self.limits:
            if limit.on and (limit.rule.id not in worst or worst[limit.rule.id].level < limit.level):
                worst[limit.rule.id] = limit
        return tuple(w.why() for w in sorted(worst.values(), key=lambda w: -w.level))


def settle(watch: Watch, t_s: float, tray: Tray, who: str = "") -> None:
    """Bring the object's alarm in line with its limits: raise, change, clear; tell each step once.

    `who` is the person whose command led here, if one did.
    """
    top = max((x for x in watch.limits if x.on), key=lambda x: x.level, default=None)
    vote = watch.vote = top.level if top else 0
    latched = max((x.level for x in watch.limits if x.on and x.latches), default=0)
    alarm = watch.alarm
    tray.latch_moved = tray.demand_moved = True
    if alarm is None:
        if vote:
            alarm = watch.alarm = Alarm(tray.new_id(), vote, t_s, watch.status, latched)
            _tell(watch, alarm, "alarm.raised", 0, top, t_s, tray)
        return
    alarm.latched = max(alarm.latched, latched)
    was, alarm.level = alarm.level, max(vote, alarm.latched)
    if alarm.level == 0:
        ending = (f"由{who}解除", f"by {who}") if who else ("原因消失", "its cause is gone")
        close(watch, t_s, tray, who, *ending, was)
    elif alarm.level > was:
        alarm.acknowledged, alarm.who = False, ""
        _tell(watch, alarm, "alarm.raised_to", was, top, t_s, tray)
    elif alarm.level < was:
        _tell(watch, alarm, "alarm.lowered_to", was, top, t_s, tray, who)


def close(watch: Watch, t_s: float, tray: Tray, who: str, ending_zh: str, ending_en: str, was: int) -> None:
    """End the object's alarm and say why."""
    alarm = watch.alarm
    assert alarm is not None
    watch.alarm = None
    tray.demand_moved = tray.latch_moved = True
    tray.tell("alarm.cleared", t_s, {"object": watch.config.name, **colour_facts(0, was), "ending_zh": ending_zh,
                                     "ending_en": ending_en},
              object=watch.config.id, alarm=alarm.id, level=0, was=was, status=alarm.status, who=who,
              why={"ending": ending_en})


def acknowledge(watch: Watch, who: str, t_s: float, tray: Tray) -> None:
    """Note that a person knows of the alarm. It stands, and so does its sound."""
    alarm = watch.alarm
    assert alarm is not None
    alarm.acknowledged, alarm.who = True, who
    tray.latch_moved = True
    tray.tell("alarm.acknowledged", t_s, {"object": watch.config.name, **colour_facts(alarm.level), "who": who},
              object=watch.config.id, alarm=alarm.id, level=alarm.level, status=alarm.status, who=who)


def _tell(watch: Watch, alarm: Alarm, kind: str, was: int, top: Limit | None, t_s: float, tray: Tray,
          who: str = "") -> None:
    facts: dict[str, object] = {"object": watch.config.name, **colour_facts(alarm.level, was)}
    why: dict[str, object] = {}
    point = ""
    if top is not None:
        facts["cause_zh"], facts["cause_en"] = words.cause(
            top.name, top.value, top.limit, top.unit, top.resolution, below=top.sign < 0, level=top.level)
        decided = top.why()
        point = decided.point
        why = {"rule": decided.rule, "point": point, "value": decided.value, "limit": decided.limit,
               "unit": decided.unit}
    tray.tell(kind, t_s, facts, object=watch.config.id, point=point, alarm=alarm.id, level=alarm.level, was=was,
              status=alarm.status, who=who, why=why)


def present(watch: Watch, lost: Array) -> PresentObject:
    """Return the object as it stands; `lost` (bool) runs over the inventory."""
    alarm = watch.alarm
    return PresentObject(
        object=watch.config.id, name=watch.config.name, hazard=watch.config.hazard, service=watch.service,
        status=watch.status, colour=watch.colour(lost), alarm=alarm.id if alarm else "",
        alarm_colour=LEVELS[alarm.level] if alarm else Colour.NONE, acknowledged=bool(alarm and alarm.acknowledged),
        since_ms=milliseconds(alarm.since_s) if alarm else 0, why=watch.whys(),
        lost=tuple(watch.config.points[k].id for k in np.flatnonzero(watch.among(lost)).tolist()))
