"""The whole way under fire: brokers, gateways and consumers killed under load, and every reading once at the county.

The county is the reference subscriber in a process of its own; what it has is compared with what was on the wires.
"""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import pytest

from hil.audit import Reading, compare
from hil.rig import Rig
from tests.sites import HANDING_S, site, slope

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
KILLS = {"broker": 60, "gateway": 20, "consumer": 20} if SOAK else {"broker": 6, "gateway": 2, "consumer": 2}
WINDOW = 20


class Office:
    """`mingluo county run`, to be killed and started again; all that it ever counted."""

    def __init__(self, port, where):
        self.command = [sys.executable, "-m", "gateway", "county", "run", "--port", str(port), "--db", str(where),
                        "--client-id", "office"]
        self.duplicates, self.where, self.log, self.process = 0, where, where.with_suffix(".log"), None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(15) == 0
        said = re.findall(r"duplicates (\d+)", self.log.read_text(encoding="utf-8"))
        # A new process counts from nought: what it said before it began anew is the sum of each one's last word.
        counts = [int(n) for n in said]
        self.duplicates = sum(a for a, b in zip(counts, [*counts[1:], 0], strict=True) if b < a)

    def query(self, sql):
        with closing(sqlite3.connect(self.where)) as db:
            return db.execute(sql).fetchall()


def lost(rig, office, kills_s):
    """What was on a wire and is not at the county, but for answers at the moment of a gateway's death."""
    readings = [Reading(point, t / 1000, value) for point, t, value in office.query(
        "SELECT point, t, value FROM readings WHERE value IS NOT NULL")]
    found = compare(rig.answers(), readings)
    assert not found.invented
    return [a for a in found.lost if not any(abs(at - (a.at_s - rig.offset_s)) <= HANDING_S for at in kills_s)]


@pytest.mark.long
@pytest.mark.timing
def test_kills_everywhere_and_every_reading_once(tmp_path):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    path = site(tmp_path / "site", objects=[slope(poll_s=0.02)], journal={
        "folder": "state", "staging": "run/staging", "commit_s": 0.2})
    with Rig(path, tmp_path / "box", turnaround_s=0.002) as rig, ExitStack() as stack:
        office = Office(rig.broker.port, tmp_path / "county.sqlite")
        office.start()
        stack.callback(office.kill)
        rig.slaves["crack"].set("displacement", 5.0)
        rig.start()
        rig.wait("a reading at the office", lambda: office.where.exists() and "readings" in str(office.query(
            "SELECT name FROM sqlite_master")) and office.query("SELECT count(*) FROM readings")[0][0], 30)
        plan = [what for what, n in KILLS.items() for _ in range(n)]
        rng.shuffle(plan)
        kills_s, level = [], 5.0
        for what in plan:
            level += 0.01
            rig.slaves["crack"].set("displacement", round(level, 2))
            pause_s = time.monotonic() + rng.uniform(0.1, 1.5)   # some right after an acknowledgement
            rig.wait("some load", lambda until_s=pause_s: time.monotonic() > until_s, 5)
            if what == "broker":
                rig.broker.kill()
                rig.broker.start()
            elif what == "gateway":
                rig.kill()
                kills_s.append(time.monotonic())
                rig.start()
            else:
                office.kill()
                office.start()
        # The county's counts are of every life; only a question on the wire shows that this one is up to take a signal.
        rig.wait("the last life has begun", lambda: rig.said and rig.said[-1].at_s > rig.started_s + 0.1, 30)
        # What a dying broker took with it is asked for again, so the gateway must live until that was answered.
        mark_s = time.time()
        rig.wait("what was before is at the office", lambda: not [
            a for a in lost(rig, office, kills_s) if a.at_s < mark_s], 60)
        assert rig.stop() == 0
        rig.wait("everything at the office", lambda: not lost(rig, office, kills_s), 60)
        office.stop()
        rows = office.query("SELECT count(*), count(DISTINCT gateway || epoch || lane || seq) FROM rows")[0]
        twice = office.query("SELECT count(*) FROM (SELECT point, t, value FROM readings GROUP BY point, t, epoch, seq "
                             "HAVING count(*) > 1)")[0][0]
        print(f"{KILLS}: {rows[0]} rows, {office.query('SELECT count(*) FROM readings')[0][0]} readings, "
              f"{office.duplicates} rows came twice, 0 lost")
        assert rows[0] == rows[1]
        assert twice == 0
        assert office.duplicates <= 0.01 * rows[0] + WINDOW * len(plan)
