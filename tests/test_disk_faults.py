"""A full, read-only, broken or hanging disk under a running box: siren and alarm go on, nothing is lost.

The journal's folder is a real ext4 file system on a loop device; what such a one cannot do (turn read-only under open
files and back again) is done by a shim below libc, and so is everything where images cannot be mounted. The gateways of
a test run beside each other, as they mostly wait.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway import client
from gateway.journal.disk import STALL_S
from hil.diskfault import DiskFault
from hil.loopdisk import LoopDisk, LoopRefusedError
from hil.rig import Rig
from tests.sites import SIREN, site

pytestmark = pytest.mark.timing

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
STALLED_S = 120.0 if SOAK else STALL_S
RECOVERY_S = 5.0
QUIET_MM, OVER_MM = 5.0, 66.0


class Episode(NamedTuple):
    """What is to happen to a box: a method of its disk by name, at once or while the box is off."""

    fault: str
    off: bool = False
    seconds: float = STALLED_S
    """How long the fault lasts at least; also those that do not hang, so that retries are as seldom as ever."""


FULL, BROKEN, STALLED = Episode("full"), Episode("error"), Episode("stall")
STARTED_READ_ONLY, READ_ONLY = Episode("read_only", off=True), Episode("read_only")


def committed(state: Path) -> set[tuple[int, str, int]]:
    """What the file of a box that does not run, or whose disk is well, has: (key, epoch, check sum) a row."""
    with closing(sqlite3.connect(f"file:{state / 'journal.sqlite'}?mode=ro", uri=True)) as file:
        return set(file.execute("SELECT id, epoch, crc FROM rows"))


def kinds(rig: Rig) -> list[str]:
    return [event["kind"] for event in rig.county.events()]


def journal(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = client.ask(rig.folder / "run/control.sock", {"do": "status"}, 10.0)["journal"]
    return found


def live(episode: Episode, disk: LoopDisk | DiskFault, folder: Path, environment: dict[str, str] | None) -> str:
    """Let a box live through `episode`; returns the figures in words."""
    name = f"{type(disk).__name__}.{episode.fault}{' before the start' if episode.off else ''}"
    state = folder / "box" / "state"
    where = {"folder": "state", "staging": "run/staging", "commit_s": 1, "max_bytes": 4 << 20}
    with Rig(site(folder / "site", journal=where), folder / "box", turnaround_s=0.002, environment=environment) as rig:
        crack = rig.slaves["crack"]
        crack.set("displacement", QUIET_MM)
        rig.start()
        rig.wait(f"{name}: a reading at the county", lambda: rig.county.counters().readings)
        try:
            if episode.off:
                assert rig.stop() == 0
                before = committed(state)
                getattr(disk, episode.fault)()
                answers = len(rig.said)
                rig.start()
                rig.wait(f"{name}: the crack meter is read", lambda: len(rig.said) > answers)
            else:
                before = committed(state)
                getattr(disk, episode.fault)()
            began_s = time.monotonic()
            pid = rig.gateway.pid
            rig.wait(f"{name}: the fault is known", lambda: journal(rig)["fault"], STALL_S + 10)
            known_s = time.monotonic() - began_s
            hangs = journal(rig)["fault"] == "the disk does not answer"
            assert hangs == (episode is STALLED), f"{name}: {journal(rig)['fault']}"
            commits = journal(rig)["commits"]
            crack.set("displacement", OVER_MM)
            crossed_s = time.monotonic()
            rig.pins.wait_for(SIREN, True, 5, function="output")
            siren_s = time.monotonic() - crossed_s
            rig.wait(f"{name}: the county is warned",
                     lambda: rig.county.warns().get("slope", {}).get("colour") == "red")
            warned_s = time.monotonic() - crossed_s
            known = len(rig.said)
            rig.wait(f"{name}: it lasts, and the wire is read",
                     lambda: time.monotonic() - began_s > episode.seconds and len(rig.said) > known + 5,
                     episode.seconds + 10)
            assert journal(rig)["commits"] == commits, f"{name}: rows were committed, so there was no fault"
            rows = rig.county.query("SELECT count(*) FROM rows")
        finally:
            ended_s = time.monotonic()
            disk.ok()
        rig.wait(f"{name}: rows are committed again", lambda: journal(rig)["commits"] > commits, RECOVERY_S)
        committed_s = time.monotonic() - ended_s
        rig.wait(f"{name}: and reach the county", lambda: rig.county.query("SELECT count(*) FROM rows") != rows,
                 RECOVERY_S - committed_s)
        told_s = time.monotonic() - ended_s
        rig.wait(f"{name}: all is told",
                 lambda: {"alarm.raised", "journal.fault", "journal.recovered"} <= set(kinds(rig)))
        assert (rig.gateway.pid, rig.gateway.poll()) == (pid, None)
        assert rig.said_so_far().count("ready workers=") == 1 + episode.off, f"{name}: the box was restarted"
        assert rig.stop() == 0
        rig.wait(f"{name}: the county has everything", lambda: not rig.audit().lost, 30)
        assert rig.audit().invented == []
        assert rig.county.counters().gaps == ()
        assert [kinds(rig).count(kind) for kind in ("alarm.raised", "journal.fault", "journal.recovered")] == [1, 1, 1]
        assert len(rig.county.query("SELECT DISTINCT epoch FROM rows")) == 1
        after = committed(state)
        assert before, f"{name}: nothing was committed before the fault"
        assert before <= after, f"{name}: {len(before - after)} committed rows are gone"
        assert len(after) >= rig.county.query("SELECT count(*) FROM rows")[0][0]
        assert [path.name for path in state.glob("journal.sqlite.*")] == [], f"{name}: the file was put aside"
    return (f"{name}: fault known {known_s:.1f} s, siren {siren_s * 1e3:.0f} ms, "
            f"county warned {warned_s * 1e3:.0f} ms, commit {committed_s:.2f} s "
            f"and row at the county {told_s:.2f} s after the end, {len(after)} rows")


def on_a_loop_mount(episode: Episode, folder: Path) -> str:
    with LoopDisk(folder / "box" / "state", folder / "disk.img") as disk:
        return live(episode, disk, folder, None)


def below_libc(episode: Episode, folder: Path) -> str:
    (folder / "box" / "state").mkdir(parents=True)
    disk = DiskFault(folder / "box" / "state", folder)
    return live(episode, disk, folder, disk.environment())


def all_at_once(way: Callable[[Episode, Path], str], episodes: Iterable[Episode], folder: Path) -> list[str]:
    """Run the episodes beside each other; every one that failed is told."""
    told, failed = [], []
    with ThreadPoolExecutor() as pool:
        runs = []
        for n, episode in enumerate(episodes):
            (place := folder / str(n)).mkdir()
            runs.append(pool.submit(way, episode, place))
    for run in runs:
        if (error := run.exception()) is None:
            told.append(run.result())
        else:
            failed.append(error)
    if failed:
        raise failed[0] if len(failed) == 1 else BaseExceptionGroup("several disks", failed)
    return told


def refusal(folder: Path) -> str:
    """Why no image can be mounted here; empty when it can."""
    try:
        with LoopDisk(folder / "probe", folder / "probe.img"):
            return ""
    except LoopRefusedError as error:
        return str(error)


def show(capsys: pytest.CaptureFixture[str], told: list[str]) -> None:
    with capsys.disabled():
        print("".join(f"\n  {line}" for line in told), end=" ")


def test_a_real_file_system_fails_and_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if why := refusal(tmp_path):
        pytest.skip(f"no real disk faults here, those of the shim instead: {why}")
    show(capsys, all_at_once(on_a_loop_mount, (FULL, STARTED_READ_ONLY, BROKEN, STALLED), tmp_path))


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler: apt-get install gcc libc6-dev")
def test_the_disk_turns_read_only_under_open_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = not SOAK and not refusal(tmp_path)
    others = () if alone else (FULL, STARTED_READ_ONLY, BROKEN, STALLED)
    show(capsys, all_at_once(below_libc, (READ_ONLY, *others), tmp_path))
