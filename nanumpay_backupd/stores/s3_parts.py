"""Uploads to a bucket in parts, and going on with one that was broken off. What an object is called is not known here.

A multipart upload outlives the connection, the process and the host that began it (AWS, "Uploading and copying objects
using multipart upload"): its parts stay, as no object, until it is completed or aborted. Which one it was is in a note,
or is asked for; which of its parts are there is asked for always, and a part counts only when its size and its checksum
are those of the file's part. Where a part's ETag is not its MD5 (encryption by KMS), it counts when the note has it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from nanumpay_backupd.stores.base import Notes, Progress, Resumed, store_error, worth_keeping
from nanumpay_backupd.stores.payload import Payload
from nanumpay_backupd.stores.s3_content import Digest, Paced, part_length, plain_etag
from nanumpay_backupd.stores.s3_errors import error_code, http_status

__all__ = ["Parts", "Sent", "abort_older"]

_WRITTEN_EACH: Final = 32
"""A note with parts is written anew when it has grown by this fraction: at most so much is sent twice for its sake."""


class Sent(msgspec.Struct, frozen=True):
    """A file that is an object now: the raw MD5 of its parts in order, and how much of it was there before."""

    digests: tuple[bytes, ...]
    resumed: int


class _Part(msgspec.Struct, frozen=True):
    """One part as the server has it; ``checksums`` are those that the server wants to be told again at the end."""

    digest: bytes
    etag: str
    size: int
    checksums: dict[str, str] = {}


class _Note(msgspec.Struct, array_like=True):
    """What is written down of an upload: its id, the bytes of the file and of each part.

    ``opaque`` has the parts whose ETag proves nothing by itself: number to MD5 and ETag.
    """

    upload: str
    size: int
    length: int
    opaque: dict[int, tuple[bytes, str]] = {}


class _Upload(msgspec.Struct):
    """An upload that is under way."""

    id: str
    length: int
    parts: dict[int, _Part]
    resumed: int = 0


class _Count:
    """Progress that counts each byte once, also where something was there that then turned out to be of no use."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ahead = 0

    def take_back(self, size: int) -> None:
        """So many of the bytes that were told are not there."""
        self._ahead += size

    def __call__(self, size: int) -> None:
        early = min(size, self._ahead)
        self._ahead -= early
        self._progress(size if not early else type(size)(size - early))


class Parts:
    """The uploads in parts of one store. Raises what boto3 raises, and StoreError for what cannot be read here."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        notes: Notes,
        *,
        part_size: int,
        parallel: int,
        pace: Callable[[int], None] | None,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._notes = notes
        self._part_size = part_size
        self._parallel = parallel
        self._pace = pace
        self._tells = False
        """The ETag of a part was seen to be its MD5: so the place proves each, and need not be told its checksum too,
        which some work out twice then."""

    def send(self, key: str, target: str, source: Payload, options: Mapping[str, object], progress: Progress) -> Sent:
        """Make a file an object; ``progress`` is called by this thread only, at least once a second.

        What is broken off stays, unless nothing of it is there or nothing will come of it; the next call goes on.
        """
        note = self._noted(key)
        count = _Count(progress)
        upload = self._found(target, source, note, count)
        if upload is None:
            complete = self._completed(target, source, note, count)
            if complete is not None:
                return complete
            upload = self._begun(target, source, options)
        note = _Note(upload.id, source.size, upload.length, _opaque(upload.parts))
        self._notes.write(key, msgspec.msgpack.encode(note))
        try:
            self._send_rest(key, target, upload, source, note, count, always="ObjectLockMode" in options)
            ordered = sorted(upload.parts.items())
            listed = [{"PartNumber": number, "ETag": part.etag, **part.checksums} for number, part in ordered]
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=target, UploadId=upload.id, MultipartUpload={"Parts": listed}
            )
        except BaseException as error:
            if _vanished(error):
                # Aborted by somebody (a lifecycle rule), or a server that keeps parts in memory began anew.
                raise store_error(
                    "destination-failed",
                    f"the place has forgotten the unfinished upload of {key}",
                    "it is sent anew; a lifecycle rule that aborts unfinished uploads should leave them some days",
                ) from error
            if not upload.parts or _no_room(error) or not worth_keeping(error):
                self._abort(target, upload.id)
                self._notes.write(key, None)
            raise
        return Sent(tuple(part.digest for _, part in ordered), upload.resumed)

    def _noted(self, key: str) -> _Note | None:
        kept = self._notes.read(key)
        if kept is None:
            return None
        try:
            return msgspec.msgpack.decode(kept, type=_Note)
        except msgspec.MsgspecError:  # of another version
            return None

    def _begun(self, target: str, source: Payload, options: Mapping[str, object]) -> _Upload:
        answer = self._client.create_multipart_upload(Bucket=self._bucket, Key=target, **options)
        return _Upload(answer["UploadId"], part_length(source.size, self._part_size), {})

    def _found(self, target: str, source: Payload, note: _Note | None, progress: _Count) -> _Upload | None:
        """Return the first upload of this object of which a part can be used; the others are aborted."""
        noted = [note.upload] if note is not None else []
        found: _Upload | None = None
        for identity in dict.fromkeys((*noted, *self._unfinished(target))):
            mine = note if note is not None and note.upload == identity else None
            upload = self._usable(target, identity, source, mine, progress) if found is None else None
            if upload is None:
                self._abort(target, identity)
            else:
                found = upload
        return found

    def _unfinished(self, target: str) -> list[str]:
        """List the unfinished uploads of an object, newest first; takes a right of its own, so none is told without."""
        found: list[tuple[datetime, str]] = []
        with contextlib.suppress(BotoCoreError, ClientError):
            found.extend(
                (upload.get("Initiated") or datetime.min.replace(tzinfo=UTC), upload["UploadId"])
                for upload in _uploads(self._client, self._bucket, target)
                if upload["Key"] == target
            )
        return [identity for _, identity in sorted(found, reverse=True)]

    def _usable(
        self, target: str, identity: str, source: Payload, note: _Note | None, progress: _Count
    ) -> _Upload | None:
        """Compare the parts that are there with the file; None when one is not of it, or there is none.

        A part could be sent again, but not every server takes another content for it, and it is a strange upload.
        """
        try:
            listed = list(self._listed(target, identity))
        except ClientError as error:
            if http_status(error) >= 500 and http_status(error) != 501:
                raise
            return None  # gone, or not to be asked
        length = self._length_of(listed, source, note)
        upload = _Upload(identity, length, {})
        for entry in listed:
            offset = (entry["PartNumber"] - 1) * length
            part = self._same(entry, offset, min(length, source.size - offset), source, note)
            if part is None:
                progress.take_back(upload.resumed)
                return None
            upload.parts[entry["PartNumber"]] = part
            upload.resumed += part.size
            progress(Resumed(part.size))
        return upload if upload.parts else None

    @staticmethod
    def _same(entry: dict[str, Any], offset: int, size: int, source: Payload, note: _Note | None) -> _Part | None:
        """Return a part that is there, if it is that of the file."""
        if size <= 0 or entry["Size"] != size:
            return None
        digest = Digest(source.read(offset, size))
        kept = note.opaque.get(entry["PartNumber"]) if note is not None else None
        if plain_etag(entry["ETag"]) != digest.hex() and kept != (digest.raw, entry["ETag"]):
            return None
        return _Part(digest.raw, entry["ETag"], size, _checksums(entry))

    def _listed(self, target: str, identity: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=target, UploadId=identity)
        for page in pages:
            yield from page.get("Parts", ())

    def _length_of(self, listed: list[dict[str, Any]], source: Payload, note: _Note | None) -> int:
        """Return the bytes per part with which an upload was begun: the settings may have changed since."""
        longest = max((entry["Size"] for entry in listed), default=0)
        length = note.length if note is not None else longest
        fits = length == part_length(source.size, length)
        return length if fits and longest <= length else part_length(source.size, self._part_size)

    def _completed(self, target: str, source: Payload, note: _Note | None, progress: _Count) -> Sent | None:
        """Tell whether a noted upload, which is not unfinished any more, was finished though nobody heard of it."""
        if note is None or note.size != source.size:
            return None
        count = -(-source.size // note.length)
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=target)
        except ClientError:
            return None
        if head["ContentLength"] != source.size or not plain_etag(head.get("ETag", "")).endswith(f"-{count}"):
            return None
        digests = []
        for number in range(count):
            progress(0)  # so that the callback can break off
            digests.append(Digest(source.read(number * note.length, note.length)))
        composite = Digest(b"".join(digest.raw for digest in digests)).hex()
        if plain_etag(head["ETag"]) != f"{composite}-{count}":
            return None
        progress(Resumed(source.size))
        return Sent(tuple(digest.raw for digest in digests), source.size)

    def _send_rest(
        self,
        key: str,
        target: str,
        upload: _Upload,
        source: Payload,
        note: _Note,
        progress: _Count,
        *,
        always: bool,
    ) -> None:
        """Send the parts that are not there, a few at a time, and note those of which the place tells no checksum.

        ``always`` with the checksum: a bucket with locks asks for it.
        """
        stop = threading.Event()
        written = len(note.opaque)

        def send(number: int) -> tuple[int, _Part]:
            if stop.is_set():
                raise store_error("destination-failed", "stopped")
            data = source.read((number - 1) * upload.length, upload.length)
            return number, self._send_part(target, upload.id, number, data, checked=always or not self._tells)

        count = -(-source.size // upload.length)
        numbers = (number for number in range(1, count + 1) if number not in upload.parts)
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="s3-part") as pool:
            pending: set[Future[tuple[int, _Part]]] = set()
            try:
                while True:
                    room = self._parallel - len(pending)
                    pending.update(pool.submit(send, number) for number in itertools.islice(numbers, room))
                    if not pending:
                        break
                    finished, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                    moved = 0
                    for future in finished:
                        number, part = future.result()
                        upload.parts[number] = part
                        note.opaque |= _opaque({number: part})
                        moved += part.size
                    if len(note.opaque) > written + written // _WRITTEN_EACH:
                        self._notes.write(key, msgspec.msgpack.encode(note))
                        written = len(note.opaque)
                    progress(moved)
            except BaseException:
                stop.set()
                raise

    def _send_part(self, target: str, identity: str, number: int, data: bytes, *, checked: bool) -> _Part:
        digest = Digest(data)
        answer = self._client.upload_part(
            Bucket=self._bucket,
            Key=target,
            UploadId=identity,
            PartNumber=number,
            Body=data if self._pace is None else Paced(data, self._pace),
            **({"ContentMD5": digest.base64} if checked else {}),
        )
        same = plain_etag(answer["ETag"]) == digest.hex()
        if not same and not checked:
            raise store_error(
                "destination-mismatch",
                f"part {number} of {target} arrived as another: its checksum there is {answer['ETag']}",
                "it is sent again; if it happens again, check the network and this host's memory",
            )
        self._tells = self._tells or same
        return _Part(digest.raw, answer["ETag"], len(data), _checksums(answer))

    def _abort(self, target: str, identity: str) -> None:
        """Let the place forget an upload. Best effort: parts that nobody finishes are invisible, but cost money."""
        with contextlib.suppress(BotoCoreError, ClientError):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=target, UploadId=identity)


def abort_older(
    client: Any, bucket: str, prefix: str, before: datetime, ours: Callable[[str], bool]
) -> tuple[str, ...]:
    """Abort what was begun, and last added to, before a moment; returns the names behind ``prefix``."""
    gone = []
    for upload in _uploads(client, bucket, prefix):
        name, begun = upload["Key"][len(prefix) :], upload.get("Initiated")
        if begun is None or begun >= before or not ours(name):
            continue
        which = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        with contextlib.suppress(ClientError):  # somebody ended it just now
            parts = client.get_paginator("list_parts").paginate(**which)
            if any(part["LastModified"] >= before for page in parts for part in page.get("Parts", ())):
                continue
            client.abort_multipart_upload(**which)
            gone.append(name)
    return tuple(gone)


def _uploads(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Uploads", ())


def _opaque(parts: Mapping[int, _Part]) -> dict[int, tuple[bytes, str]]:
    """Return those whose ETag is not their MD5."""
    return {
        number: (part.digest, part.etag) for number, part in parts.items() if plain_etag(part.etag) != part.digest.hex()
    }


def _checksums(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums of an answer about a part; where an upload has them, its end has to name them all."""
    return {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}


def _vanished(error: BaseException) -> bool:
    return isinstance(error, ClientError) and error_code(error) == "NoSuchUpload"


def _no_room(error: BaseException) -> bool:
    return isinstance(error, ClientError) and (http_status(error) == 507 or "quota" in error_code(error).lower())
