"""Groups as the interface shows them: what their runs made, and what is left of it. Nothing is started here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import to_text
from nanumpay_backupd.errors import NotFoundError
from nanumpay_backupd.events import Event, Fault, Severity
from nanumpay_backupd.model import GroupManifest, Outcome, to_builtins
from nanumpay_backupd.pipeline.groups import Find, MemberState, members_as_they_are, read_group, read_groups, state_of
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.settings.schema import GroupSpec

__all__ = ["find_group", "group_facts", "group_faults", "groups_there", "shown_group"]

Found = tuple[GroupManifest, list[MemberState]]
_ENDED: Final = (Outcome.SUCCEEDED, Outcome.DEGRADED, Outcome.FAILED, Outcome.CANCELLED, Outcome.INTERRUPTED)
_BAD: Final = ("failed", "interrupted")


def groups_there(catalog: Catalog, layout: Layout, group: str = "", find: Find | None = None) -> Iterator[Found]:
    """Yield what runs of a group (or of all) made and of which anything is left, the newest first."""
    find = find or catalog.backup
    for manifest in read_groups(layout, group):
        states = members_as_they_are(manifest, find)
        if state_of(states) != "gone":
            yield manifest, states


def find_group(catalog: Catalog, layout: Layout, identifier: str) -> Found:
    """Return what a run of a group made, by its id; raises NotFoundError."""
    manifest = read_group(layout, identifier)
    if manifest is None:
        raise NotFoundError(f"there is no group's backup {identifier!r}", hint="see: backupctl list")
    return manifest, members_as_they_are(manifest, catalog.backup)


def shown_group(manifest: GroupManifest, states: Iterable[MemberState]) -> dict[str, Any]:
    """Shape it as the interface's type GroupBackup."""
    states = list(states)
    return {
        "id": manifest.id,
        "group": manifest.group,
        "run": manifest.run,
        "started": to_text(manifest.started),
        "ended": to_text(manifest.ended),
        "outcome": manifest.outcome.value,
        "state": state_of(states),
        "members": [_member(state) for state in states],
        "sent": list(manifest.sent),
    }


def _member(state: MemberState) -> dict[str, Any]:
    member = state.member
    return {
        "job": member.job,
        "type": member.type,
        "holds": member.holds,
        "run": member.run,
        "outcome": member.outcome.value,
        "backup": member.backup,
        "created": to_text(member.created) if member.created is not None else None,
        "code": member.code,
        "state": state.state,
        "copies": list(state.copies),
        "size": state.size,
    }


def group_facts(catalog: Catalog, layout: Layout, group: GroupSpec) -> dict[str, Any]:
    """Return the part of the interface's type Group that the catalog and the manifests know."""
    newest = next(groups_there(catalog, layout, group.name), None)
    there = groups_there(catalog, layout, group.name)
    whole = next((manifest.id for manifest, states in there if state_of(states) == "whole"), None)
    last = catalog.last_run(group.name, "group", *_ENDED)
    return {
        "last_run": to_builtins(last) if last is not None else None,
        "newest": shown_group(*newest) if newest is not None else None,
        "newest_whole": whole,
    }


def group_faults(groups: Iterable[dict[str, Any]], jobs: Iterable[dict[str, Any]]) -> list[Fault]:
    """Say what is wrong with groups: that a member failed is told once, of its job."""
    failed = {job["name"] for job in jobs if (job["last_run"] or {}).get("outcome") in _BAD}
    faults = []
    for group in groups:
        name, last = group["name"], group["last_run"]
        if not group["enabled"]:
            text = f"group {name} is disabled: its jobs are not made by schedule"
            faults.append(Fault(key=f"group-disabled:{name}", text=text, severity=Severity.WARNING, job=name))
        if last and last["outcome"] in _BAD:
            error = last["error"] or {"code": "", "message": "no reason recorded", "hint": ""}
            faults.append(
                Fault(
                    key=f"group:{name}",
                    text=f"group {name}: the last run {last['outcome']}: {error['message']}",
                    severity=Severity.ERROR,
                    event=None if failed & set(group["jobs"]) else Event.FAILED,
                    job=name,
                    reason=error["message"],
                    hint=error["hint"],
                    code=error["code"],
                    occurrence=last["id"],
                )
            )
    return faults
