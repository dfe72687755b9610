"""Modbus devices made from templates: the same YAML is the device.

Owns: registers that behave like a sensor's, on a Bus or behind a TCP port, and the log of what they truly said.
Promises: silence for a foreign address; a logged answer went out whole, on time and unspoilt, with the values decoded
from the very bytes sent; a deliberately wrong answer is never logged as the truth. Never: is imported by the gateway.
"""

from __future__ import annotations

import heapq
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Literal, Protocol, Self, get_args

from msgspec import Struct

from drivers.exchange import MBAP, checked, sound
from drivers.imitation import functions, image, write
from drivers.reader import Reader, carried
from drivers.sensor import Template
from hil.bus import Reply

Fault = Literal["", "silent", "late", "garbled", "cut_short", "wrong_unit", "wrong_function", "short", "exception",
                "busy", "leading_zero", "doubled", "wrong_transaction"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


class Answer(Struct, frozen=True):
    """One answered read: the truth an audit compares with."""

    at_s: float
    """Monotonic time of the last byte on the wire."""
    device: str
    values: dict[str, float | None]
    """All points the answer carries, asked for by name or not; None where the bytes say there is no value."""


class Log(Protocol):
    """Anything answers can be appended to; `append` may be called from the bus's or the server's thread."""

    def append(self, answer: Answer, /) -> object:
        """Keep one."""


class Slave:
    """One device at one address. All methods may be called from any thread."""

    def __init__(self, template: Template, address: int, values: Mapping[str, float] | None = None, *,
                 name: str = "", turnaround_s: float = 0.005) -> None:
        self.template, self.address, self.name = template, address, name or template.model
        self.turnaround_s = turnaround_s
        """From the last byte of a request to the first of the answer."""
        self.late_s = 1.0
        """The same under the fault ``late``."""
        self.exception = 4
        """The code sent under the fault ``exception``."""
        self.fault: Fault = ""
        self._lock = threading.Lock()
        self._parameters = template.sample()
        self._images: dict[int, bytearray] = {
            function: image(template, function) for function in functions(template)}
        self._readers: dict[tuple[int, int, int], Reader | None] = {}
        for point, value in (values or {}).items():
            self.set(point, value)

    def set(self, point: str, value: float | None) -> None:
        """Let the registers say `value` (the nearest count), or the point's no-data mark for None."""
        wanted = self.template.point(point)
        with self._lock:
            write(wanted, value, self._images[wanted.function], self._parameters)

    def set_register(self, function: int, register: int, word: int) -> None:
        """Write one register as it is, e.g. a status word."""
        with self._lock:
            struct.pack_into(">H", self._images[function], 2 * register, word)

    def unplug(self) -> None:
        """Pull the device's plug: it no longer answers."""
        self.fault = "silent"

    def plug(self) -> None:
        """Put the plug back, and end any other fault."""
        self.fault = ""

    def answer(self, pdu: bytes) -> bytes:
        """Return the honest answer to a request, an exception where the request cannot be served."""
        if len(pdu) != 5 or pdu[0] not in self._images:
            return bytes([pdu[0] | 0x80, 1])
        function, first, count = int(pdu[0]), *struct.unpack(">HH", pdu[1:])
        bits = function in (1, 2)
        if not 1 <= count <= (2000 if bits else self.template.max_registers):
            return bytes([function | 0x80, 3])
        with self._lock:
            held = bytes(self._images[function])
        if first + count > (8 * len(held) if bits else len(held) // 2):
            return bytes([function | 0x80, 2])
        if bits:
            taken = int.from_bytes(held, "little") >> first & (1 << count) - 1
            data: bytes = taken.to_bytes((count + 7) // 8, "little")
        else:
            data = held[2 * first:2 * (first + count)]
        return bytes([function, len(data)]) + data

    def said(self, request: bytes, answer: bytes) -> dict[str, float | None]:
        """Decode the points an honest answer carries; empty for an exception."""
        if answer[0] & 0x80:
            return {}
        key = struct.unpack(">BHH", request)
        if key not in self._readers:
            points = carried(self.template, *key)
            self._readers[key] = Reader(points, *key, self._parameters) if points else None
        reader = self._readers[key]
        return dict(zip(reader.points, reader.decode(answer, 2)[0], strict=True)) if reader else {}


def _wrong(slave: Slave, request: bytes, honest: bytes) -> tuple[int, bytes]:
    """Return unit and PDU as the slave's fault makes them."""
    unit, fault = slave.address, slave.fault
    if fault == "wrong_unit":
        return unit % 247 + 1, honest
    if fault == "wrong_function":
        return unit, bytes([7 - request[0]]) + honest[1:]
    if fault == "short" and not honest[0] & 0x80:
        cut = 1 if request[0] in (1, 2) else 2
        return unit, bytes([honest[0], max(0, honest[1] - cut)]) + honest[2:-cut]
    if fault in ("exception", "busy"):
        return unit, bytes([request[0] | 0x80, 6 if fault == "busy" else slave.exception])
    return unit, honest


class RtuStation:
    """Slaves behind one transceiver of a Bus."""

    def __init__(self, slaves: Iterable[Slave], log: Log | None = None, name: str = "slaves") -> None:
        self.name = name
        self.slaves = {slave.address: slave for slave in slaves}
        self.log: Log = [] if log is None else log

    def hear(self, frame: bytes, at_s: float) -> Iterator[Reply]:
        """Answer what is a sound request to one of ours; keep silent otherwise."""
        slave = self.slaves.get(frame[0])
        if slave is None or len(frame) < 4 or not sound(frame) or slave.fault == "silent":
            return
        request, fault = frame[1:-2], slave.fault
        honest = slave.answer(request)
        unit, pdu = _wrong(slave, request, honest)
        out = checked(bytes([unit]) + pdu)
        if fault == "garbled":
            out = out[:-3] + bytes([out[-3] ^ 0x10]) + out[-2:]
        elif fault == "cut_short":
            out = out[:len(out) // 2]
        elif fault == "leading_zero":
            out = b"\0" + out
        elif fault == "doubled":
            out += out
        told = slave.said(request, honest) if fault in ("", "leading_zero") else {}
        yield Reply(slave.late_s if fault == "late" else slave.turnaround_s, out,
                    partial(_keep, self.log, slave.name, told) if told else None)


def _keep(log: Log, device: str, told: dict[str, float | None], at_s: float) -> None:
    log.append(Answer(at_s, device, told))


class TcpServer:
    """The same slaves behind a Modbus TCP port. A context manager."""

    def __init__(self, slaves: Iterable[Slave], host: str = "127.0.0.1", port: int = 0, log: Log | None = None) -> None:
        self.slaves = {slave.address: slave for slave in slaves}
        self.log: Log = [] if log is None else log
        self._server = socket.create_server((host, port), reuse_port=False)
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]
        self._clients: dict[socket.socket, bytes] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._wake_r, self._wake_w = os.pipe()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="modbus-tcp", daemon=True)

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
        for link in [self._server, *self._clients]:
            link.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _run(self) -> None:
        with selectors.DefaultSelector() as ears:
            ears.register(self._server, selectors.EVENT_READ)
            ears.register(self._wake_r, selectors.EVENT_READ)
            while not self._stop:
                wait_s = max(0.0, self._later[0][0] - time.monotonic()) if self._later else 5.0
                for key, _ in ears.select(wait_s):
                    if key.fileobj is self._server:
                        link, _ = self._server.accept()
                        link.setblocking(False)
                        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        self._clients[link] = b""
                        ears.register(link, selectors.EVENT_READ)
                    elif isinstance(key.fileobj, socket.socket) and not self._serve(key.fileobj):
                        ears.unregister(key.fileobj)
                        del self._clients[key.fileobj]
                        key.fileobj.close()
                while self._later and self._later[0][0] <= time.monotonic():
                    heapq.heappop(self._later)[2]()

    def _serve(self, link: socket.socket) -> bool:
        """Take requests; False when the client is gone."""
        try:
            chunk = link.recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            return False
        rest = self._clients[link] + chunk
        while len(rest) >= MBAP.size:
            transaction, protocol, length, unit = MBAP.unpack_from(rest)
            if protocol or not 2 <= length <= 254:
                return False
            if len(rest) < 6 + length:
                break
            request, rest = rest[MBAP.size:6 + length], rest[6 + length:]
            self._answer(link, transaction, unit, request)
        self._clients[link] = rest
        return bool(chunk)

    def _answer(self, link: socket.socket, transaction: int, unit: int, request: bytes) -> None:
        slave = self.slaves.get(unit)
        if slave is None or slave.fault == "silent":
            return
        fault = slave.fault
        honest = slave.answer(request)
        unit, pdu = _wrong(slave, request, honest)
        out = MBAP.pack(transaction ^ (fault == "wrong_transaction"), fault == "garbled", len(pdu) + 1, unit) + pdu
        if fault == "cut_short":
            out = out[:len(out) // 2]
        elif fault == "doubled":
            out += out
        told = slave.said(request, honest) if fault in ("", "leading_zero", "doubled") else {}
        delay_s = slave.late_s if fault == "late" else slave.turnaround_s

        def send() -> None:
            at_s = time.monotonic()
            try:
                whole = link.send(out) == len(out)
            except OSError:
                return   # the client left before its answer: nothing was said
            if whole and told:
                self.log.append(Answer(at_s, slave.name, told))

        if delay_s <= 0:
            send()
        else:
            self._count += 1
            heapq.heappush(self._later, (time.monotonic() + delay_s, self._count, send))
