"""A Store in a bucket of Google Cloud Storage, by google-cloud-storage. Retrying as such is the wrapper's matter."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import requests
from google.api_core.exceptions import Forbidden, NotFound
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage

from nanumpay_backupd.errors import LockedError, StoreError
from nanumpay_backupd.settings.destinations import GcsDestination
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
    worth_keeping,
)
from nanumpay_backupd.stores.gcs_errors import FAULTS, answered, classify, reason, says_locked, status
from nanumpay_backupd.stores.gcs_login import log_in
from nanumpay_backupd.stores.gcs_session import Crc32c, SessionGoneError, Upload, cancel
from nanumpay_backupd.stores.gcs_survey import RIGHTS, survey
from nanumpay_backupd.stores.payload import Counted, Payload, ignore, sliced
from nanumpay_backupd.stores.sessions import Session, Sessions, proven
from nanumpay_backupd.stores.tls import check_ca_file
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.secrets import redact

__all__ = ["GcsStore"]

_CONNECT_TIMEOUT: Final = 10.0
_GOOGLE: Final = "https://storage.googleapis.com"
_Found = tuple[dict[str, Any], Crc32c]
"""An object as the server describes it, and the checksum that it should have."""


class _OtherContentError(Exception):
    """An earlier put of the name was of another content, as shows in the end."""


class GcsStore(Store):
    """A prefix in a bucket. Objects become visible whole; large ones go up in a session that outlives a cut.

    No object is replaced but the one that was there when the put began (``ifGenerationMatch``); the server makes a new
    one only when its CRC32C of it is ours.
    """

    rights = RIGHTS
    properties = Properties(proves_content=True, tells_checksum=True, resumes_put=True, needs_notes=True)

    def __init__(
        self,
        destination: GcsDestination,
        clock: Clock | None = None,
        pace: Callable[[int], None] | None = None,
        notes: Notes | None = None,
    ) -> None:
        """Take the settings; ``pace`` gets the bytes about to be sent, and holds them back.

        Without ``notes`` that outlive the process, an upload is gone on with only by this store.
        """
        self.name = destination.name
        self._settings = destination
        self._clock = clock or SystemClock()
        self._pace = pace
        self._sessions = Sessions(notes or ShortNotes(), self._clock)
        folder = destination.prefix.strip("/")
        self._prefix = f"{folder}/" if folder else ""
        self._endpoint = (destination.endpoint_url or _GOOGLE).rstrip("/")
        self._place = f"bucket {destination.bucket} at {redact(self._endpoint)}"
        self._timeout = (min(_CONNECT_TIMEOUT, destination.timeout), destination.timeout)
        # Google's library ships no types: this edge is Any.
        self._client: Any = None
        self._http: AuthorizedSession | None = None

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Upload a file; see `Store.put`. Memory: one chunk of ``chunk_size`` bytes."""
        return self._put(check_key(key), Payload(path), progress or ignore)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Upload a small object; see `Store.put_bytes`."""
        return self._put(check_key(key), Payload(Path(key), data), ignore)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Download an object; see `Store.get`. Of a whole one Google tells the checksum, which is compared."""
        target = self._prefix + check_key(key)
        doing = f"reading {key}"
        with self._faults(doing):
            response = self._open(target, offset, length)
        with contextlib.closing(response):
            if response.status_code == 416:  # nothing there behind the offset
                return
            expected = _told_crc(response) if response.status_code == 200 else ""
            if response.status_code == 200 and not expected:
                raise store_error(
                    "destination-failed",
                    f"destination {self.name!r}: {doing} failed at {self._place}: what answers is not Google",
                    "does a login page of the network, or a proxy, answer in its place?",
                )
            found = Crc32c()
            left = length
            # A server may ignore Range, which is its right (RFC 9110, 14.2).
            skip = offset if response.status_code == 200 else 0
            pieces = response.raw.stream(CHUNK, decode_content=False)
            while True:
                with self._faults(doing):
                    chunk = next(pieces, b"")
                if not chunk:
                    break
                found.add(chunk)
                piece = chunk[skip:] if left is None else chunk[skip : skip + left]
                skip = max(0, skip - len(chunk))
                if piece:
                    left = None if left is None else left - len(piece)
                    yield from sliced(piece, CHUNK)
                if left == 0:
                    return
        if expected and expected != found.text():
            raise self._mismatch(f"{doing}: what arrived has another checksum than the object")

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask for one object; see `Store.stat`."""
        blob = self._look(self._prefix + check_key(key), key)
        if blob is None:
            return None
        checksum = f"md5:{_hex(blob.md5_hash)}" if blob.md5_hash else f"crc32c:{_hex(blob.crc32c)}"
        return ObjectInfo(key=key, size=int(blob.size), checksum=checksum)

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the objects directly under the prefix, page by page; see `Store.list`."""
        with self._faults("listing"):
            found = iter(
                self._connect().list_blobs(
                    self._settings.bucket,
                    prefix=self._prefix,
                    delimiter="/",
                    fields="items(name,size),nextPageToken",
                    timeout=self._timeout,
                    retry=None,
                )
            )
        while True:
            with self._faults("listing"):
                blob = next(found, None)
            if blob is None:
                return
            name = str(blob.name)[len(self._prefix) :]
            # The console makes "folders" as empty objects named like the prefix.
            if name and not is_hidden(name):
                yield ObjectInfo(key=name, size=int(blob.size))

    def delete(self, key: str) -> None:
        """Remove one object; see `Store.delete`. A bucket that keeps versions keeps them, unless told otherwise."""
        target = self._prefix + check_key(key)
        with self._faults(f"deleting {key}"):
            for generation in self._generations(target) if self._settings.delete_versions else (None,):
                try:
                    self._bucket().delete_blob(target, generation=generation, timeout=self._timeout, retry=None)
                except NotFound:
                    self._ask_for_bucket()
                except Forbidden as error:
                    if says_locked(error):
                        raise self._locked(key, None) from error
                    raise

    def must_be_free(self, key: str) -> None:
        """Look for a hold, or for a retention that has not ended; see `Store.must_be_free`."""
        blob = self._look(self._prefix + check_key(key), key)
        if blob is None:
            return
        if blob.temporary_hold or blob.event_based_hold:
            raise self._locked(key, None)
        ends = [blob.retention_expiration_time, getattr(blob.retention, "retain_until_time", None)]
        until = max((end for end in ends if end is not None), default=None)
        if until is not None and until > self._clock.now():
            raise self._locked(key, until.astimezone(UTC))

    def keeping(self) -> Keeping:
        """Say what the bucket keeps; see `Store.keeping`. Without the right storage.buckets.get: nothing."""
        with self._faults("asking for the bucket's settings"):
            try:
                bucket = self._connect().get_bucket(self._settings.bucket, timeout=self._timeout, retry=None)
            except Forbidden:
                return Keeping()
        soft = int(getattr(bucket.soft_delete_policy, "retention_duration_seconds", 0) or 0)
        versions = bool(bucket.versioning_enabled)
        rules = [rule for rule in bucket.lifecycle_rules if (rule.get("action") or {}).get("type") == "Delete"]
        ends = any(_OLD_ONES & set(rule.get("condition") or {}) for rule in rules)
        return Keeping(
            versions=versions or soft > 0,
            expiring=ends if versions else soft > 0,
            locked_days=-(-int(bucket.retention_period or 0) // 86400),
        )

    def survey(self, key: str) -> tuple[Finding, ...]:  # noqa: ARG002 - the bucket tells all by itself
        """Look at the bucket's settings and at what the login may do; see `Store.survey`."""
        with self._faults("looking at the bucket"):
            return survey(self._session(), self._endpoint, self._settings, self._prefix, self._timeout)

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """End old sessions; see `Store.sweep`. Google lists none: those of lost notes end by themselves in a week."""
        with self._faults("ending unfinished uploads"):
            http = self._session()
            return self._sessions.sweep(before, ours, lambda found: cancel(http, found.address, self._timeout))

    def close(self) -> None:
        """Drop the connections."""
        if self._client is not None:
            self._client.close()
            self._client = self._http = None

    # ------------------------------------------------------------------------------------------------ connecting

    def _connect(self) -> Any:
        """Return the client, made at first use."""
        if self._client is None:
            check_ca_file(self.name, self._settings.ca_file)
            http = log_in(self._settings, self._place)
            options = {"api_endpoint": self._endpoint} if self._settings.endpoint_url else None
            self._client = storage.Client(
                project=None, credentials=http.credentials, _http=http, client_options=options
            )
            self._http = http
        return self._client

    def _bucket(self) -> Any:
        return self._connect().bucket(self._settings.bucket)

    def _session(self) -> AuthorizedSession:
        self._connect()
        assert self._http is not None
        return self._http

    # ------------------------------------------------------------------------------------------------ putting

    def _put(self, key: str, payload: Payload, report: Progress) -> PutResult:
        target = self._prefix + key
        with payload:
            doing = f"storing {key} ({payload.size} bytes)"
            counted = Counted(report, self._pace)
            with self._faults(doing):
                if payload.size <= self._settings.chunk_size:
                    counted.sending(payload.size)
                    found, crc = self._put_whole(target, payload)
                else:
                    found, crc = self._put_session(key, payload, counted)
            result = self._confirm(key, found, payload.size, crc.up_to(payload.size))
            return msgspec.structs.replace(result, resumed=counted.resumed)

    def _put_whole(self, target: str, payload: Payload) -> _Found:
        blob, crc = self._blob(target), Crc32c(payload)
        generation = self._generation(target)
        blob.crc32c = crc.up_to(payload.size)  # sent along: the server compares before it makes the object
        blob.upload_from_string(
            payload.read(0, payload.size),
            content_type="application/octet-stream",
            if_generation_match=generation,
            timeout=self._timeout,
            checksum=None,
            retry=None,
        )
        return {"size": blob.size, "crc32c": blob.crc32c, "generation": blob.generation}, crc

    def _put_session(self, key: str, payload: Payload, counted: Counted) -> _Found:
        """Send a file in a session: the one that is written down, where it still serves, else a new one."""
        target = self._prefix + key
        generation = self._generation(target)
        found = self._go_on(key, str(generation), payload, counted)
        if found is not None:
            return found
        url = self._blob(target).create_resumable_upload_session(
            content_type="application/octet-stream",
            size=payload.size,
            if_generation_match=generation,
            timeout=self._timeout,
            checksum=None,
            retry=None,
        )
        session = self._sessions.begun(key, url, payload.size, str(generation))
        try:
            return self._send(key, self._upload(key, session, payload, counted), 0)
        except SessionGoneError:
            raise store_error(
                "destination-unreachable",
                f"destination {self.name!r}: storing {key} failed at {self._place}: the server forgot the upload",
                "it is begun anew",
            ) from None

    def _go_on(self, key: str, generation: str, payload: Payload, counted: Counted) -> _Found | None:
        """Finish what an earlier put left, if it is of this file; else None, and it is forgotten."""
        session = self._sessions.read(key)
        if session is None or not session.address.startswith(f"{self._endpoint}/"):
            return None
        upload = self._upload(key, session, payload, counted)
        with contextlib.suppress(SessionGoneError, _OtherContentError):
            stands = upload.look()
            if not isinstance(stands, int):  # nobody heard that it was finished
                if int(stands.get("size", -1)) == payload.size and stands.get("crc32c") == upload.crc.up_to(
                    payload.size
                ):
                    counted.found(payload.size)
                    self._sessions.forget(key)
                    return stands, upload.crc
            elif session.replaces == generation and proven(session, stands, payload, upload.crc, counted):
                return self._send(key, upload, stands)
            else:
                upload.cancel()
        counted.anew()
        self._sessions.forget(key)
        return None

    def _upload(self, key: str, session: Session, payload: Payload, counted: Counted) -> Upload:
        return Upload(
            self._session(),
            session.address,
            payload,
            counted,
            clock=self._clock,
            timeout=self._timeout,
            sending=partial(self._sessions.sending, key, session),
        )

    def _send(self, key: str, upload: Upload, stands: int) -> _Found:
        """Send the rest. What is broken off stays to be gone on with, unless nothing will come of it."""
        try:
            found = upload.send(self._settings.chunk_size, stands)
        except BaseException as error:
            if not isinstance(error, SessionGoneError) and _may_go_on(error):
                raise
            self._sessions.forget(key)
            upload.cancel()
            if stands and isinstance(error, FAULTS) and classify(error)[0] == "destination-mismatch":
                # What was there and not in the note is of another file.
                raise _OtherContentError from error
            raise
        self._sessions.forget(key)
        return found, upload.crc

    def _blob(self, target: str) -> Any:
        blob = self._bucket().blob(target, kms_key_name=self._settings.kms_key_name or None)
        if self._settings.storage_class:
            blob.storage_class = self._settings.storage_class
        return blob

    def _generation(self, target: str) -> int:
        """Return which generation a put replaces, 0 for none: also for who may write, but not look."""
        try:
            blob = self._bucket().get_blob(target, timeout=self._timeout, retry=None)
        except Forbidden:
            return 0
        return 0 if blob is None else int(blob.generation)

    def _confirm(self, key: str, found: dict[str, Any], size: int, crc: str) -> PutResult:
        there = int(found.get("size", -1))
        if there == size and found.get("crc32c") == crc:
            return PutResult(size=size, proven=True, durable=True)
        # A damaged object must not pass for a backup; only ours is deleted.
        with contextlib.suppress(*FAULTS):
            self._bucket().delete_blob(
                self._prefix + key, if_generation_match=found.get("generation"), timeout=self._timeout, retry=None
            )
        raise self._mismatch(
            f"after storing {key} the server reports "
            + (f"{there} of {size} bytes" if there != size else "another checksum")
        )

    # ------------------------------------------------------------------------------------------------ looking

    def _open(self, target: str, offset: int, length: int | None) -> requests.Response:
        """Ask for an object's bytes as they are stored; the answer is 200, 206 or 416."""
        last = "" if length is None else offset + length - 1
        ranged = {"Range": f"bytes={offset}-{last}"} if offset or length is not None else {}
        bucket = quote(self._settings.bucket, safe="")
        # Without this Google unpacks what is stored as gzip.
        headers = {"Accept-Encoding": "gzip", **ranged}
        url = f"{self._endpoint}/storage/v1/b/{bucket}/o/{quote(target, safe='')}?alt=media"
        # As what it is derived from: google-auth's own method tells no types.
        session: requests.Session = self._session()
        response = session.request("GET", url, headers=headers, stream=True, timeout=self._timeout)
        if response.status_code in (200, 206, 416):
            return response
        with contextlib.closing(response):
            if response.status_code == 404:
                self._ask_for_bucket()
                raise store_error(
                    "object-missing",
                    f"destination {self.name!r}: there is no {target[len(self._prefix) :]} in {self._place}",
                )
            raise answered(response)

    def _look(self, target: str, key: str) -> Any:
        with self._faults(f"looking at {key}"):
            blob = self._bucket().get_blob(target, timeout=self._timeout, retry=None)
            if blob is None:
                self._ask_for_bucket()
            return blob

    def _ask_for_bucket(self) -> None:
        """Raise NotFound when it is the bucket that is not there. Who may not list cannot know, and is believed."""
        with contextlib.suppress(Forbidden):
            next(
                iter(
                    self._connect().list_blobs(
                        self._settings.bucket, prefix=self._prefix, max_results=1, timeout=self._timeout, retry=None
                    )
                ),
                None,
            )

    def _generations(self, target: str) -> tuple[int, ...]:
        found = self._connect().list_blobs(
            self._settings.bucket, prefix=target, versions=True, timeout=self._timeout, retry=None
        )
        return tuple(int(blob.generation) for blob in found if blob.name == target)

    # ------------------------------------------------------------------------------------------------ faults

    def _locked(self, key: str, until: datetime | None) -> LockedError:
        how = f"until {until:%Y-%m-%d %H:%M} UTC" if until is not None else "by a hold or the bucket's retention policy"
        return LockedError(
            f"{key} is locked {how} at {self._place}",
            until=until,
            hint="it is deleted once the lock has ended; nothing has to be done",
        )

    def _mismatch(self, text: str) -> StoreError:
        return store_error(
            "destination-mismatch",
            f"destination {self.name!r}: {text} ({self._place})",
            "if it happens again, check the network, this host's memory and the provider",
        )

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn Google's errors into ours."""
        try:
            yield
        except FAULTS as error:
            code, hint, retryable = classify(error)
            message = f"destination {self.name!r}: {doing} failed at {self._place}: {reason(error)}"
            raise store_error(code, message, hint, retryable=retryable) from error


_OLD_ONES: Final = frozenset({"numNewerVersions", "daysSinceNoncurrentTime", "noncurrentTimeBefore", "age", "isLive"})
"""Conditions of lifecycle rules by which versions that were replaced are deleted."""


def _may_go_on(error: BaseException) -> bool:
    """Tell whether a session that ended so may be gone on with."""
    if not isinstance(error, FAULTS):
        return worth_keeping(error)
    code, _, retryable = classify(error)
    # 412: the object that was to be replaced is not there any more.
    return status(error) != 412 and worth_keeping(store_error(code, "", retryable=retryable))


def _told_crc(response: requests.Response) -> str:
    """Return the CRC32C that came with a whole object, or an empty text."""
    for part in response.headers.get("X-Goog-Hash", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "crc32c":
            return value
    return ""


def _hex(text: str | None) -> str:
    return base64.b64decode(text or "").hex()
