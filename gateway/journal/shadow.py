"""The staged copy of what waits for the disk.

Owns: what the journal writes to the staging folder, and what happens when that folder fails.
Promises: never raises for it and never waits; a failing folder costs what a dead process would lose, and nothing else;
its beginning and its end are logged once. Never: decides what is recorded, locks (the journal does).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from gateway.journal.entries import Entry, Found, Group, Head
from gateway.journal.intake import Intake, Pending
from gateway.journal.rows import Identity
from gateway.journal.staging import Staging

log = logging.getLogger(__name__)


class Shadow:
    """Staging that may fail. `head` says what a new segment stands on."""

    def __init__(self, staging: Staging, head: Callable[[], Head], now: Callable[[], float]) -> None:
        self.fault = ""
        """What is wrong now, in words; empty when all is well."""
        self._staging, self._head, self._now = staging, head, now

    @property
    def bytes(self) -> int:
        """Memory that the segments take."""
        return self._staging.bytes

    def read(self) -> Found:
        """What a dead process left behind.

        Raises:
            BlockingIOError: another process has the folder.
        """
        try:
            return self._staging.read()
        except BlockingIOError:
            raise
        except OSError as error:
            self._failed(error)
            return Found()

    def begin(self) -> None:
        """Start a new segment."""
        try:
            self._staging.begin(self._head())
        except OSError as error:
            self._failed(error)

    def stage(self, entry: Entry) -> None:
        """Write one entry, into a new segment when the old one is full."""
        try:
            if self._staging.full():
                self._staging.begin(self._head())
            self._staging.append(entry)
        except OSError as error:
            self._failed(error)
        else:
            if self.fault:
                self.fault = ""
                log.warning("staging works again folder=%s", self._staging.folder)

    def _again(self, rows: Iterable[Pending]) -> None:
        for row in rows:
            self.stage(Group(int(self._now() * 1000), row.staged(), None))

    def mend(self, intake: Intake) -> None:
        """Write what waits again when somebody cleaned the folder under us."""
        if not self._staging.intact() and not self.fault:
            self.begin()
            self._again(intake.waiting())

    def bound(self, most_bytes: int, intake: Intake) -> None:
        """Delete the oldest segments down to `most_bytes`; what is not committed of them is staged again."""
        while self._staging.bytes > most_bytes and (oldest := self._staging.oldest()) is not None:
            number, identities = oldest
            self._again(row for row in (*intake.flight, *intake.waiting()) if row.identity in identities)
            if self.fault:
                return
            self._staging.drop(number)

    def release(self, identity: Identity) -> None:
        """The row is committed, or given up."""
        self._staging.release(identity)

    def _failed(self, error: OSError) -> None:
        if not self.fault:
            log.error("staging failed folder=%s error=%s effect=a dead process loses what is not committed",
                      self._staging.folder, error)
        self.fault = str(error)

    def close(self) -> None:
        """What is staged stays for the next process."""
        self._staging.close()
