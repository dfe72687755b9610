"""Who has had what, against plain sets: sent, stored, asked for again, lost, trimmed, in any order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.journal.cursors import delivery
from gateway.journal.deliveries import Deliveries
from gateway.journal.gaps import Gap
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
        self.doubt, self.confirms = {}, set()
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

    @rule(who=WHO, up_to=st.integers(0, 40), spans=SPANS)
    def receive(self, who, up_to, spans):
        claimed = set(range(1, up_to + 1)) | seqs(spans)
        got = self.d.store(who, STREAM, up_to, spans)
        below = set(range(1, self.oldest))
        if not claimed <= self.sent[who] | below:
            assert got.refused
            assert not got.again
            return
        assert not got.refused
        self.confirms.add(who)
        claimed |= below
        lost = self.stored[who] - claimed - self.doubt[who] if who in self.doubt else set()
        self.stored[who] = (self.stored[who] - lost) | claimed
        self.sent[who] -= lost
        self.doubt.pop(who, None)
        if self.stored[who] - claimed:
            self.doubt[who] = claimed
        assert got.again == bool(lost)

    @rule(who=WHO, spans=SPANS)
    def replay(self, who, spans):
        again, gone = self.d.replay(who, STREAM, spans)
        asked = seqs(spans)
        assert seqs(again) == {n for n in asked if self.oldest <= n < self.next}
        assert seqs(gone) == {n for n in asked if n < self.oldest}
        self.sent[who] -= seqs(again)
        self.stored[who] -= seqs(again)

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
                for who in self.sent:
                    self.sent[who] |= set(range(a, b + 1))
                    self.stored[who] |= set(range(a, b + 1))

    @rule(n=st.integers(1, 5))
    def trim(self, n):
        self.oldest = min(self.next, self.oldest + n)
        self.show()

    @rule()
    def restart(self):
        """Save what moved, and go on with what was saved; a doubt is forgotten, confirmation is not."""
        self.saved |= self.d.take_moved()
        again = Deliveries(("county", "city"))
        again.follow({key: delivery(value) for key, value in self.saved.items()},
                     {STREAM: Extent(self.oldest, self.next, self.next - self.oldest)}, self.d.confirms)
        self.d, self.doubt = again, {}

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
