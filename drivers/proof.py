"""A template proves itself: what it says is sound, and its own example frames come out as written.

Owns: running the examples through the codec. Promises: all that is wrong at once, each with its path and what to do.
Never: touches hardware.
"""

from __future__ import annotations

import math

from drivers import Note, SetupError
from drivers.contradiction import Complaint, contradictions, under
from drivers.exchange import Ask, checked, hear
from drivers.identify import Identify
from drivers.reader import Reader, carried, missing_parameters, texts
from drivers.registers import FLOATS
from drivers.sensor import Example, Template


def complaints(template: Template) -> list[Complaint]:
    """Return what the shape of the file can't show: (path, message); empty when the template proves itself."""
    if found := contradictions(template):
        return found   # the examples of a broken set-up would only add noise
    proven: set[str] = set()
    for n, example in enumerate(template.examples):
        shown, wrong = prove(template, example)
        found += under(("examples", n), wrong)
        proven |= shown
    ids = {"points": [point.id for point in template.points], "texts": [text.id for text in template.texts]}
    return found + [((key, n), f"no example shows {name!r}: add a frame that carries it")
                    for key, names in ids.items() for n, name in enumerate(names) if name not in proven]


def prove(template: Template, example: Example) -> tuple[set[str], list[Complaint]]:
    """Run one example through the codec: the points and texts it carries, and what comes out otherwise than written."""
    try:
        request, answer = bytes.fromhex(example.request), bytes.fromhex(example.answer)
        ask = Ask.parse(request)
    except ValueError as error:
        return set(), [(("request",), str(error))]
    points = carried(template, ask.function, ask.first, ask.count)
    verdict = hear(ask, answer)
    if isinstance(verdict, Note) or verdict is None:
        crc = f" (its CRC should be {checked(answer[:-2])[-2:].hex(' ').upper()})" if verdict is Note.BAD_CRC else ""
        return set(), [(("answer",), f"is no answer to the request: {verdict or 'too short'}{crc}")]
    lacking = missing_parameters(template, [point.id for point in points], example.parameters)
    if lacking:
        return set(), [(("parameters",), text) for text in lacking]
    wrong: list[Complaint] = []
    try:
        values, notes = Reader(points, ask.function, ask.first, ask.count, template.known(example.parameters)).decode(
            answer, verdict) if points else ((), ())
    except SetupError as error:
        return set(), [(("parameters",), str(error))]
    got = dict(zip((point.id for point in points), zip(values, notes or [""] * len(values), strict=True), strict=True))
    wrong += [(("values",), f"{name!r} is not in this answer, which carries {', '.join(got) or 'no point'}")
              for name in sorted({*example.values, *example.notes} - set(got))]
    for point in points:
        value, note = got[point.id]
        want, remark = example.values.get(point.id), example.notes.get(point.id, "")
        if point.id not in example.values:
            wrong.append((("values",), f"the answer carries {point.id!r} too ({value}): say what it should be"))
        elif not _same(value, want, point.type in FLOATS or point.transform is not None):
            wrong.append((("values", point.id), f"the answer says {value}, the example {want}"))
        elif note != remark:
            wrong.append((("notes",), (f"{point.id!r} comes with {note or 'no note'!r}, the example says "
                                      f"{remark or 'none'!r}")))
    data = answer[verdict:verdict + ask.data_bytes]
    said = texts(template, ask.function, ask.first, ask.count, data)
    for name in sorted({*said, *example.texts}):
        if said.get(name) != example.texts.get(name):
            wrong.append((("texts",), (f"{name!r}: the answer says {said.get(name)!r}, the example "
                                      f"{example.texts.get(name)!r}")))
    rule = template.identify
    if rule and rule.function == ask.function and not _recognised(rule, ask, data):
        wrong.append((("answer",), "the identify rule does not recognise its own model"))
    return {*got, *said}, wrong


def _recognised(rule: Identify, ask: Ask, data: bytes) -> bool:
    """Whether the answer fits the rule; an answer that does not hold all the rule reads says nothing against it."""
    if rule.function in (1, 2):
        return (rule.register, rule.count) != (ask.first, ask.count) or rule.matches(data)
    at = 2 * (rule.register - ask.first)
    part = data[at:at + rule.data_bytes] if at >= 0 else b""
    return len(part) < rule.data_bytes or rule.matches(part)


def _same(value: float | None, want: float | None, is_float: bool) -> bool:
    if value is None or want is None:
        return value is want
    return math.isclose(value, want, rel_tol=1e-6, abs_tol=1e-9) if is_float else value == want
