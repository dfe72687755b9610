"""Who turns an RS-485 transceiver round: the adapter itself, the kernel, or we by RTS.

Owns: the choice and its delays; the kernel's `struct serial_rs485`. Promises: what the kernel was told is read back;
a port that cannot do it is a `LinkError` that says what to set instead. Never: sends, keeps time.

Source: linux/Documentation/driver-api/serial/serial-rs485.rst, include/uapi/linux/serial.h. pyserial's own
`rs485_mode` is not used: it cuts delays down to whole milliseconds and does not look at what the driver made of them.
"""

from __future__ import annotations

import fcntl
import math
import struct
import termios
from typing import Annotated, Literal

from msgspec import Meta, Struct

from drivers import LinkError

TIOCGRS485, TIOCSRS485 = 0x542E, 0x542F
ENABLED, ON_SEND, AFTER_SEND, RX_DURING_TX = 1, 2, 4, 16
"""Flags of `struct serial_rs485`."""
_RS485 = struct.Struct("=8I")
"""flags, delay_rts_before_send, delay_rts_after_send (ms), padding."""
_INSTEAD = "most adapters switch direction by themselves: set direction: auto"

Delay = Annotated[float, Meta(ge=0, le=100)]


class Direction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the line is taken for sending and given back."""

    by: Literal["auto", "kernel", "rts"] = "auto"
    """auto: the adapter does it, or there is nothing to switch · kernel: the port's driver (boards whose RTS pin goes
    to the transceiver) · rts: we do; the line is given back late when the machine is busy, so only where it must be."""
    rts_to_send: Literal["high", "low"] = "high"
    """Level of RTS while sending."""
    before_ms: Delay = 0.0
    """From taking the line to the first bit; the kernel counts whole milliseconds."""
    after_ms: Delay = 0.0
    """From the last bit to giving it back; the kernel counts whole milliseconds."""

    def before_s(self) -> float:
        """Seconds from the write to the first bit, when others than we make them."""
        return math.ceil(self.before_ms) / 1000 if self.by == "kernel" else 0.0


AUTO = Direction()


def tell_kernel(fd: int, path: str, direction: Direction, hear_itself: bool) -> None:
    """Let the port's driver switch.

    Args:
        fd: the open port.
        path: its name, for messages.
        direction: `by` kernel.
        hear_itself: leave the receiver on while sending (an echo is declared).

    Raises:
        LinkError: this port cannot.
    """
    flags = ENABLED | (ON_SEND if direction.rts_to_send == "high" else AFTER_SEND) | hear_itself * RX_DURING_TX
    wanted = _RS485.pack(flags, math.ceil(direction.before_ms), math.ceil(direction.after_ms), 0, 0, 0, 0, 0)
    try:
        fcntl.ioctl(fd, TIOCSRS485, wanted)
        got = _RS485.unpack(fcntl.ioctl(fd, TIOCGRS485, bytes(_RS485.size)))
    except OSError as error:
        raise LinkError(f"serial port {path} has no RS-485 switching in the kernel ({error.strerror}); "
                        f"{_INSTEAD}") from error
    # Drivers clear what they cannot do and say nothing.
    polarity = ENABLED | ON_SEND | AFTER_SEND
    if got[0] & polarity != flags & polarity:
        raise LinkError(f"serial port {path} took RS-485 flags {flags:#x} as {got[0]:#x}: its driver cannot hold RTS "
                        f"{direction.rts_to_send} while sending; set rts_to_send: "
                        f"{'low' if direction.rts_to_send == 'high' else 'high'} if the board allows it, or {_INSTEAD}")


def set_rts(fd: int, path: str, high: bool) -> None:
    """Drive RTS.

    Raises:
        LinkError: this port has no such line.
    """
    try:
        fcntl.ioctl(fd, termios.TIOCMBIS if high else termios.TIOCMBIC, struct.pack("=I", termios.TIOCM_RTS))
    except OSError as error:
        raise LinkError(f"serial port {path} has no RTS line to switch direction with ({error.strerror}); "
                        f"{_INSTEAD}") from error
