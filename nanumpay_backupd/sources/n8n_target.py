"""Where a backup of n8n goes back to: a running n8n by its interface, or a folder. Says beforehand what changes.

Workflows that are there are updated, those that are not are made; what the backup does not hold stays as it is. n8n
gives ids by itself, so that a workflow that was deleted comes back under a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import N8nCredentials, N8nSource, SourceSettings
from nanumpay_backupd.sources.base import Comparison, FolderTarget, Goal, Restoring, Wanted
from nanumpay_backupd.sources.n8n_command import N8nCommand, fingerprint
from nanumpay_backupd.sources.n8n_dump import ALL, CREDENTIALS, FINGERPRINT
from nanumpay_backupd.sources.n8n_folder import N8nFolder
from nanumpay_backupd.sources.n8n_link import N8nLink, Refusal, address
from nanumpay_backupd.sources.n8n_plan import OPTIONS, Plan, expected, meet, plan_of
from nanumpay_backupd.sources.n8n_restore import Done, N8nRestore, list_prints
from nanumpay_backupd.sources.n8n_workflow import changes

__all__ = ["N8nTarget"]

_SHOWN: Final = 5


class N8nTarget(FolderTarget):
    """The n8n of the job, with ``to`` another one or a folder."""

    options: ClassVar[Mapping[str, str]] = OPTIONS

    def __init__(self, settings: N8nSource) -> None:
        self._settings = settings
        self._done = Done()

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See `Target.look`."""
        plan = plan_of(manifest, wanted)
        if plan.folder:
            return N8nFolder().look(manifest, wanted)
        settings = _reached(self._settings, plan)
        with N8nLink(settings) as link:
            try:
                there = {one.id: one for one in list_prints(link)}
            except Refusal as refusal:
                raise address(settings, refusal, "to list workflows") from None
            version = link.version()
        met, unclear = meet(plan, there.values())
        lines, same = [], 0
        for part in plan.workflows:
            found = there.get(met.get(part.name, ""))
            told = [] if found is None else list(changes(found, expected(plan, plan.prints[part.name])))
            same += found is not None and not told
            if found is None or told:
                lines.append(f"{part.name}: {'; '.join(told) or 'new'}")
        credentials = self._with_credentials(plan, manifest, version)
        changed = [part.name for part in plan.workflows if part.name in met]
        if not wanted.overwrite and (len(changed) > same or credentials):
            _refuse(settings, len(changed) - same, credentials=credentials)
        if same:
            lines.append(f"the same: {same:,} {'workflow' if same == 1 else 'workflows'}")
        if credentials:
            lines.append("credentials of the same id are replaced, others stay")
        brought = [part for part in plan.parts if part in plan.workflows or (credentials and part.file == CREDENTIALS)]
        return Goal(
            server=f"n8n {version} at {settings.url}".replace("  ", " "),
            place="n8n",
            parts=tuple(brought),
            # An n8n without any workflow is new: of that there is nothing to be backed up first.
            there=(*changed, *(["credentials"] if credentials and there else [])),
            there_documents=len(changed),
            changes=tuple(lines),
            warnings=tuple(self._warnings(plan, manifest, version, met, unclear, credentials=credentials)),
        )

    def safety(self, manifest: Manifest, wanted: Wanted) -> SourceSettings | None:
        """See `Target.safety`; files in a folder are copies."""
        plan = plan_of(manifest, wanted)
        return None if plan.folder else _reached(self._settings, plan)

    def needs(self, name: str, wanted: Wanted) -> bool:
        """See `FolderTarget.needs`."""
        return wanted.to.startswith("/") or name != ALL

    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:
        """See `FolderTarget.start`."""
        plan = plan_of(manifest, wanted)
        if plan.folder:
            return N8nFolder().start(folder, manifest, wanted, work)
        settings = _reached(self._settings, plan)
        credentials = self._with_credentials(plan, manifest, running="")
        return N8nRestore(settings, folder, plan, self._done, credentials=credentials)

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:
        """See `Target.compare`: each workflow as it is there now, beside what it was to become."""
        plan = plan_of(manifest, wanted)
        if plan.folder:
            return N8nFolder().compare(manifest, wanted, work)
        settings, found = _reached(self._settings, plan), []
        with N8nLink(settings) as link:
            try:
                there = {one.id: one for one in list_prints(link) if one.id in self._done.prints}
            except Refusal as refusal:
                raise address(settings, refusal, "to list workflows") from None
        for number, one in self._done.prints.items():
            if number not in there:
                found.append(f"{one.name} ({number}) is not there")
            elif told := list(changes(there[number], one)):
                found.append(f"{one.name} ({number}): {'; '.join(told)}")
        return Comparison(documents=len(self._done.prints), parts=len(self._done.prints), differences=tuple(found))

    def undo(self) -> str:
        """See `Target.undo`."""
        made = self._done.made
        return f"made anew, to be deleted by hand where they are not wanted: {_some(made)}" if made else ""

    def _with_credentials(self, plan: Plan, manifest: Manifest, running: str) -> bool:
        """Tell whether credentials are brought back; raises RefusedError where they would be of no use there."""
        held = any(part.file == CREDENTIALS for part in manifest.source.parts)
        if plan.credentials in ("yes", "unchecked"):
            if not held:
                raise _refused("the backup holds no credentials", "leave out --option credentials")
            if plan.url or not self._settings.command:
                raise _refused(
                    "credentials go into an n8n by its own program only, and of this n8n the job names none",
                    "name it in command of the job, or bring them back by hand (docs/sources/n8n.md)",
                )
        else:
            wanted = held and plan.whole and not plan.prefix and not plan.url and self._settings.command
            if plan.credentials == "no" or not wanted:
                return False
        N8nCommand(self._settings).fit(running)
        if manifest.source.facts.get("credentials") != N8nCredentials.DECRYPTED and plan.credentials != "unchecked":
            self._see_key(manifest)
        return True

    def _see_key(self, manifest: Manifest) -> None:
        """Compare the key that credentials need with that of this n8n; raises RefusedError."""
        needed, key = manifest.source.facts.get(FINGERPRINT, ""), N8nCommand(self._settings).key()
        if not needed or key is None:
            whose = "this n8n's key is not known here" if needed else "the backup does not say which key they need"
            raise _refused(
                f"nobody can tell whether n8n could read the credentials afterwards: {whose}",
                "name it in encryption_key of the job; or --option credentials=no, or credentials=unchecked",
            )
        if fingerprint(key) != needed:
            raise _refused(
                f"the credentials are encrypted with another key than this n8n has ({needed}, here {fingerprint(key)})",
                "give n8n the key of that time (N8N_ENCRYPTION_KEY), or leave them: --option credentials=no",
            )

    def _warnings(
        self,
        plan: Plan,
        manifest: Manifest,
        version: str,
        met: dict[str, str],
        unclear: tuple[str, ...],
        *,
        credentials: bool,
    ) -> Iterator[str]:
        was = manifest.source.server_version
        if was and version and was != version:
            older = _numbers(version) < _numbers(was)
            more = ": it may not know all nodes" if older else ""
            yield f"the backup is of n8n {was}, this is the {'older' if older else 'newer'} {version}{more}"
        fresh = [part.name for part in plan.workflows if part.name not in met]
        if fresh and not plan.prefix:
            yield f"made anew, under another id: {_some(fresh)}; what calls them is changed, if it is brought back too"
        # What the interface does not take stays, of a workflow that is there, as it is there.
        keys = {what for one in plan.prints.values() for what in one.lost if "." in what}
        lost = sorted(keys | {what for name in fresh for what in plan.prints[name].lost})
        if lost:
            yield f"n8n's interface does not take {', '.join(lost)}: n8n import:workflow does (docs/sources/n8n.md)"
        if unclear:
            yield f"there are several of the name, and none is the same, so that new ones are made: {_some(unclear)}"
        held = any(part.file == CREDENTIALS for part in manifest.source.parts)
        if held and not credentials and plan.credentials != "no" and (plan.url or not self._settings.command):
            yield "credentials are not brought back: that takes n8n's own program (command of the job)"


def _reached(settings: N8nSource, plan: Plan) -> N8nSource:
    """Return the settings of the n8n that is meant: the job's, or another one with the job's key."""
    if not plan.url:
        return settings
    return msgspec.structs.replace(settings, url=plan.url, command=(), credentials=N8nCredentials.NONE)


def _refuse(settings: N8nSource, changed: int, *, credentials: bool) -> None:
    what = []
    if changed:
        what.append(f"{changed:,} {'workflow is' if changed == 1 else 'workflows are'} other than in the backup")
    if credentials:
        what.append("credentials of the same id would be replaced")
    raise RefusedError(
        f"n8n at {settings.url}: {', and '.join(what)}",
        hint="look at what would change: --dry-run --overwrite; then restore with --overwrite, or make copies beside "
        "them: --option prefix=…; without credentials: --option credentials=no",
        code="target-exists",
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("-")[0])]


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _refused(message: str, hint: str) -> RefusedError:
    return RefusedError(message, hint=hint, code="target-refused")
