"""The memory-backed log beside the journal: what was handed over outlives the process.

Owns: the segment files in the staging folder (a tmpfs such as /run), and which rows keep which segment.
Promises: what `append` returned from is found by `read` after a SIGKILL (one write(2) per call; the page cache does
not die with the process); a torn tail is recognised and cut; a segment goes when every row in it is committed or
given up; a full or deleted folder is an OSError once, never a wait.
Never: calls fsync, knows SQLite, decides what is an alarm.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gateway.journal.claim import claim
from gateway.journal.entries import FORMAT, Adopted, Entry, Found, Group, Head, Mark, entries, frame
from gateway.journal.rows import Identity


class Staging:
    """Append-only segments. One thread at a time (the journal's lock)."""

    def __init__(self, folder: Path, segment_bytes: int = 1 << 20) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._inode = (0, 0)
        self._lock_fd = -1
        self._number = 0
        self._size = 0
        self._head_bytes = 0
        self._sizes: dict[int, int] = {}
        self._rows: dict[int, set[Identity]] = {}
        self._homes: dict[Identity, list[int]] = {}

    @property
    def bytes(self) -> int:
        """Memory that the segments take."""
        return sum(self._sizes.values()) + self._size

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.seg"

    def read(self) -> Found:
        """Take the folder for this process and read what lies in it.

        Raises:
            OSError: the folder cannot be made, or another process has it (BlockingIOError).
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        if self._lock_fd < 0:
            self._lock_fd = claim(self.folder)
        found = Found()
        for path in sorted(self.folder.glob("*.seg")):
            if not path.stem.isdigit():
                continue
            number = int(path.stem)
            self._number = max(self._number, number)
            raw = path.read_bytes()
            whole, used = entries(raw)
            if not whole or not isinstance(whole[0], Head) or whole[0].format != FORMAT:
                path.unlink()
                found.torn += bool(raw)
                continue
            found.torn += used < len(raw)
            self._sizes[number] = len(raw)
            self._rows[number] = set()
            for entry in whole:
                self._collect(found, number, entry)
        return found

    def _collect(self, found: Found, number: int, entry: Entry) -> None:
        if isinstance(entry, Group):
            found.t_ms = entry.t_ms
            found.latch = entry.latch or found.latch
            for part in entry.parts:
                found.parts.append((number, part))
                self._note(number, (part.epoch, part.lane, part.seq))
        elif isinstance(entry, Mark):
            found.commit = entry.commit
        elif isinstance(entry, Adopted):
            found.inventories[entry.inventory.n] = entry.inventory
        else:
            found.head, found.commit, found.latch = entry, entry.commit, entry.latch
            for inventory in entry.inventories:
                found.inventories[inventory.n] = inventory

    def _note(self, number: int, identity: Identity) -> None:
        rows = self._rows[number]
        if identity not in rows:
            rows.add(identity)
            self._homes.setdefault(identity, []).append(number)

    def begin(self, head: Head) -> None:
        """Start a segment standing on `head`.

        Raises:
            OSError: no room, or no folder.
        """
        number = self._number + 1
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        path = self._path(number)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        raw = frame(head)
        try:
            if os.write(fd, raw) != len(raw):
                raise OSError(28, "no room for the head of a segment", str(path))
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        if self._fd >= 0:
            os.close(self._fd)
            self._sizes[self._number] = self._size
        stat = os.fstat(fd)
        self._fd, self._size, self._inode = fd, len(raw), (stat.st_dev, stat.st_ino)
        self._head_bytes = len(raw)
        self._number = number
        self._rows[number] = set()
        # Only now: whatever older segments said lives on in the new head.
        for number in [n for n, rows in self._rows.items() if not rows and n != self._number]:
            self._delete(number)

    def append(self, entry: Entry) -> None:
        """Write one entry; when this returns, the entry outlives the process.

        Raises:
            OSError: no room or no segment; what was there before stays readable.
        """
        if self._fd < 0:
            raise OSError(9, "no segment is open", str(self.folder))
        raw = frame(entry)
        written = os.write(self._fd, raw)
        if written != len(raw):
            os.ftruncate(self._fd, self._size)
            raise OSError(28, f"only {written} of {len(raw)} bytes fitted", str(self._path(self._number)))
        self._size += written
        if isinstance(entry, Group):
            for part in entry.parts:
                self._note(self._number, (part.epoch, part.lane, part.seq))

    def full(self) -> bool:
        """Whether the segment should be followed by a new one.

        The head does not count: that of ten thousand points is larger than a segment, and would be written anew
        with every entry.
        """
        return self._size - self._head_bytes >= self._segment_bytes or self._fd < 0

    def intact(self) -> bool:
        """Whether the open segment is still where the next process will look for it."""
        try:
            stat = self._path(self._number).stat()
        except OSError:
            return False
        return self._fd >= 0 and (stat.st_dev, stat.st_ino) == self._inode

    def release(self, identity: Identity) -> None:
        """The row is committed, or given up: segments that hold nothing else go."""
        for number in self._homes.pop(identity, ()):
            rows = self._rows.get(number)
            if rows is None:
                continue
            rows.discard(identity)
            if not rows and number != self._number:
                self._delete(number)

    def oldest(self) -> tuple[int, frozenset[Identity]] | None:
        """The oldest closed segment and the rows that keep it, or None."""
        closed = [n for n in self._rows if n != self._number]
        return (min(closed), frozenset(self._rows[min(closed)])) if closed else None

    def drop(self, number: int) -> None:
        """Delete a closed segment whose rows were staged again elsewhere or given up."""
        if number == self._number:
            return
        for identity in self._rows.get(number, ()):
            homes = self._homes.get(identity)
            if homes is not None:
                homes[:] = [h for h in homes if h != number]
        self._delete(number)

    def _delete(self, number: int) -> None:
        self._rows.pop(number, None)
        self._sizes.pop(number, None)
        with contextlib.suppress(FileNotFoundError):
            self._path(number).unlink()

    def close(self) -> None:
        """Let go of folder and segment; what is staged stays for the next process."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
