"""What is said of how a bucket of Google's, a container of Azure's and a Dropbox are set up."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final

import pytest

from nanumpay_backupd.settings.destinations import AzureDestination, GcsDestination
from nanumpay_backupd.stores import azure_survey, dropbox_survey, gcs_survey
from nanumpay_backupd.system.secrets import Secret

GOOGLE: Final = GcsDestination(name="google", bucket="b")
PREFIX: Final = "nanumpay-backup/"
DELETE: Final = {"type": "Delete"}
NOW: Final = datetime(2026, 11, 22, tzinfo=UTC)


def rule(**condition: Any) -> dict[str, Any]:
    """Return a bucket with one rule that deletes."""
    return {"lifecycle": {"rule": [{"action": DELETE, "condition": condition}]}}


@pytest.mark.parametrize(
    "bucket,topic,state,words",
    [
        ({}, "versioning", "ok", "off, and no soft delete"),
        ({"versioning": {"enabled": True}}, "versioning", "ok", "on:"),
        ({"softDeletePolicy": {"retentionDurationSeconds": "604800"}}, "versioning", "ok", "for 7 days"),
        ({}, "lifecycle", "ok", "no rule"),
        (rule(age=30), "lifecycle", "warning", "after 30 days, the newest backup too"),
        (rule(createdBefore="2026-01-01"), "lifecycle", "warning", "by other conditions"),
        (rule(age=30, matchesPrefix=["logs/"]), "lifecycle", "ok", "no rule"),
        (rule(age=30, matchesPrefix=["logs/", "nanu"]), "lifecycle", "warning", "after 30 days"),
        (rule(age=30, matchesPrefix=[f"{PREFIX}shop-"]), "lifecycle", "warning", "after 30 days"),
        (rule(age=30, isLive=False), "lifecycle", "ok", "no rule"),
        (rule(age=30, numNewerVersions=2), "lifecycle", "ok", "no rule"),
        (rule(daysSinceNoncurrentTime=9), "lifecycle", "ok", "no rule"),
        ({}, "lock", "ok", "none"),
        ({"retentionPolicy": {"retentionPeriod": "86401", "isLocked": True}}, "lock", "ok", "2 days, and nobody"),
        ({"retentionPolicy": {"retentionPeriod": "86400"}}, "lock", "ok", "for 1 days"),
        ({"objectRetention": {"mode": "Enabled"}}, "lock", "ok", "nothing is locked"),
        ({"defaultEventBasedHold": True}, "lock", "warning", "cannot delete any"),
        ({}, "encryption", "ok", "Google's own"),
        ({"encryption": {"defaultKmsKeyName": "projects/p/k"}}, "encryption", "ok", "projects/p/k"),
        ({"iamConfiguration": {"publicAccessPrevention": "enforced"}}, "public access", "ok", "prevented"),
        ({}, "public access", "warning", "access list"),
        (
            {"iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}},
            "public access",
            "warning",
            "not prevented",
        ),
        ({"location": "EUROPE-WEST3", "locationType": "region"}, "replication", "ok", "one region (europe-west3)"),
        ({"location": "EU", "locationType": "multi-region"}, "replication", "ok", "in several regions"),
        ({"location": "EUR4", "locationType": "dual-region", "rpo": "ASYNC_TURBO"}, "replication", "ok", "15 minutes"),
    ],
)
def test_a_bucket_of_google(bucket: dict[str, Any], topic: str, state: str, words: str) -> None:
    """Each setting that matters to backups has its finding, with advice where something is wrong."""
    found = [finding for finding in gcs_survey.judge(bucket, GOOGLE, PREFIX) if finding.topic == topic]
    assert found[0].state == state
    assert words in found[0].message
    assert found[0].hint or state == "ok"


def test_a_login_that_may_end_the_bucket_is_warned_of() -> None:
    """The rights that no backup needs are named; without an answer nothing is said."""
    assert gcs_survey.judge_rights(None) == []
    assert gcs_survey.judge_rights({})[0].state == "ok"
    (found,) = gcs_survey.judge_rights({"permissions": ["storage.buckets.delete"]})
    assert found.state == "warning"
    assert "storage.buckets.delete" in found.message


def azure(account_key: str = "", sas_token: str = "", connection_string: str = "") -> AzureDestination:
    """Return settings with a login."""
    return AzureDestination(
        name="a",
        container="c",
        account_key=Secret(account_key),
        sas_token=Secret(sas_token),
        connection_string=Secret(connection_string),
    )


@pytest.mark.parametrize(
    "settings,state,words",
    [
        (azure(), "ok", "the host's own identity"),
        (azure(account_key="a"), "warning", "a key of the account"),
        (azure(connection_string="AccountName=a;AccountKey=k;"), "warning", "a key of the account"),
        (azure(sas_token="?sp=racwdl&se=2027-12-31T00%3A00%3A00Z&sig=x"), "ok", "until 2027-12-31"),
        (azure(sas_token="sp=racwdl&se=2026-12-01&sig=x"), "warning", "ends on 2026-12-01"),
        (azure(sas_token="sp=racwl&se=2027-12-31&sig=x"), "ok", "it cannot delete"),
        (azure(sas_token="sp=wl&se=2027-12-31&sig=x"), "failed", "may not read, create"),
        (azure(sas_token="si=policy&sig=x"), "ok", "access policy 'policy'"),
        (azure(connection_string="SharedAccessSignature=sp=racwdl&se=2027-01-31;BlobEndpoint=x"), "ok", "2027-01-31"),
    ],
)
def test_a_login_for_azure(settings: AzureDestination, state: str, words: str) -> None:
    """Of a SAS it is told when it ends and what it may not do; a key of the whole account is warned of."""
    found = azure_survey.judge_login(settings, NOW)
    assert (found.topic, found.state) == ("credentials", state)
    assert words in found.message
    assert "sig" not in found.message


def container(**settings: Any) -> Any:
    """Return a container's properties as Azure's library has them."""
    usual = {"public_access": None, "has_legal_hold": False, "has_immutability_policy": False}
    scope = SimpleNamespace(default_encryption_scope="$account-encryption-key")
    return SimpleNamespace(**{**usual, "encryption_scope": scope, **settings})


@pytest.mark.parametrize(
    "settings,topic,state,words",
    [
        ({}, "public access", "ok", "none"),
        ({"public_access": "blob"}, "public access", "failed", "everybody"),
        ({}, "lock", "ok", "none"),
        ({"has_immutability_policy": True}, "lock", "ok", "immutability policy"),
        ({"immutable_storage_with_versioning_enabled": True}, "lock", "ok", "single blobs"),
        ({"has_legal_hold": True, "has_immutability_policy": True}, "lock", "warning", "nothing can be deleted"),
        ({}, "encryption", "ok", "the account's key"),
        (
            {"encryption_scope": SimpleNamespace(default_encryption_scope="own")},
            "encryption",
            "ok",
            "encryption scope own",
        ),
    ],
)
def test_a_container_of_azure(settings: dict[str, Any], topic: str, state: str, words: str) -> None:
    """Each setting that matters to backups has its finding."""
    (found,) = [one for one in azure_survey.judge_container(container(**settings)) if one.topic == topic]
    assert found.state == state
    assert words in found.message


@pytest.mark.parametrize(
    "service,versions,words",
    [
        (None, True, "on:"),
        (None, False, "only the account's key is told"),
        ({"delete_retention_policy": SimpleNamespace(enabled=True, days=14)}, False, "for 14 days"),
        ({"delete_retention_policy": SimpleNamespace(enabled=False, days=None)}, False, "no soft delete"),
    ],
)
def test_what_azure_keeps(service: dict[str, Any] | None, versions: bool, words: str) -> None:
    """Versions and soft delete are told, and so is what the login is not told."""
    assert words in azure_survey.judge_keeping(service, versions=versions).message


@pytest.mark.parametrize(
    "answer,words,advised",
    [
        (None, "not known", False),
        ({"sku_name": "Standard_LRS", "account_kind": "StorageV2"}, "StorageV2): three copies in one building", True),
        ({"sku_name": "Standard_ZRS"}, "three zones of one region", False),
        ({"sku_name": "Standard_RAGRS"}, "copies in two regions", False),
        ({"sku_name": "Standard_GZRS"}, "and in another region", False),
        ({"sku_name": "Later_NEW"}, "not known", False),
    ],
)
def test_an_account_of_azure(answer: dict[str, Any] | None, words: str, advised: bool) -> None:
    """How many copies an account keeps is told in words."""
    (found,) = azure_survey.judge_account(answer)
    assert words in found.message
    assert bool(found.hint) is advised


def test_a_dropbox() -> None:
    """Whose it is, how long it keeps what was deleted, and whether it is nearly full."""
    mine, kept = dropbox_survey.judge_account({"email": "a@b.kr", "account_type": {".tag": "basic"}})
    assert "a@b.kr" in mine.message
    assert "30 days" in kept.message
    team = {"account_type": {".tag": "business"}, "team": {"name": "ours"}}
    assert "180 days" in dropbox_survey.judge_account(team)[1].message
    assert dropbox_survey.judge_room(None) == []
    assert dropbox_survey.judge_room({"used": 89, "allocation": {"allocated": 100}}) == []
    (full,) = dropbox_survey.judge_room({"used": 95, "allocation": {"allocated": 100}})
    assert (full.state, "95%" in full.message) == ("warning", True)
