"""How far a plan is from the cheapest there can be: 30 devices with 10 registers each, scattered over 40 addresses.

Owns: the optimum, found by another road than the planner's: the shortest path over sets of what has been read, where
a step may be any interval of addresses and its price is worked out here. Promises: seeds are said; nothing of the
planner is used for the reference. Never: touches a wire.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence

from drivers.planner import Cost, Span, characters, plan, silence_ms
from hil.bench import Figure, figure

DEVICES, REGISTERS, ADDRESSES = 30, 10, 40
LINES = ((9600, 5.0), (9600, 30.0), (115200, 1.0), (115200, 10.0))
"""(baud, turnaround in ms), all with 8N2: where a hole is dear, and where it is cheap."""


def price_ms(baud: int, turnaround_ms: float, registers: int) -> float:
    """Bus time of one read on an 8N2 line: both silences, and every character."""
    char_ms = 11_000 / baud
    silence = 3.5 * char_ms if baud <= 19200 else 1.75
    return silence + max(silence, turnaround_ms) + (8 + 5 + 2 * registers) * char_ms


def cheapest_ms(spans: Sequence[tuple[int, int]], most: int, baud: int, turnaround_ms: float) -> float:
    """Return the least bus time in which all (first, count) can be read, each whole in one answer."""
    lowest, highest = min(first for first, _ in spans), max(first + count for first, count in spans)
    steps: dict[int, float] = {}
    for start in range(lowest, highest):
        for end in range(start + 1, min(highest, start + most) + 1):
            reads = sum(1 << n for n, (first, count) in enumerate(spans) if start <= first and first + count <= end)
            if reads:
                price = price_ms(baud, turnaround_ms, end - start)
                steps[reads] = min(price, steps.get(reads, price))
    done, all_of = {0: 0.0}, (1 << len(spans)) - 1
    queue = [(0.0, 0)]
    while queue:
        ms, have = heapq.heappop(queue)
        if have == all_of:
            return ms
        if ms > done[have]:
            continue
        missing = ~have & (have + 1)   # the first that is missing; what reads it must come some time
        for reads, price in steps.items():
            then = have | reads
            if reads & missing and ms + price < done.get(then, float("inf")):
                done[then] = ms + price
                heapq.heappush(queue, (ms + price, then))
    raise ValueError(f"a span is longer than {most} registers")


def figures(quick: bool) -> Iterator[Figure]:
    """Compare; the worst of the lines is the figure."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    worst = (0.0, 0.0, 0.0)
    told = []
    for baud, turnaround_ms in LINES[:2] if quick else LINES:
        char_ms = characters(baud, "none", 2)
        cost = Cost(char_ms, turnaround_ms, silence_ms(char_ms, baud))
        planned_ms = best_ms = 0.0
        requests = 0
        for _ in range(DEVICES):
            firsts = sorted(rng.sample(range(ADDRESSES), REGISTERS))
            blocks = plan([Span(3, first, 1) for first in firsts], cost)
            requests += len(blocks)
            planned_ms += sum(price_ms(baud, turnaround_ms, block.count) for block in blocks)
            best_ms += cheapest_ms([(first, 1) for first in firsts], 125, baud, turnaround_ms)
        told.append(f"{baud} baud, {turnaround_ms:g} ms turnaround: {requests} requests, {planned_ms:.2f} ms "
                    f"(optimum {best_ms:.2f})")
        worst = max(worst, (planned_ms / best_ms, planned_ms, best_ms))
    _, planned_ms, best_ms = worst
    yield figure("bus.plan_over_optimum", planned_ms, "ms", best_ms, "ratio = 1.0",
                 f"bus time of the planned reads of {DEVICES} devices x {REGISTERS} registers scattered over "
                 f"{ADDRESSES} addresses, 8N2; the worst of: {'; '.join(told)}; seed {seed}; reference: "
                 "shortest path over everything that can be read")
