"""What a county asks of its boxes, and what it confirms to them.

Owns: holes, replays and receipts. Promises: a hole is asked for until it is filled or the box says that it is gone,
less and less often, a bounded number of ranges at a time; a receipt never says more than the database holds.
Never: does I/O, reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.county.store import Stream

Spans = Sequence[tuple[int, int]]
MOST_RANGES = 200
ASK_S = (2.0, 300.0)
"""First and longest wait between two requests for one stream."""


def holes(accounted: Mapping[Stream, Spans], births: Mapping[str, Mapping[str, Any]],
          gone: Mapping[Stream, Spans] | None = None) -> dict[Stream, list[tuple[int, int]]]:
    """What is missing of each stream: between what is accounted for, and in what `birth` says is kept.

    `births`: gateway → its last `birth`; `gone`: what boxes answered that they have not. The end of a stream that still
    grows is not missing: it may be on its way.
    """
    out: dict[Stream, list[tuple[int, int]]] = {}
    told: dict[Stream, tuple[int, int]] = {}
    for gateway, birth in births.items():
        for stream in birth.get("streams", ()):
            told[gateway, stream["epoch"], stream["lane"]] = (stream["oldest_seq"], stream["next_seq"] - 1)
    for stream in {*accounted, *told}:
        spans = sorted([*accounted.get(stream, ()), *(gone or {}).get(stream, ())])
        first, last = told.get(stream, (1, 0))
        # What was before the first row that is accounted for may have been trimmed before we were there.
        at, missing = min(first, spans[0][0]) if spans else first, []
        for a, b in spans:
            if a > at:
                missing.append((at, a - 1))
            at = max(at, b + 1)
        if last >= at:
            missing.append((at, last))
        if missing:
            out[stream] = missing
    return out


def receipt(streams: Mapping[Stream, Spans], gateway: str) -> dict[str, Any]:
    """The body of `stored` for one gateway."""
    said = []
    for (name, epoch, lane), spans in sorted(streams.items()):
        if name == gateway and spans:
            begins = spans[0][0] <= 1
            said.append({"epoch": epoch, "lane": lane, "up_to": spans[0][1] if begins else 0,
                         "ranges": [list(span) for span in spans[begins:][:1000]]})
    return {"v": 1, "streams": said}


class Asking:
    """When a stream's holes are asked for again."""

    def __init__(self) -> None:
        self._waits: dict[Stream, tuple[float, float, Spans]] = {}

    def due(self, stream: Stream, missing: Spans, now_s: float) -> list[tuple[int, int]]:
        """The ranges to ask for now; none when it is too early. What has changed is asked for at once again."""
        if stream not in self._waits:
            # What is only now seen to be missing may be on its way by the other topic.
            self._waits[stream] = (now_s + ASK_S[0], ASK_S[0], ())
            return []
        at_s, wait_s, before = self._waits[stream]
        if now_s < at_s:
            return []
        asked = list(missing[:MOST_RANGES])
        wait_s = min(ASK_S[1], wait_s * 2) if asked == before else ASK_S[0]
        self._waits[stream] = (now_s + wait_s, wait_s, asked)
        return asked

    def filled(self, streams: Mapping[Stream, Spans]) -> None:
        """Forget the streams that miss nothing."""
        for stream in [stream for stream in self._waits if stream not in streams]:
            del self._waits[stream]
