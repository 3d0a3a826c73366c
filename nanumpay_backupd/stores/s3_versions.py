"""What a bucket keeps of objects that are deleted or replaced: versions, locks. The store next door does the rest.

Where a bucket keeps versions (AWS, "Using versioning in S3 buckets"), a plain delete only hides an object: the bytes
stay, and are paid for, until a lifecycle rule takes them or each version is deleted by its id. Object Lock (AWS,
"Locking objects with Object Lock") makes the server refuse the latter until a date, or while a legal hold is on. It
would still let us hide the object; but then nobody would see what lies there, so a locked object is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from nanumpay_backupd.errors import LockedError
from nanumpay_backupd.stores.base import Keeping
from nanumpay_backupd.stores.s3_errors import error_code, http_status

__all__ = ["Versions", "says_locked"]

_UNKNOWN: Final = frozenset({"AccessDenied", "AllAccessDisabled"})
_WORM: Final = "worm"
Faults = Callable[[str], AbstractContextManager[None]]


class Versions:
    """One bucket, as it treats what is deleted. ``faults`` turns the driver's errors into the store's."""

    def __init__(self, client: Any, bucket: str, place: str, faults: Faults) -> None:
        self._client = client
        self._bucket = bucket
        self._place = place
        self._faults = faults
        self._may_lock: bool | None = None

    def must_be_free(self, target: str, name: str, now: datetime, version: str = "") -> None:
        """Raise LockedError when an object, or one version of it, is locked; StoreError when that cannot be asked."""
        if not self.may_lock:
            return
        one = {"VersionId": version} if version else {}
        with self._faults(f"looking for a lock on {name}"):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=target, **one)
            except ClientError as error:
                if http_status(error) in (403, 404, 405):  # gone, or hidden: deleting tells
                    return
                raise
        until = head.get("ObjectLockRetainUntilDate")
        if head.get("ObjectLockLegalHoldStatus") == "ON":
            raise self.locked(name, None)
        if until is not None and until > now:
            raise self.locked(name, until.astimezone(UTC))

    def locked(self, name: str, until: datetime | None) -> LockedError:
        """Say that an object is locked, until a moment or for as long as somebody wants."""
        how = (
            f"until {until:%Y-%m-%d %H:%M} UTC" if until is not None else "and the server tells no end (a legal hold?)"
        )
        return LockedError(
            f"{name} is locked {how} at {self._place}",
            until=until,
            hint="it is deleted once the lock has ended; nothing has to be done",
        )

    @property
    def may_lock(self) -> bool:
        """Tell whether objects of this bucket can be locked; asked once. Where it may not be asked: yes."""
        if self._may_lock is None:
            self._may_lock = self._lock_rule() is not None
        return self._may_lock

    def delete_all(self, target: str, name: str, now: datetime) -> None:
        """Delete every version of an object, and what hides it; raises LockedError at the first that is locked."""
        found = list(self._versions_of(target, name))
        for version in found:
            self.must_be_free(target, name, now, version)
        for version in found:
            with self._faults(f"deleting {name}"):
                try:
                    self._client.delete_object(Bucket=self._bucket, Key=target, VersionId=version)
                except ClientError as error:
                    if says_locked(error):
                        raise self.locked(name, None) from error
                    if error_code(error) not in ("NoSuchKey", "NoSuchVersion"):
                        raise

    def _versions_of(self, target: str, name: str) -> Iterator[str]:
        with self._faults(f"listing the versions of {name}"):
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=target):
                for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    if entry["Key"] == target:
                        yield entry["VersionId"]

    def keeping(self) -> Keeping:
        """Say what the bucket keeps; what it does not tell counts as no."""
        with self._faults("asking for the bucket's versioning"):
            try:
                status = self._client.get_bucket_versioning(Bucket=self._bucket).get("Status", "")
            except ClientError as error:
                if http_status(error) >= 500 and http_status(error) != 501:
                    raise
                status = ""
        rule = self._lock_rule() or {}
        kept = rule.get("DefaultRetention") or {}
        days = kept.get("Days", 0) or 365 * kept.get("Years", 0)
        return Keeping(versions=status == "Enabled", expiring=status == "Enabled" and self._expires(), locked_days=days)

    def _lock_rule(self) -> dict[str, Any] | None:
        """Return the rule by which new objects are locked (empty: none, or not to be asked), None: no locks here."""
        try:
            answer = self._client.get_object_lock_configuration(Bucket=self._bucket)
        except ClientError as error:
            return {} if error_code(error) in _UNKNOWN else None
        except BotoCoreError:
            return {}  # the next request tells of the fault
        found = answer.get("ObjectLockConfiguration") or {}
        if found.get("ObjectLockEnabled") != "Enabled":
            return None
        return dict(found.get("Rule") or {})

    def _expires(self) -> bool:
        """Tell whether a lifecycle rule deletes old versions."""
        try:
            rules = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket).get("Rules", ())
        except (BotoCoreError, ClientError):
            return False
        return any(rule.get("Status") == "Enabled" and "NoncurrentVersionExpiration" in rule for rule in rules)


def says_locked(error: ClientError) -> bool:
    """Tell whether a server refused to delete because of a lock, in the words that servers without HEAD's tell have."""
    text = str(error.response.get("Error", {}).get("Message", "")).lower()
    return error_code(error) == "ObjectLocked" or _WORM in text or "object lock" in text or "legal hold" in text
