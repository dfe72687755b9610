"""What comes off a line is the answer to what was asked, or nothing."""

import os
import random
import select
import struct
import termios
import threading
import time
import tty
from pathlib import Path

import pytest

from drivers import LinkError, Note
from drivers.exchange import Ask, checked, hear, leftover
from drivers.line import SerialLine
from drivers.sensor import Serial
from hil.bus import Bus, Reply

ASK = Ask(1, 3, 0, 10)
WORDS = [100 + n for n in range(10)]
RIGHT = checked(b"\x01\x03\x14" + struct.pack(">10H", *WORDS))
FAST = Serial(baud=115200)


def settle(ask, heard):
    verdict = hear(ask, heard)
    return leftover(ask, heard) if verdict is None else verdict


def test_requests_are_those_of_the_published_frames():
    assert Ask(2, 3, 0, 3).frame.hex().upper() == "02030000000305F8"
    assert Ask(1, 3, 100, 20).frame.hex().upper() == "010300640014041A"
    assert Ask(200, 3, 5000, 16).frame.hex().upper() == "C80313880010D131"
    assert Ask(1, 3, 0, 10).tcp(7) == bytes.fromhex("000700000006 01 03 0000 000A")


@pytest.mark.parametrize(("heard", "verdict"), [
    (RIGHT, 3), (b"\0\0" + RIGHT, 5), (b"\xff" + RIGHT + b"\0", 4), (b"", Note.NO_ANSWER), (b"\0", Note.NO_ANSWER),
    (RIGHT[:-1], Note.BAD_CRC), (RIGHT + RIGHT, Note.FOREIGN), (RIGHT + b"\x01", Note.FOREIGN),
    (checked(b"\x02" + RIGHT[1:-2]), Note.FOREIGN),                       # another unit
    (checked(b"\x02" + RIGHT[1:-2]) + RIGHT, 28),                         # its late answer, then ours
    (checked(b"\x01\x04" + RIGHT[2:-2]), Note.FOREIGN),                   # another function
    (checked(b"\x01\x03\x12" + RIGHT[3:-4]), Note.FOREIGN),               # another count
    (checked(b"\x01\x03\x12" + RIGHT[3:-4]) + RIGHT, Note.FOREIGN),       # a late one of the same unit, then ours
    (checked(b"\x01\x83\x02"), Note.REFUSED), (checked(b"\x01\x83\x06"), Note.BUSY),
    (checked(b"\x01\x83\x05"), Note.BUSY), (checked(b"\x01\x83\x0b"), Note.NO_ANSWER),
    (checked(b"\x01\x84\x02"), Note.FOREIGN), (b"\x01\x83\x02\x00\x00", Note.BAD_CRC), (ASK.frame, Note.BAD_CRC),
])
def test_only_the_answer_is_an_answer(heard, verdict):
    assert settle(ASK, heard) == verdict


def test_a_glitch_before_a_published_frame_is_passed_over():
    """A zero byte in front, as direction switching makes it (libmodbus issue 302)."""
    heard = bytes.fromhex("000104020325781B")
    at = hear(Ask(1, 4, 0, 1), heard)
    assert heard[at:at + 2] == struct.pack(">H", 805)


def test_no_mutation_of_an_answer_becomes_another_value():
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(5000):
        body = bytearray(RIGHT)
        for _ in range(rng.randrange(1, 5)):
            match rng.randrange(4):
                case 0:
                    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
                case 1:
                    del body[rng.randrange(len(body)):]
                    body += rng.randbytes(rng.randrange(1, 9))
                case 2:
                    body[rng.randrange(len(body)):0] = rng.randbytes(rng.randrange(1, 9))
                case 3:
                    del body[rng.randrange(len(body))]
                    body += b"\0" * (not body)
        verdict = settle(ASK, bytes(body))
        if isinstance(verdict, Note):
            continue
        assert struct.unpack_from(">10H", body, verdict) == tuple(WORDS), bytes(body).hex()


class Pty:
    """The far end of a port: answers each request with the next thing from a list of (delay_s, bytes)."""

    def __init__(self, script):
        self.script = list(script)
        self.master, self.slave = os.openpty()
        tty.setraw(self.master)
        tty.setraw(self.slave)
        self.path = os.ttyname(self.slave)
        self.requests = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        for delay_s, data in self.script:
            heard = b""
            while len(heard) < 8:
                if not select.select([self.master], [], [], 5)[0]:
                    return
                heard += os.read(self.master, 64)
            self.requests.append(heard)
            threading.Event().wait(delay_s)
            os.write(self.master, data)

    def close(self):
        self.thread.join(6)
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def far():
    made = []

    def start(*script, timeout_s=0.1):
        end = Pty(script)
        line = SerialLine(end.path, FAST, timeout_s, time.monotonic)
        line.open()
        made.append((end, line))
        return end, line
    yield start
    for end, line in made:
        line.close()
        end.close()


def test_an_answer_in_pieces_is_one_answer(far):
    end, line = far((0, RIGHT[:9]))
    later = threading.Timer(0.02, os.write, (end.master, RIGHT[9:]))
    later.start()
    heard = line.exchange(ASK)
    later.join()
    assert (heard.note, heard.data[heard.start:-2]) == (None, RIGHT[3:-2])


def test_what_lay_in_the_port_before_is_never_the_answer(far):
    end, line = far((0, b""))
    os.write(end.master, RIGHT)   # a stale but well-formed answer
    assert line.exchange(ASK).note is Note.NO_ANSWER


def test_a_late_answer_is_not_taken_for_the_next_units(far):
    _, line = far((0.15, RIGHT), (0, checked(b"\x02" + RIGHT[1:-2])))
    assert line.exchange(ASK).note is Note.NO_ANSWER
    heard = line.exchange(Ask(2, 3, 0, 10))
    assert heard.note is None or heard.note is Note.FOREIGN
    assert heard.note or heard.data[heard.start - 3] == 2


def test_half_an_answer_does_not_hold_the_line(far):
    _, line = far((0, RIGHT[:7]), timeout_s=2.0)
    began = time.monotonic()
    assert line.exchange(ASK).note is Note.BAD_CRC
    assert time.monotonic() - began < 1.0


def test_a_port_has_one_owner(far):
    end, _ = far()
    with pytest.raises(LinkError, match="does another program hold it"):
        SerialLine(end.path, FAST, 0.1, time.monotonic).open()


def test_no_port_is_a_link_error(tmp_path):
    line = SerialLine(str(tmp_path / "none"), FAST, 0.1, time.monotonic)
    with pytest.raises(LinkError, match="none"):
        line.open()
    with pytest.raises(LinkError, match="not open"):
        line.exchange(ASK)
    line.close()
    line.close()


class Echo:
    """Answers every request with the ten words, after the shortest turnaround the standard allows."""

    name = "echo"

    def __init__(self):
        self.heard = []

    def hear(self, frame, at_s):
        self.heard.append(frame)
        yield Reply(0.0, checked(frame[:1] + RIGHT[1:-2]))


@pytest.mark.parametrize("serial", [Serial(baud=9600), Serial(baud=19200, parity="even"), Serial(baud=115200)])
def test_no_request_falls_into_the_mandatory_silence(tmp_path, serial):
    with Bus(serial) as bus:
        bus.attach(station := Echo())
        line = SerialLine(bus.port(tmp_path / "port"), serial, 0.3, time.monotonic)
        line.open()
        asks = [Ask(unit, 3, 0, 10) for unit in (1, 2, 3)] * 4
        for ask in asks:
            assert line.exchange(ask).note is None
        line.close()
        assert station.heard == [ask.frame for ask in asks]   # merged frames would have been heard as one
        gaps = [s.gap_s for s in bus.log if s.source != "echo"]
        assert min(gaps) >= bus.silence_s
        assert bus.collisions == 0


def test_a_talker_who_never_stops_is_reported_not_answered(tmp_path):
    slow = Serial(baud=1200)   # so slow that a busy machine cannot open a silence in it
    with Bus(slow) as bus:
        bus.attach(Echo())
        line = SerialLine(bus.port(tmp_path / "port"), slow, 0.1, time.monotonic)
        line.open()
        bus.noise(bytes(range(1, 61)))   # half a second of it
        heard = line.exchange(ASK)
        assert heard.note is Note.FOREIGN
        assert bus.collisions == 0
        line.close()


def test_an_unplugged_port_is_a_link_error_and_comes_back(tmp_path):
    with Bus(FAST) as bus:
        bus.attach(Echo())
        port = bus.port(tmp_path / "port")
        line = SerialLine(port, FAST, 0.1, time.monotonic)
        line.open()
        assert line.exchange(ASK).note is None
        bus.unplug(port)
        with pytest.raises(LinkError, match=r"gone|hung up"):
            line.exchange(ASK)
        with pytest.raises(LinkError):
            line.open()
        bus.plug(port)
        line.open()
        assert line.exchange(ASK).note is None
        line.close()


def test_a_line_that_drips_for_ever_does_not_hold_the_others(tmp_path):
    """An undriven pair without bias resistors babbles a few bytes at a time, each within the pause of an answer."""
    with Bus(FAST) as bus:
        line = SerialLine(bus.port(tmp_path / "port"), FAST, 0.1, time.monotonic)
        line.open()
        over = threading.Event()

        def drip():
            while not over.wait(0.02):
                bus.noise(b"\x55")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            began = time.monotonic()
            assert line.exchange(ASK).note is Note.BAD_CRC
            assert time.monotonic() - began < 3.0
        finally:
            over.set()
            thread.join()
            line.close()


def test_a_line_closed_by_another_thread_is_a_link_error(far):
    """The thread left behind must not go on with the port its successor opens, nor fail in a way nobody expects."""
    _, line = far((0, b"\0"), timeout_s=0.5)   # a glitch, so that it looks at the port again
    send = line._send

    def send_and_lose(frame):
        send(frame)
        line.close()   # as if it came from elsewhere, in the worst moment

    line._send = send_and_lose
    with pytest.raises(LinkError, match="was closed"):
        line.exchange(ASK)
    line.close()


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("step", ["tcsetattr", "tcflush"])
def test_a_port_that_goes_while_it_is_set_up_is_a_link_error_and_leaves_nothing_open(far, monkeypatch, step):
    """termios.error is no OSError, and pyserial lets it through."""
    _, line = far()
    line.close()
    before = open_files()
    with monkeypatch.context() as broken:
        def gone(*_):
            raise termios.error(5, "Input/output error")
        broken.setattr(termios, step, gone)
        with pytest.raises(LinkError, match="Input/output"):
            line.open()
    assert open_files() == before
    line.open()
    monkeypatch.setattr(termios, "tcsetattr", gone)
    with pytest.raises(LinkError, match="is gone"):
        line.exchange(ASK, Serial(baud=9600))
    assert open_files() == before
