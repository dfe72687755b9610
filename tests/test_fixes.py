"""Which source of time is believed: bounds that are honest, ranks, liars, and the journal's last word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fixes import FUTURE_MS, INSISTS_S, Fix, Fixes, Quarrel

UTC = 1_800_000_000_000
SOURCES = ("gnss", "kernel", "broker", "kept", "rtc")


def fixes(*said, floor_ms=UTC):
    """`said`: (source, offset, error, at)."""
    found = Fixes(floor_ms, 100.0)
    for fix in said:
        found.take(Fix(*fix))
    return found


def best(found, now_s=0.0):
    fix = found.best(now_s)
    return fix and fix.source


@given(ppm=st.floats(-100, 100), said=st.lists(st.tuples(
    st.sampled_from(SOURCES), st.floats(0, 1e6), st.floats(0, 50_000), st.floats(-1, 1)), min_size=1, max_size=40))
def test_what_honest_sources_say_is_true_within_the_bound_at_any_time(ppm, said):
    """An oscillator wrong by up to 100 ppm; each source errs by up to its own bound."""
    found = fixes(floor_ms=UTC - 10**9)
    for n, (source, at_s, error_ms, part) in enumerate(sorted(said, key=lambda one: one[1])):
        truth = UTC + at_s * ppm / 1000
        assert found.take(Fix(source, round(truth + part * error_ms), error_ms + 1, at_s))
        for later_s in (0.0, 500.0, 1e5):
            now_s = at_s + later_s
            fix = found.best(now_s)
            assert abs(fix.offset_ms - (UTC + now_s * ppm / 1000)) <= found.error_ms(fix, now_s) + 1, (n, later_s)
        assert found.quarrels(at_s) == []


@given(lie_ms=st.integers(3_000, 10**9), liar=st.sampled_from(SOURCES[1:]), error_ms=st.floats(0, 400))
def test_a_liar_of_lower_rank_moves_nothing(lie_ms, liar, error_ms):
    found = fixes(("gnss", UTC, 300.0, 0.0), (liar, UTC + lie_ms, error_ms, 0.0))
    assert found.best(0.0) == Fix("gnss", UTC, 300.0, 0.0)
    assert liar == "kept" or found.quarrels(0.0) == [Quarrel("gnss", liar, -lie_ms / 1000)]
    assert found.quarrels(0.0) == []   # told once


def test_among_those_that_agree_the_tightest():
    gnss, rtc = ("gnss", UTC, 300.0, 0.0), ("rtc", UTC + 900, 700.0, 0.0)
    assert best(fixes(gnss, ("kernel", UTC + 200, 5.0, 0.0), rtc)) == "kernel"
    assert best(fixes(gnss, ("kernel", UTC + 400, 5.0, 0.0), rtc)) == "gnss"


def test_a_live_source_before_what_is_remembered_even_when_it_is_looser():
    found = fixes(("kernel", UTC + 60_000, 3000.0, 0.0), ("kept", UTC, 5.0, 0.0))
    assert best(found) == "kernel"
    assert best(fixes(("kernel", UTC + 2000, 3000.0, 0.0), ("kept", UTC, 5.0, 0.0))) == "kept"   # no contradiction


def test_jitter_replaces_nothing_age_does():
    found = fixes(("gnss", UTC, 300.0, 0.0), ("gnss", UTC + 40, 300.0, 1.0))
    assert found.best(1.0).offset_ms == UTC
    found.take(Fix("gnss", UTC + 40, 300.0, 400.0))   # 300 ms have grown by 40
    assert found.best(400.0).offset_ms == UTC + 40


def test_a_source_that_falls_silent_is_remembered():
    found = fixes(("kernel", UTC, 5.0, 0.0))
    found.lapse("kernel")
    assert found.best(100.0) == Fix("kept", UTC, 5.0, 0.0)
    assert found.error_ms(found.best(100.0), 100.0) == 15.0


@pytest.mark.parametrize("source", SOURCES)
def test_before_the_journals_last_word_it_cannot_be(source):
    found = fixes()
    assert not found.take(Fix(source, UTC - 86_400_000, 1000.0, 0.0))
    assert found.best(0.0) is None
    assert found.quarrels(0.0) == ([Quarrel(source, "journal", -86400.0)] if source in SOURCES[:3] else [])


def test_the_future_of_a_broken_chip_is_none():
    assert not fixes().take(Fix("rtc", UTC + FUTURE_MS + 1, 1000.0, 0.0))


def test_two_that_agree_overrule_the_journal():
    found = fixes()
    early = UTC - 86_400_000
    assert not found.take(Fix("broker", early, 20.0, 0.0))
    assert not found.take(Fix("rtc", early, 20.0, 1.0))
    assert found.take(Fix("kernel", early + 10, 5.0, 2.0))
    assert found.take(Fix("broker", early, 20.0, 3.0))
    assert best(found, 3.0) == "kernel"
    assert found.quarrels(3.0) == []


def test_one_that_insists_overrules_it_and_one_that_wavers_does_not():
    found = fixes()
    assert not found.take(Fix("kernel", UTC - 10**9, 5.0, 0.0))
    assert not found.take(Fix("kernel", UTC - 10**9, 5.0, INSISTS_S - 1))
    assert not found.take(Fix("kernel", UTC - 2 * 10**9, 5.0, INSISTS_S))
    assert not found.take(Fix("kernel", UTC - 2 * 10**9, 5.0, 2 * INSISTS_S - 1))
    assert found.take(Fix("kernel", UTC - 2 * 10**9, 5.0, 2 * INSISTS_S))


def test_a_floor_learnt_later_takes_back_what_was_believed():
    found = fixes(("kept", UTC, 5.0, 0.0), ("rtc", UTC + 10**9, 5.0, 0.0))
    found.raise_floor(UTC + 10**8)
    assert best(found) == "rtc"
