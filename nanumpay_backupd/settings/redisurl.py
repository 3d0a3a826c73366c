"""Pure: where a Redis server is, as its address says it, and the kinds of value that only a Redis job has."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.settings.kinds import Kind, Place, SecretValue
from nanumpay_backupd.settings.problems import Mismatch, show
from nanumpay_backupd.system.secrets import Secret, stands_in

__all__ = ["MOST_DATABASES", "Databases", "RedisPlace", "RedisUrl", "parse_redis_url"]

MOST_DATABASES: Final = 1 << 16
_PORT: Final = 6379
_HINT: Final = "it looks like redis://user:password@host:6379, rediss://… (TLS) or unix:///run/redis/redis.sock"


class RedisPlace(msgspec.Struct, frozen=True):
    """Where a server listens and who asks. ``socket`` empty: ``host`` and ``port``. ``database`` None: not said."""

    host: str = "localhost"
    port: int = _PORT
    socket: str = ""
    tls: bool = False
    username: str = ""
    password: Secret = Secret("")
    database: int | None = None

    @property
    def address(self) -> str:
        """Return it for people, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.socket or f"{host}:{self.port}"


def parse_redis_url(url: str) -> RedisPlace:
    """Read ``redis://``, ``rediss://`` or ``unix://``; raises ConfigError, which does not show it: it is a secret."""
    try:
        parts = urlsplit(url.strip())
        user, password = unquote(parts.username or ""), Secret(unquote(parts.password or ""))
        if parts.scheme == "unix":
            number = parse_qs(parts.query).get("db", [""])[-1]
            if not parts.path.startswith("/"):
                raise ValueError("names no socket")
            return RedisPlace(socket=unquote(parts.path), username=user, password=password, database=_number(number))
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("begins neither with redis://, rediss:// nor unix://")
        return RedisPlace(
            host=parts.hostname or "localhost",
            port=parts.port or _PORT,
            tls=parts.scheme == "rediss",
            username=user,
            password=password,
            database=_number(parts.path.strip("/")),
        )
    except ValueError as error:
        why = str(error) if str(error).startswith(("begins", "names")) else "is no address of a Redis server"
        raise ConfigError(f"the address {why}", hint=_HINT) from None


def _number(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or int(text) >= MOST_DATABASES:
        raise ValueError("names a database that is no number")
    return int(text)


class RedisUrl(SecretValue):
    """The address of a Redis server. Without a password in it, it is no secret."""

    expected = "an address of a Redis server (redis://…, rediss://… or unix://…), plain or as a secret"
    example = '"redis://localhost:6379"'

    def parse(self, value: object, place: Place) -> Secret:
        """Return the address."""
        secret = super().parse(value, place)
        if stands_in(secret):
            return secret
        try:
            parse_redis_url(secret.reveal())
        except ConfigError as error:
            raise Mismatch(f"is not usable: {error.message}", error.hint) from None
        return secret

    def is_confidential(self, value: str) -> bool:
        """Tell whether it carries a password."""
        return "@" in value

    def show(self, value: object) -> str:
        """Show it, if it has no password."""
        assert isinstance(value, Secret)
        return '"***"' if self.is_confidential(value.reveal()) else show(value.reveal())


class Databases(Kind):
    """Numbers of databases; one may stand without a list."""

    expected = "a number of a database or a list of them"
    example = "[0, 2]"

    def parse(self, value: object, place: Place) -> tuple[int, ...]:  # noqa: ARG002 - the contract of Kind
        """Return the numbers in their order, each once."""
        items = value if isinstance(value, list) else [value]
        found: set[int] = set()
        for item in items:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < MOST_DATABASES:
                raise self.mismatch(value)
            found.add(item)
        if not found:
            raise self.mismatch(value)
        return tuple(sorted(found))

    def show(self, value: object) -> str:
        """Show the list."""
        assert isinstance(value, tuple)
        return str(list(value))
