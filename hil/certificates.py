"""A small certificate authority for rigs, by the openssl command.

Owns: the files in its folder. Promises: EC P-256, a server certificate for localhost and 127.0.0.1, clients on demand.
Never: is used outside rigs.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Pair(Struct, frozen=True):
    """A certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A CA in `folder`; issues server and client certificates."""

    def __init__(self, folder: Path, name: str = "rig CA") -> None:
        if shutil.which("openssl") is None:
            raise RuntimeError("openssl is not on the PATH: expected the openssl command; apt-get install openssl")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.cert, self._key = folder / "ca.crt", folder / "ca.key"
        self._run("req", "-x509", *_CURVE, "-keyout", self._key, "-out", self.cert, "-days", "30",
                  "-subj", f"/CN={name}")

    def issue(self, name: str, names: str = "DNS:localhost,IP:127.0.0.1", server: bool = False, days: int = 30) -> Pair:
        """A certificate with common name `name`; `names` are its subjectAltName entries; negative `days`: expired."""
        cert, key, request, ext = (self.folder / f"{name}.{end}" for end in ("crt", "key", "csr", "ext"))
        self._run("req", *_CURVE, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        use = "serverAuth" if server else "clientAuth"
        ext.write_text(f"subjectAltName={names}\nextendedKeyUsage={use}\n")
        self._run("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days",
                  str(days), "-extfile", ext, "-out", cert)
        key.chmod(0o600)
        return Pair(cert, key)

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
