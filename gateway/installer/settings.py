"""Which settings and addresses to try, in which order, and what each attempt may cost.

Owns: the order of likelihood, and the patience by speed. Promises: what is likeliest comes first, no address is tried
twice with the same question, and the whole costs what `Attempt.cost_s` adds up to when nobody answers.
Never: does I/O.

Order after field practice: 9600 8N1, 4800 8N1, 9600 8E1, 115200 8N1; addresses as from the factory, then all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from drivers.planner import characters, silence_ms
from drivers.sensor import Serial, Template

Baud = Literal[1200, 2400, 4800, 9600, 14400, 19200, 38400, 57600, 115200]
Parity = Literal["none", "even", "odd"]
COMMON = (Serial(baud=9600), Serial(baud=4800), Serial(baud=9600, parity="even"), Serial(baud=115200),
          Serial(baud=19200))
BAUDS: tuple[Baud, ...] = (9600, 4800, 115200, 19200, 38400, 57600, 2400, 1200, 14400)
PARITIES: tuple[Parity, ...] = ("none", "even", "odd")
RARE = tuple(Serial(baud=baud, parity=parity) for parity in PARITIES for baud in BAUDS)
LIKELY = (1, 2, 12, 26, 80, 192, 200)
ALL = range(1, 248)
QUICK_S, SLOW_S = 0.06, 0.3
"""Patience at high speed, first pass and with --full."""
THINKING_CHARACTERS = 40
"""A device's processor is chosen for its baud rate: the slower the line, the longer it may think."""


class Question(NamedTuple):
    """A read that does no harm."""

    function: int
    first: int
    size: int
    """Registers or coils."""


FIRST = Question(3, 0, 1)
OTHER = Question(4, 0, 1)


class Attempt(Struct, frozen=True):
    """One question to one address with one setting."""

    settings: Serial | None
    address: int
    question: Question
    timeout_s: float

    @property
    def cost_s(self) -> float:
        """What it takes when nobody answers."""
        if self.settings is None:
            return self.timeout_s
        char_ms = characters(self.settings.baud, self.settings.parity, self.settings.stop_bits)
        return (8 * char_ms + silence_ms(char_ms, self.settings.baud)) / 1000 + self.timeout_s


def patience_s(settings: Serial | None, slow: bool) -> float:
    """Return how long to wait for an answer to begin: 60 to 100 ms at first, 300 ms and more when slow."""
    if settings is None:
        return 1.0 if slow else 0.3
    thinking_s = THINKING_CHARACTERS * characters(settings.baud, settings.parity, settings.stop_bits) / 1000
    return SLOW_S + thinking_s if slow else min(0.1, QUICK_S + thinking_s)


def to_try(models: Iterable[Template], full: bool) -> list[Serial]:
    """Return the settings worth trying, likeliest first: common ones, the models' own, and with `full` all."""
    own = sorted({model.serial for model in models}, key=lambda s: (s.parity != "none", -s.baud))
    return list(dict.fromkeys(_plain(one) for one in (*COMMON, *own, *(RARE if full else ()))))


def _plain(settings: Serial) -> Serial:
    """Two stop bits are heard by who expects one; asking with one is heard by all but the strictest."""
    return Serial(baud=settings.baud, parity=settings.parity, data_bits=settings.data_bits)


def order(models: Sequence[Template], choices: Sequence[Serial] | None, addresses: Iterable[int] | None = None,
          full: bool = False) -> list[Attempt]:
    """Return all attempts in order.

    Args:
        models: templates; each is asked for as it leaves the factory.
        choices: settings to try; None on a network.
        addresses: only these; None = likely ones first, then 1 to 247.
        full: twice, the second time slowly and with function 4 too.
    """
    allowed = list(ALL if addresses is None else addresses)
    return list(dict.fromkeys(a for a in _order(models, choices, allowed, full) if a.address in set(allowed)))


def _order(models: Sequence[Template], choices: Sequence[Serial] | None, allowed: Sequence[int],
           full: bool) -> Iterator[Attempt]:
    chosen: Sequence[Serial | None] = [None] if choices is None else choices
    for settings in chosen:
        for model in models:
            if settings is None or _plain(model.serial) == settings:
                yield from (Attempt(settings, model.address, question, max(patience_s(settings, False), 0.1))
                            for question in (FIRST, own(model)) if question)
    for address_list in (LIKELY, allowed):
        for settings in chosen:
            yield from (Attempt(settings, address, FIRST, patience_s(settings, False)) for address in address_list)
    if full:
        for settings in chosen:
            for address in allowed:
                yield from (Attempt(settings, address, question, patience_s(settings, True))
                            for question in (FIRST, OTHER))


def own(model: Template) -> Question | None:
    """Return the read that recognises a model."""
    rule = model.identify
    return Question(rule.function, rule.register, rule.count) if rule else None
