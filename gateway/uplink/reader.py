"""What the uplink needs from whoever keeps the rows.

Owns: the seam between what is kept and what is told. Promises: nothing; it is a shape. Never: knows files or topics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from gateway.model import Event, Inventory, Lane, Row, Samples

Decoded = Samples | list[Event]
"""What a row says: Samples for the data lane, a list of Event for the others."""

Stream = tuple[str, Lane]
"""(epoch, lane): the thing sequence numbers run in."""


class Backlog(Protocol):
    """What is committed and not settled."""

    @property
    def rows(self) -> int:
        """Rows."""
        ...

    @property
    def records(self) -> int:
        """Readings and events in them."""
        ...


class Verdict(Protocol):
    """What a receipt led to."""

    @property
    def refused(self) -> str:
        """Why it was not believed; empty when it was."""
        ...

    @property
    def stale(self) -> bool:
        """Whether it was refused only because its epoch is not kept here any more."""
        ...

    @property
    def again(self) -> bool:
        """Whether rows are pending again, because the platform lost them."""
        ...


class Reader(Protocol):
    """The rows of one platform, as the uplink's thread sees them."""

    def heads(self) -> Mapping[Stream, int]:
        """Last committed seq of every stream that has rows."""
        ...

    def pending(self, lanes: Sequence[Lane] = ..., *, after: Mapping[Stream, int] | None = None,
                until: Mapping[Stream, int] | None = None, limit: int = 100) -> list[Row]:
        """Committed rows that are not settled, lane by lane, oldest epoch first, seq ascending.

        `after`: of these streams only rows above the seq. `until`: of these streams only rows up to the seq.
        Without lanes it reads nothing and only moves the mark of `wait`.
        """
        ...

    def settle(self, epoch: str, lane: Lane, seqs: Iterable[int]) -> None:
        """The platform was sent these; `pending` gives them again only when they may be lost."""
        ...

    def skip(self, epoch: str, lane: Lane, first: int, last: int) -> None:
        """The platform is not to have rows first…last, or will not take them; only `replay` brings them up again."""
        ...

    def stored(self, epoch: str, lane: Lane, up_to: int, ranges: Sequence[tuple[int, int]]) -> Verdict:
        """What the platform's database holds of a stream: up to and including `up_to`, and the ranges above."""
        ...

    def replay(self, epoch: str, lane: Lane, ranges: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]],
                                                                                       list[tuple[int, int]]]:
        """Let rows be pending again; returns the ranges that will come, and those that are not kept."""
        ...

    def rewind(self) -> bool:
        """The broker forgot us: what was sent to a platform that confirms, and not confirmed, is pending again."""
        ...

    @property
    def confirms(self) -> bool:
        """Whether the platform has ever confirmed storage."""
        ...

    def offset(self, boot: str) -> tuple[int, float] | None:
        """Offset (UTC ms - monotonic ms) of a boot and its error in ms, once they are known."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something was committed since the last `pending`; True when there was."""
        ...

    def inventory(self, n: int) -> Inventory | None:
        """The meaning of a row's point numbers; None when nobody knows it any more."""
        ...

    def backlog(self) -> Backlog:
        """Count what is not settled."""
        ...
