"""The one thread class: a step called again and again until told to stop.

Owns: a thread's life: stop, heartbeat, patience, back-off, replacement of a thread that no longer answers.
Promises: a failing step is shown and tried again; a wait wakes at least once a second; a thread that is stuck for
longer than its patience is reported, and no more than `STUCK_MAX` threads of one worker are ever left behind.
Never: knows what it runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from drivers import LinkError

log = logging.getLogger(__name__)

State = Literal["starting", "running", "waiting", "failed", "silent", "given_up", "stopped"]
"""`waiting`: the link is gone; `failed`: a bug was caught; both try again by themselves."""

TURN_S = 1.0
"""The longest a step may wait for something to do."""
STUCK_MAX = 3
BUGS_MAX = 5
"""A gating worker that fails this often without one good step in between is a broken invariant."""
LOG_EVERY = 100
DISTINCT_MAX = 64


Kind = Literal["link", "bug", "silent", "replaced", "given_up", "recovered"]


class Fault(Struct, frozen=True):
    """What became of a worker, for health and events. `recovered` ends whatever was reported before."""

    worker: str
    kind: Kind
    text: str
    at_s: float


def _ignore(_: Fault) -> None:
    """Nobody asked to be told; the log has it."""


class Worker:
    """A thread that calls ``step(timeout_s)`` until `stop`.

    `step` waits at most `timeout_s` for something to do, does it, and returns. `open` is called before the first step
    and again after a fault; `close` after every fault (also a failed `open`) and at the end, so it must bear being
    called twice. `finish` is called once before the last `close`, when `stop` was asked of a part that is open.
    `LinkError` means the outside is gone: close, wait (0.5 → 10 s by default), open again. Any other exception is a
    bug: traceback in the log, then the same road.

    `patience_s` is how long one `open`, `step` or `close` may take at worst. Beyond it the thread is `silent`. What
    follows depends on what it holds:

    * `gates`: the watchdog is no longer fed; nothing inside the process can repair a stuck siren path.
    * `replace` (the rule): the thread is left behind and a new one closes and opens the part again; `close` must
      therefore be safe while another thread is stuck in `step`.
    * ``replace=False``: only reported. For the owner of a file: two writers are worse than a late one.

    `on_fault` is called from this worker's thread or from the supervisor's, and must not block.
    """

    def __init__(self, name: str, step: Callable[[float], None], *, patience_s: float = 10.0, gates: bool = False,
                 replace: bool = True, open: Callable[[], None] | None = None,  # noqa: A002 (the part's own word)
                 finish: Callable[[], None] | None = None, close: Callable[[], None] | None = None,
                 backoff_s: tuple[float, float] = (0.5, 10.0), turn_s: float = TURN_S,
                 now: Callable[[], float] = time.monotonic, on_fault: Callable[[Fault], None] = _ignore) -> None:
        self.name, self.patience_s, self.gates = name, patience_s, gates
        self.restarts = 0
        """Times the step was taken up again after a fault."""
        self.replaced = 0
        """Threads left behind, ever."""
        self.last_error = ""
        self.tried = threading.Event()
        """Set once the first `open` has ended, well or not: the start need not wait for this worker any longer."""
        self._step, self._open, self._finish, self._close = step, open, finish, close
        self._replace = replace and not gates
        self._backoff_s, self._turn_s, self._now, self._on_fault = backoff_s, turn_s, now, on_fault
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._life = 0  # which thread is the present one; one left behind finds another number here and ends
        self._thread: threading.Thread | None = None
        self._stuck: list[threading.Thread] = []
        self._state: State = "starting"
        self._beat_s = now()
        self._pardon_s = 0.0
        self._silent = False
        self._troubled_since_s: float | None = None
        self._link_text = ""
        self._bugs: dict[tuple[str, str, int], int] = {}
        self._bugs_in_a_row = 0

    # what others see

    @property
    def state(self) -> State:
        """How it is doing; `silent` while a call takes longer than its patience."""
        return "silent" if self._silent and self._state not in ("given_up", "stopped") else self._state

    @property
    def beat_age_s(self) -> float:
        """Seconds since the thread was last seen between two calls, less the time the whole process stood still."""
        return max(0.0, self._now() - self._beat_s - self._pardon_s)

    @property
    def alive(self) -> bool:
        """Seen within its patience, and not beyond help."""
        return self._state not in ("given_up", "stopped") and self.beat_age_s <= self.patience_s

    def report(self) -> dict[str, object]:
        """One entry of the status document."""
        return {"worker": self.name, "state": self.state, "gates": self.gates, "beat_age_s": round(self.beat_age_s, 3),
                "patience_s": self.patience_s, "restarts": self.restarts, "replaced": self.replaced,
                "stuck": sum(t.is_alive() for t in self._stuck), "last_error": self.last_error}

    # its life

    def start(self) -> None:
        """Begin; returns at once."""
        with self._lock:
            self._begin()

    def stop(self) -> None:
        """Ask it to end after the present step. Returns at once; see `join`."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when it is still at work (or stuck) after `timeout_s`."""
        thread = self._thread
        if thread is None or thread.ident is None:
            return True
        thread.join(max(0.0, timeout_s))
        return not thread.is_alive()

    def beat(self) -> None:
        """Show a sign of life from inside a step that does several bounded things in a row."""
        self._beat_s = self._now()
        self._pardon_s = 0.0

    def watch(self, late_s: float = 0.0) -> bool:
        """Look after the thread; called about once a second by the supervisor. True when it fell silent just now.

        `late_s` is how long the supervisor itself was held up: a suspended process must not accuse its threads.
        """
        self._pardon_s += late_s
        thread = self._thread
        if thread is None or self._stop.is_set() or (self.gates and self._state == "given_up"):
            return False
        self._stuck = [t for t in self._stuck if t.is_alive()]
        if thread.is_alive() and self.beat_age_s <= self.patience_s:
            self._silent = False
            return False
        fell_silent = not self._silent and self._state != "given_up"
        if fell_silent:
            self._silent = True
            self._trouble("silent", f"no sign of life for {self.beat_age_s:.1f} s, patience is {self.patience_s:g} s")
        if not self._replace:
            return fell_silent
        if len(self._stuck) >= STUCK_MAX:
            if self._state != "given_up":
                self._state = "given_up"
                self._trouble("given_up", f"{STUCK_MAX} threads are stuck in this part; it goes on when one returns")
            return fell_silent
        with self._lock:
            if thread.is_alive():
                self._stuck.append(thread)
            self.replaced += 1
            self._trouble("replaced", f"thread left behind, a new one takes over (number {self.replaced})")
            self._begin()
        return fell_silent

    # the thread

    def _begin(self) -> None:
        self._life += 1
        self._silent = False
        self._state = "starting"
        self.beat()
        self._thread = threading.Thread(target=self._run, args=(self._life,), name=self.name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the machine is out of threads; the next `watch` tries again
            if self._life == 1:
                raise
            self._trouble("bug", f"no new thread: {error}")

    def _run(self, life: int) -> None:
        opened = False
        delay_s, opened_s = self._backoff_s[0], self._now()
        if life > 1:
            self._let_go(life)
        while not self._stop.is_set() and life == self._life:
            self.beat()
            try:
                if not opened:
                    if self._open is not None:
                        self._open()
                    opened = True
                    opened_s = self._now()
                    self.tried.set()
                    self.beat()
                self._step(self._turn_s)
            except BaseException as error:  # a thread that ends without a word is the worst of all outcomes
                self.tried.set()
                if life != self._life:
                    break
                if self._beyond_help(error):
                    self._let_go(life)
                    return
                if opened and self._now() - opened_s >= self._backoff_s[1]:
                    delay_s = self._backoff_s[0]
                opened = False
                self._let_go(life)
                self._pause(delay_s, life)
                delay_s = min(delay_s * 2, self._backoff_s[1])
                self.restarts += life == self._life and not self._stop.is_set()
            else:
                if life == self._life:
                    self._well()
        if life != self._life:
            log.warning("thread came back after it was given up worker=%s", self.name)
            return
        if opened and self._finish is not None:
            self._last(self._finish, "finish")
        self._let_go(life)
        self._state = "stopped"
        self.tried.set()

    def _well(self) -> None:
        self._bugs_in_a_row = 0
        if self._state == "running" and self._troubled_since_s is None:
            return
        self.beat()
        self._state, self._silent = "running", False
        if self._troubled_since_s is not None:
            text = f"after {self._now() - self._troubled_since_s:.1f} s"
            self._troubled_since_s, self._link_text = None, ""
            log.info("worker well again worker=%s %s", self.name, text)
            self._tell("recovered", text)

    def _beyond_help(self, error: BaseException) -> bool:
        """Take note of a fault; True when this worker must not go on."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self.last_error = text
        if isinstance(error, LinkError):
            self._state = "waiting"
            if text != self._link_text:
                self._link_text = text
                self._trouble("link", text)
            return False
        self._state = "failed"
        self._bugs_in_a_row += 1
        self._show_bug(error, text)
        if self.gates and (self._bugs_in_a_row >= BUGS_MAX or not isinstance(error, Exception)):
            self._state = "given_up"
            self._trouble("given_up", f"{self._bugs_in_a_row} failures without a good step: {text}")
            return True
        return False

    def _show_bug(self, error: BaseException, text: str) -> None:
        """Log a traceback once per place it comes from, then every `LOG_EVERY`th time with the count."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = ("", 0) if frame is None else (frame.tb_frame.f_code.co_filename, frame.tb_lineno)
        key = (type(error).__name__, *where)
        if key not in self._bugs and len(self._bugs) >= DISTINCT_MAX:
            self._bugs.clear()
        count = self._bugs[key] = self._bugs.get(key, 0) + 1
        first_of_outage = self._troubled_since_s is None
        if self._troubled_since_s is None:
            self._troubled_since_s = self._now()
        if count % LOG_EVERY == 1:
            log.error("worker failed worker=%s times=%d error=%s", self.name, count, text, exc_info=error)
        if first_of_outage or count == 1:
            self._tell("bug", text)

    def _trouble(self, kind: Kind, text: str) -> None:
        if self._troubled_since_s is None:
            self._troubled_since_s = self._now()
        if kind in ("silent", "given_up"):
            self.last_error = text
        log.warning("worker in trouble worker=%s kind=%s text=%s", self.name, kind, text)
        self._tell(kind, text)

    def _tell(self, kind: Kind, text: str) -> None:
        try:
            self._on_fault(Fault(self.name, kind, text, self._now()))
        except Exception:
            log.exception("nobody could be told about a fault worker=%s kind=%s", self.name, kind)

    def _let_go(self, life: int) -> None:
        if self._close is None or life != self._life:
            return
        self._last(self._close, "close")

    def _last(self, call: Callable[[], None], name: str) -> None:
        """Call what may fail without consequence: the part is about to be let go."""
        self.beat()
        try:
            call()
        except LinkError as error:
            log.info("%s on a dead link worker=%s error=%s", name, self.name, error)
        except BaseException as error:
            self._show_bug(error, f"{name}: {type(error).__name__}: {error}")

    def _pause(self, seconds: float, life: int) -> None:
        """Wait, beating, until the time is over, stop is asked or another thread has taken over."""
        while seconds > 0 and life == self._life:
            self.beat()
            turn = min(seconds, TURN_S)
            if self._stop.wait(turn):
                return
            seconds -= turn
