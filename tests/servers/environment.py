"""The environment that tests, demo and benchmark run in: the tools on PATH, nothing of this machine's own settings."""

from __future__ import annotations

import os

from tests.servers.tools import tools_path

__all__ = ["clean_environment"]

# Set by many machines and by systemd; each would change what is tested.
_TRAPS = (
    # A bundle named here overrides the private CA of a TLS test.
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE"),
    # boto3 reads these before what it is told.
    *("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    # So do the libraries of Google and Azure, and a restore from a place that was typed.
    *("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"),
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_KEY"),
    *("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"),
    # The daemon itself reads these.
    *("MONGODB_URI", "BACKUP_PATH", "FORCE_BACKUP"),
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID", "CREDENTIALS_DIRECTORY"),
    # Local servers are not behind a proxy.
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)


def clean_environment() -> None:
    """Put the tools on this process's PATH and take out what would mislead it. Call it before importing boto3."""
    for name in _TRAPS:
        os.environ.pop(name, None)
    os.environ["PATH"] = tools_path()
    # No credentials or settings of whoever runs this, and no question to a cloud's metadata address.
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.environ["AWS_CONFIG_FILE"] = os.devnull
