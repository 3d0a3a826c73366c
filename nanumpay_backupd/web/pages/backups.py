"""Backups: which there are, filtered and sorted, page by page; one in detail; verify, pin, delete."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.web.answers import page
from nanumpay_backupd.web.pages.figures import begun, confirmed, ended
from nanumpay_backupd.web.visit import fields, site_of, visit_of

__all__ = ["delete", "files", "listing", "pin", "send", "show", "unpin", "verify"]

_PAGE: Final = 50
_ENTRIES: Final = 1000
"""What the daemon gives of a folder at once."""
_FILTERS: Final = ("job", "kind", "state", "destination", "copies", "text")
_SORTS: Final = ("created", "size", "documents", "job", "name")
_LEVELS: Final = ("checksum", "structure", "restore")
_THERE: Final = frozenset({"uploaded", "verified"})


async def listing(request: Request) -> Response:
    """Answer with one page of the backups that fit."""
    site, asked = site_of(request), request.query_params
    given = {name: asked[name][:200] for name in _FILTERS if asked.get(name)}
    sort = asked.get("sort", "created") if asked.get("sort") in _SORTS else "created"
    ascending = asked.get("order") == "up"
    slices, at = asked.get("slices") == "1", _page_number(asked.get("page", "1"))
    wanted = {**given, "sort": sort, "ascending": ascending, "slices": slices}
    status = await site.link.status()
    found = await site.link.ask("FindBackups", {**wanted, "skip": (at - 1) * _PAGE, "limit": _PAGE})

    def address(**changes: Any) -> str:
        """Return the address of this listing with something changed."""
        own: dict[str, Any] = {**given, "sort": sort, "order": "up" if ascending else "", "page": at}
        own |= {"slices": "1" if slices else ""} | changes
        return "?" + urlencode({key: value for key, value in own.items() if value not in ("", None)})

    places = sorted({name for job in status["jobs"] for name in job["destinations"]})
    return page(
        request,
        "backups.html",
        here="backups",
        status_reply=status,
        found=found,
        given=given,
        filtered=bool(given),
        sort=sort,
        ascending=ascending,
        slices=slices,
        at=at,
        pages=max(1, -(-found["total"] // _PAGE)),
        address=address,
        jobs=[job["name"] for job in status["jobs"]],
        places=["local", *places],
        newest=_newest(status),
    )


async def show(request: Request) -> Response:
    """Answer with one backup."""
    site, name = site_of(request), request.path_params["backup"]
    status = await site.link.status()
    backup = (await site.link.ask("DescribeBackup", {"backup": name}))["backup"]
    copies = (await site.link.ask("ListCopies", {"backup": backup["id"]}))["copies"]
    chain = await _chain(request, backup)
    manifest = backup.get("manifest") or {}
    return page(
        request,
        "backup.html",
        here="backups",
        status_reply=status,
        backup=backup,
        copies=copies,
        there=[copy for copy in copies if copy["state"] in _THERE],
        chain=chain,
        manifest=manifest,
        collections=manifest.get("source", {}).get("collections", []),
        newest=backup["id"] in _newest(status),
        lacking=_lacking(status, backup, copies),
        problem=request.query_params.get("problem", ""),
        levels=_LEVELS,
    )


async def _chain(request: Request, backup: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the slices that stand on a full, oldest first; of a slice nothing."""
    if backup["kind"] != "full" or not backup["end"]:
        return []
    wanted = {"job": backup["job"], "slices": True, "since": backup["created"], "ascending": True, "limit": 200}
    found = (await site_of(request).link.ask("FindBackups", wanted))["backups"]
    following = [one for one in found if one["id"] != backup["id"]]
    until = next((at for at, one in enumerate(following) if one["kind"] == "full"), len(following))
    return [one for one in following[:until] if one["kind"] in {"incremental", "differential"}]


async def files(request: Request) -> Response:
    """Answer with what a folder in a backup of files holds; the first time its archives are read."""
    site, name, asked = site_of(request), request.path_params["backup"], request.query_params
    status = await site.link.status()
    path, skip = asked.get("path", "")[:4000], (_page_number(asked.get("page", "1")) - 1) * _ENTRIES
    found = await site.link.ask("ListFiles", {"backup": name, "path": path or None, "skip": skip or None}, patient=True)
    parts = [part for part in path.split("/") if part]
    lead = "/" if path.startswith("/") else ""
    trail = [(part, lead + "/".join(parts[: at + 1])) for at, part in enumerate(parts)]
    return page(
        request,
        "files.html",
        here="backups",
        status_reply=status,
        backup=name,
        entries=found["entries"],
        more=found["more"],
        path=path,
        trail=trail,
        at=skip // _ENTRIES + 1,
    )


async def send(request: Request) -> Response:
    """Queue a backup for the destinations that do not have it."""
    name = request.path_params["backup"]
    await site_of(request).link.order("Send", {"backup": name})
    return ended(request, "send", name, f"/backups/{quote(name)}")


async def verify(request: Request) -> Response:
    """Begin to prove a backup's copies, and show that run."""
    form, name = await fields(request), request.path_params["backup"]
    level = form.get("level") if form.get("level") in _LEVELS else "checksum"
    order = {"backup": name, "level": level, "source": form.get("source") or None}
    return await begun(request, "Verify", order, f"verify {name}")


async def pin(request: Request) -> Response:
    """Keep a backup whatever retention says."""
    form, name = await fields(request), request.path_params["backup"]
    reason = form.get("reason", "").strip()[:200] or None
    person = visit_of(request).person
    who = f"{person.name}: " if person is not None else ""
    await site_of(request).link.order("Pin", {"backup": name, "reason": f"{who}{reason or ''}".rstrip(": ")})
    return ended(request, "pin", name, f"/backups/{quote(name)}")


async def unpin(request: Request) -> Response:
    """Leave a backup to retention again."""
    form, name = await fields(request), request.path_params["backup"]
    await confirmed(request, form, "unpin", name)
    await site_of(request).link.order("Unpin", {"backup": name})
    return ended(request, "unpin", name, f"/backups/{quote(name)}")


async def delete(request: Request) -> Response:
    """Delete a backup, or one copy of it: its name has to be typed, and the password."""
    form, name = await fields(request), request.path_params["backup"]
    if form.get("typed", "").strip() != name:
        raise RefusedError("what was typed is not the name of the backup", hint="nothing was deleted", code="not-typed")
    await confirmed(request, form, "delete", name)
    place = form.get("destination") or None
    await site_of(request).link.order("Delete", {"backup": name, "destination": place}, patient=True)
    return ended(request, "delete", f"{name}{f' at {place}' if place else ''}", "/backups")


def _lacking(status: dict[str, Any], backup: dict[str, Any], copies: list[dict[str, Any]]) -> list[str]:
    """Return the destinations of its job that do not have it, and where none is on its way."""
    job = next((job for job in status["jobs"] if job["name"] == backup["job"]), None)
    having = {copy["destination"] for copy in copies if copy["state"] in {*_THERE, "pending"}}
    return [name for name in (job or {}).get("destinations", []) if name not in having]


def _newest(status: dict[str, Any]) -> set[str]:
    """Return the ids of the newest backup of each job."""
    return {job["newest_backup"]["id"] for job in status["jobs"] if job.get("newest_backup")}


def _page_number(text: str) -> int:
    return max(1, min(int(text), 100_000)) if text.isascii() and text.isdecimal() and len(text) < 8 else 1
