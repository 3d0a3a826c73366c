"""Pure: where the credentials of a destination come from, in words. Looks nothing up, and knows no secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["credentials_of", "with_credentials"]


def credentials_of(shown: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Say where a bucket's credentials come from, in boto3's order; ``shown`` are its settings without secrets.

    ``environment`` is that of the service, whose workers inherit it. What is tried last can only be known by trying
    (``backupctl test``).
    """
    if shown.get("access_key_id"):
        return "access_key_id and secret_access_key of the settings"
    if shown.get("profile"):
        return f"profile {shown['profile']} in ~/.aws of the service's user"
    if environment.get("AWS_ACCESS_KEY_ID"):
        return "AWS_ACCESS_KEY_ID in the service's environment"
    if environment.get("AWS_PROFILE"):
        return f"profile {environment['AWS_PROFILE']} in ~/.aws of the service's user (AWS_PROFILE)"
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environment.get("AWS_ROLE_ARN"):
        return f"web identity, as role {environment['AWS_ROLE_ARN']}"
    if environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or environment.get(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    ):
        return "~/.aws of the service's user if there is one, else the role of the container"
    return "~/.aws of the service's user if there is one, else the role of the machine"


def with_credentials(shown: Any, environment: Mapping[str, str]) -> Any:
    """Return settings without secrets (dicts, lists, texts), with ``credentials_from`` added to each bucket of S3."""
    if isinstance(shown, list | tuple):
        return [with_credentials(item, environment) for item in shown]
    if not isinstance(shown, dict):
        return shown
    found = {name: with_credentials(value, environment) for name, value in shown.items()}
    if found.get("type") == "s3" and found.get("bucket"):
        found["credentials_from"] = credentials_of(found, environment)
    return found
