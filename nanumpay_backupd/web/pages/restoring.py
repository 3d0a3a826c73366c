"""Restoring by the page: what it would do, and doing that. What can be chosen is on `recover`.

Nothing is restored that was not shown before: the plan is made again, and must be the one that was agreed to.
"""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import BackupdError, RefusedError, UnreachableError
from nanumpay_backupd.moments import read_moment
from nanumpay_backupd.web.answers import page, status_of
from nanumpay_backupd.web.pages.figures import begun, who
from nanumpay_backupd.web.pages.recover import Form, choice
from nanumpay_backupd.web.planned import frozen, plan_rows, seal
from nanumpay_backupd.web.shown import Shown
from nanumpay_backupd.web.visit import fields, site_of, visit_of

__all__ = ["plan", "restore"]

_TEXT: Final = 400
_LINES: Final = 200
_TEXTS: Final = frozenset({"job", "backup", "at", "to_database", "collection", "source", "group", "holds"})
_FLAGS: Final = frozenset({"swap", "safety", "overwrite", "partial"})
Plan = dict[str, Any]


async def plan(request: Request) -> Response:
    """Answer with what a restore would do; nothing is done."""
    form, visit, site = await fields(request), visit_of(request), site_of(request)
    remark = ""
    try:
        if form.get("group"):
            order = _group_order(form)
        else:
            order, remark = await _asked(request, form)
        plans = await _dry_run(request, order)
    except UnreachableError:
        raise
    except BackupdError as error:
        return await choice(request, {**form, "safety": form.get("safety", "")}, error)
    site.audit(who(request), visit.address, "plan", _subject(order, plans))
    if "group" not in order:
        order = frozen(order, plans[0])
    return await _plan_page(request, form.get("job", ""), order, plans, remark=remark)


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


def _group_order(form: Form) -> dict[str, Any]:
    """Return the order that the form of a group means; raises RefusedError."""
    made = form.get("made", "")[:_TEXT]
    if not made:
        raise RefusedError("choose a backup of the group", code="bad-request")
    order: dict[str, Any] = {"group": made, "overwrite": True}
    if form.get("holds"):
        order["holds"] = form["holds"][:_TEXT]
    if form.get("partial") == "1":
        order["partial"] = True
    if form.get("safety") != "1":
        order["safety"] = False
    return order


async def _dry_run(request: Request, order: dict[str, Any]) -> list[Plan]:
    method = _method(order)
    reply = await site_of(request).link.order(method, {**order, "dry_run": True}, patient=True)
    return list(reply["plans"]) if method == "RestoreGroup" else [dict(reply["plan"])]


def _method(order: dict[str, Any]) -> str:
    return "RestoreGroup" if "group" in order else "Restore"


def _subject(order: dict[str, Any], plans: list[Plan]) -> str:
    """Return what the audit trail says of it."""
    if "group" in order:
        return f"group {order['group']}"
    return f"{plans[0]['backup']} into {plans[0]['database']} as of {plans[0]['moment']}"


def _typed(order: dict[str, Any], plans: list[Plan]) -> str:
    """Return what has to be typed: the place whose data are replaced, of a group its backup; empty: nothing is lost."""
    if not any(one["target_exists"] for one in plans):
        return ""
    return str(order["group"] if "group" in order else plans[0]["database"])


def _seal(plans: list[Plan]) -> str:
    return ".".join(seal(one) for one in plans)


async def _plan_page(
    request: Request,
    job: str,
    order: dict[str, Any],
    plans: list[Plan],
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
        seal=_seal(plans),
        plans=[(one, plan_rows(visit.words, times, one)) for one in plans],
        typed=_typed(order, plans),
        swap=all(one["swap"] for one in plans),
        remark=remark,
        problem=problem,
    )


# Doing it


async def restore(request: Request) -> Response:
    """Restore what was shown, and show the run. Takes the password, and where data are replaced its name."""
    form, visit, site = await fields(request), visit_of(request), site_of(request)
    order, job = _order(form), form.get("job", "")[:_TEXT]
    plans = await _dry_run(request, order)
    subject, wanted = _subject(order, plans), _typed(order, plans)
    if _seal(plans) != form.get("seal"):
        return await _plan_page(request, job, order, plans, problem="plan.changed", code=409)
    if wanted and form.get("typed", "").strip() != wanted:
        return await _plan_page(request, job, order, plans, problem="plan.not-typed", code=409)
    assert visit.person is not None, "checked by the route"
    try:
        await site.confirm(visit.person, form.get("password", ""), visit.address)
    except RefusedError as error:
        site.audit(who(request), visit.address, "restore", subject, "refused", error.code)
        problem = "plan.wait" if error.code == "sign-in-wait" else "plan.password"
        return await _plan_page(request, job, order, plans, problem=problem, code=status_of(error))
    return await begun(request, _method(order), order, subject)


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
    return ("backup" in order or "group" in order) and all(_fits(name, value) for name, value in order.items())


def _fits(name: str, value: object) -> bool:
    if name == "only":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, bool) if name in _FLAGS else name in _TEXTS and isinstance(value, str)
