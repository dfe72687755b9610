"""What a start makes of the two files it finds: the staging folder and the journal.

Owns: the decision whether numbering may go on, which staged rows are still to be committed, and what is said of it.
Promises: an identity that may have left the box never gets other content; what was staged and not committed comes
back under its own identity; every hole is counted. Never: does I/O, reads a clock.

Numbering goes on only when continuity is proven: the staging folder of the same boot names the journal's epoch and its
last commit. A journal that is new, restored, copied from another box or salvaged cannot know that number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from gateway.journal.entries import Found, Latch
from gateway.journal.gaps import Gap
from gateway.journal.intake import Intake, Pending
from gateway.journal.rows import Identity, Part, Stream
from gateway.journal.state import Epoch, Extent, State
from gateway.model import Event

REASONS = {
    "first": ("首次启动，开始新的编号", "first start: numbering begins"),
    "boot": ("设备重新上电或重启系统，开始新的编号", "the box was rebooted: new numbering"),
    "staging_missing": ("暂存区丢失，开始新的编号", "the staging folder is gone: new numbering"),
    "journal_missing": ("日志库文件丢失，开始新的编号", "the journal file is gone: new numbering"),
    "journal_differs": ("日志库不是上次使用的那个（恢复或复制而来），开始新的编号",
                        "the journal is not the one last used (restored or copied): new numbering"),
    "damaged": ("日志库损坏，已移开，后台抢救可读部分，开始新的编号",
                 "the journal is damaged and was moved aside, to be searched: new numbering"),
    "newer": ("日志库由更新版本的程序写成，已移开保存，开始新的编号",
              "the journal was written by a newer program and is kept aside: new numbering"),
    "unreachable": ("日志库无法打开，暂存于内存，开始新的编号",
                    "the journal cannot be opened; kept in memory: new numbering"),
    "renamed": ("网关编号已更改，开始新的编号", "the gateway has another id: new numbering"),
    "foreign": ("日志库属于另一个网关（设备改名或存储卡复制而来），已移开保存，开始新的编号",
                "the journal is another gateway's (a renamed box, or a copied card) and is kept aside: new numbering"),
}


class Recovered(Struct, frozen=True, kw_only=True):
    """What a start found."""

    epoch: str
    reason: str
    """Why numbering began anew (a key of REASONS); empty when it goes on."""
    latch: bytes | None
    latch_same_boot: bool
    latch_age_s: float | None
    """How long ago the latch was said; None after a reboot."""
    silent_s: float | None
    """How long nothing was recorded; None after a reboot."""
    latch_utc_ms: int | None
    alive_utc_ms: int | None
    """Wall time of the last commit, None when nobody could vouch for it: the length of an outage."""
    replayed: int
    """Rows staged by the dead process and now waiting for the writer."""
    events: tuple[Event, ...]
    """To be recorded by the caller, once it has a Door."""


class Plan(Struct):
    """How to go on."""

    intake: Intake
    rows: list[Pending]
    """Staged and not committed, in order."""
    done: list[Identity]
    """Staged and committed, or unusable."""
    gaps: list[Gap]
    latch: Latch | None


def report(way: Plan, found: Found, state: State, extents: Mapping[Stream, Extent], lost: Iterable[Gap], *, boot: str,
           at_s: float) -> Recovered:
    """Put the plan, and every gap in `lost`, into words. `state` and `extents` are the journal's as it was opened."""
    t_ms, epoch, reason = int(at_s * 1000), way.intake.epoch, way.intake.reason
    latch, head = way.latch, found.head
    events = []
    if reason:
        zh, en = REASONS[reason]
        last = {lane: extent.next - 1 for (name, lane), extent in extents.items() if name == state.epoch}
        events.append(Event(id=f"{epoch}-open", kind="journal.epoch", t_ms=t_ms, text_zh=zh, text_en=en,
                            why={"reason": reason, "epoch": epoch, "was": state.epoch, "last": last}))
    events += [gap.event(f"{epoch}-open-{n}-{t_ms}", t_ms) for n, gap in enumerate(lost)]
    same = latch is not None and latch.boot == boot
    return Recovered(
        epoch=epoch, reason=reason, latch=latch.state if latch else None, latch_same_boot=same,
        latch_age_s=max(0.0, at_s - latch.t_ms / 1000) if latch and same else None,
        silent_s=max(0.0, at_s - found.t_ms / 1000) if head and head.boot == boot and found.t_ms else None,
        latch_utc_ms=latch.utc_ms if latch else None, alive_utc_ms=state.alive_utc_ms, replayed=len(way.rows),
        events=tuple(events))


def ours(found: Found, state: State, *, gateway: str, boot: str) -> bool:
    """Whether what the journal has not told yet was read by this box.

    Another name is a new name for it only when /run proves it: the journal was in use since this boot. A card that
    comes from elsewhere, or was copied, would tell its readings as those of this box's sensors.
    """
    head = found.head
    return state.commit == 0 or state.gateway == gateway or (
        head is not None and head.gateway == state.gateway and head.boot == boot == state.boot)


def proven(found: Found, state: State, epochs: Mapping[str, Epoch], gateway: str, boot: str) -> bool:
    """Whether this journal is the very one the staging folder belongs to."""
    head = found.head
    if head is None or head.boot != boot or head.gateway != gateway:
        return False
    if head.epoch not in epochs:
        return found.commit == state.commit  # nothing of this epoch was ever committed
    # The process may have died between the commit and its mark.
    return state.epoch == head.epoch and state.commit in (found.commit, found.commit + 1)


def _reason(found: Found, state: State, gateway: str, boot: str) -> str:
    head = found.head
    if state.commit == 0:
        return "journal_missing" if head is not None and found.commit else "first"
    if gateway != state.gateway:
        return "renamed"
    if state.boot != boot or (head is not None and head.boot != boot):
        return "boot"
    return "staging_missing" if head is None else "journal_differs"


def plan(found: Found, state: State, extents: Mapping[Stream, Extent], epochs: Mapping[str, Epoch], *, gateway: str,
         boot: str, fresh: str, trouble: str, at_s: float) -> Plan:
    """Decide. `fresh` is the new epoch should one be needed; `trouble` a reason the caller knows already, or empty."""
    same = not trouble and proven(found, state, epochs, gateway, boot)
    intake = (Intake(found.head.epoch) if same and found.head
              else Intake(fresh, trouble or _reason(found, state, gateway, boot)))
    rows: list[Pending] = []
    done: list[Identity] = []
    gaps: list[Gap] = []
    ahead: dict[Stream, tuple[int, int]] = {s: (e.next, e.total) for s, e in extents.items()}
    grouped: dict[Identity, dict[int, Part]] = {}
    for _, part in found.parts:
        grouped.setdefault((part.epoch, part.lane, part.seq), {}).setdefault(part.part, part)
    for identity in sorted(grouped, key=lambda i: i[2]):
        parts = [grouped[identity][n] for n in sorted(grouped[identity])]
        first = parts[0]
        stream: Stream = (first.epoch, first.lane)
        seq, total = ahead.get(stream, (1, 0))
        whole = first.part == 0 and (same or parts[-1].part == len(parts) - 1)
        if first.seq < seq or not whole or trouble == "foreign":
            done.append(identity)
            continue
        if first.seq > seq and trouble != "damaged":   # else the search will tell
            gaps.append(Gap(first.epoch, first.lane, seq, first.seq - 1, max(0, first.base - total),
                            "overload" if same else "journal_lost"))
        row = Pending(first.epoch, first.lane, first.seq, first.base, first.inventory, first.door, at_s)
        for part in parts:
            row.grow(part.payload, part.count)
        rows.append(row)
        ahead[stream] = (first.seq + 1, first.base + row.count)
    for (epoch, lane), (seq, total) in ahead.items():
        if epoch == intake.epoch:
            intake.next[lane], intake.total[lane] = seq, total
    _return(intake, rows)
    return Plan(intake, rows, done, gaps, _newest_latch(found, state, gateway, boot))


def _newest_latch(found: Found, state: State, gateway: str, boot: str) -> Latch | None:
    """Return the last word on what must sound.

    As a rule that is the staged one; but staging may have been full or failing when the newest was said, and then the
    journal alone has it. A latch of another boot in the journal (a restored card) is never newer.
    """
    head, kept = found.head, state.latch
    if head is None or head.gateway != gateway or head.boot not in (boot, state.boot):
        return kept
    newer = kept is not None and kept.boot == head.boot and (found.latch is None or kept.t_ms > found.latch.t_ms)
    return kept if newer else found.latch


def _return(intake: Intake, rows: list[Pending]) -> None:
    for row in rows:
        intake.queues[row.lane].append(row)
        intake.bytes += row.size
