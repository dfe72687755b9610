"""What a platform's language has to provide: the seam between the uplink and every file of `profiles/`.

Owns: the shapes that cross it. Promises: the uplink asks in this order: `will` before a connection, `hello` when it
stands, `inventory` before the first row that names it, then `row` and `message`, `warn` and `diag` as they fall due,
`hear` for whatever comes in, `bye` at an orderly end. Never: does I/O; a profile reads no clock and keeps no rows.

A profile that answers None has nothing to say there, and that is no loss: what it does not tell is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from gateway.model import Door, Inventory, Lane, PresentObject, Row
from gateway.uplink.message import Message
from gateway.uplink.reader import Decoded

Topic = Literal["data", "backlog", "event"]
"""Live readings; readings of before this connection; alarms and other events."""


class Part(NamedTuple):
    """One row in a platform's words."""

    size_bytes: int
    """What it adds to a message."""
    content: Any


class Talk(Struct, frozen=True):
    """One connection, as a profile introduces itself on it."""

    session: str
    t: int
    """Now, ms UTC as far as the box knows."""
    door: Door


class Mark(Struct, frozen=True):
    """What a platform's database holds of one stream: up to and including `up_to`, and the ranges above it."""

    epoch: str
    lane: Lane
    up_to: int
    ranges: tuple[tuple[int, int], ...] = ()


class Receipt(Struct, frozen=True):
    """A platform says what it has stored."""

    marks: tuple[Mark, ...]


class TimeAnswer(Struct, frozen=True):
    """A platform's answer to the question what time it is."""

    id: str
    utc_ms: int


class Order(Struct, frozen=True, kw_only=True):
    """A platform asks something of the box; admitted or refused elsewhere."""

    id: str
    name: str
    by: str = ""
    role: str = ""
    expires: int | None = None
    """ms UTC."""
    nonce: str = ""
    fresh: bool = False
    """The platform sends it only to who listens at that moment, so it needs no expiry."""
    arguments: Mapping[str, Any] = {}
    reply_to: Any = None
    """The profile's own."""


Heard = Receipt | TimeAnswer | Order


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of an Order."""

    ok: bool
    text_en: str
    text_zh: str
    more: Mapping[str, Any] = {}


class Profile(Protocol):
    """One platform's language. Called from the uplink's thread only."""

    gateway: str
    subscriptions: tuple[str, ...]
    keyed_by_time: bool
    """The platform files readings by their time: rows nobody can date yet wait."""

    def will(self, session: str) -> Message:
        """What the broker says for us when we are gone without a goodbye."""
        ...

    def hello(self, talk: Talk, facts: Mapping[str, Any]) -> Sequence[Message]:
        """First words; and again whenever `facts` (of the composition root) changed."""
        ...

    def bye(self, talk: Talk) -> Sequence[Message]:
        """Last words of an orderly stop."""
        ...

    def inventory(self, inventory: Inventory, wanted: Callable[[str], bool]) -> Sequence[Message]:
        """The meaning of rows that come next; `wanted` tells whether a point is this platform's business."""
        ...

    def meaning(self, inventory: Inventory | None, n: int) -> Any:
        """An inventory as `row` wants it; kept by the uplink as long as it is used. None: nobody knows number n."""
        ...

    def row(self, row: Row, decoded: Decoded, meaning: Any, past: Callable[[int], bool]) -> Part | None:
        """One row; None when it says nothing here. `row.door` is the best dating there is.

        Args:
            row: identity, header and dating.
            decoded: its Samples or Events, already filtered for this platform.
            meaning: from `meaning`.
            past: whether an event of that monotonic ms is history.

        Raises:
            ValueError: the row cannot be read.
        """
        ...

    def message(self, topic: Topic, rows: Sequence[Row], parts: Sequence[Part | None]) -> Message | None:
        """Rows with consecutive seqs of one epoch, inventory, boot and trust; None when there is nothing to send."""
        ...

    def warn(self, o: PresentObject, door: Door, t_ms: int, valid_s: float) -> Message | None:
        """The present state of one object; `t_ms` monotonic."""
        ...

    def diag(self, talk: Talk, facts: Mapping[str, Any]) -> Message | None:
        """The box's own health."""
        ...

    def ask_time(self, name: str, door: Door) -> Message | None:
        """Ask the platform what time it is; its answer is heard as a TimeAnswer of that id."""
        ...

    def hear(self, topic: str, payload: bytes) -> Heard | None:
        """Read what came in on a subscription; None when it is not for us.

        Raises:
            ValueError: it cannot be read; the text says why.
        """
        ...

    def reply(self, order: Order, outcome: Outcome, t: int) -> Message | None:
        """Tell what became of an Order."""
        ...
