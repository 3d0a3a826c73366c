"""Where a bucket's credentials are said to come from."""

from __future__ import annotations

from typing import Any

import pytest

from nanumpay_backupd.settings.credentials import credentials_of, with_credentials
from nanumpay_backupd.settings.schema import HostConfig, S3Destination, to_public
from nanumpay_backupd.system.secrets import Secret

WEB = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/backups"}
CONTAINER = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1"}


@pytest.mark.parametrize(
    "settings, environment, words",
    [
        ({"access_key_id": "AKIA", "profile": "p"}, {"AWS_ACCESS_KEY_ID": "A"}, "of the settings"),
        ({"profile": "p"}, {"AWS_ACCESS_KEY_ID": "A"}, "profile p "),
        ({}, {"AWS_ACCESS_KEY_ID": "A", **WEB}, "service's environment"),
        ({}, {"AWS_PROFILE": "q", **WEB}, "profile q "),
        ({}, {**WEB, **CONTAINER}, "role arn:aws:iam::1:role/backups"),
        ({}, CONTAINER, "role of the container"),
        ({}, {}, "role of the machine"),
    ],
)
def test_the_first_that_boto3_takes_is_told(settings: dict[str, Any], environment: dict[str, str], words: str) -> None:
    """Keys of the settings, a profile, the environment, a web identity, a container's role, a machine's, in turn."""
    assert words in credentials_of(settings, environment)


def test_the_settings_that_people_see_have_it_for_each_bucket() -> None:
    """It stands beside the settings of a bucket, wherever that is, and the secret does not."""
    bucket = S3Destination(name="offsite", bucket="b", access_key_id="AKIA", secret_access_key=Secret("geheim"))
    shown = with_credentials({"host": to_public(HostConfig(destinations=(bucket,))), "application": None}, {})
    (found,) = shown["host"]["destinations"]
    assert found["credentials_from"] == "access_key_id and secret_access_key of the settings"
    assert "geheim" not in str(shown)
