"""TLS for a box that does not know what day it is.

Owns: what is checked of a certificate's dates while the clock is unset. Promises: chain and name are verified always; a
certificate that had ended before the latest moment the box is sure of is refused, also then; the grace ends with the
first known time, and at the latest after `tls_grace_h` of a boot. Never: switches verification off.

Without it a box whose clock chip died could never reach the network that would tell it the time. What it risks: for as
long as the grace lasts, a certificate that ended after `floor_ms` and before today is accepted.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from gateway.config import Tls
from gateway.uplink.tls import tls_context

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (OpenSSL, X509_VERIFY_PARAM_set_flags(3)); Python has no name for it."""


def lenient(tls: Tls) -> ssl.SSLContext:
    """A context that verifies chain and name and leaves the dates to `judge`.

    Raises:
        OSError, ssl.SSLError: as `tls_context`.
    """
    context = tls_context(tls)
    context.verify_flags |= _NO_CHECK_TIME
    return context


def judge(certificate: Mapping[str, Any] | None, floor_ms: int) -> None:
    """Look at the dates of the peer's own certificate (those of its issuers are not seen from here).

    Raises:
        ssl.SSLCertVerificationError: it had ended before `floor_ms`, the latest UTC the box is sure of.
    """
    ends = str((certificate or {}).get("notAfter", ""))
    if not ends or 1000 * ssl.cert_time_to_seconds(ends) < floor_ms:
        error = ssl.SSLCertVerificationError(f"certificate has expired (ended {ends or 'never said'})")
        error.verify_message = "certificate has expired"
        raise error
