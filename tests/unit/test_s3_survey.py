"""What a bucket's lifecycle rules would do to backups."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import pytest

from nanumpay_backupd.stores.s3_survey import judge_lifecycle

PREFIX: Final = "nanumpay-backup/"
ON: Final = {"Status": "Enabled", "ID": "r"}
ABORTS: Final = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}


@pytest.mark.parametrize(
    "rule, state, words",
    [
        ({**ON, **ABORTS}, "ok", "unfinished uploads are aborted"),
        ({**ON, "Expiration": {"Days": 30}}, "warning", "deletes objects after 30 days, the newest backup too"),
        ({**ON, "Expiration": {"Date": datetime(2027, 1, 2, tzinfo=UTC)}}, "warning", "all objects at 2027-01-02"),
        ({**ON, "Expiration": {"ExpiredObjectDeleteMarker": True}}, "ok", "no rule touches backups"),
        ({**ON, "Status": "Disabled", "Expiration": {"Days": 1}}, "ok", "no rule touches backups"),
        ({**ON, "Prefix": "", "Expiration": {"Days": 1}}, "warning", "after 1 days"),
        ({**ON, "Filter": {"Prefix": "nanumpay"}, "Expiration": {"Days": 1}}, "warning", "after 1 days"),
        ({**ON, "Filter": {"Prefix": PREFIX + "shop-"}, "Expiration": {"Days": 1}}, "warning", "after 1 days"),
        ({**ON, "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 1}}, "ok", "no rule touches backups"),
        ({**ON, "Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 1}}, "ok", "no rule touches"),
        (
            {**ON, "Filter": {"And": {"Prefix": PREFIX, "ObjectSizeGreaterThan": 9}}, "Expiration": {"Days": 2}},
            "warning",
            "after 2 days",
        ),
        ({**ON, "Transitions": [{"Days": 9, "StorageClass": "DEEP_ARCHIVE"}]}, "warning", "after 9 days to DEEP_"),
        ({**ON, "Transitions": [{"Days": 9, "StorageClass": "STANDARD_IA"}]}, "ok", "no rule touches backups"),
        ({**ON, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}, "ok", "no rule touches backups"),
        (
            {**ON, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}},
            "warning",
            "aborts unfinished uploads after 1 days",
        ),
    ],
)
def test_a_rule_that_would_end_backups_is_found(rule: dict[str, Any], state: str, words: str) -> None:
    """Only rules that are in force and about our prefix count; what they do to the newest backup is said."""
    (found,) = judge_lifecycle([{**ON, "Filter": {"Prefix": "other/"}, "Expiration": {"Days": 1}}, rule], PREFIX)
    assert (found.topic, found.state) == ("lifecycle", state)
    assert words in found.message
    assert found.hint or "unfinished uploads are aborted" in found.message


def test_every_fault_of_a_bucket_is_told() -> None:
    """Two rules that do harm are two findings."""
    rules: list[dict[str, Any]] = [
        {**ON, "Expiration": {"Days": 9}},
        {**ON, "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]},
    ]
    assert [finding.state for finding in judge_lifecycle(rules, "")] == ["warning", "warning"]
