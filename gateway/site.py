"""A site's file: from gateway.yaml to a Config, or to everything that is wrong with it.

Owns: reading, the cross-checks' turn, the folders of templates, secrets from files and environment. Promises: `load`
returns a configuration that can run, or raises with *all* errors of the file, each with file, line, path, what was
expected and what to do. Never: opens hardware, keeps a reference to YAML, puts a secret in a message.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import drivers
from drivers import Library, SetupError, Wire, strictyaml
from gateway import checks
from gateway.config import Config, Platform

if TYPE_CHECKING:
    from gateway.plan import Budget

VARIANTS: dict[type, strictyaml.Variant] = {
    Wire: strictyaml.Variant("driver", lambda name: drivers.find(name).Wire, drivers.names)}
"""The keys of a wire are those of its driver."""
SHIPPED = Path(drivers.__file__).parent.parent / "config"


def library(path: Path) -> Library:
    """Folders of sensor templates for the configuration at `path`: the site's own, then the shipped ones."""
    return (path.parent / "sensors", SHIPPED / "sensors")


def _examine(path: Path) -> strictyaml.Parsed[Config]:
    parsed = strictyaml.parse(strictyaml.read(path), str(path), Config, VARIANTS)
    if parsed.mended is not None:
        # the cross-checks also run over a file with errors, so that all are seen at once
        parsed.problems = sorted({*parsed.problems, *checks.problems(parsed, library(path))})
    return parsed


def load(path: Path) -> Config:
    """Return the configuration in a file.

    Raises:
        strictyaml.Problems: everything that is wrong with it; nothing of it may run.
    """
    parsed = _examine(path)
    if parsed.problems or parsed.value is None:
        raise strictyaml.Problems(parsed.problems)
    return parsed.value


def check(path: Path) -> list[strictyaml.Problem]:
    """Return everything that is wrong with a file, sorted by line; empty when it can run."""
    try:
        return _examine(path).problems
    except strictyaml.Problems as problems:
        return problems.problems


def plan(path: Path) -> tuple[Budget, list[strictyaml.Problem]]:
    """Reckon what a file will cost; the problems are what exceeds 80 % of a wire, the SIM or the card.

    A box runs with them all the same: these are for who sets it up.

    Raises:
        strictyaml.Problems: everything that is wrong with the file itself.
    """
    from gateway.plan import budget  # the service does not need it

    parsed = _examine(path)
    if parsed.problems or parsed.value is None:
        raise strictyaml.Problems(parsed.problems)
    reckoned = budget(parsed.value, library(path))
    return reckoned, sorted(parsed.problem(excess.path, excess.en) for excess in reckoned.excesses)


def secret(platform: Platform, folder: Path) -> str | None:
    """Return a platform's password, or None when it has none.

    Args:
        platform: names the file or the environment variable that holds it.
        folder: the folder of the configuration, to which a relative file name is relative.

    Raises:
        SetupError: the variable is not set, or the file is missing, empty, or readable by others. Its content and
            the names given in the configuration are not repeated: somebody may have written the password there.
    """
    where = f"platforms: {platform.id}"
    if platform.password_env is not None:
        value = os.environ.get(platform.password_env)
        if not value:
            raise SetupError(f"{where}: the environment variable named by password_env is not set or empty")
        return value
    if platform.password_file is None:
        return None
    where = f"{where}: the file named by password_file"
    try:
        with (folder / platform.password_file).open("rb") as file:
            # of the open file, so that nobody swaps it between the look and the reading
            status = os.fstat(file.fileno())
            text = file.read(4097)
    except OSError as error:
        raise SetupError(f"{where} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(f"{where} is no ordinary file")
    if status.st_uid not in (os.geteuid(), 0):
        raise SetupError(f"{where} belongs to another user: expected root or the user of the service")
    if stat.S_IMODE(status.st_mode) not in (0o600, 0o400):
        raise SetupError(f"{where} has mode {stat.S_IMODE(status.st_mode):04o}, expected 0600: chmod 600")
    try:
        password = text.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SetupError(f"{where} is not UTF-8") from None
    if not password or len(text) > 4096 or "\n" in password:
        raise SetupError(f"{where} holds {len(text)} bytes, expected the password alone, on one line") from None
    return password
