"""A port on loan from the running gateway.

Owns: the connection to the control socket that is the loan. Promises: the port is used only while the service has lent
it, has no use for it, or does not run; a loan taken back ends at the next `check`. Never: opens the port itself.

The loan is the connection: ``{"do": "lend", "port": …, "for_s": …}`` out, one line back, then silence while it lasts.
The gateway takes the port back by closing it (time over, an alarm); the borrower gives it back by closing it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from gateway.client import short_path
from gateway.installer.words import Text, Told

LOAN_S = 120.0
"""As long as the gateway lends at a time."""
RENEW_S = 10.0
"""A loan with less left is renewed: no exchange and no step of a command takes longer."""
ANSWER_S = 15.0
"""The driver finishes its exchange and closes the port before the gateway answers."""
REPLY_BYTES = 64 * 1024

State = Literal["none", "no_service", "not_mine", "lent"]


class TakenBack(Told):
    """The gateway wants its port back, now."""


class Loan:
    """The right to use one port. A context manager; `take` may be called again to go on."""

    def __init__(self, socket_path: str | Path, port: str, now: Callable[[], float], for_s: float = LOAN_S) -> None:
        self._path, self._now, self._for_s = Path(socket_path), now, for_s
        self._port = port
        self._connection: socket.socket | None = None
        self._end_s = float("inf")
        self.state: State = "none"

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> None:
        """Ask for the port and wait until it is free; a loan still held is given back first.

        Raises:
            Told: refused, or a gateway is there that may not or cannot be asked.
        """
        self.close()
        asked_s = self._now()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(ANSWER_S)
            with short_path(self._path) as address:
                connection.connect(address)
            connection.sendall(msgspec.json.encode(
                {"do": "lend", "port": self._port, "for_s": self._for_s}) + b"\n")
            reply = _line(connection)
        except OSError as error:
            connection.close()
            if isinstance(error, FileNotFoundError | ConnectionRefusedError) or error.errno == errno.ENOTDIR:
                self.state = "no_service"
                return
            if isinstance(error, PermissionError):
                raise Told(_FORBIDDEN.told(path=self._path)) from error
            raise Told(_MUTE.told(path=self._path, why=error), 2) from error
        except (msgspec.DecodeError, ValueError) as error:
            connection.close()
            raise Told(_MUTE.told(path=self._path, why=error), 2) from error
        if not reply.get("ok"):
            connection.close()
            raise Told(Text(str(reply.get("text_zh", "")) or "网关拒绝出借端口",
                            str(reply.get("text_en", "")) or "the gateway refuses to lend the port"))
        if reply.get("not_mine"):
            connection.close()
            self.state = "not_mine"
            return
        connection.setblocking(False)
        self._connection, self.state = connection, "lent"
        self._end_s = asked_s + self._for_s

    def check(self) -> None:
        """Whether the port may be used at this moment.

        Raises:
            TakenBack: the gateway took it back, or the time is over.
        """
        if self._connection is None:
            return
        taken = self._now() >= self._end_s
        with contextlib.suppress(BlockingIOError):
            # The gateway says nothing more on a loan: whatever is readable is its end.
            taken = taken or not self._connection.recv(4096)
        if taken:
            self.close()
            raise TakenBack(_TAKEN_BACK)

    def due(self) -> bool:
        """Whether it is time to give the port back and ask again."""
        return self._end_s - self._now() < min(RENEW_S, self._for_s / 2)

    def wait(self, seconds: float) -> None:
        """Rest, but no longer than the loan lasts.

        Raises:
            TakenBack: see `check`.
        """
        if self._connection is None:
            select.select((), (), (), seconds)
            return
        end_s = self._now() + seconds
        while True:
            self.check()
            left_s = end_s - self._now()
            if left_s <= 0:
                return
            assert self._connection is not None
            select.select((self._connection,), (), (), min(left_s, max(0.0, self._end_s - self._now())))

    def close(self) -> None:
        """Give the port back; twice is once."""
        connection, self._connection = self._connection, None
        self._end_s, self.state = float("inf"), "none"
        if connection is not None:
            connection.close()


def lendable(port: str) -> str:
    """Name a port so that the gateway can recognise it whatever its working directory is."""
    return port if "://" in port else os.path.abspath(port)  # noqa: PTH100 (resolve() would follow by-path links)


def _line(connection: socket.socket) -> dict[str, Any]:
    answer = bytearray()
    while b"\n" not in answer:
        chunk = connection.recv(4096)
        if not chunk or len(answer) > REPLY_BYTES:
            raise ValueError("it hung up without a whole answer")
        answer += chunk
    return msgspec.json.decode(bytes(answer[:answer.index(b"\n")]), type=dict[str, Any])


_TAKEN_BACK = Text("网关收回了端口（时间到，或有预警），命令到此为止；稍后可再试",
                   "the gateway took its port back (time over, or an alarm); the command ends here, try again later")
_FORBIDDEN = Text("无权访问 {path}，无法知道网关是否正在用这个端口：请用 sudo，或加入 mingluo 用户组",
                  "no permission for {path}, so nobody can say whether the gateway is using the port: "
                  "use sudo, or join the group mingluo")
_MUTE = Text("{path} 处的网关没有给出应答，无法借用端口：{why}（systemctl status mingluo）",
             "the gateway at {path} gave no answer, so the port cannot be borrowed: {why} (systemctl status mingluo)")
