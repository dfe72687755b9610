"""The journal's file and everything that can happen to it.

Owns: opening, the folder's lock, retry and back-off, salvage, rescue of a file that was deleted or exchanged.
Promises: one attempt a call; afterwards the group is durable or an error was raised and `retry_at` says when to come
again (at most 2 s later). Never: gives up, drops rows, knows the pipeline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from gateway.journal.claim import claim
from gateway.journal.gaps import Gap
from gateway.journal.salvage import salvage
from gateway.journal.store import NewerError, Store, family, is_damage, move_aside
from gateway.journal.transaction import Changes

log = logging.getLogger(__name__)

_RETRY_S = (0.1, 0.25, 0.5, 1.0, 2.0)
_SALVAGE_EVERY_S = 60.0
STALL_S = 10.0
"""A group that takes longer is a fault; cards do stall for a second or two."""


class Outcome(Struct, frozen=True):
    """What became of a group."""

    word: str
    """"salvaged", "rescued" or empty."""
    taken: int
    """So many of its rows, from the first, are durable."""
    gaps: list[Gap]
    """What became known to be missing on the way."""


class Disk:
    """The file, or the lack of it. One thread at a time, apart from `generation`, `fault` and `suspect`."""

    def __init__(self, path: Path, max_bytes: int, now: Callable[[], float], word: Callable[[], str]) -> None:
        self.path = path
        self.store: Store | None = None
        self.generation = 0
        """Changes when readers must open the file again."""
        self.fault = ""
        """What is wrong now, in words; empty when all is well."""
        self.suspect = ""
        """Set by a reader that met damage: the next group looks for itself."""
        self.retry_at = 0.0
        self._max_bytes, self._now, self._word = max_bytes, now, word
        self._began_s: float | None = None
        self._failures = 0
        self._salvaged_at = float("-inf")
        self._folder_fd = -1

    def attach(self) -> tuple[str, list[Gap]]:
        """Open the file; a damaged one is moved aside and searched.

        Returns "salvaged", "newer" or "", and what the salvage knows to be missing.

        Raises:
            BlockingIOError: another process has the folder.
            sqlite3.Error, OSError: not now.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        if self._folder_fd < 0:
            self._folder_fd = claim(self.path.parent)
        try:
            self.store = Store(self.path, self._max_bytes)
        except NewerError as error:
            aside = move_aside(self.path, f"newer-{self._word()}")
            log.error("journal of a newer program path=%s error=%s action=begin a new one aside=%s", self.path, error,
                      aside)
            self.store = Store(self.path, self._max_bytes)
            self.generation += 1
            return "newer", []
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            return "salvaged", self._salvage(error)
        self.generation += 1
        return "", []

    def _salvage(self, error: Exception | str) -> list[Gap]:
        log.error("journal damaged path=%s error=%s action=salvage", self.path, error)
        self._salvaged_at = self._now()
        expected = self.store.streams if self.store is not None else {}
        self._drop()
        aside = move_aside(self.path, f"corrupt-{self._word()}")
        try:
            store = Store(self.path, self._max_bytes)
        except (sqlite3.Error, OSError):
            for new, old in zip(family(self.path), family(aside), strict=True):
                new.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    old.rename(new)  # found damaged again by the next attempt, when there may be room
            raise
        gaps: list[Gap] = []
        try:
            rows, gaps = salvage(aside, store, expected)
            log.warning("journal salvaged rows=%d holes=%d aside=%s", rows, len(gaps), aside)
        except Exception:
            # Whatever is in that file: the box goes on with what was carried over so far.
            log.exception("journal salvage stopped aside=%s", aside)
        store.close()
        self.store = Store(self.path, self._max_bytes)
        self.generation += 1
        return gaps

    def commit(self, changes: Changes, platforms: Sequence[str]) -> Outcome:
        """Make one group durable.

        Raises:
            sqlite3.Error, OSError: nothing of the group is in the file; see `retry_at`.
        """
        self._began_s = self._now()
        try:
            outcome = self._commit(changes, platforms)
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
        word, gaps = "", list[Gap]()
        if self.store is None:
            word, gaps = self.attach()
        elif (meddled := self.store.meddled()) == "moved":
            log.error("journal file was deleted or exchanged path=%s action=write it back", self.path)
            self.store.rescue(f"foreign-{self._word()}")
            self._drop()
            self.attach()
            word = "rescued"
        elif meddled:
            word, gaps = "salvaged", self._salvage("somebody wrote into the file")
        if self.suspect:
            gaps += self._examine()
        assert self.store is not None
        try:
            done = self.store.commit(changes, platforms)
        except sqlite3.Error as error:
            if not is_damage(error) or self._now() - self._salvaged_at < _SALVAGE_EVERY_S:
                raise
            word = "salvaged"
            gaps += self._salvage(error)
            done = self.store.commit(changes, platforms)
        return Outcome(word, done.taken, [*gaps, *done.gaps])

    def _examine(self) -> list[Gap]:
        suspicion, self.suspect = self.suspect, ""
        assert self.store is not None
        try:
            answer = self.store.connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            answer = str(error)
        return [] if answer == "ok" else self._salvage(f"{suspicion}; {answer}")

    def _failed(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN):
            # After a failed sync nobody knows which pages reached the disk: forget the cache, read the file again.
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
            with contextlib.suppress(sqlite3.Error):
                self.store.close()
            self.store = None

    def close(self) -> None:
        """Let go of file and folder."""
        self._drop()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1
