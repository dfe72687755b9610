"""What hangs on pins: one user a pin, outputs that are silent when nobody drives them, sounds that are ours to make.

Owns: the checks of outputs, their patterns, and buttons. Promises and never: as `gateway.checks`, whose second half it
is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from drivers import Wire
from drivers.strictyaml import Path
from gateway.model import LEVELS

if TYPE_CHECKING:
    from gateway.checks import Look
    from gateway.config import Output

WARNING = LEVELS[1:]
_I2C_PINS = (0, 1, 2, 3)        # the board itself talks on them (HAT memory, clock chip, UPS)
_UART_PINS = (14, 15)
_PULL_UP_PINS = range(9)        # BCM 0-8 boot with pull-ups: BCM2835 ARM Peripherals, table 6-31


def pins(look: Look) -> None:
    """Every pin has one user: a device or an output."""
    users: dict[tuple[str, int], str] = {}
    ports: dict[str, str] = {}
    for path, wire in look.parsed.numbered(("wires",), look.config.wires):
        port = ports[wire.id] = getattr(wire, "port", "")
        if wire.driver != "gpio":
            _supplies(look, path, wire, users)
            continue
        own: set[tuple[str, int]] = set()   # two of one wire are the driver's to report
        for below, device in look.parsed.numbered((*path, "devices"), getattr(wire, "devices", ())):
            if (port, device.pin) in users and (port, device.pin) not in own:
                look.say((*below, "pin"), f"pin {device.pin} is already used by {users[port, device.pin]}")
            users.setdefault((port, device.pin), device.id)
            own.add((port, device.pin))
    for path, output in look.parsed.numbered(("outputs",), look.config.outputs):
        at = (ports.get(output.wire, output.wire), output.pin)
        if at in users:
            look.say((*path, "pin"), f"pin {output.pin} is already used by {users[at]}")
        users.setdefault(at, output.id)


def _supplies(look: Look, path: Path, wire: Wire, users: dict[tuple[str, int], str]) -> None:
    """The relays that feed sensors hang on pins too."""
    for below, device in look.parsed.numbered((*path, "devices"), getattr(wire, "devices", ())):
        supply = getattr(device, "supply", None)
        if supply is None:
            continue
        if (at := (supply.port, supply.pin)) in users:
            look.say((*below, "supply", "pin"), f"pin {supply.pin} is already used by {users[at]}")
        users.setdefault(at, f"the supply of {device.id}")
        if supply.pin in _I2C_PINS + _UART_PINS:
            look.say((*below, "supply", "pin"), f"pin {supply.pin} belongs to the board's I2C bus or serial console, "
                     "which would switch the supply: expected one of 4-13 or 16-27")
        if supply.port.startswith("mock:") and not look.config.demo:
            look.say((*below, "supply", "port"), "mock pins switch nothing: expected lgpio (or demo: true)")


def output(look: Look, path: Path, output: Output) -> None:
    """A pin that is safe when nobody drives it, and a sound that is no other authority's."""
    wire = look.reference((*path, "wire"), "wire", output.wire, look.config.wires, "wires")
    if isinstance(wire, Wire) and type(wire) is not Wire and wire.driver != "gpio":   # Wire itself: driver unknown
        gpio = [w.id for w in look.config.wires if w.driver == "gpio"]
        look.say((*path, "wire"), f"{output.wire!r} is a {wire.driver} wire: expected a gpio wire "
                 f"(known: {listed(gpio)})")
    if output.pin in _I2C_PINS:
        look.say((*path, "pin"), f"pin {output.pin} belongs to the board's I2C bus, which would switch the output: "
                 "expected one of 16-27")
    elif output.pin in _UART_PINS:
        look.say((*path, "pin"), f"pin {output.pin} belongs to the serial console, which would switch the output: "
                 "expected one of 16-27")
    elif output.kind == "siren" and output.active == "high" and output.pin in _PULL_UP_PINS:
        look.say((*path, "pin"), f"pin {output.pin} is pulled up while the board boots, an active-high siren would "
                 "sound: expected one of 16-27")
    if output.burst.sound_s >= output.burst.every_s and look.parsed.sound((*path, "burst")):
        look.say((*path, "burst"), f"sound_s {number(output.burst.sound_s)} is not shorter than every_s "
                 f"{number(output.burst.every_s)}: expected a pause")
    if output.kind == "siren":
        sound(look, path, output)


def sound(look: Look, path: Path, output: Output) -> None:
    """Refuse the rhythms of civil defence, which are not ours to sound.

    36 s on and 24 s off pre-warns of an air raid, 6 s on and 6 s off is the air raid, three minutes without a break
    is the all-clear.

    A siren without a break is let pass although a burst of 180 s is as long as the all-clear: within its three
    minutes any steady tone is the beginning of one, so no number put here would tell them apart. What does is the
    end: the all-clear is followed by silence, ours comes back every `every_s` until a person ends it, and `every_s`
    can't be left out. Sites within earshot of civil-defence sirens choose a broken pattern, as the shipped
    configuration does. The bursts of a steady tone are held to the same two rhythms as a pattern.
    """
    for colour in WARNING:
        pattern: tuple[float, ...] = getattr(output, colour)
        steady = len(pattern) == 1
        burst = output.burst
        on_off = [(burst.sound_s, burst.every_s - burst.sound_s)] if steady else list(
            zip(pattern[::2], pattern[1::2], strict=False)) if len(pattern) % 2 == 0 else []
        for (on, off), meaning in (((36, 24), "the air-raid pre-warning"), ((6, 6), "the air-raid alarm")):
            if on_off and all(abs(a - on) <= on / 10 and abs(b - off) <= off / 10 for a, b in on_off):
                look.say((*path, "burst") if steady else (*path, colour), f"{on} s on and {off} s off is "
                         f"{meaning} of civil defence: expected another rhythm")
                if steady:
                    return


def buttons(look: Look) -> None:
    """A button is a button, and what it does is for an object there is."""
    devices = {d.id: d for w in look.config.wires if w.driver == "gpio" for d in getattr(w, "devices", ())}
    for path, button in look.parsed.numbered(("buttons",), look.config.buttons):
        look.info((*path, "read"), button.read)
        name = button.read.partition(".")[0]
        if name in look.points and getattr(devices.get(name), "kind", None) != "button":
            kinds = [d.id for d in devices.values() if d.kind == "button"]
            if look.parsed.sound(("wires",)):
                look.say((*path, "read"), f"{name!r} is no button: expected a gpio device of kind button "
                         f"(known: {listed(kinds)})")
        look.reference((*path, "object"), "object", button.object, look.config.objects, "objects")


def number(value: float) -> str:
    """Write a number as people do."""
    return f"{value:g}"


def listed(names: Iterable[str]) -> str:
    """Write a list of names as people do."""
    return ", ".join(names) or "none"
