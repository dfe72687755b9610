"""Where the time comes from: the broker, a receiver, a clock chip; and TLS while nobody knows it."""

import os
import random
import ssl
import threading
import time
import tty
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import LinkError
from gateway import rtc
from gateway.config import Tls
from gateway.gnss import ERROR_MS, Gnss, utc_ms
from gateway.uplink import grace
from gateway.uplink.asking import Asking
from gateway.uplink.profile import TimeAnswer
from hil.broker import Broker, Security
from hil.certificates import Authority
from tests.uplink_site import Memory, listener, samples, until, uplink

UTC = 1_790_000_000_000


class Net:
    """A platform at the end of a slow line, both clocks moved by hand."""

    def __init__(self):
        self.now_s, self.offers, self.wanted = 1000.0, [], True
        self.asking = Asking(lambda offset, error: self.offers.append((offset, error)), lambda: self.wanted,
                             lambda: self.now_s)


@given(there_s=st.floats(0, 6), back_s=st.floats(0, 6), offset_ms=st.integers(-(10**12), 2 * 10**12))
def test_an_answer_is_right_within_its_bound(there_s, back_s, offset_ms):
    net = Net()
    name = net.asking.question()
    net.now_s += there_s
    said = round(net.now_s * 1000) + offset_ms
    net.now_s += back_s
    net.asking.answered(TimeAnswer(name, said))
    if there_s + back_s > 10:
        assert net.offers == []
    else:
        (offset, error), = net.offers
        assert abs(offset - offset_ms) <= error + 0.5
        assert error <= 5001


def test_questions_come_less_and_less_often_and_only_when_needed():
    net = Net()
    net.wanted = False
    assert net.asking.question() is None
    net.wanted, times = True, []
    while len(times) < 16:
        if net.asking.question():
            times.append(net.now_s)
        net.now_s += 1
    assert [b - a for a, b in pairwise(times)][:4] == [2, 4, 8, 16]
    assert times[-1] - times[-2] == 3600


def test_an_answer_to_nothing_or_twice_is_none():
    net = Net()
    name = net.asking.question()
    net.asking.answered(TimeAnswer("other", UTC))
    net.asking.answered(TimeAnswer(name, UTC))
    net.asking.answered(TimeAnswer(name, UTC + 5))
    assert len(net.offers) == 1


def test_the_broker_tells_the_time(tmp_path):
    offers = []
    asking = Asking(lambda offset, error: offers.append((offset, error)), lambda: True, time.monotonic)
    with Broker(folder=tmp_path / "b", prefer="mosquitto") as broker, listener(broker.port) as got, \
            uplink(Memory(), broker.port, sources={"time_question": asking.question,
                                                   "time_answered": asking.answered}):
        asked = until(lambda: got.of("time/ask"))[0]
        got.say("time/answer", {"v": 1, "id": asked["id"], "utc_ms": time.time_ns() // 1_000_000})
        (offset, error), = until(lambda: offers)
    assert abs(offset - (time.time() - time.monotonic()) * 1000) <= error + 5


@pytest.mark.parametrize(("sentence", "expected"), [
    # Published examples: u-blox M8 receiver description (UBX-13003221), RMC and ZDA.
    (b"$GPRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A*57\r", None),   # of 2002
    (b"$GPZDA,082710.00,16,09,2002,00,00*64\r", None),
    (b"$GNRMC,000001.00,A,4717.11437,N,00833.91522,E,0.004,77.52,210926,,,A*%02X", 1_789_948_801_000),
    (b"$GNRMC,000001.00,V,4717.11437,N,00833.91522,E,0.004,77.52,210926,,,A*%02X", None),
    (b"$GNZDA,000001.250,21,09,2026,00,00*%02X", 1_789_948_801_250),
    (b"$GNZDA,240001.250,21,13,2026,00,00*%02X", None), (b"$GNZDA,,,,,,*%02X", None), (b"$*00", None), (b"", None),
    (b"GNZDA,000001.250,21,09,2026,00,00*00", None)])
def test_a_sentence_is_a_time_or_nothing(sentence, expected):
    if b"%02X" in sentence:
        check = 0
        for byte in sentence[1:sentence.index(b"*")]:
            check ^= byte
        sentence %= check
        flipped = sentence[:8] + bytes([sentence[8] ^ 1]) + sentence[9:]
        assert utc_ms(flipped) is None
    assert utc_ms(sentence) == expected


def test_noise_is_no_time():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(20_000):
        assert utc_ms(rng.randbytes(rng.randrange(80))) is None


def spoken(utc_s):
    body = time.strftime("GNRMC,%H%M%S.00,A,4717.1,N,00833.9,E,0.0,77.5,%d%m%y,,,A", time.gmtime(utc_s)).encode()
    check = 0
    for byte in body:
        check ^= byte
    return b"$%s*%02X\r\n" % (body, check)


def test_a_receiver_on_a_port_tells_the_time_and_may_be_pulled_out():
    master, slave = os.openpty()
    tty.setraw(master)
    offers, now = [], [100.0]
    gnss = Gnss(os.ttyname(slave), 9600, lambda offset, error: offers.append((offset, error)), lambda: now[0])
    gnss.open()
    os.close(slave)
    base = 1_790_000_000
    for n, late_s in enumerate((0.4, 0.1, 0.3)):
        now[0] = 100.0 + n + late_s
        whole = b"\xff\x00garbage\r\n$GPGSV,1,1*00\r\n" + spoken(base + n)
        os.write(master, whole[:20])
        gnss.step(1.0)
        os.write(master, whole[20:])
        until(lambda n=n: gnss.step(0.1) or len(offers) == n + 1)
    assert offers[-1] == (1000 * base - 100_100, ERROR_MS)
    os.close(master)
    with pytest.raises(LinkError, match="gone"):
        until(lambda: gnss.step(0.1))
    gnss.close()
    with pytest.raises(LinkError, match="plugged in"):
        Gnss("/dev/no-such-port", 9600, lambda *_: None, time.monotonic).open()


def test_a_clock_chip_is_read_and_a_broken_one_passed_over(tmp_path):
    for name, text in (("rtc0", "rubbish"), ("rtc1", "1790000000\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "since_epoch").write_text(text)
    chip = rtc.read(tmp_path, tmp_path / "none", lambda: 50.0)
    assert chip == rtc.Chip("rtc1", 1_790_000_000_500 - 50_000)
    assert rtc.read(tmp_path / "none", tmp_path, lambda: 50.0) is None


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize(("served", "floor_ms", "error"), [
    ("good", UTC, ""), ("ended", 1 << 42, "certificate_time"), ("ended", UTC, ""),
    ("other name", UTC, "certificate_name"),
    ("foreign", UTC, "certificate")])
def test_while_the_clock_is_unset_dates_alone_are_judged_by_what_is_sure(authority, tmp_path, served, floor_ms, error):
    ours = Authority(tmp_path / "foreign") if served == "foreign" else authority
    server = ours.issue("server", server=True, names="DNS:county.example" if served == "other name" else
                        "DNS:localhost,IP:127.0.0.1", **({"days": -1} if served == "ended" else {}))
    client = ours.issue("gw-1")
    with Broker(folder=tmp_path / "b", security=Security(server=server, authority=ours)) as broker:
        memory, unsure = Memory(), [floor_ms]
        memory.commit(samples(1))
        tls = Tls(ca_file=str(authority.cert), cert_file=str(client.cert), key_file=str(client.key))
        with uplink(memory, broker.port, host="localhost", tls=tls,
                    sources={"unsure_floor": lambda: unsure[0]}) as (up, reports):
            if error:
                until(lambda: up.health().error == error)
                assert memory.count_settled() == 0
                return
            until(lambda: memory.count_settled() == 1)
            assert [kind for kind, _ in reports] == ["uplink.tls_time_unchecked"]
            unsure[0] = None   # the time is known: it is checked in full
            if served == "ended":
                until(lambda: up.health().error == "certificate_time")
            else:
                until(lambda: up.health().connections == 2)
                memory.commit(samples(2))
                until(lambda: memory.count_settled() == 2)


def test_a_certificate_without_dates_is_refused():
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        grace.judge(None, 0)
    assert threading.active_count() >= 1
