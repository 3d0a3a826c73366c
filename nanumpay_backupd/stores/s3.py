"""A Store in an S3 bucket, by boto3: AWS and the many servers that speak the same. Retrying is the wrapper's matter."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from nanumpay_backupd.settings.schema import S3Destination
from nanumpay_backupd.stores.base import (
    CHUNK,
    Keeping,
    ObjectInfo,
    Progress,
    Properties,
    PutResult,
    Store,
    check_key,
    is_hidden,
    store_error,
    unreadable_source,
)
from nanumpay_backupd.stores.s3_errors import classify, error_code, http_status, reason
from nanumpay_backupd.stores.s3_versions import Versions, says_locked
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.secrets import redact

__all__ = ["S3Store", "judge_etag", "part_length"]

_SMALLEST_PART: Final = 5 << 20
_MOST_PARTS: Final = 10_000
"""Limits of S3: every part but the last has at least 5 MiB, and there are at most 10,000."""
_CONNECT_TIMEOUT: Final = 10.0
_SENT_AT_ONCE: Final = 256 << 10
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_COMPOSITE: Final = re.compile(r"([0-9a-f]{32})-([0-9]+)")


class S3Store(Store):
    """A prefix in a bucket. Objects become visible whole, as S3 promises; large ones go up in parts, side by side."""

    def __init__(
        self, destination: S3Destination, clock: Clock | None = None, pace: Callable[[int], None] | None = None
    ) -> None:
        """Take the settings; ``pace``, from any thread, gets the bytes about to be sent, and holds them back."""
        self.name = destination.name
        self.properties = Properties(
            ranged_get=True, proves_content=not destination.sse.startswith("aws:kms"), resumes_put=False
        )
        self._settings = destination
        self._pace = pace
        self._clock = clock or SystemClock()
        self._bucket = destination.bucket
        folder = destination.prefix.strip("/")
        self._prefix = f"{folder}/" if folder else ""
        where = destination.endpoint_url or f"AWS region {destination.region}"
        self._place = f"bucket {destination.bucket} at {redact(where)}"
        # boto3 makes its classes at run time; its stubs know them only with another package, so this edge is Any.
        self._client: Any = None
        self._kept: Versions | None = None

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Upload a file; see `Store.put`. Memory: ``parallel_parts`` parts of ``part_size`` bytes."""
        target = self._prefix + check_key(key)
        report = progress or _ignore
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable_source(path, error) from error
        try:
            source = _Source(path, fd)
            if source.size > self._settings.part_size:
                parts = self._put_parts(target, source, report)
            else:
                data = source.read(0, source.size)
                parts = (self._put_whole(target, data),)
                report(len(data))
            return self._confirm(target, source.size, parts, source.md5)
        finally:
            os.close(fd)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Upload a small object; see `Store.put_bytes`."""
        target = self._prefix + check_key(key)
        digest = self._put_whole(target, data)
        return self._confirm(target, len(data), (digest,), digest.hex)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Download an object; see `Store.get`."""
        target = self._prefix + check_key(key)
        doing = f"reading {key}"
        with self._faults(doing):
            last = "" if length is None else str(offset + length - 1)
            wanted = {"Range": f"bytes={offset}-{last}"} if offset or last else {}
            try:
                answer = self._connect().get_object(Bucket=self._bucket, Key=target, **wanted)
            except ClientError as error:
                if error_code(error) in ("InvalidRange", "416"):
                    return
                raise
        body = answer["Body"]
        # A server may ignore Range, which is its right (RFC 9110, 14.2); then Content-Range is missing.
        skip = offset if offset and not answer.get("ContentRange") else 0
        with contextlib.closing(body):
            while length is None or length > 0:
                with self._faults(doing):
                    chunk = body.read(CHUNK)
                if not chunk:
                    return
                piece, skip = chunk[skip : length and skip + length], max(0, skip - len(chunk))
                if piece:
                    length = None if length is None else length - len(piece)
                    yield piece

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask for one object; see `Store.stat`."""
        target = self._prefix + check_key(key)
        with self._faults(f"looking at {key}"):
            try:
                head = self._connect().head_object(Bucket=self._bucket, Key=target)
            except ClientError as error:
                # An answer to HEAD has no body, so it cannot say which thing is missing or why it is forbidden.
                status = http_status(error)
                if status not in (403, 404):
                    raise
                self._ask_why(error, target)
                return None
        etag = str(head.get("ETag", "")).strip('"')
        # With KMS it looks like an MD5, but is not one; of several parts it is one of checksums.
        plain = _MD5.fullmatch(etag) and not str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
        return ObjectInfo(key=key, size=head["ContentLength"], checksum=f"md5:{etag}" if plain else "")

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the objects directly under the prefix, page by page; see `Store.list`."""
        with self._faults("listing"):
            pages = self._connect().get_paginator("list_objects_v2")
            found = iter(pages.paginate(Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"))
        while True:
            with self._faults("listing"):
                page = next(found, None)
            if page is None:
                return
            for entry in page.get("Contents", ()):
                name = entry["Key"][len(self._prefix) :]
                # Some consoles make "folders" as empty objects named like the prefix.
                if name and not is_hidden(name):
                    yield ObjectInfo(key=name, size=entry["Size"])

    def delete(self, key: str) -> None:
        """Remove one object; see `Store.delete`. A bucket that keeps versions keeps them, unless told otherwise."""
        target = self._prefix + check_key(key)
        if self._settings.delete_versions:
            self._versions().delete_all(target, key, self._clock.now())
            return
        with self._faults(f"deleting {key}"):
            try:
                self._connect().delete_object(Bucket=self._bucket, Key=target)
            except ClientError as error:
                if says_locked(error):
                    raise self._versions().locked(key, None) from error
                if error_code(error) != "NoSuchKey":
                    raise

    def must_be_free(self, key: str) -> None:
        """Look for a lock; see `Store.must_be_free`. Asks nothing more of a bucket that has no locks."""
        self._versions().must_be_free(self._prefix + check_key(key), key, self._clock.now())

    def keeping(self) -> Keeping:
        """Say what the bucket keeps; see `Store.keeping`."""
        return self._versions().keeping()

    def close(self) -> None:
        """Drop the connections."""
        if self._client is not None:
            self._client.close()
            self._client = self._kept = None

    def _connect(self) -> Any:
        """Return the client, made at first use; it is safe to share between threads."""
        if self._client is not None:
            return self._client
        settings = self._settings
        # Foreign servers reject the checksums that boto3 sends by default over HTTPS (aws-chunked trailers).
        checksums: Literal["when_required", "when_supported"] = (
            "when_required" if settings.endpoint_url else "when_supported"
        )
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=settings.timeout,
            retries={"mode": "standard", "max_attempts": 2},
            max_pool_connections=settings.parallel_parts + 2,
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.path_style else "auto"},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            user_agent_extra="nanumpay-backupd",
        )
        self._check_ca_file()
        # Without keys boto3 looks for them itself: environment, ~/.aws, the machine's role.
        with_keys = bool(settings.access_key_id)
        session = boto3.session.Session(
            aws_access_key_id=settings.access_key_id if with_keys else None,
            aws_secret_access_key=settings.secret_access_key.reveal() if with_keys else None,
            region_name=settings.region or None,
        )
        try:
            self._client = session.client(
                "s3", endpoint_url=settings.endpoint_url or None, verify=settings.ca_file or None, config=config
            )
        except ValueError as error:  # not an address
            raise store_error(
                "destination-failed",
                f"destination {self.name!r}: {self._place} cannot be used: {redact(str(error))}",
                "write endpoint_url as https://host or https://host:port",
                retryable=False,
            ) from error
        return self._client

    def _versions(self) -> Versions:
        if self._kept is None:
            self._kept = Versions(self._connect(), self._bucket, self._place, self._faults)
        return self._kept

    def _check_ca_file(self) -> None:
        # Here, because boto3 finds out at the first request, and then does not name the file.
        if not self._settings.ca_file:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self._settings.ca_file)
        except OSError as error:
            raise store_error(
                "destination-tls",
                f"destination {self.name!r}: ca_file {self._settings.ca_file} is of no use: {error.strerror or error}",
                "ca_file is a PEM file with the certificate of the server's authority, readable by the service's user",
            ) from error

    def _object_options(self) -> dict[str, str]:
        options = {
            "ServerSideEncryption": self._settings.sse,
            "SSEKMSKeyId": self._settings.sse_kms_key_id,
            "StorageClass": self._settings.storage_class,
        }
        return {name: value for name, value in options.items() if value}

    def _put_whole(self, target: str, data: bytes) -> _Digest:
        digest = _Digest(data)
        with self._faults(f"storing {self._short(target)} ({len(data)} bytes)"):
            self._connect().put_object(
                Bucket=self._bucket,
                Key=target,
                Body=self._paced(data),
                ContentMD5=digest.base64,
                **self._object_options(),
            )
        return digest

    def _put_parts(self, target: str, source: _Source, progress: Progress) -> tuple[_Digest, ...]:
        client = self._connect()
        doing = f"storing {self._short(target)} ({source.size} bytes)"
        with self._faults(doing):
            self._drop_unfinished(target)
            upload = client.create_multipart_upload(Bucket=self._bucket, Key=target, **self._object_options())[
                "UploadId"
            ]
        try:
            with self._faults(doing):
                digests, parts = self._send_parts(target, upload, source, progress)
                client.complete_multipart_upload(
                    Bucket=self._bucket, Key=target, UploadId=upload, MultipartUpload={"Parts": parts}
                )
        except BaseException:
            # Best effort: parts of an upload that nobody finishes are invisible, but cost money.
            with contextlib.suppress(BotoCoreError, ClientError):
                client.abort_multipart_upload(Bucket=self._bucket, Key=target, UploadId=upload)
            raise
        return digests

    def _send_parts(
        self, target: str, upload: str, source: _Source, progress: Progress
    ) -> tuple[tuple[_Digest, ...], Sequence[dict[str, Any]]]:
        """Send all parts, a few at a time; the callback is called by this thread only, at least once a second."""
        length = part_length(source.size, self._settings.part_size)
        stop = threading.Event()

        def send(number: int) -> tuple[int, int, _Digest, str]:
            if stop.is_set():
                raise store_error("destination-failed", "stopped")
            data = source.read((number - 1) * length, length)
            digest = _Digest(data)
            answer = self._client.upload_part(
                Bucket=self._bucket,
                Key=target,
                UploadId=upload,
                PartNumber=number,
                Body=self._paced(data),
                ContentMD5=digest.base64,
            )
            return number, len(data), digest, answer["ETag"]

        numbers = iter(range(1, -(-source.size // length) + 1))
        done: dict[int, tuple[_Digest, str]] = {}
        with ThreadPoolExecutor(self._settings.parallel_parts, thread_name_prefix="s3-part") as pool:
            pending: set[Future[tuple[int, int, _Digest, str]]] = set()
            try:
                while True:
                    room = self._settings.parallel_parts - len(pending)
                    pending.update(pool.submit(send, number) for number in itertools.islice(numbers, room))
                    if not pending:
                        break
                    finished, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                    moved = 0
                    for future in finished:
                        number, size, digest, etag = future.result()
                        done[number] = (digest, etag)
                        moved += size
                    progress(moved)
            except BaseException:
                stop.set()
                raise
        ordered = sorted(done.items())
        return tuple(digest for _, (digest, _) in ordered), [
            {"PartNumber": n, "ETag": etag} for n, (_, etag) in ordered
        ]

    def _paced(self, data: bytes) -> bytes | io.BytesIO:
        """Return what a request carries, held back where there is a pace."""
        return data if self._pace is None else _Paced(data, self._pace)

    def _drop_unfinished(self, target: str) -> None:
        """Abort what an earlier, killed process left half uploaded of this key. Best effort: needs a further right."""
        with contextlib.suppress(BotoCoreError, ClientError):
            found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=target)
            for upload in found.get("Uploads", ()):
                if upload["Key"] == target:
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=target, UploadId=upload["UploadId"])

    def _confirm(self, target: str, size: int, parts: Sequence[_Digest], whole: Callable[[], str]) -> PutResult:
        """Compare what the server holds with what was sent: the size always, the checksum where it tells one."""
        key = self._short(target)
        with self._faults(f"looking at {key}"):
            head = self._connect().head_object(Bucket=self._bucket, Key=target)
        # With KMS the ETag looks like an MD5, but is not one (AWS, API_Object).
        opaque = str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
        verdict = None if opaque else judge_etag(head.get("ETag", ""), [part.raw for part in parts], whole)
        if head["ContentLength"] == size and verdict is not False:
            return PutResult(size=size, proven=bool(verdict), durable=True)
        # A damaged object must not pass for a backup.
        with contextlib.suppress(BotoCoreError, ClientError):
            self._connect().delete_object(Bucket=self._bucket, Key=target)
        found = f"{head['ContentLength']} of {size} bytes" if head["ContentLength"] != size else "another checksum"
        raise store_error(
            "destination-mismatch",
            f"destination {self.name!r}: after storing {key} the server reports {found} ({self._place})",
            "the object was deleted there; if it happens again, check the network, this host's memory and the provider",
        )

    def _ask_why(self, error: ClientError, target: str) -> None:
        """Find out by a listing what a HEAD was refused for; returns when the object is simply not there."""
        try:
            self._connect().list_objects_v2(Bucket=self._bucket, Prefix=target, MaxKeys=1)
        except ClientError as answer:
            if http_status(error) == 404 and error_code(answer) == "AccessDenied":
                return
            raise
        if http_status(error) == 403:
            raise error

    def _short(self, target: str) -> str:
        return target[len(self._prefix) :]

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn boto3's errors into ours."""
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            code, hint, retryable = classify(error)
            message = f"destination {self.name!r}: {doing} failed at {self._place}: {reason(error)}"
            raise store_error(code, message, hint, retryable=retryable) from error


class _Digest:
    """The MD5 of some bytes, in the forms that S3 wants; it guards against damage, not against people."""

    def __init__(self, data: bytes) -> None:
        self.raw = hashlib.md5(data, usedforsecurity=False).digest()

    @property
    def base64(self) -> str:
        return base64.b64encode(self.raw).decode("ascii")

    def hex(self) -> str:
        return self.raw.hex()


class _Paced(io.BytesIO):
    """What a request carries, each piece of which waits before it is sent."""

    def __init__(self, data: bytes, pace: Callable[[int], None]) -> None:
        super().__init__(data)
        self._pace = pace

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        # The connection takes 16 KiB at once; larger pieces are read for the request's signature, and not sent.
        if size is not None and 0 < size <= _SENT_AT_ONCE:
            self._pace(len(piece))
        return piece


class _Source:
    """The file being uploaded, read at any place by several threads."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes that were there when the upload began."""
        wanted = min(length, self.size - offset)
        try:
            data = os.pread(self._fd, wanted, offset)
        except OSError as error:
            raise unreadable_source(self._path, error) from error
        if len(data) != wanted:
            raise store_error("destination-mismatch", f"{self._path} became shorter while it was being stored")
        return data

    def md5(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        for offset in range(0, self.size, CHUNK):
            digest.update(self.read(offset, CHUNK))
        return digest.hexdigest()


def part_length(size: int, wanted: int) -> int:
    """Return the bytes per part: as wanted, but within S3's limits (5 MiB at least, 10,000 parts at most)."""
    needed = -(-size // _MOST_PARTS)
    mebibytes = -(-needed // (1 << 20))
    return max(wanted, _SMALLEST_PART, mebibytes << 20)


def judge_etag(etag: str, parts: Sequence[bytes], whole: Callable[[], str]) -> bool | None:
    """Compare an ETag with what was sent: True proves the content, False disproves it, None means that it is no MD5.

    ``parts`` are the raw MD5 of the parts in order; ``whole`` gives the hex MD5 of all, and is called only if needed:
    AWS tells the composite of the parts, others (rclone, after the upload) the MD5 of the whole.
    """
    text = etag.strip().removeprefix("W/").strip('"').lower()
    if _MD5.fullmatch(text):
        return text == (parts[0].hex() if len(parts) == 1 else whole())
    composite = _COMPOSITE.fullmatch(text)
    if composite is None or int(composite[2]) != len(parts):
        return None
    return composite[1] == hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()


def _ignore(_: int) -> None:
    """Stand in for a progress callback."""
