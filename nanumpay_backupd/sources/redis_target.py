"""Where a backup of Redis goes back to: a running server, key by key, or a data folder from which one is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote

import msgspec

from nanumpay_backupd.errors import ConfigError, NotFoundError, RefusedError
from nanumpay_backupd.model import Manifest, Part
from nanumpay_backupd.settings.redisurl import MOST_DATABASES, parse_redis_url
from nanumpay_backupd.settings.sources import RedisMode, RedisSource, SourceSettings
from nanumpay_backupd.sources.base import Comparison, FolderTarget, Goal, Restoring, Wanted
from nanumpay_backupd.sources.redis_compare import compare_keys
from nanumpay_backupd.sources.redis_folder import FolderRestore, compare_files, look_at_folder
from nanumpay_backupd.sources.redis_keys import FUNCTIONS
from nanumpay_backupd.sources.redis_link import Link, Refusal, Server, look_at, read_version
from nanumpay_backupd.sources.redis_restore import KeysRestore, Plan
from nanumpay_backupd.sources.redis_snapshot import FILE
from nanumpay_backupd.system.secrets import Secret

__all__ = ["RedisTarget", "plan_of"]

EMPTY: Final = "empty"
REPLACE: Final = "replace"
SKIP: Final = "skip"
_LOOKED_THROUGH: Final = 1000


class RedisTarget(FolderTarget):
    """The server of the job, or with ``to`` a data folder on this host."""

    options: ClassVar[Mapping[str, str]] = {
        "database": "the number of the database into which the keys go",
        "prefix": "what is put before the name of every key",
        "existing": "empty (the default: the databases are emptied first), replace or skip a key that is there",
    }

    def __init__(self, settings: RedisSource) -> None:
        self._settings = settings
        self._kept: tuple[str, ...] = ()
        self._folder = Path()

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See `Target.look`."""
        plan = plan_of(manifest, wanted)
        if plan.folder:
            return look_at_folder(self._settings, manifest, plan, overwrite=wanted.overwrite)
        with Link(reached(self._settings, wanted)) as link:
            server = look_at(link)
            return self._look(link, server, manifest, plan, overwrite=wanted.overwrite)

    def _look(self, link: Link, server: Server, manifest: Manifest, plan: Plan, *, overwrite: bool) -> Goal:
        if read_version(server.version) < read_version(manifest.source.server_version):
            raise RefusedError(
                f"{server.name} at {link.place.address} is older than the backup, "
                f"which is of Redis {manifest.source.server_version}",
                hint="restore into a server of that version or a newer one",
                code="target-refused",
            )
        if server.topology == "replica":
            master = f"{server.info.get('master_host', '?')}:{server.info.get('master_port', '?')}"
            raise RefusedError(
                f"Redis at {link.place.address} is a replica: what were restored there would be lost again",
                hint=f"restore into its master, which has it as {master}: --to redis://{master}",
                code="target-refused",
            )
        numbers = sorted({plan.number(part) for part in plan.parts})
        with link.faults():
            _check_databases(link, numbers)
            there = [number for number in numbers if _is_there(link, server, number, plan.prefix)]
        held = sum(server.keys[number] for number in there)
        place = ", ".join(f"db{number}" for number in numbers)
        if there and not overwrite and plan.existing != SKIP:
            raise RefusedError(
                f"{', '.join(f'db{number}' for number in there)} at {link.place.address} "
                f"{'holds' if len(there) == 1 else 'hold'} {held:,} keys",
                hint="add --overwrite (the databases are emptied first; with --option existing=replace or skip the "
                "others stay), or restore beside them: --option prefix=back: or database=1",
                code="target-exists",
            )
        warnings = []
        if there and plan.existing == EMPTY:
            warnings.append(f"all keys of {place} are deleted first; existing = replace keeps those not in the backup")
        return Goal(
            server=f"{server.name} at {link.place.address}",
            place=place,
            parts=plan.parts,
            there=tuple(f"db{number}" for number in there),
            there_documents=held,
            warnings=tuple(warnings),
        )

    def safety(self, manifest: Manifest, wanted: Wanted) -> SourceSettings | None:
        """See `Target.safety`; in a data folder what is there is kept aside."""
        return None if plan_of(manifest, wanted).folder else reached(self._settings, wanted)

    def needs(self, name: str, wanted: Wanted) -> bool:
        """See `FolderTarget.needs`: what people read is for them only."""
        if name.endswith(".jsonl"):
            return False
        names = {pattern.partition("/")[0] for pattern in wanted.only}
        return not names or not name.startswith("db") or name.partition(".")[0] in names

    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:  # noqa: ARG002
        """See `FolderTarget.start`."""
        plan = plan_of(manifest, wanted)
        self._folder = folder
        if plan.folder:
            restore = FolderRestore(folder, manifest, plan)
            self._kept = restore.kept
            return restore
        return KeysRestore(reached(self._settings, wanted), files_of(folder, manifest, plan), plan)

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:  # noqa: ARG002
        """See `Target.compare`."""
        plan = plan_of(manifest, wanted)
        if plan.folder:
            return compare_files(Path(plan.folder), manifest)
        return compare_keys(reached(self._settings, wanted), files_of(self._folder, manifest, plan), plan)

    def undo(self) -> str:
        """See `Target.undo`."""
        return f"what was there is kept as {', '.join(self._kept)}" if self._kept else ""


def reached(settings: RedisSource, wanted: Wanted) -> RedisSource:
    """Return the settings of the server that is meant: the job's, or another one with the job's login.

    Raises RefusedError (``target-refused``), also where a password is said: it would be in a command line.
    """
    if "://" not in wanted.to:
        return settings
    try:
        place, own = parse_redis_url(wanted.to), parse_redis_url(settings.url.reveal())
    except ConfigError as error:
        raise _refused(error.message, error.hint) from None
    if place.password or place.username:
        raise _refused("the address of the other server has a login in it", "leave it out: that of the job is used")
    scheme, _, rest = wanted.to.partition("://")
    login = f"{quote(own.username, safe='')}:{quote(own.password.reveal(), safe='')}@" if own.password else ""
    return msgspec.structs.replace(settings, url=Secret(f"{scheme}://{login}{rest}"))


def files_of(folder: Path, manifest: Manifest, plan: Plan) -> list[Path]:
    """Return the files of an unpacked backup that hold the wanted keys; last that of the functions, if they are too."""
    if manifest.source.facts.get("mode") == RedisMode.SNAPSHOT:
        return [folder / FILE]
    files = [folder / part.file for part in plan.parts]
    functions = folder / FUNCTIONS
    return [*files, functions] if functions.exists() and not plan.patterns and not plan.narrow else files


def plan_of(manifest: Manifest, wanted: Wanted) -> Plan:
    """Say what is to go where; raises NotFoundError, RefusedError (``target-refused``)."""
    mode = manifest.source.facts.get("mode", "")
    options = wanted.options
    prefix, existing = options.get("prefix", ""), options.get("existing", "")
    if existing not in ("", EMPTY, REPLACE, SKIP):
        raise _refused(f"existing is {existing!r}", f"it is {EMPTY}, {REPLACE} or {SKIP}")
    folder = wanted.to if wanted.to.startswith("/") else ""
    elsewhere = bool(folder) or "://" in wanted.to
    number = _database(options.get("database") or ("" if elsewhere else wanted.to))
    if mode == RedisMode.AOF and not folder:
        raise _refused(
            "the AOF of Redis goes back into a data folder, from which the server is started",
            "stop Redis and name its folder: --to /var/lib/redis (docs/sources/redis.md)",
        )
    if mode == RedisMode.LOGICAL and folder:
        raise _refused("what was saved key by key goes into a running server", "leave out --to, or name a server there")
    if folder and (wanted.only or prefix or existing or number is not None):
        raise _refused(
            "into a data folder all goes back as it was",
            "without --to a part of it goes into the running server",
        )
    parts, patterns = _chosen(manifest, wanted.only)
    if number is not None and len(parts) > 1:
        raise _refused(
            f"{len(parts)} databases cannot go into the one", f"choose one of them: {', '.join(p.name for p in parts)}"
        )
    whole = not prefix and not patterns
    return Plan(
        parts=parts,
        patterns=patterns,
        folder=folder,
        database=number,
        prefix=prefix.encode(),
        existing=existing or (EMPTY if whole else REPLACE),
        narrow=len(parts) < len(manifest.source.parts) or number is not None or bool(prefix),
    )


def _database(text: str) -> int | None:
    text = text.removeprefix("db")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or int(text) >= MOST_DATABASES:
        raise _refused(f"{text!r} is no number of a database", "name a number, or a folder by its whole path")
    return int(text)


def _chosen(manifest: Manifest, only: tuple[str, ...]) -> tuple[tuple[Part, ...], dict[str, tuple[str, ...]]]:
    """Return the parts that are wanted, and of those of which not all is the patterns of names (``db0/user:*``)."""
    parts = {part.name: part for part in manifest.source.parts}
    if not only:
        return tuple(parts.values()), {}
    found: dict[str, list[str]] = {}
    for item in only:
        name, _, pattern = item.partition("/")
        if name not in parts:
            raise NotFoundError(f"{manifest.backup} holds no {name}", hint=f"it holds: {', '.join(sorted(parts))}")
        found.setdefault(name, []).append(pattern)
    patterns = {name: tuple(items) for name, items in found.items() if "" not in items}
    return tuple(part for name, part in parts.items() if name in found), patterns


def _check_databases(link: Link, numbers: list[int]) -> None:
    for number in numbers:
        try:
            link.ask("SELECT", number)
        except Refusal as refusal:
            if "out of range" not in refusal.text:
                raise
            raise _refused(
                f"Redis at {link.place.address} has no database {number}",
                "raise databases in its redis.conf, or name another database",
            ) from None


def _is_there(link: Link, server: Server, number: int, prefix: bytes) -> bool:
    """Tell whether a database holds keys that are in the way: with a prefix those that begin with it."""
    if not server.keys.get(number):
        return False
    if not prefix:
        return True
    link.ask("SELECT", number)
    cursor, pattern = b"0", b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^" else bytes([c]) for c in prefix) + b"*"
    while True:
        cursor, names = link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", _LOOKED_THROUGH)
        if names:
            return True
        if cursor == b"0":
            return False


def _refused(message: str, hint: str) -> RefusedError:
    return RefusedError(message, hint=hint, code="target-refused")
