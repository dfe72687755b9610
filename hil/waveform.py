"""What a UART makes of characters sent with other settings than its own: the wire bit by bit.

Owns: serial settings as a line knows them, and how they are read off a pty. Promises: what is heard depends on the
bytes and both settings alone, as on copper: a start edge, samples in the middle of each bit, a stop bit that may be
missing. Never: keeps time, draws random numbers.
"""

from __future__ import annotations

import fcntl
import struct
import termios

from msgspec import Struct

from drivers.sensor import Serial

_TCGETS2 = 0x802C542A
"""The one ioctl that tells any speed as a number (asm-generic; x86 and arm)."""


class Settings(Struct, frozen=True):
    """How characters travel."""

    baud: int
    parity: str | None = "none"
    """None: unknown, taken for whatever the other side uses."""
    stop_bits: int = 1
    data_bits: int = 8

    @property
    def bits(self) -> int:
        """Bits of a character, from its start bit to its last stop bit."""
        return 1 + self.data_bits + (self.parity not in ("none", None)) + self.stop_bits

    @property
    def char_s(self) -> float:
        """Seconds of a character."""
        return self.bits / self.baud

    @property
    def silence_s(self) -> float:
        """Seconds of silence owed between RTU frames (Modbus over Serial Line V1.02, 2.5.1.1)."""
        return 0.00175 if self.baud > 19200 else 3.5 * self.char_s

    def understands(self, other: Settings) -> bool:
        """Whether characters sent with `other` arrive as they are. A second stop bit is only a longer rest."""
        return self.baud == other.baud and self.data_bits == other.data_bits and (
            None in (self.parity, other.parity) or self.parity == other.parity)


def settings(serial: Serial) -> Settings:
    """Return what a wire's or a template's `serial` means."""
    return Settings(serial.baud, serial.parity, serial.stop_bits, getattr(serial, "data_bits", 8))


def of_port(fd: int, strict_parity: bool = False) -> Settings:
    """Read the settings a program has given a pty.

    The kernel's pty driver takes PARENB and the character size away, so parity shows only where the program also
    sets INPCK (libmodbus does) or chooses odd. Otherwise it is None; with `strict_parity`, which says that the program
    sets INPCK whenever it wants parity, no sign of it means there is none.
    """
    answer = fcntl.ioctl(fd, _TCGETS2, bytes(44))
    iflag, _, cflag, _ = struct.unpack_from("=4I", answer)
    baud = struct.unpack_from("=I", answer, 40)[0]
    odd = bool(cflag & termios.PARODD)
    parity = "odd" if odd else "even" if iflag & termios.INPCK else "none" if strict_parity else None
    return Settings(baud or 9600, parity, 2 if cflag & termios.CSTOPB else 1)


def _levels(data: bytes, talker: Settings) -> list[int]:
    """The wire, one entry a bit of the talker's: 1 at rest."""
    levels: list[int] = []
    for byte in data:
        bits = [byte >> n & 1 for n in range(talker.data_bits)]
        parity = {"even": [sum(bits) & 1], "odd": [~sum(bits) & 1]}.get(talker.parity or "none", [])
        levels += [0, *bits, *parity, *[1] * talker.stop_bits]
    return levels


def heard(data: bytes, talker: Settings, listener: Settings) -> tuple[bytes, int]:
    """Return the bytes a listener's UART makes of a frame, and how many had a parity or framing error.

    A serial driver hands bytes with errors on as they are unless INPCK is set; a device drops the frame.
    """
    if listener.understands(talker):
        return data, 0
    if talker.parity is None:
        talker = Settings(talker.baud, listener.parity, talker.stop_bits, talker.data_bits)
    elif listener.parity is None:
        listener = Settings(listener.baud, talker.parity, listener.stop_bits, listener.data_bits)
    levels = _levels(data, talker)
    ratio, end = talker.baud / listener.baud, len(levels)   # the talker's bits in one of the listener's

    def level(at: float) -> int:
        return levels[int(at)] if at < end else 1

    out, errors, at = bytearray(), 0, 0.0
    while True:
        edge = next((n for n in range(int(at), end) if levels[n] == 0 and (n > at or level(at) == 0)), None)
        if edge is None:
            return bytes(out), errors
        start = max(at, float(edge))
        if level(start + 0.5 * ratio):   # too short to be a start bit
            at = float(edge + 1)
            continue
        bits = [level(start + (1.5 + n) * ratio) for n in range(listener.data_bits)]
        after = start + (1.5 + listener.data_bits) * ratio
        wrong = False
        if listener.parity in ("even", "odd"):
            wrong = (sum(bits) + level(after)) & 1 != (listener.parity == "odd")
            after += ratio
        if not level(after):   # no stop bit: wait until the line rests
            wrong = True
            while not level(after):
                after = float(int(after) + 1)
        out.append(sum(bit << n for n, bit in enumerate(bits)))
        errors += wrong
        at = after
