"""Uploads beside the tools that people use, to several places at once, and the memory that they take.

By itself: -m tests.bench.places. Every put is made by a process of its own, as a worker makes it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.settings.schema import Destination, LocalDestination, decode_hook, encode_hook
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.shared_file import SharedFile
from tests.bench.measure import settle, timed
from tests.bench.report import Report
from tests.bench.site import median_of
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.sftp import SshServer, start_sshd

_MB: Final = 1_000_000
_SIZE: Final = 500 * _MB
_LARGE: Final = 5000 * _MB
_LINE: Final = 40 * _MB
"""Bytes per second of a line: what three places at once share here is not the disk and two processors."""
_S3: Final = {"part_size": 16 << 20, "parallel_parts": 3, "prefix": ""}
"""As the settings have them when nothing is said."""
_STOCK_S3: Final = """
import hashlib, sys, time
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
endpoint, key, secret, bucket, path = sys.argv[1:]
config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret,
                      region_name="us-east-1", config=config)
began = time.monotonic()
client.upload_file(path, bucket, "stock")
print(time.monotonic() - began)
head = client.head_object(Bucket=bucket, Key="stock")
with open(path, "rb") as stream:
    assert head["ETag"].strip('"') == hashlib.file_digest(stream, "md5").hexdigest()
print(time.monotonic() - began)
"""
"""Prints the seconds of upload_file, and those until its result is as proven as ours is."""


class _Work(msgspec.Struct):
    """What a process is to do: bring a file to these places, at once."""

    path: str
    places: list[Destination]
    connected: bool = False
    """The clock starts when there are connections, as it does for boto3's client."""


class _Done(msgspec.Struct):
    """What it took: seconds without the start of the process, and bytes of memory at most."""

    seconds: float
    memory: int


def put_all(work: _Work) -> _Done:
    """Bring a file to all places at once from one reading, as `pipeline.upload` does."""
    faults: list[BaseException] = []

    def one(store: Store) -> None:
        try:
            with contextlib.closing(store):
                store.put("ours", source)
        except BaseException as error:
            faults.append(error)

    source = SharedFile.of(Path(work.path)) if len(work.places) > 1 else Path(work.path)
    stores = [open_store(place) for place in work.places]
    for store in stores if work.connected else ():
        store.stat("nothing")
    began = time.monotonic()
    threads = [threading.Thread(target=one, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return _Done(time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)


def measure(folder: Path, report: Report, rounds: int, size: int = _SIZE) -> None:
    """Add what uploads take; the ways in turn, so that all meet the same machine."""
    source, shorter = folder / "source", folder / "shorter"
    _fill(source, size)
    _fill(shorter, size * 2 // 5)
    with _servers(folder) as (s3, cloud, ssh, nas, disk):
        stock: dict[str, list[float]] = {"boto3": [], "proven": [], "sftp": []}
        ours: dict[str, list[float]] = {"s3": [], "sftp": []}
        memory = 0
        for _ in range(rounds):
            bare, proven = _boto3(s3, source)
            stock["boto3"].append(bare)
            stock["proven"].append(proven)
            done = _ours(source, [cloud], connected=True)
            ours["s3"].append(done.seconds)
            memory = max(memory, done.memory)
            stock["sftp"].append(_sftp(ssh, source))
            ours["sftp"].append(_ours(source, [nas]).seconds)
        _compared(report, "S3 (rclone)", "boto3's upload_file", stock["boto3"], ours["s3"], size, floor=0.9)
        _compared(report, "S3 (rclone)", "upload_file, HEAD and MD5", stock["proven"], ours["s3"], size, floor=0.9)
        report.add(f"S3, {size // _MB} MB: memory of the process", memory / _MB, 150, unit=" MB")
        _compared(report, "SFTP", "`sftp put`", stock["sftp"], ours["sftp"], size, floor=0.8)
        _at_once(report, shorter, [cloud, nas, disk], rounds)


def measure_memory(folder: Path, report: Report, rounds: int, size: int = _SIZE, large: int = _LARGE) -> None:
    """Add the memory of all places at once for a file, and for a larger one; what is in them is all the same to it."""
    peaks = []
    with _servers(folder) as (_, cloud, __, nas, disk):
        for length in (size, large):
            source = folder / "hollow"
            with source.open("wb") as stream:
                stream.truncate(length)
            peaks.append(_ours(source, [cloud, nas, disk]).memory)
    report.add(
        f"S3, SFTP and a disk at once: memory at {large / 1e9:g} GB / at {size // _MB} MB", peaks[1] / peaks[0], 1.15
    )
    told = [f"{peak / _MB:.0f} MB at {length / _MB:g} MB" for peak, length in zip(peaks, (size, large), strict=True)]
    report.fact(f"memory of that process: {', '.join(told)}")


def _compared(
    report: Report, what: str, tool: str, stock: Sequence[float], ours: Sequence[float], size: int, *, floor: float
) -> None:
    """Add the median of the ratios of rounds, where each had its neighbour."""
    ratio = median_of([theirs / mine for theirs, mine in zip(stock, ours, strict=True)])
    report.add(f"{what}, {size // _MB} MB: speed / that of {tool}", ratio, floor, least=True)
    mine, theirs = size / _MB / median_of(list(ours)), size / _MB / median_of(list(stock))
    report.fact(f"{what}: {mine:.0f} MB/s; {tool}: {theirs:.0f} MB/s (medians)")


def _at_once(report: Report, source: Path, places: list[Destination], rounds: int) -> None:
    """Add what all places at once take beside the slowest alone: over a line each, and as fast as this machine goes."""
    for limit, words in ((_LINE, f"over {_LINE // _MB} MB/s each"), (0, "unlimited, servers on the same processors")):
        limited = [msgspec.structs.replace(place, bandwidth=limit) for place in places]
        ratios, alone, together = [], [], []
        for _ in range(rounds if not limit else 1):
            slowest = max(_ours(source, [place]).seconds for place in limited)
            all_of_them = _ours(source, limited).seconds
            ratios.append(all_of_them / slowest)
            alone.append(slowest)
            together.append(all_of_them)
        what = f"S3, SFTP and a disk at once / the slowest alone, {words}"
        if limit:
            report.add(what, median_of(ratios), 1.3)
        else:
            report.fact(f"{what}: {median_of(ratios):.2f}")
        report.fact(f"{words}: at once {median_of(together):.1f} s, the slowest alone {median_of(alone):.1f} s")


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[tuple[S3Server, Destination, SshServer, Destination, Destination]]:
    """Run the servers; gives each with how it is reached, and a folder."""
    with start_s3(folder) as s3, start_sshd(folder / "ssh") as ssh:
        disk = LocalDestination(name="disk", path=str(folder / "disk"))
        yield s3, s3.destination(**_S3), ssh, ssh.destination(), disk


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        for at in range(0, size, 1 << 20):
            stream.write(os.urandom(min(1 << 20, size - at)))


def _ours(source: Path, places: list[Destination], *, connected: bool = False) -> _Done:
    settle()
    work = msgspec.json.encode(_Work(str(source), places, connected), enc_hook=encode_hook)
    argv = [sys.executable, "-m", "tests.bench.places", "put"]
    done = subprocess.run(argv, check=True, input=work, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=_Done)


def _boto3(server: S3Server, source: Path) -> tuple[float, float]:
    settle()
    argv = [sys.executable, "-c", _STOCK_S3, server.endpoint, ACCESS_KEY, SECRET_KEY, server.bucket, str(source)]
    bare, proven = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(bare), float(proven)


def _sftp(server: SshServer, source: Path) -> float:
    key = server.keys / "plain"
    key.chmod(0o600)
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes"
    # With -f it has the server bring the file to its disk, as ours does.
    return timed(
        [],
        shell=f"echo 'put -f {source} /files/stock' | "
        f"sftp -q -b - -P {server.port} -i {key} {options} backup@{server.host}",
    )


def main() -> None:
    """Put what is asked for on standard input, or measure all of it."""
    if sys.argv[1:] == ["put"]:
        work = msgspec.json.decode(sys.stdin.buffer.read(), type=_Work, dec_hook=decode_hook)
        sys.stdout.buffer.write(msgspec.json.encode(put_all(work)))
        return
    base = tempfile.mkdtemp(prefix="bench-")
    try:
        measure(Path(base), Report(), 1, *(int(float(word)) for word in sys.argv[1:]))
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
