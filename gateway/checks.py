"""What no single field of the configuration can say: names that must exist, pins that must not be shared, law.

Owns: every check over more than one field. Promises: each problem with path and line, also in a file that has other
errors; nothing is concluded from a value that was wrong in itself. Never: opens hardware, repeats a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from itertools import pairwise
from typing import Any

import drivers
from drivers import Library, PointInfo, Wire
from drivers.strictyaml import Parsed, Path, Problem, dotted, nearest
from gateway import checks_pins
from gateway.checks_pins import WARNING, listed, number
from gateway.config import Config, Levels, Output, Platform, Point, Rule, Watched

MAYBE = object()               # a name that may exist, as the part of the file that would say so has errors


def problems(parsed: Parsed[Config], library: Library) -> list[Problem]:
    """Return what is wrong between the fields of `parsed.mended`, which must not be None."""
    config = parsed.mended
    assert config is not None
    look = Look(parsed, config)
    look.ids()
    look.wires(library)
    for path, watched in parsed.numbered(("objects",), config.objects):
        look.watched(path, watched)
    checks_pins.pins(look)
    for path, output in parsed.numbered(("outputs",), config.outputs):
        checks_pins.output(look, path, output)
    checks_pins.buttons(look)
    for path, platform in parsed.numbered(("platforms",), config.platforms):
        look.platform(path, platform)
    return look.found


class Look:
    """One look over one configuration; what is wrong collects in `found`."""

    def __init__(self, parsed: Parsed[Config], config: Config) -> None:
        self.parsed = parsed
        self.config = config
        self.found: list[Problem] = []
        self.points: dict[str, Mapping[str, PointInfo] | None] = {}
        """device → point → what is known; None for a device whose points nobody can tell."""

    def say(self, path: Path, message: str) -> None:
        """Note what is wrong with the value at `path`, unless that value was wrong in itself."""
        if path not in self.parsed.tainted:
            self.found.append(self.parsed.problem(path, message))

    def lists(self) -> Iterable[tuple[str, list[tuple[Path, Any]]]]:
        """Every list of things with ids, each with the name of what it holds."""
        numbered, config = self.parsed.numbered, self.config
        wires = numbered(("wires",), config.wires)
        objects = numbered(("objects",), config.objects)
        yield "wire", wires
        yield "device", [d for p, wire in wires for d in numbered((*p, "devices"), getattr(wire, "devices", ()))]
        yield "object", objects
        yield "point", [d for p, watched in objects for d in numbered((*p, "points"), watched.points)]
        yield "rule", [d for p, watched in objects for d in numbered((*p, "rules"), watched.rules)]
        yield "output", numbered(("outputs",), config.outputs)
        yield "platform", numbered(("platforms",), config.platforms)

    def ids(self) -> None:
        """Every id once in the box: events, topics and commands name things by it alone."""
        for noun, things in self.lists():
            first: dict[str, Path] = {}
            for path, thing in things:
                below = (*path, "id")
                if thing.id in first:
                    self.say(below, f"the {noun} on line {self.parsed.line(first[thing.id])} is called "
                             f"{thing.id!r} too: expected an id of its own")
                elif below not in self.parsed.tainted:
                    first[thing.id] = below

    def wires(self, library: Library) -> None:
        """What the drivers say about their wires, and which points there are."""
        lines: dict[str, str] = {}
        twice: set[str] = set()   # which of two devices of one name is meant, nobody can tell
        for path, wire in self.parsed.numbered(("wires",), self.config.wires):
            port = getattr(wire, "port", "")
            if isinstance(port, str) and port.startswith("mock:") and not self.config.demo:
                self.say((*path, "port"), "mock pins sound no siren: expected a real port such as lgpio, "
                         "or demo: true at the top")
            elif port and wire.driver != "gpio":   # pins can be shared out, a line can't
                if port in lines:
                    self.say((*path, "port"), f"the port is already used by wire {lines[port]!r}: put the devices "
                             "together on one wire")
                lines.setdefault(port, wire.id)
            for device in getattr(wire, "devices", ()):
                twice |= {device.id} & self.points.keys()
                self.points[device.id] = None
            # a driver may trust its own structs: it is asked only when nothing in them was wrong
            if type(wire) is Wire or not self.parsed.sound(path):
                continue
            driver = drivers.find(wire.driver)
            said = {problem.path for problem in self.found}
            for below, message in driver.problems(wire, library):
                if dotted((*path, *below)) not in said:
                    self.say((*path, *below), message)
            self.points.update(driver.describe(wire, library))
        self.points.update(dict.fromkeys(twice))

    def info(self, path: Path, ref: str) -> PointInfo | None:
        """Look a device.point up; say so when it does not exist. None when nothing is known about it."""
        if path in self.parsed.tainted:
            return None
        device, _, point = ref.partition(".")
        if device not in self.points:
            if not any(t[0] == "wires" for t in self.parsed.tainted if t):
                self.say(path, f"no device called {device!r} on any wire{nearest(device, self.points)} "
                         f"(known: {listed(self.points)})")
            return None
        known = self.points[device]
        if known is None:
            return None
        if point not in known:
            self.say(path, f"{device!r} has no point {point!r}{nearest(point, known)} (known: {listed(known)})")
        return known.get(point)

    def reference(self, path: Path, noun: str, name: str, things: tuple[Any, ...], section: str) -> Any:
        """Return the thing called `name`; say so and return None when there is none."""
        for thing in things:
            if thing.id == name:
                return thing
        if path in self.parsed.tainted or any(t[:1] == (section,) and (len(t) == 1 or t[-1] == "id")
                                              for t in self.parsed.tainted):
            return MAYBE
        names = [t.id for t in things]
        self.say(path, f"no {noun} called {name!r}{nearest(name, names)} (known: {listed(names)})")
        return None

    def watched(self, path: Path, watched: Watched) -> None:
        """One object: its points, rules, outputs and who approved them."""
        infos: dict[str, tuple[Point, PointInfo | None]] = {}
        for below, point in self.parsed.numbered((*path, "points"), watched.points):
            infos[point.id] = (point, self.info((*below, "read"), point.read))
            self.point(below, point)
        for below, rule in self.parsed.numbered((*path, "rules"), watched.rules):
            self.rule(below, rule, infos, (*path, "points"))
        outputs = []
        for n, name in enumerate(watched.outputs):
            output = self.reference((*path, "outputs", n), "output", name, self.config.outputs, "outputs")
            if output is None or output is MAYBE:
                continue
            outputs.append(output)
            if output.kind == "fault_lamp":
                self.say((*path, "outputs", n), f"{name!r} is a fault lamp, it shows the health of the box: "
                         "expected a siren or a strobe")
        if watched.authority is not None:
            approved = (*path, "authority", "approved_on")
            try:
                date.fromisoformat(watched.authority.approved_on)
            except ValueError:
                self.say(approved, f"{watched.authority.approved_on!r} is no day of the calendar: "
                         "expected a date like 2026-05-01")
        if watched.service == "maintenance":
            self.say((*path, "service"), "maintenance ends by itself and is a person's command, no setting: a box set "
                     "up like this would stay silent for ever. Expected trial, or in_service")
        if watched.service == "in_service":
            self.in_service(path, watched, outputs)

    def point(self, path: Path, point: Point) -> None:
        """Limits that fit each other."""
        quality = point.quality
        if quality.low is not None and quality.high is not None and quality.low >= quality.high:
            self.say((*path, "quality", "low"), f"low {number(quality.low)} is not below high {number(quality.high)}")
        for key, limit_s in (("stale_s", quality.stale_s), ("flat_s", quality.flat_s)):
            if limit_s is not None and limit_s <= point.poll_s:
                self.say((*path, "quality", key), f"{key} {number(limit_s)} is not longer than poll_s "
                         f"{number(point.poll_s)}: every reading would be suspect")

    def rule(self, path: Path, rule: Rule, infos: Mapping[str, tuple[Point, PointInfo | None]], points: Path) -> None:
        """One rule: its point, its direction, its levels in order and within reach."""
        if rule.point not in infos and points not in self.parsed.tainted and not any(
                t[:len(points)] == points and t[-1] == "id" for t in self.parsed.tainted):
            self.say((*path, "point"), f"no point called {rule.point!r} in this object{nearest(rule.point, infos)} "
                     f"(known: {listed(infos)})")
        if (rule.above is None) == (rule.below is None):
            if self.parsed.sound((*path, "above")) and self.parsed.sound((*path, "below")):
                self.say(path, "expected exactly one of above and below")
            return
        key, levels, sign = ("above", rule.above, 1) if rule.above is not None else ("below", rule.below, -1)
        assert levels is not None
        given = _given(levels)
        if not self.parsed.sound((*path, key)):
            return
        if not given:
            self.say((*path, key), f"names no level: expected at least one of {', '.join(WARNING)}")
            return
        for (lower, low), (higher, high) in pairwise(given.items()):
            if (high - low) * sign <= 0:
                order = "above" if sign > 0 else "below"
                self.say((*path, key, higher), f"{higher} {number(high)} is not {order} {lower} {number(low)}: "
                         f"levels must {'ascend' if sign > 0 else 'descend'} from blue to red")
            elif rule.hysteresis >= abs(high - low):
                self.say((*path, "hysteresis"), f"{number(rule.hysteresis)} is not smaller than the distance of "
                         f"{number(abs(high - low))} from {lower} to {higher}: the colours would overlap")
        if self.parsed.given((*path, "latch")):
            for n, colour in enumerate(rule.latch):
                if colour not in given:
                    self.say((*path, "latch", n), f"{colour} is no level of this rule (levels: {listed(given)})")
        self.reach((*path, key), given, sign, *infos.get(rule.point, (None, None)))

    def reach(self, path: Path, given: Mapping[str, float], sign: int, point: Point | None,
              info: PointInfo | None) -> None:
        """Levels that no good reading can get to would never warn."""
        limits = []
        if info is not None:
            limit, beyond = (info.high, info.beyond_high) if sign > 0 else (info.low, info.beyond_low)
            if limit is not None and beyond == "fail":
                limits.append((limit, "the sensor's range"))
        if point is not None:
            quality = point.quality.high if sign > 0 else point.quality.low
            if quality is not None:
                limits.append((quality, "the point's quality limit"))
        for colour, level in given.items():
            for limit, what in limits:
                if (level - limit) * sign >= 0 and not (level == limit and what == "the sensor's range"):
                    self.say((*path, colour), f"{colour} {number(level)} lies outside {what} ({number(limit)}): "
                             "a reading there is refused and would never warn")

    def in_service(self, path: Path, watched: Watched, outputs: list[Output]) -> None:
        """An object in service may sound a siren by itself: somebody must have signed for it, and it must be able."""
        if watched.authority is None:
            if self.parsed.sound((*path, "authority")):
                self.say((*path, "service"), "in_service without authority: expected authority with approved_by and "
                         "approved_on, or service: trial until it is signed")
            return
        levels = {colour for rule in watched.rules for colour in _given(rule.above or rule.below)}
        sounding = [c for c in WARNING if c in levels and getattr(watched.authority, c) != "none"]
        if not sounding or not (self.parsed.sound((*path, "outputs")) and self.parsed.sound(("outputs",))):
            return
        if not watched.outputs:
            self.say((*path, "service"), f"in_service with rules up to {sounding[-1]} but no outputs: expected "
                     "outputs, or authority none for these colours")
        elif len(outputs) == len(watched.outputs):
            for colour in sounding:
                if not any(getattr(output, colour) for output in outputs):
                    self.say((*path, "authority"), f"{colour} is {getattr(watched.authority, colour)!r} but none of "
                             f"the outputs has a pattern for {colour}: expected a pattern, or {colour}: none")

    def platform(self, path: Path, platform: Platform) -> None:
        """Where the county is, and secrets that stay out of this file."""
        # what stands in host and password_env is not repeated: it may hold a password
        # (an IPv6 address has colons, but at least two)
        if re.search(r"[@/\s]|^[^:]*:\d+$", platform.host):
            self.say((*path, "host"), "expected a bare host name or address: the port goes under port, a user under "
                     "username, a password in the file named by password_file")
        if platform.password_file is not None and platform.password_env is not None:
            self.say((*path, "password_env"), "both password_file and password_env are given: expected one of them")
        if platform.password_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", platform.password_env):
            self.say((*path, "password_env"), "expected the name of an environment variable, not the password")
        if platform.username is None and (platform.password_file or platform.password_env):
            self.say(path, "a password without a username: expected username")
        if platform.tls is not None and (platform.tls.cert_file is None) != (platform.tls.key_file is None):
            missing = "cert_file" if platform.tls.cert_file is None else "key_file"
            self.say((*path, "tls"), f"one of cert_file and key_file alone: expected {missing} too")


def _given(levels: Levels | None) -> dict[str, float]:
    return {c: v for c in WARNING if (v := getattr(levels, c, None)) is not None}
