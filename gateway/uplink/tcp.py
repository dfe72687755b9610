"""One TCP connection: made through a chosen interface, and what the kernel knows of it.

Owns: the road from a name to a connected socket. Promises: bounded: the look-up, then 5 s an address and 10 s in all;
a socket that is not returned is closed. Never: speaks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
import time

from msgspec import Struct

from gateway.uplink.names import NAMES, Names

CONNECT_S = 5.0
_ALL_S = 10.0
_BINDTODEVICE = 25
_GETIFADDR = 0x8915
"""SIOCGIFADDR of linux/sockios.h."""
_GETIFFLAGS, _IFF_RUNNING = 0x8913, 0x40
"""SIOCGIFFLAGS and the flag of an interface that has a carrier."""
HEADER_BYTES = 52
"""IPv4 and TCP with time stamps; IPv6 takes 20 more."""
_INFO = struct.Struct("=24xI92xQQIII52xQ")
"""struct tcp_info of linux/tcp.h: unacked; bytes_acked, bytes_received, segs_out, segs_in (4.2), notsent_bytes (4.6),
bytes_sent (4.19)."""


def bind_to(sock: socket.socket, interface: str) -> None:
    """Let a new socket speak through this interface only.

    By device; that needs CAP_NET_RAW before Linux 5.7, so else by the interface's IPv4 address, which steers packets
    only where the system routes by source.

    Raises:
        OSError: there is no such interface (ENODEV), or it has no address.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _BINDTODEVICE, interface.encode())
    except PermissionError:
        if sock.family != socket.AF_INET:
            raise
        asked = fcntl.ioctl(sock.fileno(), _GETIFADDR, struct.pack("16s24x", interface.encode()[:15]))
        sock.bind((socket.inet_ntoa(asked[20:24]), 0))


def running(sock: socket.socket, interface: str) -> bool:
    """Whether an interface is there, up and has a carrier: a cable, a registered modem. `sock`: any of its network.

    An answer costs a microsecond and needs no rights.
    """
    try:
        told = fcntl.ioctl(sock.fileno(), _GETIFFLAGS, struct.pack("16s24x", interface.encode()[:15]))
    except OSError:
        return False
    flags: int = struct.unpack_from("=H", told, 16)[0]
    return bool(flags & _IFF_RUNNING)


def dial(host: str, port: int, interface: str = "", names: Names = NAMES) -> socket.socket:
    """Connect; the socket has a time-out of 5 s.

    Raises:
        OSError: the last address' error.
    """
    until = time.monotonic() + _ALL_S
    problem: OSError = TimeoutError(f"no address of {host} answered within {_ALL_S:g} s")
    for address in names.addresses(host, port):
        left_s = until - time.monotonic()
        if left_s <= 0:
            break
        sock = socket.socket(address[0], socket.SOCK_STREAM)
        try:
            if interface:
                bind_to(sock, interface)
                if not running(sock, interface):
                    raise OSError(errno.ENETDOWN, f"interface {interface} has no carrier")
            sock.settimeout(min(CONNECT_S, left_s))
            sock.connect(address[1])
            sock.settimeout(CONNECT_S)
            # A small message must not wait for the acknowledgement of the one before.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            problem = error
            if error.errno in (errno.ENODEV, errno.ENETDOWN):
                break  # not the address' fault
            names.worked(host, port, address, well=False)
            continue
        names.worked(host, port, address, well=True)
        return sock
    raise problem


class Traffic(Struct, frozen=True):
    """What one TCP connection moved since it began, as its kernel counts."""

    moved_bytes: int = 0
    """Arrived at the other host's kernel or here; grows as long as the connection lives and has something to move."""
    queued: bool = False
    """Something has not arrived at the other host's kernel yet."""
    wire_bytes: int = 0
    """All of it with headers, acknowledgements, TLS and what was sent again: what a SIM pays for."""


def traffic(sock: socket.socket) -> Traffic:
    """Ask the kernel; nothing but zeros where it cannot tell (not Linux, or the socket is gone)."""
    with contextlib.suppress(OSError, struct.error, AttributeError):
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        unacked, acked, received, out, into, unsent, sent = _INFO.unpack(told)
        return Traffic(acked + received, bool(unacked or unsent), sent + received + (out + into) * HEADER_BYTES)
    return Traffic()
