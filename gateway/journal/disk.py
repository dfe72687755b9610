"""The journal's file and everything that can happen to it.

Owns: opening, the folder's lock, retry and back-off, what is done about damage, rescue of a file that was deleted or
exchanged. Promises: one attempt a call; afterwards the group is durable or an error was raised and `retry_at` says when
to come again (at most 2 s later); damage costs no more than a new file, which goes on at once while the wreck is
searched in steps. Never: gives up, drops rows, knows the pipeline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from gateway.journal.carry import Step
from gateway.journal.claim import claim
from gateway.journal.gaps import Gap
from gateway.journal.quota import Had
from gateway.journal.records import Record, in_order
from gateway.journal.salvage import Salvage, inherited
from gateway.journal.state import Kept, State
from gateway.journal.store import NewerError, Store, family, is_damage, move_aside
from gateway.journal.transaction import Changes

log = logging.getLogger(__name__)

_RETRY_S = (0.1, 0.25, 0.5, 1.0, 2.0)
_SALVAGE_EVERY_S = 60.0
_SPARE = 16
"""One part in so many of the quota must be free on the disk for a search to go on: what comes needs room first."""
STALL_S = 10.0
"""A group that takes longer is a fault; cards do stall for a second or two."""


class Outcome(Struct, frozen=True):
    """What became of a group, or of a step of a search."""

    word: str
    """What to tell: "damaged", "salvaged", "rescued" or empty."""
    taken: int
    """So many of the group's rows, from the first, are durable."""
    gaps: list[Gap]
    """What became known to be missing on the way."""
    why: dict[str, Any] = {}
    """Figures to tell."""


class Suspect(Struct, frozen=True):
    """What a reader met: damage, or keys in no order."""

    query: str
    values: tuple[int, ...]
    """Of a query for whole rows: first and last key, or one key."""
    error: str


class Disk:
    """The file, or the lack of it. One thread at a time, apart from `generation`, `fault` and `suspect`."""

    def __init__(self, path: Path, max_bytes: int, now: Callable[[], float], word: Callable[[], str]) -> None:
        self.path = path
        self.store: Store | None = None
        self.generation = 0
        """Changes when readers must open the file again."""
        self.fault = ""
        """What is wrong now, in words; empty when all is well."""
        self.suspect: Suspect | None = None
        """Set by a reader that met damage: the next group looks for itself."""
        self.retry_at = 0.0
        self._max_bytes, self._now, self._word = max_bytes, now, word
        self._began_s: float | None = None
        self._failures = 0
        self._salvaged_at = float("-inf")
        self._known: Kept | None = None
        """What this process last knew of a file it let go of."""
        self._salvage: Salvage | None = None
        self._step = Step()
        self._folder_fd = -1

    def attach(self, ours: Callable[[State], bool] = lambda _: True) -> str:
        """Open the file; a damaged one is moved aside, to be searched, and one that is not `ours` is kept aside.

        Returns "damaged", "newer", "foreign" or "".

        Raises:
            BlockingIOError: another process has the folder.
            sqlite3.Error, OSError: not now.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        if self._folder_fd < 0:
            self._folder_fd = claim(self.path.parent)
        word = ""
        try:
            self.store = Store(self.path, self._max_bytes)
            if not ours(state := self.store.kept.state):
                self.store.close()
                self._put_aside("foreign", f"it is the journal of gateway {state.gateway}")
                word = "foreign"
        except NewerError as error:
            self._put_aside("newer", error)
            word = "newer"
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._condemn(error)
            return "damaged"
        self.generation += 1
        self._resume()
        return word

    def _put_aside(self, word: str, error: Exception | str) -> None:
        aside = move_aside(self.path, f"{word}-{self._word()}")
        log.error("journal kept aside path=%s error=%s action=begin a new one aside=%s", self.path, error, aside)
        self.store = Store(self.path, self._max_bytes)

    def _condemn(self, error: Exception | str) -> None:
        """Move the file aside and begin a new one, with the small state of the old."""
        self._drop()
        known = self._known
        needed = known.search.wrecks if known is not None and known.search is not None else ()
        aside = move_aside(self.path, f"corrupt-{self._word()}", needed)
        log.error("journal damaged path=%s error=%s action=begin a new one, search the old aside=%s", self.path, error,
                  aside)
        try:
            store = Store(self.path, self._max_bytes)
            store.inherit(inherited(aside, known))
        except (sqlite3.Error, OSError):
            for new, old in zip(family(self.path), family(aside), strict=True):
                new.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    old.rename(new)  # found damaged again by the next attempt, when there may be room
            raise
        self._salvaged_at = self._now()
        self.store = store
        self.generation += 1
        self._resume()

    def _condemn_again(self, error: sqlite3.Error) -> None:
        """Inside an except clause: once a minute at most, on a medium that damages whatever is written."""
        if not is_damage(error) or self._now() - self._salvaged_at < _SALVAGE_EVERY_S:
            raise error
        self._condemn(error)

    def _resume(self) -> None:
        assert self.store is not None
        if (search := self.store.kept.search) is not None:
            self._salvage, self._step = Salvage(self.path.parent, self.store.kept, search), Step()

    @property
    def searching(self) -> bool:
        """Whether `search` has something to do now."""
        return self._salvage is not None and self._now() >= self.retry_at

    def search(self, had: Had, platforms: Sequence[str]) -> Outcome:
        """Carry some rows of a wreck over: one step of some milliseconds, durable when this returns.

        Raises:
            sqlite3.Error, OSError: not now; see `retry_at`.
        """
        return self._attempt(lambda: self._search(had, platforms))

    def _search(self, had: Had, platforms: Sequence[str]) -> Outcome:
        word, why = self._look()
        if word or self.store is None or self._salvage is None:
            return Outcome(word, 0, [], why)
        if free_bytes(self.path.parent) < self._max_bytes // _SPARE:
            self._salvage.stop()
        step = self._step
        if not (step.rows or step.finished or step.done):
            step = self._step = self._salvage.step(self._now)
        try:
            carried = self.store.carry(step, had, platforms)
        except sqlite3.Error as error:
            self._condemn_again(error)
            return Outcome("damaged", 0, [], {"error": str(error)})
        if carried.whole:
            self._step = Step()
        if not (carried.whole and step.done):
            return Outcome("", 0, carried.gaps)
        why = {"rows": self._salvage.rows, "holes": self._salvage.holes}
        log.warning("journal salvaged rows=%d holes=%d", self._salvage.rows, self._salvage.holes)
        self._salvage.close()
        self._salvage = None
        return Outcome("salvaged", 0, carried.gaps, why)

    def commit(self, changes: Changes, platforms: Sequence[str]) -> Outcome:
        """Make one group durable.

        Raises:
            sqlite3.Error, OSError: nothing of the group is in the file; see `retry_at`.
        """
        return self._attempt(lambda: self._commit(changes, platforms))

    def _attempt(self, work: Callable[[], Outcome]) -> Outcome:
        self._began_s = self._now()
        try:
            outcome = work()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            raise
        finally:
            self._began_s = None
        self.fault, self._failures, self.retry_at = "", 0, 0.0
        return outcome

    def trouble(self) -> str:
        """What is wrong now, also when the disk only does not answer. Any thread may ask."""
        began_s = self._began_s
        stalled = began_s is not None and self._now() - began_s > STALL_S
        return self.fault or ("the disk does not answer" if stalled else "")

    def _commit(self, changes: Changes, platforms: Sequence[str]) -> Outcome:
        word, why = self._look()
        assert self.store is not None
        try:
            done = self.store.commit(changes, platforms)
        except sqlite3.Error as error:
            self._condemn_again(error)
            word, why = "damaged", {"error": str(error)}
            done = self.store.commit(changes, platforms)
        return Outcome(word, done.taken, done.gaps, why)

    def _look(self) -> tuple[str, dict[str, Any]]:
        """See that the file is there and ours. Returns what to tell of it."""
        word, error = "", ""
        if self.store is None:
            word = self.attach()
        elif (meddled := self.store.meddled()) == "moved":
            log.error("journal file was deleted or exchanged path=%s action=write it back", self.path)
            self.store.rescue(f"foreign-{self._word()}")
            self._drop()
            self.attach()
            word = "rescued"
        elif meddled:
            error = "somebody wrote into the file"
        error = error or self._examine()
        if error:
            self._condemn(error)
        return "damaged" if error else word, {"error": error} if error else {}

    def _examine(self) -> str:
        """What a reader met, if it is so."""
        suspect, self.suspect = self.suspect, None
        if suspect is None or self.store is None:
            return ""
        try:
            records: list[Record] = self.store.connection.execute(suspect.query, suspect.values).fetchall()
        except sqlite3.Error as error:
            return str(error) if is_damage(error) else ""
        return "" if in_order(records, *suspect.values[:2]) else suspect.error

    def _failed(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN,
                    sqlite3.SQLITE_READONLY):
            # After a failed sync nobody knows which pages reached the disk: forget the cache, read the file again.
            # And what was opened on a read-only disk stays read-only for good.
            self._drop()
        self.retry_at = self._now() + _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        if not self.fault:
            log.error("journal fault path=%s error=%s effect=rows wait in memory", self.path, error)
        self.note(error)

    def note(self, error: Exception) -> None:
        """Remember what is wrong."""
        self.fault = str(error) or type(error).__name__

    def _drop(self) -> None:
        if self.store is not None:
            self._known = self.store.kept
            with contextlib.suppress(sqlite3.Error):
                self.store.close()
            self.store = None
        if self._salvage is not None:
            self._salvage.close()
            self._salvage = None

    def close(self) -> None:
        """Let go of file and folder."""
        self._drop()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1


def free_bytes(folder: Path) -> int:
    """Room on the disk for whoever is not root."""
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize
