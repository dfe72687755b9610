"""The plan is the cheapest there is, and covers everything once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.planner import Cost, Span, characters, plan, silence_ms

COSTS = st.builds(Cost, st.sampled_from([0.0, 0.1, 1.04, 9.2]), st.sampled_from([0.0, 5.0, 50.0]),
                  st.sampled_from([0.0, 1.75, 3.65]))
SPANS = st.lists(st.builds(Span, st.sampled_from([3, 4]), st.integers(0, 60), st.integers(1, 6)),
                 min_size=1, max_size=6)


def partitions(items):
    """All ways to split a list into groups."""
    if not items:
        yield []
        return
    head, *rest = items
    for split in partitions(rest):
        yield [[head], *split]
        for n, group in enumerate(split):
            yield [*split[:n], [head, *group], *split[n + 1:]]


def price(groups, cost, most):
    """Bus time of reading each group's hull; infinite where a hull is not allowed."""
    total = 0.0
    for group in groups:
        count = max(s.end for s in group) - min(s.first for s in group)
        if len({s.function for s in group}) > 1 or count > most:
            return float("inf")
        total += cost.exchange_ms(group[0].function, count)
    return total


@settings(max_examples=60, deadline=None)
@given(SPANS, COSTS, st.integers(6, 40))
def test_no_other_plan_is_cheaper(spans, cost, most):
    blocks = plan(spans, cost, most)
    best = min(price(groups, cost, most) for groups in partitions(sorted(set(spans))))
    assert sum(cost.exchange_ms(b.function, b.count) for b in blocks) == pytest.approx(best)


@settings(deadline=None)
@given(SPANS, COSTS, st.integers(6, 125), st.booleans())
def test_every_span_is_read_once_and_whole(spans, cost, most, contiguous):
    blocks = plan(spans, cost, most, contiguous)
    assert sorted(n for block in blocks for n in block.spans) == list(range(len(spans)))
    for block in blocks:
        assert block.count <= most
        for n in block.spans:
            assert spans[n].function == block.function
            assert block.first <= spans[n].first
            assert spans[n].end <= block.first + block.count
    if not contiguous:
        assert {(b.function, b.first, b.count) for b in blocks} == {(s.function, s.first, s.count) for s in spans}


def test_holes_are_read_over_only_where_that_is_cheaper():
    spans = [Span(3, 0, 1), Span(3, 10, 1)]
    slow_answers, fast_answers = Cost(1.0, 50.0, 3.5), Cost(1.0, 0.0, 3.5)
    assert [(b.first, b.count) for b in plan(spans, slow_answers)] == [(0, 11)]
    assert [(b.first, b.count) for b in plan(spans, fast_answers)] == [(0, 1), (10, 1)]


def test_coils_count_in_eights():
    assert Cost(1.0, 0.0, 0.0).exchange_ms(1, 9) == 8 + 5 + 2
    assert [(b.first, b.count) for b in plan([Span(1, 0, 1), Span(1, 1999, 1)], Cost(0.01, 9, 0))] == [(0, 2000)]


def test_a_span_longer_than_an_answer_is_refused():
    with pytest.raises(ValueError, match="one answer carries 1 to 4"):
        plan([Span(3, 0, 5)], Cost(1, 1, 1), 4)


@pytest.mark.parametrize(("baud", "silence"), [(9600, 3.5 * 10 / 9.6), (19200, 3.5 * 10 / 19.2), (38400, 1.75)])
def test_silence_is_that_of_the_standard(baud, silence):
    assert silence_ms(characters(baud), baud) == pytest.approx(silence)


def test_a_character_has_all_its_bits():
    assert characters(1000) == 10
    assert characters(1000, "even") == 11
    assert characters(1000, "none", 2) == 11
