"""One connection to a Redis server: its protocol, login, TLS, and its faults as ours. Knows no backup.

Its own, because the password then is in no argument and no environment of any process, because an RDB file by
replication comes over the very connection that logged in, and because a million keys are read with two commands each.
The protocol is RESP2, which every version speaks.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from nanumpay_backupd.errors import BackupdError, ConfigError, SourceError
from nanumpay_backupd.settings.redisurl import RedisPlace, parse_redis_url
from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.system.secrets import redact

__all__ = ["OLDEST", "Link", "Refusal", "Server", "command", "fault_of", "look_at", "read_version"]

OLDEST: Final = (5, 0)
"""The oldest version that is backed up: since then RESTORE takes an absolute time of expiry."""
_CONNECT_SECONDS: Final = 5.0
_BUFFER: Final = 1 << 20
_LOADING_HINT: Final = "wait until it has loaded its data (redis-cli INFO persistence), then run again"
_KEYSPACE: Final = re.compile(r"keys=(\d+)")
_AUTH: Final = ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED")


class Refusal(Exception):  # noqa: N818 - the server's answer, which may be one that was expected
    """The server answered with an error; ``code`` is its first word, such as ``NOPERM``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.code = text.partition(" ")[0]


def command(*parts: bytes | str | int) -> bytes:
    """Return a command as it goes over the wire."""
    packed = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"*%d\r\n%b" % (len(packed), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in packed]))


class Link:
    """A connection, logged in. Not for several threads at once; `close` may be called from any, and ends a read.

    Raises SourceError: ``source-unreachable`` where nobody answers, ``source-auth`` where the login is refused.
    """

    def __init__(self, settings: RedisSource) -> None:
        self.place = parse_redis_url(settings.url.reveal())
        self._timeout = settings.timeout
        self._closed = False
        with self.faults(), _handshake(self.place):
            self.socket = _connect(self.place, settings)
        with self.faults():
            self.socket.settimeout(settings.timeout)
            self.file = io.BufferedReader(socket.SocketIO(self.socket, "r"), _BUFFER)
        try:
            self._log_in()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        """Turn what goes wrong within into a SourceError that names the server, without secrets."""
        try:
            yield
        except Refusal as refusal:
            raise fault_of(refusal, self.place) from None
        except TimeoutError:
            raise _unreachable(self.place, f"it says nothing for {self._timeout:.0f} s") from None
        except ssl.SSLCertVerificationError as error:
            raise _unreachable(
                self.place,
                f"its certificate is not accepted: {error.verify_message}",
                hint="name in ca_file who vouches for it, and the host as the certificate has it in url",
            ) from None
        except (OSError, EOFError, ValueError) as error:
            words = getattr(error, "strerror", None) or str(error) or "it closed the connection"
            raise _unreachable(self.place, redact(words)) from None

    def send(self, data: bytes) -> None:
        """Send commands; raises OSError."""
        self.socket.sendall(data)

    def reply(self) -> Any:
        """Return the next answer: bytes, int, list, None, or a Refusal (not raised); raises OSError, EOFError."""
        line = self.file.readline()
        if line[-2:] != b"\r\n":
            raise EOFError
        first = line[0]
        if first == 36:  # $
            size = int(line[1:])
            return None if size < 0 else self.exactly(size + 2)[:-2]
        if first == 58:  # :
            return int(line[1:])
        if first == 43:  # +
            return line[1:-2]
        if first == 45:  # -
            return Refusal(redact(line[1:-2].decode("utf-8", "replace")))
        if first == 42:  # *
            return [self.reply() for _ in range(int(line[1:]))] if line[1] != 45 else None
        raise ValueError("what answers there is no Redis server")

    def exactly(self, size: int) -> bytes:
        """Read so many bytes; raises OSError, EOFError."""
        data = self.file.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def ask(self, *parts: bytes | str | int) -> Any:
        """Send one command and return its answer; raises Refusal, OSError, EOFError."""
        self.send(command(*parts))
        answer = self.reply()
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def close(self) -> None:
        """Hang up; may be called at any time and twice."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.socket.close()

    def _log_in(self) -> None:
        password = self.place.password.reveal()
        if not password and not self.place.username:
            return
        with self.faults():
            try:
                self.ask("AUTH", *([self.place.username] if self.place.username else []), password)
            except Refusal as refusal:
                # A server without any password has words of its own for that.
                raise _refused(self.place, refusal.text) from None


def _connect(place: RedisPlace, settings: RedisSource) -> socket.socket:
    if place.socket:
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(_CONNECT_SECONDS)
        try:
            plain.connect(place.socket)
        except BaseException:
            plain.close()
            raise
        return plain
    plain = socket.create_connection((place.host, place.port), timeout=_CONNECT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not place.tls:
        return plain
    try:
        return _context(settings).wrap_socket(plain, server_hostname=place.host)
    except TimeoutError:
        plain.close()
        raise _Mute from None
    except BaseException:
        plain.close()
        raise


def _context(settings: RedisSource) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificates for Redis cannot be read: {error.strerror or error}",
            hint="look at ca_file, cert_file and key_file of the job, and who may read them",
        ) from None
    return context


@contextlib.contextmanager
def _handshake(place: RedisPlace) -> Iterator[None]:
    """Say of a connection that stands, on which then no TLS is spoken, what that mostly is."""
    try:
        yield
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLError, _Mute, ConnectionResetError) as error:
        if not place.tls:
            raise
        why = getattr(error, "reason", None) or "it says nothing"
        raise _unreachable(
            place,
            f"no TLS could be agreed on ({why})",
            hint="does it speak TLS on this port (tls-port in redis.conf)? if not, the url begins with redis://",
        ) from None


class _Mute(Exception):  # noqa: N818 - becomes a fault
    """Nothing came in answer to the beginning of TLS."""


def fault_of(refusal: Refusal, place: RedisPlace) -> BackupdError:
    """Return what to tell of a refusal."""
    if refusal.code in _AUTH or "unauthenticated" in refusal.text.lower():
        return _refused(place, refusal.text)
    if refusal.code == "LOADING":
        return SourceError(
            f"Redis at {place.address} is still loading its data", hint=_LOADING_HINT, code="source-loading"
        )
    if "BGSAVE failed" in refusal.text:
        return SourceError(
            f"Redis at {place.address} could not begin to send its data: {refusal.text}",
            hint="mostly it got no memory for a child process: set vm.overcommit_memory = 1; its log tells",
        )
    return SourceError(
        f"Redis at {place.address} refused: {refusal.text}",
        hint="its log tells more: journalctl -u redis-server, or its logfile",
    )


def _refused(place: RedisPlace, text: str) -> SourceError:
    return SourceError(
        f"Redis at {place.address} refused: {text}",
        hint="check user and password in url; the rights that it takes are in docs/sources/redis.md",
        code="source-auth",
        retryable=False,
    )


def _unreachable(place: RedisPlace, why: str, *, hint: str = "") -> SourceError:
    return SourceError(
        f"Redis at {place.address} cannot be reached: {why}",
        hint=hint or "check that it runs (systemctl status redis-server) and that url names it",
        code="source-unreachable",
    )


class Server:
    """What a server says of itself: ``INFO`` as a table, and the keys of each database."""

    def __init__(self, info: str) -> None:
        self.info = dict(line.split(":", 1) for line in info.splitlines() if ":" in line and not line.startswith("#"))
        self.version = self.info.get("redis_version", "")
        self.keys = {
            int(name[2:]): int(match[1])
            for name, value in self.info.items()
            if name[:2] == "db" and name[2:].isdecimal() and (match := _KEYSPACE.match(value))
        }

    @property
    def name(self) -> str:
        """Return product and version: Valkey tells Redis' version for what is made for that, and its own."""
        if "valkey_version" in self.info:
            return f"Valkey {self.info['valkey_version']}"
        return f"Redis {self.version}"

    @property
    def memory(self) -> int:
        """Return the bytes that its data take in its memory, with its own overhead."""
        return int(self.info.get("used_memory_dataset") or self.info.get("used_memory") or 0)

    @property
    def topology(self) -> str:
        """Return ``cluster``, ``replica`` or ``standalone``."""
        if self.info.get("cluster_enabled") == "1" or self.info.get("redis_mode") == "cluster":
            return "cluster"
        return "replica" if self.info.get("role") == "slave" else "standalone"


def read_version(text: str) -> tuple[int, int]:
    """Return the series of a version, such as (7, 0); (0, 0) for what is none."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match is not None else (0, 0)


def look_at(link: Link) -> Server:
    """Ask the server what it is; raises SourceError (``source-loading``, ``source-too-old``, ``source-auth``)."""
    with link.faults():
        server = Server(link.ask("INFO").decode("utf-8", "replace"))
    if server.info.get("loading") == "1" or server.info.get("async_loading") == "1":
        part = server.info.get("loading_loaded_perc", "")
        raise SourceError(
            f"Redis at {link.place.address} is still loading its data" + (f" ({part} %)" if part else ""),
            hint=_LOADING_HINT,
            code="source-loading",
        )
    if read_version(server.version) < OLDEST:
        raise SourceError(
            f"Redis at {link.place.address} is of version {server.version or 'unknown'}, which is too old",
            hint=f"Redis {OLDEST[0]}.{OLDEST[1]} or newer is needed",
            code="source-too-old",
            retryable=False,
        )
    return server
