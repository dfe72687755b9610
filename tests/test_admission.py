"""Which orders are let in: expiry, repetition, nonces, a clock that is unset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Door
from gateway.uplink.admission import MOST, Admission
from gateway.uplink.profile import Order, Outcome

UTC = 1_790_000_000_000
DONE = Outcome(ok=True, text_en="done", text_zh="完成")


class Box:
    def __init__(self, trust="synced"):
        self.now_s, self.done, self.said = 100.0, [], []
        self.door = Door("b", UTC, trust)
        self.answers = []
        self.admission = Admission("nonce-1", lambda: self.door, lambda: self.now_s, self.do)

    def do(self, order, answer):
        self.done.append(order.id)
        self.answers.append(answer)

    def take(self, **order):
        self.admission.take(Order(**{"id": "c1", "name": "silence", "expires": UTC + 160_000, **order}),
                            self.said.append)
        return self.said[-1] if self.said else None


def test_an_order_is_done_once_and_its_answer_given_again():
    box = Box()
    box.take()
    assert not box.take().ok   # still under way
    box.answers[0](DONE)
    assert box.take() == DONE
    assert box.done == ["c1"]


@pytest.mark.parametrize(("order", "word"), [
    ({"expires": UTC + 99_000}, "expired 1 s ago"), ({"expires": None}, "needs `expires`"),
    ({"expires": UTC + 2 * 86_400_000}, "24 h ahead"), ({"nonce": "nonce-0"}, "started anew")])
def test_what_is_refused_says_why_in_both_languages(order, word):
    box = Box()
    said = box.take(**order)
    assert not said.ok
    assert word in said.text_en
    assert said.text_zh
    assert box.done == []


def test_one_id_for_two_orders_is_refused():
    box = Box()
    box.take()
    box.answers[0](DONE)
    assert "was used for another" in box.take(arguments={"object": "dam"}).text_en


def test_while_the_clock_is_unset_only_this_runs_nonce_opens():
    box = Box("unset")
    assert "nonce" in box.take().text_en
    assert "started anew" in box.take(nonce="nonce-0").text_en
    box.take(nonce="nonce-1", expires=5, id="c2")   # nobody can say whether it has expired
    assert box.done == ["c2"]


@given(ids=st.lists(st.integers(0, 3 * MOST), max_size=60), late=st.booleans())
def test_no_id_is_ever_done_twice_while_it_is_remembered(ids, late):
    box = Box()
    for n in ids:
        box.take(id=f"c{n}")
        if not late:
            box.answers[-1](DONE) if box.answers else None
    assert len(box.done) == len(set(box.done)) == len(set(ids))


def test_memory_is_bounded():
    box = Box()
    for n in range(2 * MOST):
        box.take(id=f"c{n}")
    assert len(box.admission._known) == MOST
