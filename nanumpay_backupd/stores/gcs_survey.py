"""How a bucket of Google Cloud Storage is set up, and what would be better: asked of it, judged here. Stores nothing.

What is asked takes ``storage.buckets.get``, which backups do not need; without it that is said, and fails nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import requests
from google.api_core.exceptions import GoogleAPICallError

from nanumpay_backupd.settings.destinations import GcsDestination
from nanumpay_backupd.stores.base import Finding
from nanumpay_backupd.stores.gcs_errors import answered, status

__all__ = ["RIGHTS", "judge", "judge_rights", "survey"]

RIGHTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "put": "storage.objects.create (to replace an object also storage.objects.delete)",
        "list": "storage.objects.list",
        "get": "storage.objects.get",
        "delete": "storage.objects.delete",
    }
)
_GUIDE: Final = "docs/destinations/gcs.md"
_DAY: Final = 86400
_TOO_MANY: Final = ("storage.buckets.update", "storage.buckets.delete", "storage.buckets.setIamPolicy")
"""Rights by which whoever steals the login ends the bucket's own protection."""
_OLD_ONES: Final = frozenset({"numNewerVersions", "daysSinceNoncurrentTime", "noncurrentTimeBefore"})


def survey(
    http: requests.Session, endpoint: str, settings: GcsDestination, prefix: str, timeout: tuple[float, float]
) -> tuple[Finding, ...]:
    """Ask for the bucket and for what the login may do; raises what the libraries raise where nobody answers."""
    url = f"{endpoint}/storage/v1/b/{quote(settings.bucket, safe='')}"
    found = [_credentials(http, settings)]
    asked = [("permissions", right) for right in _TOO_MANY]
    found += judge_rights(_asked(http, f"{url}/iam/testPermissions", timeout, asked))
    bucket = _asked(http, url, timeout, [("projection", "noAcl")])
    if bucket is None:
        hint = f"to have it looked at, allow storage.buckets.get ({_GUIDE})"
        return (*found, Finding("bucket", "ok", "not known: the login may not ask for the bucket's settings", hint))
    return (*found, *judge(bucket, settings, prefix))


def _asked(
    http: requests.Session, url: str, timeout: tuple[float, float], more: list[tuple[str, str]]
) -> dict[str, Any] | None:
    """Return an answer; None where the login may not ask, or the server knows nothing of it."""
    try:
        response = http.request("GET", url, params=more, timeout=timeout)
        if response.status_code != 200:
            raise answered(response)
        answer = response.json()
    except GoogleAPICallError as error:
        if status(error) in (400, 403, 404, 405, 501):
            return None
        raise
    except ValueError:  # no JSON: another kind of server
        return None
    return answer if isinstance(answer, dict) else None


def _credentials(http: requests.Session, settings: GcsDestination) -> Finding:
    who = str(getattr(getattr(http, "credentials", None), "service_account_email", "") or "")
    named = f" ({who})" if who and who != "default" else ""
    if settings.service_account:
        hint = f"on Google's machines, and by federation elsewhere, no key is needed that could be stolen ({_GUIDE})"
        return Finding("credentials", "ok", f"the key file of the settings{named}", hint)
    return Finding("credentials", "ok", f"this host's own login{named}")


def judge_rights(answer: Mapping[str, Any] | None) -> list[Finding]:
    """Say which of the rights that no backup needs the login has, by the answer of ``testPermissions``."""
    if answer is None:
        return []
    had = sorted(set(answer.get("permissions") or ()) & set(_TOO_MANY))
    if not had:
        return [Finding("rights", "ok", "the login cannot change the bucket itself")]
    text = f"the login may change the bucket itself, and end what protects it: {', '.join(had)}"
    return [Finding("rights", "warning", text, f"give it roles/storage.objectUser on the bucket only ({_GUIDE})")]


def judge(bucket: Mapping[str, Any], settings: GcsDestination, prefix: str) -> tuple[Finding, ...]:
    """Say what there is to say of a bucket as the JSON API describes it; our objects lie below ``prefix``."""
    return (
        _versioning(bucket),
        *_lifecycle(bucket, prefix),
        *_lock(bucket),
        _encryption(bucket, settings),
        _public(bucket),
        _location(bucket),
    )


def _versioning(bucket: Mapping[str, Any]) -> Finding:
    soft = int((bucket.get("softDeletePolicy") or {}).get("retentionDurationSeconds") or 0)
    if (bucket.get("versioning") or {}).get("enabled"):
        return Finding("versioning", "ok", "on: what is deleted or replaced can be brought back")
    if soft:
        days = -(-soft // _DAY)
        return Finding("versioning", "ok", f"off; soft delete keeps for {days} days what is deleted or replaced")
    advice = f"with soft delete, or versions and a rule that ends old ones, deleting can be undone ({_GUIDE})"
    return Finding("versioning", "ok", "off, and no soft delete", advice)


def _lifecycle(bucket: Mapping[str, Any], prefix: str) -> Iterator[Finding]:
    harm = 0
    for rule in (bucket.get("lifecycle") or {}).get("rule") or ():
        condition = rule.get("condition") or {}
        if (rule.get("action") or {}).get("type") != "Delete" or not _touches(condition, prefix):
            continue
        # Those are about versions that were replaced or deleted already.
        if _OLD_ONES & set(condition) or condition.get("isLive") is False:
            continue
        harm += 1
        when = f"after {condition['age']} days" if "age" in condition else "by other conditions"
        text = f"a rule deletes objects {when}, the newest backup too when none was made for so long"
        hint = "end the rule: retention deletes what may go, and the rule knows nothing of it, of pins and of slices"
        yield Finding("lifecycle", "warning", text, hint)
    if not harm:
        yield Finding("lifecycle", "ok", "no rule touches backups")


def _touches(condition: Mapping[str, Any], prefix: str) -> bool:
    """Tell whether a rule may be about objects below a prefix."""
    starts = condition.get("matchesPrefix") or [""]
    return any(prefix.startswith(start) or start.startswith(prefix) for start in starts)


def _lock(bucket: Mapping[str, Any]) -> Iterator[Finding]:
    policy = bucket.get("retentionPolicy") or {}
    days = -(-int(policy.get("retentionPeriod") or 0) // _DAY)
    if bucket.get("defaultEventBasedHold"):
        text = "each new object is held until somebody ends that: retention cannot delete any"
        yield Finding("lock", "warning", text, "gcloud storage buckets update --no-default-event-based-hold")
    if days and policy.get("isLocked"):
        yield Finding("lock", "ok", f"objects are kept for {days} days, and nobody can make that shorter")
    elif days:
        advice = "whoever may change the bucket can end it; locking it is for ever (--lock-retention-period)"
        yield Finding("lock", "ok", f"objects are kept for {days} days", advice)
    elif (bucket.get("objectRetention") or {}).get("mode") == "Enabled":
        yield Finding("lock", "ok", "possible for single objects, but nothing is locked", f"see {_GUIDE}")
    else:
        advice = f"with a retention policy not even who steals the login can delete backups ({_GUIDE})"
        yield Finding("lock", "ok", "none", advice)


def _encryption(bucket: Mapping[str, Any], settings: GcsDestination) -> Finding:
    key = settings.kms_key_name or (bucket.get("encryption") or {}).get("defaultKmsKeyName")
    if key:
        text = f"by a key of Cloud KMS, {key}"
        return Finding("encryption", "ok", text, "without that key, or the right to use it, no backup can be read")
    return Finding("encryption", "ok", "by Google's own keys")


def _public(bucket: Mapping[str, Any]) -> Finding:
    access = bucket.get("iamConfiguration") or {}
    if access.get("publicAccessPrevention") == "enforced":
        return Finding("public access", "ok", "prevented")
    # "inherited" also where the organization prevents it, which the bucket does not tell.
    fix = "gcloud storage buckets update --public-access-prevention"
    if not (access.get("uniformBucketLevelAccess") or {}).get("enabled"):
        text = "not prevented by the bucket, and each object may have an access list of its own"
        return Finding("public access", "warning", text, f"{fix} --uniform-bucket-level-access")
    return Finding("public access", "warning", "not prevented by the bucket", fix)


def _location(bucket: Mapping[str, Any]) -> Finding:
    where, kind = str(bucket.get("location") or "").lower(), str(bucket.get("locationType") or "")
    if kind in ("dual-region", "multi-region"):
        turbo = ", within 15 minutes" if bucket.get("rpo") == "ASYNC_TURBO" else ""
        return Finding("replication", "ok", f"{kind} {where}: kept in several regions{turbo}")
    advice = f"a second destination elsewhere outlives this region and this account ({_GUIDE})"
    return Finding("replication", "ok", f"none: one region{f' ({where})' if where else ''}", advice)
