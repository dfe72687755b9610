"""Which orders of platforms are let in.

Owns: expiry, repetition, nonces. Promises: an order is done at most once by a process, and a second one of its id gets
the first one's answer; an order that names another run of the box is refused; while the clock is unset only orders that
repeat this run's nonce are let in, because nobody can say whether another is old. Never: does an order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from gateway.model import Door
from gateway.uplink.profile import Order, Outcome

MOST = 1000
"""Orders remembered."""
AHEAD_MS = 24 * 3_600_000
"""An order may not be meant for later than this."""

Answer = Callable[[Outcome], None]


def _no(en: str, zh: str) -> Outcome:
    return Outcome(ok=False, text_en=en, text_zh=zh)


class Admission:
    """Of one platform; one thread, but for the answers."""

    def __init__(self, nonce: str, door: Callable[[], Door], now: Callable[[], float],
                 do: Callable[[Order, Answer], None]) -> None:
        """`do` carries out an order that is let in, and answers once, from any thread."""
        self._nonce, self._door, self._now, self._do = nonce, door, now, do
        self._known: OrderedDict[str, tuple[Order, list[Outcome]]] = OrderedDict()

    def take(self, order: Order, answer: Answer) -> None:
        """Let it in, or say why not."""
        if (known := self._known.get(order.id)) is not None:
            answer(self._again(order, *known))
            return
        if (refused := self._refused(order)) is not None:
            answer(refused)
            return
        outcomes: list[Outcome] = []
        self._known[order.id] = (order, outcomes)
        while len(self._known) > MOST:
            self._known.popitem(last=False)

        def answered(outcome: Outcome) -> None:
            outcomes.append(outcome)
            answer(outcome)

        self._do(order, answered)

    def _again(self, order: Order, first: Order, outcomes: list[Outcome]) -> Outcome:
        if order != first:
            return _no(f"id {order.id} was used for another command; each needs one of its own",
                       f"命令编号 {order.id} 已用于另一命令；每条命令须有唯一编号")
        return outcomes[0] if outcomes else _no("this command is still being carried out", "该命令正在执行")

    def _refused(self, order: Order) -> Outcome | None:
        door = self._door()
        if order.nonce and order.nonce != self._nonce:
            return _no("the box has started anew since (the nonce is another): look at it and ask again",
                       "网关已重新启动（随机码不符）：请查看现状后重新下发")
        if order.fresh:
            return None
        if door.trust == "unset":
            if not order.nonce:
                return _no("the clock of this box is unset: a command must repeat the `nonce` of birth",
                           "本网关未校时：命令须带 birth 中的随机码 nonce")
            return None
        now_ms = round(self._now() * 1000) + door.offset_ms
        if order.expires is None:
            return _no("a command needs `expires` (UTC ms)", "命令须带过期时间 expires（UTC 毫秒）")
        if order.expires < now_ms:
            return _no(f"expired {(now_ms - order.expires) / 1000:.0f} s ago",
                       f"命令已过期 {(now_ms - order.expires) / 1000:.0f} 秒")
        if order.expires > now_ms + AHEAD_MS:
            return _no("it expires more than 24 h ahead; check the clock of whoever asks",
                       "过期时间超过 24 小时；请检查下发方的时钟")
        return None
