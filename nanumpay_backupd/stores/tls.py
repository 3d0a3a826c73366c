"""TLS as the HTTP drivers see it: whose certificates are trusted, and which faults are about them. No driver here."""

from __future__ import annotations

import ssl

from nanumpay_backupd.stores.base import store_error

__all__ = ["TLS_HINT", "about_tls", "check_ca_file"]

TLS_HINT = "if the server has its own certificate authority, name its file in ca_file"
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


def check_ca_file(name: str, path: str) -> None:
    """Raise StoreError ``destination-tls`` when a destination's ``ca_file`` is of no use; an empty path is fine.

    To be called before the first request: the libraries find out then, and call it something else.
    """
    if not path:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise store_error(
            "destination-tls",
            f"destination {name!r}: ca_file {path} is of no use: {error.strerror or error}",
            "ca_file is a PEM file with the certificate of the server's authority, readable by the service's user",
        ) from error


def about_tls(error: BaseException | None) -> bool:
    """Tell whether a fault, or what it wraps, is that a certificate or TLS was not accepted; a cut connection is not.

    Libraries wrap what they get: as cause, as ``reason`` (urllib3), ``inner_exception`` (Azure), or first argument.
    """
    found = False
    for _ in range(12):
        if error is None:
            break
        if isinstance(error, _CUT) or "EOF occurred" in str(error):
            return False
        found = found or isinstance(error, ssl.SSLError) or type(error).__name__ == "SSLError"
        inner = [getattr(error, "inner_exception", None), getattr(error, "reason", None), error.__cause__, *error.args]
        error = next((one for one in inner if isinstance(one, BaseException)), None)
    return found
