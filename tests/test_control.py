"""Control: the door on a real unix socket, served by a real worker thread."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drivers import LinkError
from gateway import control
from gateway.client import Unreachable, ask
from gateway.control import CLIENTS, REQUEST_BYTES, Control
from gateway.worker import Worker


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run" / "control.sock"


def failing(_):
    raise RuntimeError("disk on fire")


@pytest.fixture
def gate():
    return {"answer": None}


@pytest.fixture
def door(path, gate):
    handlers = {"status": lambda request: {"name": "石门县雷家山监测站", "arg": request.get("arg"),
                                           "peer": request["peer"]},
                "big": lambda _: {"text": "雨" * 700_000},
                "fail": failing,
                "odd": lambda _: {"value": object()},
                "no": lambda _: control.refusal("no such alarm", "没有该告警"),
                "later": lambda _: lambda: gate["answer"]}
    server = Control(path, handlers)
    worker = Worker("control", server.step, open=server.open, close=server.close, turn_s=0.05)
    worker.start()
    assert worker.tried.wait(5)
    assert worker.last_error == ""
    yield server
    worker.stop()
    assert worker.join(5)


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


def read_all(connection: socket.socket) -> bytes:
    data = bytearray()
    while chunk := connection.recv(65536):
        data += chunk
    return bytes(data)


@pytest.mark.usefixtures("door")
def test_question_and_answer_with_chinese(path):
    reply = ask(path, {"do": "status", "arg": "滑坡"})
    assert reply["ok"] is True
    assert reply["name"] == "石门县雷家山监测站"
    assert reply["arg"] == "滑坡"


@pytest.mark.usefixtures("door")
def test_the_peer_is_who_the_kernel_says_not_what_the_client_says(path):
    peer = ask(path, {"do": "status", "peer": {"uid": 12345}})["peer"]
    assert (peer["pid"], peer["uid"], peer["gid"]) == (os.getpid(), os.getuid(), os.getgid())


@pytest.mark.usefixtures("door")
def test_socket_and_folder_let_in_owner_and_group_only(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o027 == 0


@pytest.mark.usefixtures("door")
def test_an_unknown_request_lists_the_known_ones(path):
    reply = ask(path, {"do": "reboot"})
    assert reply["ok"] is False
    assert reply["text_en"] == "unknown request do='reboot': expected one of big, fail, later, no, odd, status"
    assert reply["text_zh"].startswith("未知请求 'reboot'")


@pytest.mark.usefixtures("door")
def test_a_refusal_is_an_answer(path):
    assert ask(path, {"do": "no"}) == {"ok": False, "text_en": "no such alarm", "text_zh": "没有该告警"}


@pytest.mark.usefixtures("door")
def test_a_failing_handler_is_answered_and_the_door_stays_open(path, caplog):
    assert ask(path, {"do": "fail"})["text_en"] == "fail failed: RuntimeError: disk on fire"
    assert ask(path, {"do": "odd"})["ok"] is False
    assert ask(path, {"do": "status"})["ok"] is True
    assert "a control request failed do=fail" in caplog.text


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("line", [b"hello\n", b"[1,2]\n", b"\n", b"{\"ask\":\n", b"\xff\xfe\n", b"[" * 60_000 + b"\n"],
                         ids=["text", "list", "empty", "half", "bytes", "deep"])
def test_nonsense_gets_an_answer(path, line):
    with connect(path) as connection:
        connection.sendall(line)
        reply = json.loads(read_all(connection))
    assert reply["ok"] is False
    assert reply["text_en"].startswith("not a JSON object")
    assert ask(path, {"do": "status"})["ok"] is True


@pytest.mark.usefixtures("door")
def test_a_request_over_the_limit_is_refused(path):
    reply = ask(path, {"do": "status", "arg": "x" * REQUEST_BYTES})
    assert reply["ok"] is False
    assert str(REQUEST_BYTES) in reply["text_en"]


@pytest.mark.usefixtures("door")
def test_a_request_at_the_limit_is_served(path):
    head = len(json.dumps({"do": "status", "arg": ""}, separators=(",", ":")))
    assert ask(path, {"do": "status", "arg": "x" * (REQUEST_BYTES - head)})["ok"] is True


@pytest.mark.usefixtures("door")
def test_a_large_answer_arrives_whole(path):
    assert len(ask(path, {"do": "big"})["text"]) == 700_000


@pytest.mark.usefixtures("door")
def test_a_request_in_single_bytes_is_served(path):
    with connect(path) as connection:
        for byte in b'{"do":"no"}\n':
            connection.sendall(bytes([byte]))
        assert json.loads(read_all(connection))["text_en"] == "no such alarm"


@pytest.mark.usefixtures("door")
def test_silent_and_slow_clients_delay_nobody(path):
    rude = [connect(path) for _ in range(CLIENTS)]
    rude[0].sendall(b'{"do":')
    reader = connect(path)
    reader.sendall(b'{"do":"big"}\n')  # and does not read
    began = time.monotonic()
    for _ in range(10):
        assert ask(path, {"do": "status"})["ok"] is True
    assert time.monotonic() - began < 2.0
    for connection in (*rude, reader):
        connection.close()


@pytest.mark.usefixtures("door")
def test_a_silent_client_is_dropped_in_the_end(path, monkeypatch):
    monkeypatch.setattr(control, "PATIENCE_S", 0.1)
    with connect(path) as connection:
        assert connection.recv(1) == b""


@pytest.mark.usefixtures("door")
def test_an_answer_of_another_thread_comes_later(path, gate):
    threading.Timer(0.15, lambda: gate.update(answer={"text": "acknowledged"})).start()
    assert ask(path, {"do": "later"}) == {"ok": True, "text": "acknowledged"}


@pytest.mark.usefixtures("door")
def test_waiting_for_another_thread_delays_nobody_and_ends(path, monkeypatch):
    monkeypatch.setattr(control, "PATIENCE_S", 0.5)
    with connect(path) as waiting:
        waiting.sendall(b'{"do":"later"}\n')
        assert ask(path, {"do": "status"})["ok"] is True
        reply = json.loads(read_all(waiting))
    assert reply["ok"] is False
    assert "no answer within 0.5 s" in reply["text_en"]


def test_a_dead_mans_socket_is_replaced(path):
    path.parent.mkdir()
    code = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.is_socket()
    with pytest.raises(Unreachable, match="is the gateway running"):
        ask(path, {"do": "status"})
    server = Control(path, {})
    server.open()
    server.close()
    assert not path.exists()


@pytest.mark.usefixtures("door")
def test_a_living_gateways_socket_is_left_alone(path):
    second = Control(path, {})
    with pytest.raises(LinkError, match="another gateway answers there"):
        second.open()
    second.close()
    assert ask(path, {"do": "status"})["ok"] is True


def test_a_file_in_the_way_is_never_removed(path):
    path.parent.mkdir()
    path.write_text("precious")
    server = Control(path, {})
    with pytest.raises(LinkError, match="something else is there"):
        server.open()
    server.close()
    assert path.read_text() == "precious"


def test_a_socket_removed_by_somebody_is_made_anew(path, door):
    path.unlink()
    end = time.monotonic() + 5
    while not path.is_socket():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert ask(path, {"do": "status"})["ok"] is True
    assert door.path == path


def test_close_leaves_a_successors_socket(path):
    first, second = Control(path, {}), Control(path, {})
    first.open()
    path.unlink()
    second.open()
    first.close()
    assert path.is_socket()
    second.close()
    assert not path.exists()


def test_a_folder_deeper_than_sun_path_works(tmp_path):
    path = tmp_path / ("deep-" * 30) / "control.sock"
    server = Control(path, {"hello": lambda _: {}})
    worker = Worker("control", server.step, open=server.open, close=server.close, turn_s=0.05)
    worker.start()
    assert worker.tried.wait(5)
    assert ask(path, {"do": "hello"}) == {"ok": True}
    worker.stop()
    assert worker.join(5)
    assert not path.exists()


def test_nobody_there_is_said_plainly_in_both_languages(path):
    with pytest.raises(Unreachable, match="is the gateway running") as caught:
        ask(path, {"do": "status"})
    assert "网关是否在运行" in caught.value.text_zh


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
@pytest.mark.usefixtures("door")
def test_no_permission_names_the_group(path):
    for folder in path.parents:  # the temporary folders of a test run are closed to others
        if not folder.stat().st_mode & 0o001 and folder != path.parent:
            folder.chmod(folder.stat().st_mode | 0o011)
    code = ("import os,sys\n"
            "from gateway.client import ask, Unreachable\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "try: ask(sys.argv[1], {'do': 'status'})\n"
            "except Unreachable as e: print(e.text_en)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30,
                          check=False)
    assert "no permission" in done.stdout, done.stderr
    assert "usermod -aG" in done.stdout


def test_a_gateway_that_hangs_up_is_told_from_one_that_answers(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(b'{"ok":')
            connection.close()
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Unreachable, match="without a whole answer"):
            ask(path, {"do": "status"})
        thread.join(5)
        with pytest.raises(Unreachable, match=r"did not answer within 0\.2 s"):
            ask(path, {"do": "status"}, timeout_s=0.2)
