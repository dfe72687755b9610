"""What people ask of the wires: a write, an action, a pace, a reading now, the loan of a port.

Owns: finding the wire, what is refused and why, the loans under way, and the record of what was done. Promises: a
write or action is recorded with who asked and what came of it; a port is lent for at most `LOAN_S`, never from yellow
up or while a siren sounds on its wire, and is taken back when that begins. Never: touches hardware: drivers do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

import drivers
from gateway.model import LEVELS, Present

Reply = dict[str, Any]
LOAN_S = 120.0
DEADLINE_S = 4.0
"""How long a command may take; the control socket waits a little longer."""
PACE_MAX_S = 86400.0
KINDS = ("read_now", "pace", "write", "act")
RECORDED = {"write": "wire.write", "act": "wire.act", "pace": "wire.pace"}
"""What is kept in the county's record: the event it makes."""
YELLOW = 2


class Wire(NamedTuple):
    """One wire as errands see it."""

    config: drivers.Wire
    driver: drivers.Driver


class Refusal(NamedTuple):
    """Why not, in both languages."""

    en: str
    zh: str

    def reply(self) -> Reply:
        """Return it as the control socket says it."""
        return {"ok": False, "text_en": self.en, "text_zh": self.zh}


class Errands:
    """The errands of one box."""

    def __init__(self, wires: Mapping[str, Wire], *, present: Callable[[], Present],
                 sounding: Callable[[], frozenset[str]], record: Callable[..., None], new_id: Callable[[], str],
                 now: Callable[[], float]) -> None:
        """Take the wires.

        Args:
            wires: by id.
            present: the box as it stands.
            sounding: ids of the wires on which a siren is driven now.
            record: writes an event: (kind, zh, en, who=…, **why); from any thread.
            new_id: gives ids that are never given again.
            now: monotonic seconds.
        """
        self._wires, self._present, self._sounding = wires, present, sounding
        self._record, self._new_id, self._now = record, new_id, now
        self._devices = {device.id: wire for wire in wires.values() for device in getattr(wire.config, "devices", ())}

    # --- commands

    def order(self, request: dict[str, Any], answer: Callable[[Reply], None]) -> None:
        """Like `ask`, for who cannot wait: `answer` is called once, from any thread."""
        if isinstance(refused := self.ask(request, answer), dict):
            answer(refused)

    def ask(self, request: dict[str, Any], heard: Callable[[Reply], None] = lambda _: None,
            ) -> Reply | Callable[[], Reply | None]:
        """Handle ``{"do": "wire", "kind": …, "device": …}``: read_now, pace, write or act; `heard` gets its result."""
        kind, device = request.get("kind"), request.get("device")
        wire = self._devices.get(str(device))
        if kind not in KINDS:
            return Refusal(f"kind {kind!r}: expected one of {', '.join(KINDS)}",
                           f"kind {kind!r} 无效，应为 {', '.join(KINDS)} 之一").reply()
        if wire is None:
            known = ", ".join(sorted(self._devices))
            return Refusal(f"no device called {device!r}; there are {known}",
                           f"没有名为 {device!r} 的设备；现有：{known}").reply()
        now, for_s = self._now(), request.get("for_s")
        until_s = now + min(float(for_s), PACE_MAX_S) if isinstance(for_s, int | float) else None
        told: dict[str, Any] = {key: request[key] for key in ("points", "values", "action", "period_s")
                                if key in request}
        told |= {"id": self._new_id(), "kind": kind, "device": device, "deadline_s": now + DEADLINE_S,
                 "until_s": until_s}
        try:
            command = msgspec.convert(told, drivers.Command)
        except msgspec.ValidationError as error:
            return Refusal(f"not a command: {error}", f"命令有误：{error}").reply()
        results: list[drivers.Result] = []
        who = str(request.get("peer", {}).get("user", ""))

        def done(result: drivers.Result) -> None:
            if kind in RECORDED:
                self._tell(command, result, who)
            results.append(result)
            heard(_reply(result))

        wire.driver.submit(command, done)
        return lambda: _reply(results[0]) if results else None

    def _tell(self, command: drivers.Command, result: drivers.Result, who: str) -> None:
        what = ", ".join(f"{point} = {value:g}" for point, value in command.values.items()) or command.action \
            or f"{command.period_s or 0:g} s"
        self._record(
            RECORDED[command.kind],
            f"设备 {command.device}：{what} {'成功' if result.ok else '未成功'} {result.text_zh}".strip(),
            f"device {command.device}: {what} {'done' if result.ok else 'not done'} {result.text_en}".strip(),
            who=who, device=command.device, what=what, ok=result.ok)

    # --- loans

    def lend(self, request: dict[str, Any]) -> Reply | Loan:
        """Handle ``{"do": "lend", "port": …, "for_s": …}``: the connection that asked is the loan."""
        port, for_s = request.get("port"), request.get("for_s", LOAN_S)
        if not isinstance(port, str) or not isinstance(for_s, int | float) or not for_s > 0:
            return Refusal("a loan needs a port and for_s above 0", "借用端口须给出 port 与大于 0 的 for_s").reply()
        wire = next((wire for wire in self._wires.values() if _canonical(port) in _ports(wire.config)), None)
        if wire is None:
            return {"not_mine": True}
        if (why := self.refusal(wire.config.id)) is not None:
            return why.reply()
        wire_id, who = wire.config.id, str(request.get("peer", {}).get("user", ""))

        def tell(kind: str, zh: str, en: str) -> None:
            self._record(kind, f"线路 {wire_id}：{zh}", f"wire {wire_id}: {en}", who=who, wire=wire_id)

        return Loan(self._new_id(), wire, min(float(for_s), LOAN_S), refused=partial(self.refusal, wire_id), tell=tell,
                    now=self._now)

    def refusal(self, wire: str) -> Refusal | None:
        """Why a wire is not lent now; None when it may be."""
        worst = max((LEVELS.index(colour) for one in self._present().objects
                     for colour in (one.colour, one.alarm_colour) if colour in LEVELS), default=0)
        if worst >= YELLOW:
            return Refusal("an alarm is on (yellow or worse): the box needs its wires now",
                           "当前有黄色及以上预警，线路不外借")
        if wire in self._sounding():
            return Refusal("a siren is active on this wire", "该线路上的警报器正在动作，不外借")
        return None


class Loan:
    """One port on loan; see `gateway.control.Held`."""

    def __init__(self, id_: str, wire: Wire, for_s: float, *, refused: Callable[[], Refusal | None],
                 tell: Callable[[str, str, str], None], now: Callable[[], float]) -> None:
        """Ask the wire's driver to let go of its port for `for_s` seconds."""
        self._id, self._wire, self._refused, self._tell, self._now = id_, wire, refused, tell, now
        self._until_s = now() + for_s
        self._results: list[drivers.Result] = []
        self._lent = self._ended = False
        wire.driver.submit(drivers.Command(id=id_, kind="lend", deadline_s=now() + DEADLINE_S,
                                           until_s=self._until_s), self._results.append)

    def reply(self) -> Reply | None:
        """Say whether the port is free now; None while the driver has not let go of it."""
        if not self._results:
            return None
        result = self._results[0]
        if result.ok and not self._lent:
            self._lent = True
            self._tell("wire.lent", "借给安装调试命令", "lent to an installer's command")
        return _reply(result) | {"wire": self._wire.config.id, "for_s": round(self._until_s - self._now(), 1)}

    def over(self) -> bool:
        """Whether it must be given back: its time is over, or the box needs it."""
        return self._now() >= self._until_s or self._refused() is not None

    def gone(self) -> None:
        """Take the port back: the borrower has left, or was sent away. Twice is once."""
        if self._ended:
            return
        self._ended = True
        self._wire.driver.submit(drivers.Command(id=self._id, kind="take_back", deadline_s=self._now() + LOAN_S))
        if self._lent:
            self._tell("wire.returned", "已归还", "given back")


def _reply(result: drivers.Result) -> Reply:
    return {"ok": result.ok, "text_en": result.text_en, "text_zh": result.text_zh, "values": dict(result.values)}


def _ports(config: drivers.Wire) -> set[str]:
    """Every port string a wire uses, in a form that can be compared."""
    own = [getattr(config, "port", "")]
    own += [getattr(device, "port", None) or "" for device in getattr(config, "devices", ())]
    return {_canonical(port) for port in own if port}


def _canonical(port: str) -> str:
    """One spelling of one port: the device behind a path of udev, the host and number of an address."""
    if "://" in port:
        parts = urlsplit(port)
        return f"{parts.scheme}://{parts.hostname}:{parts.port}"
    return os.path.realpath(port)
