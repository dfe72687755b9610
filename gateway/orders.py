"""What a platform asks of the box: its orders become Commands and errands.

Owns: which order is which Command, and who is named for it. Promises: an order is answered exactly once; one that is
malformed says what was expected. Never: admits (expiry, repetition, nonce are `uplink.admission`'s), judges, waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.model import Command, Reply, Service
from gateway.uplink.profile import Order, Outcome

Name = Annotated[str, Meta(min_length=1, max_length=64)]
KINDS = {"ack": "acknowledge", "silence": "silence", "clear": "clear", "confirm": "confirm", "refuse": "refuse",
         "service": "service"}


class _Asked(Struct, forbid_unknown_fields=True, kw_only=True):
    """Arguments of an order that is a Command."""

    object: Name
    alarm: Annotated[str, Meta(max_length=64)] = ""
    service: Service | None = None
    for_s: Annotated[float, Meta(gt=0, le=30 * 86400)] | None = None


class _Read(Struct, forbid_unknown_fields=True):
    """Arguments of `read_now`."""

    device: Name
    points: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()


class Orders:
    """Of all platforms of one box."""

    def __init__(self, command: Callable[[Command, Callable[[Reply], None]], None],
                 errand: Callable[[dict[str, Any], Callable[[Mapping[str, Any]], None]], None]) -> None:
        """`command` judges a Command, `errand` sends a request to a wire; both answer from any thread."""
        self._command, self._errand = command, errand

    def do(self, platform: str, order: Order, answer: Callable[[Outcome], None]) -> None:
        """Carry out an admitted order."""
        who = ", ".join(word for word in (order.by, order.role, platform) if word)
        try:
            if order.name == "read_now":
                read = msgspec.convert(dict(order.arguments), _Read)
                self._errand({"kind": "read_now", "device": read.device, "points": list(read.points)},
                             lambda reply: answer(_outcome(reply)))
            elif order.name in KINDS:
                asked = msgspec.convert(dict(order.arguments), _Asked)
                command = msgspec.convert({"id": order.id, "kind": KINDS[order.name], "who": who}
                                          | msgspec.structs.asdict(asked), Command)
                self._command(command, lambda reply: answer(Outcome(ok=reply.ok, text_en=reply.text_en,
                                                                    text_zh=reply.text_zh)))
            else:
                known = ", ".join((*KINDS, "read_now", "replay"))
                answer(Outcome(ok=False, text_en=f"no order is called {order.name!r}; there are {known}",
                               text_zh=f"没有名为 {order.name!r} 的命令；可用：{known}"))
        except msgspec.ValidationError as error:
            answer(Outcome(ok=False, text_en=f"{order.name}: {error}", text_zh=f"{order.name} 的参数有误：{error}"))


def _outcome(reply: Mapping[str, Any]) -> Outcome:
    more = {key: value for key, value in reply.items() if key not in ("ok", "text_en", "text_zh", "do")}
    return Outcome(ok=bool(reply.get("ok")), text_en=str(reply.get("text_en", "")),
                   text_zh=str(reply.get("text_zh", "")), more=more)
