"""What can be wrong with a device's answer, by name.

Owns: the names, and what each does to an answer. Promises: every fault here can be told from a right answer by a
careful program (a bit flip with a repaired CRC cannot, so it is none); `ACCEPTABLE` are those a program should put up
with, `DOUBTFUL` those it may refuse though what they say is true. Never: keeps time or state.
"""

from __future__ import annotations

from typing import Literal, get_args

Fault = Literal[
    "",
    "silent",              # no answer
    "late",                # `Slave.late_s` after the request instead of `turnaround_s`
    "garbled",             # a bit differs (on TCP: the protocol number)
    "cut_short",           # half of the frame
    "wrong_unit", "wrong_function",
    "short",               # one register or coil byte fewer, frame sound
    "exception",           # `Slave.exception`, any code
    "busy",                # exception 6
    "gateway_path", "gateway_target",   # exceptions 10 and 11
    "leading_zero", "trailing_zero", "trailing_ff",   # bytes that switching the line's direction makes
    "doubled",             # the answer twice
    "stale",               # the answer to the previous question; silent where nobody could tell
    "wrong_transaction",   # TCP only
    "babbling",            # talks unasked: `Slave.babble_bytes` every `Slave.babble_s`
    "refuses_writes",      # exception `Slave.exception` to every write
    "forgets",             # writes are answered but not stored
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
SERIAL_ONLY = frozenset({"leading_zero", "trailing_zero", "trailing_ff", "babbling"})
"""No faults of Modbus TCP, whose frames say how long they are."""
ACCEPTABLE = frozenset({"", "leading_zero", "trailing_zero", "trailing_ff", "babbling", "refuses_writes", "forgets"})
DOUBTFUL = frozenset({"late", "doubled"})

_OTHER = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 15: 16, 16: 15}
_CODES = {"busy": 6, "gateway_path": 10, "gateway_target": 11}


def refusal(request: bytes, code: int) -> bytes:
    """Return an exception's PDU."""
    return bytes([request[0] | 0x80, code])


def bent(fault: Fault, unit: int, request: bytes, honest: bytes, exception: int) -> tuple[int, bytes]:
    """Return unit and PDU of an answer as a fault makes them."""
    if fault == "wrong_unit":
        return unit % 247 + 1, honest
    if fault == "wrong_function":
        return unit, bytes([_OTHER.get(request[0], request[0] ^ 1)]) + honest[1:]
    if fault == "short" and not honest[0] & 0x80:
        if request[0] > 4:
            return unit, honest[:-1]
        cut = 1 if request[0] in (1, 2) else 2
        return unit, bytes([honest[0], max(0, honest[1] - cut)]) + honest[2:-cut]
    if fault == "exception":
        return unit, refusal(request, exception)
    if fault in _CODES:
        return unit, refusal(request, _CODES[fault])
    return unit, honest


def spoilt(fault: Fault, frame: bytes) -> bytes:
    """Return the whole frame as a fault of the line makes it."""
    match fault:
        case "garbled":
            return frame[:-3] + bytes([frame[-3] ^ 0x10]) + frame[-2:]
        case "cut_short":
            return frame[:len(frame) // 2]
        case "leading_zero":
            return b"\0" + frame
        case "trailing_zero":
            return frame + b"\0"
        case "trailing_ff":
            return frame + b"\xff"
        case "doubled":
            return frame + frame
    return frame
