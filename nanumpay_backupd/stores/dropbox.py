"""A Store in a folder of a Dropbox: upload sessions, content hashes, listings. The connection is dropbox_link's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.destinations import DropboxDestination
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
from nanumpay_backupd.stores.dropbox_errors import FAULTS, AnswerError, classify, reason
from nanumpay_backupd.stores.dropbox_link import DropboxLink
from nanumpay_backupd.stores.dropbox_session import ContentHash, SessionGoneError, Upload, begin
from nanumpay_backupd.stores.dropbox_survey import RIGHTS, survey
from nanumpay_backupd.stores.payload import Body, Counted, Payload, ignore, sliced
from nanumpay_backupd.stores.sessions import Session, Sessions, proven
from nanumpay_backupd.stores.tls import check_ca_file
from nanumpay_backupd.system.clock import Clock, SystemClock

__all__ = ["DropboxStore"]

_PAGE: Final = 1000


class DropboxStore(Store):
    """A folder in a Dropbox. Large files go up in a session, which becomes a file when all of it is there.

    Dropbox compares the hash of each chunk with what arrived, and tells the one of the whole file. No file is replaced
    but the one that was there when the put began.
    """

    rights = RIGHTS
    properties = Properties(proves_content=True, resumes_put=True, needs_notes=True, tells_room=True)

    def __init__(
        self,
        destination: DropboxDestination,
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
        folder = destination.path.strip("/")
        self._folder = f"/{folder}" if folder else ""
        self._link: DropboxLink | None = None
        self._place = f"folder {self._folder or '/'} of Dropbox"
        if destination.endpoint_url:
            self._place += f" at {destination.endpoint_url}"

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Upload a file; see `Store.put`. Memory: one chunk of ``chunk_size`` bytes."""
        return self._put(check_key(key), Payload(path), progress or ignore)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Upload a small object; see `Store.put_bytes`."""
        return self._put(check_key(key), Payload(Path(key), data), ignore)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Download a file; see `Store.get`. A whole one is compared with its content hash."""
        argument = {"path": self._path(check_key(key))}
        doing = f"reading {key}"
        last = "" if length is None else offset + length - 1
        headers = {"Range": f"bytes={offset}-{last}"} if offset or length is not None else {}
        with self._faults(doing):
            try:
                answer = self._connect().open("files/download", argument, headers)
            except AnswerError as error:
                if error.says("not_found", "not_file"):
                    raise store_error(
                        "object-missing", f"destination {self.name!r}: there is no {key} in {self._place}"
                    ) from error
                raise
        found = ContentHash()
        finished = False
        # A server may ignore Range, which is its right (RFC 9110, 14.2).
        skip, left = (offset if answer.status == 200 else 0), length
        try:
            if answer.status == 416:  # nothing there behind the offset
                finished = True
                return
            while left != 0:
                with self._faults(doing):
                    chunk = answer.read(CHUNK)
                if not chunk:
                    finished = True
                    break
                found.update(chunk)
                piece = chunk[skip:] if left is None else chunk[skip : skip + left]
                skip = max(0, skip - len(chunk))
                if piece:
                    left = None if left is None else left - len(piece)
                    yield from sliced(piece, CHUNK)
        finally:
            if not finished:
                answer.close()
            answer.release_conn()
        if answer.status == 200 and finished:
            self._compare(key, answer.headers.get("Dropbox-API-Result", ""), found)

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask for one file; see `Store.stat`."""
        found = self._look(check_key(key))
        return None if found is None else ObjectInfo(key=key, size=int(found["size"]))

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the files of the folder, page by page; see `Store.list`."""
        with self._faults("listing"):
            try:
                page = self._connect().call("files/list_folder", {"path": self._folder, "limit": _PAGE})
            except AnswerError as error:
                if error.says("path/not_found"):
                    return
                raise
        while True:
            for entry in page.get("entries", ()):
                if entry.get(".tag") == "file" and not is_hidden(entry["name"]):
                    yield ObjectInfo(key=entry["name"], size=int(entry["size"]))
            if not page.get("has_more"):
                return
            with self._faults("listing"):
                page = self._connect().call("files/list_folder/continue", {"cursor": page["cursor"]})

    def delete(self, key: str) -> None:
        """Remove one file; see `Store.delete`. Dropbox keeps it for the days of its plan."""
        check_key(key)
        with self._faults(f"deleting {key}"):
            try:
                self._connect().call("files/delete_v2", {"path": self._path(key)})
            except AnswerError as error:
                if not error.says("path_lookup/not_found"):
                    raise

    def room(self) -> int | None:
        """Return how many bytes the account has left; None where it does not tell (right account_info.read)."""
        with self._faults("asking for the room"):
            try:
                found = self._connect().call("users/get_space_usage", None)
            except AnswerError as error:
                if classify(error)[0] == "destination-denied":
                    return None
                raise
        allocated = found.get("allocation", {}).get("allocated")
        return None if allocated is None else max(0, int(allocated) - int(found.get("used", 0)))

    def keeping(self) -> Keeping:
        """Say what Dropbox keeps: every file that was deleted or replaced, for the 30 to 365 days of the plan."""
        return Keeping(versions=True, expiring=True)

    def survey(self, key: str) -> tuple[Finding, ...]:  # noqa: ARG002 - nothing is tried out
        """Look at the account; see `Store.survey`."""
        with self._faults("looking at the account"):
            return survey(self._connect())

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """Forget old sessions; see `Store.sweep`. No call ends one: Dropbox does so by itself in a week."""
        return self._sessions.sweep(before, ours, lambda _: None)

    def close(self) -> None:
        """Drop the connections."""
        if self._link is not None:
            self._link.close()
            self._link = None

    # ------------------------------------------------------------------------------------------------ putting

    def _put(self, key: str, payload: Payload, report: Progress) -> PutResult:
        with payload:
            doing = f"storing {key} ({payload.size} bytes)"
            counted = Counted(report, self._pace)
            commit = self._commit(key)
            with self._faults(doing):
                if payload.size <= self._settings.chunk_size:
                    data = payload.read(0, payload.size)
                    digest = ContentHash().update(data)
                    argument = {**commit, "content_hash": digest.hex()}
                    found = self._connect().send("files/upload", argument, Body(data, counted.sending))
                    counted.at(payload.size)
                else:
                    found, digest = self._put_session(key, payload, commit, counted)
        there = int(found.get("size", -1))
        if there == payload.size and found.get("content_hash") == digest.hex():
            return PutResult(size=there, proven=True, durable=True, resumed=counted.resumed)
        self._take_back(key, found)
        raise self._mismatch(
            f"after storing {key} the server reports "
            + (f"{there} of {payload.size} bytes" if there != payload.size else "another checksum")
        )

    def _commit(self, key: str) -> dict[str, Any]:
        """Return under which name a content becomes a file, and which one it may replace."""
        found = self._look(key)
        mode = {".tag": "add"} if found is None else {".tag": "update", "update": found["rev"]}
        return {"path": self._path(key), "mode": mode, "autorename": False, "mute": True, "strict_conflict": True}

    def _put_session(
        self, key: str, payload: Payload, commit: dict[str, Any], counted: Counted
    ) -> tuple[dict[str, Any], ContentHash]:
        """Send a file in a session: the one that is written down, where it still serves, else a new one."""
        upload, stands = self._left_there(key, payload, counted)
        if upload is None:
            session = self._sessions.begun(key, begin(self._connect()), payload.size)
            upload = self._upload(key, session, payload, counted)
        try:
            found = upload.send(self._settings.chunk_size, stands, commit)
        except SessionGoneError:
            self._sessions.forget(key)
            # When the last answer was lost on its way, the file is there.
            found = self._look(key) or {}
            if found.get("content_hash") != upload.digest.up_to(payload.size):
                raise store_error(
                    "destination-unreachable",
                    f"destination {self.name!r}: storing {key} failed at {self._place}: it forgot the upload",
                    "it is begun anew",
                ) from None
        except BaseException as error:
            if not _may_go_on(error):
                self._sessions.forget(key)  # Dropbox does so by itself in a week
            raise
        self._sessions.forget(key)
        return found, upload.digest

    def _left_there(self, key: str, payload: Payload, counted: Counted) -> tuple[Upload | None, int]:
        """Return what an earlier put left and where that stands, if all of it is proven to be of this file.

        Dropbox compares chunks only: what is in a session and not in its note could be another file's.
        """
        session = self._sessions.read(key)
        if session is not None:
            upload = self._upload(key, session, payload, counted)
            with contextlib.suppress(SessionGoneError):
                stands = upload.look()
                if stands in session.beginnings and proven(session, stands, payload, upload.digest, counted):
                    return upload, stands
        counted.anew()
        return None, 0

    def _upload(self, key: str, session: Session, payload: Payload, counted: Counted) -> Upload:
        remember = partial(self._sessions.sending, key, session)
        return Upload(self._connect(), session.address, payload, counted, clock=self._clock, sending=remember)

    # ------------------------------------------------------------------------------------------------ looking

    def _connect(self) -> DropboxLink:
        if self._link is None:
            check_ca_file(self.name, self._settings.ca_file)
            self._link = DropboxLink(self._settings, self._clock)
        return self._link

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key}"

    def _look(self, key: str) -> dict[str, Any] | None:
        with self._faults(f"looking at {key}"):
            try:
                found = self._connect().call("files/get_metadata", {"path": self._path(key)})
            except AnswerError as error:
                if error.says("path/not_found"):
                    return None
                raise
            return found if found.get(".tag") == "file" else None

    def _compare(self, key: str, told: str, found: ContentHash) -> None:
        """Compare what arrived with the hash that came with it."""
        try:
            expected = str(json.loads(told).get("content_hash", ""))
        except (ValueError, AttributeError):
            return
        if expected and expected != found.hex():
            raise self._mismatch(f"reading {key}: what arrived has another checksum than the file")

    def _take_back(self, key: str, found: dict[str, Any]) -> None:
        """Delete a damaged file, which must not pass for a backup; only ours. Best effort."""
        with contextlib.suppress(*FAULTS):
            self._connect().call("files/delete_v2", {"path": self._path(key), "parent_rev": found.get("rev")})

    # ------------------------------------------------------------------------------------------------ faults

    def _mismatch(self, text: str) -> StoreError:
        return store_error(
            "destination-mismatch",
            f"destination {self.name!r}: {text} ({self._place})",
            "if it happens again, check the network, this host's memory and the provider",
        )

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn Dropbox's and urllib3's errors into ours."""
        try:
            yield
        except FAULTS as error:
            code, hint, retryable = classify(error)
            message = f"destination {self.name!r}: {doing} failed at {self._place}: {reason(error)}"
            raise store_error(code, message, hint, retryable=retryable) from error


def _may_go_on(error: BaseException) -> bool:
    """Tell whether a session that ended so may be gone on with."""
    if not isinstance(error, FAULTS):
        return worth_keeping(error)
    code, _, retryable = classify(error)
    return worth_keeping(store_error(code, "", retryable=retryable))
