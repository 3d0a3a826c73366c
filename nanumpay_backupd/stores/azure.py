"""A Store in a container of Azure Blob Storage, by azure-storage-blob. Retrying as such is the wrapper's matter."""

from __future__ import annotations

import contextlib
import itertools
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core import MatchConditions
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import AzureError, DeserializationError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import (
    BlobBlock,
    BlobClient,
    BlobPrefix,
    BlobServiceClient,
    ContainerClient,
    ContentSettings,
    StandardBlobTier,
)

from nanumpay_backupd.errors import LockedError, StoreError
from nanumpay_backupd.settings.destinations import AzureDestination
from nanumpay_backupd.stores.azure_blocks import Moved, block_length, left_there, md5, send_blocks
from nanumpay_backupd.stores.azure_errors import classify, error_code, reason, says_locked, status
from nanumpay_backupd.stores.azure_survey import RIGHTS, survey
from nanumpay_backupd.stores.base import (
    CHUNK,
    Finding,
    Keeping,
    ObjectInfo,
    Progress,
    Properties,
    PutResult,
    Store,
    check_key,
    is_hidden,
    store_error,
)
from nanumpay_backupd.stores.extras import needed_extra
from nanumpay_backupd.stores.payload import Payload, ignore, sliced
from nanumpay_backupd.stores.tls import check_ca_file
from nanumpay_backupd.system.secrets import Secret, redact

__all__ = ["AzureStore"]

_READ_AT_ONCE: Final = 4 << 20
_PAGE: Final = 1000
_CONNECT_TIMEOUT: Final = 10.0
_PART_OF_LOGIN: Final = re.compile(r"(?:AccountKey|SharedAccessSignature)=([^;]+)|[?&]?sig=([^&;]+)")


class AzureStore(Store):
    """A prefix in a container. Large files go up in blocks, side by side, and become a blob when all are there.

    A block is named by its place and its content. So a put finds out which blocks an earlier one left, and sends only
    the others; Azure keeps them for a week, as no blob. Azure compares the MD5 of each block with what arrived. No blob
    is replaced but the one that was there when the put began.
    """

    rights = RIGHTS
    properties = Properties(proves_content=True, resumes_put=True, forgets=True)

    def __init__(self, destination: AzureDestination, pace: Callable[[int], None] | None = None) -> None:
        """Take the settings; ``pace``, from any thread, gets the bytes about to be sent, and holds them back."""
        self.name = destination.name
        self._settings = destination
        self._pace = pace
        folder = destination.prefix.strip("/")
        self._prefix = f"{folder}/" if folder else ""
        self._client: ContainerClient | None = None
        self._place = f"container {destination.container}"

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Upload a file; see `Store.put`. Memory: ``parallel_blocks`` blocks of ``block_size`` bytes."""
        return self._put(check_key(key), Payload(path), progress or ignore)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Upload a small object; see `Store.put_bytes`."""
        return self._put(check_key(key), Payload(Path(key), data), ignore)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Download a blob, 4 MiB with each request; see `Store.get`. One that is replaced meanwhile ends it."""
        check_key(key)
        doing = f"reading {key}"
        with self._faults(doing):
            try:
                chunks = self._blob(key).download_blob(offset=offset, length=length).chunks()
            except ResourceNotFoundError as error:
                if error_code(error) == "ContainerNotFound":
                    raise
                raise store_error(
                    "object-missing", f"destination {self.name!r}: there is no {key} in {self._place}"
                ) from error
            except AzureError as error:
                if status(error) == 416:  # nothing there behind the offset
                    return
                raise
            except ValueError as error:  # Azure tells with each range which one it is
                raise self._no_azure(doing) from error
        while True:
            with self._faults(doing):
                chunk = next(chunks, b"")
            if not chunk:
                return
            yield from sliced(chunk, CHUNK)

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask for one blob; see `Store.stat`. Blobs of other programs may have no checksum."""
        found = self._look(check_key(key))
        if found is None:
            return None
        digest = found.content_settings.content_md5
        return ObjectInfo(key=key, size=found.size, checksum=f"md5:{bytes(digest).hex()}" if digest else "")

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the blobs directly under the prefix, page by page; see `Store.list`."""
        with self._faults("listing"):
            found = iter(self._connect().walk_blobs(name_starts_with=self._prefix, results_per_page=_PAGE))
        while True:
            with self._faults("listing"):
                entry = next(found, None)
            if entry is None:
                return
            name = entry.name[len(self._prefix) :]
            if not isinstance(entry, BlobPrefix) and name and not is_hidden(name):
                yield ObjectInfo(key=name, size=entry.size)

    def delete(self, key: str) -> None:
        """Remove one blob with its snapshots; see `Store.delete`. What the account keeps of it stays kept."""
        check_key(key)
        with self._faults(f"deleting {key}"):
            try:
                self._blob(key).delete_blob(delete_snapshots="include")
            except ResourceNotFoundError as error:
                if error_code(error) == "ContainerNotFound":
                    raise
            except AzureError as error:
                if says_locked(error):
                    raise self._locked(key, None) from error
                raise

    def must_be_free(self, key: str) -> None:
        """Look for a legal hold or an immutability policy of the blob; see `Store.must_be_free`."""
        found = self._look(check_key(key))
        if found is None:
            return
        if found.has_legal_hold:
            raise self._locked(key, None)
        until = found.immutability_policy.expiry_time if found.immutability_policy else None
        if until is not None and until > datetime.now(UTC):
            raise self._locked(key, until.astimezone(UTC))

    def keeping(self) -> Keeping:
        """Say what the account keeps; see `Store.keeping`. Only who has the account's key is told: else nothing."""
        container = self._connect()
        with self._faults("asking for the account's settings"):
            versions = any(
                entry.version_id
                for entry in itertools.islice(
                    container.list_blobs(name_starts_with=self._prefix, include=["versions"], results_per_page=1), 1
                )
            )
            policy: Any = None
            try:
                policy = self._service().get_service_properties().get("delete_retention_policy")
            except AzureError as error:
                if status(error) not in (400, 401, 403, 404, 501):
                    raise
        return Keeping(
            versions=versions or bool(policy and policy.enabled),
            expiring=not versions and bool(policy and policy.enabled),
        )

    def survey(self, key: str) -> tuple[Finding, ...]:
        """Look at how container and account are set up; see `Store.survey`."""
        container = self._connect()
        with self._faults("looking at the container"), contextlib.closing(self._service()) as account:
            return survey(container, account, self._settings, self._prefix + key)

    def close(self) -> None:
        """Drop the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    # ------------------------------------------------------------------------------------------------ connecting

    def _connect(self) -> ContainerClient:
        """Return the client, made at first use; it is safe to share between threads."""
        if self._client is not None:
            return self._client
        settings = self._settings
        check_ca_file(self.name, settings.ca_file)
        options: dict[str, Any] = {
            "retry_total": 0,
            "connection_timeout": min(_CONNECT_TIMEOUT, settings.timeout),
            "read_timeout": settings.timeout,
            "connection_verify": self._settings.ca_file or True,
            "max_single_get_size": _READ_AT_ONCE,
            "max_chunk_get_size": _READ_AT_ONCE,
            "max_single_put_size": settings.block_size,
            "user_agent": "nanumpay-backupd",
        }
        text = settings.connection_string.reveal() or settings.sas_token.reveal()
        for found in _PART_OF_LOGIN.findall(text):
            Secret(found[0] or found[1])  # known to `redact` from now on
        try:
            if settings.connection_string:
                client = ContainerClient.from_connection_string(text, settings.container, **options)
            else:
                url = settings.endpoint_url or f"https://{settings.account}.blob.core.windows.net"
                client = ContainerClient(url, settings.container, credential=self._login(), **options)
        except ValueError as error:
            raise store_error(
                "destination-auth",
                f"destination {self.name!r}: {self._place} cannot be used: {redact(str(error))}",
                "check endpoint_url, and that the connection string is whole, as the portal shows it",
            ) from error
        parts = urlsplit(client.url)
        self._place = f"container {settings.container} at {parts.scheme}://{parts.netloc}"
        self._client = client
        return client

    def _login(self) -> Any:
        settings = self._settings
        if settings.account_key:
            return {"account_name": settings.account, "account_key": settings.account_key.reveal()}
        if settings.sas_token:
            return AzureSasCredential(settings.sas_token.reveal().removeprefix("?"))
        # Who names a key or a SAS neither needs this library nor waits for it.
        with needed_extra(settings):
            from azure.identity import (
                ChainedTokenCredential,
                EnvironmentCredential,
                ManagedIdentityCredential,
                WorkloadIdentityCredential,
            )
        # What a server has; not what a person who logged in has.
        identity: dict[str, Any] = {"client_id": settings.client_id} if settings.client_id else {}
        found: list[Any] = [EnvironmentCredential()]
        with contextlib.suppress(ValueError):  # no such variables
            found.append(WorkloadIdentityCredential(**identity))
        return ChainedTokenCredential(*found, ManagedIdentityCredential(**identity))

    def _blob(self, key: str) -> BlobClient:
        return self._connect().get_blob_client(self._prefix + key)

    def _service(self) -> BlobServiceClient:
        container = self._connect()
        parts = urlsplit(container.url)
        path = parts.path.rpartition("/")[0]
        return BlobServiceClient(
            f"{parts.scheme}://{parts.netloc}{path}",
            credential=container.credential,
            retry_total=0,
            connection_timeout=min(_CONNECT_TIMEOUT, self._settings.timeout),
            read_timeout=self._settings.timeout,
            connection_verify=self._settings.ca_file or True,
        )

    # ------------------------------------------------------------------------------------------------ putting

    def _put(self, key: str, payload: Payload, progress: Progress) -> PutResult:
        with payload:
            doing = f"storing {key} ({payload.size} bytes)"
            moved = Moved(progress)
            with self._faults(doing):
                replacing = self._replacing(key)
                if payload.size > self._settings.block_size:
                    digest = self._put_blocks(key, payload, replacing, moved)
                else:
                    digest = self._put_small(key, payload, replacing)
                    moved.add(payload.size, 0)
            self._confirm(key, payload.size, digest)
            return PutResult(size=payload.size, proven=True, durable=True, resumed=moved.resumed)

    def _replacing(self, key: str) -> dict[str, Any]:
        """Return the condition of a put: that the blob is the one that is there now, or that there is none."""
        try:
            found = self._look(key)
        except StoreError as error:
            if error.code != "destination-denied":
                raise
            found = None  # may write, but not look
        if found is None:
            return {"match_condition": MatchConditions.IfMissing}
        return {"etag": found.etag, "match_condition": MatchConditions.IfNotModified}

    def _options(self) -> dict[str, Any]:
        return {"standard_blob_tier": StandardBlobTier(self._settings.tier)} if self._settings.tier else {}

    def _put_small(self, key: str, payload: Payload, replacing: dict[str, Any]) -> bytes:
        try:
            return self._put_whole(key, payload, replacing)
        except ResourceExistsError:
            if "etag" in replacing or self._look(key) is not None:
                raise
            # Blocks that an earlier put of the name left count as a blob here, and as none for a list of blocks.
            return self._put_blocks(key, payload, replacing, Moved(ignore))

    def _put_whole(self, key: str, payload: Payload, replacing: dict[str, Any]) -> bytes:
        data = payload.read(0, payload.size)
        digest = md5(data)
        if self._pace is not None:
            self._pace(len(data))
        self._blob(key).upload_blob(
            data,
            length=len(data),
            overwrite="etag" in replacing,
            headers={"Content-MD5": b64encode(digest).decode("ascii")},
            content_settings=ContentSettings(content_type="application/octet-stream", content_md5=bytearray(digest)),
            **(replacing if "etag" in replacing else {}),
            **self._options(),
        )
        return digest

    def _put_blocks(self, key: str, payload: Payload, replacing: dict[str, Any], moved: Moved) -> bytes:
        settings = self._settings
        blob = self._blob(key)
        length = block_length(payload.size, settings.block_size)
        there = left_there(blob)
        names, digest = send_blocks(
            blob, payload, length, there, moved, parallel=settings.parallel_blocks, pace=self._pace
        )
        blob.commit_block_list(
            [BlobBlock(block_id=name) for name in names],
            content_settings=ContentSettings(content_type="application/octet-stream", content_md5=bytearray(digest)),
            **replacing,
            **self._options(),
        )
        return digest

    def _confirm(self, key: str, size: int, digest: bytes) -> None:
        """Compare what is there with what was sent; who may not look is content with Azure's answers."""
        try:
            found = self._look(key)
        except StoreError as error:
            if error.code != "destination-denied":
                raise
            return
        there = found.size if found is not None else 0
        told = bytes(found.content_settings.content_md5 or b"") if found is not None else b""
        if there == size and told in (b"", digest):
            return
        raise store_error(
            "destination-mismatch",
            f"destination {self.name!r}: after storing {key} the server reports "
            + (f"{there} of {size} bytes" if there != size else "another checksum")
            + f" ({self._place})",
            "somebody else wrote it meanwhile, or it was damaged: it is sent again",
        )

    # ------------------------------------------------------------------------------------------------ looking

    def _look(self, key: str) -> Any:
        with self._faults(f"looking at {key}"):
            try:
                found = self._blob(key).get_blob_properties()
            except ResourceNotFoundError as error:
                if error_code(error) == "ContainerNotFound":
                    raise
                return None
            except AzureError as error:
                # An answer to HEAD has no body, so it cannot say why it is forbidden.
                if status(error) == 403:
                    next(
                        iter(self._connect().list_blobs(name_starts_with=self._prefix + key, results_per_page=1)), None
                    )
                raise
        if found.etag is None:  # Azure tells it with each blob
            raise self._no_azure(f"looking at {key}")
        return found

    # ------------------------------------------------------------------------------------------------ faults

    def _no_azure(self, doing: str) -> StoreError:
        return store_error(
            "destination-failed",
            f"destination {self.name!r}: {doing} failed at {self._place}: what answers is not Azure",
            "does a login page of the network, or a proxy, answer in its place? check endpoint_url",
        )

    def _locked(self, key: str, until: datetime | None) -> LockedError:
        how = f"until {until:%Y-%m-%d %H:%M} UTC" if until is not None else "by a legal hold or an immutability policy"
        return LockedError(
            f"{key} is locked {how} at {self._place}",
            until=until,
            hint="it is deleted once the lock has ended; nothing has to be done",
        )

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn Azure's errors into ours."""
        try:
            yield
        except AzureError as error:
            code, hint, retryable = classify(error)
            message = f"destination {self.name!r}: {doing} failed at {self._place}: {reason(error)}"
            raise store_error(code, message, hint, retryable=retryable) from error
        except DeserializationError as error:
            raise self._no_azure(doing) from error
