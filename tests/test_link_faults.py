"""Whatever cuts a platform off, it is served again within 15 s of the cause's end: a real broker, a proxy that breaks.

All faults run beside each other, each with its own uplink: what one of them waits for must not hold up another. The
back-off is that of a long outage. `make soak` holds each fault for minutes, again and again.
"""

import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import msgspec
import pytest
from msgspec import Struct

from gateway.config import Tls
from gateway.uplink.names import NAMES
from gateway.worker import Worker
from hil.broker import Broker, Security
from hil.certificates import Authority
from hil.proxy import Proxy
from hil.rig import Rig
from tests.sites import site
from tests.uplink_site import Memory, samples, until, uplink

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
PROMISE_S = 15.0
HOLD_S = (30.0, 200.0) if SOAK else (0.5, 2.0)
ROUNDS = 5 if SOAK else 1


class Scene(Struct):
    """A fault about to happen. `error`: the words its outage may have, none: there is none, or it ends by itself."""

    up: object
    memory: Memory
    begin: object
    end: object = lambda: None
    error: tuple[str, ...] = ()
    seen: object = None
    """Whether it is to be seen yet, where it has no word."""
    well_before: bool = True


class Stage:
    """What all faults share."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = Authority(folder / "ca")
        self.pairs = {"good": self.authority.issue("server", server=True),
                      "expired": self.authority.issue("expired", server=True, days=-1),
                      "foreign": Authority(folder / "foreign", "foreign CA").issue("server", server=True)}
        self.ca = Tls(ca_file=str(self.authority.cert))
        self.broker = Broker(folder=folder / "broker", prefer="mosquitto").start()

    def security(self, pair):
        return Security(server=self.pairs[pair], authority=self.authority, client_certificates=False)


FAULTS = {}


def fault(make):
    FAULTS[make.__name__.replace("_", " ")] = contextmanager(make)
    return make


def named(name, **more):
    return {"client_id": f"gw {name}", "keepalive_s": 10, **more}


def through_proxy(name, stage, begin, end, error=(), **more):
    """A fault of the network between an uplink and a broker that is well."""
    memory = Memory()
    with Proxy(("127.0.0.1", stage.broker.port)) as proxy, uplink(memory, proxy.port, **named(name, **more)) as (up, _):
        yield Scene(up, memory, lambda: begin(proxy), lambda: end(proxy), error)


@fault
def broker_killed(stage):
    memory = Memory()
    with Broker(folder=stage.folder / "killed") as broker, uplink(memory, broker.port) as (up, _):
        yield Scene(up, memory, broker.kill, broker.start, ("refused",))


@fault
def broker_hung(stage):
    memory = Memory()
    with Broker(folder=stage.folder / "hung") as broker, uplink(memory, broker.port, keepalive_s=10) as (up, _):
        yield Scene(up, memory, broker.hang, broker.wake, ("no_connack",))


@fault
def network_refuses(stage):
    yield from through_proxy("refuse", stage, lambda p: p.cut("refuse"), Proxy.restore, ("refused",))


@fault
def network_drops_packets(stage):
    yield from through_proxy("drop", stage, lambda p: p.cut("drop"), Proxy.restore, ("timeout",))


@fault
def black_hole(stage):
    yield from through_proxy("hole", stage, lambda p: p.cut("blackhole"), Proxy.restore, ("no_connack",))


@fault
def black_hole_in_3_1_1(stage):
    yield from through_proxy("hole3", stage, lambda p: p.cut("blackhole"), Proxy.restore, ("no_connack",), mqtt="3.1.1")


@fault
def half_open(stage):
    yield from through_proxy("half", stage, Proxy.half_open, lambda _: None)


@fault
def reset(stage):
    yield from through_proxy("reset", stage, Proxy.reset, lambda _: None)


@fault
def stalls_within_our_packet(stage):
    yield from through_proxy("up", stage, lambda p: p.break_after(40, "stall"), lambda _: None)


@fault
def stalls_within_an_answer(stage):
    yield from through_proxy("down", stage, lambda p: p.break_after(2, "stall", up=False), lambda _: None)


@fault
def reset_within_our_packet(stage):
    yield from through_proxy("cut", stage, lambda p: p.break_after(40, "reset"), lambda _: None)


@fault
def two_seconds_each_way(stage):
    yield from through_proxy("delay", stage, lambda p: (p.shape(delay_s=2.0), p.reset()), lambda _: None)


@fault
def login_refused(stage):
    memory, word = Memory(), {"gw": "right"}
    with Broker(folder=stage.folder / "login", security=Security(passwords=word)) as broker, \
            Proxy(("127.0.0.1", broker.port)) as proxy, \
            uplink(memory, proxy.port, username="gw", password="right") as (up, _):
        yield Scene(up, memory, lambda: (broker.restart(Security(passwords={"gw": "wrong"})), proxy.reset()),
                    lambda: broker.reload(Security(passwords=word)), ("not_authorised", "credentials"))


def certificate(stage, pair, error):
    memory = Memory()
    with Broker(folder=stage.folder / pair, security=stage.security("good")) as broker, \
            uplink(memory, broker.port, host="localhost", tls=stage.ca) as (up, _):
        yield Scene(up, memory, lambda: broker.restart(stage.security(pair)),
                    lambda: broker.restart(stage.security("good")), (error,))


@fault
def certificate_expired(stage):
    yield from certificate(stage, "expired", "certificate_time")


@fault
def certificate_foreign(stage):
    yield from certificate(stage, "foreign", "certificate")


def impostor(name, stage, serve, error):
    """Something answers at the broker's address that is none, or none any more."""
    server = socket.create_server(("127.0.0.1", 0))
    kept = []

    def accept():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            serve(client, kept)

    threading.Thread(target=accept, daemon=True).start()
    memory = Memory()
    with server, Proxy(server.getsockname()) as proxy, uplink(memory, proxy.port, **named(name)) as (up, _):
        def end():
            proxy.target = ("127.0.0.1", stage.broker.port)
        yield Scene(up, memory, lambda: None, end, (error,), well_before=False)
        server.shutdown(socket.SHUT_RDWR)
    for client in kept:
        client.close()


@fault
def accepts_and_says_nothing(stage):
    yield from impostor("mute", stage, lambda client, kept: kept.append(client), "no_connack")


@fault
def accepts_and_hangs_up(stage):
    yield from impostor("rude", stage, lambda client, _: client.close(), "closed")


class Resolver:
    """Names of the faults; every other host as the system says."""

    def __init__(self, system):
        self.system, self.states = system, {}

    def __call__(self, host, *args, **more):
        state = self.states.get(host)
        if state is None:
            return self.system(host, *args, **more)
        if state["hangs"] is not None:
            state["hangs"].wait(300)
        if state["gone"]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self.system("127.0.0.1", *args, **more)


def dns(name, stage, hangs, known):
    memory, resolver = Memory(), NAMES._resolver
    state = resolver.states[name] = {"gone": not known and not hangs, "hangs": None if known else hangs}
    with Proxy(("127.0.0.1", stage.broker.port)) as proxy, \
            uplink(memory, proxy.port, **named(name, host=name)) as (up, _):
        def begin():
            state.update(gone=not hangs, hangs=hangs)
            if known:
                proxy.reset()

        def end():
            if not known:  # known before: it never comes back, and is not needed
                state["gone"] = False
                if hangs:
                    hangs.set()
        yield Scene(up, memory, begin, end, () if known else ("name",), well_before=known)
    if hangs:
        hangs.set()


@fault
def dns_gone(stage):
    yield from dns("gone.test", stage, None, known=False)


@fault
def dns_hangs(stage):
    yield from dns("hangs.test", stage, threading.Event(), known=False)


@fault
def dns_gone_but_known(stage):
    yield from dns("gone-known.test", stage, None, known=True)


@fault
def dns_hangs_but_known(stage):
    yield from dns("hangs-known.test", stage, threading.Event(), known=True)


@fault
def a_bug_in_the_loop(stage):
    """The uplink's own step fails, again and again; its Worker takes it up as in the box."""
    memory, fails = Memory(), threading.Event()
    with uplink(memory, stage.broker.port, **named("bug")) as (up, _):
        up.halt()
        present = up.sources.present

        def broken():
            if fails.is_set():
                raise ZeroDivisionError("a bug")
            return present()

        up.sources = msgspec.structs.replace(up.sources, present=broken)
        worker = Worker("uplink bug", up.step, close=up.close)
        worker.start()
        try:
            yield Scene(up, memory, fails.set, fails.clear, seen=lambda: worker.restarts > 2)
        finally:
            worker.stop()
            worker.join(10)


def play(name, stage, seed):
    """Let it happen once; seconds from the cause's end until a row that waited was settled."""
    rng = random.Random(f"{seed} {name}")
    with FAULTS[name](stage) as scene:
        up, memory = scene.up, scene.memory
        if scene.well_before:
            memory.commit(samples(1))
            until(lambda: memory.count_settled() == 1, what=f"{name}: well before")
        took = []
        for _ in range(ROUNDS if scene.well_before else 1):
            before = memory.count_settled()
            scene.begin()
            memory.commit(samples(*range(600)))  # too long for what breaks within a packet
            if scene.error or scene.seen:
                until(scene.seen or (lambda: up.health().error in scene.error), 45, what=f"{name}: {scene.error}")
                assert up.health().error_zh or not scene.error
                up._outage._tries += 20  # a long outage
                threading.Event().wait(rng.uniform(*HOLD_S))
                assert memory.count_settled() == before
            ended_s = time.monotonic()
            scene.end()
            until(lambda n=before: memory.count_settled() > n, PROMISE_S, what=f"{name}: served again")
            took.append(time.monotonic() - ended_s)
        return max(took), up.health().connections


def slow_line(folder):
    """64 kbit/s: a message of 32 kB takes 4 s, and none is taken for lost and sent twice. Seconds for two of them."""
    memory = Memory()
    with Broker(folder=folder) as broker, Proxy(("127.0.0.1", broker.port)) as proxy, \
            uplink(memory, proxy.port) as (up, _):
        until(lambda: up.health().connected)
        proxy.shape(bits_per_s=64_000)
        memory.commit(*(samples(*range(380)) for _ in range(2)))
        before = time.monotonic()
        until(lambda: memory.count_settled() == 2, 60, what="slow line: both rows")
        assert (up.health().connections, up.health().sent_rows) == (1, 2)
        return time.monotonic() - before, 1


@pytest.mark.long
@pytest.mark.timing
def test_every_fault_is_over_within_15_s_of_its_causes_end(tmp_path, monkeypatch, caplog):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    monkeypatch.setattr(NAMES, "_resolver", Resolver(NAMES._resolver))
    stage = Stage(tmp_path)
    with ExitStack() as ends:
        ends.callback(stage.broker.stop)
        with ThreadPoolExecutor(len(FAULTS) + 1) as pool:
            played = {name: pool.submit(play, name, stage, seed) for name in FAULTS}
            played["(a slow line carries 64 kB)"] = pool.submit(slow_line, tmp_path / "slow")
    failed = []
    for name, result in played.items():
        problem = result.exception()
        if problem is None:
            print(f"{name:30} {result.result()[0]:6.2f} s")
        else:
            failed.append(f"{name}: {type(problem).__name__}: {problem}")
    assert failed == []


def test_polling_waits_for_no_time_out_of_the_network(tmp_path):
    """The whole box: a sensor polled ten times a second, while nothing that is sent is answered."""
    with Rig(site(tmp_path / "site"), tmp_path / "box") as rig:
        rig.start()
        rig.wait("readings at the county", lambda: rig.county.counters().readings)
        rig.network.cut("drop")
        first, ended_s = len(rig.said), time.monotonic() + 6.0  # longer than each of its time-outs (5 s)
        rig.wait("so long", lambda: time.monotonic() > ended_s)
        asked = [said.asked_s for said in rig.said[first:]]
        longest_s = max(after - before for before, after in pairwise(asked))
        print(f"{len(asked)} polls in 6 s, the longest pause {longest_s:.2f} s")
        assert longest_s < 2.5, "half of a time-out"
        settled = rig.county.counters().rows
        rig.network.restore()
        rig.wait("served again", lambda: rig.county.counters().rows > settled, PROMISE_S)
