"""What was asked of a wire beside its polls: confirming reads and writes, each until its result is known.

Owns: the steps of a command and the result they come to. Promises: every command gets exactly one result; a write is
done only when it was read back (or its model says that it cannot be); what may have happened is never told as "not
done". Never: does I/O: it says which request is next and is told what was heard.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from msgspec import Struct

from drivers import Answer, Command, Note, Result, Scan, refused
from drivers.exchange import Ask, Raw, Request, Write
from drivers.line import Heard
from drivers.schedule import Task, Turn
from drivers.station import Station

SIREN, WRITE, READ = 0, 1, 2
"""Ranks: a siren's write > any other write > a confirming read (> polls)."""
_TRIES = 3
_LATE = ("not done in time", "未能按时执行")

Steps = Generator[Request, Heard, Result]
"""Yields requests, is sent what was heard, returns the result."""


class Wait:
    """One command that waits for several reads."""

    def __init__(self, command: Command, answer: Answer, reads: int) -> None:
        self.command, self._answer = command, answer
        self.left = reads
        self._values: dict[str, float | None] = {}
        self._notes: set[str] = set()

    def take(self, scan: Scan) -> None:
        """Take one of its reads; the last one gives the result."""
        self._values |= dict(zip(scan.points, scan.values, strict=True))
        self._notes |= set(scan.notes) - {""}
        self.left -= 1
        if not self.left:
            words = ", ".join(sorted(self._notes))
            self._answer(Result(id=self.command.id, ok=None not in self._values.values(), values=self._values,
                                text_en=words, text_zh=words))

    def drop(self) -> None:
        """Give up: there is one result, and it is this."""
        if self.left > 0:
            self.left = -1
            self._answer(refused(self.command, *_LATE))


class Reading:
    """A confirming read of one block; all who ask for the same one are answered by it."""

    def __init__(self, task: Task, deadline_s: float, *waits: Wait) -> None:
        self.turn: Task = task
        self.rank, self.deadline_s = READ, deadline_s
        self.waits = [*waits]

    def dropped(self, late_s: float) -> None:  # noqa: ARG002
        """Tell all who wait."""
        for wait in self.waits:
            wait.drop()


class Step(Struct):
    """The exchange a job needs next."""

    station: Station
    ask: Request


class Job:
    """A write or an action, one exchange after another; between two of them the wire serves others."""

    def __init__(self, command: Command, answer: Answer, station: Station, steps: Steps) -> None:
        self.command, self._answer, self._steps = command, answer, steps
        self.rank = SIREN if command.siren else WRITE
        self.deadline_s = command.deadline_s
        self.turn: Turn = Step(station, next(steps))
        self._begun = False

    def hear(self, heard: Heard) -> bool:
        """Take what was heard; True when the job wants another exchange."""
        self._begun = True
        try:
            self.turn = Step(self.turn.station, self._steps.send(heard))
        except StopIteration as ended:
            self._answer(ended.value)
            return False
        return True

    def dropped(self, late_s: float) -> None:
        """Its time is over."""
        self._steps.close()
        self._answer(Result(
            id=self.command.id, ok=False, text_en=f"not finished {late_s:.1f} s after its deadline; "
            f"{'it may have been carried out' if self._begun else 'nothing was sent'}",
            text_zh=f"超过期限 {late_s:.1f} 秒仍未完成；{'可能已执行' if self._begun else '未发送任何数据'}"))


def write(command: Command, writes: Iterable[tuple[str, Write, Ask | None]]) -> Steps:
    """Write, and read back what was written.

    Args:
        command: whose result it is.
        writes: point, request, and the read that tells whether it was done (None = its model has none).
    """
    for point, request, read_back in writes:
        why = ""
        for _ in range(_TRIES):
            heard = yield request
            if heard.note is Note.REFUSED:
                return _failed(command, f"{point}: refused with exception {heard.code}",
                               f"{point}：设备拒绝写入，异常码 {heard.code}")
            why = str(heard.note or "")
            if read_back is not None:
                # Whatever was heard, the registers themselves tell whether it was done.
                back = yield read_back
                why = str(back.note or ("" if _says(request, back) else "it reads back something else"))
            if not why:
                break
        if why:
            return _failed(command, f"{point}: {why}; it may have been carried out", f"{point}：{why}；可能已执行")
    return Result(id=command.id, ok=True, values=command.values, text_en="written", text_zh="已写入")


def act(command: Command, request: Request) -> Steps:
    """Send a frame of the model's own until it is answered."""
    why = ""
    for _ in range(_TRIES):
        heard = yield request
        why = str(heard.note or "")
        if not why or (isinstance(request, Raw) and request.answer is None and heard.note is Note.NO_ANSWER):
            return Result(id=command.id, ok=True, text_en="sent", text_zh="已发送")
    return _failed(command, f"{command.action}: {why}; it may have been carried out",
                   f"{command.action}：{why}；可能已执行")


def _says(request: Write, heard: Heard) -> bool:
    """Whether registers or coils hold what was written."""
    data, start = heard.data, heard.start
    if request.function in (5, 15):
        found: Sequence[int] = [data[start + (n >> 3)] >> (n & 7) & 1 for n in range(len(request.values))]
    else:
        found = [int.from_bytes(data[start + 2 * n:start + 2 * n + 2], "big") for n in range(len(request.values))]
    return tuple(found) == request.values


def _failed(command: Command, text_en: str, text_zh: str) -> Result:
    return Result(id=command.id, ok=False, text_en=text_en, text_zh=text_zh)
