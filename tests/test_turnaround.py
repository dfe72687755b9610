"""An expectation saves a wake-up; it may never cost an answer."""

import random
import time

from drivers.exchange import Ask
from drivers.line import SerialLine
from drivers.sensor import Serial
from drivers.template import find
from drivers.turnaround import Turnarounds
from hil.bus import Bus
from hil.slaves import Slave, attach
from tests.test_modbus import LIBRARY


def test_only_a_steady_device_is_counted_on():
    known = Turnarounds()
    for n in range(7):
        known.learn(3, 0.010 + n * 1e-4, overdue=False)
        assert known.of(3) is None
    known.learn(3, 0.011, overdue=False)
    assert known.of(3) == 0.010
    known.learn(3, 0.080, overdue=False)
    assert known.of(3) is None                  # not so steady after all
    for _ in range(8):
        known.learn(3, 0.080, overdue=False)
    assert known.of(3) == 0.080                 # it has become slower
    known.learn(3, 0.080, overdue=True)         # it was there before we looked: how long it took is not known
    assert known.of(3) is None
    assert known.of(4) is None


def test_a_device_that_takes_another_time_each_time_is_always_heard(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    rain = Slave(find("rain-tipping", LIBRARY), 2, {"total": 144.1})
    with Bus(Serial(baud=19200)) as bus:
        attach(bus, [rain])
        line = SerialLine(bus.port(tmp_path / "line"), Serial(baud=19200), 0.2, time.monotonic)
        line.open()
        wasted = 0
        for _ in range(60):
            rain.turnaround_s = rng.choice((0.0025, 0.004, 0.02, 0.08))
            heard = line.exchange(Ask(2, 3, 0, 3))
            assert heard.note is None
            assert heard.data[heard.start:heard.start + 2] == (1441).to_bytes(2, "big")
            waste_s = heard.response_s - rain.turnaround_s
            wasted += waste_s > 0.02
            assert waste_s < 0.08 + 0.02
        assert wasted <= 60 / 8, wasted   # after eight slow ones in a row a quick one is noticed late, once
        assert bus.early_requests == 0
        rain.unplug()
        began = time.monotonic()
        assert line.exchange(Ask(2, 3, 0, 3)).note is not None
        assert time.monotonic() - began < 0.2 + 0.15   # an expectation does not lengthen the patience
        line.close()
