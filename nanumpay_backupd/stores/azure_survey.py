"""How a container of Azure Blob Storage is set up, and what would be better: asked, and judged here. Stores nothing.

Azure tells most of an account's settings to who manages it, and not to who stores blobs. What a login is not told is
said to be unknown, and fails nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qs

from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient, ContainerClient

from nanumpay_backupd.settings.destinations import AzureDestination
from nanumpay_backupd.stores.azure_errors import status
from nanumpay_backupd.stores.base import Finding

__all__ = ["RIGHTS", "judge_account", "judge_container", "judge_keeping", "judge_login", "survey"]

_BLOBS: Final = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
RIGHTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "put": f"{_BLOBS}/write and /add/action (of a SAS: c and w)",
        "list": f"{_BLOBS}/read (of a SAS: l)",
        "get": f"{_BLOBS}/read (of a SAS: r)",
        "delete": f"{_BLOBS}/delete (of a SAS: d)",
    }
)
_GUIDE: Final = "docs/destinations/azure.md"
_NEEDED: Final = {"r": "read", "c": "create", "w": "write", "l": "list"}
_COPIES: Final = {
    "LRS": "three copies in one building",
    "ZRS": "copies in three zones of one region",
    "GRS": "copies in two regions",
    "RAGRS": "copies in two regions",
    "GZRS": "copies in three zones, and in another region",
    "RAGZRS": "copies in three zones, and in another region",
}
"""What the last part of an account's SKU means (learn.microsoft.com, "Azure Storage redundancy")."""


def survey(
    container: ContainerClient, account: BlobServiceClient, settings: AzureDestination, start: str
) -> tuple[Finding, ...]:
    """Ask for container and account; raises AzureError where nobody answers. ``start`` begins no blob's name."""
    found = [judge_login(settings, datetime.now(UTC))]
    properties = _asked(container.get_container_properties)
    if properties is None:
        hint = f"to have it looked at, use a login that may read the container's properties ({_GUIDE})"
        found.append(Finding("container", "ok", "not known: the login may not ask for its settings", hint))
    else:
        found += judge_container(properties)
    versions = _asked(lambda: _versions_shown(container, start.rpartition("/")[0])) is True
    found.append(judge_keeping(_asked(account.get_service_properties), versions=versions))
    found += judge_account(_asked(account.get_account_information))
    return tuple(found)


def _asked(call: Callable[[], Any]) -> Any:
    """Return an answer; None where the login may not ask, or the server does not have it."""
    try:
        return call()
    except AzureError as error:
        if status(error) in (400, 401, 403, 404, 405, 409, 501):
            return None
        raise


def _versions_shown(container: ContainerClient, folder: str) -> bool:
    """Tell whether blobs there are versions; without any blob it is not seen."""
    found = container.list_blobs(name_starts_with=folder, include=["versions"], results_per_page=1)
    return any(entry.version_id for entry in itertools.islice(found, 1))


def judge_login(settings: AzureDestination, now: datetime) -> Finding:
    """Say where the login is from and, of a SAS, when it ends and what it may do."""
    text = settings.connection_string.reveal()
    signature = settings.sas_token.reveal() or text.partition("SharedAccessSignature=")[2].partition(";")[0]
    if signature:
        return _judge_signature(parse_qs(signature.removeprefix("?")), now)
    if settings.account_key or "AccountKey=" in text:
        advice = f"it may do everything with the whole account: a SAS or a managed identity may do less ({_GUIDE})"
        return Finding("credentials", "warning", "a key of the account", advice)
    return Finding("credentials", "ok", "the host's own identity")


def _judge_signature(fields: Mapping[str, list[str]], now: datetime) -> Finding:
    rights = "".join(fields.get("sp", []))
    if not rights and fields.get("si"):
        return Finding("credentials", "ok", f"a SAS by the container's access policy {fields['si'][0]!r}")
    lacking = [name for letter, name in _NEEDED.items() if letter not in rights]
    end = _moment("".join(fields.get("se", [])))
    until = f"until {end:%Y-%m-%d}" if end else "without an end that it tells"
    if lacking:
        return Finding("credentials", "failed", f"a SAS {until}, which may not {', '.join(lacking)}", f"see {_GUIDE}")
    if "d" not in rights:
        return Finding("credentials", "ok", f"a SAS {until}; it cannot delete: a lifecycle rule has to")
    if end is not None and (end - now).days < 30:
        hint = "make a new one, and say in [destination.NAME.monitor] when it ends"
        return Finding("credentials", "warning", f"a SAS that ends on {end:%Y-%m-%d}", hint)
    return Finding("credentials", "ok", f"a SAS {until}")


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def judge_container(properties: Any) -> list[Finding]:
    """Say what there is to say of a container's own properties (``ContainerProperties``)."""
    found = []
    if properties.public_access:
        hint = "az storage container set-permission --public-access off"
        found.append(Finding("public access", "failed", "everybody may read the container", hint))
    else:
        found.append(Finding("public access", "ok", "none"))
    if properties.has_legal_hold:
        found.append(Finding("lock", "warning", "a legal hold: nothing can be deleted until it ends", f"see {_GUIDE}"))
    elif properties.has_immutability_policy:
        found.append(Finding("lock", "ok", "the container has an immutability policy: blobs stay for its time"))
    elif getattr(properties, "immutable_storage_with_versioning_enabled", False):
        text = "possible for single blobs; whether they are locked is the container's default policy"
        found.append(Finding("lock", "ok", text))
    else:
        advice = f"with an immutability policy not even who steals the login can delete backups ({_GUIDE})"
        found.append(Finding("lock", "ok", "none", advice))
    scope = getattr(properties.encryption_scope, "default_encryption_scope", "") or ""
    own = f"by the encryption scope {scope}" if scope and not scope.startswith("$") else "by the account's key"
    found.append(Finding("encryption", "ok", own))
    return found


def judge_keeping(service: Mapping[str, Any] | None, *, versions: bool) -> Finding:
    """Say what is kept of deleted blobs, by the service's properties and whether a listing shows versions."""
    if versions:
        return Finding("versioning", "ok", "on: what is deleted or replaced can be brought back")
    policy = (service or {}).get("delete_retention_policy")
    if policy is not None and policy.enabled:
        return Finding("versioning", "ok", f"off; soft delete keeps for {policy.days} days what is deleted or replaced")
    advice = f"with soft delete for blobs deleting can be undone ({_GUIDE})"
    if service is None:
        return Finding(
            "versioning", "ok", "no versions are seen; of soft delete only the account's key is told", advice
        )
    return Finding("versioning", "ok", "off, and no soft delete", advice)


def judge_account(answer: Mapping[str, Any] | None) -> list[Finding]:
    """Say how an account keeps its data, by its SKU (``Standard_LRS`` and so on)."""
    sku = str((answer or {}).get("sku_name") or "")
    copies = _COPIES.get(sku.rpartition("_")[2].upper())
    if answer is None or copies is None:
        return [Finding("replication", "ok", "not known: the login may not ask for the account's kind")]
    kind = str(answer.get("account_kind") or "")
    text = f"{sku}{f' ({kind})' if kind else ''}: {copies}"
    alone = "LRS" in sku and "ZRS" not in sku
    advice = f"a second destination elsewhere outlives this region and this account ({_GUIDE})"
    return [Finding("replication", "ok", text, advice if alone else "")]
