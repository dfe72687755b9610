"""Looking for devices on a wire nobody knows.

Owns: the search: listening first, then one attempt after the other, and what was found so far. Promises: reads only;
whatever ends the search, `found` keeps what it has; a device found at an address is not asked again with other
settings. Never: writes to a device, prints.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from drivers import Note
from drivers.exchange import Ask
from drivers.line import Heard
from drivers.sensor import Serial, Template
from gateway.installer.diagnoses import Diagnosis, diagnose
from gateway.installer.evidence import weigh
from gateway.installer.link import Link, Trial
from gateway.installer.overheard import frames, is_echo
from gateway.installer.proposal import Proposal, Witness, propose
from gateway.installer.settings import Attempt, patience_s

AGAIN = 3
"""How often a damaged answer is asked for again."""
ECHOES = 2
"""Own requests heard in a row before the line is taken for one with an echo."""
RECENT = 8
"""Late answers come during one of the next few questions."""
HINTS = frozenset({"collision", "two_devices", "speed", "babble", "swapped"})


class Found(Struct):
    """A device that said something sound."""

    address: int
    settings: Serial | None
    response_s: float
    code: int = 0
    """Exception code, when its first answer was a refusal: a device all the same."""
    damaged: int = 0
    """Damaged answers before or between sound ones."""
    proposals: tuple[Proposal, ...] = ()

    @property
    def likeliest(self) -> Proposal | None:
        """The model to write down; None when no known one fits."""
        return self.proposals[0] if self.proposals else None


class Doubt(Struct, frozen=True):
    """Something answers here, but never soundly."""

    address: int
    settings: Serial | None
    diagnosis: Diagnosis


class Search:
    """One search on one link."""

    def __init__(self, link: Link, models: Sequence[Template], slow: bool = False) -> None:
        self.link, self._models, self._slow = link, models, slow
        self.found: list[Found] = []
        self.echo = False
        self.tried = 0
        self._damaged: dict[tuple[int, Serial | None], list[Trial]] = {}
        self._recent: deque[Attempt] = deque(maxlen=RECENT)
        self._echoes = 0

    def run(self, attempts: Iterable[Attempt], done: Callable[[Attempt], None] = lambda _: None) -> None:
        """Make the attempts in order.

        Raises:
            LinkError: the port is gone.
            Told: the port is no longer ours.
            KeyboardInterrupt: somebody had enough; `found` keeps what there is.
        """
        for attempt in attempts:
            if not any(found.address == attempt.address for found in self.found):
                self._try(attempt)
            done(attempt)

    def _try(self, attempt: Attempt) -> None:
        heard = self._ask(attempt, attempt.timeout_s)
        if self._echoes >= ECHOES and not self.echo:
            self.echo = True
            self.link.hear_echo()
            heard = self._ask(attempt, attempt.timeout_s)
        self._recent.append(attempt)
        if _is_device(heard):
            self._keep(attempt, heard, 0)
        elif heard.note in (Note.BAD_CRC, Note.FOREIGN) and not self._echoes:
            self._again(attempt, heard)

    def _ask(self, attempt: Attempt, timeout_s: float) -> Heard:
        ask = Ask(attempt.address, *attempt.question)
        heard = self.link.exchange(ask, attempt.settings, timeout_s)
        self.tried += 1
        self._echoes = self._echoes + 1 if heard.note and is_echo(ask.frame, bytes(heard.data)) else 0
        return heard

    def _again(self, attempt: Attempt, heard: Heard) -> None:
        """Ask again for what came damaged; and ask those whose late answer this may be."""
        units = {frame.unit for frame in frames(bytes(heard.data)) if not frame.is_request}
        for late in [a for a in self._recent if a.address in units and a.address != attempt.address]:
            if all(found.address != late.address for found in self.found):
                answer = self._ask(late, patience_s(late.settings, True))
                if _is_device(answer):
                    self._keep(late, answer, 0)
        if units - {attempt.address}:
            return
        trials, damaged = [self.link.trials[-1]], 1
        for _ in range(AGAIN):
            heard = self._ask(attempt, patience_s(attempt.settings, True))
            trials.append(self.link.trials[-1])
            if _is_device(heard):
                self._keep(attempt, heard, damaged)
                return
            damaged += heard.note in (Note.BAD_CRC, Note.FOREIGN)
        self._damaged[attempt.address, attempt.settings] = trials

    def _keep(self, attempt: Attempt, heard: Heard, damaged: int) -> None:
        found = Found(attempt.address, attempt.settings, heard.response_s or 0.0, heard.code, damaged)
        self.found.append(found)
        timeout_s = max(2 * patience_s(attempt.settings, False), 4 * found.response_s)
        witness = Witness(self.link, attempt.address, attempt.settings, timeout_s)
        found.proposals = tuple(propose(witness, self._models))

    def doubts(self) -> list[Doubt]:
        """Addresses that only ever answered damaged, and what that looks like."""
        known = {found.address for found in self.found}
        told: list[Doubt] = []
        for (address, settings), trials in self._damaged.items():
            rows = [row for row in diagnose(weigh(trials)) if row.id in HINTS]
            if rows and address not in known:
                told.append(Doubt(address, settings, rows[0]))
        return told

    def general(self, unasked: bytes = b"") -> list[Diagnosis]:
        """What the whole search looks like, when it found nothing and no address stands out."""
        if self.found or self._damaged:
            return []
        return [row for row in diagnose(weigh(self.link.trials, unasked)) if row.id != "well"]


def _is_device(heard: Heard) -> bool:
    """Whether this is a device: any sound answer, also a refusal; but not a converter's word that nobody is there."""
    return heard.note is None or (heard.code != 0 and heard.code not in (10, 11))
