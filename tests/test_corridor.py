"""The corridor when something on the way fails: the siren goes on, the latch is staged, the rest is counted."""

import itertools
import logging

import pytest

from drivers import Scan
from gateway.corridor import Corridor
from gateway.inbox import Inbox
from gateway.model import Command, Door, Event
from tests.judgement_site import Box, point, rule, site, slope


class Keeper:
    """Remembers what it was given; refuses while `broken` says so of a call."""

    def __init__(self):
        self.events, self.samples, self.latch = [], 0, None
        self.broken = lambda samples, events, latch: False

    def record(self, door, inventory, samples, events, latch):
        if self.broken(samples, events, latch):
            raise TypeError("cannot be written")
        self.events += events
        self.samples += 0 if samples is None else len(samples)
        self.latch = latch or self.latch

    def urgent(self, on):
        pass


class Rig:
    """A corridor around a real judgement, with a clock that is set by hand."""

    def __init__(self, submit=None):
        self.now_s = 100.0
        self.box = Box(site(slope(rule(red=60, latch=("red",)), rule("doubted", "quick", red=60),
                                  points=(point("crack", "dev.x"), point("quick", "dev.y", rate_per_s=1.0)))),
                       now_s=self.now_s)
        self.judge = self.box.pipeline
        self.inbox, self.keeper, self.followed = Inbox(), Keeper(), []
        ids = itertools.count()

        def fact(kind, **why):
            return Event(id=f"f{next(ids)}", kind=kind, t_ms=0, why=why)

        self.corridor = Corridor(
            self.inbox, self.judge, self.keeper, 1, follow=self.followed.append,
            door=lambda: Door("boot", 0, "unset"), submit={"dev": submit or (lambda _: None)}, feed=lambda _: None,
            lost=lambda n: fact("journal.gap", count=n, reason="overrun"),
            unkept=lambda n, text: fact("journal.gap", count=n, reason="refused", error=text),
            each_second=list, now=lambda: self.now_s)

    def say(self, *values):
        self.inbox.put([Scan("dev", self.now_s, ("x", "y")[:len(values)], values)])
        return self

    def step(self, seconds=0.01):
        self.now_s += seconds
        self.corridor.step(0.0)
        return self

    @property
    def siren(self):
        return self.followed[-1][0].colour.value if self.followed else "none"

    def restored(self):
        """Which colour sounds when the process dies now and comes back."""
        new = Box(self.box.config, now_s=self.now_s, prefix="n")
        if self.keeper.latch is not None:
            new.take(new.pipeline.restore(self.keeper.latch, self.now_s, 1.0, same_boot=True))
        return new.siren


def refuse(_):
    raise RuntimeError("no such door")


def test_a_driver_that_takes_no_asks_costs_neither_siren_nor_latch_nor_event(caplog):
    rig = Rig(submit=refuse).say(5.0, 5.0).step()
    rig.now_s += 1
    rig.say(65.0, 70.0).step()                          # y jumped: a confirming read is asked of a broken door
    assert (rig.siren, rig.restored()) == ("red", "red")
    assert "alarm.raised" in [e.kind for e in rig.keeper.events]
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == [
        "confirming read not asked device=dev"]


def test_records_that_cannot_be_written_cost_only_themselves_and_are_counted():
    rig = Rig().say(5.0).step()
    rig.keeper.broken = lambda samples, events, latch: samples is not None or bool(events)
    rig.say(65.0).step()
    assert (rig.siren, rig.restored()) == ("red", "red")    # the latch went alone
    assert rig.corridor.fault == "TypeError: cannot be written"
    rig.keeper.broken = lambda *_: False
    rig.say(66.0).step()
    assert rig.corridor.fault == ""
    gaps = [e.why for e in rig.keeper.events if e.kind == "journal.gap"]
    assert gaps == [{"count": 2, "reason": "refused", "error": "TypeError: cannot be written"}]


@pytest.mark.parametrize("error", [OSError(28, "no space"), TypeError("x"), MemoryError()])
def test_a_keeper_that_keeps_nothing_never_stops_the_siren_and_gets_the_latch_when_it_can(error):
    rig = Rig().say(5.0).step()

    def broken(*_):
        raise error

    rig.keeper.broken = broken
    for value in (65.0, 66.0, 67.0):
        rig.say(value).step(0.3)
    assert (rig.siren, rig.restored()) == ("red", "none")
    rig.keeper.broken = lambda *_: False
    rig.step(1.1)                                       # nothing new is read: the clock brings it
    assert rig.restored() == "red"


def test_an_ask_that_fails_costs_no_other_ask_and_no_scan():
    rig = Rig().say(65.0)
    replies = []
    rig.inbox.ask(refuse)
    rig.corridor.command(Command(id="c", kind="acknowledge", object="nobody", who="x"), replies.append)
    with pytest.raises(RuntimeError):
        rig.step()
    rig.step()
    assert ([r.ok for r in replies], rig.siren) == ([False], "red")


@pytest.mark.parametrize("name", ["_finish", "latch"])
def test_a_bug_between_judging_and_doing_loses_neither_demand_nor_latch(name):
    rig = Rig().say(5.0).step()
    healthy = getattr(rig.judge, name)

    def once():
        setattr(rig.judge, name, healthy)
        if name == "_finish":
            healthy()                                   # worked out, and lost on the way
        raise RuntimeError("bug")

    setattr(rig.judge, name, once)
    with pytest.raises(RuntimeError):
        rig.say(65.0).step()
    rig.step()
    assert (rig.siren, rig.restored()) == ("red", "red")


def test_scans_dropped_before_a_bug_are_still_told():
    rig = Rig()
    rig.inbox._dropped = 3
    rig.inbox.ask(refuse)
    with pytest.raises(RuntimeError):
        rig.step()
    rig.step()
    assert [e.why["count"] for e in rig.keeper.events if e.kind == "journal.gap"] == [3]
