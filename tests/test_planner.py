"""The plan is the cheapest there is, covers everything once, and survives any refusal."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.planner import Block, Cost, Hole, Span, characters, plan, refused, silence_ms, split
from hil.bench.plan_optimum import cheapest_ms, figures, price_ms

COSTS = st.builds(Cost, st.sampled_from([0.0, 0.1, 1.04, 9.2]), st.sampled_from([0.0, 5.0, 50.0]),
                  st.sampled_from([0.0, 1.75, 3.65]), st.sampled_from([0.0, 100.0]))
SPANS = st.lists(st.builds(Span, st.sampled_from([3, 4]), st.integers(0, 60), st.integers(1, 6)),
                 min_size=1, max_size=6)
BITS = st.lists(st.builds(Span, st.just(1), st.integers(0, 60), st.integers(1, 6)), min_size=1, max_size=6)


def partitions(items):
    """All ways to split a list into groups."""
    if not items:
        yield []
        return
    head, *rest = items
    for parts in partitions(rest):
        yield [[head], *parts]
        for n, group in enumerate(parts):
            yield [*parts[:n], [head, *group], *parts[n + 1:]]


def price(groups, cost, most):
    """Bus time of reading each group's hull; infinite where a hull is not allowed."""
    total = 0.0
    for group in groups:
        count = max(s.end for s in group) - min(s.first for s in group)
        if len({s.function for s in group}) > 1 or count > most:
            return float("inf")
        total += cost.exchange_ms(group[0].function, count)
    return total


def bus_ms(blocks, cost):
    return sum(cost.exchange_ms(b.function, b.count) for b in blocks)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(SPANS | BITS, COSTS, st.integers(6, 40))
def test_no_other_plan_is_cheaper(spans, cost, most):
    """Against every way to group the spans, overlapping ones too. Bits have no limit but the standard's."""
    best = min(price(groups, cost, most if spans[0].function > 2 else 2000)
               for groups in partitions(sorted(set(spans))))
    assert bus_ms(plan(spans, cost, most), cost) == pytest.approx(best)


def test_no_cover_by_any_intervals_is_cheaper():
    """Against sets of arbitrary intervals that may overlap, on small cases: nothing is taken for granted."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(40):
        most = rng.randint(3, 9)
        spans = [Span(3, rng.randrange(7), rng.randint(1, 3)) for _ in range(rng.randint(1, 4))]
        cost = Cost(rng.choice([0.1, 1.0, 3.0]), rng.choice([0.0, 20.0]), rng.choice([0.0, 3.5]))
        # One that holds no span only costs.
        intervals = [(a, b) for a in range(9) for b in range(a + 1, min(9, a + most) + 1)
                     if any(a <= s.first and s.end <= b for s in spans)]
        best = min(sum(cost.exchange_ms(3, b - a) for a, b in cover)
                   for size in range(1, len(set(spans)) + 1) for cover in combinations(intervals, size)
                   if all(any(a <= s.first and s.end <= b for a, b in cover) for s in spans))
        assert bus_ms(plan(spans, cost, most), cost) == pytest.approx(best)


@pytest.mark.parametrize("baud", [1200, 9600, 115200])
def test_the_plan_is_the_shortest_path(baud):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    char_ms = characters(baud, "none", 2)
    for turnaround_ms in (0.0, 5.0, 60.0):
        cost = Cost(char_ms, turnaround_ms, silence_ms(char_ms, baud))
        spans = [Span(3, rng.randrange(40), rng.randint(1, 4)) for _ in range(8)]
        best = cheapest_ms(sorted({(s.first, s.count) for s in spans}), 20, baud, turnaround_ms)
        assert bus_ms(plan(spans, cost, 20), cost) == pytest.approx(best, rel=1e-12)


def test_the_figure_of_the_bench_is_one():
    (made,) = figures(quick=True)
    print(made.note)
    assert made.name == "bus.plan_over_optimum"
    assert made.ratio == 1.0
    assert made.value > 1000   # thirty devices take their time


def test_the_least_time_is_that_of_the_standard():
    """30 reads of 10 registers, 8N2: 33 characters and twice the silence."""
    for baud, seconds in ((9600, 1.3750), (115200, 0.1995)):
        char_ms = characters(baud, "none", 2)
        assert 30 * Cost(char_ms, 0.0, silence_ms(char_ms, baud)).exchange_ms(3, 10) == pytest.approx(
            1000 * seconds, rel=3e-4)
        assert 30 * price_ms(baud, 0.0, 10) == pytest.approx(1000 * seconds, rel=3e-4)


@settings(deadline=None, print_blob=True)
@given(SPANS, COSTS, st.integers(6, 125), st.booleans())
def test_every_span_is_read_once_and_whole(spans, cost, most, contiguous):
    blocks = plan(spans, cost, most, contiguous)
    assert sorted(n for block in blocks for n in block.spans) == list(range(len(spans)))
    for block in blocks:
        assert block.count <= most
        for n in block.spans:
            assert spans[n].function == block.function
            assert block.first <= spans[n].first
            assert spans[n].end <= block.end
    if not contiguous:
        assert {(b.function, b.first, b.count) for b in blocks} == {(s.function, s.first, s.count) for s in spans}


def test_holes_are_read_over_only_where_that_is_cheaper():
    spans = [Span(3, 0, 1), Span(3, 12, 1)]
    slow_answers, fast_answers = Cost(1.0, 50.0, 3.5), Cost(1.0, 0.0, 3.5)
    assert [(b.first, b.count) for b in plan(spans, slow_answers)] == [(0, 13)]
    assert [(b.first, b.count) for b in plan(spans, fast_answers)] == [(0, 1), (12, 1)]
    tired = Cost(1.0, 0.0, 3.5, rest_ms=500.0)
    assert [(b.first, b.count) for b in plan(spans, tired)] == [(0, 13)]


def test_among_equals_the_fewest_requests():
    free = Cost(0.0, 0.0, 0.0)
    assert [(b.first, b.count) for b in plan([Span(3, 0, 1), Span(3, 9, 1)], free)] == [(0, 10)]


def test_characters_of_ascii_are_twice_as_many():
    # ":" 01 03 0000 000A LRC CRLF asked, ":" 01 03 14 … LRC CRLF answered
    asked, answered = len(":" + "01030000000A" + "F2" + "\r\n"), len(":" + "010314" + 20 * "00" + "E8" + "\r\n")
    assert Cost(1.0, 0.0, 0.0, framing_chars=28, byte_chars=2).exchange_ms(3, 10) == asked + answered


def test_coils_count_in_eights():
    assert Cost(1.0, 0.0, 0.0).exchange_ms(1, 9) == 8 + 5 + 2
    assert [(b.first, b.count) for b in plan([Span(1, 0, 1), Span(1, 1999, 1)], Cost(0.01, 9, 0))] == [(0, 2000)]


def test_a_span_longer_than_an_answer_is_refused():
    with pytest.raises(ValueError, match="one answer carries 1 to 4"):
        plan([Span(3, 0, 5)], Cost(1, 1, 1), 4)


# --- refusals

GREEDY = Cost(0.01, 50.0, 3.5)
"""Reads over everything."""


def read_all(spans, refuses, apart=frozenset()):
    """Plan and ask; each refused block is split and its parts asked. What was read, what was learned, the asks."""
    waiting, done, asked = plan(spans, GREEDY, apart=apart), set(), []
    while waiting:
        block = waiting.pop()
        asked.append(block)
        assert len(asked) <= 4 * len(spans) + 4
        if not refuses(block):
            done |= {spans[n] for n in block.spans}
            continue
        parts = split(block, spans)
        assert len(parts) != 1
        if parts:
            assert sorted(n for part in parts for n in part.spans) == sorted(block.spans)
        apart |= refused(parts)
        waiting += parts
    return done, apart, asked


def test_a_refused_block_is_split_at_its_holes_first():
    spans = [Span(3, 0, 2), Span(3, 2, 1), Span(3, 5, 2), Span(3, 9, 1)]
    (block,) = plan(spans, GREEDY)
    parts = split(block, spans)
    assert parts == [Block(3, 0, 3, (0, 1)), Block(3, 5, 2, (2,)), Block(3, 9, 1, (3,))]
    assert refused(parts) == {Hole(3, 3, 2), Hole(3, 7, 2)}
    assert split(parts[0], spans) == [Block(3, 0, 2, (0,)), Block(3, 2, 1, (1,))]
    assert refused(split(parts[0], spans)) == {Hole(3, 2, 0)}
    assert split(parts[1], spans) == []


def test_what_was_refused_is_remembered_in_the_next_plan():
    spans = [Span(3, 0, 1), Span(3, 4, 1), Span(3, 5, 1), Span(4, 0, 1), Span(4, 4, 1)]
    assert [(b.function, b.first, b.count) for b in plan(spans, GREEDY, apart={Hole(3, 1, 3)})] == [
        (3, 0, 1), (3, 4, 2), (4, 0, 5)]
    assert [(b.first, b.count) for b in plan(spans[:3], GREEDY, apart=[Hole(3, 5, 0)])] == [(0, 5), (5, 1)]


def test_a_long_span_that_is_refused_does_not_take_those_inside_with_it():
    spans = [Span(3, 0, 10), Span(3, 2, 2), Span(3, 8, 1)]
    done, apart, _ = read_all(spans, lambda block: block.first <= 5 < block.end)
    assert done == {Span(3, 2, 2), Span(3, 8, 1)}
    again, _, asked = read_all(spans, lambda block: block.first <= 5 < block.end, apart)
    assert again == done
    assert Block(3, 0, 10, (0,)) in asked


@settings(deadline=None, max_examples=300, print_blob=True)
@given(st.lists(st.builds(Span, st.sampled_from([1, 3]), st.integers(0, 40), st.integers(1, 5)), min_size=1,
                max_size=9), st.sets(st.integers(0, 45), max_size=20), st.sets(st.integers(0, 45), max_size=4),
       st.integers(5, 50))
def test_after_any_refusals_everything_readable_is_read(spans, bad, borders, longest):
    """A device that knows some registers only, refuses long reads and reads across the borders of its tables."""
    def refuses(block):
        return (block.count > longest or any(block.first <= r < block.end for r in bad)
                or any(block.first < border < block.end for border in borders))

    readable = {s for s in spans if not refuses(Block(s.function, s.first, s.count, ()))}
    apart, rounds = frozenset(), []
    while len(rounds) < len(spans) + 3:   # plan anew with what was learned, until nothing more is
        done, more, asked = read_all(spans, refuses, apart)
        assert done == readable
        rounds.append(asked)
        if more == apart:
            break
        apart = more
    else:
        pytest.fail(f"still learning after {len(rounds)} rounds")
    # then only what is asked for alone is refused
    assert [b for b in asked if refuses(b) and split(b, spans)] == []


@settings(deadline=None, print_blob=True)
@given(SPANS, st.randoms(use_true_random=False))
def test_a_moody_device_cannot_make_it_ask_for_ever(spans, rng):
    for _ in range(3):
        _, apart, _ = read_all(spans, lambda _: rng.random() < 0.5)
        assert all(hole.count >= 0 for hole in apart)


@pytest.mark.parametrize(("baud", "silence"), [(9600, 3.5 * 10 / 9.6), (19200, 3.5 * 10 / 19.2), (38400, 1.75)])
def test_silence_is_that_of_the_standard(baud, silence):
    assert silence_ms(characters(baud), baud) == pytest.approx(silence)


def test_a_character_has_all_its_bits():
    assert characters(1000) == 10
    assert characters(1000, "even") == 11
    assert characters(1000, "none", 2) == 11
