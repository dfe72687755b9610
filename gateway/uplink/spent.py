"""What the day has cost one platform, over a restart.

Owns: a small file a platform beside the journal. Promises: it is there whole or not at all; one that is missing,
damaged or cannot be written costs no more than the day's count. Never: decides what may be said (budget does).
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

Count = tuple[int | None, int]
"""The last day of UTC that was known, and bytes since it began."""


class Spent:
    """One platform's."""

    def __init__(self, folder: Path, platform: str) -> None:
        self._path = folder / f"spent-{platform}.json"

    def read(self) -> Count:
        """What was written last; nothing spent when that cannot be read."""
        try:
            day, size_bytes = msgspec.json.decode(self._path.read_bytes(), type=Count)
        except FileNotFoundError:
            return None, 0
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("the day's bytes are unknown path=%s error=%s effect=counted anew", self._path, error)
            return None, 0
        return day, max(0, size_bytes)

    def write(self, count: Count) -> None:
        """Replace it."""
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(count))
            new.replace(self._path)
        except OSError as error:
            log.warning("the day's bytes are not kept path=%s error=%s", self._path, error)
