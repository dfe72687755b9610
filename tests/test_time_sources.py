"""Where the time comes from: the broker, a receiver, a clock chip; and TLS while nobody knows it."""

import random
import socket
import ssl
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import LinkError
from gateway import rtc
from gateway.config import Tls
from gateway.gnss import Gnss, said
from gateway.uplink import grace
from gateway.uplink.asking import Asking
from gateway.uplink.profile import TimeAnswer
from hil import receiver
from hil.broker import Broker, Security
from hil.certificates import Authority
from hil.receiver import NONE, SIMULATED, Receiver, sentence
from tests.uplink_site import Memory, listener, samples, until, uplink

UTC = 1_800_000_000_000


# --- the broker

class Net:
    """A platform at the end of a slow line, both clocks moved by hand."""

    def __init__(self):
        self.now_s, self.offers, self.wanted = 1000.0, [], True
        self.asking = Asking(lambda offset, error: self.offers.append((offset, error)), lambda: self.wanted,
                             lambda: self.now_s)

    def trip(self, there_s=0.1, back_s=0.1, offset_ms=UTC):
        """Wait for a question and answer it; what it costs on the way is given."""
        while (name := self.asking.question()) is None:
            self.now_s += 0.5
        self.now_s += there_s
        utc_ms = round(self.now_s * 1000) + offset_ms
        self.now_s += back_s
        self.asking.answered(TimeAnswer(name, utc_ms))


@given(ways=st.lists(st.tuples(st.floats(0, 6), st.floats(0, 6)), min_size=1, max_size=12),
       offset_ms=st.integers(-(10**12), 2 * 10**12))
def test_what_is_offered_is_right_within_its_bound_however_slow_the_line(ways, offset_ms):
    net = Net()
    for there_s, back_s in ways:
        net.trip(there_s, back_s, offset_ms)
    for offset, error in net.offers:
        assert abs(offset - offset_ms) <= error + 0.5
        assert error <= 5001
    assert len(net.offers) <= sum(there_s + back_s <= 10 for there_s, back_s in ways)


@given(lie_ms=st.integers(1000, 10**10), at=st.integers(0, 2), sign=st.sampled_from([-1, 1]))
def test_one_wrong_answer_of_three_moves_nothing(lie_ms, at, sign):
    net = Net()
    for n in range(3):
        net.trip(offset_ms=UTC + (sign * lie_ms if n == at else 0))
    assert net.offers == [(UTC, pytest.approx(101))]


def test_the_tightest_of_a_round_counts():
    net = Net()
    net.trip(0.3, 0.5)
    net.trip(0.02, 0.02)
    net.trip(0.4, 0.4)
    assert [round(error) for _, error in net.offers] == [21, 21]


def test_rounds_come_less_and_less_often_and_only_when_needed():
    net = Net()
    net.wanted = False
    assert net.asking.question() is None
    net.wanted, times = True, []
    while len(times) < 36:
        if net.asking.question():
            times.append(net.now_s)
        net.now_s += 1
    waits = [b - a for a, b in pairwise(times)]
    assert waits[0::3] == waits[1::3] == [1] * 12
    assert waits[2::3] == [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_an_answer_to_nothing_twice_or_of_an_earlier_round_is_none():
    net = Net()
    names = [net.asking.question()]
    net.asking.answered(TimeAnswer("other", UTC))
    for name in (names[0], names[0]):
        net.asking.answered(TimeAnswer(name, UTC))
    net.now_s += 1
    names.append(net.asking.question())
    while len(names) < 4:
        net.now_s += 1
        names += [name] if (name := net.asking.question()) else []
    net.asking.answered(TimeAnswer(names[1], UTC + 1000))
    assert net.offers == []


def test_the_broker_tells_the_time(tmp_path):
    offers = []
    asking = Asking(lambda offset, error: offers.append((offset, error)), lambda: True, time.monotonic)
    with Broker(folder=tmp_path / "b", prefer="mosquitto") as broker, listener(broker.port) as got, \
            uplink(Memory(), broker.port, sources={"time_question": asking.question,
                                                   "time_answered": asking.answered}):
        for n in range(2):
            asked = until(lambda n=n: got.of("time/ask")[n:])[0]
            got.say("time/answer", {"v": 1, "id": asked["id"], "utc_ms": time.time_ns() // 1_000_000})
        offset, error = until(lambda: offers)[0]
    assert abs(offset - (time.time() - time.monotonic()) * 1000) <= error + 5


# --- a receiver

@pytest.mark.parametrize(("line", "utc_ms", "fix"), [
    # Published examples: u-blox M8 receiver description (UBX-13003221), RMC, ZDA and GGA, of 2002.
    (b"$GPRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A*57\r", 1_039_422_959_000, True),
    (b"$GPZDA,082710.00,16,09,2002,00,00*64\r", 1_032_164_830_000, None),
    (b"$GPGGA,092725.00,4717.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,*5B", None, True),
    (b"rubbish\xff$GPZDA,082710.00,16,09,2002,00,00*64", 1_032_164_830_000, None),
    (sentence("GNRMC,235960.00,A,4717.1,N,00833.9,E,0.0,77.5,311226,,,A"), 1_798_761_600_000, True),
    (sentence("GNRMC,000001.00,A,4717.1,N,00833.9,E,0.0,77.5,210926"), 1_789_948_801_000, True),
    (sentence("GNRMC,000001.00,V,4717.1,N,00833.9,E,0.0,77.5,210926,,,N"), 1_789_948_801_000, False),
    (sentence("GNRMC,000001.00,A,4717.1,N,00833.9,E,0.0,77.5,210926,,,S"), 1_789_948_801_000, False),
    (sentence("GNRMC,,V,,,,,,,,,,N"), None, False), (sentence("GNGGA,000001.00,,,,,8,00"), None, False),
    (sentence("GNZDA,000001.250,21,09,2026,00,00"), 1_789_948_801_250, None),
    (sentence("GNZDA,240001.250,21,12,2026,00,00"), None, None), (sentence("GNZDA,000001,31,02,2026"), None, None),
    (sentence("GNZDA,,,,,,"), None, None)])
def test_a_sentence_says_a_time_and_whether_there_is_a_fix(line, utc_ms, fix):
    assert said(line) == (utc_ms, fix)
    for n in range(line.index(b"$") + 1, line.index(b"*")):   # any bit that flips is seen
        for bit in range(7):
            assert said(line[:n] + bytes([line[n] ^ 1 << bit]) + line[n + 1:]) is None, (n, bit)


@pytest.mark.parametrize("line", [b"", b"$*00", b"GNZDA,000001,21,09,2026,00,00*00", b"$GNZDA,082710.00,16,09,20",
                                  sentence("GNGSV,1,1,00"), sentence("GNRMC,000001.00,A")])
def test_half_a_sentence_is_none(line):
    assert said(line) is None


def test_noise_is_no_time():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(20_000):
        assert said(rng.randbytes(rng.randrange(80))) is None


class Ear:
    """A Gnss on a simulated receiver, the clock moved by hand; each epoch arrives `late_s` after its second."""

    def __init__(self, path):
        self.now_s, self.offers = 100.0, []
        self.receiver = Receiver(path)
        self.gnss = Gnss(str(path), 9600, lambda offset, error: self.offers.append((offset, error)),
                         lambda: self.now_s)
        self.gnss.open()

    def hear(self, utc_ms, late_s=0.2, kinds="GGA GSV RMC ZDA", noise=b""):
        """The second that begins at this UTC is spoken of; monotonic time begins at UTC."""
        self.now_s = (utc_ms - UTC) / 1000 + late_s
        raw = noise + receiver.epoch(utc_ms, self.receiver.fix, kinds)
        for piece in (raw[:37], raw[37:]):   # never in one piece
            self.receiver.port.say(piece)
            self.gnss.step(1.0)


@pytest.fixture
def ear(tmp_path):
    ear = Ear(tmp_path / "gnss")
    yield ear
    ear.gnss.close()
    ear.receiver.port.unplug()


@given(late_s=st.lists(st.floats(0.0, 1.4), min_size=5, max_size=60).filter(lambda late: min(late) <= 0.6))
def test_the_bound_holds_whatever_the_jitter(late_s):
    offers, now = [], [0.0]
    gnss = Gnss("none", 9600, lambda offset, error: offers.append((offset, error)), lambda: now[0])
    for n, late in enumerate(late_s):
        now[0] = n + late
        gnss._take(said(receiver.epoch(UTC + 1000 * n, kinds="RMC")), now[0])
        if offers and min(late_s[max(0, n - 29):n + 1]) <= 0.6:
            assert abs(offers[-1][0] - UTC) <= offers[-1][1] + 1


def test_five_that_agree_make_a_time_and_noise_does_not_matter(ear):
    for n in range(4):
        ear.hear(UTC + 1000 * n, 0.4 - n / 10, "RMC", noise=b"\xff\x00garbage\r\n$GPGSV,1,1*00\r\n")
    assert ear.offers == []
    ear.hear(UTC + 4000, 0.3, "RMC")
    assert ear.offers == [(UTC - 100 + 300, 300 + 200)]   # the earliest was 0.1 s late, the usual one 0.3 s
    assert ear.gnss.report()["fix"]


@pytest.mark.parametrize("fix", [NONE, SIMULATED])
def test_without_a_fix_it_is_no_time_whatever_its_own_chip_says(ear, fix):
    ear.receiver.fix = fix
    for n in range(20):
        ear.hear(UTC + 1000 * n)
    assert ear.offers == []
    assert ear.gnss.report() == {"port": ear.gnss._port, "heard": True, "fix": False}


def test_zda_counts_while_another_sentence_vouches_for_it(ear):
    for n in range(20):
        ear.hear(UTC + 1000 * n, kinds="ZDA")
    assert ear.offers == []
    for n in range(20, 30):
        ear.hear(UTC + 1000 * n, kinds="GGA ZDA")
    assert ear.offers


def test_one_wrong_date_among_many_moves_nothing(ear):
    for n in range(12):
        ear.hear(UTC + 1000 * n, kinds="RMC")
    before = list(ear.offers)
    late_s = ear.now_s
    ear.receiver.port.say(receiver.epoch(UTC - 1024 * 7 * 86_400_000, kinds="RMC"))   # its count of weeks ran over
    ear.now_s = late_s + 0.5
    ear.gnss.step(1.0)
    assert ear.offers == before
    for n in range(12, 16):
        ear.hear(UTC + 1000 * n, kinds="RMC")
    assert ear.offers == before
    ear.hear(UTC + 16_000, kinds="RMC")
    assert ear.offers[-1] == before[-1]


def test_a_receiver_pulled_out_is_a_link_that_is_gone(ear):
    ear.receiver.port.unplug()
    with pytest.raises(LinkError, match="gone"):
        until(lambda: ear.gnss.step(0.1))
    ear.gnss.close()
    with pytest.raises(LinkError, match="plugged in"):
        ear.gnss.open()


def test_a_receiver_at_another_baud_says_so(ear):
    ear.now_s += 31
    ear.receiver.port.say(b"\xe6\x98\x00" * 20)
    with pytest.raises(LinkError, match="is baud 9600 what"):
        ear.gnss.step(0.1)


# --- a clock chip

def chips(folder, **said):
    for name, files in said.items():
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text)
    return folder


def read(folder, supply=lambda device: 0, adjtime="no such file"):
    return rtc.read(folder, folder / "dev", folder / adjtime, lambda: 50.0, supply)


def test_every_chip_that_tells_is_heard_the_kernels_own_first(tmp_path):
    chips(tmp_path, rtc0={"since_epoch": "rubbish"}, rtc1={"since_epoch": "1800000000\n"},
          rtc2={"since_epoch": "1800000007\n", "hctosys": "1\n"}, rtc3={})
    assert [(chip.name, chip.offset_ms) for chip in read(tmp_path)] == [
        ("rtc2", UTC + 7500 - 50_000), ("rtc1", UTC + 500 - 50_000)]
    assert read(tmp_path / "none") == []


def test_its_bound_allows_for_the_drift_since_it_may_have_been_set(tmp_path):
    chips(tmp_path, rtc0={"since_epoch": "1800000000"})
    (chip,) = read(tmp_path)
    assert chip.utc_ms == UTC + 500
    assert chip.error_ms(UTC + 500, 100.0) == 600
    assert chip.error_ms(UTC + 500 - 10 * 86_400_000, 100.0) == 600 + 86_400
    assert chip.error_ms(UTC + 10**9, 100.0) == 600


@pytest.mark.parametrize(("bits", "told"), [(0, 1), (0x01, 0), (0x05, 0), (0x02, 1), (0x10, 1), (0x1E, 1)])
def test_a_chip_that_lost_its_time_says_so_and_a_low_battery_is_no_loss_yet(tmp_path, caplog, bits, told):
    chips(tmp_path, rtc0={"since_epoch": "1800000000"})
    assert len(read(tmp_path, lambda device: bits)) == told
    assert ("battery" in caplog.text) == bool(bits)


def test_a_chip_in_local_time_is_not_used(tmp_path, caplog):
    chips(tmp_path, rtc0={"since_epoch": "1800000000"})
    (tmp_path / "adjtime").write_text("0.0 1760000000 0.0\n1760000000\nLOCAL\n")
    assert read(tmp_path, adjtime="adjtime") == []
    assert "set-local-rtc 0" in caplog.text
    (tmp_path / "adjtime").write_text("0.0 0 0.0\n0\nUTC\n")
    assert len(read(tmp_path, adjtime="adjtime")) == 1


def test_a_device_that_is_no_chip_cannot_complain(tmp_path):
    (tmp_path / "rtc0").write_text("")
    assert rtc.supply(tmp_path / "rtc0") == rtc.supply(tmp_path / "none") == 0


# --- TLS

@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


DAY_MS = 86_400_000
NOW = time.time_ns() // 1_000_000 + DAY_MS // 2   # certificates are issued while the tests run, long after this line


@pytest.mark.parametrize(("trust", "off_ms", "within", "expected"), [
    ("synced", 0, True, None), ("holdover", 59_000, True, None), ("synced", -UTC, True, (UTC - 50, UTC + 50)),
    ("holdover", 61_000, False, (UTC - 50, UTC + 50)), ("unset", 0, True, (7, None)), ("unset", 0, False, None)])
def test_by_which_time_a_certificate_is_judged(trust, off_ms, within, expected):
    assert grace.span(trust, UTC, 50.0, system_off_ms=off_ms, sure_ms=7, grace=within) == expected


@pytest.mark.parametrize(("served", "when", "error"), [
    ("good", (NOW - 90 * DAY_MS, None), ""), ("ended", (NOW - 90 * DAY_MS, None), ""),
    ("ended", (NOW, None), "certificate_time"), ("other name", (NOW, None), "certificate_name"),
    ("foreign", (NOW, None), "certificate"), ("good", (NOW, NOW), ""), ("ended", (NOW, NOW), "certificate_time"),
    ("good", (NOW - 9 * DAY_MS, NOW - 8 * DAY_MS), "certificate_time"), ("good", (NOW - 9 * DAY_MS, NOW), ""),
    ("good", (NOW + 40 * DAY_MS, NOW + 41 * DAY_MS), "certificate_time"), ("ended", None, "certificate_time")])
def test_chain_and_name_are_always_verified_dates_by_what_is_known(authority, tmp_path, served, when, error):
    ours = Authority(tmp_path / "foreign") if served == "foreign" else authority
    server = ours.issue("server", server=True, names="DNS:county.example" if served == "other name" else
                        "DNS:localhost,IP:127.0.0.1", **({"days": -1} if served == "ended" else {}))
    client = ours.issue("gw-1")
    tls = Tls(ca_file=str(authority.cert), cert_file=str(client.cert), key_file=str(client.key))
    with Broker(folder=tmp_path / "b", security=Security(server=server, authority=ours)) as broker:
        memory, known = Memory(), [when and grace.Span(*when)]
        memory.commit(samples(1))
        with uplink(memory, broker.port, host="localhost", tls=tls,
                    sources={"certificate_time": lambda: known[0]}) as (up, reports):
            if error:
                until(lambda: up.health().error == error)
                assert memory.count_settled() == 0
                return
            until(lambda: memory.count_settled() == 1)
            unchecked = when[1] is None
            assert up.health().tls_time_unchecked == unchecked
            assert [kind for kind, _ in reports] == ["uplink.tls_time_unchecked"] * unchecked
            if not unchecked:
                return
            known[0] = None   # the time is known: it is checked in full
            if served == "ended":
                until(lambda: up.health().error == "certificate_time")
            else:
                until(lambda: up.health().connections == 2)
                memory.commit(samples(2))
                until(lambda: memory.count_settled() == 2)
            assert not up.health().tls_time_unchecked


def test_the_dates_of_whoever_signed_count_too(authority):
    begins, ends = "Nov 26 19:47:28 2025 GMT", "Nov 26 19:47:28 2027 GMT"
    leaf, root = {"notBefore": begins, "notAfter": ends}, {"notBefore": begins, "notAfter": begins}
    grace.judge([leaf, leaf], grace.Span(UTC, UTC))
    for chain in ([leaf, root], [{}], [leaf | {"notAfter": "rubbish"}]):
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            grace.judge(chain, grace.Span(UTC, None))


def test_the_chain_is_seen_here(authority):
    """Best effort, by a call Python does not promise: where it fails, the peer's own certificate is judged alone."""
    pair = authority.issue("chain", server=True)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), grace.lenient(Tls(ca_file=str(authority.cert)))
    server.load_cert_chain(pair.cert, pair.key)
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=lambda: server.wrap_socket(theirs, server_side=True).close())
    thread.start()
    with client.wrap_socket(ours, server_hostname="localhost") as sock:
        thread.join()
        assert [dict(one["subject"][0])["commonName"] for one in grace.certificates(sock)] == ["chain", "rig CA"]
