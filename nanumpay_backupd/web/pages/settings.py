"""Settings: the application's own form for its backups, saved field by field; what they mean is shown before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import BackupdError, ConfigError, RefusedError
from nanumpay_backupd.settings.document import FIELDS
from nanumpay_backupd.settings.kinds import Flag, Whole
from nanumpay_backupd.web import saving
from nanumpay_backupd.web.answers import go, page, status_of
from nanumpay_backupd.web.visit import fields, site_of, visit_of

__all__ = ["save", "show"]

_KINDS: Final = {field.path: field.kind for field in FIELDS}
_CLEAR: Final = "clear:"


async def show(request: Request) -> Response:
    """Answer with the form, as things are."""
    return await _form(request, saved=request.query_params.get("saved") == "1")


async def save(request: Request) -> Response:
    """Save the form; where somebody else has saved meanwhile, show what they changed."""
    site, visit, form = site_of(request), visit_of(request), await fields(request)
    wanted = read_form(form)
    body = {"backup": saving.nested(wanted)}
    try:
        await saving.save(site, visit, body, form.get("revision") or None)
    except saving.Changed as error:
        return await _form(request, error, wanted, differing=error.fields)
    except (ConfigError, RefusedError) as error:
        return await _form(request, error, wanted)
    return go(request, "/settings?saved=1")


async def _form(
    request: Request,
    error: BackupdError | None = None,
    wanted: Mapping[str, Any] | None = None,
    *,
    differing: Mapping[str, tuple[Any, Any]] | None = None,
    saved: bool = False,
) -> Response:
    site = site_of(request)
    known = await saving.load(site)
    values = {path: "" if path in saving.SECRETS else value for path, value in known.values.items()}
    values |= {path: value for path, value in (wanted or {}).items() if path not in saving.SECRETS}
    status = await site.link.status()
    preview = await site.link.ask("PreviewSettings", {"application": saving.nested(known.values | dict(wanted or {}))})
    return page(
        request,
        "settings.html",
        status_of(error) if error is not None else 200,
        here="settings",
        status_reply=status,
        state=status["settings"],
        values=values,
        has={path: bool(known.values[path]) for path in saving.SECRETS},
        revision=known.revision,
        preview=preview,
        problem=error,
        differing={
            path: ("***", "***") if path in saving.SECRETS else pair for path, pair in (differing or {}).items()
        },
        saved=saved,
    )


def read_form(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of the form as the application stores them; a secret that was left empty does not come.

    What is no number stays a text: the daemon's own check says what is wrong with it.
    """
    found: dict[str, Any] = {}
    for path, kind in _KINDS.items():
        text = form.get(path, "")
        if isinstance(kind, Flag):
            found[path] = text == "1"
        elif path in saving.SECRETS:
            if text or form.get(f"{_CLEAR}{path}") == "1":
                found[path] = text
        elif path not in form:
            continue
        elif isinstance(kind, Whole):
            found[path] = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text
        else:
            found[path] = text.strip()
    return found
