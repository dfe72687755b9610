"""The few formulas a template may name: plain data, computed here.

Owns: the closed list of transforms, there and back. Promises: pure functions; what the signal itself disowns (a broken
current loop, a wire that does not ring) is a word and never a number. Never: evaluates an expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from drivers.registers import Kind, Order
from drivers.sheet import Name, Part, Register

Number = float | Name
"""A number the same for every instrument, or the name of one of the template's `parameters`."""
Worth = tuple[float | None, str]
"""A value and a word about it ("" = none), the value None where there is none."""

BROKEN_MA, LEAST_MA, MOST_MA, SHORT_MA = 3.6, 3.8, 20.5, 21.0
"""NAMUR NE 43: measurement from 3.8 to 20.5 mA; failure below 3.6 and above 21."""


class Temperature(Part, frozen=True, kw_only=True):
    """The register with the instrument's temperature in °C, read in the same request."""

    register: Register
    type: Kind = "s16"
    order: Order = "ABCD"
    scale: float = 1.0
    offset: float = 0.0


class VibratingWire(Part, frozen=True, kw_only=True, tag_field="kind", tag="vibrating_wire"):
    """value = k × (f² - f0²) + kt × (T - t0), f in Hz as `scale` and `offset` make it. No ringing is sensor_fault."""

    k: Number
    f0: Number
    """The zero reading; 0 where the instrument has none."""
    kt: Number = 0.0
    t0: Number = 0.0
    temperature: Temperature | None = None


class CurrentLoop(Part, frozen=True, kw_only=True, tag_field="kind", tag="current_loop"):
    """4 mA is `low`, 20 mA is `high`, the current in mA as `scale` and `offset` make it.

    Below 3.6 and above 21 mA it is sensor_fault, up to 3.8 under_range, from 20.5 over_range (NAMUR NE 43).
    """

    low: Number
    high: Number


Transform = VibratingWire | CurrentLoop


def names(transform: Transform) -> list[str]:
    """Return the parameters a transform asks for."""
    numbers = [transform.k, transform.f0, transform.kt, transform.t0] if isinstance(transform, VibratingWire) \
        else [transform.low, transform.high]
    return [number for number in numbers if isinstance(number, str)]


def compiled(transform: Transform, parameters: Mapping[str, float]) -> Callable[[float, float], Worth]:
    """Return (signal, temperature) → (value, word); the temperature counts only where the transform has one.

    Raises:
        KeyError: a parameter is missing.
    """
    def number(given: Number) -> float:
        return parameters[given] if isinstance(given, str) else given

    if isinstance(transform, CurrentLoop):
        low, high = number(transform.low), number(transform.high)

        def loop(signal: float, _: float) -> Worth:
            if not BROKEN_MA <= signal <= SHORT_MA:
                return None, "sensor_fault"
            value = (low * (20.0 - signal) + high * (signal - 4.0)) / 16.0
            return value, "under_range" if signal < LEAST_MA else "over_range" if signal > MOST_MA else ""
        return loop

    k, f0 = number(transform.k), number(transform.f0)
    kt, t0 = (number(transform.kt), number(transform.t0)) if transform.temperature else (0.0, 0.0)

    def wire(signal: float, temperature: float) -> Worth:
        if not signal > 0:
            return None, "sensor_fault"
        return k * (signal - f0) * (signal + f0) + kt * (temperature - t0), ""
    return wire


def undone(transform: Transform, parameters: Mapping[str, float], value: float, temperature: float = 0.0) -> float:
    """Return the signal that gives `value`.

    Raises:
        ValueError: no signal does.
        KeyError: a parameter is missing.
    """
    def number(given: Number) -> float:
        return parameters[given] if isinstance(given, str) else given

    if isinstance(transform, CurrentLoop):
        low, high = number(transform.low), number(transform.high)
        if low == high:
            raise ValueError("a current loop whose low is its high says nothing")
        return 4.0 + 16.0 * (value - low) / (high - low)
    k, f0 = number(transform.k), number(transform.f0)
    warmth = number(transform.kt) * (temperature - number(transform.t0)) if transform.temperature else 0.0
    square = (value - warmth) / k + f0 * f0 if k else -1.0
    if square <= 0:
        raise ValueError(f"no frequency gives {value} with k = {k} and f0 = {f0}")
    return math.sqrt(square)


def limits(transform: Transform, parameters: Mapping[str, float]) -> tuple[float, float] | None:
    """Return the least and greatest value a sound signal can give, None where nothing bounds it or is known."""
    if not isinstance(transform, CurrentLoop) or any(name not in parameters for name in names(transform)):
        return None
    worth = compiled(transform, parameters)
    ends = [value for signal in (LEAST_MA, MOST_MA) for value in [worth(signal, 0.0)[0]] if value is not None]
    return min(ends), max(ends)
