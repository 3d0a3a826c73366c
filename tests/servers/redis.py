"""Real Redis servers for tests, out of .tools: with a password, users, TLS, an AOF; and a dataset of all types.

They listen on 127.0.0.1 and a free port, keep their data in a folder of the test's, and die with the process that
started them. NANUMPAY_TEST_REDIS names another redis-server, such as an old one: what that cannot is left out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.redis_link import Link, Refusal, command, read_version
from nanumpay_backupd.system.process import die_with_parent
from nanumpay_backupd.system.secrets import Secret
from tests.servers.process import free_port

__all__ = [
    "FAR",
    "PASSWORD",
    "Redis",
    "content_by",
    "content_of",
    "fill_with_everything",
    "find_redis",
    "redis_version",
    "start_redis",
]

PASSWORD: Final = "geheim/백업:@%"
FAR: Final = 4102444800123
"""A time of expiry far ahead (2100), in Unix milliseconds."""
_START_SECONDS: Final = 20.0


def find_redis(name: str = "redis-server") -> str:
    """Return a program of Redis; raises FileNotFoundError saying how to get it."""
    named = os.environ.get("NANUMPAY_TEST_REDIS")
    path = Path(named).with_name(name) if named else Path(__file__).parents[2] / ".tools" / "bin" / name
    installed = None if named else shutil.which(name)
    if not path.is_file() and installed is None:
        raise FileNotFoundError(f"no {name} at {path}: make tools")
    return str(path) if path.is_file() else str(installed)


def redis_version() -> tuple[int, int]:
    """Return the version of redis-server."""
    said = subprocess.run([find_redis(), "--version"], capture_output=True, text=True, check=True).stdout
    return read_version(said.partition("v=")[2])


class Redis:
    """One redis-server. Every method blocks until what it promises is so."""

    def __init__(
        self, folder: Path, options: Mapping[str, str], *, password: str = PASSWORD, tls: bool = False
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = password
        self._tls = tls
        self._options = dict(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return ``host:port``."""
        return f"127.0.0.1:{self.port}"

    def settings(self, *, user: str = "", password: str | None = None, **more: Any) -> RedisSource:
        """Return the settings of a job that reaches it."""
        from urllib.parse import quote

        said = self.password if password is None else password
        login = f"{quote(user)}:{quote(said, safe='')}@" if said else ""
        scheme = "rediss" if self._tls else "redis"
        return RedisSource(
            url=Secret(f"{scheme}://{login}{self.address}"), redis_server=find_redis(), **{"timeout": 10.0, **more}
        )

    def link(self, database: int = 0, /, **more: Any) -> Link:
        """Return a connection; the caller closes it."""
        link = Link(self.settings(**more))
        link.ask("SELECT", database)
        return link

    def ask(self, *parts: bytes | str | int, database: int = 0) -> Any:
        """Send one command and return its answer."""
        with self.link(database) as link:
            return link.ask(*parts)

    def save(self) -> None:
        """Have it write its RDB file; where a child of its still ends, which sent one, that is waited for."""
        while b"rdb_bgsave_in_progress:1" in self.ask("INFO", "persistence"):
            time.sleep(0.02)
        self.ask("SAVE")

    def rewrite(self) -> None:
        """Have it rewrite its append-only files."""
        self.ask("BGREWRITEAOF")
        while b"aof_rewrite_in_progress:1" in self.ask("INFO", "persistence"):
            time.sleep(0.02)

    def children(self) -> list[int]:
        """Return its children: those that write or send its data."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(number) for number in found.read_text(encoding="ascii").split()]

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self._process is not None, "not running"
        return self._process.pid

    def start(self, *, ready: bool = True, **extra: str) -> None:
        """Start it and wait until it takes commands; ``extra`` are further options, with _ for -."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "repl-diskless-sync-delay": "0",
            **({"requirepass": self.password} if self.password else {}),
            **self._options,
            **{name.replace("_", "-"): value for name, value in extra.items()},
        }
        lines = [
            f'{name} "{value}"' if value == "" or " " in value else f"{name} {value}" for name, value in options.items()
        ]
        (self.folder / "redis.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_redis(), str(self.folder / "redis.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + _START_SECONDS
        while ready:
            with contextlib.suppress(BackupdError, Refusal, OSError, EOFError):
                self.ask("PING")
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server does not start:\n{self.said()}")
            time.sleep(0.02)

    def said(self) -> str:
        """Return the end of its log."""
        return (self.folder / "redis.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def stop(self) -> None:
        """Kill it and wait."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def start_redis(
    folder: Path, options: Mapping[str, str] | None = None, *, password: str = PASSWORD, **more: str
) -> Iterator[Redis]:
    """Run a server in ``folder`` until the block ends; ``options`` are its own, ``more`` too, with _ for -."""
    further = {name.replace("_", "-"): value for name, value in more.items()}
    server = Redis(folder, {**(options or {}), **further}, password=password)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def fill_with_everything(server: Redis) -> None:
    """Empty the server and give it keys of every type, packed in every way, in three databases."""
    long = "긴 값 " * 200
    with server.link() as link:
        link.ask("FLUSHALL")
        small: list[tuple[bytes | str | int, ...]] = [
            ("SET", "text", "안녕"),
            ("SET", "number", "12345"),
            ("SET", "negative", "-70000"),
            ("SET", "large number", "99999999999"),
            ("SET", b"\xff\x00binary", bytes(range(256))),
            ("SET", "compressed", "a" * 5000 + long),
            ("SET", "empty", ""),
            ("SET", "until 2100", "x"),
            ("PEXPIREAT", "until 2100", FAR),
            ("SET", "{odd} name * [?] \\ \r\n", "odd"),
            ("RPUSH", "list", *range(50), "끝", -5, 70000, 2**40),
            ("RPUSH", "list of large", "x" * 9000, long, "y" * 20000),
            ("RPUSH", "long list", *(f"item {at}" for at in range(3000))),
            ("SADD", "set of numbers", *range(-20, 400, 7)),
            ("SADD", "set", "하나", "둘", 3),
            ("SADD", "large set", *(f"member {at}" for at in range(1000))),
            ("HSET", "hash", "이름", "값", "n", 5, "f", "1.5"),
            ("HSET", "large hash", *(part for at in range(700) for part in (f"field {at}", f"value {at}"))),
            ("HSET", "hash of large", "field", long),
            ("HSET", b"binary hash", b"\xfe", b"\xff\x80"),
            ("ZADD", "zset", 1, "하나", "2.5", "b", "-inf", "least", "+inf", "most"),
            ("ZADD", "large zset", *(part for at in range(500) for part in (str(at / 7), f"member {at}"))),
            ("PFADD", "hyperloglog", *range(200)),
            ("SETBIT", "bits", 99999, 1),
            ("GEOADD", "places", "126.97", "37.56", "서울", "129.07", "35.17", "부산"),
            ("XADD", "stream", "1-1", "field", "첫"),
            ("XADD", "stream", "1-2", "field", "둘", "other", -5),
            ("XADD", "stream", "5-1", "field", long),
            ("XDEL", "stream", "1-2"),
            ("XGROUP", "CREATE", "stream", "readers", "0"),
            ("XREADGROUP", "GROUP", "readers", "어떤", "COUNT", 1, "STREAMS", "stream", ">"),
            ("XADD", "queue", "7-7", "job", "{}"),
            ("PEXPIREAT", "hash", FAR),
            ("PEXPIREAT", "stream", FAR + 1),
        ]
        rest: list[tuple[bytes | str | int, ...]] = [("SET", f"user:{at}", f"value {at}") for at in range(10)]
        rest += [("PEXPIREAT", f"user:{at}", FAR + at) for at in range(10)]
        ask = [*small, *rest, ("SELECT", 3), ("SET", "text", "in three"), ("SADD", "tags", "a", "b")]
        ask += [("SELECT", 15), ("SET", "last", "in fifteen"), ("PEXPIREAT", "last", FAR)]
        link.send(b"".join(command(*parts) for parts in ask))
        for parts in ask:
            answer = link.reply()
            assert not isinstance(answer, Refusal), f"{parts[:2]}: {answer}"


def content_of(server: Redis) -> dict[int, dict[bytes, Any]]:
    """Return all that a server holds, read by each type's own commands, with the times of expiry."""
    with server.link() as link:
        return content_by(link)


def content_by(link: Link) -> dict[int, dict[bytes, Any]]:
    """Return the same by a connection."""
    found: dict[int, dict[bytes, Any]] = {}
    for number in range(int(link.ask("CONFIG", "GET", "databases")[1])):
        link.ask("SELECT", number)
        names = link.ask("KEYS", "*")
        if names:
            found[number] = {
                name: (kind := link.ask("TYPE", name), _expiry(link, name), _value(link, name, kind))
                for name in sorted(names)
            }
    return found


def _expiry(link: Link, name: bytes) -> int:
    """Return when a key expires (Unix milliseconds, -1: never); of servers before 7.0 to the second."""
    try:
        return int(link.ask("PEXPIRETIME", name))
    except Refusal:
        left = link.ask("PTTL", name)
        return int(left if left < 0 else round(time.time() * 1000 + left, -3))


def _value(link: Link, name: bytes, kind: bytes) -> Any:
    if kind == b"string":
        return link.ask("GET", name)
    if kind == b"list":
        return link.ask("LRANGE", name, 0, -1)
    if kind == b"set":
        return sorted(link.ask("SMEMBERS", name))
    if kind == b"hash":
        flat = link.ask("HGETALL", name)
        return dict(zip(flat[::2], flat[1::2], strict=True))
    if kind == b"zset":
        return link.ask("ZRANGE", name, 0, -1, "WITHSCORES")
    groups = [dict(zip(one[::2], one[1::2], strict=True)) for one in link.ask("XINFO", "GROUPS", name)]
    pending = [(one[b"name"], link.ask("XPENDING", name, one[b"name"])) for one in groups]
    return link.ask("XRANGE", name, "-", "+"), groups, pending
