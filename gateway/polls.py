"""What to read and how often, from what a site's objects and buttons want.

Owns: that one map. Promises: device → point → poll_s; pure. Never: decides how it is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config import Config

BUTTON_POLL_S = 5.0
"""Presses arrive as edges; this only notices one that was missed."""


def polls(config: Config) -> Mapping[str, Mapping[str, float]]:
    """Return device → point → poll_s, from the objects' points and the buttons."""
    found: dict[str, dict[str, float]] = {}
    for button in config.buttons:
        device, name = button.read.split(".")
        found.setdefault(device, {})[name] = BUTTON_POLL_S
    for watched in config.objects:
        for point in watched.points:
            device, name = point.read.split(".")
            found.setdefault(device, {})[name] = point.poll_s
    return found
