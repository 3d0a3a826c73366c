"""When a certificate ends is read as the established library reads it; what is no certificate is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from nanumpay_backupd.system.certificates import last_day, last_day_in

KEY = ec.generate_private_key(ec.SECP256R1())
LARGE = rsa.generate_private_key(65537, 2048)


def made(ends: dt.datetime, name: str = "test", *, large: bool = False, names: int = 1) -> x509.Certificate:
    """Make a certificate that ends then."""
    key = LARGE if large else KEY
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    alternatives = [x509.DNSName(f"h{at}.example.com") for at in range(names)]
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(dt.datetime(1960, 1, 1))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


@settings(max_examples=40)
@given(
    st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1)).map(lambda at: at.replace(microsecond=0)),
    st.text("abcdefgh", min_size=1, max_size=60),
    st.booleans(),
    st.integers(1, 60),
)
def test_it_is_read_as_by_the_library(ends: dt.datetime, name: str, large: bool, names: int) -> None:
    """Both ways to write a time, short and long lengths: the same last day."""
    certificate = made(ends, name, large=large, names=names)
    found = last_day(certificate.public_bytes(serialization.Encoding.DER))
    assert found == certificate.not_valid_after_utc == ends.replace(tzinfo=dt.UTC)


@given(st.integers(0, 300))
def test_what_is_cut_off_is_refused(length: int) -> None:
    """No end is made up of half a certificate."""
    data = made(dt.datetime(2030, 1, 1)).public_bytes(serialization.Encoding.DER)[:length]
    with pytest.raises(ValueError, match=r".*"):
        last_day(data)


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x00", b"no certificate", bytes(400), b"\x30\x80" + bytes(90)])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    """A ValueError, and nothing else."""
    with pytest.raises(ValueError, match=r".*"):
        last_day(data)


def test_the_first_certificate_of_a_file_counts(tmp_path: Path) -> None:
    """As in a client's file: key and certificate, then those of authorities; a file without one says nothing."""
    pem = serialization.Encoding.PEM
    key = KEY.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    own, authority = made(dt.datetime(2027, 3, 1)), made(dt.datetime(2040, 1, 1))
    file = tmp_path / "client.pem"
    file.write_bytes(key + own.public_bytes(pem) + authority.public_bytes(pem))
    assert last_day_in(file) == dt.datetime(2027, 3, 1, tzinfo=dt.UTC)
    file.write_bytes(key)
    assert last_day_in(file) is None
