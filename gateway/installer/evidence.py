"""What exchanges with a device add up to: the measures a diagnosis looks at.

Owns: the closed list of measures. Promises: pure functions of what was asked and heard. Never: does I/O, judges.
"""

from __future__ import annotations

import errno
import re
import socket
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from drivers import LinkError, Note
from drivers.exchange import Request
from gateway.installer.link import Gone, Trial
from gateway.installer.overheard import frames, is_echo, is_noise

USUAL_TIMEOUT_S = 0.3
"""What a wire waits unless its configuration says otherwise."""

Measures = Mapping[str, float]

MEASURES = {
    # name: what it counts
    "asked": "exchanges",
    "answered": "exchanges with a sound answer of the device, refusals included",
    "answered_share": "answered / asked",
    "refused": "answers that say why not",
    "refused_share": "refused / asked",
    "inside": "answers that say the device failed inside (code 4)",
    "busy": "answers that say later",
    "silent": "exchanges without a byte",
    "silent_share": "silent / asked",
    "broken": "exchanges with bytes but no sound frame",
    "broken_share": "broken / (broken + answered)",
    "same_share": "of the broken ones: how many are byte for byte the most frequent one",
    "length_share": "of the broken ones: how many have the most frequent length",
    "broken_bytes": "that length",
    "headed_share": "of the broken ones: how many begin with the right address and function",
    "heard_any": "exchanges in which anything but switching noise was heard",
    "noise": "exchanges in which only 00, F8 to FF was heard",
    "echoed": "exchanges that began with the own request",
    "echoed_share": "echoed / asked",
    "foreign": "exchanges with a sound frame of somebody nobody asked",
    "doubled": "exchanges with a right answer and another one behind it",
    "wrong_shape": "exchanges with one sound answer of another length or function",
    "late": "sound answers later than a wire waits usually",
    "late_share": "late / answered",
    "response_ms": "median of the responses",
    "response_max_ms": "the longest",
    "unasked_bytes": "bytes heard while nobody asked",
    "unasked_frames": "sound frames among them",
    "unasked_requests": "those that ask something",
    "elsewhere": "1 when the device answers with other settings",
    "missing": "1 when there is no such port",
    "forbidden": "1 when this user may not open it",
    "held": "1 when another program holds it",
    "host_refuses": "1 when nobody listens at this host and port",
    "host_silent": "1 when the host cannot be reached",
    "not_tcp": "1 when what comes back is no Modbus TCP",
    "rtu_over_tcp": "sound RTU answers to an RTU request over the TCP connection",
    "gone": "1 when the port went away meanwhile",
}
"""All of them. One that was not taken is 0."""


def weigh(trials: Iterable[Trial], unasked: bytes = b"", more: Measures | None = None) -> dict[str, float]:
    """Count the measures.

    Args:
        trials: exchanges with one device, or of a whole search.
        unasked: what was heard while nobody asked.
        more: measures taken otherwise.
    """
    taken = list(trials)
    found = dict.fromkeys(MEASURES, 0.0)
    found["asked"] = len(taken)
    garbage: list[bytes] = []
    responses: list[float] = []
    for n, trial in enumerate(taken):
        garbage += _one(trial, found, responses)
        if n:   # what came before the first question belongs to nobody's
            _between(taken[n - 1], trial, found)
    if garbage:
        # The same question gets the same answer, so the same garbage: told apart by question.
        found["same_share"] = Counter(garbage).most_common(1)[0][1] / len(garbage)
        size, times = Counter(map(len, garbage)).most_common(1)[0]
        found["headed_share"] /= len(garbage)
        found["length_share"], found["broken_bytes"] = times / len(garbage), size
        found["broken_share"] = len(garbage) / (len(garbage) + found["answered"])
    for name in ("answered", "refused", "silent", "echoed"):
        found[f"{name}_share"] = found[name] / len(taken) if taken else 0.0
    if responses:
        found["late_share"] = found["late"] / found["answered"]
        found["response_ms"] = 1000 * statistics.median(responses)
        found["response_max_ms"] = 1000 * max(responses)
    heard = frames(unasked)
    found["unasked_bytes"] = 0 if is_noise(unasked) else len(unasked)
    found["unasked_frames"] += len(heard)
    found["unasked_requests"] += sum(frame.is_request for frame in heard)
    return found | dict(more or {})


def _one(trial: Trial, found: dict[str, float], responses: list[float]) -> Sequence[bytes]:
    """Count one exchange; return its garbage."""
    heard, data = trial.heard, bytes(trial.heard.data)
    if heard.note is None or heard.code:
        found["answered"] += 1
        found["heard_any"] += 1
        found["refused"] += heard.note is Note.REFUSED
        found["inside"] += heard.code == 4
        found["busy"] += heard.note is Note.BUSY
        if heard.response_s is not None:
            responses.append(heard.response_s)
            found["late"] += heard.response_s > USUAL_TIMEOUT_S
        return ()
    if not data or is_noise(data):
        found["silent" if not data else "noise"] += 1
        return ()
    found["heard_any"] += 1
    if is_echo(trial.ask.frame, data):
        found["echoed"] += 1
        return ()
    sound = frames(data)
    ours = [frame for frame in sound if frame.unit == trial.ask.unit]
    found["foreign"] += len(ours) < len(sound)
    twice = len(ours) > 1 or bool(ours and _fits(trial.ask, ours[0].data))   # the right answer, and more behind it
    found["doubled"] += twice
    found["wrong_shape"] += len(ours) == 1 and not twice
    if sound:
        return ()
    found["broken"] += 1
    found["headed_share"] += data.startswith(trial.ask.frame[:2])
    return (data,)


def _between(last: Trial, trial: Trial, found: dict[str, float]) -> None:
    """Count what was said between two questions: a second answer to the last one, or another master."""
    if is_noise(trial.heard.stray):
        return
    said = frames(trial.heard.stray)
    found["doubled"] += any(frame.unit == last.ask.unit and not frame.is_request for frame in said) and (
        last.heard.note is None)
    found["unasked_requests"] += sum(frame.is_request for frame in said)
    found["unasked_frames"] += len(said)


def _fits(ask: Request, frame: bytes) -> bool:
    return len(frame) == ask.answer_bytes + 3 and frame[1:].startswith(ask.head)


_ERRNO = {errno.ENOENT: "missing", errno.ENODEV: "missing", errno.ENXIO: "missing", errno.ENOTTY: "missing",
          errno.EACCES: "forbidden", errno.EPERM: "forbidden", errno.EBUSY: "held", errno.EAGAIN: "held",
          errno.ECONNREFUSED: "host_refuses", errno.EHOSTUNREACH: "host_silent", errno.ENETUNREACH: "host_silent",
          errno.ETIMEDOUT: "host_silent"}


def broken_link(error: LinkError) -> dict[str, float]:
    """Translate a port that cannot be opened, or went away, into measures."""
    cause = error.__cause__
    tcp = "tcp://" in str(error)
    if isinstance(error, Gone):
        return {"not_tcp" if "does not speak Modbus TCP" in str(error) else "gone": 1.0}
    if isinstance(cause, TimeoutError | socket.gaierror | UnicodeError):
        return {"host_silent": 1.0}
    told = re.search(r"\[Errno (\d+)\]", str(error))
    number = getattr(cause, "errno", None) or (int(told[1]) if told else 0)
    return {_ERRNO.get(number, "host_silent" if tcp else "missing"): 1.0}
