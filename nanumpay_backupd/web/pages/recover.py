"""Recover: choose a moment on the timeline or a backup, see what would be done, and only then do it.

What is done is what was shown: the second form carries the order of the first. It takes the password again, and the
name of the place that is written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import BackupdError, RefusedError
from nanumpay_backupd.web.answers import page, status_of
from nanumpay_backupd.web.charts import Span, timeline
from nanumpay_backupd.web.pages.figures import begun, who
from nanumpay_backupd.web.shown import Shown, parse
from nanumpay_backupd.web.visit import fields, site_of, visit_of

__all__ = ["plan", "restore", "show"]

_BACKUPS: Final = 100
_FIELDS: Final = ("job", "way", "backup", "moment", "to", "collection", "source", "swap", "safety", "only", "overwrite")
_MONGODB: Final = "mongodb"


async def show(request: Request) -> Response:
    """Answer with the timeline and the form."""
    asked = request.query_params
    return await _form(request, {"job": asked.get("job", ""), "backup": asked.get("backup", "")})


async def plan(request: Request) -> Response:
    """Say what a restore would do; nothing is changed."""
    site, visit = site_of(request), visit_of(request)
    form = {name: value for name, value in (await fields(request)).items() if name in _FIELDS}
    try:
        status = await site.link.status()
        order = order_of(form, Shown(visit.words, status["timezone"], status["now"]), _type_of(status, form))
        found = (await site.link.order("Restore", {**order, "dry_run": True}, patient=True))["plan"]
    except BackupdError as error:
        return await _form(request, form, error)
    site.audit(who(request), visit.address, "plan", _subject(order))
    return page(
        request,
        "plan.html",
        here="recover",
        status_reply=status,
        plan=found,
        form=form,
        order=order,
        typed=typed_for(found),
        shown=_digest(found),
        problem=None,
    )


async def restore(request: Request) -> Response:
    """Restore, and show that run."""
    site, visit, sent = site_of(request), visit_of(request), await fields(request)
    assert visit.person is not None, "checked by the route"
    form = {name: value for name, value in sent.items() if name in _FIELDS}
    status = await site.link.status()
    order = order_of(form, Shown(visit.words, status["timezone"], status["now"]), _type_of(status, form))
    found = (await site.link.order("Restore", {**order, "dry_run": True}, patient=True))["plan"]
    try:
        if sent.get("typed", "").strip() != typed_for(found):
            raise RefusedError("what was typed is not the name of the place", code="not-typed")
        if sent.get("shown", "") != _digest(found):
            raise RefusedError("what would be done has changed", hint="look at it again", code="plan-changed")
        await site.confirm(visit.person, sent.get("password", ""), visit.address)
    except RefusedError as error:
        site.audit(who(request), visit.address, "restore", _subject(order), "refused", error.code)
        return page(
            request,
            "plan.html",
            status_of(error),
            here="recover",
            status_reply=status,
            plan=found,
            form=form,
            order=order,
            typed=typed_for(found),
            shown=_digest(found),
            problem=error,
        )
    return await begun(request, "Restore", order, _subject(order))


def order_of(form: Mapping[str, str], times: Shown, kind: str) -> dict[str, Any]:
    """Return the parameters of Restore that a form means; raises RefusedError (``bad-time``)."""
    order: dict[str, Any] = {"job": form.get("job") or None, "safety": form.get("safety") == "1"}
    for name, key in (("to", "to_database"), ("collection", "collection"), ("source", "source")):
        if value := form.get(name, "").strip():
            order[key] = value
    if form.get("way") == "moment":
        order |= {"backup": "latest", "at": _moment(form.get("moment", ""), times)}
    else:
        order["backup"] = form.get("backup", "").strip() or "latest"
    if kind == _MONGODB:
        if form.get("swap") == "1":
            order["swap"] = True
        return order
    order.pop("collection", None)
    if only := [line.strip() for line in form.get("only", "").splitlines() if line.strip()]:
        order["only"] = only
    if form.get("overwrite") == "1":
        order["overwrite"] = True
    return order


def typed_for(found: Mapping[str, Any]) -> str:
    """Return what has to be typed to restore: the place that is written to."""
    return str(found["database"])


def _moment(text: str, times: Shown) -> str:
    """Read a local time as a browser sends it, and return it with its zone."""
    if text.strip() == "latest":
        return "latest"
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RefusedError("this is not a time", hint="choose one on the timeline", code="bad-time") from None
    return (found if found.tzinfo else found.replace(tzinfo=times.zone)).isoformat(timespec="seconds")


def _digest(found: Mapping[str, Any]) -> str:
    """Return what makes a plan the one that was shown: what is read, what is written, what is lost."""
    parts = [found[name] for name in ("backup", "database", "moment", "documents", "swap", "safety_backup")]
    return "|".join(
        str(part) for part in [*parts, len(found["slices"]), len(found["drops"]), len(found["collections"])]
    )


def _subject(order: Mapping[str, Any]) -> str:
    parts = [str(order.get("at") or order["backup"])]
    if order.get("to_database"):
        parts.append(f"to {order['to_database']}")
    if order.get("collection"):
        parts.append(f"only {order['collection']}")
    return " ".join([str(order.get("job") or ""), *parts]).strip()


def _type_of(status: Mapping[str, Any], form: Mapping[str, str]) -> str:
    job = next((job for job in status["jobs"] if job["name"] == form.get("job")), None)
    return (job or {}).get("type") or _MONGODB


async def _form(request: Request, form: Mapping[str, str], error: BackupdError | None = None) -> Response:
    site, visit = site_of(request), visit_of(request)
    status = await site.link.status()
    names = [job["name"] for job in status["jobs"]]
    asked = form.get("job", "")
    job = asked if asked in names else next(iter(names), "")
    times = Shown(visit.words, status["timezone"], status["now"])
    line: dict[str, Any] = {"ranges": [], "gaps": []}
    backups: list[dict[str, Any]] = []
    if job:
        line = await site.link.ask("Timeline", {"job": job})
        found = await site.link.ask("FindBackups", {"job": job, "limit": _BACKUPS})
        backups = [one for one in found["backups"] if one["state"] != "corrupt"]
    spec = next((one for one in status["jobs"] if one["name"] == job), None)
    return page(
        request,
        "recover.html",
        status_of(error) if error is not None else 200,
        here="recover",
        status_reply=status,
        jobs=names,
        job=job,
        spec=spec,
        kind=_type_of(status, {"job": job}),
        line=line,
        exact=any(one["exact"] for one in line["ranges"]),
        drawn=_drawn(visit.words("recover.timeline"), times, {**line, "zone": status["timezone"]}),
        backups=backups,
        form={name: form.get(name, "") for name in _FIELDS},
        first=not any(form.get(name) for name in ("way", "moment")),
        latest=max((one["last"] for one in line["ranges"]), default=None),
        problem=error,
    )


def _drawn(title: str, times: Shown, line: Mapping[str, Any]) -> Any:
    """Draw what can be restored, from the oldest moment until now."""
    spans = [
        Span(parse(one["first"]).timestamp(), parse(one["last"]).timestamp(), exact=one["exact"])
        for one in line["ranges"]
    ]
    if not spans:
        return None
    now = times.now.timestamp()
    begin = min(span.first for span in spans)
    begin = min(begin, now - timedelta(hours=1).total_seconds())

    def told(at: float) -> str:
        return times.when(datetime.fromtimestamp(at, times.now.tzinfo).isoformat())

    return timeline(title, spans, (begin, now), line.get("zone", ""), told)
