"""What no single field of the configuration can say: names that must exist, pins that must not be shared, law.

Owns: every check over more than one field. Promises: each problem with path and line, also in a file that has other
errors; nothing is concluded from a value that was wrong in itself. Never: opens hardware, repeats a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import drivers
from drivers import Library, PointInfo, Wire
from drivers.strictyaml import Parsed, Path, Problem, dotted, nearest

if TYPE_CHECKING:
    from gateway.config import Config, Levels, Output, Platform, Point, Rule, Watched

_WARNING = ("blue", "yellow", "orange", "red")
_I2C_PINS = (0, 1, 2, 3)        # the board itself talks on them (HAT memory, clock chip, UPS)
_UART_PINS = (14, 15)
_PULL_UP_PINS = range(9)        # BCM 0-8 boot with pull-ups: BCM2835 ARM Peripherals, table 6-31
_MAYBE = object()               # a name that may exist, as the part of the file that would say so has errors


def problems(parsed: Parsed[Config], library: Library) -> list[Problem]:
    """Return what is wrong between the fields of `parsed.mended`, which must not be None."""
    config = parsed.mended
    assert config is not None
    look = _Look(parsed, config)
    look.ids()
    look.wires(library)
    for path, watched in parsed.numbered(("objects",), config.objects):
        look.watched(path, watched)
    look.pins()
    for path, output in parsed.numbered(("outputs",), config.outputs):
        look.output(path, output)
    look.buttons()
    for path, platform in parsed.numbered(("platforms",), config.platforms):
        look.platform(path, platform)
    return look.found


class _Look:
    """One look over one configuration; what is wrong collects in `found`."""

    def __init__(self, parsed: Parsed[Config], config: Config) -> None:
        self.parsed = parsed
        self.config = config
        self.found: list[Problem] = []
        self.points: dict[str, Mapping[str, PointInfo] | None] = {}
        """device → point → what is known; None for a device whose points nobody can tell."""

    def say(self, path: Path, message: str) -> None:
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
                         f"(known: {_list(self.points)})")
            return None
        known = self.points[device]
        if known is None:
            return None
        if point not in known:
            self.say(path, f"{device!r} has no point {point!r}{nearest(point, known)} (known: {_list(known)})")
        return known.get(point)

    def reference(self, path: Path, noun: str, name: str, things: tuple[Any, ...], section: str) -> Any:
        """Return the thing called `name`; say so and return None when there is none."""
        for thing in things:
            if thing.id == name:
                return thing
        if path in self.parsed.tainted or any(t[:1] == (section,) and (len(t) == 1 or t[-1] == "id")
                                              for t in self.parsed.tainted):
            return _MAYBE
        names = [t.id for t in things]
        self.say(path, f"no {noun} called {name!r}{nearest(name, names)} (known: {_list(names)})")
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
            if output is None or output is _MAYBE:
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
        if watched.service == "in_service":
            self.in_service(path, watched, outputs)

    def point(self, path: Path, point: Point) -> None:
        """Limits that fit each other."""
        quality = point.quality
        if quality.low is not None and quality.high is not None and quality.low >= quality.high:
            self.say((*path, "quality", "low"), f"low {_n(quality.low)} is not below high {_n(quality.high)}")
        for key, limit_s in (("stale_s", quality.stale_s), ("flat_s", quality.flat_s)):
            if limit_s is not None and limit_s <= point.poll_s:
                self.say((*path, "quality", key), f"{key} {_n(limit_s)} is not longer than poll_s {_n(point.poll_s)}: "
                         "every reading would be suspect")

    def rule(self, path: Path, rule: Rule, infos: Mapping[str, tuple[Point, PointInfo | None]], points: Path) -> None:
        """One rule: its point, its direction, its levels in order and within reach."""
        if rule.point not in infos and points not in self.parsed.tainted and not any(
                t[:len(points)] == points and t[-1] == "id" for t in self.parsed.tainted):
            self.say((*path, "point"), f"no point called {rule.point!r} in this object{nearest(rule.point, infos)} "
                     f"(known: {_list(infos)})")
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
            self.say((*path, key), f"names no level: expected at least one of {', '.join(_WARNING)}")
            return
        for (lower, low), (higher, high) in pairwise(given.items()):
            if (high - low) * sign <= 0:
                order = "above" if sign > 0 else "below"
                self.say((*path, key, higher), f"{higher} {_n(high)} is not {order} {lower} {_n(low)}: "
                         f"levels must {'ascend' if sign > 0 else 'descend'} from blue to red")
            elif rule.hysteresis >= abs(high - low):
                self.say((*path, "hysteresis"), f"{_n(rule.hysteresis)} is not smaller than the distance of "
                         f"{_n(abs(high - low))} from {lower} to {higher}: the colours would overlap")
        if self.parsed.given((*path, "latch")):
            for n, colour in enumerate(rule.latch):
                if colour not in given:
                    self.say((*path, "latch", n), f"{colour} is no level of this rule (levels: {_list(given)})")
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
                    self.say((*path, colour), f"{colour} {_n(level)} lies outside {what} ({_n(limit)}): "
                             "a reading there is refused and would never warn")

    def in_service(self, path: Path, watched: Watched, outputs: list[Output]) -> None:
        """An object in service may sound a siren by itself: somebody must have signed for it, and it must be able."""
        if watched.authority is None:
            if self.parsed.sound((*path, "authority")):
                self.say((*path, "service"), "in_service without authority: expected authority with approved_by and "
                         "approved_on, or service: trial until it is signed")
            return
        levels = {colour for rule in watched.rules for colour in _given(rule.above or rule.below)}
        sounding = [c for c in _WARNING if c in levels and getattr(watched.authority, c) != "none"]
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

    def pins(self) -> None:
        """Every pin has one user: a device or an output."""
        users: dict[tuple[str, int], str] = {}
        ports: dict[str, str] = {}
        for path, wire in self.parsed.numbered(("wires",), self.config.wires):
            port = ports[wire.id] = getattr(wire, "port", "")
            if wire.driver != "gpio":
                continue
            own: set[tuple[str, int]] = set()   # two of one wire are the driver's to report
            for below, device in self.parsed.numbered((*path, "devices"), getattr(wire, "devices", ())):
                if (port, device.pin) in users and (port, device.pin) not in own:
                    self.say((*below, "pin"), f"pin {device.pin} is already used by {users[port, device.pin]}")
                users.setdefault((port, device.pin), device.id)
                own.add((port, device.pin))
        for path, output in self.parsed.numbered(("outputs",), self.config.outputs):
            at = (ports.get(output.wire, output.wire), output.pin)
            if at in users:
                self.say((*path, "pin"), f"pin {output.pin} is already used by {users[at]}")
            users.setdefault(at, output.id)

    def output(self, path: Path, output: Output) -> None:
        """A pin that is safe when nobody drives it, and a sound that is no other authority's."""
        wire = self.reference((*path, "wire"), "wire", output.wire, self.config.wires, "wires")
        if isinstance(wire, Wire) and type(wire) is not Wire and wire.driver != "gpio":   # Wire itself: driver unknown
            gpio = [w.id for w in self.config.wires if w.driver == "gpio"]
            self.say((*path, "wire"), f"{output.wire!r} is a {wire.driver} wire: expected a gpio wire "
                     f"(known: {_list(gpio)})")
        if output.pin in _I2C_PINS:
            self.say((*path, "pin"), f"pin {output.pin} belongs to the board's I2C bus, which would switch the output: "
                     "expected one of 16-27")
        elif output.pin in _UART_PINS:
            self.say((*path, "pin"), f"pin {output.pin} belongs to the serial console, which would switch the output: "
                     "expected one of 16-27")
        elif output.kind == "siren" and output.active == "high" and output.pin in _PULL_UP_PINS:
            self.say((*path, "pin"), f"pin {output.pin} is pulled up while the board boots, an active-high siren would "
                     "sound: expected one of 16-27")
        if output.burst.sound_s >= output.burst.every_s and self.parsed.sound((*path, "burst")):
            self.say((*path, "burst"), f"sound_s {_n(output.burst.sound_s)} is not shorter than every_s "
                     f"{_n(output.burst.every_s)}: expected a pause")
        if output.kind == "siren":
            self.sound(path, output)

    def sound(self, path: Path, output: Output) -> None:
        """Refuse the rhythms of civil defence, which are not ours to sound.

        36 s on and 24 s off pre-warns of an air raid, 6 s on and 6 s off is the air raid, three minutes without a break
        is the all-clear.

        A siren without a break is let pass although a burst of 180 s is as long as the all-clear: within its three
        minutes any steady tone is the beginning of one, so no number put here would tell them apart. What does is the
        end: the all-clear is followed by silence, ours comes back every `every_s` until a person ends it, and `every_s`
        can't be left out. Sites within earshot of civil-defence sirens choose a broken pattern, as the shipped
        configuration does. The bursts of a steady tone are held to the same two rhythms as a pattern.
        """
        for colour in _WARNING:
            pattern: tuple[float, ...] = getattr(output, colour)
            steady = len(pattern) == 1
            burst = output.burst
            on_off = [(burst.sound_s, burst.every_s - burst.sound_s)] if steady else list(
                zip(pattern[::2], pattern[1::2], strict=False)) if len(pattern) % 2 == 0 else []
            for (on, off), meaning in (((36, 24), "the air-raid pre-warning"), ((6, 6), "the air-raid alarm")):
                if on_off and all(abs(a - on) <= on / 10 and abs(b - off) <= off / 10 for a, b in on_off):
                    self.say((*path, "burst") if steady else (*path, colour), f"{on} s on and {off} s off is "
                             f"{meaning} of civil defence: expected another rhythm")
                    if steady:
                        return

    def buttons(self) -> None:
        """A button is a button, and what it does is for an object there is."""
        devices = {d.id: d for w in self.config.wires if w.driver == "gpio" for d in getattr(w, "devices", ())}
        for path, button in self.parsed.numbered(("buttons",), self.config.buttons):
            self.info((*path, "read"), button.read)
            name = button.read.partition(".")[0]
            if name in self.points and getattr(devices.get(name), "kind", None) != "button":
                kinds = [d.id for d in devices.values() if d.kind == "button"]
                if self.parsed.sound(("wires",)):
                    self.say((*path, "read"), f"{name!r} is no button: expected a gpio device of kind button "
                             f"(known: {_list(kinds)})")
            self.reference((*path, "object"), "object", button.object, self.config.objects, "objects")

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
    return {c: v for c in _WARNING if (v := getattr(levels, c, None)) is not None}


def _n(value: float) -> str:
    return f"{value:g}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
