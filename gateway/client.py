"""The other side of the control socket: for commands, the demo's screen and tests.

Owns: one question and its answer, and what to tell a person who gets none. Promises: every failure says in both
languages what to do. Never: is used by the service itself.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

REPLY_BYTES = 16 * 1024 * 1024
ANSWER_S = 10.0
BUSY_TURN_S = 0.02
SUN_PATH = 107
"""Bytes that fit into sockaddr_un.sun_path, less the closing zero (unix(7))."""


class Unreachable(OSError):  # noqa: N818 (a state of the gateway, not of this program)
    """The gateway could not be asked. Says why in both languages."""

    def __init__(self, text_en: str, text_zh: str) -> None:
        super().__init__(text_en)
        self.text_en, self.text_zh = text_en, text_zh


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Give an address for `path` that fits into sun_path, however deep the folder is."""
    if len(os.fsencode(path)) <= SUN_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def ask(path: str | Path, request: Mapping[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any]:
    """Ask the running gateway: ``ask(path, {"do": "status"})``. Returns its reply, also a refusal (``ok: false``).

    Raises:
        Unreachable: nobody is there, no permission, no answer in time, or an answer that is none.
    """
    path = Path(path)
    line = msgspec.json.encode(dict(request)) + b"\n"
    answer = bytearray()
    end_s = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_s)
            with short_path(path) as address:
                while (code := connection.connect_ex(address)) == errno.EAGAIN and time.monotonic() < end_s:
                    time.sleep(BUSY_TURN_S)  # its queue is full for the moment
            if code:
                raise TimeoutError if code == errno.EAGAIN else OSError(code, os.strerror(code))
            with contextlib.suppress(BrokenPipeError):  # refused while still sending: the answer says why
                connection.sendall(line)
            while not answer.endswith(b"\n") and len(answer) <= REPLY_BYTES:
                connection.settimeout(max(0.001, end_s - time.monotonic()))
                chunk = connection.recv(1 << 16)
                if not chunk:
                    break
                answer += chunk
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Unreachable(f"nobody answers at {path}: is the gateway running? (systemctl status mingluo)",
                               f"{path} 无人应答：网关是否在运行？（systemctl status mingluo）") from error
        except PermissionError as error:
            group = _group(path)
            raise Unreachable(f"no permission for {path}: use sudo, or join its group "
                               f"(sudo usermod -aG {group} $USER) and log in again",
                               f"无权访问 {path}：请用 sudo，或加入用户组 "
                               f"（sudo usermod -aG {group} $USER）后重新登录") from error
        except TimeoutError as error:
            raise Unreachable(f"the gateway at {path} did not answer within {timeout_s:g} s",
                               f"{path} 处的网关 {timeout_s:g} 秒内无应答") from error
        except OSError as error:
            if not answer:
                why = error.strerror or error
                raise Unreachable(f"{path}: {why}", f"{path}：{why}") from error
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Unreachable(f"the gateway at {path} hung up without a whole answer ({len(answer)} bytes)",
                           f"{path} 处的网关未给出完整应答（{len(answer)}字节）") from error


def _group(path: Path) -> str:
    """Name the group that may knock: the socket's, or that of the first folder on the way that lets nobody in."""
    for place in (path, *path.parents):
        try:
            return grp.getgrgid(place.stat().st_gid).gr_name
        except (OSError, KeyError):
            continue
    return "mingluo"
