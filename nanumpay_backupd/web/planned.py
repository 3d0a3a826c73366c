"""What a restore will do, in the page's words: from a plan of the daemon to rows. Pure; decides nothing."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, NamedTuple

from nanumpay_backupd.web.shown import Shown
from nanumpay_backupd.web.words import Words
from nanumpay_backupd.wording import words_for

__all__ = ["Row", "counted", "frozen", "plan_rows", "seal"]

_SHOWN: Final = 8
_SEALED: Final = (
    "backup",
    "copy",
    "server",
    "database",
    "moment",
    "drops",
    "slices",
    "swap",
    "target_exists",
    "safety_backup",
)
_LATEST: Final = "latest"


class Row(NamedTuple):
    """One line of a plan: what it is about, what is said, and what is added in small letters."""

    name: str
    text: str
    more: str = ""


def counted(t: Words, kind: str, items: int, parts: int = 0) -> str:
    """Say how much of a kind of source there is: ``1,204 documents in 3 collections``, ``문서 1,204개 (3)``."""
    words = words_for(kind)
    if t.language == "ko":
        text = words.korean.format(count=f"{items:,}")
        return t("plan.in-parts", items=text, n=f"{parts:,}", part=t.of("part", kind)) if parts else text
    return f"{words.count_items(items)} in {words.count_parts(parts)}" if parts else words.count_items(items)


def plan_rows(t: Words, times: Shown, plan: dict[str, Any]) -> list[Row]:
    """Return what is restored, of when, from what, into where, and what becomes of what is there."""
    kind = plan.get("source") or "mongodb"
    rows = [
        Row(t("plan.as-of"), times.exact(plan["moment"]), times.ago(plan["moment"])),
        Row(t("plan.from"), plan["backup"], t("plan.copy", place=t.of("place", plan["copy"]))),
    ]
    if plan["slices"]:
        rows.append(Row(t("plan.replays"), t.count("plan.slices", len(plan["slices"]))))
    elif plan["replays_oplog"]:
        rows.append(Row(t("plan.replays"), t("plan.own-oplog")))
    rows.append(Row(t("plan.brings"), *_brings(t, times, plan, kind)))
    where = t("plan.database", name=plan["database"]) if kind == "mongodb" else plan["database"]
    rows.append(Row(t("plan.into"), where, plan["server"]))
    return rows + _target(t, plan, kind)


def _brings(t: Words, times: Shown, plan: dict[str, Any], kind: str) -> tuple[str, str]:
    names = plan["collections"]
    if not names:
        return t("plan.unknown"), ""
    shown = ", ".join(names[:_SHOWN]) + (t("plan.more", n=len(names) - _SHOWN) if len(names) > _SHOWN else "")
    if plan["slices"] and not plan["documents"]:
        return shown, t("plan.of-changes")
    before = t("plan.before-replay") if plan["slices"] and kind == "mongodb" else ""
    return shown, " · ".join(
        one for one in (counted(t, kind, plan["documents"]), times.size(plan["bytes"]), before) if one
    )


def _target(t: Words, plan: dict[str, Any], kind: str) -> list[Row]:
    if not plan["target_exists"]:
        return [Row(t("plan.there"), t("plan.nothing-there"))]
    parts = plan["target_collections"]
    there = (
        counted(t, kind, plan["target_documents"], parts)
        if plan["target_documents"] or kind == "mongodb"
        else t("plan.parts", n=f"{parts:,}")
    )
    rows = [Row(t("plan.there"), there)]
    if plan["swap"]:
        rows.append(Row(t("plan.happens"), t("plan.swapped"), t("plan.kept")))
    else:
        rows.append(Row(t("plan.happens"), t("plan.replaced")))
    if plan["drops"]:
        rows.append(Row(t("plan.goes"), ", ".join(plan["drops"])))
    if plan["safety_backup"]:
        rows.append(Row(t("plan.before"), t("plan.safety")))
    elif not plan["swap"]:
        rows.append(Row(t("plan.before"), t("plan.unsafe")))
    return rows


def frozen(asked: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked for with what the plan made of it: ``latest`` may mean something else by now."""
    if not asked.get("at") and not plan["slices"]:
        return {**asked, "backup": plan["backup"], "source": plan["copy"]}
    # The slices need not lie where the full does.
    backup = plan["backup"] if asked["backup"] == _LATEST else asked["backup"]
    at = plan["moment"] if asked.get("at") == _LATEST else asked.get("at")
    return {**asked, "backup": backup, "at": at}


def seal(plan: dict[str, Any]) -> str:
    """Return a name for what a plan does; it changes with anything that somebody agreed to."""
    told = json.dumps([plan[name] for name in _SEALED], sort_keys=True)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:24]
