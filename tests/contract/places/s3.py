"""S3 buckets in the contract suite: rclone's, and in `make test-places` those of Swift and of Ceph."""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import boto3
import msgspec

from nanumpay_backupd.settings.schema import Destination, S3Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import DiskParticipant, Participant
from tests.servers.certs import Certificate
from tests.servers.radosgw import Gateway, start_radosgw
from tests.servers.radosgw import destination as ceph_destination
from tests.servers.s3 import CACHE_SECONDS, SECRET_KEY, S3Server, start_s3
from tests.servers.swift import OTHER, SwiftServer, start_swift

__all__ = ["start_bucket", "start_ceph", "start_swift_bucket"]


class Bucket(DiskParticipant):
    """Prefixes in one bucket at rclone."""

    durable: ClassVar[bool] = True
    settling: ClassVar[float] = 2 * CACHE_SECONDS
    # It answers InternalError, whatever was wrong on its disk.
    says_full: ClassVar[frozenset[str]] = frozenset({"destination-failed"})
    takes: ClassVar[frozenset[str]] = frozenset()
    litter: ClassVar[str] = ".rclone_temp_multipart"

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self.port = int(server.endpoint.rpartition(":")[2])
        self.program = server.program
        self.tls = bool(server.ca_file)

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"prefix": f"{name}/sub/", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.root / self._server.bucket / name / "sub"

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"secret_access_key": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"endpoint_url": f"{self._server.endpoint.partition(':')[0]}://{host}:{port}"}

    def missing(self, name: str) -> dict[str, Any]:
        return {"bucket": "nobody-made-this"}


class CloudBucket(Participant):
    """Prefixes in one bucket of a server that has to be asked what is there."""

    durable: ClassVar[bool] = True
    takes: ClassVar[frozenset[str]] = frozenset({"put", "list"})

    def __init__(self, settings: S3Destination) -> None:
        self.settings = settings
        self.port = int(settings.endpoint_url.rpartition(":")[2])
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=settings.endpoint_url,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key.reveal(),
            region_name=settings.region,
        )

    def destination(self, name: str, **changes: Any) -> Destination:
        return msgspec.structs.replace(self.settings, **{"prefix": f"{name}/sub/", **changes})

    def names(self, name: str) -> set[str]:
        prefix = f"{name}/sub/"
        where = {"Bucket": self.settings.bucket, "Prefix": prefix}
        pages = self.client.get_paginator("list_objects_v2").paginate(**where)
        found = {entry["Key"] for page in pages for entry in page.get("Contents", ())}
        return {key.removeprefix(prefix).partition("/")[0] for key in found}

    def content(self, name: str, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.settings.bucket, Key=f"{name}/sub/{key}")["Body"].read()
        return data

    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            key = posixpath.normpath(f"{name}/sub/{path}")
            self.client.put_object(Bucket=self.settings.bucket, Key=key, Body=data)

    def made(self, name: str) -> bool:
        return bool(self.names(name))

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"secret_access_key": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"endpoint_url": f"http://{host}:{port}"}

    def missing(self, name: str) -> dict[str, Any]:
        return {"bucket": "nobody-made-this"}


class SwiftBucket(CloudBucket):
    """One at Swift."""

    def __init__(self, server: SwiftServer) -> None:
        super().__init__(server.destination())
        self.program = server.program

    @contextlib.contextmanager
    def taken(self, name: str, right: str) -> Iterator[dict[str, Any]]:
        grant = "GrantRead" if right == "put" else "GrantWrite"
        self.client.put_bucket_acl(Bucket=self.settings.bucket, **{grant: f"id={OTHER}"})
        for key in self.names(name):  # its right in the bucket does not let one read what is in there
            where = {"Bucket": self.settings.bucket, "Key": f"{name}/sub/{key}"}
            self.client.put_object_acl(**where, GrantRead=f"id={OTHER}")
        try:
            yield {"access_key_id": OTHER}
        finally:
            self.client.put_bucket_acl(Bucket=self.settings.bucket, ACL="private")


class CephBucket(CloudBucket):
    """One at Ceph's radosgw."""

    _OTHER: ClassVar[str] = "AKIAOTHERPERSON"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(ceph_destination(gateway.endpoint, part_size=5 << 20, parallel_parts=2))
        self._gateway = gateway
        self.program = gateway.program
        self.client.create_bucket(Bucket=self.settings.bucket)
        login = ("--access-key", self._OTHER, "--secret-key", SECRET_KEY)
        gateway.admin("user", "create", "--uid", "other", "--display-name", "other", *login)

    @contextlib.contextmanager
    def limited(self, name: str, size: int) -> Iterator[None]:
        used = sum(
            entry["Size"]
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.settings.bucket)
            for entry in page.get("Contents", ())
        )
        quota = ("--quota-scope", "bucket", "--bucket", self.settings.bucket)
        self._gateway.admin("quota", "set", *quota, "--max-size", used + size)
        self._gateway.admin("quota", "enable", *quota)
        try:
            yield
        finally:
            self._gateway.admin("quota", "disable", *quota)

    @contextlib.contextmanager
    def taken(self, name: str, right: str) -> Iterator[dict[str, Any]]:
        objects = ["s3:GetObject"] if right == "put" else ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
        bucket = f"arn:aws:s3:::{self.settings.bucket}"
        statements = [{"Effect": "Allow", "Principal": "*", "Action": objects, "Resource": f"{bucket}/*"}]
        if right == "put":
            statements.append({"Effect": "Allow", "Principal": "*", "Action": ["s3:ListBucket"], "Resource": bucket})
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.client.put_bucket_policy(Bucket=self.settings.bucket, Policy=policy)
        try:
            yield {"access_key_id": self._OTHER}
        finally:
            self.client.delete_bucket_policy(Bucket=self.settings.bucket)


@contextlib.contextmanager
def start_bucket(folder: Path, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run rclone; with a certificate it speaks HTTPS."""
    with start_s3(folder, certificate) as server:
        yield Bucket(server)


@contextlib.contextmanager
def start_swift_bucket(folder: Path) -> Iterator[Participant]:
    """Run Swift."""
    with start_swift(folder) as server:
        yield SwiftBucket(server)


@contextlib.contextmanager
def start_ceph(folder: Path) -> Iterator[Participant]:
    """Run Ceph."""
    with start_radosgw(folder) as gateway:
        yield CephBucket(gateway)
