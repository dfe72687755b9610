"""The local door: one JSON line in, one JSON line out, over a unix socket.

Owns: the socket file, its permissions, and the manners at the door. Promises: a slow, rude or silent client delays
nobody else; a socket left by a dead process is replaced, one that answers is not. Never: knows what a request
means (handlers are handed in), listens on a network.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from drivers import LinkError
from gateway.client import short_path

log = logging.getLogger(__name__)

REQUEST_BYTES = 64 * 1024
PATIENCE_S = 5.0
"""For each of: the client to finish its line, a handler to have its answer, the client to take it."""
CLIENTS = 8
LATER_TURN_S = 0.02

Reply = dict[str, Any]
Later = Callable[[], Reply | None]
"""Asked again and again until it has the reply; for answers that another thread must give."""
HELD_TURN_S = 0.25
"""How soon a connection that is held must end when what it holds is needed."""


class Held(Protocol):
    """A reply that holds its connection open: something lent, for as long as the borrower stays."""

    def reply(self) -> Reply | None:
        """Return the reply, None while there is none; the connection stays when it is ``ok``."""
        ...

    def over(self) -> bool:
        """Whether the connection must be closed now."""
        ...

    def gone(self) -> None:
        """Take note that the connection is closed, whoever closed it."""
        ...


Handler = Callable[[dict[str, Any]], Reply | Later | Held]


class _Client:
    """One connection: bytes in, then perhaps a wait, then bytes out."""

    def __init__(self, connection: socket.socket, deadline_s: float) -> None:
        self.socket, self.deadline_s = connection, deadline_s
        self.read, self.write = bytearray(), memoryview(b"")
        self.later: Later | None = None
        self.held: Held | None = None
        self.lending = False
        self.asked = ""


class Control:
    """The server: hand `open`, `step` and `close` to a Worker.

    A request is a JSON object whose ``do`` names a handler: ``{"do": "status"}``. The handler gets the whole
    object, with ``peer`` set to ``{"pid", "uid", "gid", "user"}`` of the process that asks (from the kernel,
    whatever the client wrote). It returns the reply at once, or a `Later` when another thread has to answer.
    Replies carry ``ok``; a refusal also ``text_en`` and ``text_zh``. One request a connection; after a `Held` reply
    the connection itself is what was asked for.
    """

    def __init__(self, path: str | Path, handlers: Mapping[str, Handler],
                 now: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path)
        self._handlers, self._now = dict(handlers), now
        self._selector: selectors.BaseSelector | None = None
        self._listener: socket.socket | None = None
        self._inode = (0, 0)
        self._clients: dict[int, _Client] = {}

    # Worker's three calls

    def open(self) -> None:
        """Take the socket.

        Raises:
            LinkError: another gateway answers there, something that is no socket is in the way, or no permission.
        """
        try:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._clear_the_way()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._listener = listener
            listener.setblocking(False)
            os.fchmod(listener.fileno(), 0o660)  # bind() makes the file with no more than this
            with short_path(self.path) as address:
                listener.bind(address)
            self.path.chmod(0o660)  # nor less, whatever the umask
            listener.listen(8 * CLIENTS)
            found = self.path.stat()
        except LinkError:
            raise
        except OSError as error:
            raise LinkError(f"control socket {self.path}: {error.strerror or error}: give another control.socket, "
                            f"or make its folder writable for this user") from error
        self._inode = (found.st_dev, found.st_ino)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def step(self, timeout_s: float) -> None:
        """Serve whoever is there; waits at most `timeout_s`.

        Raises:
            LinkError: the socket file is gone or is another's, so nobody could reach this door any more.
        """
        assert self._selector is not None
        assert self._listener is not None
        if any(client.later is not None for client in self._clients.values()):
            timeout_s = min(timeout_s, LATER_TURN_S)
        elif any(client.lending for client in self._clients.values()):
            timeout_s = min(timeout_s, HELD_TURN_S)
        for key, _ in self._selector.select(timeout_s):
            client = self._clients.get(key.fd)
            if client is None:
                self._accept()
            elif client.write:
                self._send(client)
            else:
                self._receive(client)
        now_s = self._now()
        for client in list(self._clients.values()):
            if client.later is not None:
                self._answer_later(client, now_s)
            elif client.lending and client.held is not None and not client.write:
                if client.held.over():
                    self._drop(client)
            elif now_s > client.deadline_s:
                self._drop(client)
        try:
            found = self.path.stat()
        except OSError as error:
            raise LinkError(f"control socket {self.path} is gone: {error.strerror}") from error
        if (found.st_dev, found.st_ino) != self._inode:
            raise LinkError(f"control socket {self.path} was replaced by another process")

    def close(self) -> None:
        """Let go of clients and socket; removes the file only if it is ours."""
        for client in list(self._clients.values()):
            self._drop(client)
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        with contextlib.suppress(OSError):
            found = self.path.stat()
            if (found.st_dev, found.st_ino) == self._inode:
                self.path.unlink()

    # the socket file

    def _clear_the_way(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise LinkError(f"control socket {self.path}: something else is there and is left alone: "
                            f"remove it, or give another control.socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_path(self.path) as address:
            probe.settimeout(1.0)
            answer = probe.connect_ex(address)
        if answer in (0, errno.EAGAIN):  # EAGAIN: its queue is full, so somebody is there
            raise LinkError(f"control socket {self.path}: another gateway answers there: stop it first "
                            f"(systemctl status mingluo)")
        self.path.unlink(missing_ok=True)

    # clients

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._selector is not None
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                log.warning("control cannot accept error=%s", error.strerror)
            return
        if len(self._clients) >= CLIENTS:
            idle = [c for c in self._clients.values() if c.later is None and not c.write and not c.lending]
            self._drop(min(idle or self._clients.values(), key=lambda c: c.deadline_s))
        connection.setblocking(False)
        self._clients[connection.fileno()] = _Client(connection, self._now() + PATIENCE_S)
        self._selector.register(connection, selectors.EVENT_READ)

    def _receive(self, client: _Client) -> None:
        try:
            chunk = client.socket.recv(REQUEST_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk or client.later is not None or client.lending:  # gone, or talking while it should listen
            self._drop(client)
            return
        client.read += chunk
        end = client.read.find(b"\n")
        if end < 0 and len(client.read) <= REQUEST_BYTES:
            return
        if end < 0 or end > REQUEST_BYTES:
            self._reply(client, refusal(f"a request is one line of at most {REQUEST_BYTES} bytes",
                                        f"请求须为一行，不超过{REQUEST_BYTES}字节"))
            return
        self._handle(client, bytes(client.read[:end]))

    def _handle(self, client: _Client, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            self._reply(client, refusal(f"not a JSON object: {error}", "请求不是JSON对象"))
            return
        client.asked = str(request.get("do", ""))
        handler = self._handlers.get(client.asked)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            self._reply(client, refusal(f"unknown request do={client.asked!r}: expected one of {known}",
                                        f"未知请求 {client.asked!r}，可用：{known}"))
            return
        request["peer"] = _peer(client.socket)
        try:
            reply = handler(request)
        except Exception as error:
            log.exception("a control request failed do=%s", client.asked)
            self._reply(client, refusal(f"{client.asked} failed: {type(error).__name__}: {error}",
                                        f"{client.asked} 执行失败：{error}"))
            return
        if not isinstance(reply, dict) and not callable(reply):
            client.held, reply = reply, reply.reply
        if callable(reply):
            client.later, client.deadline_s = reply, self._now() + PATIENCE_S
        else:
            self._reply(client, reply)

    def _answer_later(self, client: _Client, now_s: float) -> None:
        assert client.later is not None
        try:
            reply = client.later()
        except Exception as error:
            log.exception("a control request failed do=%s", client.asked)
            reply = refusal(f"{client.asked} failed: {type(error).__name__}: {error}",
                            f"{client.asked} 执行失败：{error}")
        if reply is None and now_s > client.deadline_s:
            reply = refusal(f"{client.asked}: no answer within {PATIENCE_S:g} s; it may still be carried out",
                            f"{client.asked}：{PATIENCE_S:g}秒内无应答，命令仍可能被执行")
        if reply is not None:
            client.later = None
            client.lending = client.held is not None and bool(reply.get("ok", True))
            self._reply(client, reply)

    def _reply(self, client: _Client, reply: Reply) -> None:
        assert self._selector is not None
        try:
            line = msgspec.json.encode({"ok": True} | reply) + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            log.exception("a control reply cannot be written as JSON do=%s", client.asked)
            line = msgspec.json.encode(refusal(f"{client.asked}: reply is not JSON: {error}", "应答无法编码")) + b"\n"
        client.write, client.deadline_s = memoryview(line), self._now() + PATIENCE_S
        self._selector.modify(client.socket, selectors.EVENT_WRITE)
        self._send(client)

    def _send(self, client: _Client) -> None:
        try:
            client.write = client.write[client.socket.send(client.write):]
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if client.write:
            return
        if client.lending and self._selector is not None:
            self._selector.modify(client.socket, selectors.EVENT_READ)
        else:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.socket.fileno(), None) is not None and self._selector is not None:
            self._selector.unregister(client.socket)
        client.socket.close()
        if client.held is not None:
            client.held.gone()


def refusal(text_en: str, text_zh: str) -> Reply:
    """Build the reply to a request that was not honoured."""
    return {"ok": False, "text_en": text_en, "text_zh": text_zh}


def _peer(connection: socket.socket) -> dict[str, Any]:
    """Who is asking, as the kernel knows it (SO_PEERCRED, unix(7))."""
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return {"pid": pid, "uid": uid, "gid": gid, "user": user}
