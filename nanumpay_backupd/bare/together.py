"""A group at a place: which of its backups are there and meant, and how its restore went. Restores nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo

from nanumpay_backupd.bare.choice import Wish
from nanumpay_backupd.bare.text import shown
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import NotFoundError, RefusedError, UsageError
from nanumpay_backupd.model import GroupManifest
from nanumpay_backupd.pipeline.groups import MemberState, members_as_they_are, read_groups, state_of
from nanumpay_backupd.pipeline.layout import Layout, group_of

__all__ = ["group_rows", "half_done", "meant_group", "usable_members"]

_USABLE = frozenset({"good", "unproven"})
_WORDS = {"corrupt": "damaged", "gone": "not at this place", "never": "none was made"}


def meant_group(wish: Wish, layout: Layout, catalog: Catalog) -> GroupManifest | None:
    """Return the group that is named, by its id or as the newest of a name; None: a backup is meant.

    Raises NotFoundError where the place has no such group, UsageError for what cannot be said of a group.
    """
    there = list(read_groups(layout))
    by_name = [item for item in there if item.group == wish.backup]
    if not group_of(wish.backup) and not by_name:
        if wish.holds or wish.partial:
            flag = "--partial" if wish.partial else "--only-db" if wish.holds == "database" else "--only-files"
            raise UsageError(f"{flag} is for a group", hint="name one: --list shows those that are there")
        return None
    for value, flag in ((wish.at, "--at"), (wish.to_database, "--to"), (wish.collection, "--collection")):
        if value:
            raise UsageError(f"{flag} is for one backup, and {wish.backup} is a group", hint="name one of its backups")
    if wish.job or wish.only:
        raise UsageError("--job and --only are for one backup", hint="name one of the group's backups")
    if by_name:
        whole = [item for item in by_name if state_of(members_as_they_are(item, catalog.backup)) == "whole"]
        return (whole or by_name)[0]
    for item in there:
        if item.id == wish.backup:
            return item
    raise NotFoundError(f"there is no group's backup {wish.backup!r} at this place", hint="what there is: --list")


def usable_members(manifest: GroupManifest, wish: Wish, catalog: Catalog) -> list[MemberState]:
    """Return what of a group is to be restored. Raises NotFoundError, and RefusedError where that is not all of it."""
    states = members_as_they_are(manifest, catalog.backup)
    meant = [state for state in states if wish.holds in ("", state.member.holds)]
    usable = [state for state in meant if state.state in _USABLE]
    if not usable:
        raise NotFoundError(f"nothing that was asked for of {manifest.id} is at this place", hint="look: --list")
    lost = [f"{state.member.job} ({_WORDS[state.state]})" for state in meant if state not in usable]
    if lost and not wish.partial:
        raise RefusedError(
            f"{manifest.id} cannot be restored as a whole from here: {', '.join(lost)}",
            hint="what there is of it: add --partial",
            code="group-partial",
        )
    return usable


def group_rows(layout: Layout, catalog: Catalog, zone: tzinfo) -> Iterable[str]:
    """List the groups that have a manifest at the place, each with its backups."""
    for manifest in read_groups(layout):
        states = members_as_they_are(manifest, catalog.backup)
        yield f"{manifest.id}  {shown(manifest.started, zone)}  group, {state_of(states)} here"
        for state in states:
            found = state.member.backup if state.state in _USABLE else _WORDS[state.state]
            yield f"  {state.member.job}: {found}"


def half_done(manifest: GroupManifest, done: Sequence[str], failed: str, left: Sequence[str]) -> str:
    """Say how things stand where a group's restore did not come to its end."""
    words = [f"restored: {', '.join(done) or 'nothing'}", f"not restored: {failed}"]
    if left:
        words.append(f"not begun: {', '.join(left)}")
    return f"{manifest.id} is not restored as a whole; {'; '.join(words)}"
