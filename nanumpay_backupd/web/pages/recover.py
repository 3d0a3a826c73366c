"""Recover: what can be restored, on a timeline; a moment or a backup, what of it and where to. Restores nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.control.client import RemoteError
from nanumpay_backupd.errors import BackupdError, UsageError
from nanumpay_backupd.moments import read_moment
from nanumpay_backupd.web import band
from nanumpay_backupd.web.answers import page, status_of
from nanumpay_backupd.web.shown import Shown, parse
from nanumpay_backupd.web.visit import site_of, visit_of

__all__ = ["Form", "choice", "show"]

_FULLS: Final = 100
"""Backups in the list to choose from; older ones by the band, or from Backups."""
_TEXT: Final = 400
_DEFAULTS: Final = {
    "when": "", "at": "", "backup": "", "what": "all", "collection": "", "only": "", "where": "other", "to": "",
    "source": "", "safety": "1", "overwrite": "",
}  # fmt: skip
_DATABASE: Final = re.compile(r"[^A-Za-z0-9_-]+")
Form = dict[str, str]


async def show(request: Request) -> Response:
    """Answer with the timeline and what can be chosen."""
    asked = {name: value[:_TEXT] for name, value in request.query_params.items()}
    return await choice(request, asked, None)


async def choice(request: Request, form: Form, problem: BackupdError | None) -> Response:
    """Answer with the page, filled with what was chosen before, and why that could not be."""
    site, visit = site_of(request), visit_of(request)
    status = await site.link.status()
    jobs = {job["name"]: job for job in status["jobs"]}
    if form.get("group"):
        return await _of_group(request, status, form, problem)
    name = form.get("job") or ("nanumpay" if "nanumpay" in jobs else next(iter(jobs), ""))
    if not jobs:
        return page(
            request,
            "recover.html",
            here="recover",
            status_reply=status,
            jobs=[],
            job=None,
            groups=[],
            group="",
            problem=problem,
        )
    times = Shown(visit.words, status["timezone"], status["now"])
    (timeline, seen), found = await asyncio.gather(
        _reach(request, name, form, times), _backups(request, name, form.get("backup", ""))
    )
    fulls = [one for one in found if _there(one)]
    base = await _manifest(request, fulls)
    form = _filled(form, timeline, fulls, base, times)
    return page(
        request,
        "recover.html",
        _code(problem),
        here="recover",
        back_to=f"/recover?{urlencode({'job': name})}",
        status_reply=status,
        jobs=list(jobs.values()),
        job=jobs.get(name) or {"name": name, "type": "mongodb", "destinations": [], "source": ""},
        kind=(jobs.get(name) or {}).get("type") or "mongodb",
        timeline=timeline,
        until=max((one["last"] for one in timeline["ranges"]), key=parse, default=None),
        newest=any(one["exact"] for one in timeline["ranges"]),
        seconds=any(_is_span(one) for one in timeline["ranges"]),
        groups=[group["name"] for group in status.get("groups") or []],
        group="",
        fulls=fulls,
        collections=base,
        form=form,
        problem=problem,
        swaps=(jobs.get(name) or {}).get("type") == "mongodb",
        **_drawn(request, timeline, seen, form, times),
    )


def _code(problem: BackupdError | None) -> int:
    return 200 if problem is None else 400 if isinstance(problem, UsageError) else status_of(problem)


async def _of_group(request: Request, status: dict[str, Any], form: Form, problem: BackupdError | None) -> Response:
    """Answer with what there is of a group: what its runs made, and which of them is to come back."""
    name = form["group"]
    found = await site_of(request).link.ask("ListBackups", {"job": name, "limit": _FULLS})
    made = [one for one in found.get("groups") or [] if one["group"] == name]
    best = next((one["id"] for one in made if one["state"] == "whole"), made[0]["id"] if made else "")
    return page(
        request,
        "recover_group.html",
        _code(problem),
        here="recover",
        back_to=f"/recover?{urlencode({'group': name})}",
        status_reply=status,
        jobs=status["jobs"],
        job=None,
        groups=[group["name"] for group in status.get("groups") or []],
        group=name,
        made=made,
        chosen=form.get("made") or best,
        kinds=sorted({member["holds"] for one in made for member in one["members"]}),
        form={"holds": "", "partial": "", "safety": "1"} | form,
        problem=problem,
    )


async def _reach(request: Request, job: str, form: Form, times: Shown) -> tuple[dict[str, Any], band.Window | None]:
    """Return the timeline of a job as far as the band shows it, and what the band shows; None: there is nothing."""
    link, now = site_of(request).link, times.now
    # First how far it goes: by that the window is chosen.
    whole = await link.ask("Timeline", {"job": job, "spots": 1})
    if not whole["ranges"]:
        return whole, None
    first = min(parse(one["first"]) for one in whole["ranges"])
    # Where every second counts, the stretch of now is what is looked for.
    recent = max((parse(one["first"]) for one in whole["ranges"] if _is_span(one)), default=first)
    seen = band.window(form.get("span") or band.fitting(recent, now), _moment(form.get("until", "")), first, now)
    between = {"since": seen.start.isoformat(), "until": seen.end.isoformat()}
    return await link.ask("Timeline", {"job": job, "spots": band.SPOTS, **between}), seen


def _drawn(
    request: Request, timeline: dict[str, Any], seen: band.Window | None, form: Form, times: Shown
) -> dict[str, Any]:
    """Return the band and where it leads."""
    if seen is None or not timeline["ranges"]:
        return {}
    base, now = visit_of(request).base, times.now
    first = min(parse(one["first"]) for one in timeline["ranges"])

    def address(to: str) -> str:
        """Return the address of this page with a moment or backup chosen."""
        chosen = (
            {"when": "backup", "backup": to[7:]} if to.startswith("backup:") else {"when": "moment", "at": _wall(to)}
        )
        return _address(base, form, seen.span, **chosen)

    def _wall(to: str) -> str:
        return f"{times.local(to):%Y-%m-%dT%H:%M:%S}"

    half = timedelta(seconds=seen.seconds / 2)
    earlier, later = seen.end - half, seen.end + half
    widths = [
        *(
            name
            for name, length in band.SPANS.items()
            if length < 4 * (now - first).total_seconds() or name == seen.span
        ),
        "all",
    ]
    exact = [[one["first"], one["last"]] for one in timeline["ranges"] if one["exact"]]
    return {
        "band": band.draw(visit_of(request).words, times, timeline, seen, _marked(form, timeline, times), address),
        "widths": [(name, name == seen.span, _address(base, form, name, until="")) for name in widths],
        "earlier": _address(base, form, seen.span, until=earlier.isoformat()) if seen.start > first else "",
        "later": _address(base, form, seen.span, until=later.isoformat()) if seen.end < now else "",
        "facts": json.dumps({"start": seen.start.timestamp(), "end": seen.end.timestamp(), "exact": exact}),
    }


def _address(base: str, form: Form, span: str, **changes: str) -> str:
    own = {name: form.get(name, "") for name in ("job", "when", "at", "backup", "until")} | {"span": span} | changes
    return f"{base}/recover?" + urlencode({name: value for name, value in own.items() if value}) + "#reach"


def _marked(form: Form, timeline: dict[str, Any], times: Shown) -> datetime | None:
    """Return the moment that is chosen now."""
    if form["when"] == "backup":
        return next((parse(one["moment"]) for one in timeline["fulls"] if one["backup"] == form["backup"]), None)
    if form["when"] == "moment" and form["at"]:
        try:
            said, _ = read_moment(form["at"], times.zone, times.now)
            return parse(said)
        except (UsageError, ValueError):
            return None
    return None


def _filled(
    form: Form, timeline: dict[str, Any], fulls: list[dict[str, Any]], collections: list[str], times: Shown
) -> Form:
    """Return the form with what is best where nothing was chosen."""
    known = {"job": timeline["job"], "span": form.get("span", ""), "until": form.get("until", "")}
    filled = {name: form.get(name, default) for name, default in _DEFAULTS.items()} | known
    exact = [one for one in timeline["ranges"] if one["exact"]]
    if filled["when"] not in {"latest", "moment", "backup"}:
        filled["when"] = "moment" if filled["at"] else "backup" if filled["backup"] else "latest"
    if filled["when"] == "moment" and not any(_is_span(one) for one in exact):
        filled["when"] = "latest"
    if filled["when"] == "latest" and not exact:
        filled["when"] = "backup"
    if not filled["at"] and exact:
        filled["at"] = f"{times.local(exact[-1]['last']):%Y-%m-%dT%H:%M:%S}"
    if not filled["backup"] and fulls:
        filled["backup"] = fulls[0]["id"]
    if not filled["to"] and collections:
        database = _DATABASE.sub("_", collections[0].partition(".")[0])[:50]
        filled["to"] = f"{database}_restored" if database else ""
    return filled


async def _backups(request: Request, job: str, chosen: str) -> list[dict[str, Any]]:
    """Return the newest backups of a job, and the one that is chosen if it is older than these."""
    link = site_of(request).link
    found: list[dict[str, Any]] = (await link.ask("FindBackups", {"job": job, "limit": _FULLS}))["backups"]
    if chosen and all(one["id"] != chosen for one in found):
        with contextlib.suppress(RemoteError):  # by an old address: the form says what there is
            older = (await link.ask("DescribeBackup", {"backup": chosen}))["backup"]
            if older["job"] == job:
                found.append(older)
    return found


async def _manifest(request: Request, fulls: list[dict[str, Any]]) -> list[str]:
    """Return what the newest full holds, as ``database.collection``; empty where that is not known."""
    newest = next((one for one in fulls if one["kind"] == "full"), None)
    if newest is None:
        return []
    backup = (await site_of(request).link.ask("DescribeBackup", {"backup": newest["id"]}))["backup"]
    held = (backup.get("manifest") or {}).get("source", {}).get("collections", [])
    return [f"{one['database']}.{one['name']}" for one in held]


def _is_span(one: dict[str, Any]) -> bool:
    """Tell whether any second of a range can be restored, and not its fulls alone."""
    return bool(one["exact"]) and one["first"] != one["last"]


def _there(backup: dict[str, Any]) -> bool:
    return any(copy["state"] in {"uploaded", "verified"} for copy in backup["copies"])


def _moment(text: str) -> datetime | None:
    try:
        found = parse(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
