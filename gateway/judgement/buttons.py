"""Buttons: a state that goes from 0 to 1 is what the configuration says pressing means.

Owns: the last state of each button.
Promises: a button that is held down, or that was down before the box looked, is no press.
Never: does what was asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config import Button


class Buttons:
    """All buttons of the site."""

    def __init__(self, buttons: Sequence[Button]) -> None:
        self._buttons = buttons
        self._down: list[bool | None] = [None] * len(buttons)

    def pressed(self, k: int, state: float) -> Button | None:
        """Take the state of the `k`-th button (NaN: not known now); return the button if this is a press."""
        if state != state:
            return None
        was, self._down[k] = self._down[k], state >= 0.5
        return self._buttons[k] if state >= 0.5 and was is False else None
