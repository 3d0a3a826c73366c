"""The house of a soak: a replica set, four destinations, Redis, a tree of files, and a daemon with a web page.

All are real processes in one folder; what the daemon keeps (backups, state) lies on small disks of its own, which can
be filled. What happens to them is `tests.soak.faults`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.servers.daemon import Site, wait_for
from tests.servers.ftp import PASSWORD, FtpServer, start_proftpd
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.post import WebServer
from tests.servers.process import Program, free_port
from tests.servers.redis import Redis, find_redis, start_redis
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.sftp import SshServer, start_sshd
from tests.servers.tools import PROJECT
from tests.soak.book import Book, fill
from tests.soak.diary import Diary
from tests.workbench import small_disk

__all__ = ["DATABASE", "JOBS", "PLACES", "House", "open_house"]

DATABASE: Final = "soak"
PLACES: Final = ("usb", "cloud", "office", "nas")
JOBS: Final = ("nanumpay", "sealed", "cache", "tree")
BACKUPS_DISK: Final = 1300 << 20
STATE_DISK: Final = 48 << 20
_PASSPHRASE: Final = "eine lange Passphrase 백업"
_RESTART_SECONDS: Final = 2.0


class House:
    """Everything that runs, and the one who starts the daemon again as systemd would. Made by `open_house`."""

    def __init__(self, site: Site, diary: Diary, mongod: Mongod, scratch: Mongod) -> None:
        self.site = site
        self.diary = diary
        self.mongod = mongod
        self.scratch = scratch
        self.book = Book()
        self.calm = threading.RLock()
        """Held by whoever makes a fault, and by who must not be hit by one."""
        self.s3: S3Server
        self.ftp: FtpServer
        self.ssh: SshServer
        self.redis: Redis
        self.other_redis: Redis
        self.web = WebServer()
        self.usb = site.folder / "usb"
        self.tree = site.folder / "tree"
        self.bare = site.folder / "bare.toml"
        self.page: subprocess.Popen[bytes] | None = None
        self.page_port = free_port()
        self.page_token = ""
        self.daemon_log = site.log_file
        self.held_down = threading.Event()
        """While it is set the daemon is left down."""
        self.expected = threading.Event()
        """Set by who ends the daemon on purpose."""
        self.closing = threading.Event()
        self.lives = 0
        self._sources = threading.Lock()

    @property
    def programs(self) -> dict[str, Program]:
        """Return the destinations' servers by the destinations' names."""
        assert self.ftp.program is not None
        return {"cloud": self.s3.program, "office": self.ftp.program, "nas": self.ssh.program}

    @contextlib.contextmanager
    def paused_sources(self) -> Iterator[None]:
        """Keep Redis and the tree as they are for the length of a with block; who writes them holds it too."""
        with self._sources:
            yield

    # The daemon, as systemd keeps it

    def keep_daemon(self) -> None:
        """Start the daemon again whenever it has ended, until the house closes. Runs in a thread of its own."""
        while not self.closing.wait(0.2):
            process = self.site.process
            if self.held_down.is_set() or (process is not None and process.poll() is None):
                continue
            if process is not None and not self.expected.is_set():
                self.diary.note("anomaly", what=f"the daemon ended by itself with {process.returncode}")
            self.expected.clear()
            if process is not None:
                time.sleep(_RESTART_SECONDS)
            try:
                self.site.start()
            except (AssertionError, TimeoutError) as error:
                if self.expected.is_set():  # somebody ended it while it was starting
                    continue
                self.diary.note("anomaly", what=f"the daemon does not start: {str(error)[-1500:]}")
                with contextlib.suppress(OSError):
                    if self.site.process is not None:
                        self.site.process.kill()
                        self.site.process.wait()
                self.expected.set()
                continue
            self.lives += 1
            assert self.site.process is not None
            self.diary.note("life", number=self.lives, pid=self.site.process.pid)

    def end_daemon(self, number: signal.Signals, *, stay_down: bool = False) -> None:
        """End the daemon on purpose and wait for its end."""
        process = self.site.process
        if process is None or process.poll() is not None:
            return
        if stay_down:
            self.held_down.set()
        self.expected.set()
        process.send_signal(number)
        process.wait(120)

    def healthy(self) -> bool:
        """Tell whether the daemon answers."""
        with contextlib.suppress(Exception):
            self.site.status()
            return True
        return False

    # The page

    def start_page(self) -> None:
        """Start the web page's service."""
        log = self.site.folder / "web.log"
        argv = [sys.executable, "-m", "nanumpay_backupd.web.command", "--config", str(self.site.config)]
        environment = {name: value for name, value in self.site.environment().items() if name != "NANUMPAY_TEST_SITE"}
        with log.open("ab") as out:
            self.page = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd=PROJECT
            )

    def make_token(self) -> None:
        """Make a token by which the page's interface is read."""
        argv = [sys.executable, "-m", "nanumpay_backupd.web.command", "--config", str(self.site.config)]
        words = ["token", "create", "soak", "--scope", "read"]
        done = subprocess.run([*argv, *words], capture_output=True, text=True, cwd=PROJECT, timeout=60, check=True)
        self.page_token = done.stdout.strip()

    # Files

    def secret(self, name: str, text: str) -> str:
        """Write a secret into a file of its own; returns how the host file refers to it."""
        path = self.site.folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return f'{{ file = "{path}" }}'

    def destinations(self) -> str:
        """Return the tables of the destinations."""
        return f"""
            [destination.usb]
            type = "local"
            path = "{self.usb}"
            [destination.cloud]
            type = "s3"
            bucket = "{self.s3.bucket}"
            endpoint_url = "{self.s3.endpoint}"
            path_style = true
            access_key_id = "{ACCESS_KEY}"
            secret_access_key = {self.secret("s3-secret", SECRET_KEY)}
            timeout = "10s"
            [destination.office]
            type = "ftp"
            host = "127.0.0.1"
            port = {self.ftp.port}
            username = "{self.ftp.user}"
            password = {self.secret("ftp-secret", PASSWORD)}
            path = "{self.ftp.base}/backup"
            timeout = "10s"
            [destination.nas]
            type = "sftp"
            host = "127.0.0.1"
            port = {self.ssh.port}
            username = "backup"
            private_key = {self.secret("ssh-key", self.ssh.key("plain").reveal())}
            host_key = "{self.ssh.fingerprint}"
            path = "{self.ssh.base}/backup"
            timeout = "10s"
        """

    def write_host_files(self) -> None:
        """Write the daemon's host file, and that of a machine which has nothing but the copies."""
        everywhere = f"destinations = {list(PLACES)}".replace("'", '"')
        phrase = self.secret("phrase", _PASSPHRASE)
        retention = "[job.retention]\ncount = 3\ndays = 2\n"
        tables = f"""
            [retry]
            attempts = 20
            delay = "5s"
            run_attempts = 3
            run_delay = "20s"
            [limits]
            stall = "90s"
            upload = "5m"
            run = "10m"
            [monitor]
            shrink_factor = 0
            grow_factor = 0
            [metrics]
            textfile = "{self.site.folder}/backupd.prom"
            [notify]
            max_per_hour = 1000
            [channel.ops]
            address = "{self.web.url.replace("http://", "json://")}/ops"
            severity = "info"
            [web]
            listen = "127.0.0.1:{self.page_port}"
            state = "{self.site.folder}/web"
            [nanumpay]
            {everywhere}
            pitr = "60s"
            verify = "7-59/20 * * * *"
            drill = "*/15 * * * *"
            read_back_unproven = true
            [[job]]
            name = "sealed"
            type = "mongodb"
            database = "{DATABASE}"
            destinations = ["cloud", "nas"]
            schedule = "*/6 * * * *"
            [job.encryption]
            method = "openpgp"
            passphrase = {phrase}
            scope = "all"
            decrypt_with = [{phrase}]
            {retention}
            [[job]]
            name = "cache"
            type = "redis"
            url = {self.secret("redis-url", self.redis.settings().url.reveal())}
            destinations = ["office", "cloud"]
            schedule = "*/3 * * * *"
            {retention}
            [[job]]
            name = "tree"
            type = "files"
            path = "{self.tree}"
            destinations = ["usb", "nas"]
            schedule = "1-59/8 * * * *"
            incremental = "*/2 * * * *"
            {retention}
            {self.destinations()}
        """
        tools = f'[tools]\nredis_server = "{find_redis()}"\n'
        self.site.write_config(tools + tables)
        spare = self.site.folder / "spare"
        self.bare.touch(mode=0o600)
        self.bare.write_text(
            f"[mongodb]\nuri = '{self.scratch.uri_for(DATABASE)}'\n[paths]\nbackups = '{spare}/backups'\n"
            f"state = '{spare}/state'\nsocket = '{spare}/socket'\n{tools}{self.destinations()}",
            encoding="utf-8",
        )


def fill_tree(tree: Path, dice: random.Random) -> None:
    """Make a tree of some MB."""
    for at in range(60):
        folder = tree / f"folder{at % 6}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{at}").write_bytes(dice.randbytes(dice.randrange(20000)))


@contextlib.contextmanager
def open_house(diary: Diary, seed: int) -> Iterator[House]:
    """Start everything but the daemon; ends and removes it all at the end of the block."""
    dice = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(small_disk(folder / "backups", BACKUPS_DISK))
        stack.enter_context(small_disk(folder / "state", STATE_DISK))
        os.chmod(folder / "state", 0o700)
        mongod = stack.enter_context(start_mongod(folder / "mongod", replica_set=True))
        scratch = stack.enter_context(start_mongod(folder / "scratch", replica_set=True))
        site = Site(folder, mongod, DATABASE)
        stack.callback(site.notify.close)
        house = House(site, diary, mongod, scratch)
        house.web.start()
        stack.callback(house.web.stop)
        house.s3 = stack.enter_context(start_s3(folder / "s3"))
        (folder / "ftp").mkdir()
        house.ftp = stack.enter_context(start_proftpd(folder / "ftp" / "root", folder / "ftp"))
        house.ssh = stack.enter_context(start_sshd(folder / "ssh"))
        house.redis = stack.enter_context(start_redis(folder / "redis", appendonly="yes", appendfsync="always"))
        house.other_redis = stack.enter_context(start_redis(folder / "redis2"))
        fill_tree(house.tree, dice)
        for at in range(100):
            house.redis.ask("SET", f"key{at}", dice.randbytes(300).hex())
        fill(mongod, DATABASE, house.book, dice, 400)
        house.write_host_files()
        try:
            yield house
        finally:
            _end(house)


def _end(house: House) -> None:
    house.closing.set()
    for process in (house.page, house.site.process):
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not _left(house), "the end of what belongs to the daemon", 20)


def _left(house: House) -> list[int]:
    return [pid for pid, command in house.site.processes().items() if "nanumpay_backupd" in command]


def describe(house: House) -> dict[str, Any]:
    """Return what a report says of the house."""
    return {"jobs": JOBS, "places": PLACES, "backups_disk": BACKUPS_DISK, "state_disk": STATE_DISK}
