"""A small real disk: an ext4 image on a loop device, which can be full, read-only, broken or stalled.

Owns: the image, its mount, the faults. Promises: faults begin and end at run time, from outside; what was stored before
a fault is there after it; `ok` ends every fault; leaving unmounts. Never: touches another device or mount.

`error` shrinks the loop device under the mounted file system (LOOP_SET_STATUS64), so that every read and write of file
contents fails with EIO; `stall` freezes the file system (FIFREEZE): who writes sleeps in the kernel. Neither needs a
device mapper.

Limits: needs root, a loop device and e2fsprogs (`LoopRefusedError` says which is missing). No ext4 journal: with one,
an I/O error makes the file system read-only until it is unmounted (on Linux 6.15 and later also without one, by
`errors=remount-ro`), which no open file survives. `read_only` is what mount(8) can do: not while a file is open for
writing. A process that hangs in a stalled disk cannot even be killed before `ok`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Self

SIZE_BYTES = 16 << 20
_KEPT_BYTES = 64 << 10
"""Superblock, bitmaps, inodes and the root folder of such an image lie before this: the files, not the file system,
are what breaks. Were an inode beyond it, ext4 would ask for it for ever instead of failing."""
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878                     # linux/fs.h
_LOOP_SET_STATUS64, _LOOP_GET_STATUS64 = 0x4C04, 0x4C05          # linux/loop.h
_STATUS_BYTES, _SIZE_LIMIT_AT = 232, 32
_UNMOUNT_S = 5.0


class LoopRefusedError(RuntimeError):
    """This machine does not let us mount an image; the message says why."""


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


class LoopDisk:
    """An ext4 file system of `size_bytes` mounted on `folder`, which is made. A context manager.

    Raises:
        LoopRefusedError: on entering; not root, no loop device, no mkfs.ext4, or mount(8) refuses.
    """

    def __init__(self, folder: Path, image: Path, size_bytes: int = SIZE_BYTES) -> None:
        self.folder, self.image = folder, image
        self._size_bytes = size_bytes
        self._ballast = folder / "ballast"
        self._device = ""
        self._frozen = self._broken = self._read_only = False

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LoopRefusedError("not root: an image cannot be mounted")
        if not Path("/dev/loop-control").exists():
            raise LoopRefusedError("no loop device: /dev/loop-control is missing")
        if shutil.which("mkfs.ext4") is None:
            raise LoopRefusedError("no mkfs.ext4: apt-get install e2fsprogs")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as image:
            image.truncate(self._size_bytes)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-N", "64", "-O", "^has_journal,^resize_inode,^flex_bg",
             "-E", "lazy_itable_init=0", str(self.image))
        try:
            _run("mount", "-t", "ext4", "-o", "loop,errors=continue", str(self.image), str(self.folder))
        except RuntimeError as error:
            raise LoopRefusedError(str(error)) from None
        self._device = _run("findmnt", "-n", "-o", "SOURCE", str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        self.ok()
        deadline_s = time.monotonic() + _UNMOUNT_S
        while True:
            try:
                _run("umount", str(self.folder))  # the loop device goes with it
            except RuntimeError:
                if time.monotonic() > deadline_s:
                    _run("umount", "--lazy", str(self.folder))
                    raise
                time.sleep(0.05)  # the kernel lets go of a killed process's files a moment later
            else:
                return

    def ok(self) -> None:
        """An ordinary disk."""
        if self._frozen:
            self._file_system(_FITHAW)
            self._frozen = False
        if self._broken:
            self._limit(0)
            self._broken = False
        if self._read_only:
            _run("mount", "-o", "remount,rw", str(self.folder))
            self._read_only = False
        self._ballast.unlink(missing_ok=True)

    def full(self) -> None:
        """No block is free: writes that need one fail with ENOSPC."""
        fd = os.open(self._ballast, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            size, step = 0, self._size_bytes
            while step >= 4096:  # halving: one allocation that does not fit is refused whole
                try:
                    os.posix_fallocate(fd, size, step)
                    size += step
                except OSError:
                    os.ftruncate(fd, size)
                    step //= 2
        finally:
            os.close(fd)

    def read_only(self) -> None:
        """Remount read-only.

        Raises:
            RuntimeError: somebody has a file open for writing.
        """
        _run("mount", "-o", "remount,ro", str(self.folder))
        self._read_only = True

    def error(self) -> None:
        """Reads and writes of files fail with EIO; what the kernel has in memory can still be read."""
        self._limit(_KEPT_BYTES)
        self._broken = True

    def stall(self) -> None:
        """Writes and syncs do not return until `ok`."""
        self._file_system(_FIFREEZE)
        self._frozen = True

    def _file_system(self, request: int) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, request, 0)
        finally:
            os.close(fd)

    def _limit(self, size_bytes: int) -> None:
        fd = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
        try:
            status = bytearray(_STATUS_BYTES)
            fcntl.ioctl(fd, _LOOP_GET_STATUS64, status)
            struct.pack_into("<Q", status, _SIZE_LIMIT_AT, size_bytes)
            fcntl.ioctl(fd, _LOOP_SET_STATUS64, bytes(status))
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
