"""What the stores decide without a server: ETags, part sizes, listings, what replies and errors mean."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Final

import pytest
import urllib3
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.stores.base import ObjectInfo, check_key, store_error
from nanumpay_backupd.stores.ftp import parse_list, parse_mlsd
from nanumpay_backupd.stores.ftp_link import Phase, classify_reply
from nanumpay_backupd.stores.s3_content import judge_etag, part_length
from nanumpay_backupd.stores.s3_errors import classify, reason
from nanumpay_backupd.stores.said import plain
from nanumpay_backupd.system.secrets import Secret

MIB: Final = 1 << 20
ONE: Final = [hashlib.md5(b"one").digest()]
TWO: Final = [hashlib.md5(b"one").digest(), hashlib.md5(b"two").digest()]
WHOLE: Final = hashlib.md5(b"onetwo").hexdigest()
COMPOSITE: Final = hashlib.md5(b"".join(TWO)).hexdigest()


@pytest.mark.parametrize(
    "etag,parts,verdict",
    [
        (f'"{ONE[0].hex()}"', ONE, True),
        (ONE[0].hex().upper(), ONE, True),
        (f'W/"{ONE[0].hex()}"', ONE, True),
        (f'"{"0" * 32}"', ONE, False),
        (f'"{COMPOSITE}-2"', TWO, True),
        (f'"{"0" * 32}-2"', TWO, False),
        (f'"{WHOLE}"', TWO, True),
        (f'"{COMPOSITE}"', TWO, False),
        # Not ours to judge: made of other parts than we sent, or no MD5 at all.
        (f'"{COMPOSITE}-3"', TWO, None),
        ('"5f3a-opaque"', ONE, None),
        ("", ONE, None),
    ],
)
def test_etag(etag: str, parts: list[bytes], verdict: bool | None) -> None:
    """An ETag proves or disproves content only where it is an MD5 of the whole or the composite of our parts."""
    assert judge_etag(etag, parts, lambda: WHOLE) is verdict


def test_the_whole_is_hashed_only_when_needed() -> None:
    """Nobody reads a large file again for an ETag that says nothing about the whole."""

    def never() -> str:
        raise AssertionError("the file was read again")

    assert judge_etag(f'"{COMPOSITE}-2"', TWO, never) is True
    assert judge_etag(ONE[0].hex(), ONE, never) is True


@given(size=st.integers(1, 5 << 40), wanted=st.integers(1, 1 << 30))
def test_parts_stay_within_the_limits_of_s3(size: int, wanted: int) -> None:
    """For any object up to 5 TiB there are at most 10,000 parts of at least 5 MiB, and at least as large as wanted."""
    length = part_length(size, wanted)
    assert -(-size // length) <= 10_000
    assert length >= max(wanted, 5 * MIB)


@pytest.mark.parametrize(
    "size,wanted,length",
    [(100 * MIB, 16 * MIB, 16 * MIB), (100 * MIB, MIB, 5 * MIB), (1 << 40, 16 * MIB, 105 * MIB)],
)
def test_part_length(size: int, wanted: int, length: int) -> None:
    """Parts are as wanted, at least 5 MiB, and grow in whole MiB for very large objects."""
    assert part_length(size, wanted) == length


def test_mlsd_listing() -> None:
    """Files with sizes are taken from MLSD lines, whatever the order and case of facts; the rest is left out."""
    lines = (
        "type=cdir;modify=20261121000000; .",
        "Type=file;Size=12;Modify=20261121000000; a b.tar.gz",
        "size=0;type=file; empty",
        "type=dir;size=4096; folder",
        "type=file; no-size",
        "garbage",
    )
    assert list(parse_mlsd(lines)) == [ObjectInfo("a b.tar.gz", 12), ObjectInfo("empty", 0)]


def test_unix_listing() -> None:
    """Files are taken from lines as of ls -l, names with blanks included; folders and links are left out."""
    lines = (
        "total 12",
        "-rw-r--r--    1 1000     1000        12345 Nov 21 20:09 nanumpay-backup-1.tar.gz",
        "-rw-r--r--+   1 ftp      ftp             0 Jan 01  2025 name with  blanks",
        "drwxr-xr-x    2 1000     1000         4096 Nov 21 20:09 folder",
        "lrwxrwxrwx    1 1000     1000            4 Nov 21 20:09 link -> file",
        "",
    )
    assert parse_list(lines) == (ObjectInfo("nanumpay-backup-1.tar.gz", 12345), ObjectInfo("name with  blanks", 0))


@pytest.mark.parametrize("line", ["11-21-26  08:09PM   5 file", "-rw------- 1 user 5 Nov 21 20:09 no-group", "a name"])
def test_other_listings_are_not_guessed_at(line: str) -> None:
    """A line of another form makes the whole listing unknown, instead of leaving out an object."""
    known = "-rw-r--r-- 1 a b 5 Nov 21 20:09 file"
    assert parse_list((known,)) == (ObjectInfo("file", 5),)
    assert parse_list((known, line)) is None


@pytest.mark.parametrize(
    "reply,phase,code",
    [
        ("530 Login incorrect.", "login", "destination-auth"),
        (
            "530 Sorry, the maximum number of clients (5) for this user are already connected.",
            "login",
            "destination-unreachable",
        ),
        ("530 Non-anonymous sessions must use encryption.", "login", "destination-tls"),
        ("550 SSL/TLS required on the control channel.", "login", "destination-tls"),
        ("500 OOPS: cannot change directory:/home/backup", "login", "destination-failed"),
        ('500 Command "AUTH" not understood.', "tls", "destination-tls"),
        ("530 Please login with USER and PASS.", "tls", "destination-tls"),
        ("421 Too many connections", "tls", "destination-unreachable"),
        ("421 Timeout.", "session", "destination-unreachable"),
        ("425 Failed to establish connection.", "session", "destination-unreachable"),
        ("426 Failure reading network stream.", "session", "destination-unreachable"),
        (
            "425 Unable to build data connection: TLS session of data connection not resumed.",
            "session",
            "destination-tls",
        ),
        ("522 SSL connection failed; session reuse required", "session", "destination-tls"),
        ("452 Insufficient storage space in system.", "session", "destination-full"),
        ("552 Exceeded storage allocation", "session", "destination-full"),
        ("550 Disk quota exceeded", "session", "destination-full"),
        ("451 No space left on device", "session", "destination-full"),
        ("451 Failure writing to local file.", "session", "destination-full"),
        ("451 Local error in processing", "session", "destination-failed"),
        ("550 Permission denied.", "session", "destination-denied"),
        ("553 Could not create file.", "session", "destination-denied"),
        ("504 Not implemented for that parameter", "session", "destination-failed"),
    ],
)
def test_ftp_replies(reply: str, phase: Phase, code: str) -> None:
    """Each reply that real servers give leads to the code of the contract, and to a hint."""
    found, hint, _ = classify_reply(reply, phase)
    assert found == code
    assert hint


@pytest.mark.parametrize(
    "reply,retryable",
    [("451 Local error", True), ("504 Not implemented", False), ("500 OOPS: vsf_sysutil_bind", True)],
)
def test_ftp_replies_that_say_for_now_are_worth_a_retry(reply: str, retryable: bool) -> None:
    """Of replies that mean nothing special, those with a 4 are passing and those with a 5 are not."""
    assert classify_reply(reply)[2] is retryable


def _answer(code: str, status: int, message: str = "text") -> ClientError:
    # The type of the response is the stubs' idea of a complete one.
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error,code,retryable",
    [
        (_answer("NoSuchBucket", 404), "destination-not-found", False),
        (_answer("NoSuchKey", 404), "object-missing", False),
        (_answer("SignatureDoesNotMatch", 403), "destination-auth", False),
        (_answer("RequestTimeTooSkewed", 403), "destination-auth", False),
        (_answer("AccessDenied", 403), "destination-denied", False),
        (_answer("403", 403), "destination-denied", False),
        (_answer("BadDigest", 400), "destination-mismatch", True),
        (_answer("RequestTimeout", 400), "destination-unreachable", True),
        (_answer("QuotaExceeded", 403), "destination-full", False),
        (_answer("Whatever", 507), "destination-full", False),
        (_answer("SlowDown", 503), "destination-failed", True),
        (_answer("InternalError", 500), "destination-failed", True),
        (_answer("InvalidStorageClass", 400), "destination-failed", False),
        (EndpointConnectionError(endpoint_url="https://x"), "destination-unreachable", True),
        (NoCredentialsError(), "destination-auth", False),
        (BotoCoreError(), "destination-failed", False),
    ],
)
def test_s3_errors(error: BotoCoreError | ClientError, code: str, retryable: bool) -> None:
    """Each error of S3 and of boto3 leads to the code of the contract; only what may pass is worth a retry."""
    found, hint, again = classify(error)
    made = store_error(found, "message", hint, retryable=again)
    assert (made.code, made.retryable) == (code, retryable)


def test_secrets_in_a_servers_answer_are_masked() -> None:
    """What a server repeats of our keys does not get into a message."""
    secret = Secret("a-very-Secret-key")
    assert secret.reveal() not in reason(_answer("Odd", 400, f"you said {secret.reveal()}"))


@pytest.mark.parametrize("key", ["a", "nanumpay-backup-2026-11-21T02-00-00.tar.gz.manifest.json", "_x", "-", "x" * 200])
def test_keys_that_are_taken(key: str) -> None:
    """Names of artifacts and manifests, and other plain names, are keys."""
    assert check_key(key) == key


@given(st.text())
def test_no_key_leads_out_of_its_folder(key: str) -> None:
    """Whatever is taken as a key is one plain file name that is not hidden."""
    try:
        check_key(key)
    except StoreError:
        return
    assert key
    assert not set(key) & set("/\\\0\r\n ")
    assert not key.startswith(".")


@pytest.mark.parametrize("driver", ["boto3", "ftplib"])
def test_drivers_are_loaded_only_when_asked_for(driver: str) -> None:
    """Opening a local store loads no other driver: start-up is quick and small."""
    program = (
        "import sys\n"
        "from nanumpay_backupd.settings.schema import LocalDestination\n"
        "from nanumpay_backupd.stores.factory import open_store\n"
        "open_store(LocalDestination(name='x', path='/nowhere'))\n"
        f"sys.exit({driver!r} in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "error, words",
    [
        (TimeoutError("The read operation timed out"), "no answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), "connection refused: nobody listens there"),
        (
            urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionResetError(104, "x")),
            "the connection was cut",
        ),
        (OSError(113, "No route to host"), "No route to host"),
        (ValueError("something else"), "something else"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_libraries_say_is_told_in_plain_words(error: Exception, words: str) -> None:
    """Of a chain of errors its cause is told, and no name of a class or pool of connections."""
    assert plain(error) == words
    wrapped = RuntimeError("HTTPSConnectionPool(host='a', port=1): Max retries exceeded (Caused by X)")
    wrapped.__cause__ = error
    assert plain(wrapped) in {words, "Max retries exceeded"}


@pytest.mark.parametrize("text", ["a\0b\n  c", "x" * 5000, "한글은 남는다"])
def test_messages_are_printable_and_not_endless(text: str) -> None:
    """Whatever a server says, the message of an error is one line of some hundred characters."""
    message = store_error("destination-failed", f"destination 'x': {text}").message
    assert message.isprintable()
    assert message.startswith("destination 'x': ")
    assert len(message) < 1000
    assert "한글은" not in text or text in message
