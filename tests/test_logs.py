"""Logging must never hold up the thread that logs, whatever reads the other end."""

from __future__ import annotations

import subprocess
import sys

LINES = 6000


def test_a_reader_that_never_reads_holds_nobody_up_and_lost_lines_are_told() -> None:
    script = (
        "import logging, sys, time\n"
        "from gateway import logs\n"
        "end = logs.begin()\n"
        f"for n in range({LINES}): logging.getLogger('x').info('line %d ' + 'y' * 200, n)\n"
        "print('through', flush=True)\n"
        "sys.stdin.readline()\n"
        "while logging.root.handlers[0].queue.qsize(): time.sleep(0.01)\n"
        "logging.getLogger('x').info('after')\n"
        "end()\n")
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as box:
        # Nobody reads stderr yet: its pipe is full after some 300 lines.
        assert box.stdout.readline() == "through\n"
        _, said = box.communicate("\n", timeout=20)
    lines = said.splitlines()
    assert 0 < len(lines) < LINES
    assert any("line 0 " in line for line in lines)
    told = sum(int(line.rpartition("=")[2]) for line in lines if "log lines lost count=" in line)
    assert told == LINES - sum("line " in line and "lost" not in line for line in lines)
    assert lines[-1].endswith("x after")
