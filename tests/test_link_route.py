"""Which link: the preferred one whenever it holds, the spare one soon, and no swinging between them."""

from typing import NamedTuple

from gateway.uplink.route import FAIL_S, HELD_MAX, KNOCK_S, SETTLED_S, Route


class Link(NamedTuple):
    interface: str
    metered: bool = False


ETH, WWAN, SAT = Link("eth0"), Link("wwan0", metered=True), Link("sat0", metered=True)


class Story:
    """A route and a clock."""

    def __init__(self, *links):
        self.now, self.route = 1000.0, Route(links, 1000.0)

    @property
    def on(self):
        return self.route.link.interface

    def fails(self, after_s=1.0):
        self.now += after_s
        return self.route.failed(self.now)

    def serves(self, for_s=0.0):
        self.route.served(self.now)
        self.now += for_s

    def knocks(self, answered, times=1):
        """Wait for each knock's time; True when it was the one that brings us back."""
        came = False
        for _ in range(times):
            assert self.route.knock(self.now + KNOCK_S - 1) is None
            self.now += KNOCK_S
            assert self.route.knock(self.now).interface == "eth0"
            assert self.route.knock(self.now) is None, "one at a time"
            came = self.route.knocked(answered, self.now)
        return came

    def falls(self):
        """The preferred link breaks and cannot be had again."""
        assert not self.fails()
        assert self.fails()


def test_without_links_the_system_chooses_and_nothing_ever_changes():
    story = Story()
    assert (story.on, story.route.link.metered) == ("", False)
    assert not any(story.fails(100) for _ in range(50))
    story.serves(1e6)
    assert story.route.knock(story.now) is None
    assert not story.route.knocked(True, story.now)


def test_two_failures_or_ten_seconds_and_the_next_link_is_tried():
    story = Story(ETH, WWAN)
    assert (story.fails(), story.on) == (False, "eth0")
    assert (story.fails(), story.on, story.route.link.metered) == (True, "wwan0", True)
    story = Story(ETH, WWAN)
    assert (story.fails(FAIL_S), story.on) == (True, "wwan0"), "one attempt that took too long"


def test_a_connection_that_breaks_counts_from_its_end():
    story = Story(ETH, WWAN)
    story.serves(10_000)
    assert (story.fails(), story.on) == (False, "eth0"), "it may come again at once"
    assert (story.fails(FAIL_S - 0.1), story.on) == (True, "wwan0")


def test_all_links_are_tried_in_turn_while_none_works():
    story = Story(ETH, WWAN, SAT)
    seen = []
    for _ in range(12):
        seen.append(story.on)
        story.fails()
    assert seen == ["eth0", "eth0", "wwan0", "wwan0", "sat0", "sat0"] * 2


def test_two_knocks_a_minute_apart_bring_it_back():
    story = Story(ETH, WWAN)
    story.falls()
    assert story.route.knock(story.now + 1e6) is None, "not before the spare link serves: nobody would notice"
    story.serves()
    assert not story.knocks(True)
    assert not story.knocks(False)
    assert not story.knocks(True), "in a row"
    assert (story.knocks(True), story.on) == (True, "eth0")


def test_a_link_that_disappoints_has_to_hold_longer():
    story, needed = Story(ETH, WWAN), []
    for _ in range(6):
        story.falls()
        story.serves()
        knocks = 1
        while not story.knocks(True):
            knocks += 1
        needed.append(knocks)
        story.serves(SETTLED_S - 200)
    assert needed == [2, 4, 8, HELD_MAX, HELD_MAX, HELD_MAX]
    story.now += SETTLED_S
    story.falls()
    story.serves()
    assert (story.knocks(True, 2), story.on) == (True, "eth0"), "an old trouble is forgotten"


def test_a_broken_spare_leads_back_to_the_first():
    story = Story(ETH, WWAN)
    story.falls()
    story.serves(30)
    story.falls()
    assert story.on == "eth0"
    assert not story.route.knocked(True, story.now), "the answer of a knock from before"
