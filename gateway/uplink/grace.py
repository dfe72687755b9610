"""Certificates and a clock that may be wrong.

Owns: by which time a certificate's dates are judged. Promises: chain and name are always verified, by OpenSSL; the
dates are judged by the best that is known: by the system's clock where that is the time, else by what the box knows of
the time (nobody here sets the system's clock, so it may stand in 1970 long after a platform told the time), else, while
nobody knows, by the latest moment the box is sure of; that grace ends with the first known time, and at the latest
`tls_grace_h` after a start of the system. Never: switches verification off.

Without the grace a box whose clock chip died could never reach the network that would tell it the time. What it risks:
for as long as it lasts, a certificate that ended after the sure moment and before today is accepted.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.config import Tls
from gateway.model import Trust
from gateway.uplink.tls import tls_context

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (OpenSSL, X509_VERIFY_PARAM_set_flags(3)); Python has no name for it."""
WRONG_MS = 60_000
"""A system clock that is further off than this judges no certificate."""


class Span(NamedTuple):
    """It is at least `earliest_ms` and at most `latest_ms` (UTC); None: nobody knows."""

    earliest_ms: int
    latest_ms: int | None

    @property
    def unchecked(self) -> bool:
        """Today's date is in no check."""
        return self.latest_ms is None


def span(trust: Trust, utc_ms: int, error_ms: float, *, system_off_ms: int, sure_ms: int, grace: bool) -> Span | None:
    """By what to judge dates; None: by the system's clock, as usual.

    Args:
        trust: of what the box says the time is.
        utc_ms: that time.
        error_ms: its bound.
        system_off_ms: how far the system's clock is ahead of that.
        sure_ms: the latest UTC the box is sure to have lived.
        grace: whether there is still patience with an unset clock.
    """
    if trust == "unset":
        return Span(sure_ms, None) if grace else None
    if abs(system_off_ms) <= WRONG_MS:
        return None
    return Span(round(utc_ms - error_ms), round(utc_ms + error_ms))


def lenient(tls: Tls) -> ssl.SSLContext:
    """A context that verifies chain and name and leaves the dates to `judge`.

    Raises:
        OSError, ssl.SSLError: as `tls_context`.
    """
    context = tls_context(tls)
    context.verify_flags |= _NO_CHECK_TIME
    return context


def certificates(sock: ssl.SSLSocket) -> Sequence[Mapping[str, Any]]:
    """The peer's own certificate and, where this Python lets it be seen, those that signed it."""
    seen = getattr(getattr(sock, "_sslobj", None), "get_verified_chain", None)
    chain = [one.get_info() for one in seen() or ()] if seen is not None else []
    return chain or [sock.getpeercert() or {}]


def judge(certificates: Sequence[Mapping[str, Any]], when: Span) -> None:
    """Look at the dates.

    Args:
        certificates: as of `ssl.SSLSocket.getpeercert`.
        when: what the time may be.

    Raises:
        ssl.SSLCertVerificationError: at no moment of `when` they are all valid, or one has no dates.
    """
    for certificate in certificates:
        try:
            begins_ms, ends_ms = (1000 * ssl.cert_time_to_seconds(certificate[key])
                                  for key in ("notBefore", "notAfter"))
        except (KeyError, ValueError):
            raise _refusal("certificate has expired (it names no dates)") from None
        if ends_ms < when.earliest_ms:
            raise _refusal(f"certificate has expired (ended {certificate['notAfter']})")
        if when.latest_ms is not None and begins_ms > when.latest_ms:
            raise _refusal(f"certificate is not yet valid (begins {certificate['notBefore']})")


def _refusal(text: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(text)
    error.verify_message = text
    return error
