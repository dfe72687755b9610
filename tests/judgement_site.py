"""A site to judge in tests, and a box that remembers everything its pipeline handed back."""

import itertools

import msgspec

from drivers import PointInfo, Scan, Wire
from gateway.config import Authority, Button, Config, Gateway, Levels, Output, Point, Quality, Report, Rule, Watched
from gateway.judgement.outcome import Outcome
from gateway.judgement.pipeline import Pipeline
from gateway.model import Command


class Part(msgspec.Struct, frozen=True):
    id: str


class TestWire(Wire, frozen=True, kw_only=True):
    __test__ = False
    devices: tuple[Part, ...] = ()


EVERYTHING = Authority(approved_by="县应急局", approved_on="2026-05-01", blue="automatic", yellow="automatic",
                       orange="automatic", red="automatic")


def point(id_, read, *, poll_s=1.0, every_s=0.0, change=None, **quality):
    return Point(id=id_, name=f"测点{id_}", read=read, poll_s=poll_s, report=Report(every_s=every_s, change=change),
                 quality=Quality(**quality))


def rule(id_="level", on="crack", *, below=None, on_delay_s=0.0, off_delay_s=0.0, hysteresis=0.0, latch=(), **above):
    return Rule(id=id_, point=on, above=Levels(**above) if above else None,
                below=Levels(**below) if below else None, hysteresis=hysteresis, on_delay_s=on_delay_s,
                off_delay_s=off_delay_s, latch=latch)


def slope(*rules, points=None, service="in_service", authority=EVERYTHING, outputs=("siren", "strobe"), id_="slope"):
    return Watched(id=id_, name="雷家山后山滑坡", hazard="slope", service=service, rules=rules,
                   points=points or (point("crack", "dev.x"),), outputs=outputs, authority=authority)


def site(*objects, buttons=(), silence_s=600.0):
    return Config(
        version=1, gateway=Gateway(id="g", name="站"), objects=objects, buttons=buttons,
        wires=(TestWire(id="bus", driver="test", devices=(Part("dev"), Part("other"), Part("pad"))),),
        outputs=(Output(id="siren", kind="siren", wire="pins", pin=17, active="high", silence_s=silence_s),
                 Output(id="strobe", kind="strobe", wire="pins", pin=27, active="high"),
                 Output(id="lamp", kind="fault_lamp", wire="pins", pin=22, active="high")))


INFO = PointInfo(unit="mm", resolution=0.1, low=0.0, high=100.0, beyond_high="saturated")
BUTTON = Button(read="pad.state", does=("acknowledge", "silence"), object="slope", who="责任人")


class Box:
    """A pipeline with a memory."""

    def __init__(self, config, infos=None, *, now_s=0.0, prefix="a"):
        counter = itertools.count(1)
        self.config = config
        self.infos = infos or {}
        known = {p.read: self.infos.get(p.read, INFO) for o in config.objects for p in o.points}
        self.pipeline = Pipeline(config, known, new_id=lambda: f"{prefix}{next(counter)}", now_s=now_s)
        self.events, self.lanes, self.ask, self.samples, self.fed = [], [], [], [], []
        self.demand = self.pipeline.present(now_s).demand
        self.latch = None
        self.last = Outcome()

    def take(self, out):
        self.last = out
        self.events += [e for _, e in out.events]
        self.lanes += [lane for lane, _ in out.events]
        self.ask += out.ask
        if out.samples is not None:
            self.samples += out.samples.tolist()
        if out.feed is not None:
            self.fed += [(int(i), out.feed.t_s, float(v))
                         for i, v in zip(out.feed.indices, out.feed.values, strict=True)]
        if out.demand is not None:
            self.demand = out.demand
        if out.latch is not None:
            self.latch = out.latch
        return self

    def say(self, t, *values, device="dev", points=None, notes=()):
        names = points or ("x", "y", "z")[:len(values)]
        return self.take(self.pipeline.scan(Scan(device, t, tuple(names), tuple(values), tuple(notes)), t))

    def fail(self, t, note="no_answer", device="dev", points=("x",)):
        return self.say(t, *[None] * len(points), device=device, points=points, notes=[note] * len(points))

    def tick(self, t):
        return self.take(self.pipeline.tick(t))

    def ask_for(self, kind, t, object_="slope", **more):
        out, reply = self.pipeline.command(
            Command(id="c", kind=kind, object=object_, who=more.pop("who", "张三"), **more), t)
        self.take(out)
        return reply

    def object(self, k=0):
        return self.pipeline.present(0.0).objects[k]

    @property
    def colour(self):
        return self.object().colour.value

    @property
    def held(self):
        return self.object().alarm_colour.value

    def sounds(self, output="siren"):
        return next(d for d in self.demand if d.output == output)

    @property
    def siren(self):
        """The colour the siren is to sound, or none while it is silenced."""
        found = self.sounds()
        return "none" if found.silenced_until_ms else found.colour.value

    def kinds(self, prefix=""):
        return [e.kind for e in self.events if e.kind.startswith(prefix)]
