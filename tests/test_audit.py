"""The judge must see a loss and an invention, or its verdict is worth nothing."""

from __future__ import annotations

import random

from hil.audit import Answer, Reading, compare


def stream(n: int, seed: int) -> list[Answer]:
    rng = random.Random(seed)
    return [Answer(f"p{i % 3}", 100 + i * 0.3 + rng.random() * 0.05, round(rng.random(), 2)) for i in range(n)]


def as_readings(answers: list[Answer]) -> list[Reading]:
    return [Reading(a.point, a.at_s + 0.01, a.value) for a in answers]


def test_equal_sets_match_whole() -> None:
    answers = stream(500, seed=1)
    audit = compare(answers, reversed(as_readings(answers)))
    assert audit.matched == 500
    assert audit.lost == []
    assert audit.invented == []


def test_each_removed_reading_is_named() -> None:
    answers = stream(300, seed=2)
    gone = {7, 8, 150, 299}
    audit = compare(answers, [r for n, r in enumerate(as_readings(answers)) if n not in gone])
    assert sorted(audit.lost) == sorted(answers[n] for n in gone)
    assert audit.invented == []


def test_a_reading_twice_or_with_another_value_or_time_is_invented() -> None:
    answers = stream(60, seed=3)
    good = as_readings(answers)
    twice, wrong, late = good[5], good[9]._replace(value=7.0), good[20]._replace(at_s=good[20].at_s + 9)
    audit = compare(answers, [*good[:9], *good[10:20], *good[21:], twice, wrong, late])
    assert sorted(audit.invented) == sorted([twice, wrong, late])
    assert sorted(audit.lost) == sorted([answers[9], answers[20]])
