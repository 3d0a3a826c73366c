"""Recover: what can be restored, on a timeline; a moment, what of it and where to; what that would do; doing it.

Nothing is restored that was not shown before: the plan is made again, and must be the one that was agreed to.
"""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import BackupdError, RefusedError, UnreachableError, UsageError
from nanumpay_backupd.moments import read_moment
from nanumpay_backupd.web import band
from nanumpay_backupd.web.answers import page, status_of
from nanumpay_backupd.web.pages.figures import begun, who
from nanumpay_backupd.web.planned import frozen, plan_rows, seal
from nanumpay_backupd.web.shown import Shown, parse
from nanumpay_backupd.web.visit import fields, site_of, visit_of

__all__ = ["plan", "restore", "show"]

_FULLS: Final = 200
_SWAPS: Final = 3.0
"""Seconds that servers may take to say what swaps keep; the page is shown without it then."""
_TEXT: Final = 400
_LINES: Final = 200
_DEFAULTS: Final = {
    "when": "", "at": "", "backup": "", "what": "all", "collection": "", "only": "", "where": "other", "to": "",
    "source": "", "safety": "1", "overwrite": "",
}  # fmt: skip
_KEPT: Final = ("job", "backup", "at", "to_database", "collection", "source")
_DATABASE: Final = re.compile(r"[^A-Za-z0-9_-]+")
Form = dict[str, str]


async def show(request: Request) -> Response:
    """Answer with the timeline and what can be chosen."""
    asked = {name: value[:_TEXT] for name, value in request.query_params.items()}
    return await _choice(request, asked, None)


async def _choice(request: Request, form: Form, problem: BackupdError | None) -> Response:
    site, visit = site_of(request), visit_of(request)
    status = await site.link.status()
    jobs = {job["name"]: job for job in status["jobs"]}
    name = form.get("job") or ("nanumpay" if "nanumpay" in jobs else next(iter(jobs), ""))
    if not jobs:
        return page(request, "recover.html", here="recover", status_reply=status, jobs=[], job=None, problem=problem)
    timeline, found, swaps = await asyncio.gather(
        site.link.ask("Timeline", {"job": name}),
        site.link.ask("FindBackups", {"job": name, "limit": _FULLS}),
        _swaps(request, name),
    )
    fulls = [one for one in found["backups"] if _there(one)]
    base = await _manifest(request, fulls)
    times = Shown(visit.words, status["timezone"], status["now"])
    form = _filled(form, timeline, fulls, base, times)
    return page(
        request,
        "recover.html",
        200 if problem is None else 400 if isinstance(problem, UsageError) else status_of(problem),
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
        fulls=fulls,
        collections=base,
        form=form,
        problem=problem,
        swaps=swaps,
        **_drawn(request, timeline, fulls, form, times),
    )


def _drawn(
    request: Request, timeline: dict[str, Any], fulls: list[dict[str, Any]], form: Form, times: Shown
) -> dict[str, Any]:
    """Return the band and where it leads."""
    if not timeline["ranges"]:
        return {}
    base, now = visit_of(request).base, times.now
    first = min(parse(one["first"]) for one in timeline["ranges"])
    # Where every second counts, the stretch of now is what is looked for.
    recent = max((parse(one["first"]) for one in timeline["ranges"] if one["exact"]), default=first)
    seen = band.window(form["span"] or band.fitting(recent, now), _moment(form["until"]), first, now)

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
    widths = [*(name for name, length in band.SPANS.items() if length < 4 * (now - first).total_seconds()), "all"]
    moments = {one["id"]: _of(one) for one in fulls}
    exact = [[one["first"], one["last"]] for one in timeline["ranges"] if one["exact"]]
    return {
        "band": band.draw(
            visit_of(request).words, times, timeline, seen, _marked(form, moments, times), address, moments
        ),
        "widths": [(name, name == seen.span, _address(base, form, name, until="")) for name in widths],
        "earlier": _address(base, form, seen.span, until=earlier.isoformat()) if seen.start > first else "",
        "later": _address(base, form, seen.span, until=later.isoformat()) if seen.end < now else "",
        "facts": json.dumps({"start": seen.start.timestamp(), "end": seen.end.timestamp(), "exact": exact}),
    }


def _address(base: str, form: Form, span: str, **changes: str) -> str:
    own = {name: form.get(name, "") for name in ("job", "when", "at", "backup", "until")} | {"span": span} | changes
    return f"{base}/recover?" + urlencode({name: value for name, value in own.items() if value}) + "#reach"


def _marked(form: Form, moments: dict[str, str], times: Shown) -> datetime | None:
    """Return the moment that is chosen now."""
    if form["when"] == "backup":
        text = moments.get(form["backup"])
        return parse(text) if text else None
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


async def _manifest(request: Request, fulls: list[dict[str, Any]]) -> list[str]:
    """Return what the newest full holds, as ``database.collection``; empty where that is not known."""
    newest = next((one for one in fulls if one["kind"] == "full"), None)
    if newest is None:
        return []
    backup = (await site_of(request).link.ask("DescribeBackup", {"backup": newest["id"]}))["backup"]
    held = (backup.get("manifest") or {}).get("source", {}).get("collections", [])
    return [f"{one['database']}.{one['name']}" for one in held]


async def _swaps(request: Request, job: str) -> list[dict[str, Any]]:
    """Return what earlier restores keep of this job; nothing where a server does not answer at once."""
    try:
        async with asyncio.timeout(_SWAPS):
            return list((await site_of(request).link.ask("ListSwaps", {"job": job}))["swaps"])
    except (BackupdError, TimeoutError):
        return []


def _is_span(one: dict[str, Any]) -> bool:
    """Tell whether any second of a range can be restored, and not its fulls alone."""
    return bool(one["exact"]) and one["first"] != one["last"]


def _there(backup: dict[str, Any]) -> bool:
    return any(copy["state"] in {"uploaded", "verified"} for copy in backup["copies"])


def _of(backup: dict[str, Any]) -> str:
    """Return the moment that a full is of: that of its end in the oplog, else when it was made."""
    seconds = backup["end"].partition(":")[0]
    return datetime.fromtimestamp(int(seconds), UTC).isoformat() if seconds.isdigit() else str(backup["created"])


def _moment(text: str) -> datetime | None:
    try:
        found = parse(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


# What it would do


async def plan(request: Request) -> Response:
    """Answer with what a restore would do; nothing is done."""
    form, visit, site = await fields(request), visit_of(request), site_of(request)
    try:
        asked, remark = await _asked(request, form)
        planned = await _dry_run(request, asked)
    except UnreachableError:
        raise
    except BackupdError as error:
        return await _choice(request, {**form, "safety": form.get("safety", "")}, error)
    site.audit(who(request), visit.address, "plan", f"{planned['backup']} into {planned['database']}")
    return await _plan_page(request, form.get("job", ""), frozen(asked, planned), planned, remark=remark)


async def _asked(request: Request, form: Form) -> tuple[dict[str, Any], str]:
    """Return the order that a form means, and what is to be said about its moment. Raises RefusedError, UsageError."""
    status = await site_of(request).link.status()
    job = next((one for one in status["jobs"] if one["name"] == form.get("job")), None)
    if job is None:
        raise RefusedError("there is no such job", code="not-found")
    mongo = (job.get("type") or "mongodb") == "mongodb"
    when, remark = form.get("when"), ""
    order: dict[str, Any] = {"backup": "latest", "job": job["name"], "source": form.get("source") or None}
    if when == "backup":
        order |= {"backup": form.get("backup", "")[:_TEXT], "job": None}
    elif when == "moment":
        times = Shown(visit_of(request).words, status["timezone"], status["now"])
        order["at"], remark = read_moment(form.get("at", ""), times.zone, times.now)
    else:
        order["at"] = "latest"
    where, to = form.get("where"), form.get("to", "").strip()[:_TEXT]
    if where == "other":
        if not to:
            raise RefusedError("say where it is to go", code="bad-request")
        order["to_database"] = to
    if where == "swap" and mongo:
        order["swap"] = True
    if form.get("safety") != "1":
        order["safety"] = False
    if form.get("what") == "some":
        order |= _some(form, mongo=mongo)
    if not mongo and (where == "place" or form.get("overwrite") == "1"):
        # What is there is told by the plan, and has to be agreed to by its name.
        order["overwrite"] = True
    return {name: value for name, value in order.items() if value is not None}, remark


def _some(form: Form, *, mongo: bool) -> dict[str, Any]:
    if mongo:
        collection = form.get("collection", "").strip()[:_TEXT]
        if not collection:
            raise RefusedError("choose a collection", code="bad-request")
        return {"collection": collection}
    only = [line.strip()[:_TEXT] for line in form.get("only", "").splitlines() if line.strip()][:_LINES]
    if not only:
        raise RefusedError("say what of it", code="bad-request")
    return {"only": only}


async def _dry_run(request: Request, order: dict[str, Any]) -> dict[str, Any]:
    reply = await site_of(request).link.order("Restore", {**order, "dry_run": True}, patient=True)
    return dict(reply["plan"])


async def _plan_page(
    request: Request,
    job: str,
    order: dict[str, Any],
    planned: dict[str, Any],
    *,
    remark: str = "",
    problem: str = "",
    code: int = 200,
) -> Response:
    visit, status = visit_of(request), await site_of(request).link.status()
    times = Shown(visit.words, status["timezone"], status["now"])
    return page(
        request,
        "plan.html",
        code,
        here="recover",
        back_to="/recover",
        status_reply=status,
        job=job,
        order=json.dumps(order, ensure_ascii=False),
        seal=seal(planned),
        plan=planned,
        rows=plan_rows(visit.words, times, planned),
        remark=remark,
        problem=problem,
    )


# Doing it


async def restore(request: Request) -> Response:
    """Restore what was shown, and show the run. Takes the password, and where data are replaced its name."""
    form, visit, site = await fields(request), visit_of(request), site_of(request)
    order, job = _order(form), form.get("job", "")[:_TEXT]
    planned = await _dry_run(request, order)
    subject = f"{planned['backup']} into {planned['database']} as of {planned['moment']}"
    if seal(planned) != form.get("seal"):
        return await _plan_page(request, job, order, planned, problem="plan.changed", code=409)
    if planned["target_exists"] and form.get("typed", "").strip() != planned["database"]:
        return await _plan_page(request, job, order, planned, problem="plan.not-typed", code=409)
    assert visit.person is not None, "checked by the route"
    try:
        await site.confirm(visit.person, form.get("password", ""), visit.address)
    except RefusedError as error:
        site.audit(who(request), visit.address, "restore", subject, "refused", error.code)
        problem = "plan.wait" if error.code == "sign-in-wait" else "plan.password"
        return await _plan_page(request, job, order, planned, problem=problem, code=status_of(error))
    return await begun(request, "Restore", order, subject)


def _order(form: Form) -> dict[str, Any]:
    """Return the order of a plan that was shown; raises RefusedError (``bad-request``) for anything else."""
    try:
        found = json.loads(form.get("order", ""))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _well_formed(found):
        raise RefusedError("this is not what the page sent", hint="begin anew", code="bad-request")
    return found


def _well_formed(order: dict[str, Any]) -> bool:
    flags, texts = {"swap", "safety", "overwrite"}, set(_KEPT)
    return "backup" in order and all(
        isinstance(value, bool)
        if name in flags
        else isinstance(value, str)
        if name in texts
        else name == "only" and isinstance(value, list) and all(isinstance(one, str) for one in value)
        for name, value in order.items()
    )
