"""A bus in a process of its own, told what to do by lines; and the client that measures it."""

import json
import subprocess
import sys

import pytest

from drivers.exchange import checked
from drivers.sensor import Serial
from hil import ceiling
from tests.wires import Program, rtu

FAST = Serial(baud=115200, stop_bits=2)


def test_it_is_a_bus_that_counts():
    with ceiling.bus(FAST, devices=2, registers=3) as (child, port), Program(port, FAST) as program:
        right = rtu(2, 3, 6, 0, 200, 0, 201, 0, 202)
        assert program.ask(rtu(2, 3, 0, 0, 0, 3), 11) == right
        assert child.ask("set d2 r1 7") == {"set": "r1", "device": "d2"}
        assert program.ask(rtu(2, 3, 0, 1, 0, 1), 7) == rtu(2, 3, 2, 0, 7)
        child.ask("fault garbled d2")
        assert program.ask(rtu(2, 3, 0, 1, 0, 1), 7) != rtu(2, 3, 2, 0, 7)
        stats = child.ask("stats")
        assert (stats["requests"], stats["early_requests"], stats["collisions"]) == (3, 0, 0)
        assert stats["answers"] == {"d2": 2}
        assert stats["busy_s"] == pytest.approx((3 * 8 + 11 + 7 + 7) * 11 / 115200)
        child.ask("fault - d2")
        assert program.ask(rtu(2, 3, 0, 1, 0, 1), 7) == rtu(2, 3, 2, 0, 7)
        assert "no fault called 'lazy'" in child.ask("fault lazy d2")["error"]
        assert "expected stats" in child.ask("dance")["error"]


def test_a_config_with_a_wrong_key_is_refused(tmp_path):
    (tmp_path / "bus.json").write_text(json.dumps({"port": "x", "devices": [], "speed": 9600}))
    done = subprocess.run([sys.executable, "-m", "hil.bus_process", tmp_path / "bus.json"], capture_output=True,
                          text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "unknown field `speed`" in done.stderr


@pytest.mark.timing
def test_the_bare_client_is_never_early_and_near_the_limit():
    found = ceiling.measure(FAST, rounds=10)
    assert (found.early_requests, found.collisions) == (0, 0)
    assert found.best_s >= found.minimum_s
    assert found.minimum_s / found.best_s > 0.9   # the machine may be busy; `python -m hil.ceiling` prints the figure


def test_the_physical_minimum_is_that_of_the_standard():
    assert ceiling.minimum_s(Serial(baud=9600, stop_bits=2)) == pytest.approx(1.3750, abs=5e-5)
    assert ceiling.minimum_s(FAST) == pytest.approx(0.1995, abs=5e-5)
    assert checked(b"\1\3\0\0\0\x0a") == rtu(1, 3, 0, 0, 0, 10)
