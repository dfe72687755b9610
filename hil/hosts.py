"""The same slaves behind TCP ports: Modbus TCP, RTU over TCP, ASCII over TCP; any number of hosts in one thread.

Owns: listening sockets, connections, and what can be wrong with a host rather than with a device. Promises: a logged
answer was given to the kernel whole; a sick host costs the others nothing. Never: listens beyond the loopback unless
told to.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Literal, Self, get_args

from hil.device import Answer, Log, Outcome, Slave
from hil.faults import DOUBTFUL, spoilt
from hil.framing import FRAMINGS, Name, Request

HostFault = Literal[
    "",
    "silent",      # accepts and says nothing
    "refuses",     # the port is closed
    "blackhole",   # never completes the connect, as a host behind a dead link
    "closes",      # hangs up half-way through every answer
    "garbage",     # answers with random bytes
    "drips",       # a byte at a time, `Host.drip_s` apart
]
HOST_FAULTS: tuple[HostFault, ...] = get_args(HostFault)


class Host:
    """One host and port with slaves behind it. `set_fault` may be called from any thread."""

    def __init__(self, slaves: Iterable[Slave], log: Log | None, framing: Name, address: tuple[str, int],
                 seed: int) -> None:
        self.slaves = list(slaves)
        self.log: Log = [] if log is None else log
        self.framing_name, self.framing = framing, FRAMINGS[framing]
        self.fault: HostFault = ""
        self.drip_s = 0.02
        self.rng = random.Random(seed)
        self.clients: dict[socket.socket, bytes] = {}
        self.fillers: list[socket.socket] = []
        self.server: socket.socket = _bound(address)
        self.server.listen(128)
        self.address: tuple[str, int] = self.server.getsockname()[:2]
        self.port = self.address[1]
        self.connected = 0
        """Connections taken so far."""

    def sicken(self, fault: HostFault) -> None:
        """Put the sockets into the state of a fault; called in the hosts' thread, which has forgotten the old ones."""
        for link in [self.server, *self.clients, *self.fillers]:
            link.close()
        self.clients, self.fillers, self.fault = {}, [], fault
        self.server = _bound(self.address)
        if fault == "blackhole":
            # A backlog of 0 holds one connection; once it is full the kernel drops what else knocks.
            self.server.listen(0)
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(self.address)
                self.fillers.append(filler)
        elif fault != "refuses":
            self.server.listen(128)

    def close(self) -> None:
        """Close all sockets."""
        for link in [self.server, *self.clients, *self.fillers]:
            link.close()


def _bound(address: tuple[str, int]) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    made.setblocking(False)
    return made


class Hosts:
    """Many hosts, one thread. A context manager."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._calls: list[tuple[Callable[[], object], threading.Event]] = []
        self._ears = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe()
        self._ears.register(self._wake_r, selectors.EVENT_READ, None)
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="modbus-tcp", daemon=True)

    def add(self, slaves: Iterable[Slave], *, log: Log | None = None, framing: Name = "tcp", host: str = "127.0.0.1",
            port: int = 0, fault: HostFault = "", seed: int = 0) -> Host:
        """Open a host; its `port` says where when 0 was asked for."""
        made = Host(slaves, log, framing, (host, port), seed)
        self.hosts.append(made)
        self.set_fault(made, fault)
        return made

    def set_fault(self, host: Host, fault: HostFault) -> None:
        """Make a host sick, or well again with ""; its connections end."""
        def change() -> None:
            for link in [host.server, *host.clients]:
                with contextlib.suppress(KeyError):
                    self._ears.unregister(link)
            host.sicken(fault)
            if fault not in ("refuses", "blackhole"):
                self._ears.register(host.server, selectors.EVENT_READ, host)

        if not self._thread.is_alive():
            change()
            return
        done = threading.Event()
        self._calls.append((change, done))
        os.write(self._wake_w, b"x")
        done.wait(5)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, closing all connections; twice is once."""
        if self._stop:
            return
        self._stop = True
        os.write(self._wake_w, b"x")
        if self._thread.is_alive():
            self._thread.join(5)
        for host in self.hosts:
            host.close()
        self._ears.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _run(self) -> None:
        while not self._stop:
            wait_s = max(0.0, self._later[0][0] - time.monotonic()) if self._later else 5.0
            for key, _ in self._ears.select(wait_s):
                host, link = key.data, key.fileobj
                if host is None:
                    os.read(self._wake_r, 4096)
                elif link is host.server:
                    self._accept(host)
                elif link in host.clients and not self._serve(host, link):
                    self._drop(host, link)
            while self._calls:
                call, done = self._calls.pop(0)
                call()
                done.set()
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()

    def _accept(self, host: Host) -> None:
        with contextlib.suppress(OSError):   # the client left before it was taken
            link, _ = host.server.accept()
            link.setblocking(False)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host.clients[link] = b""
            host.connected += 1
            self._ears.register(link, selectors.EVENT_READ, host)

    def _drop(self, host: Host, link: socket.socket) -> None:
        if host.clients.pop(link, None) is not None:
            self._ears.unregister(link)
            link.close()

    def _serve(self, host: Host, link: socket.socket) -> bool:
        """Take requests; False when the client is gone or speaks another framing."""
        try:
            chunk = link.recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            return False
        found = host.framing.split(host.clients[link] + chunk)
        if found is None:
            return False
        frames, host.clients[link] = found
        for frame in frames:
            request = host.framing.open(frame)
            if request is not None and host.fault != "silent":
                self._answer(host, link, request)
        return bool(chunk)

    def _answer(self, host: Host, link: socket.socket, request: Request) -> None:
        tcp = host.framing_name == "tcp"
        for slave in [s for s in host.slaves if request.unit in (0, s.address)]:
            done = slave.exchange(request.pdu, time.monotonic(), broadcast=request.unit == 0 and slave.address != 0,
                                  tcp=tcp)
            if done is None:
                continue
            number = (request.transaction - done.stale) & 0xFFFF ^ (done.fault == "wrong_transaction")
            out = host.framing.wrap(done.unit, done.pdu, number)
            # Garbled on TCP is the protocol number: TCP itself keeps the rest whole.
            out = out[:2] + b"\0\1" + out[4:] if tcp and done.fault == "garbled" else spoilt(done.fault, out)
            if host.fault == "garbage":
                out, done = host.rng.randbytes(len(out)), _nothing(done)
            asked_s = time.monotonic()
            if host.fault == "drips":
                for n in range(len(out)):
                    last = n == len(out) - 1
                    self._at(done.delay_s + n * host.drip_s, self._sender(
                        host, link, out[n:n + 1], slave.name, done if last else _nothing(done), asked_s))
            elif host.fault == "closes":
                half = out[:len(out) // 2]
                self._at(done.delay_s, self._sender(host, link, half, slave.name, _nothing(done), asked_s))
                self._at(done.delay_s, lambda: self._drop(host, link))
            else:
                self._at(done.delay_s, self._sender(host, link, out, slave.name, done, asked_s))

    def _at(self, delay_s: float, call: Callable[[], None]) -> None:
        if delay_s <= 0:
            call()
            return
        self._count += 1
        heapq.heappush(self._later, (time.monotonic() + delay_s, self._count, call))

    def _sender(self, host: Host, link: socket.socket, out: bytes, device: str, done: Outcome,
                asked_s: float) -> Callable[[], None]:
        def send() -> None:
            if link not in host.clients:
                return   # the client left before its answer: nothing was said
            at_s = time.monotonic()
            try:
                whole = link.send(out) == len(out)
            except OSError:
                return
            if whole and done.told:
                # The transaction number tells the second of two answers apart: doubled does no harm here.
                doubt = done.fault in DOUBTFUL and not (host.framing_name == "tcp" and done.fault == "doubled")
                host.log.append(Answer(at_s, device, done.told, done.fault if doubt else "", asked_s))
        return send


def _nothing(done: Outcome) -> Outcome:
    """The same without a truth in it."""
    return Outcome(done.unit, done.pdu, done.delay_s, {}, done.fault)


class TcpServer(Hosts):
    """One host."""

    def __init__(self, slaves: Iterable[Slave], host: str = "127.0.0.1", port: int = 0, log: Log | None = None,
                 framing: Name = "tcp") -> None:
        """Open the port (0: any free one; `port` says which)."""
        super().__init__()
        self.host = self.add(slaves, log=log, framing=framing, host=host, port=port)
        self.port, self.log = self.host.port, self.host.log
