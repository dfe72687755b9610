"""How the process asks for memory: one arena for all threads, a collector that leaves the box alone."""

import platform
import subprocess
import sys

import pytest

ARENAS = """
import ctypes, threading
from gateway import heap
if {share}:
    heap.share()
def work():
    blocks = [bytes(2000) for _ in range(500)]
    both.wait()
    del blocks
both = threading.Barrier(4)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
@pytest.mark.parametrize("share", [True, False])
def test_all_threads_share_one_arena(share: bool):
    said = subprocess.run([sys.executable, "-c", ARENAS.format(share=share)], check=True, capture_output=True,
                          text=True, timeout=30).stderr
    assert (said.count("Arena ") == 1) is share   # the second run shows that the first could have failed


def test_what_is_built_is_not_walked_again():
    script = "import gc; from gateway import heap; heap.settle(); print(gc.get_freeze_count(), len(gc.get_objects()))"
    frozen, watched = map(int, subprocess.run([sys.executable, "-c", script], check=True, capture_output=True,
                                              text=True, timeout=30).stdout.split())
    assert frozen > 1000
    assert watched < 100
