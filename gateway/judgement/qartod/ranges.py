"""Gross range: what the instrument can say, and what the site believes.

Owns: QARTOD test 4. Promises: pure; a reading at a limit is within it. Never: a state.
"""

from __future__ import annotations

from gateway.judgement.qartod.flags import FAIL, SUSPECT, Array, fresh

Span = tuple[float, float]


def gross_range(v: Array, fail: Span, suspect: Span | None = None) -> Array:
    """Flag what lies beyond the instrument (4) or beyond what the site believes (3).

    Args:
        v: values, float64, NaN where missing.
        fail: least and most the instrument can say; in any order.
        suspect: the same of the site, within `fail`; None = not asked.

    Returns:
        Flags, uint8, of the shape of `v`.

    Raises:
        ValueError: `suspect` is wider than `fail`.
    """
    low, high = sorted(fail)
    flags = fresh(v)
    if suspect is not None:
        site_low, site_high = sorted(suspect)
        if site_low < low or site_high > high:
            raise ValueError(f"expected a suspect span within {low:g} to {high:g}, got {site_low:g} to {site_high:g}")
        flags[(v < site_low) | (v > site_high)] = SUSPECT
    flags[(v < low) | (v > high)] = FAIL
    return flags
