"""Giving a device another address: the only command that writes.

Owns: the order of checks, writes and proofs. Promises: nothing is written before the device answered at its old
address, the new one was silent and a person agreed; a recipe that shouts to all devices is refused while another one
answers; the outcome is proved by asking. Never: tries a recipe twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from drivers import Note
from drivers.exchange import Ask
from drivers.line import Heard
from drivers.sensor import Serial, Template
from drivers.writing import address_steps
from gateway.installer.link import Link
from gateway.installer.settings import FIRST, LIKELY, own, patience_s
from gateway.installer.words import Text, Told

TIMEOUT_S = 0.5
PROOFS = 6
"""How often the new address is asked before the device counts as silent: some restart first."""
PROOF_REST_S = 0.5


class Outcome(Struct, frozen=True):
    """What became of it."""

    old: int
    new: int
    at_new: bool
    at_old: bool
    recognised: bool
    """What answers at the new address is the model."""

    @property
    def done(self) -> bool:
        """Whether all is proved."""
        return self.at_new and not self.at_old and self.recognised


class Move:
    """One device, from an old address to a new one."""

    def __init__(self, link: Link, template: Template, old: int, new: int, settings: Serial | None) -> None:
        """Prepare.

        Raises:
            Told: the model has no recipe, or there is nothing to do.
        """
        if not template.set_address:
            raise Told(_NO_RECIPE.told(model=template.model))
        if old == new:
            raise Told(_SAME.told(old=old))
        self._link, self._template, self.old, self.new, self._settings = link, template, old, new, settings
        self._steps = address_steps(template, old, new)

    def look(self, others: Sequence[int] = LIKELY) -> list[int]:
        """Return who else answers on the wire, as far as a look at likely addresses can tell.

        Raises:
            Told: the device does not answer, is another model, the new address is taken, or the recipe shouts to all
                and somebody else is there.
        """
        if not _there(self._ask(self.old)):
            raise Told(_NOT_THERE.told(old=self.old))
        if not self._recognised(self.old):
            raise Told(_OTHER_MODEL.told(old=self.old, model=self._template.model))
        if _there(self._ask(self.new)):
            raise Told(_TAKEN.told(new=self.new))
        present = [unit for unit in others if unit not in (self.old, self.new)
                   and _there(self._ask(unit, patience_s(self._settings, False)))]
        if present and self._template.alone:
            raise Told(_NOT_ALONE.told(others=", ".join(map(str, present))))
        return present

    def steps(self) -> list[Text]:
        """Say what will be written, one line a step."""
        return [(_STEP if write.unit else _STEP_ALL).told(
            function=write.function, register=write.first, to=write.unit, value=", ".join(map(str, write.values)))
            for write, _ in self._steps]

    def write(self) -> None:
        """Write the recipe, once.

        Raises:
            Told: the device refuses a step.
        """
        for write, pause_s in self._steps:
            heard = self._link.exchange(write, self._settings, TIMEOUT_S)
            if heard.code:
                raise Told(_STEP_REFUSED.told(register=write.first, code=heard.code))
            # A device that changed at once may answer from either address, or not at all: the proof comes later.
            self._link.rest(max(self._template.min_gap_ms / 1000, pause_s))

    def prove(self, told: Callable[[int], None] = lambda _: None) -> Outcome:
        """Ask at both addresses. `told` is called with the number of each try."""
        at_new = False
        for turn in range(PROOFS):
            told(turn)
            at_new = _there(self._ask(self.new))
            if at_new:
                break
            self._link.rest(PROOF_REST_S)
        recognised = at_new and self._recognised(self.new)
        at_old = _there(self._ask(self.old))
        return Outcome(self.old, self.new, at_new, at_old, recognised)

    def _ask(self, unit: int, timeout_s: float = TIMEOUT_S) -> Heard:
        if self._template.min_gap_ms:
            self._link.rest(self._template.min_gap_ms / 1000)
        return self._link.exchange(Ask(unit, *(own(self._template) or FIRST)), self._settings, timeout_s)

    def _recognised(self, unit: int) -> bool:
        rule = self._template.identify
        if rule is None:
            return True   # nothing tells this model apart; the person must know
        heard = self._ask(unit)
        return heard.note is None and rule.matches(bytes(heard.data[heard.start:heard.start + rule.data_bytes]))


def _there(heard: Heard) -> bool:
    """Whether somebody answers there, soundly or not: a garbled answer is a device (or two) as well."""
    return heard.note is None or (heard.code != 0 and heard.code not in (10, 11)) or heard.note is Note.BAD_CRC


_NO_RECIPE = Text("型号 {model} 的模板没有改地址的办法（set_address）：查说明书，或用拨码开关",
                  "the template of {model} has no recipe for this (set_address): see the manual, or its switches")
_SAME = Text("新旧地址都是 {old}，不用改", "old and new address are both {old}: nothing to do")
_NOT_THERE = Text("地址 {old} 没有应答，什么也没写：用 --old 写现在的地址（mingluo discover 可以找到）",
                  "address {old} does not answer, nothing was written: give its present address with --old "
                  "(mingluo discover finds it)")
_OTHER_MODEL = Text("地址 {old} 的设备不像 {model}，什么也没写：用 mingluo discover 看它是什么",
                    "the device at {old} does not look like {model}, nothing was written: "
                    "mingluo discover tells what it is")
_TAKEN = Text("地址 {new} 已有设备应答，什么也没写：换一个地址",
              "address {new} answers already, nothing was written: "
              "choose another one")
_NOT_ALONE = Text("线上还有别的设备（地址 {others}），而这个型号的改法是对全线广播：都会被改成同一地址。"
                  "只留一台再来；什么也没写",
                  "other devices are on the wire (address {others}), and this model's recipe is heard by all of them: "
                  "leave only the one to change; nothing was written")
_STEP = Text("向地址 {to} 的寄存器 {register} 写 {value}（功能 {function}）",
             "write {value} to register {register} of address {to} (function {function})")
_STEP_ALL = Text("向全部设备（广播）的寄存器 {register} 写 {value}（功能 {function}）",
                 "write {value} to register {register} of all devices (broadcast, function {function})")
_STEP_REFUSED = Text("设备拒绝写寄存器 {register}（代码 {code}）：可能有写保护，查说明书；"
                     "用 mingluo discover 看它现在的地址",
                     "the device refuses to have register {register} written (code {code}): it may be write-protected, "
                     "see the manual; mingluo discover tells its present address")
