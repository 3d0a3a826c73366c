"""A second real S3 server for tests: OpenStack Swift with s3api and tempauth, all on one disk; for `make test-places`.

Other than rclone it knows versions, tells apart who may do what, and compares the caller's clock.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3

from nanumpay_backupd.settings.schema import S3Destination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.process import Program, free_port, is_listening, serving
from tests.servers.tools import PROJECT

__all__ = ["OTHER", "SwiftServer", "start_swift"]

_TREE: Final = PROJECT / ".tools" / "python3-swift"
_PYTHON: Final = "/usr/bin/python3"
"""Debian's own, for which its packages are made."""
_BUCKET: Final = "backups"
_OWNER: Final = "test:tester"
OTHER: Final = "test:other"
_SECRET: Final = "geheimer/Schluessel+fuer-Tests"
# Where /etc/swift is can be told by no option.
_START: Final = """\
import runpy, sys
from swift.common import utils
utils.SWIFT_CONF_FILE = sys.argv.pop(1)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class SwiftServer:
    """A running server with one bucket, and two who may log in: its owner, and ``OTHER``, who has no right there."""

    endpoint: str
    port: int
    program: Program = field(repr=False)
    bucket: str = _BUCKET

    def destination(self, **changes: Any) -> S3Destination:
        """Return settings that reach this server; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "cloud",
            "bucket": self.bucket,
            "region": "us-east-1",
            "access_key_id": _OWNER,
            "secret_access_key": Secret(_SECRET),
            "endpoint_url": self.endpoint,
            "path_style": True,
            "part_size": 5 << 20,
            "parallel_parts": 2,
            "timeout": 20.0,
        }
        return S3Destination(**{**settings, **changes})

    def client(self) -> Any:
        """Return a client of one's own."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=_OWNER,
            aws_secret_access_key=_SECRET,
            region_name="us-east-1",
        )


@contextlib.contextmanager
def start_swift(folder: Path) -> Iterator[SwiftServer]:
    """Run proxy, account, container and object server until the block ends."""
    if not (_TREE / "complete").exists() or shutil.which("unshare") is None:
        raise RuntimeError("tests with Swift need `make test-places` to have set it up")
    home = folder / "swift"
    (home / "disk" / "d1").mkdir(parents=True)
    ports = {name: free_port() for name in ("account", "container", "object", "proxy")}
    (home / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n", encoding="ascii")
    environment = {
        "PYTHONPATH": str(_TREE / "usr/lib/python3/dist-packages"),
        "LD_LIBRARY_PATH": str(_TREE / "usr/lib/x86_64-linux-gnu"),
    }
    for name in ("account", "container", "object"):
        _make_ring(home, name, ports[name], environment)
        text = _STORAGE.format(home=home, port=ports[name], name=name)
        (home / f"{name}.conf").write_text(text, encoding="ascii")
    text = _PROXY.format(home=home, port=ports["proxy"], secret=_SECRET, owner=_user(_OWNER), other=_user(OTHER))
    (home / "proxy.conf").write_text(text, encoding="ascii")
    lines = []
    for name in ports:
        words = [_PYTHON, "-c", _START, home / "swift.conf", _TREE / f"usr/bin/swift-{name}-server"]
        lines.append(shlex.join(map(str, [*words, home / f"{name}.conf"])))
    argv = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-ec", " &\n".join(lines)]
    with serving(argv, folder / "swift.log", "127.0.0.1", ports["proxy"], environment) as program:
        for port in ports.values():
            while not is_listening("127.0.0.1", port):
                time.sleep(0.02)
        server = SwiftServer(f"http://127.0.0.1:{ports['proxy']}", ports["proxy"], program)
        server.client().create_bucket(Bucket=_BUCKET)
        yield server


def _user(name: str) -> str:
    return "user_" + name.replace(":", "_")


def _make_ring(home: Path, name: str, port: int, environment: dict[str, str]) -> None:
    """Say that everything lies on the one disk."""
    for words in (("create", "2", "1", "0"), ("add", f"r1z1-127.0.0.1:{port}/d1", "1"), ("rebalance",)):
        builder = [_PYTHON, str(_TREE / "usr/bin/swift-ring-builder"), str(home / f"{name}.builder")]
        done = subprocess.run(
            [*builder, *words], cwd=home, env={**os.environ, **environment}, capture_output=True, text=True
        )
        if done.returncode > 1:  # 1 is a warning
            raise RuntimeError(f"swift-ring-builder: {done.stdout}{done.stderr}")


_STORAGE: Final = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = root
swift_dir = {home}
devices = {home}/disk
mount_check = false
log_level = ERROR
disable_fallocate = true
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
_PROXY: Final = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = root
swift_dir = {home}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo dlo symlink versioned_writes proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
s3_acl = true
check_bucket_owner = false
allow_multipart_uploads = true
location = us-east-1
dns_compliant_bucket_names = true
[filter:tempauth]
use = egg:swift#tempauth
{owner} = {secret} .admin
{other} = {secret}
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
min_segment_size = 1
[filter:dlo]
use = egg:swift#dlo
[filter:symlink]
use = egg:swift#symlink
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
allow_versioned_writes = true
"""
