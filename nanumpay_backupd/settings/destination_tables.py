"""The keys of a ``[destination.NAME]`` that belong to its ``type``: one table for each record in `destinations`.

Checks nothing.
"""

from __future__ import annotations

from typing import Final

from nanumpay_backupd.settings.destinations import (
    FtpDestination,
    LocalDestination,
    S3Destination,
    type_of_destination,
)
from nanumpay_backupd.settings.kinds import (
    AbsolutePath,
    Choice,
    Duration,
    Fingerprint,
    Flag,
    SecretValue,
    Size,
    Text,
    Url,
    Whole,
)
from nanumpay_backupd.settings.limit_kinds import Bandwidth
from nanumpay_backupd.settings.tables import Option, Table

__all__ = ["DESTINATIONS", "EXAMPLE_NAMES", "FTP_EXTRAS", "S3_EXTRAS"]

_HOST: Final = Text("a host's name or address", pattern=r"[^\s/@]+", example='"ftp.example.com"')
_BUCKET: Final = Text("a bucket's name", pattern=r"[A-Za-z0-9][A-Za-z0-9._-]+", example='"my-backups"')
_NETWORK_TIMEOUT: Final = Duration("1s", "1h")
_BANDWIDTH: Final = Option(
    "bandwidth",
    Bandwidth(),
    "The most bytes per second, there and back, of a run (a restore is not held up); `0KiB`: no limit.",
    '"10MiB"',
)
S3_EXTRAS: Final = (
    Option("endpoint_url", Url(), "Address of an S3 server that is not AWS.", '"https://s3.example.com"'),
    Option(
        "path_style", Flag(), "Bucket in the path instead of the host's name, as many foreign servers need.", "true"
    ),
    Option("sse", Choice("", "AES256", "aws:kms"), "Encryption at rest that the server is asked for.", '"AES256"'),
    Option("sse_kms_key_id", Text("a KMS key's id or ARN"), 'The key for `sse = "aws:kms"`.', '"alias/backups"'),
    Option(
        "storage_class",
        Text("a storage class in capitals, or empty", pattern=r"[A-Z0-9_]*", example='"STANDARD_IA"'),
        "Storage class of the objects; empty: the bucket's default.",
        '"STANDARD_IA"',
    ),
    Option(
        "ca_file",
        AbsolutePath(as_text=True, empty=True),
        "Certificates to trust instead of the host's.",
        '"/etc/nanumpay/s3-ca.pem"',
    ),
    Option(
        "delete_versions",
        Flag(),
        "In a bucket that keeps versions, delete these too (needs `s3:ListBucketVersions`, `s3:DeleteObjectVersion`).",
        "true",
    ),
    _BANDWIDTH,
)
FTP_EXTRAS: Final = (
    Option("tls_verify", Flag(), "Whether the server's certificate is checked (FTPS).", "false"),
    Option(
        "ca_file",
        AbsolutePath(as_text=True, empty=True),
        "Certificates to trust instead of the host's.",
        '"/etc/nanumpay/ftp-ca.pem"',
    ),
    Option(
        "tls_fingerprint",
        Fingerprint(),
        "SHA-256 of the server's certificate: exactly that one is accepted, self-signed or not.",
        '"' + "ab" * 32 + '"',
    ),
    Option("timeout", _NETWORK_TIMEOUT, "How long the server may be silent.", '"60s"'),
    _BANDWIDTH,
)

_TABLES: Final = (
    Table(
        "destination.NAME",
        S3Destination,
        'A bucket: `type = "s3"`.',
        (
            Option("bucket", _BUCKET, "The bucket.", '"my-backups"', required=True),
            Option("region", Text(), "AWS region.", '"ap-northeast-2"'),
            Option(
                "access_key_id",
                Text(),
                "Access key.",
                '"AKIA…"',
                default="empty: the host's own AWS credentials are used",
            ),
            Option("secret_access_key", SecretValue(), "Its secret.", '{ credential = "s3-secret" }'),
            Option("prefix", Text(), "Folder in the bucket.", '"nanumpay-backup/"'),
            *S3_EXTRAS,
            Option("part_size", Size("5MiB", "1GiB"), "Size of the parts of an upload.", '"16MiB"'),
            Option("parallel_parts", Whole(1, 16), "How many parts travel at the same time.", "3"),
            Option("timeout", _NETWORK_TIMEOUT, "How long the server may be silent.", '"60s"'),
        ),
    ),
    Table(
        "destination.NAME",
        FtpDestination,
        'A folder on an FTP server: `type = "ftp"`.',
        (
            Option("host", _HOST, "The server.", '"ftp.example.com"', required=True),
            Option("port", Whole(1, 65535), "Port of the control connection.", "21"),
            Option("username", Text(), "User.", '"backup"', default="anonymous login"),
            Option("password", SecretValue(), "Password.", '{ file = "/etc/nanumpay/ftp-password" }'),
            Option("path", Text(), "Folder on the server; empty: the login's own.", '"/backup/nanumpay"'),
            Option("secure", Flag(), "FTPS (explicit TLS).", "true"),
            *FTP_EXTRAS,
        ),
    ),
    Table(
        "destination.NAME",
        LocalDestination,
        'A further folder on this host, such as another disk or a mount: `type = "local"`.',
        (
            Option("path", AbsolutePath(as_text=True), "The folder.", '"/mnt/usb/backups"', required=True),
            Option("require_mount", Flag(), "Refuse to write when nothing is mounted there.", "true"),
            _BANDWIDTH,
        ),
    ),
)
DESTINATIONS: Final[dict[str, Table]] = {type_of_destination(table.record): table for table in _TABLES}
"""The table of each type that ``type`` may name."""
EXAMPLE_NAMES: Final = {"s3": "offsite", "ftp": "ftp-server", "local": "usb"}
"""What a destination of each type is called in docs/backupd.toml.example."""
