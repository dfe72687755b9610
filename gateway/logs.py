"""Where log lines go: to a bounded queue first, so that no thread waits for whoever reads them.

Owns: the queue and the one thread that writes it to stderr. Promises: logging never blocks, also while journald stalls
with the disk; lines that found no room are counted and told as soon as there is room. Never: filters, formats secrets
(callers don't hand them over).
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import sys
import threading
from collections.abc import Callable

LINES = 2000
END_S = 1.0
"""How long the end waits for a reader that may be stuck."""


class _Dropping(logging.handlers.QueueHandler):
    """A queue's front end that drops and counts where the standard one prints a traceback."""

    def __init__(self, lines: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__(lines)
        self._lost = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave the record as it is: it stays in this process and is formatted by the thread that writes it."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Add a line, or count it as lost."""
        try:
            if self._lost:
                self.queue.put_nowait(logging.LogRecord(__name__, logging.WARNING, __file__, 0,
                                                        "log lines lost count=%d", (self._lost,), None))
                self._lost = 0
            self.queue.put_nowait(record)
        except queue.Full:
            self._lost += 1


def begin(level: int = logging.INFO) -> Callable[[], None]:
    """Send all logging to stderr through the queue; return what writes the rest and ends it."""
    # journald puts its own time on every line
    form = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(logging.Formatter(f"{form}%(levelname)s %(name)s %(message)s"))
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(LINES)
    writer = threading.Thread(target=_write, args=(lines, out), name="log", daemon=True)
    logging.basicConfig(level=level, handlers=[_Dropping(lines)], force=True)
    writer.start()

    def end() -> None:
        with contextlib.suppress(queue.Full):
            lines.put_nowait(None)
        writer.join(END_S)

    return end


def _write(lines: queue.Queue[logging.LogRecord | None], out: logging.Handler) -> None:
    while (record := lines.get()) is not None:
        out.handle(record)
