"""Brings workflows into a running n8n: made or updated, tagged, activated. What goes where was decided before.

In this order: credentials; workflows that are not there; then, with the new ids in what calls them, the others; tags;
and last, when all are there, what is active: n8n activates none that calls one that is not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from nanumpay_backupd.errors import BackupdError, CancelledError, InternalError, ToolError
from nanumpay_backupd.model import Part
from nanumpay_backupd.settings.sources import N8nSource
from nanumpay_backupd.sources.base import Restoring
from nanumpay_backupd.sources.json_items import parse
from nanumpay_backupd.sources.n8n_command import N8nCommand
from nanumpay_backupd.sources.n8n_dump import CREDENTIALS, PUBLISHED
from nanumpay_backupd.sources.n8n_link import N8nLink, Refusal, address
from nanumpay_backupd.sources.n8n_plan import Plan, meet
from nanumpay_backupd.sources.n8n_workflow import Print, Workflow, changes, portrait, rewired, sendable

__all__ = ["Done", "N8nRestore", "list_prints"]

_SHOWN: Final = 5
_MORE: Final = "additional properties"


class Done(msgspec.Struct):
    """What a restore has done: what each workflow is to be like, by its id there, and the names of those made anew."""

    prints: dict[str, Print] = {}
    made: list[str] = []


class N8nRestore(Restoring):
    """The thread that writes, and how far it is."""

    def __init__(self, settings: N8nSource, folder: Path, plan: Plan, done: Done, *, credentials: bool) -> None:
        self._settings, self._folder, self._plan, self._done = settings, folder, plan, done
        self._credentials = credentials
        self._link, self._command = N8nLink(settings), N8nCommand(settings)
        self._tags: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._there: dict[str, Print] = {}
        self._publish: dict[str, str] = {}
        self._narrowed: set[str] = set()
        self._count = 0
        self._problems: list[str] = []
        self._killed = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="n8n-restore", daemon=True)
        self._thread.start()

    @property
    def documents(self) -> int:
        """See `Restoring.documents`."""
        return self._count

    @property
    def tail(self) -> str:
        """See `Restoring.tail`."""
        return "; ".join(self._problems)

    def wait(self, timeout: float) -> bool:
        """See `Restoring.wait`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """See `Restoring.kill`."""
        self._killed = True
        self._command.kill()
        self._link.close()
        self._thread.join()

    def judge(self) -> int:
        """See `Restoring.judge`."""
        self._thread.join()
        if isinstance(self._fault, BackupdError):
            raise self._fault
        if self._fault is not None:
            raise InternalError(f"restoring n8n failed: {type(self._fault).__name__}") from self._fault
        if self._problems:
            more = f"; and {len(self._problems) - _SHOWN} more" if len(self._problems) > _SHOWN else ""
            raise ToolError(
                f"n8n took not all: {'; '.join(self._problems[:_SHOWN])}{more}",
                hint="what n8n says of each is its own sentence; bring credentials or missing nodes there, and restore "
                "again: what is the same already stays",
                code="restore-failed",
            )
        return self._count

    def _run(self) -> None:
        try:
            self._restore()
        except Refusal as refusal:
            self._fault = address(self._settings, refusal, "what was to be restored")
        except (BackupdError, OSError, ValueError) as error:
            self._fault = CancelledError("the restore was cancelled") if self._killed else error
        finally:
            self._link.close()

    def _restore(self) -> None:
        if self._credentials:
            file = self._folder / CREDENTIALS
            count = len(parse(file.read_bytes()))
            if count:
                self._command.bring_in(file, count)
        self._there = {one.id: one for one in list_prints(self._link)}
        met, _ = meet(self._plan, self._there.values())
        self._ids = {self._plan.prints[name].id: number for name, number in met.items()}
        if self._tagged:
            self._tags = {str(tag.get("name")): str(tag.get("id")) for tag in self._link.listed("tags")}
        for part in self._plan.workflows:
            if part.name not in met:
                self._make(part)
        for part in self._plan.workflows:
            number = self._ids.get(self._plan.prints[part.name].id)
            if number is not None:
                self._bring(part, number)
        self._activate()

    @property
    def _tagged(self) -> bool:
        """Tell whether any workflow has tags, in the backup or there: who has none need not have the right."""
        prints = [*self._plan.prints.values(), *self._there.values()]
        return any(one.tags for one in prints)

    def _read(self, part: Part) -> Workflow:
        workflow = parse((self._folder / part.file).read_bytes())
        workflow = {**workflow, "name": self._plan.prefix + str(workflow.get("name") or "")}
        published = self._folder / PUBLISHED / Path(part.file).name
        if published.exists():
            workflow["activeVersion"] = parse(published.read_bytes())
        if self._plan.off:
            workflow |= {"active": False, "activeVersion": None}
        found: Workflow = rewired(workflow, self._ids)
        return found

    def _make(self, part: Part) -> None:
        """Make a workflow; it is not active, and has no tags yet."""
        workflow = self._read(part)
        try:
            made = self._send("POST", _first(workflow), "workflows")
        except Refusal as refusal:
            self._problems.append(f"{part.name} was not made: {refusal.text}")
            return
        self._ids[str(workflow.get("id"))] = number = str(made["id"])
        self._there[number] = portrait(made)
        self._done.made.append(part.name)

    def _bring(self, part: Part, number: str) -> None:
        """Make a workflow what it is to be, apart from becoming active."""
        workflow, now = self._read(part), self._there[number]
        goal = msgspec.structs.replace(portrait(workflow), id=number)
        self._done.prints[number] = goal
        try:
            if now.active and not goal.active:
                self._link.send("POST", "workflows", number, "deactivate")
            if self._differs(now, goal):
                self._update(workflow, number)
                if number in self._narrowed:
                    narrow = {**workflow, **sendable(workflow, all_keys=False)}
                    self._done.prints[number] = msgspec.structs.replace(portrait(narrow), id=number)
            if set(now.tags) != set(goal.tags):
                self._tag(number, goal.tags)
        except Refusal as refusal:
            self._problems.append(f"{part.name}: {refusal.text}")
        self._count += 1

    def _differs(self, now: Print, goal: Print) -> bool:
        """Tell whether what is there has to be written: tags, and becoming active, are done in other ways."""
        return any(changes(msgspec.structs.replace(now, tags=goal.tags, active=goal.active), goal))

    def _update(self, workflow: Workflow, number: str) -> None:
        """Write a workflow; where another version than the last one works, that one first, to be published later."""
        first = _first(workflow)
        if first is not workflow:
            said = self._send("PUT", first, "workflows", number)
            self._publish[number] = str(said.get("versionId") or "")
        self._send("PUT", workflow, "workflows", number)

    def _send(self, method: str, workflow: Workflow, *path: str) -> Any:
        """Write a workflow; where this n8n does not know all keys of nodes and settings, without those."""
        again = method == "PUT"
        try:
            return self._link.send(method, *path, body=sendable(workflow), again=again)
        except Refusal as refusal:
            if refusal.status != 400 or _MORE not in refusal.text:
                raise
            self._narrowed.update(path[1:])
        return self._link.send(method, *path, body=sendable(workflow, all_keys=False), again=again)

    def _tag(self, number: str, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self._tags:
                self._tags[name] = str(self._link.send("POST", "tags", body={"name": name}, again=False)["id"])
        body = [{"id": self._tags[name]} for name in names]
        self._link.send("PUT", "workflows", number, "tags", body=body)

    def _activate(self) -> None:
        """Activate what is to be active, in as many rounds as workflows call one another."""
        left = [number for number, goal in self._done.prints.items() if goal.active and self._lacks(number)]
        while left:
            refused: dict[str, str] = {}
            for number in left:
                version = self._publish.get(number)
                try:
                    body = {"versionId": version} if version else {}
                    self._link.send("POST", "workflows", number, "activate", body=body)
                except Refusal as refusal:
                    refused[number] = refusal.text
            if len(refused) == len(left):
                self._problems += [
                    f"{self._done.prints[number].name} was not activated: {text}" for number, text in refused.items()
                ]
                return
            left = list(refused)

    def _lacks(self, number: str) -> bool:
        """Tell whether a workflow is not active yet, or another version of it than it has to be."""
        return not self._there[number].active or number in self._publish


def list_prints(link: N8nLink) -> Iterator[Print]:
    """Yield what the workflows of an n8n are like, each once; raises as `N8nLink.listed`."""
    seen = set[str]()
    for item in link.listed("workflows", excludePinnedData="true"):
        if isinstance(item.get("id"), str) and item["id"] not in seen:
            seen.add(item["id"])
            yield portrait(item)


def _first(workflow: Workflow) -> Workflow:
    """Return what is written first: where a version works that is not the last one, that."""
    active = workflow.get("activeVersion")
    if not workflow.get("active") or not isinstance(active, dict) or not portrait(workflow).published:
        return workflow
    return {**workflow, "nodes": active.get("nodes") or [], "connections": active.get("connections") or {}}
