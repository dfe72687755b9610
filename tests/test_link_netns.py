"""Two real links in network namespaces: which one carries, what a bad one does, and how soon the other is there."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from gateway.uplink import route
from hil import netns
from hil.broker import Broker
from tests.uplink_site import Memory, samples, until, uplink

WHY_NOT = netns.missing()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
PROMISE_S = 15.0
ADDRESSES = {"10.77.0.1": "eth0", "10.77.1.1": "wwan0"}


class Link(NamedTuple):
    interface: str
    metered: bool = False


LINKS = (Link("eth0"), Link("wwan0", metered=True))


SEED = random.randrange(1 << 30)


def hold(name, *least_most_s):
    """Wait for a while drawn from the seed."""
    threading.Event().wait(random.Random(f"{SEED} {name}").uniform(*((100, 200) if SOAK else least_most_s)))


class Box:
    """An uplink behind links that can be hurt."""

    def __init__(self, links, memory, up):
        self.links, self.memory, self.up = links, memory, up

    def carrier(self):
        """The links with a connection to the county now, as the county sees them."""
        said = self.links.county.run("ss", "-Htn", "state", "established", "src", netns.COUNTY)
        return [ADDRESSES[line.split()[3].rsplit(":", 1)[0].strip("[]").removeprefix("::ffff:")]
                for line in said.splitlines()]

    def delivers(self, count=1, within_s=PROMISE_S, size=5):
        """Commit rows and wait for them; seconds."""
        before, began = self.memory.count_settled(), time.monotonic()
        for _ in range(count):
            self.memory.commit(samples(*range(size)))
        until(lambda: self.memory.count_settled() >= before + count, within_s, what=f"{count} rows")
        return time.monotonic() - began


@contextmanager
def boxed(folder, links=LINKS):
    with netns.Links() as net, Broker(folder=folder, host=netns.COUNTY, within=net.county) as broker, net.box.inside():
        memory = Memory()
        with uplink(memory, broker.port, host=netns.COUNTY, links=links) as (up, _):
            box = Box(net, memory, up)
            box.delivers()
            yield box


SCENES = {}


def scene(play):
    SCENES[play.__name__.replace("_", " ")] = play
    return play


@scene
def cable_out_and_in_again(folder):
    with boxed(folder) as box:
        assert box.carrier() == ["eth0"]
        box.links.unplug("eth0")
        out_s = box.delivers()
        assert box.up._route.link.interface == "wwan0"
        box.links.mend("eth0")
        mended_s = time.monotonic()
        until(lambda: box.up._route.link.interface == "eth0" and box.up.health().connected, 20, what="back")
        back_s = time.monotonic() - mended_s
        box.delivers()
        until(lambda: box.carrier() == ["eth0"])
        assert box.up.health().connections == 3
        return f"{out_s:.1f} s to the other link; {back_s:.1f} s back (two knocks {route.KNOCK_S:g} s apart)"


@scene
def packets_vanish_on_the_first_link(folder):
    with boxed(folder) as box:
        box.links.drop("eth0")
        out_s = box.delivers(within_s=25)
        assert box.up._route.link.interface == "wwan0"
        threading.Event().wait(3 * route.KNOCK_S)
        assert box.up._route.link.interface == "wwan0", "nobody answers the knocks"
        box.links.mend("eth0")
        until(lambda: box.up._route.link.interface == "eth0" and box.up.health().connected, 25, what="back")
        return f"{out_s:.1f} s to the other link (10 s of patience, 5 s for one attempt)"


@scene
def both_links_down(folder):
    with boxed(folder) as box:
        for link in ("eth0", "wwan0"):
            box.links.drop(link)
        box.memory.commit(samples(1))
        until(lambda: not box.up.health().connected, 20)
        hold("both", 3, 8)
        box.links.mend("wwan0")
        ended_s = time.monotonic()
        until(lambda: box.memory.count_settled() == 2, PROMISE_S, what="over the link that came back")
        return f"{time.monotonic() - ended_s:.1f} s after one came back"


@scene
def a_nat_forgets(folder):
    with boxed(folder, LINKS[:1]) as box:
        box.links.forget("eth0")
        return f"{box.delivers():.1f} s"


@scene
def link_down_for_some_seconds(folder):
    with boxed(folder, LINKS[:1]) as box:
        box.links.drop("eth0")
        box.memory.commit(samples(1))
        hold("down", 5, 12)
        box.links.mend("eth0")
        ended_s = time.monotonic()
        until(lambda: box.memory.count_settled() == 2, PROMISE_S)
        return f"{time.monotonic() - ended_s:.1f} s"


@scene
def a_fifth_of_all_packets_lost(folder):
    with boxed(folder, LINKS[:1]) as box:
        box.links.drop("eth0", percent=20)
        took = box.delivers(40, within_s=60, size=300)
        return f"40 rows of 24 kB in {took:.1f} s, {box.up.health().connections} connection(s)"


@scene
def only_64_kbit_a_second(folder):
    with boxed(folder, LINKS[:1]) as box:
        box.links.slow("eth0", 64_000)
        took = box.delivers(5, within_s=60, size=300)
        health = box.up.health()
        assert (health.connections, health.sent_rows) == (1, 6), "slow is not dead, and nothing goes twice"
        return f"5 rows of 24 kB in {took:.1f} s"


@scene
def a_modem_that_is_not_there(folder):
    with boxed(folder, (Link("wwan7", metered=True), LINKS[0])) as box:
        assert box.carrier() == ["eth0"]
        return "the next link is used at once"


@pytest.mark.long
def test_links(tmp_path, monkeypatch):
    print("seed", SEED)
    monkeypatch.setattr(route, "KNOCK_S", 1.0)
    with ThreadPoolExecutor(len(SCENES)) as pool:
        played = {name: pool.submit(play, tmp_path / name.replace(" ", "-")) for name, play in SCENES.items()}
    failed = []
    for name, result in played.items():
        problem = result.exception()
        if problem is None:
            print(f"{name:34} {result.result()}")
        else:
            failed.append(f"{name}: {type(problem).__name__}: {problem}")
    assert failed == []
