"""What the journal costs and carries: puts, bytes written to the card, history read back, how long it holds an alarm.

Owns: the sizes of these figures. Promises: the journal's own code with the service's settings on a real disk, each
measured in a process of its own; the reference is an append-only file of the same rows, a write and an fdatasync a
group, by turns in the same run. Never: tunes the journal for a figure; takes a stall of the disk for the journal's.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from hil.bench import Figure, figure
from hil.bench.child import Child
from hil.bench.runs import place


class Size(Struct, frozen=True, kw_only=True):
    """How much; `QUICK` only shows that it runs."""

    loads: tuple[tuple[int, float], ...] = ((1000, 1.0), (1000, 10.0), (10000, 1.0), (10000, 10.0))
    """Readings/s and commit_s."""
    groups: int = 60
    weighed: int = 200
    warm_up: int = 200
    minutes: int = 1440
    seconds: int = 20_000
    rounds: int = 5
    rows: int = 1_000_000
    alarms: int = 300


QUICK = Size(loads=((1000, 1.0),), groups=3, weighed=2, warm_up=2, minutes=2, seconds=30, rounds=1, rows=2000, alarms=3)
QUIET_POINTS, HISTORY_POINTS = 6, 100


def figures(quick: bool) -> Iterator[Figure]:
    """Measure all of the family, one after another."""
    size, seed = QUICK if quick else Size(), random.randrange(1 << 31)
    yield _put(size, seed)
    yield _written(size, seed)
    yield _quiet(size, seed)
    yield _history(size, seed)
    yield from _hold(size, seed)


def _work(what: str, **arguments: Any) -> dict[str, Any]:
    with place() as at, Child("hil.bench.journal_work", what, at.folder, at.staging, json.dumps(arguments)) as child:
        return child.hello


def _put(size: Size, seed: int) -> Figure:
    told, found = list[str](), list[tuple[float, float, float]]()
    for rate, commit_s in size.loads:
        got = _work("put", rate=rate, commit_s=commit_s, groups=size.groups, seed=seed)
        readings = statistics.median(got["readings"])
        whole, staged, bare = (statistics.median(got[name]) for name in ("journal_s", "staged_s", "log_s"))
        found.append((bare / whole, readings / whole, readings / bare))
        told.append(f"{rate} readings/s, commit_s {commit_s:g} ({readings:.0f} readings, "
                    f"{statistics.median(got['bytes']):.0f} B a group): {1000 * whole:.2f} ms, of them "
                    f"{1000 * staged:.2f} to form, compress and stage; file {1000 * bare:.2f} ms, ratio "
                    f"{bare / whole:.2f}")
    _, ours, bare = min(found)
    return figure("journal.put_vs_log", ours, "readings/s", bare, "ratio >= 0.8",
                  f"the worst of medians of {size.groups} groups, by turns: {'; '.join(told)}; 256 KiB that wait are "
                  f"committed at once; reference: the finished rows appended, a write and an fdatasync a group; "
                  f"seed {seed}")


def _written(size: Size, seed: int) -> Figure:
    got = {noise: _work("written", rate=1000, groups=size.weighed, warm_up=size.warm_up, noise=noise, seed=seed)
           for noise in (False, True)}
    each = {noise: g["bytes"] / g["readings"] for noise, g in got.items()}
    return figure("journal.written_per_reading", each[False], "B", got[False]["log_bytes"] / got[False]["readings"],
                  "<= 25", f"1000 readings/s, commit_s 10, {size.weighed} groups after {size.warm_up}, quota 8 MiB, "
                  f"a platform that is sent everything; write_bytes of /proc/self/io; drift and noise of 0.03 at 0.01 "
                  f"(uniform over 0 to 1000: {each[True]:.1f}); reference: the append-only file; seed {seed}")


def _quiet(size: Size, seed: int) -> Figure:
    got = _work("quiet", points=QUIET_POINTS, minutes=size.minutes, seed=seed)
    days = size.minutes / 1440
    return figure("journal.quiet_box_bytes_per_day", got["bytes"] / days, "B", got["log_bytes"] / days, "shown",
                  f"{QUIET_POINTS} points once a minute, commit_s 10, {size.minutes} simulated minutes: "
                  f"{got['commits']} commits of {got['bytes'] / got['commits']:.0f} B, those of the platform's mark "
                  f"among them; reference: the append-only file; seed {seed}")


def _history(size: Size, seed: int) -> Figure:
    got = _work("history", points=HISTORY_POINTS, seconds=size.seconds, rounds=size.rounds, seed=seed)
    ours, bare = (got["readings"] / statistics.median(got[name]) for name in ("ours_s", "bare_s"))
    return figure("journal.history_readings_per_s", ours, "readings/s", bare, ">= 1e6",
                  f"all of {got['readings']} readings of {HISTORY_POINTS} points as columns of at most 1000 values, "
                  f"median of {size.rounds}; reference: the rows fetched and inflated, nothing more; seed {seed}")


def _hold(size: Size, seed: int) -> Iterator[Figure]:
    with place() as at, Child("hil.bench.journal_hold", at.folder, at.staging, size.rows, size.alarms, seed) as child:
        got = child.hello
    drop = got["drop"]
    if not drop["rows_after"] < drop["rows_before"]:
        raise RuntimeError(f"nothing was trimmed: {drop['rows_before']} rows before, {drop['rows_after']} after")
    alone = got["alone"]
    for name, phases in (("trim", ("drop", "thin")), ("replay", ("replay",))):
        longest = max(max(got[phase]["took_ms"]) for phase in phases)
        told = "; ".join(f"{phase}: {_spread(got[phase])}" for phase in ("alone", *phases))
        more = (f"rows that were sent went ({drop['rows_before']} before, {drop['rows_after']} after), then rows that "
                "are missed became less" if name == "trim" else f"{got['replay']['replayed_rows']} rows sent again")
        yield figure(f"journal.hold_{name}_ms", longest, "ms", max(alone["took_ms"]), "<= 50",
                     f"an alarm handed over until it is committed, longest of {size.alarms} a phase beside 10 000 "
                     f"readings/s, {got['rows']} rows ({got['file_bytes'] / 1e6:.0f} MB, built in "
                     f"{got['build_s']:.0f} s); {told}; {more}; reference: the longest without; seed {seed}")


def _spread(phase: dict[str, Any]) -> str:
    took, sync = phase["took_ms"], phase["sync_ms"]
    return (f"median {statistics.median(took):.1f}, p99 {_p99(took):.1f}, max {max(took):.1f} ms, the disk's own "
            f"fdatasync max {max(sync):.1f} ms, writer's CPU a group max {max(phase['cpu_ms']):.1f} ms")


def _p99(numbers: Sequence[float]) -> float:
    return statistics.quantiles(numbers, n=100, method="inclusive")[98]
