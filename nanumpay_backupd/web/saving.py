"""Saving the application's backup settings: single fields, only if nobody else has changed them meanwhile.

The application replaces its whole ``systemSettings``; this touches the fields that differ and nothing else, so that
what it keeps beside them stays. Secrets are never shown: one that comes back as ``***``, or does not
come, stays as it is. A password stays for the server that it was saved for, and for no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from nanumpay_backupd.errors import BackupdError, ConfigError, NotFoundError, RefusedError
from nanumpay_backupd.settings.document import FIELDS, parse_document
from nanumpay_backupd.settings.kinds import SecretText
from nanumpay_backupd.web.site import Site
from nanumpay_backupd.web.visit import Visit

__all__ = ["MASK", "SECRETS", "Changed", "Known", "changes", "completed", "flat", "load", "nested", "public", "save"]

MASK: Final = "***"
SECRETS: Final = frozenset(field.path for field in FIELDS if isinstance(field.kind, SecretText))
_PATHS: Final = {field.path: field.default for field in FIELDS}
_SENT_TO: Final = {"storage.ftp.password": ("storage.ftp.host", "storage.ftp.port")}
"""Secrets that a server is told as they are, and what names that server. (A key for S3 only signs, and is not sent.)"""
_TRIES: Final = 3
_BACKUP: Final = "systemSettings.backup"
_MAINTENANCE: Final = "systemSettings.maintenanceMode"
_ABSENT: Final = object()


class Known(NamedTuple):
    """The settings as they are: ``values`` by path with defaults filled in, secrets in the clear."""

    document: Any
    raw: Mapping[str, Any]
    values: dict[str, Any]
    maintenance: bool
    revision: str


class Changed(RefusedError):  # noqa: N818 - it is no error of anybody
    """Somebody else saved meanwhile; ``fields`` says what: by path the value now, and the one that was to be saved."""

    def __init__(self, fields: dict[str, tuple[Any, Any]]) -> None:
        super().__init__(
            f"somebody else has saved meanwhile: {', '.join(sorted(fields)) or 'other fields'}",
            hint="look at what they changed, and save again",
            code="settings-changed",
        )
        self.fields = fields


async def load(site: Site) -> Known:
    """Return the settings in force; raises NotFoundError (``settings-missing``) where no document has any."""
    found = await site.database(site.application.settings)
    if found is None:
        raise NotFoundError(
            "the application has no backup settings yet",
            hint="save them once in the application's own system settings",
            code="settings-missing",
        )
    document, system = found
    backup = system.get("backup")
    raw = backup if isinstance(backup, Mapping) else {}
    seen = {path: _at(raw, path) for path in _PATHS}
    values = {path: _PATHS[path] if value is _ABSENT or value is None else value for path, value in seen.items()}
    for path in SECRETS:
        values[path] = values[path] if isinstance(values[path], str) else ""
    maintenance = system.get("maintenanceMode") is True
    return Known(document, raw, values, maintenance, _revision(values, maintenance=maintenance))


def public(known: Known) -> dict[str, Any]:
    """Return the settings for people: a secret only shows whether there is one."""
    shown = {path: (MASK if value else "") if path in SECRETS else value for path, value in known.values.items()}
    return {"maintenanceMode": known.maintenance, "backup": nested(shown), "revision": known.revision}


async def completed(site: Site, body: Mapping[str, Any], *, sent: bool) -> dict[str, Any]:
    """Return settings as they would be if ``body`` were saved, secrets in the clear: for the daemon's eyes only.

    Raises RefusedError for what the application does not have; where secrets are ``sent`` to the servers that these
    settings name, ConfigError (``settings-invalid``) for another server without its password.
    """
    wanted = _without_masks(flat(body))
    try:
        known = await load(site)
    except NotFoundError:
        return nested(_PATHS | dict.fromkeys(SECRETS, "") | wanted)
    if sent:
        _keep_for_its_server(known, wanted)
    return nested(known.values | wanted)


async def save(site: Site, visit: Visit, body: Mapping[str, Any], revision: str | None) -> Known:
    """Save what ``body`` says, as the application's own request has it; returns the settings as they are then.

    ``revision`` is that of the settings that were shown, None: whatever they are now. Raises Changed, and ConfigError
    (``settings-invalid``) for what the daemon would refuse, and for another server without its password.
    """
    wanted = _without_masks(flat(body))
    maintenance = body.get("maintenanceMode")
    if not (maintenance is None or isinstance(maintenance, bool)):
        raise RefusedError("maintenanceMode must be true or false", code="bad-request")
    for _ in range(_TRIES):
        known = await load(site)
        if revision is not None and revision != known.revision:
            raise Changed(
                {path: (known.values[path], value) for path, value in wanted.items() if known.values[path] != value}
            )
        after = changes(known, wanted)
        _keep_for_its_server(known, wanted)
        parse_document(nested(known.values | wanted))
        before = {f"{_BACKUP}.{path}": _seen(known.raw, path) for path in after}
        update = {f"{_BACKUP}.{path}": value for path, value in after.items()}
        if maintenance is not None and maintenance != known.maintenance:
            update[_MAINTENANCE] = maintenance
        if not update:
            return known
        if await site.database(site.application.change, known.document, before, update):
            who = visit.person.shown if visit.person is not None else "?"
            site.audit(who, visit.address, "settings", ", ".join(sorted(after)) or "maintenanceMode")
            site.link.stir()
            return await load(site)
        # Somebody was quicker. Who says what they saw is told; who does not, tries again on what there is now.
    raise BackupdError("the settings are being changed all the time", hint="try again", code="settings-changed")


def changes(known: Known, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are to be set: those that differ from what is there, or are not there at all."""
    return {
        path: value for path, value in wanted.items() if _at(known.raw, path) is _ABSENT or known.values[path] != value
    }


def flat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request by path; raises RefusedError for one that the application does not have."""
    backup = body.get("backup", {})
    extra = set(body) - {"backup", "maintenanceMode", "revision"}
    if extra or not isinstance(backup, Mapping):
        raise RefusedError(
            f"not known here: {', '.join(sorted(extra))}" if extra else "backup must be an object",
            hint="send {maintenanceMode, backup}",
            code="bad-request",
        )
    found: dict[str, Any] = {}
    _flatten(backup, "", found)
    return found


def _flatten(table: Mapping[str, Any], above: str, found: dict[str, Any]) -> None:
    for name, value in table.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping) and path not in _PATHS:
            if not any(known.startswith(f"{path}.") for known in _PATHS):
                raise RefusedError(f"backup.{path} is not known", code="bad-request")
            _flatten(value, f"{path}.", found)
        elif path not in _PATHS:
            raise RefusedError(f"backup.{path} is not known", code="bad-request")
        elif isinstance(value, (Mapping, list)):
            raise RefusedError(f"backup.{path} must be a single value", code="bad-request")
        elif value is not None:
            found[path] = value


def _keep_for_its_server(known: Known, wanted: Mapping[str, Any]) -> None:
    """Refuse that what is stored for one server is sent to another one, that whoever changes settings may choose."""
    for secret, where in _SENT_TO.items():
        moved = [path for path in where if path in wanted and wanted[path] != known.values[path]]
        if moved and known.values[secret] and secret not in wanted:
            raise ConfigError(
                f"backup.{secret} was saved for another server: {', '.join(moved)} changed",
                hint="type the password for this server; the stored one is not sent to it",
                code="settings-invalid",
            )


def _without_masks(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in wanted.items() if not (path in SECRETS and value == MASK)}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields by path as the document that they are of."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        *above, name = path.split(".")
        table = found
        for part in above:
            table = table.setdefault(part, {})
        table[name] = value
    return found


def _at(raw: Mapping[str, Any], path: str) -> Any:
    found: Any = raw
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _seen(raw: Mapping[str, Any], path: str) -> Any:
    """Return the condition that a field is still as it was."""
    value = _at(raw, path)
    return {"$exists": False} if value is _ABSENT else {"$eq": value}


def _revision(values: Mapping[str, Any], *, maintenance: bool) -> str:
    """Name a state of the settings; the secrets are in it, but cannot be got out of it."""
    text = json.dumps([dict(values), maintenance], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
