"""One device on a wire and how it is doing: what went wrong, how long it is let be, what its answers took.

Owns: the standing of one (wire, unit). Promises: a failing device is asked more and more seldom, with one cheap probe,
and is back at once with its first good answer; a refusal or a "busy" is an answer and earns no such wait. Never: does
I/O, reads a clock, knows what is read.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Sequence

from drivers import Health, Note
from drivers.sensor import Serial

log = logging.getLogger(__name__)

BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Wait after the 1st, 2nd … failure in a row, before the next attempt."""
BUSY_S = (0.2, 0.5, 1.0)
"""Wait after the 1st, 2nd … "busy" in a row: the device is well and asks for time."""
QUARANTINED = 3
"""Failures in a row from which a device counts as lost."""
SILENT = frozenset({Note.NO_ANSWER, Note.BAD_CRC, Note.FOREIGN})
"""Failures that cost bus time or cast doubt on it. A refusal is an answer: it costs nothing, so it earns no wait."""
_LISTEN_OUT = {Note.NO_ANSWER: 2.0, Note.FOREIGN: 2.0, Note.BAD_CRC: 1.0}
"""Answer timeouts the device is let be after a failure: its answer may still come, and asked again sooner it would
pass for the new one."""
_LATE_S = 1.0
"""The least a silent device is let be on a line without transaction numbers. An answer later than that, and it may be
taken for that of an equal question about other registers."""
_KEPT = 63
_ROUND_MS = 10


class Station:
    """One device and its standing."""

    def __init__(self, device: str, settings: Serial | None, min_gap_s: float, patience_s: float, *,
                 unit: int = 0, timeout_s: float | None = None) -> None:
        self.device = device
        self.settings = settings
        self.unit = unit
        self.timeout_s = timeout_s
        """Its own answer timeout; None = the line's."""
        self.min_gap_s = min_gap_s
        self.patience_s = patience_s
        """The answer timeout; 0 where a late answer cannot pass for a fresh one."""
        self.free_s = -math.inf
        """Not to be asked before this, by anyone."""
        self.retry_s = -math.inf
        """Not to be polled before this."""
        self.fails = 0
        """Failures in a row that a wait follows."""
        self.asked = 0
        self.answered = 0
        self.missed = 0
        self.errors: Counter[str] = Counter()
        self.refused: list[str] = []
        """What the device will not be read over: function:first-last."""
        self._responses: deque[float] = deque(maxlen=_KEPT)
        self._late: deque[float] = deque(maxlen=_KEPT)
        self._slips: deque[float] = deque(maxlen=_KEPT)
        self._asked_s: float | None = None
        self.busy = 0
        """"Busy" answers in a row."""
        self._unwell = 0
        """Exchanges without a usable answer in a row, of whatever kind."""

    @property
    def lost(self) -> bool:
        """Whether it counts as lost."""
        return self.fails >= QUARANTINED

    def begun(self, late_s: float) -> None:
        """Book a poll that begins `late_s` after it was due."""
        self._slips.append(late_s)

    def answer(self, at_s: float, response_s: float) -> None:
        """Book a usable answer."""
        self._responses.append(response_s)
        self.asked += 1
        self.answered += 1
        self.free_s = at_s + self.min_gap_s
        self.busy = self._unwell = 0
        self._is_there()

    def _is_there(self) -> None:
        if self.fails:
            if self.lost:
                log.info("device_back device=%s after_failures=%d", self.device, self.fails)
            self.fails, self.retry_s = 0, -math.inf

    def failure(self, at_s: float, note: Note, code: int = 0, asked_s: float | None = None) -> None:
        """Book a failed exchange that began at `asked_s`; `code` is that of an exception."""
        self._asked_s = asked_s
        self.asked += 1
        self._unwell += 1
        self.errors[f"exception_{code}" if code else note] += 1
        if code and note not in SILENT:
            self._is_there()   # whoever refuses is not lost; a refused probe would be asked without end
        if note is Note.BUSY:
            self.free_s = at_s + max(self.min_gap_s, BUSY_S[min(self.busy, len(BUSY_S) - 1)])
            self.busy += 1
            return
        # A converter's word that nobody is there (10, 11) is an answer, so nothing late is due; but it cost its wait.
        listen_s = 0.0 if code else _LISTEN_OUT.get(note, 0.0) * self.patience_s
        if listen_s and note is not Note.BAD_CRC:
            listen_s = max(listen_s, _LATE_S)
        self.free_s = at_s + max(self.min_gap_s, listen_s)
        if note not in SILENT:
            return
        self.fails += 1
        self.retry_s = at_s + BACK_OFF_S[min(self.fails, len(BACK_OFF_S)) - 1]
        if self.fails == QUARANTINED:
            log.warning("device_lost device=%s note=%s failures=%d", self.device, note, self.fails)

    def late(self, at_s: float) -> None:
        """Book an answer that came when nobody waited for it any more, by `at_s` at the latest."""
        self.errors["late"] += 1
        if self._asked_s is not None:
            self._late.append(at_s - self._asked_s)
            self._asked_s = None

    def health(self) -> Health:
        """Return the standing; may be called from any thread."""
        responses, slips, late = sorted(self._responses), sorted(self._slips), sorted(self._late)
        errors = dict(self.errors)
        if self.missed:
            errors["missed_poll"] = self.missed
        state = "unknown" if not self.asked else "quarantined" if self.lost else "failing" if self._unwell else "ok"
        return Health(
            self.device, state, self.asked, self.answered, errors,   # type: ignore[arg-type]
            response_ms=_ms(responses, 0.5), response_p95_ms=_ms(responses, 0.95), response_max_ms=_ms(responses, 1.0),
            timeout_ms=_timeout_ms([*responses, *late]), slip_ms=_ms(slips, 0.95), missed=self.missed,
            refused=tuple(self.refused))


def _ms(ordered: Sequence[float], share: float) -> float | None:
    """Return the value below which `share` of them lie, in ms."""
    return round(1000 * ordered[math.ceil(share * len(ordered)) - 1], 3) if ordered else None


def _timeout_ms(seconds: Sequence[float]) -> float | None:
    """Return the timeout that would have waited for all of these with half as much again to spare."""
    return max(20.0, _ROUND_MS * math.ceil(1500 * max(seconds) / _ROUND_MS)) if seconds else None
