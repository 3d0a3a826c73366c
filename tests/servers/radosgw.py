"""A real S3 server with versions and Object Lock: Ceph's radosgw over one monitor and one OSD that live in memory.

Takes about ten seconds to start and 64 Debian packages, so only `make test-s3-lock` and `make test-places` use it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from nanumpay_backupd.settings.schema import S3Destination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.process import Program, free_port, running
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY

__all__ = ["PROGRAMS", "Gateway", "destination", "start_radosgw"]

PROGRAMS: Final = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
_CONFIGURATION: Final = """\
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{monitor}
mon_initial_members = a
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_bind_msgr2 = false
public_addr = 127.0.0.1
run_dir = {folder}
log_file = {folder}/$name.log
admin_socket = {folder}/$name.asok
crash_dir = {folder}/crash
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
osd_objectstore = memstore
memstore_device_bytes = {memory}
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
osd_class_load_list = *
osd_class_default_list = *
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_enable_usage_log = false
rgw_bucket_quota_ttl = 0
"""
_PATIENCE: Final = 60.0
_TRIES: Final = 5


def destination(endpoint: str, **changes: object) -> S3Destination:
    """Return settings that reach the server; ``changes`` replace single ones."""
    settings: dict[str, object] = {
        "name": "cloud",
        "bucket": "backups",
        "region": "us-east-1",
        "access_key_id": ACCESS_KEY,
        "secret_access_key": Secret(SECRET_KEY),
        "endpoint_url": endpoint,
        "path_style": True,
        "timeout": 20.0,
    }
    return S3Destination(**{**settings, **changes})  # type: ignore[arg-type]


class Gateway:
    """The S3 server, which keeps nothing itself: killed, it is the same again when it is started."""

    def __init__(self, argv: Sequence[str], folder: Path, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.program = Program(argv, folder / "rgw.out", "127.0.0.1", port)
        self._folder = folder

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.program.start()

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.program.process.poll() is None:
            self.program.kill()

    def admin(self, *words: object) -> None:
        """Run radosgw-admin."""
        _run(self._folder, "radosgw-admin", "-c", self._folder / "ceph.conf", *words)


@contextlib.contextmanager
def start_radosgw(folder: Path, memory: int = 512 << 20) -> Iterator[Gateway]:
    """Run monitor, OSD and gateway until the block ends; objects may take so many bytes of memory."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise FileNotFoundError(f"not installed: {', '.join(missing)} (make test-s3-lock installs them)")
    monitor, port = free_port(), free_port()
    for name in ("mon", "osd", "rgw", "crash"):
        (folder / name).mkdir(parents=True)
    conf = folder / "ceph.conf"
    fsid = str(uuid.uuid4())
    ports = {"monitor": monitor, "port": port}
    conf.write_text(_CONFIGURATION.format(fsid=fsid, folder=folder, memory=memory, **ports), encoding="ascii")
    _run(folder, "monmaptool", "--create", "--addv", "a", f"v1:127.0.0.1:{monitor}", "--fsid", fsid, "monmap")
    _run(folder, "ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", "monmap")
    with contextlib.ExitStack() as stack:
        daemon = ("-c", str(conf), "-f")
        stack.enter_context(running(["ceph-mon", *daemon, "-i", "a"], folder / "mon.out", "127.0.0.1", monitor))
        osd = str(uuid.uuid4())
        _until(folder, "ceph", "-c", conf, "osd", "new", osd)
        _run(folder, "ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
        # Now and then it is refused at its start ("wrong fsid"), before it has heard of its cluster.
        for _ in range(_TRIES):
            # It listens on ports of its own choice, so the monitor is asked for it.
            started = running(["ceph-osd", *daemon, "-i", "0"], folder / "osd.out", "127.0.0.1", monitor)
            if _comes_up(folder, stack.enter_context(started)):
                break
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        _until(folder, "radosgw-admin", "-c", conf, "user", "create", "--uid", "test", "--display-name", "test", *keys)
        gateway = Gateway(["radosgw", *daemon, "-n", "client.rgw"], folder, port)
        gateway.start()
        stack.callback(gateway.program.stop)
        yield gateway


def _comes_up(folder: Path, osd: subprocess.Popen[bytes]) -> bool:
    """Wait until the monitor knows the OSD as up; False when it ended instead."""
    deadline = time.monotonic() + _PATIENCE
    while osd.poll() is None and time.monotonic() < deadline:
        if b"1 up" in _run(folder, "ceph", "-c", "ceph.conf", "osd", "stat").stdout:
            return True
        time.sleep(0.2)
    return False


def _run(folder: Path, *argv: object) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([str(word) for word in argv], cwd=folder, capture_output=True, timeout=_PATIENCE)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]}: {done.stderr.decode(errors='replace')[-2000:]}")
    return done


def _until(folder: Path, *argv: object) -> None:
    """Run what works only once the servers know each other."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            _run(folder, *argv)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
