"""The TLS context of a platform."""

from __future__ import annotations

import logging
import ssl
import stat
from pathlib import Path

from gateway.config import Tls

log = logging.getLogger(__name__)


def tls_context(tls: Tls) -> ssl.SSLContext:
    """A context that checks the chain and the name, TLS 1.2 or newer.

    Raises:
        OSError: a file cannot be read; ssl.SSLError: it is not what it should be.
    """
    for path in (tls.ca_file, tls.cert_file, tls.key_file):
        if path is not None:  # the ssl module's own error does not say which file
            with Path(path).open("rb"):
                pass
    if tls.key_file is not None and Path(tls.key_file).stat().st_mode & stat.S_IRWXO:
        log.warning("private key is open to everyone file=%s do='chmod o-rwx'", tls.key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(tls.ca_file)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context
