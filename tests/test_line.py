"""What comes off a line is the answer to what was asked, or nothing."""

import fcntl
import logging
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

from drivers import LinkError, Note, direction
from drivers.direction import Direction
from drivers.exchange import Ask, Raw, Write, checked, hear, leftover
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

    def __init__(self, script, size=8):
        self.script = list(script)
        self.size = size
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
            while len(heard) < self.size:
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

    def start(*script, timeout_s=0.1, size=8, **options):
        end = Pty(script, size)
        line = SerialLine(end.path, FAST, timeout_s, time.monotonic, **options)
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
        if len(frame) == 8:
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
            assert line.exchange(ASK).note is Note.FOREIGN
            assert time.monotonic() - began < 0.5   # silence, the answer timeout, an answer's time and a pause
        finally:
            over.set()
            thread.join()
            line.close()


def test_a_line_closed_by_another_thread_is_a_link_error(far):
    """The thread left behind must not go on with the port its successor opens, nor fail in a way nobody expects."""
    _, line = far((0, b"\0"), timeout_s=0.5)   # a glitch, so that it looks at the port again
    send = line._tty.send

    def send_and_lose(frame):
        sent_s = send(frame)
        line.close()   # as if it came from elsewhere, in the worst moment
        return sent_s

    line._tty.send = send_and_lose
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


def test_a_refusal_says_its_code(far):
    _, line = far((0, checked(b"\x01\x83\x02")))
    heard = line.exchange(ASK)
    assert (heard.note, heard.code) == (Note.REFUSED, 2)


def test_an_exchange_may_have_a_patience_of_its_own(far):
    _, line = far((0, b""), timeout_s=5.0)
    began = time.monotonic()
    assert line.exchange(ASK, timeout_s=0.05).note is Note.NO_ANSWER
    assert time.monotonic() - began < 1.0


def test_what_was_said_in_between_is_handed_on_and_never_the_answer(far):
    end, line = far((0, b""))
    os.write(end.master, late := checked(b"\x02" + RIGHT[1:-2]))
    heard = line.exchange(ASK)
    assert (heard.note, heard.stray) == (Note.NO_ANSWER, late)


def test_listening_asks_nothing(far):
    end, line = far()
    os.write(end.master, b"abc")
    later = threading.Timer(0.03, os.write, (end.master, b"def"))
    later.start()
    assert line.listen(0.2) == b"abcdef"
    later.join()
    assert not select.select([end.master], [], [], 0)[0]


def test_a_broadcast_gives_everybody_time_to_obey(far):
    _, line = far((0, b""), turnaround_s=0.15)
    began = time.monotonic()
    heard = line.exchange(Write(0, 6, 3, [7]))
    assert (heard.note, heard.data) == (None, b"")
    assert time.monotonic() - began >= 0.15


@pytest.mark.parametrize(("answer", "said", "note", "data"), [
    (None, b"", None, b""),                                    # silence is fine
    (None, checked(b"\x01\x41\x00"), None, checked(b"\x01\x41\x00")),
    (None, b"\x01\x41\x00\x00\x00", Note.BAD_CRC, b"\x01\x41\x00\x00\x00"),
    (b"\x01\x41", b"\x01\x41\x09", None, b"\x01\x41\x09"),
    (b"\x01\x41", b"", Note.NO_ANSWER, b""),
])
def test_a_raw_frame_ends_as_it_was_asked_to(far, answer, said, note, data):
    _, line = far((0, said), size=6)
    heard = line.exchange(Raw(checked(b"\x01\x41\x05\x06"), answer))
    assert (heard.note, heard.data) == (note, data)


def test_ascii_frames_on_seven_bits(far):
    plain = RIGHT[:-2]
    told = b":" + (plain + bytes([-sum(plain) & 0xFF])).hex().upper().encode() + b"\r\n"
    end, line = far((0, told[:20]), framing="ascii", size=17)
    later = threading.Timer(0.07, os.write, (end.master, told[20:]))   # ASCII characters may be a second apart
    later.start()
    heard = line.exchange(ASK)
    later.join()
    assert end.requests == [b":01030000000AF2\r\n"]
    assert (heard.note, heard.data[heard.start:]) == (None, struct.pack(">10H", *WORDS))


# --- our own bytes come back

SET = Write(1, 6, 3, [7])


@pytest.mark.parametrize(("ask", "said", "note"), [
    (ASK, ASK.frame + RIGHT, None), (ASK, b"\0" + ASK.frame + RIGHT, None),
    (ASK, ASK.frame, Note.NO_ANSWER), (ASK, b"", Note.NO_ANSWER),
    (ASK, ASK.frame[:5], Note.BAD_CRC),                                         # it broke off
    (ASK, ASK.frame[:3] + b"\x55" + ASK.frame[4:] + RIGHT, Note.BAD_CRC),       # two talked at once
    (ASK, ASK.frame + checked(b"\x01\x83\x02"), Note.REFUSED),
    (ASK, RIGHT, None),                                                         # declared, but there is none
    (SET, SET.frame * 2, None), (SET, SET.frame, Note.NO_ANSWER),               # one copy is the echo, not the answer
    (Write(0, 6, 3, [7]), Write(0, 6, 3, [7]).frame, None), (Write(0, 6, 3, [7]), b"\x55" * 8, Note.BAD_CRC),
])
def test_an_echo_is_never_the_answer(far, ask, said, note):
    _, line = far((0, said), echo=True)
    heard = line.exchange(ask)
    assert heard.note is note
    if note is None and ask is ASK:
        assert heard.data[heard.start:-2] == RIGHT[3:-2]


def test_an_echo_in_pieces_is_one_echo(far):
    end, line = far((0, SET.frame[:5]), echo=True)
    later = threading.Timer(0.02, os.write, (end.master, SET.frame[5:] + SET.frame[:2]))
    last = threading.Timer(0.04, os.write, (end.master, SET.frame[2:]))
    later.start()
    last.start()
    heard = line.exchange(SET)
    last.join()
    assert (heard.note, heard.data) == (None, SET.frame)


def test_an_echo_declared_but_absent_is_said_once(far, caplog):
    _, line = far((0, RIGHT), (0, RIGHT), echo=True)
    with caplog.at_level(logging.WARNING):
        assert [line.exchange(ASK).note for _ in range(2)] == [None, None]
    assert [r.getMessage() for r in caplog.records if "echo" in r.getMessage()] == [
        f"serial_line port={line.port} declared an echo but none came; if the adapter does not echo, leave `echo` out"]


# --- what was said before the request was out


def test_an_answer_said_before_the_request_was_out_is_not_its_answer(tmp_path):
    """On a full-duplex pair a late answer of the same unit can come while we ask for other registers."""
    slow = Serial(baud=1200)
    late, right = checked(b"\x01\x03\x04\x00\x01\x00\x02"), checked(b"\x01\x03\x04\x00\x03\x00\x04")
    end = Pty([(0, late)])   # at once, while the request would need 67 ms
    line = SerialLine(end.path, slow, 1.0, time.monotonic, paced=True)
    line.open()
    later = threading.Timer(0.4, os.write, (end.master, right))
    later.start()
    heard = line.exchange(Ask(1, 3, 8, 2))
    later.join()
    line.close()
    end.close()
    assert (heard.note, heard.data) == (None, right)


def test_a_late_answer_of_another_unit_costs_one_gap(tmp_path):
    """It ends just before our request would have gone out: the request waits one silence more, and is answered."""
    serial = Serial(baud=2400)   # so slow that a busy machine cannot open a silence in it
    with Bus(serial) as bus:
        bus.attach(station := Echo())
        line = SerialLine(bus.port(tmp_path / "port"), serial, 0.5, time.monotonic)
        line.open()
        late = checked(b"\x07" + RIGHT[1:-2])
        bus.noise(late)
        heard = line.exchange(Ask(2, 3, 0, 10))
        line.close()
        assert (heard.note, heard.stray) == (None, late)
        assert station.heard == [late, Ask(2, 3, 0, 10).frame]
        assert bus.collisions == 0
        asked = next(s for s in bus.log if s.frame == Ask(2, 3, 0, 10).frame)
        assert bus.silence_s <= asked.gap_s < 2 * bus.silence_s


# --- settings


def test_settings_are_switched_by_one_call_and_only_when_they_differ(far, monkeypatch):
    _, line = far(*[(0, RIGHT)] * 8)
    calls, real = [], termios.tcsetattr
    slow = Serial(baud=9600, parity="even")
    assert line.exchange(ASK).note is None
    assert line.exchange(ASK, slow).note is None
    assert line.exchange(ASK).note is None
    monkeypatch.setattr(termios, "tcsetattr", lambda *a: (calls.append(a[2]), real(*a)))
    for settings, expected in ((None, 0), (FAST, 0), (slow, 1), (slow, 0), (None, 1)):
        calls.clear()
        assert line.exchange(ASK, settings).note is None
        assert len(calls) == expected, settings
        for attributes in calls:
            assert attributes[4:6] == [termios.B9600 if settings else termios.B115200] * 2
            assert bool(attributes[2] & termios.PARENB) == bool(attributes[0] & termios.INPCK) == bool(settings)


def test_a_speed_termios_has_no_word_for_can_be_switched_to_again(far):
    _, line = far(*[(0, RIGHT)] * 4)
    odd = Serial(baud=14400)
    for settings in (odd, None, odd, None):
        assert line.exchange(ASK, settings).note is None
    assert termios.tcgetattr(line._tty._fd)[4] == termios.B115200


def test_after_a_switch_there_is_a_silence_in_the_new_pace(far):
    _, line = far((0, RIGHT), (0, RIGHT))
    assert line.exchange(ASK).note is None
    began = time.monotonic()
    assert line.exchange(ASK, Serial(baud=1200)).note is None
    assert time.monotonic() - began >= 3.5 * 10 / 1200


# --- direction


def test_the_kernel_is_told_by_its_own_struct(far, monkeypatch):
    """Recorded, because a pseudo-terminal has no RS-485; what a driver makes of it is its own."""
    told, real = [], fcntl.ioctl

    def ioctl(fd, request, *more):
        if request in (direction.TIOCSRS485, direction.TIOCGRS485):
            told.append((request, bytes(more[0])))
            return told[0][1]
        return real(fd, request, *more)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    far(direction=Direction(by="kernel", rts_to_send="low", before_ms=1.2, after_ms=3))
    told_low = told[:]
    told.clear()
    far(direction=Direction(by="kernel"), echo=True)
    assert told_low[0] == (0x542F, struct.pack("=8I", 0b101, 2, 3, 0, 0, 0, 0, 0))
    assert told[0] == (0x542F, struct.pack("=8I", 0b10011, 0, 0, 0, 0, 0, 0, 0))


def test_a_driver_that_cannot_hold_the_polarity_is_a_link_error(far, monkeypatch):
    real = fcntl.ioctl

    def ioctl(fd, request, *more):
        if request in (direction.TIOCSRS485, direction.TIOCGRS485):
            return struct.pack("=8I", 0b011, *[0] * 7)
        return real(fd, request, *more)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(LinkError, match="rts_to_send: high"):
        far(direction=Direction(by="kernel", rts_to_send="low"))


@pytest.mark.parametrize("by", ["kernel", "rts"])
def test_a_port_that_cannot_switch_says_what_to_set(far, by):
    end, line = far()
    line.close()
    before = open_files()
    with pytest.raises(LinkError, match="direction: auto"):
        SerialLine(end.path, FAST, 0.1, time.monotonic, direction=Direction(by=by)).open()
    assert open_files() == before


@pytest.mark.parametrize("level", ["high", "low"])
def test_rts_is_held_from_before_the_first_bit_to_after_the_last(far, monkeypatch, level):
    done, real, write, drain = [], fcntl.ioctl, os.write, termios.tcdrain

    def ioctl(fd, request, *more):
        if request in (termios.TIOCMBIS, termios.TIOCMBIC):
            if more[0] == struct.pack("=I", termios.TIOCM_RTS):
                done.append((time.monotonic(), "high" if request == termios.TIOCMBIS else "low"))
            return b""
        return real(fd, request, *more)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    _, line = far((0.02, RIGHT), direction=Direction(by="rts", rts_to_send=level, before_ms=2, after_ms=3))
    other = "low" if level == "high" else "high"
    assert {word for _, word in done} == {other}   # listens from the start
    done.clear()
    monkeypatch.setattr(os, "write", lambda fd, data: (fd == line._tty._fd and done.append((time.monotonic(), "sent")),
                                                       write(fd, data))[1])
    monkeypatch.setattr(termios, "tcdrain", lambda fd: (done.append((time.monotonic(), "drained")), drain(fd)))
    assert line.exchange(ASK).note is None
    assert [word for _, word in done] == [level, "sent", "drained", other]
    at = [at_s for at_s, _ in done]
    assert at[1] - at[0] >= 0.002
    assert at[2] - at[1] >= len(ASK.frame) * 10 / 115200
    assert at[3] - at[2] >= 0.003


def test_silence_is_owed_from_the_end_of_our_own_request_too(tmp_path):
    """What is heard while the request is still going out ends the exchange, but not the request."""
    slow = Serial(baud=1200)
    garbage = checked(b"\x01\x03\x02\x00\x01")[:-1] + b"\x55"
    end = Pty([(0, garbage), (0, b"")])
    line = SerialLine(end.path, slow, 0.2, time.monotonic)
    line.open()
    began = time.monotonic()
    assert line.exchange(Ask(1, 3, 0, 1)).note is Note.BAD_CRC
    line.exchange(Ask(2, 3, 0, 1), timeout_s=0.01)
    line.close()
    end.close()
    assert time.monotonic() - began >= (8 + 3.5 + 8) * 10 / 1200 - 0.001 + 0.01 + 3.5 * 10 / 1200
