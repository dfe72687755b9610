"""One port in an installer's hands: borrowed, open, and every exchange remembered.

Owns: the line and the loan together, and the record of what was asked and heard. Promises: nothing is sent after the
loan was taken back; a loan that runs out is renewed between two exchanges. Never: judges what was heard.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self

from msgspec import Struct

from drivers import LinkError, Note
from drivers.exchange import Request
from drivers.line import Heard, Line, SerialLine
from drivers.modbus_wire import host_port
from drivers.sensor import Serial
from drivers.tcp import Carried, TcpLine
from gateway.installer.borrow import Loan
from gateway.installer.words import Told

REMEMBERED = 50_000
_DEAF = "does not speak Modbus TCP"


class Gone(LinkError):  # noqa: N818 (a state of the port)
    """The port could be opened, and failed later."""


class Trial(Struct, frozen=True):
    """One exchange as it was: for hints and diagnoses."""

    ask: Request
    settings: Serial | None
    """None on a network."""
    timeout_s: float
    heard: Heard


class Link:
    """A serial line or a TCP connection. A context manager."""

    def __init__(self, port: str, settings: Serial, loan: Loan, now: Callable[[], float], *,
                 timeout_s: float = 0.3, echo: bool = False, framing: Carried | None = None) -> None:
        """Prepare; nothing is touched before `__enter__`.

        Args:
            port: a path, or ``tcp://host:port``.
            settings: unless an exchange has its own.
            loan: not yet taken.
            now: monotonic seconds.
            timeout_s: to the first byte of an answer.
            echo: the adapter hears its own bytes.
            framing: None = RTU on a serial port, Modbus TCP on a network.

        Raises:
            ValueError: `port` is neither a path nor ``tcp://host:port``.
        """
        self.port, self.settings, self.timeout_s, self.echo = port, settings, timeout_s, echo
        self.now, self._loan = now, loan
        self._target = host_port(port)
        self.framing: Carried = framing or ("tcp" if self._target else "rtu")
        self.trials: deque[Trial] = deque(maxlen=REMEMBERED)
        self._line: Line | None = None

    @property
    def tcp(self) -> bool:
        """Whether it is a network connection, which has no serial settings."""
        return self._target is not None

    def __enter__(self) -> Self:
        try:
            self._loan.take()
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the port, then give it back."""
        self.shut()
        self._loan.close()

    def _open(self) -> None:
        if self._target:
            self._line = TcpLine(*self._target, self.timeout_s, self.now, self.framing)
        else:
            self._line = SerialLine(self.port, self.settings, self.timeout_s, self.now, echo=self.echo,
                                    framing="ascii" if self.framing == "ascii" else "rtu")
        self._line.open()

    def shut(self) -> None:
        """Close the port but keep the loan; the next exchange opens it again."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def hear_echo(self) -> None:
        """From now on the line hears its own requests: take them away."""
        self.echo = True
        self.shut()
        self._open()

    def exchange(self, ask: Request, settings: Serial | None = None, timeout_s: float | None = None) -> Heard:
        """Ask and listen.

        Raises:
            Gone: the port is no longer there.
            TakenBack: the gateway wants it back; it is closed.
        """
        line = self._ready()
        with _gone():
            try:
                heard = line.exchange(ask, None if self.tcp else settings, timeout_s)
            except LinkError as error:
                # Many hosts hang up on a question for nobody; they take the next connection.
                if not self.tcp or _DEAF in str(error):
                    raise
                heard = Heard(Note.NO_ANSWER, b"", 0, self.now())
                self.shut()
        self.trials.append(Trial(ask, None if self.tcp else settings or self.settings, timeout_s or self.timeout_s,
                                 heard))
        return heard

    def listen(self, seconds: float) -> bytes:
        """Return what is said on a serial line while nobody asks; nothing on a network."""
        line, heard = self._ready(), b""
        end_s = self.now() + seconds
        while isinstance(line, SerialLine) and (left_s := end_s - self.now()) > 0:
            with _gone():
                heard += line.listen(min(left_s, 0.2))
            line = self._ready()
        return heard

    def rest(self, seconds: float) -> None:
        """Let the device have its pause."""
        self._keep()
        with self._safely():
            self._loan.wait(seconds)

    def _keep(self) -> None:
        """See that the port is still ours; renew a loan that runs out."""
        with self._safely():
            self._loan.check()
            if self._loan.due():
                self.shut()
                self._loan.take()

    def _ready(self) -> Line:
        self._keep()
        if self._line is None:
            self._open()
        if self._line is None:
            raise LinkError(f"{self.port} is closed")
        return self._line

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        """Close the port at once when it is no longer ours."""
        try:
            yield
        except Told:
            self.shut()
            raise


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """Tell a port that fails in use from one that cannot be opened."""
    try:
        yield
    except LinkError as error:
        raise Gone(str(error)) from error.__cause__
