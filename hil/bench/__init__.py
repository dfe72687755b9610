"""Figures: what the box costs and how fast it is, each beside the limit or a bare script measured in the same run.

Owns: the shape of a figure. Promises: a figure in which a reading was lost has no value; every reference is measured
by the same run on the same machine. Never: asks the gateway; it is looked at from outside (files of /proc, the wire,
the broker, the pins). Journal and detectors, whose own cost has no outside, are also measured by themselves.
"""

from __future__ import annotations

from msgspec import Struct


class Figure(Struct, frozen=True, kw_only=True):
    """One line of bench.json."""

    name: str
    """``family.what``, as it is called for good."""
    value: float | None
    """None when something was lost or did not come about; the note says what."""
    unit: str
    reference: float | None
    """The physical limit, or a bare script's value, in the same unit."""
    ratio: float | None
    """value ÷ reference."""
    goal: str
    note: str = ""
    """How it was measured; for the table, not for the file."""


def figure(name: str, value: float | None, unit: str, reference: float | None, goal: str, note: str = "") -> Figure:
    """Make a figure, its ratio worked out and rounded to four digits."""
    ratio = value / reference if value is not None and reference else None
    return Figure(name=name, value=_four(value), unit=unit, reference=_four(reference), ratio=_four(ratio), goal=goal,
                  note=note)


def _four(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")
