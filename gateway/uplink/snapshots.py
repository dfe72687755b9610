"""The present, object by object: when a snapshot has to go out.

Owns: what was last shown of each object on this connection. Promises: a change goes out at the next look, an unchanged
object once every `every_s`. Never: keeps a queue: what is overtaken is never sent.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.model import Present, PresentObject


def shown(o: PresentObject) -> tuple[object, ...]:
    """What makes a snapshot worth sending before its renewal is due: everything but drifting values."""
    return (o.colour, o.alarm, o.alarm_colour, o.acknowledged, o.service, o.status, o.since_ms, o.lost,
            tuple((w.rule, w.point) for w in o.why))


class Snapshots:
    """One connection after another."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self.restart()

    def restart(self) -> None:
        """A new connection: everything is news."""
        self._shown: dict[str, tuple[float, tuple[object, ...]]] = {}
        self._last: Present | None = None
        self._renew_at_s = 0.0

    def due(self, present: Present | None, now_s: float) -> Iterator[PresentObject]:
        """The objects to send now; taken as sent."""
        if present is None or (present is self._last and now_s < self._renew_at_s):
            return
        self._last = present
        for o in present.objects:
            at_s, before = self._shown.get(o.object, (float("-inf"), ()))
            view = shown(o)
            if view != before or now_s - at_s >= self._every_s:
                self._shown[o.object] = (now_s, view)
                yield o
        # Until then the same Present has nothing new to say, however often it is shown.
        self._renew_at_s = min((at_s for at_s, _ in self._shown.values()), default=now_s) + self._every_s
