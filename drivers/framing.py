"""How a request travels, and how an answer is found in what is heard: RTU or ASCII characters.

Owns: the two framings a serial line (or a transparent TCP converter) can carry. Promises: the same verdicts in both;
a frame that does not check is never data. Never: does I/O, keeps time. (Modbus TCP is `tcp.py`'s own: it has a header.)

Source: Modbus over Serial Line V1.02, 2.5.1 (RTU) and 2.5.2 (ASCII).
"""

from __future__ import annotations

import binascii
from typing import Literal, Protocol

from drivers import Note
from drivers.exchange import Raw, Request, Verdict, hear_rtu, leftover, lrc

Framing = Literal["rtu", "ascii"]


class Frames(Protocol):
    """A framing."""

    def encode(self, ask: Request) -> bytes:
        """Return the request as it travels."""
        ...

    def hear(self, ask: Request, heard: bytes) -> Verdict | None:
        """Judge what was heard since the request went out; None to listen on."""
        ...

    def leftover(self, ask: Request, heard: bytes) -> Note:
        """Name the failure when the line fell silent before `hear` could decide."""
        ...

    def size(self, ask: Request) -> int:
        """Return the characters of the right answer; 0 when none is due."""
        ...

    def begun(self, ask: Request, heard: bytes) -> bool:
        """Whether what was heard looks like the beginning of an answer to `ask` itself."""
        ...


class Rtu:
    """Bytes with a CRC, told apart by silence."""

    def encode(self, ask: Request) -> bytes:
        """Return the request as it travels."""
        return ask.frame

    def hear(self, ask: Request, heard: bytes) -> Verdict | None:
        """Judge what was heard."""
        return hear_rtu(ask, heard)

    def leftover(self, ask: Request, heard: bytes) -> Note:
        """Name the failure of an answer that never became whole."""
        return leftover(ask, heard)

    def size(self, ask: Request) -> int:
        """Return the characters of the right answer."""
        return ask.answer_bytes + 3 if ask.answer_bytes else 0

    def begun(self, ask: Request, heard: bytes) -> bool:
        """Whether unit and function are those asked for."""
        return len(heard) > 1 and heard[0] == ask.unit and heard[1] == ask.function


class Ascii:
    """Hexadecimal text between a colon and CR LF, with an LRC."""

    def encode(self, ask: Request) -> bytes:
        """Return the request as it travels.

        Raises:
            ValueError: a raw RTU frame has no ASCII form.
        """
        if isinstance(ask, Raw):
            raise ValueError("a raw frame travels on RTU lines only")
        plain = bytes([ask.unit]) + ask.pdu
        return b":" + (plain + bytes([lrc(plain)])).hex().upper().encode() + b"\r\n"

    def hear(self, ask: Request, heard: bytes) -> Verdict | None:
        """Judge what was heard; whole frames of other units are passed over."""
        at = 0
        while (start := heard.find(b":", at)) >= 0:
            end = heard.find(b"\r\n", start)
            again = heard.find(b":", start + 1)
            if end < 0 or 0 <= again < end:
                if again < 0:
                    return None
                at = again   # a frame that broke off: the next colon begins anew (2.5.2.1)
                continue
            try:
                plain = binascii.unhexlify(heard[start + 1:end])
            except binascii.Error:
                return Verdict(Note.BAD_CRC)
            if len(plain) < 4 or lrc(plain[:-1]) != plain[-1]:
                return Verdict(Note.BAD_CRC)
            if plain[0] == ask.unit:
                return ask.judge(plain[0], plain[1:-1])
            at = end
        return None

    def leftover(self, ask: Request, heard: bytes) -> Note:  # noqa: ARG002
        """Name the failure of an answer that never became whole."""
        if not heard.strip(b"\0\xff\r\n"):
            return Note.NO_ANSWER
        end = heard.rfind(b"\r\n")
        whole = end > 0 and heard.rfind(b":") < end
        return Note.FOREIGN if whole else Note.BAD_CRC

    def size(self, ask: Request) -> int:
        """Return the characters of the right answer."""
        return 2 * (ask.answer_bytes + 2) + 3 if ask.answer_bytes else 0

    def begun(self, ask: Request, heard: bytes) -> bool:
        """Whether unit and function are those asked for."""
        return heard.startswith(b":%02X%02X" % (ask.unit, ask.function))


FRAMES: dict[Framing, Frames] = {"rtu": Rtu(), "ascii": Ascii()}
