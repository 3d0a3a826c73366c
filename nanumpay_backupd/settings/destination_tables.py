"""The keys of a ``[destination.NAME]`` that belong to its ``type``: one table for each record in `destinations`.

Checks nothing.
"""

from __future__ import annotations

from typing import Final

from nanumpay_backupd.settings.destinations import (
    AzureDestination,
    DropboxDestination,
    FtpDestination,
    GcsDestination,
    LocalDestination,
    ResticDestination,
    S3Destination,
    SftpDestination,
    WebdavDestination,
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
from nanumpay_backupd.settings.restic_kinds import Repository, Variables, Words
from nanumpay_backupd.settings.ssh_kinds import HostKeys
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
_TIMEOUT: Final = Option("timeout", _NETWORK_TIMEOUT, "How long the server may be silent.", '"60s"')
_OTHER_SERVER: Final = Option(
    "endpoint_url", Url(), "Address of a server other than the provider's own.", '"https://storage.example.com"'
)
_CA_FILE: Final = Option(
    "ca_file",
    AbsolutePath(as_text=True, empty=True),
    "Certificates to trust instead of the host's.",
    '"/etc/nanumpay/storage-ca.pem"',
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
    Option(
        "profile",
        Text("the name of a profile"),
        "Profile of the service user's `~/.aws/config` to take credentials from, where no access key is given.",
        '"backups"',
        default="as boto3 finds them: environment, web identity, the machine's role",
    ),
    Option(
        "lock_mode",
        Choice("", "governance", "compliance"),
        "Lock each new object (the bucket needs Object Lock): nobody can delete it before the time is over; with "
        "`governance` whoever has a right for it can.",
        '"governance"',
    ),
    Option("lock_days", Whole(0, 36_500), "For how many days; no longer than the shortest retention.", "30"),
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
    _TIMEOUT,
    _BANDWIDTH,
)

_TABLES: Final = (
    Table(
        "destination.NAME",
        S3Destination,
        'A bucket: `type = "s3"` ([destinations/s3.md](destinations/s3.md)).',
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
            _TIMEOUT,
        ),
    ),
    Table(
        "destination.NAME",
        FtpDestination,
        'A folder on an FTP server: `type = "ftp"` ([destinations/ftp.md](destinations/ftp.md)).',
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
        'A further folder on this host, such as another disk or a mount: `type = "local"` '
        "([destinations/local.md](destinations/local.md)).",
        (
            Option("path", AbsolutePath(as_text=True), "The folder.", '"/mnt/usb/backups"', required=True),
            Option("require_mount", Flag(), "Refuse to write when nothing is mounted there.", "true"),
            _BANDWIDTH,
        ),
    ),
    Table(
        "destination.NAME",
        SftpDestination,
        'A folder on an SSH server: `type = "sftp"` ([destinations/sftp.md](destinations/sftp.md)).',
        (
            Option("host", _HOST, "The server.", '"nas.example.com"', required=True),
            Option("port", Whole(1, 65535), "Its port.", "22"),
            Option("username", Text("a user's name", pattern=r"[^\x00-\x1f\x7f]+"), "User.", '"backup"', required=True),
            Option(
                "private_key",
                SecretValue(),
                "The text of his private key, as ssh-keygen writes it.",
                '{ credential = "nas-key" }',
                default="none: the password is used",
            ),
            Option(
                "passphrase",
                SecretValue(),
                "What the key is encrypted with.",
                '{ credential = "nas-passphrase" }',
                default="it is not",
            ),
            Option("password", SecretValue(), "His password.", '{ credential = "nas-password" }', default="none"),
            Option(
                "host_key",
                HostKeys(),
                "Which keys of the server are accepted: fingerprints or public keys.",
                '"SHA256:' + "A" * 43 + '"',
                default="none: the first try tells the fingerprint that is shown",
            ),
            Option(
                "known_hosts",
                AbsolutePath(as_text=True, empty=True),
                "A file of OpenSSH's that has the server's keys, instead of `host_key`.",
                '"/etc/ssh/ssh_known_hosts"',
                default="none",
            ),
            Option(
                "path",
                Text(),
                "Folder on the server; without a slash in front, below the login's own; empty: that one.",
                '"backup/nanumpay"',
            ),
            _TIMEOUT,
            _BANDWIDTH,
        ),
    ),
    Table(
        "destination.NAME",
        WebdavDestination,
        'A folder on a WebDAV server, such as Nextcloud: `type = "webdav"` '
        "([destinations/webdav.md](destinations/webdav.md)).",
        (
            Option(
                "url",
                Url(),
                "Address of what the login may write to; it has to exist.",
                '"https://cloud.example.com/remote.php/dav/files/backup"',
                required=True,
            ),
            Option("username", Text(), "User.", '"backup"', default="no login"),
            Option("password", SecretValue(), "Password.", '{ credential = "webdav-password" }', default="none"),
            Option("path", Text(), "Folder below it, made if need be; empty: none.", '"backup/nanumpay"'),
            Option(
                "ca_file",
                AbsolutePath(as_text=True, empty=True),
                "Certificates to trust instead of the host's.",
                '"/etc/nanumpay/webdav-ca.pem"',
            ),
            Option(
                "tls_fingerprint",
                Fingerprint(),
                "SHA-256 of the server's certificate: exactly that one is accepted, self-signed or not.",
                '"' + "ab" * 32 + '"',
            ),
            _TIMEOUT,
            _BANDWIDTH,
        ),
    ),
    Table(
        "destination.NAME",
        GcsDestination,
        'A bucket of Google Cloud Storage: `type = "gcs"` ([destinations/gcs.md](destinations/gcs.md)).',
        (
            Option("bucket", _BUCKET, "The bucket.", '"my-backups"', required=True),
            Option("prefix", Text(), "Folder in the bucket.", '"nanumpay-backup/"'),
            Option(
                "service_account",
                SecretValue(),
                "The JSON key file of a service account.",
                '{ file = "/etc/nanumpay/gcs-key.json" }',
                default="empty: application default credentials",
            ),
            Option(
                "storage_class",
                Text("a storage class in capitals, or empty", pattern=r"[A-Z0-9_]*", example='"NEARLINE"'),
                "Storage class of the objects; empty: the bucket's default.",
                '"NEARLINE"',
            ),
            Option(
                "kms_key_name",
                Text(),
                "The key of Cloud KMS to encrypt with; empty: the bucket's.",
                '"projects/p/locations/l/keyRings/r/cryptoKeys/k"',
            ),
            Option(
                "delete_versions",
                Flag(),
                "In a bucket that keeps versions, delete these too.",
                "true",
            ),
            _OTHER_SERVER,
            _CA_FILE,
            Option("chunk_size", Size("256KiB", "1GiB"), "How much is sent at once, a multiple of 256KiB.", '"16MiB"'),
            _TIMEOUT,
            _BANDWIDTH,
        ),
    ),
    Table(
        "destination.NAME",
        AzureDestination,
        'A container of Azure Blob Storage: `type = "azure"` ([destinations/azure.md](destinations/azure.md)).',
        (
            Option(
                "container",
                Text("a container's name", pattern=r"[a-z0-9$][a-z0-9-]{2,62}", example='"backups"'),
                "The container.",
                '"backups"',
                required=True,
            ),
            Option("account", Text(), "The storage account.", '"mystorageaccount"'),
            Option("prefix", Text(), "Folder in the container.", '"nanumpay-backup/"'),
            Option(
                "connection_string",
                SecretValue(),
                "A connection string, with a key or a SAS in it.",
                '{ credential = "azure-connection" }',
            ),
            Option("account_key", SecretValue(), "A key of the account.", '{ credential = "azure-key" }'),
            Option(
                "sas_token",
                SecretValue(),
                "A shared access signature.",
                '{ credential = "azure-sas" }',
                default="empty, as the two before: the host's managed identity",
            ),
            Option(
                "client_id",
                Text(),
                "The managed identity, where the host has several.",
                '"00000000-0000-0000-0000-000000000000"',
            ),
            Option(
                "tier",
                Choice("", "Hot", "Cool", "Cold", "Archive"),
                "Access tier of the blobs; empty: the account's default.",
                '"Cool"',
            ),
            _OTHER_SERVER,
            _CA_FILE,
            Option("block_size", Size("64KiB", "1GiB"), "Size of the blocks of an upload.", '"8MiB"'),
            Option("parallel_blocks", Whole(1, 16), "How many blocks travel at the same time.", "3"),
            _TIMEOUT,
            _BANDWIDTH,
        ),
    ),
    Table(
        "destination.NAME",
        DropboxDestination,
        'A folder in a Dropbox: `type = "dropbox"` ([destinations/dropbox.md](destinations/dropbox.md)).',
        (
            Option(
                "path",
                Text("a path that begins with /, or empty", pattern=r"(/.+)?", example='"/nanumpay-backup"'),
                "Folder; empty: the app's own.",
                '"/nanumpay-backup"',
            ),
            Option("app_key", Text(), "Key of the app.", '"abcdefghijklmno"', required=True),
            Option(
                "app_secret",
                SecretValue(),
                "Secret of the app; empty for a token that was got by PKCE.",
                '{ credential = "dropbox-app" }',
            ),
            Option("refresh_token", SecretValue(), "The refresh token.", '{ credential = "dropbox-token" }'),
            _OTHER_SERVER,
            _CA_FILE,
            Option("chunk_size", Size("4MiB", "148MiB"), "How much is sent at once, a multiple of 4MiB.", '"16MiB"'),
            _TIMEOUT,
            _BANDWIDTH,
        ),
    ),
    Table(
        "destination.NAME",
        ResticDestination,
        "A repository of [restic](destinations/restic.md), which keeps only what it has not got yet: "
        'of daily fulls what changed. `type = "restic"`. Needs the program `restic` (0.14 or later).',
        (
            Option(
                "repository",
                Repository(),
                "As restic takes it: a folder, `s3:https://HOST/BUCKET/PATH`, `sftp:USER@HOST:/PATH`, "
                "`rest:https://HOST/`, `rclone:REMOTE:PATH` and so on. No password stands in it.",
                '"s3:https://s3.amazonaws.com/my-backups/restic"',
                required=True,
            ),
            Option(
                "password", SecretValue(), "Password of the repository; required.", '{ credential = "restic-password" }'
            ),
            Option("path", AbsolutePath(as_text=True), "Folder in the snapshots that the files are in.", '"/nanumpay"'),
            Option(
                "init",
                Flag(),
                "Whether a repository that is not there is made. Without, `backupctl test` says what to type.",
                "true",
            ),
            Option("access_key_id", Text("an access key's id"), "For `s3:`.", '"AKIA…"'),
            Option("secret_access_key", SecretValue(), "For `s3:`.", '{ credential = "s3-secret" }'),
            Option("rest_username", Text("a user's name"), "For `rest:`.", '"backup"'),
            Option("rest_password", SecretValue(), "For `rest:`.", '{ credential = "rest-password" }'),
            Option(
                "variables",
                Variables(),
                "What else restic finds in its environment, such as the logins of other kinds of repository.",
                '{ B2_ACCOUNT_ID = "0012…", B2_ACCOUNT_KEY = { credential = "b2-key" } }',
            ),
            Option("options", Words(), "Further options of restic's `-o`.", '["s3.storage-class=STANDARD_IA"]'),
            Option(
                "program",
                Text("a program's name or path", pattern=r"[^\x00-\x1f\x7f]+"),
                "The program, looked for on the PATH.",
                '"/usr/local/bin/restic"',
            ),
            Option(
                "cache",
                AbsolutePath(as_text=True, empty=True),
                "Where restic keeps what it knows of a repository that is elsewhere.",
                '"/var/cache/restic"',
                default="the service's cache directory",
            ),
            _CA_FILE,
            Option(
                "check_percent",
                Whole(0, 100),
                "How much of the data each verification of all copies reads (`restic check --read-data-subset`).",
                "10",
            ),
            Option(
                "repack",
                Size("0B", "16TiB"),
                "The most that a daily pruning writes anew to get rid of what nobody needs.",
                '"1GiB"',
            ),
            _TIMEOUT,
            _BANDWIDTH,
        ),
    ),
)
_NATURE: Final = (
    Option(
        "media",
        Text("a name of lower-case letters, digits and dashes, or empty", pattern=r"[a-z0-9-]{0,40}", example='"tape"'),
        "What its copies lie on, for [3-2-1](operations.md#3-2-1): places of the same name count as one medium.",
        '"nas"',
        default='the type; of a folder `"disk"`, with `require_mount` `"mounted-disk"`',
    ),
    Option(
        "offsite",
        Flag(),
        "Whether it stands elsewhere than this host, for 3-2-1.",
        "true",
        default="by its address: not a folder, nor a private address or a name of the own network",
    ),
)
DESTINATIONS: Final[dict[str, Table]] = {
    type_of_destination(table.record): table._replace(options=(*table.options, *_NATURE)) for table in _TABLES
}
"""The table of each type that ``type`` may name."""
EXAMPLE_NAMES: Final = {
    "s3": "offsite",
    "ftp": "ftp-server",
    "local": "usb",
    "sftp": "nas",
    "webdav": "cloud",
    "gcs": "google",
    "azure": "azure",
    "dropbox": "dropbox",
    "restic": "restic",
}
"""What a destination of each type is called in docs/backupd.toml.example."""
