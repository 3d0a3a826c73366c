"""The description of the application's interface (OpenAPI 3.1), as it is served. Tests hold the routes against it."""

from __future__ import annotations

from typing import Any, Final

from nanumpay_backupd import __version__
from nanumpay_backupd.web.people import DOWNLOAD, READ, RUN, SETTINGS

__all__ = ["describe"]

_TEXT: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer"}
_FLAG: Final = {"type": "boolean"}
_MAYBE: Final = {"type": ["string", "null"]}
_MOMENT: Final = {"type": "string", "format": "date-time"}


def _object(properties: dict[str, Any], required: tuple[str, ...] = (), *, closed: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        found["required"] = list(required)
    if closed:
        found["additionalProperties"] = False
    return found


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_ENTRY: Final = _object(
    {
        "name": _TEXT,
        "size": _WHOLE,
        "createdAt": _MOMENT,
        "type": _TEXT,
        "id": _TEXT,
        "job": _TEXT,
        "state": _TEXT,
        "copies": {"type": "array", "items": _TEXT},
    },
    ("name", "size", "createdAt", "type"),
)
_S3: Final = _object(
    dict.fromkeys(("region", "bucket", "accessKeyId", "secretAccessKey", "prefix"), _TEXT), closed=True
)
_FTP: Final = _object(
    {
        **dict.fromkeys(("host", "username", "password", "remotePath"), _TEXT),
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "secure": _FLAG,
    },
    closed=True,
)
_BACKUP: Final = _object(
    {
        "enabled": _FLAG,
        "frequency": {"enum": ["daily", "weekly", "monthly"]},
        "time": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
        "dayOfWeek": {"type": "integer", "minimum": 0, "maximum": 6},
        "dayOfMonth": {"type": "integer", "minimum": 1, "maximum": 31},
        "retention": _object(
            {
                "count": {"type": "integer", "minimum": 1, "maximum": 365},
                "days": {"type": "integer", "minimum": 1, "maximum": 365},
                "compress": _FLAG,
            },
            closed=True,
        ),
        "storage": _object({"type": {"enum": ["s3", "ftp", "local", "none"]}, "s3": _S3, "ftp": _FTP}, closed=True),
    },
    closed=True,
)
_DRAFT: Final = _object({"maintenanceMode": {}, "backup": {"type": "object"}})
"""Settings that somebody is still typing: what is wrong with them is the answer."""
_SCHEMAS: Final = {
    "Fault": _object(
        {"success": {"const": False}, "message": _TEXT, "code": _TEXT, "hint": _TEXT, "retryable": _FLAG},
        ("success", "message", "code"),
    ),
    "Order": _object(
        {
            "job": _TEXT,
            "kind": {"enum": ["full", "incremental", "differential"]},
            "collection": _TEXT,
            "force": _FLAG,
            "compress": _FLAG,
            "only_to": {"type": "array", "items": _TEXT},
            "holds": {"enum": ["database", "files"]},
        },
        closed=True,
    ),
    "Entry": _ENTRY,
    "Backup": _BACKUP,
    "Settings": _object({"maintenanceMode": _FLAG, "backup": _ref("Backup")}, closed=True),
    "KnownSettings": _object(
        {"maintenanceMode": _FLAG, "backup": _ref("Backup"), "revision": _TEXT}, ("backup", "revision")
    ),
}
_DESCRIPTION: Final = (
    "Send a token (`backupctl token create`) as `Authorization: Bearer …`. A browser's session works as well; then "
    "each request that changes something needs the header `X-CSRF-Token`."
)


def describe(base: str) -> dict[str, Any]:
    """Return the document; ``base`` is the path at which the page is offered."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "nanumpay-backupd", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": base or "/"}],
        "security": [{"token": []}],
        "paths": _paths(),
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> dict[str, Any]:
    admin = "/api/admin/backup"
    run = _parameter("run", "path", _TEXT, "A run's id.")
    limit = _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 1000}, "How many, newest first.")
    return {
        f"{admin}/status": {"get": _way("How things stand.", READ, _object({"health": _TEXT}, ("health",)))},
        f"{admin}/run-now": {
            "post": _way(
                "Begin a backup; answers at once.",
                RUN,
                _object({"success": _FLAG, "message": _TEXT, "run": _TEXT, "job": _TEXT}, ("success", "run")),
                body="Order",
                status="202",
            )
        },
        f"{admin}/execute": {
            "post": _way(
                "Make a backup; answers when it has ended, with 500 where it failed.",
                RUN,
                _object(
                    {"success": _FLAG, "message": _TEXT, "run": _TEXT, "outcome": _MAYBE, "file": _MAYBE}, ("success",)
                ),
                body="Order",
            )
        },
        f"{admin}/cancel": {
            "post": _way(
                "Stop a run.", RUN, _object({"success": _FLAG, "run": _TEXT}), body=_object({"run": _TEXT}, closed=True)
            )
        },
        f"{admin}/runs": {
            "get": _way(
                "The runs.",
                READ,
                _object({"runs": {"type": "array"}}, ("runs",)),
                parameters=[limit, _parameter("job", "query", _TEXT, "Only of this job.")],
            )
        },
        f"{admin}/runs/{{run}}": {
            "get": _way("One run.", READ, _object({"run": {"type": "object"}}), parameters=[run])
        },
        f"{admin}/events": {
            "get": {
                **_way(
                    "What happens, as server-sent events.",
                    READ,
                    {},
                    parameters=[_parameter("run", "query", _TEXT, "Only of this run.")],
                ),
                "responses": {"200": {"description": "A stream.", "content": {"text/event-stream": {}}}, **_FAULTS},
            }
        },
        f"{admin}/download": {
            "get": {
                **_way("Take a backup away; understands Range.", DOWNLOAD, {}, parameters=_DOWNLOAD),
                "responses": {
                    "200": {"description": "The file.", "content": {"application/octet-stream": {}}},
                    "206": {"description": "A part of it.", "content": {"application/octet-stream": {}}},
                    "416": {"description": "There is no such part."},
                    **_FAULTS,
                },
            }
        },
        "/api/admin/backups": {
            "get": _way(
                "The backups, grouped by what they save.",
                READ,
                {"type": "object", "additionalProperties": {"type": "array", "items": _ref("Entry")}},
                parameters=[
                    _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 10000}, "How many.")
                ],
            )
        },
        "/api/admin/settings/system": {
            "get": _way("The settings; secrets are `***`.", READ, _ref("KnownSettings")),
            "put": _way(
                "Save settings, field by field.",
                SETTINGS,
                _ref("KnownSettings"),
                body="Settings",
                parameters=[
                    _parameter("If-Match", "header", _TEXT, "Only if the settings are still of this revision.")
                ],
            ),
        },
        "/api/admin/settings/preview": {
            "post": _way(
                "What settings would mean.",
                SETTINGS,
                _object({"runs": {"type": "array", "items": _MOMENT}}),
                body=_DRAFT,
            )
        },
        "/api/admin/settings/test": {
            "post": _way(
                "Try the destination of settings.", SETTINGS, _object({"checks": {"type": "array"}}), body=_DRAFT
            )
        },
    }


def _parameter(name: str, place: str, schema: dict[str, Any], told: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": told}


_DOWNLOAD: Final = [
    {
        "name": "file",
        "in": "query",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": "The file's name.",
    },
    _parameter("source", "query", _TEXT, "The destination whose copy is wanted."),
    _parameter("Range", "header", _TEXT, "Which part: bytes=FIRST-LAST."),
]
_FAULTS: Final = {
    status: {"description": told, "content": {"application/json": {"schema": _ref("Fault")}}}
    for status, told in (
        ("400", "The request cannot be understood."),
        ("401", "Who asks is not known."),
        ("403", "Who asks may not do that."),
        ("404", "There is no such thing."),
        ("409", "Not now, or not so."),
        ("413", "The request is too large."),
        ("422", "The settings cannot be used."),
        ("500", "It failed."),
        ("503", "The daemon or the database does not answer."),
    )
}


def _way(
    told: str,
    right: str,
    answer: dict[str, Any],
    *,
    body: str | dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    status: str = "200",
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": told,
        "description": f"Takes the scope `{right}`.",
        "responses": {status: {"description": "Done.", "content": {"application/json": {"schema": answer}}}, **_FAULTS},
    }
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        schema = _ref(body) if isinstance(body, str) else body
        found["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    return found
