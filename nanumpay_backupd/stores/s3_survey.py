"""How a bucket is set up, and what would be better: asked of the server, judged here. Stores and deletes no backup.

The rights that this takes are none that backups need; what may not be asked is said to be unknown, with its right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from nanumpay_backupd.settings.schema import S3Destination
from nanumpay_backupd.stores.base import Finding
from nanumpay_backupd.stores.s3_content import Digest
from nanumpay_backupd.stores.s3_errors import error_code, http_status, reason

__all__ = ["RIGHTS", "Survey", "judge_lifecycle"]

RIGHTS: Final[Mapping[str, str]] = MappingProxyType(
    {"put": "s3:PutObject", "list": "s3:ListBucket", "get": "s3:GetObject", "delete": "s3:DeleteObject"}
)
_GUIDE: Final = "docs/destinations/s3.md"
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_EVERYBODY: Final = ("/groups/global/AllUsers", "/groups/global/AuthenticatedUsers")
_UNFINISHED_DAYS: Final = 7
_CONTENT: Final = b"nanumpay-backupd doctor probe\n"
_TRIAL: Final = timedelta(minutes=1)
_SOURCES: Final = {
    "explicit": "the destination's own settings",
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "~/.aws/credentials of the service's user",
    "config-file": "~/.aws/config of the service's user",
    "assume-role": "a role that is assumed (~/.aws/config)",
    "assume-role-with-web-identity": "a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
    "container-role": "the role of this container",
    "iam-role": "the role of this machine",
    "custom-process": "a program (credential_process)",
    "sso": "single sign-on",
}


class Survey:
    """One bucket, looked at once; ``prefix`` is where our objects lie in it."""

    def __init__(self, client: Any, settings: S3Destination, prefix: str, now: datetime) -> None:
        self._client = client
        self._settings = settings
        self._prefix = prefix
        self._now = now
        self._bucket = {"Bucket": settings.bucket}

    def all(self, target: str) -> tuple[Finding, ...]:
        """Return what was found; ``target`` is of no object. Raises what boto3 raises where nobody answers."""
        looks: tuple[tuple[str, str, Callable[[], list[Finding]]], ...] = (
            ("credentials", "", self._credentials),
            ("resuming", "s3:PutObject", lambda: self._resuming(target)),
            ("versioning", "s3:GetBucketVersioning", self._versioning),
            ("lifecycle", "s3:GetLifecycleConfiguration", self._lifecycle),
            ("lock", "s3:GetBucketObjectLockConfiguration", lambda: self._lock(target)),
            ("encryption", "s3:GetEncryptionConfiguration", self._encryption),
            ("public access", "s3:GetBucketPublicAccessBlock", self._public),
            ("replication", "s3:GetReplicationConfiguration", self._replication),
        )
        found: list[Finding] = []
        for topic, right, look in looks:
            try:
                found += look()
            except KeyError:
                # Servers that know nothing of it answer something else (rclone: a listing).
                continue
            except ClientError as error:
                if http_status(error) in (401, 403):
                    hint = f"to have it looked at, allow {right}" if right else ""
                    found.append(Finding(topic, "ok", "not known: the key may not ask for it", hint))
                # Else the server does not have it: there is nothing to be told of.
        return tuple(found)

    def _credentials(self) -> list[Finding]:
        signer = getattr(self._client, "_request_signer", None)
        method = getattr(getattr(signer, "_credentials", None), "method", "")
        if not method:
            return []
        profile = f", profile {self._settings.profile}" if self._settings.profile and method != "explicit" else ""
        hint = ""
        if method == "explicit" and not self._settings.endpoint_url:
            hint = f"on AWS's machines a role needs no key that could be stolen ({_GUIDE})"
        return [Finding("credentials", "ok", f"from {_SOURCES.get(method, method)}{profile}", hint)]

    def _resuming(self, target: str) -> list[Finding]:
        """Try the rights to go on with uploads that were broken off."""
        where = {**self._bucket, "Key": target}
        upload = self._client.create_multipart_upload(**where)["UploadId"]
        lacking = []
        trials: tuple[tuple[str, Callable[[], object]], ...] = (
            ("s3:ListMultipartUploadParts", lambda: self._client.list_parts(**where, UploadId=upload)),
            (
                "s3:ListBucketMultipartUploads",
                lambda: self._client.list_multipart_uploads(**self._bucket, MaxUploads=1),
            ),
            ("s3:AbortMultipartUpload", lambda: self._client.abort_multipart_upload(**where, UploadId=upload)),
        )
        for right, call in trials:
            try:
                call()
            except ClientError as error:
                lacking.append(f"{right} ({error_code(error)})")
        if not lacking:
            return [Finding("resuming", "ok", "uploads that are broken off are gone on with")]
        text = f"uploads that are broken off begin anew, or leave parts behind; missing: {', '.join(lacking)}"
        return [Finding("resuming", "warning", text, f"allow them: {_GUIDE} has the policy")]

    def _versioning(self) -> list[Finding]:
        status = self._client.get_bucket_versioning(**self._bucket).get("Status", "")
        if status == "Enabled":
            return [Finding("versioning", "ok", "on: what is deleted or replaced can be brought back")]
        advice = f"with versions, and a lifecycle rule that ends old ones, deleting can be undone ({_GUIDE})"
        return [Finding("versioning", "ok", "off" if not status else status.lower(), advice)]

    def _lifecycle(self) -> list[Finding]:
        try:
            rules = self._client.get_bucket_lifecycle_configuration(**self._bucket).get("Rules", [])
        except ClientError as error:
            if error_code(error) != "NoSuchLifecycleConfiguration":
                raise
            rules = []
        return judge_lifecycle(rules, self._prefix)

    def _lock(self, target: str) -> list[Finding]:
        try:
            answer = self._client.get_object_lock_configuration(**self._bucket).get("ObjectLockConfiguration") or {}
        except ClientError as error:
            if http_status(error) in (401, 403):
                raise
            answer = {}
        wanted = self._settings.lock_mode
        if answer.get("ObjectLockEnabled") != "Enabled":
            if wanted:
                text = f"lock_mode is {wanted!r}, but the bucket has no Object Lock: uploads will be refused"
                return [Finding("lock", "failed", text, "make a bucket with Object Lock, or leave lock_mode out")]
            advice = f"with Object Lock not even who steals the key can delete backups ({_GUIDE})"
            return [Finding("lock", "ok", "none", advice)]
        if wanted:
            return [self._try_lock(target)]
        kept = (answer.get("Rule") or {}).get("DefaultRetention") or {}
        if not kept:
            return [
                Finding("lock", "ok", "possible, but nothing is locked", 'set lock_mode = "governance" and lock_days')
            ]
        days = kept.get("Days") or 365 * kept.get("Years", 0)
        return [Finding("lock", "ok", f"the bucket locks each new object for {days} days ({kept['Mode'].lower()})")]

    def _try_lock(self, target: str) -> Finding:
        """Store something that is locked for a minute: whether that is allowed shows by no other way."""
        mode = self._settings.lock_mode.upper()
        try:
            self._client.put_object(
                **self._bucket,
                Key=target,
                Body=_CONTENT,
                ContentMD5=Digest(_CONTENT).base64,
                ObjectLockMode=mode,
                ObjectLockRetainUntilDate=self._now + _TRIAL,
            )
        except ClientError as error:
            hint = "allow s3:PutObjectRetention" if http_status(error) in (401, 403) else f"see {_GUIDE}"
            return Finding("lock", "failed", f"an object could not be locked: {reason(error)}", hint)
        with contextlib.suppress(BotoCoreError, ClientError):
            self._client.delete_object(**self._bucket, Key=target)  # hides it; its version goes like other old ones
        return Finding("lock", "ok", f"each new object is locked by us ({mode.lower()}); tried for a minute")

    def _encryption(self) -> list[Finding]:
        try:
            rules = self._client.get_bucket_encryption(**self._bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        except ClientError as error:
            if error_code(error) != "ServerSideEncryptionConfigurationNotFoundError":
                raise
            rules = []
        kinds = [rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "") for rule in rules]
        here = f"; the destination asks for {self._settings.sse}" if self._settings.sse else ""
        if any(kinds):
            return [
                Finding("encryption", "ok", f"at rest, by the bucket's rule: {', '.join(filter(None, kinds))}{here}")
            ]
        advice = 'set sse = "AES256", or encrypt backups before they leave this host (docs/encryption.md)'
        return [Finding("encryption", "ok", f"the bucket has no rule{here}", "" if here else advice)]

    def _public(self) -> list[Finding]:
        """Look whether everybody could read; what one of the answers says counts, whatever the others do not tell."""
        fix = "aws s3api put-public-access-block with all four settings true; see " + _GUIDE
        with contextlib.suppress(ClientError, KeyError):
            if self._client.get_bucket_policy_status(**self._bucket)["PolicyStatus"]["IsPublic"]:
                return [Finding("public access", "failed", "the bucket's policy or access list lets everybody in", fix)]
        with contextlib.suppress(ClientError):
            for grant in self._client.get_bucket_acl(**self._bucket).get("Grants", ()):
                if str(grant.get("Grantee", {}).get("URI", "")).endswith(_EVERYBODY):
                    text = f"the bucket's access list gives everybody {grant.get('Permission', 'something')}"
                    return [Finding("public access", "failed", text, fix)]
        try:
            block = self._client.get_public_access_block(**self._bucket)["PublicAccessBlockConfiguration"]
        except ClientError as error:
            if error_code(error) != "NoSuchPublicAccessBlockConfiguration":
                raise
            block = {}
        if len(block) >= 4 and all(block.values()):
            return [Finding("public access", "ok", "blocked")]
        # AWS blocks it in every new bucket: where it does not, somebody has ended that.
        state = "ok" if self._settings.endpoint_url else "warning"
        return [Finding("public access", state, "none now, but nothing blocks it", fix)]

    def _replication(self) -> list[Finding]:
        advice = f"a bucket elsewhere, by replication or as a second destination, outlives this one ({_GUIDE})"
        try:
            answer = self._client.get_bucket_replication(**self._bucket)["ReplicationConfiguration"]
        except ClientError as error:
            if error_code(error) != "ReplicationConfigurationNotFoundError":
                raise
            answer = {}
        to = [
            str(rule.get("Destination", {}).get("Bucket", "")).rpartition(":")[2]
            for rule in answer.get("Rules", ())
            if rule.get("Status") == "Enabled" and _touches(rule, self._prefix)
        ]
        if to:
            text = f"to {', '.join(to)}; deleting there is that bucket's own matter"
            return [Finding("replication", "ok", text)]
        return [
            Finding("replication", "ok", "none that is about these objects" if answer.get("Rules") else "none", advice)
        ]


def judge_lifecycle(rules: list[dict[str, Any]], prefix: str) -> list[Finding]:
    """Say what a bucket's lifecycle rules would do to our objects, which lie below ``prefix`` and have no tags."""
    ours = [rule for rule in rules if rule.get("Status") == "Enabled" and _touches(rule, prefix)]
    found: list[Finding] = []
    for rule in ours:
        name = f"rule {rule['ID']!r}" if rule.get("ID") else "a rule"
        found += _expiring(name, rule.get("Expiration") or {})
        for move in rule.get("Transitions", ()):
            if move.get("StorageClass") in _ARCHIVES:
                when = f"after {move['Days']} days" if "Days" in move else "at a date"
                text = f"{name} moves objects {when} to {move['StorageClass']}, from where none can be read at once"
                hint = "restores and drills would wait for hours, or fail: end the rule, or take GLACIER_IR"
                found.append(Finding("lifecycle", "warning", text, hint))
        abort = (rule.get("AbortIncompleteMultipartUpload") or {}).get("DaysAfterInitiation", _UNFINISHED_DAYS)
        if abort < _UNFINISHED_DAYS:
            text = f"{name} aborts unfinished uploads after {abort} days: slow ones begin anew"
            found.append(Finding("lifecycle", "warning", text, f"make it {_UNFINISHED_DAYS} days or more"))
    if found:
        return found
    if any("AbortIncompleteMultipartUpload" in rule for rule in ours):
        return [Finding("lifecycle", "ok", "no rule touches backups; unfinished uploads are aborted")]
    advice = f"a rule that aborts unfinished uploads after {_UNFINISHED_DAYS} days ends those of hosts that are gone"
    return [Finding("lifecycle", "ok", "no rule touches backups", advice)]


def _expiring(name: str, expiration: Mapping[str, Any]) -> list[Finding]:
    if "Days" in expiration:
        days = expiration["Days"]
        text = f"{name} deletes objects after {days} days, the newest backup too when none was made for so long"
    elif "Date" in expiration:
        text = f"{name} deletes all objects at {expiration['Date']:%Y-%m-%d}, the newest backup too"
    else:
        return []
    hint = "end the rule: retention deletes what may go, and the rule knows nothing of it, of pins and of slices"
    return [Finding("lifecycle", "warning", text, hint)]


def _touches(rule: Mapping[str, Any], prefix: str) -> bool:
    """Tell whether a rule is about objects below a prefix; ours have no tags, so none with tags is."""
    chosen = rule.get("Filter") or {}
    both = chosen.get("And") or {}
    if "Tag" in chosen or both.get("Tags"):
        return False
    start = chosen.get("Prefix") or both.get("Prefix") or rule.get("Prefix") or ""
    return prefix.startswith(start) or start.startswith(prefix)
