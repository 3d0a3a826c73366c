"""Reads the host file strictly: what is unknown, mistyped or impossible is refused with its path, the reason, the fix.

Which keys there are is in options.py. What the environment may say (MONGODB_URI, BACKUP_PATH) is honoured here: the
file wins where it sets the key, the environment comes next, the default last.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

from nanumpay_backupd.blackout import covers_week, parse
from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.model import LOCAL
from nanumpay_backupd.settings.destinations import kms_conflicts
from nanumpay_backupd.settings.fleeting import named_for_host
from nanumpay_backupd.settings.grouping import check_groups
from nanumpay_backupd.settings.keeping import check_retention
from nanumpay_backupd.settings.kinds import AbsolutePath, MongoUri, Place
from nanumpay_backupd.settings.mongouri import uri_database
from nanumpay_backupd.settings.options import (
    CHANNEL,
    DESTINATIONS,
    GROUP,
    JOB,
    JOB_ENCRYPTION,
    JOB_LIMITS,
    JOB_RETRY,
    MONITOR,
    NAME,
    PLACE_MONITOR,
    RETENTION,
    SINGLE,
    TOP,
)
from nanumpay_backupd.settings.problems import Mismatch, Problems, nearest, show
from nanumpay_backupd.settings.schema import (
    APPLICATION_DESTINATION,
    APPLICATION_JOB,
    DATABASE_CHANNEL,
    Channel,
    Destination,
    EncryptionOptions,
    HostConfig,
    HostGroup,
    HostJob,
    Limits,
    LocalDestination,
    MongoConnection,
    MongoSource,
    MonitorOptions,
    Paths,
    PlaceMonitor,
    Retention,
    RetryPolicy,
    Source,
    WebOptions,
)
from nanumpay_backupd.settings.source_tables import DEFAULT_TYPE, SOURCES, keys_elsewhere
from nanumpay_backupd.settings.tables import Table
from nanumpay_backupd.system.secrets import Secret

__all__ = ["DEFAULT_HOST_FILE", "WebPart", "load_host_file", "load_web_part", "parse_host_file"]

DEFAULT_HOST_FILE: Final = Path("/etc/nanumpay/backupd.toml")
_LIMIT: Final = 1 << 20
_NESTED: Final = {"nanumpay": ("s3", "ftp", "retention", "monitor", "encryption", "retry", "limits")}
_OWN: Final = (APPLICATION_DESTINATION, LOCAL)
"""Places that need no table; how long to keep there, and what counts as well, may be said in one of that name."""
_ALL: Final = "all"
"""Every copy is encrypted, which is also so for jobs that do not say it."""
_SAID: Final = frozenset({"retention", "monitor"})
_WEB: Final = frozenset({"web", "mongodb", "paths", "timezone"})
_TOML_PLACE: Final = re.compile(r" \(at line (\d+), column (\d+)\)$")

Values = dict[str, Any]


class WebPart(NamedTuple):
    """What the web page needs of the host file."""

    web: WebOptions
    mongodb: MongoConnection
    paths: Paths
    timezone: str


def load_web_part(path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> WebPart:
    """Read what concerns the web page, and nothing else: it may not read the secrets of the other tables.

    As `load_host_file`; raises ConfigError about these tables only.
    """
    text, origin, world_readable = _text(path)
    raw = {key: value for key, value in _toml(text, origin).items() if key in _WEB}
    reader = _Reader(world_readable=world_readable)
    config = reader.read(raw, environ, origin)
    reader.problems.raise_if_any(code="config-invalid", prefix=f"{origin}: " if origin else "")
    return WebPart(config.web, config.mongodb, config.paths, config.timezone)


def load_host_file(path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> HostConfig:
    """Read and check the host file, resolving its secrets.

    Without ``path`` the default place is looked at, and nothing there means all defaults. Raises ConfigError that names
    every problem found; nothing is half loaded.
    """
    text, origin, world_readable = _text(path)
    return parse_host_file(text, origin, world_readable=world_readable, environ=environ)


def _text(path: Path | None) -> tuple[str, str, bool]:
    """Return a file's text, its name for messages, and whether everybody may read it."""
    file = path or DEFAULT_HOST_FILE
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(_LIMIT + 1)
    except FileNotFoundError:
        if path is None:
            return "", "", False
        raise ConfigError(f"{file} does not exist", hint="create it, or start without naming it") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", hint=f"look at: ls -l {file}") from None
    if mode & stat.S_IWOTH:
        raise ConfigError(f"{file} can be changed by every user of this host", hint=f"run: chmod o-w {file}")
    if len(data) > _LIMIT:
        raise ConfigError(f"{file} is larger than {_LIMIT >> 20} MiB", hint="is it the right file?")
    try:
        return data.decode("utf-8"), str(file), bool(mode & stat.S_IROTH)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: not UTF-8 text", hint="save the file as UTF-8") from None


def parse_host_file(
    text: str, origin: str, *, world_readable: bool = False, environ: Mapping[str, str] = os.environ
) -> HostConfig:
    """Check the text of a host file; ``origin`` is its name for messages. Raises ConfigError as `load_host_file`."""
    raw = _toml(text, origin)
    reader = _Reader(world_readable=world_readable)
    config = reader.read(raw, environ, origin)
    reader.problems.raise_if_any(code="config-invalid", prefix=f"{origin}: " if origin else "")
    return config


def _toml(text: str, origin: str) -> Values:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = _TOML_PLACE.search(message)
        # "at end of document" has no numbers; the last line is where to look.
        line = found[1] if found else str(text.count("\n") + 1)
        reason = _TOML_PLACE.sub("", message)
        raise ConfigError(
            f"{origin}:{line}: not valid TOML: {reason}",
            hint='look at that line: texts stand in quotes, tables in brackets (key = "value", [table])',
        ) from None


class _Reader:
    """One reading of one file: collects problems, so that all are told at once."""

    def __init__(self, *, world_readable: bool) -> None:
        self.problems = Problems()
        self._retentions: dict[str, Retention] = {}
        self._common: dict[str, Values] = {}
        self._monitors: dict[str, PlaceMonitor] = {}
        self._world_readable = world_readable

    def read(self, raw: Values, environ: Mapping[str, str], origin: str) -> HostConfig:
        """Return the configuration; it counts only if no problem was found."""
        raw = named_for_host(raw)
        top = self._values(TOP, self._without_tables(raw), "")
        tables: dict[str, Values] = {}
        for table in SINGLE:
            tables[table.path] = self._values(table, self._table(raw, table.path), table.path)
        mongodb = self._mongodb(tables["mongodb"], environ)
        paths = self._paths(tables["paths"], environ)
        for path in ("encryption", "nanumpay.encryption"):
            self._check_encryption(path, self._table(raw, path), tables[path], own=path != "encryption")
        for name in ("s3", "ftp", "encryption"):
            record = next(table.record for table in SINGLE if table.path == f"nanumpay.{name}")
            tables["nanumpay"][name] = record(**tables.pop(f"nanumpay.{name}"))
        tables["nanumpay"]["retention"] = self._retention(raw, "nanumpay.retention")
        self._common = {name: tables[name] for name in ("retry", "limits", "encryption")}
        tables["nanumpay"] |= self._own(raw.get("nanumpay"), "nanumpay")
        self._check_blackout("limits", tables["limits"])
        tables["nanumpay"]["monitor"] = self._monitor(raw, "nanumpay.monitor")
        destinations = self._destinations(raw.get("destination", {}), paths)
        extras = tables["nanumpay"]["s3"]
        self._note("nanumpay.s3", kms_conflicts(extras.sse, extras.sse_kms_key_id))
        # Those that were refused count as known here: one mistake is told once.
        named = raw.get("destination")
        names = [name for name in named if name not in _OWN] if isinstance(named, dict) else []
        self._check_names("nanumpay.destinations", tables["nanumpay"].get("destinations", ()), names)
        jobs = self._jobs(raw.get("job", []), mongodb, names)
        groups = self._groups(raw.get("group", {}))
        check_groups(groups, _said_jobs(raw), jobs, tables, self.problems)
        channels = self._channels(raw.get("channel", {}), [APPLICATION_JOB, *(job.name for job in jobs)])
        records = {
            table.path: table.record(**tables[table.path])
            for table in SINGLE
            if "." not in table.path and table.path not in ("mongodb", "paths")
        }
        return HostConfig(
            origin=origin,
            mongodb=mongodb,
            paths=paths,
            destinations=destinations,
            retentions=self._retentions,
            monitors=self._monitors,
            jobs=jobs,
            groups=groups,
            channels=channels,
            **top,
            **records,
        )

    def _without_tables(self, raw: Values) -> Values:
        """Return the keys before the first table; a table nobody knows is a problem."""
        tables = {table.path for table in SINGLE if "." not in table.path} | {"destination", "job", "channel", "group"}
        rest = {key: value for key, value in raw.items() if key not in tables}
        options = {option.key for option in TOP.options}
        for key in [key for key in rest if isinstance(rest[key], (dict, list)) and key not in options]:
            close = nearest(key, tables)
            fix = f"did you mean [{close}]?" if close else f"known tables: {', '.join(sorted(tables))}"
            self.problems.add(key, "is not a table of this file", fix)
            del rest[key]
        return rest

    def _table(self, raw: Values, path: str, within: str = "") -> Values:
        """Return a table by its path, empty when it is not there; nested tables are not part of the outer one."""
        full = within + path
        found: object = raw
        for part in path.split("."):
            found = found.get(part, {}) if isinstance(found, dict) else {}
        if not isinstance(found, dict):
            self.problems.add(full, f"is {show(found)}, but must be a table", f"write {path} = {{ … }} or [{path}]")
            return {}
        return {key: value for key, value in found.items() if key not in _NESTED.get(path, ())}

    def _values(self, table: Table, raw: Values, path: str) -> Values:
        """Check the keys of one table; returns the record fields that the file sets."""
        options = {option.key: option for option in table.options}
        values: Values = {}
        for key, value in raw.items():
            full = f"{path}.{key}" if path else key
            if key not in options:
                self.problems.add(full, "is not a known key", _did_you_mean(key, path, options))
                continue
            try:
                place = Place(full, world_readable=self._world_readable)
                values[options[key].target] = options[key].kind.parse(value, place)
            except Mismatch as mismatch:
                self.problems.add(full, mismatch.reason, mismatch.fix)
            except ConfigError as error:
                self.problems.add_error(error)
        for option in table.options:
            if option.required and option.key not in raw:
                self.problems.add(
                    f"{path}.{option.key}", "is missing", f"add for example: {option.key} = {option.example}"
                )
        return values

    def _mongodb(self, values: Values, environ: Mapping[str, str]) -> MongoConnection:
        if "uri" not in values and environ.get("MONGODB_URI"):
            try:
                values["uri"] = MongoUri().parse(environ["MONGODB_URI"].strip(), Place("MONGODB_URI"))
            except Mismatch as mismatch:
                self.problems.add("environment variable MONGODB_URI", mismatch.reason, mismatch.fix)
        connection = MongoConnection(**values)
        if "database" not in values and (named := _database(connection.uri)):
            connection = MongoConnection(**{**values, "database": named})
        return connection

    def _paths(self, values: Values, environ: Mapping[str, str]) -> Paths:
        if "backups" not in values and environ.get("BACKUP_PATH"):
            try:
                values["backups"] = AbsolutePath().parse(environ["BACKUP_PATH"].strip(), Place("BACKUP_PATH"))
            except Mismatch as mismatch:
                self.problems.add("environment variable BACKUP_PATH", mismatch.reason, mismatch.fix)
        return Paths(**values)

    def _destinations(self, raw: object, paths: Paths) -> tuple[Destination, ...]:
        if not isinstance(raw, dict):
            self.problems.add(
                "destination", f"is {show(raw)}, but must be a table", "write [destination.NAME] for each"
            )
            return ()
        found = (self._destination(name, value, paths) for name, value in raw.items())
        return tuple(destination for destination in found if destination is not None)

    def _destination(self, name: str, raw: object, paths: Paths) -> Destination | None:
        path = f"destination.{name}"
        if isinstance(raw, dict) and "retention" in raw:
            self._retentions[name] = self._retention(raw, "retention", f"{path}.")
        if isinstance(raw, dict) and "monitor" in raw:
            values = self._values(PLACE_MONITOR, self._table(raw, "monitor", f"{path}."), f"{path}.monitor")
            self._monitors[name] = PlaceMonitor(**values)
        if name in _OWN and isinstance(raw, dict) and raw and raw.keys() <= _SAID:
            return None
        fix = f"choose another name; [{path}.retention] and [{path}.monitor] are all that can be said of that place"
        if not self._is_named_table(raw, path, name, _OWN, fix):
            return None
        kind = raw.get("type")
        if not isinstance(kind, str) or kind not in DESTINATIONS:
            reason = "is missing" if kind is None else f"is {show(kind)}, but must be one of {', '.join(DESTINATIONS)}"
            kinds = ", ".join(f'"{each}"' for each in DESTINATIONS)
            self.problems.add(f"{path}.type", reason, f"write type = one of {kinds}")
            return None
        table = DESTINATIONS[kind]
        values = self._values(table, {key: value for key, value in raw.items() if key not in ("type", *_SAID)}, path)
        try:
            destination: Destination = table.record(name=name, **values)
        except TypeError:  # a required field is missing, which was noted above
            return None
        # Of a key that was refused nothing more is to be told.
        self._note(path, (each for each in destination.conflicts() if each[0] in values or each[0] not in raw))
        self._check_local(path, destination, paths)
        return destination

    def _is_named_table(
        self, raw: object, path: str, name: str, taken: Iterable[str], fix: str = "choose another name"
    ) -> TypeGuard[Values]:
        """Tell whether ``[path]`` is a table at all; a name that it cannot have is noted."""
        if not isinstance(raw, dict):
            self.problems.add(path, f"is {show(raw)}, but must be a table", f"write [{path}] and its keys below it")
            return False
        if name in taken:
            self.problems.add(path, f"has the name {name}, which the daemon uses itself", fix)
        try:
            NAME.parse(name, Place(path))
        except Mismatch as mismatch:
            self.problems.add(path, f"has a name that {mismatch.reason}", mismatch.fix)
        return True

    def _channels(self, raw: object, jobs: list[str]) -> tuple[Channel, ...]:
        if not isinstance(raw, dict):
            self.problems.add("channel", f"is {show(raw)}, but must be a table", "write [channel.NAME] for each")
            return ()
        channels: list[Channel] = []
        for name, table in raw.items():
            path = f"channel.{name}"
            if not self._is_named_table(table, path, name, (DATABASE_CHANNEL,)):
                continue
            values = self._values(CHANNEL, table, path)
            self._check_jobs(path, values.get("jobs", ()), jobs)
            if values.get("severity") == "none" and not values.get("events"):
                fix = "name the events, or write another severity"
                self.problems.add(path, 'is told nothing: severity is "none" and there are no events', fix)
            if "address" in values:
                channels.append(Channel(name=name, **values))
        return tuple(channels)

    def _groups(self, raw: object) -> tuple[HostGroup, ...]:
        """Check the tables of the groups each by itself; what they say of jobs is checked in `grouping`."""
        if not isinstance(raw, dict):
            self.problems.add("group", f"is {show(raw)}, but must be a table", "write [group.NAME] for each")
            return ()
        groups: list[HostGroup] = []
        for name, table in raw.items():
            path = f"group.{name}"
            if not self._is_named_table(table, path, name, (APPLICATION_JOB,)):
                continue
            values = self._values(GROUP, table, path)
            if values.get("jobs") == ():
                self.problems.add(f"{path}.jobs", "names no job", "name those that belong together, or drop the group")
            groups.append(HostGroup(name=name, **values))
        return tuple(groups)

    def _check_jobs(self, path: str, wanted: Iterable[str], known: list[str]) -> None:
        for job in wanted:
            if job not in known:
                close = nearest(job, known)
                fix = f"did you mean {close}?" if close else f"the jobs are: {', '.join(known)}"
                self.problems.add(f"{path}.jobs", f"names {show(job)}, but there is no such job", fix)

    def _note(self, path: str, conflicts: Iterable[tuple[str, str, str]]) -> None:
        for key, reason, fix in conflicts:
            self.problems.add(f"{path}.{key}", reason, fix)

    def _check_local(self, path: str, destination: Destination, paths: Paths) -> None:
        if isinstance(destination, LocalDestination) and Path(destination.path).is_relative_to(paths.backups):
            self.problems.add(
                f"{path}.path",
                f"is {show(destination.path)}, which is in the backups folder itself",
                "choose a folder on another disk",
            )

    def _check_encryption(self, path: str, said: Values, values: Values, *, own: bool) -> None:
        """Note what does not fit together; ``own``: a job's table, which takes what it does not say from elsewhere.

        ``said`` is the table as it stands in the file: of a key that was refused nothing more is to be told.
        """
        options = EncryptionOptions(**values)
        keyed = [key for key in ("passphrase", "recipients") if values.get(key)]
        refused = any(key in said and key not in values for key in ("passphrase", "recipients"))
        if options.on and len(keyed) != 1 and not refused:
            reason = "has two ways to say who can decrypt" if keyed else "does not say who can decrypt"
            self.problems.add(path, reason, "set either passphrase or recipients")
        if not options.on and keyed:
            fix = 'write method = "openpgp" or "age" beside it' if options.method or own else 'write method = "openpgp"'
            self.problems.add(f"{path}.{keyed[0]}", "is set, but nothing is encrypted with it", fix)
        words = [word for word in options.recipients if not word.startswith("/")]
        if options.method == "openpgp" and words:
            self.problems.add(
                f"{path}.recipients",
                f"names {show(words[0])}, but must be the path of a public key file for OpenPGP",
                'write it with: gpg --armor --export KEY > /etc/nanumpay/backup-key.asc; or take method = "age"',
            )

    def _jobs(self, raw: object, mongodb: MongoConnection, destinations: list[str]) -> tuple[HostJob, ...]:
        if not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
            self.problems.add("job", "must be a list of tables", "write [[job]] (two brackets) for each job")
            return ()
        jobs: list[HostJob] = []
        for at, table in enumerate(raw):
            name = table.get("name")
            path = f"job.{name}" if isinstance(name, str) and name else f"job[{at + 1}]"
            if name == APPLICATION_JOB:
                self.problems.add(f"{path}.name", "is the application's own job", "choose another name")
            if name in [job.name for job in jobs]:
                self.problems.add(f"{path}.name", "is used twice", "give each job its own name")
            job = self._job(table, path, mongodb)
            if job is not None:
                self._check_names(f"{path}.destinations", job.destinations, destinations)
                jobs.append(job)
        return tuple(jobs)

    def _job(self, raw: Values, path: str, mongodb: MongoConnection) -> HostJob | None:
        nested = ("encryption", "retry", "limits", *_SAID)
        kind = raw.get("type", DEFAULT_TYPE)
        kind = kind.strip() if isinstance(kind, str) else ""
        said_here = {key: value for key, value in raw.items() if key not in nested}
        foreign = keys_elsewhere(kind)
        for key in [key for key in said_here if key in foreign]:
            del said_here[key]
            if kind in SOURCES:
                fix = f"take it out, or write type = {foreign[key]}"
                self.problems.add(f"{path}.{key}", f'is a key of type = {foreign[key]}, and this is "{kind}"', fix)
        own = SOURCES[kind].options if kind in SOURCES else ()
        values = self._values(JOB._replace(options=(*JOB.options, *own)), said_here, path)
        source = self._source(kind, {option.target: values.pop(option.target, None) for option in own}, path, mongodb)
        for key in ("incremental", "differential", "pitr"):
            if values.get(key) and source is not None and not source.increments:
                self.problems.add(
                    f"{path}.{key}", f"is not for a job that saves {kind}", "take it out: its backups are whole"
                )
        values["retention"] = self._retention(raw, "retention", f"{path}.")
        values["monitor"] = self._monitor(raw, "monitor", f"{path}.")
        said = self._table(raw, "encryption", f"{path}.")
        encryption = self._values(JOB_ENCRYPTION, said, f"{path}.encryption")
        self._check_encryption(f"{path}.encryption", said, encryption, own=True)
        values["encryption"] = EncryptionOptions(**encryption)
        if source is not None and source.sealed_only and not self._seals_all(values["encryption"]):
            self.problems.add(
                f"{path}.{source.sealed_only}",
                "would be readable by whoever has a copy: not every copy is encrypted",
                'write [encryption] with a method and scope = "all", or save it as it is',
            )
        if source is not None and source.kept_outside:
            self._check_kept_outside(values, path, kind)
        values |= self._own(raw, path)
        return HostJob(**{**values, "source": source}) if "name" in values and source is not None else None

    def _check_kept_outside(self, values: Values, path: str, kind: str) -> None:
        """Refuse what is about files that could be copied or encrypted here."""
        said = [key for key in ("destinations", "copies", "media", "offsite") if values.get(key)]
        for key in (*said, *(("encryption",) if values["encryption"].on else ())):
            self.problems.add(
                f"{path}.{key}",
                f"is not for a job that saves {kind}: its data is where that program stores it, the file here says so",
                "take it out; a second storage, and encryption, are matters of that program",
            )

    def _seals_all(self, own: EncryptionOptions) -> bool:
        """Tell whether every copy of a job is encrypted, by its own table or that of all."""
        common = EncryptionOptions(**self._common["encryption"])
        return (own if own.method else common).on and (own.scope or common.scope or _ALL) == _ALL

    def _source(self, kind: str, found: Values, path: str, mongodb: MongoConnection) -> Source | None:
        """Return what a job saves, None where its type or what it needs is not said, which was noted before."""
        said = {key: value for key, value in found.items() if value is not None}
        if kind == DEFAULT_TYPE:
            return MongoSource.of_job(
                said.get("uri", mongodb.uri),
                said.get("database", ""),
                said.get("read_preference", MongoConnection().read_preference),
                said.get("max_lag", MongoConnection().max_lag),
            )
        if kind not in SOURCES:
            return None
        try:
            source: Source = SOURCES[kind].record(**said)
        except TypeError:  # a required key is missing
            return None
        for key, reason, fix in source.conflicts():
            self.problems.add(f"{path}.{key}" if key else path, reason, fix)
        return source

    def _retention(self, raw: Values, path: str, within: str = "") -> Retention:
        """Check a table that says how long to keep; ``path`` and ``within`` as for `_table`."""
        full = within + path
        said = Retention(**self._values(RETENTION, self._table(raw, path, within), full))
        check_retention(said, full, self.problems)
        return said

    def _own(self, raw: object, path: str) -> Values:
        """Return how one job is tried again and limited, where its tables say so: what they leave out is as of all."""
        tables = raw if isinstance(raw, dict) else {}
        found: Values = {}
        for table, record in ((JOB_RETRY, RetryPolicy), (JOB_LIMITS, Limits)):
            name = table.path.rpartition(".")[2]
            if name not in tables:
                continue
            full = f"{path}.{name}"
            own = self._values(table, self._table(tables, name, f"{path}."), full)
            common = {key: value for key, value in self._common[name].items() if key in record.__struct_fields__}
            found[name] = record(**{**common, **own})
            if name == "limits":
                self._check_blackout(full, own)
        return found

    def _check_blackout(self, path: str, values: Values) -> None:
        if covers_week([parse(text) for text in values.get("blackout", ())]):
            self.problems.add(
                f"{path}.blackout",
                "leaves no time in the whole week: nothing would ever be backed up",
                "leave some hours free, or switch the job off with enabled = false",
            )

    def _monitor(self, raw: Values, path: str, within: str = "") -> MonitorOptions:
        """Check a table that says what counts as well; ``path`` and ``within`` as for `_table`."""
        return MonitorOptions(**self._values(MONITOR, self._table(raw, path, within), within + path))

    def _check_names(self, path: str, wanted: Iterable[str], known: list[str]) -> None:
        for name in wanted:
            if name not in known:
                close = nearest(name, known)
                fix = f"did you mean {close}?" if close else f"add a table [destination.{name}]"
                self.problems.add(path, f"names {show(name)}, but there is no [destination.{name}]", fix)


def _said_jobs(raw: Values) -> list[str]:
    """Return the names of the jobs that the file has, also of those that were refused: one mistake is told once."""
    tables = raw.get("job", [])
    named = [table.get("name") for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    return [name for name in named if isinstance(name, str)]


def _database(uri: Secret) -> str:
    return uri_database(uri.reveal())


def _did_you_mean(key: str, path: str, options: Iterable[str]) -> str:
    """Say which key was probably meant: one of the same table, or the same word in another."""
    close = nearest(key, options)
    if close:
        return f"did you mean {path}.{close}?" if path else f"did you mean {close}?"
    for table in (TOP, *SINGLE):
        if key in [option.key for option in table.options]:
            place = f"under [{table.path}]" if table.path else "at the top, before the first [table]"
            return f"{key} belongs {place}"
    return f"known keys here: {', '.join(sorted(options))}"
