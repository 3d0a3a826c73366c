"""A Store in an S3 bucket, by boto3: AWS and the many servers that speak the same. Retrying is the wrapper's matter."""

from __future__ import annotations

import contextlib
import io
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import S3Destination
from nanumpay_backupd.stores.base import (
    CHUNK,
    Finding,
    Keeping,
    Notes,
    ObjectInfo,
    Progress,
    Properties,
    PutResult,
    ShortNotes,
    Store,
    check_key,
    is_hidden,
    store_error,
)
from nanumpay_backupd.stores.payload import Payload
from nanumpay_backupd.stores.s3_content import Digest, Paced, WholeDigest, is_md5, judge_etag
from nanumpay_backupd.stores.s3_errors import classify, error_code, http_status, reason
from nanumpay_backupd.stores.s3_parts import Parts, Sent, abort_older
from nanumpay_backupd.stores.s3_survey import RIGHTS, Survey
from nanumpay_backupd.stores.s3_versions import Versions, says_locked
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.secrets import redact

__all__ = ["S3Store"]

_CONNECT_TIMEOUT: Final = 10.0
_QUICK: Final = 0.2
"""Seconds in which a server answers that has to look nothing up but what it keeps."""
_LOCK_SLACK: Final = timedelta(hours=1)
"""By so much a lock may end early: for the time that an upload takes."""


class S3Store(Store):
    """A prefix in a bucket. Objects become visible whole, as S3 promises; large ones go up in parts, side by side."""

    rights = RIGHTS

    def __init__(
        self,
        destination: S3Destination,
        clock: Clock | None = None,
        pace: Callable[[int], None] | None = None,
        notes: Notes | None = None,
    ) -> None:
        """Take the settings; ``pace``, from any thread, gets the bytes about to be sent, and holds them back."""
        self.name = destination.name
        self.properties = Properties(
            ranged_get=True, proves_content=not destination.sse.startswith("aws:kms"), resumes_put=True
        )
        self._settings = destination
        self._pace = pace
        self._notes = notes or ShortNotes()
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
        with Payload(path) as source:
            if source.size <= self._settings.part_size:
                data = source.read(0, source.size)
                digest = self._put_whole(target, data)
                report(len(data))
                return self._confirm(target, source.size, (digest.raw,), digest.hex)
            sent = self._put_parts(key, source, report)
            self._notes.write(key, None)
            whole = WholeDigest(source)
            result = self._confirm(target, source.size, sent.digests, whole.hex, whole.go_on)
            return msgspec.structs.replace(result, resumed=sent.resumed)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Upload a small object; see `Store.put_bytes`."""
        target = self._prefix + check_key(key)
        digest = self._put_whole(target, data)
        return self._confirm(target, len(data), (digest.raw,), digest.hex)

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
        if "ETag" not in answer:  # every S3 server tells it with an object's content
            body.close()
            raise self._no_server(doing)
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
                # An answer to HEAD has no body, so it cannot say which thing is missing or why it is forbidden
                # (400: the clock, or a token that ended).
                status = http_status(error)
                if status not in (400, 403, 404):
                    raise
                self._ask_why(error, target)
                return None
        if "ETag" not in head:
            raise self._no_server(f"looking at {key}")
        etag = str(head["ETag"]).strip('"')
        # With KMS it looks like an MD5, but is not one; of several parts it is one of checksums.
        plain = is_md5(etag) and not str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
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
            if not {"Name", "IsTruncated"} & set(page):
                # The library takes any page of text for an empty bucket, and copies would count as lost.
                raise self._no_server("listing")
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

    def survey(self, key: str) -> tuple[Finding, ...]:
        """Look at the bucket's settings and at the rights to use it; see `Store.survey`."""
        with self._faults("looking at the bucket"):
            looker = Survey(self._connect(), self._settings, self._prefix, self._clock.now())
            return looker.all(self._prefix + check_key(key))

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """Abort old unfinished uploads; see `Store.sweep`. Needs s3:ListBucketMultipartUploads."""
        with self._faults("looking for unfinished uploads"):
            return abort_older(self._connect(), self._bucket, self._prefix, before, ours)

    def close(self) -> None:
        """Drop the connections."""
        if self._client is not None:
            self._client.close()
            self._client = self._kept = None

    def _connect(self) -> Any:
        """Return the client, made at first use; it is safe to share between threads."""
        if self._client is None:
            with self._faults("looking for the credentials"):
                self._client = self._session()
        return self._client

    def _session(self) -> Any:
        settings = self._settings
        # Foreign servers reject the checksums that boto3 sends by default over HTTPS (aws-chunked trailers).
        checksums: Literal["when_required", "when_supported"] = (
            "when_required" if settings.endpoint_url else "when_supported"
        )
        config = Config(
            connect_timeout=min(_CONNECT_TIMEOUT, settings.timeout),
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
            profile_name=None if with_keys else settings.profile or None,
            aws_access_key_id=settings.access_key_id if with_keys else None,
            aws_secret_access_key=settings.secret_access_key.reveal() if with_keys else None,
            region_name=settings.region or None,
        )
        try:
            return session.client(
                "s3", endpoint_url=settings.endpoint_url or None, verify=settings.ca_file or None, config=config
            )
        except ValueError as error:  # not an address
            raise store_error(
                "destination-failed",
                f"destination {self.name!r}: {self._place} cannot be used: {redact(str(error))}",
                "write endpoint_url as https://host or https://host:port",
                retryable=False,
            ) from error

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

    def _object_options(self) -> dict[str, Any]:
        settings = self._settings
        options = {
            "ServerSideEncryption": self._settings.sse,
            "SSEKMSKeyId": self._settings.sse_kms_key_id,
            "StorageClass": self._settings.storage_class,
            "ObjectLockMode": settings.lock_mode.upper() if settings.lock_days else "",
            "ObjectLockRetainUntilDate": self._locked_until() if settings.lock_days else None,
        }
        return {name: value for name, value in options.items() if value}

    def _locked_until(self) -> datetime:
        return self._clock.now() + timedelta(days=self._settings.lock_days)

    def _make_sure_of_lock(self, target: str, until: datetime | None) -> None:
        """Lock an object for the whole time, unless the server says that it is.

        The lock of an upload in parts begins with the upload, which may be days ago; radosgw forgets it.
        """
        wanted = self._locked_until()
        if not self._settings.lock_days or (until is not None and until > wanted - _LOCK_SLACK):
            return
        kept = {"Mode": self._settings.lock_mode.upper(), "RetainUntilDate": wanted}
        with self._faults(f"locking {self._short(target)}"):
            self._connect().put_object_retention(Bucket=self._bucket, Key=target, Retention=kept)

    def _put_whole(self, target: str, data: bytes) -> Digest:
        digest = Digest(data)
        with self._faults(f"storing {self._short(target)} ({len(data)} bytes)"):
            self._connect().put_object(
                Bucket=self._bucket,
                Key=target,
                Body=self._paced(data),
                ContentMD5=digest.base64,
                **self._object_options(),
            )
        return digest

    def _put_parts(self, key: str, source: Payload, progress: Progress) -> Sent:
        settings = self._settings
        parts = Parts(
            self._connect(),
            self._bucket,
            self._notes,
            part_size=settings.part_size,
            parallel=settings.parallel_parts,
            pace=self._pace,
        )
        with self._faults(f"storing {key} ({source.size} bytes)"):
            return parts.send(key, self._prefix + key, source, self._object_options(), progress)

    def _paced(self, data: bytes) -> bytes | io.BytesIO:
        """Return what a request carries, held back where there is a pace."""
        return data if self._pace is None else Paced(data, self._pace)

    def _confirm(
        self,
        target: str,
        size: int,
        parts: Sequence[bytes],
        whole: Callable[[], str],
        meanwhile: Callable[[Callable[[], bool]], None] | None = None,
    ) -> PutResult:
        """Compare what the server holds with what was sent: the size always, the checksum where it tells one.

        A server that takes its time to answer may be working a checksum of the whole out: ``meanwhile`` does so too.
        """
        key = self._short(target)
        with self._faults(f"looking at {key}"), ThreadPoolExecutor(1, thread_name_prefix="s3-head") as pool:
            asked = pool.submit(self._connect().head_object, Bucket=self._bucket, Key=target)
            if meanwhile is not None and wait((asked,), timeout=_QUICK).not_done:
                meanwhile(asked.done)
            head = asked.result()
        # With KMS the ETag looks like an MD5, but is not one (AWS, API_Object).
        opaque = str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
        verdict = None if opaque else judge_etag(head.get("ETag", ""), parts, whole)
        if head["ContentLength"] == size and verdict is not False:
            self._make_sure_of_lock(target, head.get("ObjectLockRetainUntilDate"))
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
        if http_status(error) in (400, 403):
            raise error

    def _no_server(self, doing: str) -> StoreError:
        return store_error(
            "destination-failed",
            f"destination {self.name!r}: {doing} failed at {self._place}: what answers is no S3 server",
            "does a login page of the network, or a proxy, answer in its place? check endpoint_url",
        )

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


def _ignore(_: int) -> None:
    """Stand in for a progress callback."""
