"""What one platform says to the box.

Owns: what becomes of receipts, time answers and orders. Promises: input is bounded; what cannot be read, may not be
asked or is not admitted is answered or counted, never obeyed; an answer goes back by the connection that lives then.
Never: waits for a result, judges an alarm, does I/O.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.model import Lane
from gateway.uplink.profile import Order, Outcome, Profile, Receipt, TimeAnswer
from gateway.uplink.reader import Reader

log = logging.getLogger(__name__)

ALWAYS = frozenset({"replay"})
"""What any platform may ask: its own rows once more."""
_MOST_WAITING = 100


class _Replay(Struct, forbid_unknown_fields=True):
    """Arguments of `replay`."""

    epoch: Annotated[str, Meta(max_length=64)]
    lane: Lane
    ranges: Annotated[tuple[tuple[int, int], ...], Meta(min_length=1, max_length=1000)]


class Inbound:
    """One platform's side of the conversation; called from the uplink's thread, but for the answers of `command`."""

    def __init__(self, platform: str, profile: Profile, reader: Reader, *, allowed: Collection[str],
                 command: Callable[[Order, Callable[[Outcome], None]], None],
                 time_answered: Callable[[TimeAnswer], None],
                 report: Callable[[str, dict[str, Any]], None]) -> None:
        self._platform, self._profile, self._reader = platform, profile, reader
        self._allowed = frozenset(allowed) | ALWAYS
        self._command, self._time_answered, self._report = command, time_answered, report
        self._answers: deque[tuple[Order, Outcome]] = deque(maxlen=_MOST_WAITING)
        self.unreadable = 0
        self._complained: set[str] = set()

    def hear(self, topic: str, payload: bytes) -> bool:
        """Take one message. True when rows that were passed are wanted once more."""
        try:
            heard = self._profile.hear(topic, payload)
        except ValueError as error:
            self.unreadable += 1
            if "unreadable" not in self._complained:
                self._complained.add("unreadable")
                log.warning("unreadable message platform=%s topic=%s error=%s", self._platform, topic, error)
            return False
        if isinstance(heard, Receipt):
            return self._receipt(heard)
        if isinstance(heard, TimeAnswer):
            self._time_answered(heard)
        elif isinstance(heard, Order):
            return self._order(heard)
        return False

    def answers(self) -> list[tuple[Order, Outcome]]:
        """What became of orders since the last call."""
        out = []
        while self._answers:
            out.append(self._answers.popleft())
        return out

    def _receipt(self, receipt: Receipt) -> bool:
        again = False
        for mark in receipt.marks:
            moved = self._reader.stored(mark.epoch, mark.lane, mark.up_to, mark.ranges)
            again = again or moved.again
            if moved.refused and not moved.stale and f"{mark.epoch} {mark.lane}" not in self._complained:
                self._complained.add(f"{mark.epoch} {mark.lane}")
                log.warning("receipt refused platform=%s epoch=%s lane=%s up_to=%d reason=%s", self._platform,
                            mark.epoch, mark.lane, mark.up_to, moved.refused)
                self._report("uplink.receipt_refused", {
                    "epoch": mark.epoch, "lane": mark.lane, "up_to": mark.up_to, "reason": moved.refused,
                    "text_en": f"a storage receipt was refused: {moved.refused}",
                    "text_zh": f"平台的入库回执被拒绝：{moved.refused}"})
        return again

    def _order(self, order: Order) -> bool:
        if order.name not in self._allowed:
            self._answers.append((order, Outcome(
                ok=False, text_en=f"{order.name} is not among the `commands` this platform may ask of this box",
                text_zh=f"本网关未授权该平台执行 {order.name}（配置项 commands）")))
            return False
        if order.name == "replay":
            return self._replay(order)
        self._command(order, lambda outcome: self._answers.append((order, outcome)))
        return False

    def _replay(self, order: Order) -> bool:
        try:
            asked = msgspec.convert(dict(order.arguments), _Replay)
        except msgspec.ValidationError as error:
            self._answers.append((order, Outcome(ok=False, text_en=f"not a replay: {error}",
                                                 text_zh=f"重传请求有误：{error}")))
            return False
        again, gone = self._reader.replay(asked.epoch, asked.lane, asked.ranges)
        self._answers.append((order, Outcome(
            ok=bool(again) or not gone, text_en=f"{_count(again)} rows again, {_count(gone)} not kept",
            text_zh=f"重传 {_count(again)} 行，{_count(gone)} 行已不在",
            more={"epoch": asked.epoch, "lane": asked.lane, "replayed": again, "gone": gone})))
        return bool(again)


def _count(ranges: list[tuple[int, int]]) -> int:
    return sum(b - a + 1 for a, b in ranges)
