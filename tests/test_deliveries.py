"""Who has had what, against plain sets: sent, stored, asked for again, lost, trimmed, in any order."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.journal.cursors import delivery
from gateway.journal.deliveries import Deliveries
from gateway.journal.gaps import Gap, Untold
from gateway.journal.state import Extent

STREAM = ("e1", "data")
WHO = st.sampled_from(["county", "city"])
SEQ = st.integers(1, 40)
SPANS = st.lists(st.tuples(SEQ, SEQ), max_size=4).map(lambda spans: [(min(s), max(s)) for s in spans])


def seqs(spans):
    return {n for a, b in spans for n in range(a, b + 1)}


class Told(RuleBasedStateMachine):
    """`sent` and `stored` are the truth; the last receipt that fell short waits in `doubt` for a second one."""

    @initialize()
    def begin(self):
        self.d = Deliveries(("county", "city"))
        self.saved, self.oldest, self.next = {}, 1, 1
        self.sent = {"county": set(), "city": set()}
        self.stored = {"county": set(), "city": set()}
        self.asked = {"county": set(), "city": set()}
        self.offered = {"county": 0, "city": 0}
        self.doubt, self.confirms, self.lost = {}, set(), set()
        self.show()

    def show(self):
        self.d.follow(self.d._deliveries, {STREAM: Extent(self.oldest, self.next, self.next - self.oldest)})

    @rule(n=st.integers(1, 10))
    def commit(self, n):
        self.next = min(41, self.next + n)
        self.show()

    @rule(who=WHO, spans=SPANS)
    def send(self, who, spans):
        mine = seqs(spans) & set(range(1, self.next))
        self.d.settle(who, STREAM, sorted(mine))
        self.sent[who] |= mine
        self.asked[who] -= mine

    @rule(who=WHO, n=st.integers(1, 40))
    def offer(self, who, n):
        """Given out; the acknowledgement may never come."""
        n = min(n, self.next - 1)
        self.d.offer(who, {STREAM: n})
        self.offered[who] = max(self.offered[who], n)

    @rule(who=WHO, spans=SPANS)
    def skip(self, who, spans):
        for a, b in spans:
            b = min(b, self.next - 1)
            self.d.skip(who, STREAM, a, b)
            for marks in (self.sent, self.stored):
                marks[who] |= set(range(a, b + 1))
            self.asked[who] -= set(range(a, b + 1))

    @rule(who=WHO, up_to=st.integers(0, 40), spans=SPANS)
    def receive(self, who, up_to, spans):
        claimed = set(range(1, up_to + 1)) | seqs(spans)
        got = self.d.store(who, STREAM, up_to, spans)
        below = set(range(1, self.oldest))
        if max(claimed, default=0) > max(self.sent[who] | below, default=self.offered[who]) and (
                max(claimed) > self.offered[who]):
            assert got.refused
            assert not got.stale
            assert not got.again
            return
        assert not got.refused
        self.confirms.add(who)
        believed = claimed - self.asked[who]
        absent = self.stored[who] - claimed - below
        lost = absent - self.doubt[who] if who in self.doubt else set()
        self.doubt.pop(who, None)
        if absent - lost:
            self.doubt[who] = claimed | below
        self.stored[who] = (self.stored[who] - lost) | believed
        self.sent[who] = (self.sent[who] - lost) | believed
        assert got.again == bool(lost)

    @rule(who=WHO, spans=SPANS)
    def replay(self, who, spans):
        again, gone = self.d.replay(who, STREAM, spans)
        asked = seqs(spans)
        assert seqs(again) == {n for n in asked if self.oldest <= n < self.next} - self.lost
        assert seqs(gone) == {n for n in asked if n < self.oldest or (n < self.next and n in self.lost)}
        self.sent[who] -= seqs(again)
        self.stored[who] -= seqs(again)
        self.asked[who] |= seqs(again)

    @rule(who=WHO)
    def forget(self, who):
        """The broker lost the session."""
        before = set(self.sent[who])
        if who in self.confirms:
            self.sent[who] = set(self.stored[who]) | set(range(1, self.oldest))
        assert self.d.rewind(who) == (before - self.sent[who] - set(range(1, self.oldest)) != set())

    @rule(spans=SPANS)
    def lose(self, spans):
        for a, b in spans:
            if b < self.next:
                gap = self.d.addressed(Gap(*STREAM, a, b, None, "damaged"))
                want = {w for w in self.sent if not set(range(max(a, self.oldest), b + 1)) <= self.sent[w]}
                assert set(gap.platforms) == want
                self.d.write_off(gap)
                self.lost |= set(range(a, b + 1))
                for who in self.sent:
                    self.sent[who] |= set(range(a, b + 1))
                    self.stored[who] |= set(range(a, b + 1))
                    self.asked[who] -= set(range(a, b + 1))

    @rule(n=st.integers(1, 5))
    def trim(self, n):
        self.oldest = min(self.next, self.oldest + n)
        for who in self.asked:
            self.asked[who] -= set(range(1, self.oldest))
        self.show()

    @rule()
    def restart(self):
        """Save what moved, and go on with what was saved. A doubt is forgotten, and what was asked for is only unsent;
        where anything had been sent, all there was may have been."""
        self.saved |= self.d.take_moved()
        again = Deliveries(("county", "city"))
        again.follow({key: delivery(value) for key, value in self.saved.items()},
                     {STREAM: Extent(self.oldest, self.next, self.next - self.oldest)}, self.d.confirms)
        self.lost = set()   # whoever finds a hole again tells it again
        self.d, self.doubt, self.asked = again, {}, {who: set() for who in self.asked}
        for who in self.offered:
            known = (who, STREAM) in self.saved and self.sent[who]
            self.offered[who] = self.next - 1 if known else 0

    @invariant()
    def same(self):
        if not hasattr(self, "d"):
            return
        for who in self.sent:
            below = set(range(1, self.oldest))
            self.sent[who] |= below
            self.stored[who] |= below
            left = set(range(self.oldest, self.next)) - self.sent[who]
            assert seqs(self.d.missing(who, STREAM, self.oldest, self.next - 1)) == left
            assert self.d.backlog(who) == len(left)
            known = self.d._of(who, STREAM)
            assert seqs(known.stored.within(1, 40)) == self.stored[who] & set(range(1, 41))
            assert self.stored[who] <= self.sent[who]
        assert set(self.d.confirms) == self.confirms


Told.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestTold = Told.TestCase


def test_of_an_epoch_that_is_gone_nothing_is_believed_and_nobody_alarmed():
    d = Deliveries(("county",))
    d.follow({}, {STREAM: Extent(1, 10, 9)})
    got = d.store("county", ("e0", "data"), 100, ())
    assert (bool(got.refused), got.stale, d.confirms) == (True, True, ())
    assert d.store("county", ("e0", "data"), 0, ()).refused == ""
    assert d.replay("county", ("e0", "data"), [(5, 9), (1, 2)]) == ([], [(1, 2), (5, 9)])


def test_what_will_never_come_is_answered_as_gone():
    d = Deliveries(("county",))
    d.follow({}, {STREAM: Extent(3, 10, 7)})
    assert d.replay("county", STREAM, [(1, 20)]) == ([(3, 9)], [(1, 2)]), "rows above may come yet"
    assert d.replay("county", STREAM, [(1, 20)], ended=True) == ([(3, 9)], [(1, 2), (10, 20)])
    d.write_off(Gap(*STREAM, 5, 6, None, "absent"))
    assert d.replay("county", STREAM, [(4, 9)]) == ([(4, 4), (7, 9)], [(5, 6)])


def test_gaps_wait_while_nobody_hears_them():
    untold, gap = Untold(), Gap(*STREAM, 1, 1, 5, "quota")
    untold.add(gap, 0.0)
    assert untold.due(59.0, False) == ()
    assert untold.due(3599.0, False, heard=False) == ()
    assert untold.due(3600.0, False, heard=False) == (gap,)
    for n in range(64):   # too many to keep in the small state
        untold.add(Gap(*STREAM, 10 * n, 10 * n, 5, "quota"), 3600.0)
    assert len(untold.due(3601.0, False, heard=False)) == 64


@pytest.mark.parametrize("ranges", [[(3, 2)], [(n, n) for n in range(1, 1002)]])
def test_a_receipt_out_of_shape_is_refused(ranges):
    d = Deliveries(("county",))
    d.follow({}, {STREAM: Extent(1, 10_000, 9_999)})
    d.settle("county", STREAM, range(1, 10_000))
    assert "at most 1000 ranges" in d.store("county", STREAM, 0, ranges).refused
    assert d.confirms == ()


def test_a_receipt_that_says_nothing_new_costs_no_commit():
    d = Deliveries(("county",))
    d.follow({}, {STREAM: Extent(1, 10, 9)})
    d.settle("county", STREAM, range(1, 10))
    assert not d.store("county", STREAM, 5, [(7, 8)]).refused
    assert d.take_moved()
    assert not d.store("county", STREAM, 5, [(7, 8)]).refused
    assert not d.moved

