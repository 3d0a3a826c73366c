"""Reads all of an n8n: each workflow into a file of its own, all into one; tags, projects, credentials.

The list of workflows comes in pages by number: what is made or deleted meanwhile moves the others. So it only says
which there are; each is asked for by itself, and the list is read again until it says nothing new.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from nanumpay_backupd.errors import BackupdError, CancelledError, SourceError, ToolError
from nanumpay_backupd.model import Consistency, Part, SourceInfo
from nanumpay_backupd.settings.sources import N8nCredentials, N8nSource
from nanumpay_backupd.sources.base import Dump, Harvest
from nanumpay_backupd.sources.n8n_command import N8nCommand, fingerprint, opened_by
from nanumpay_backupd.sources.n8n_link import N8nLink, Refusal, address
from nanumpay_backupd.sources.n8n_workflow import Print, file_name, label, portrait, shown_name, without_people, written
from nanumpay_backupd.system.clock import SystemClock

__all__ = [
    "ALL",
    "CREDENTIALS",
    "FINGERPRINT",
    "FOLDER",
    "METADATA",
    "PRINT",
    "PUBLISHED",
    "WORKFLOW",
    "N8nDump",
    "N8nFacts",
]

FOLDER: Final = "workflows"
PUBLISHED: Final = "published"
"""The folder, and the kind, of versions that work although they are not the last ones."""
ALL: Final = "all-workflows.json"
METADATA: Final = "metadata.json"
CREDENTIALS: Final = "credentials.json"
_TAGS: Final = "tags.json"
_PROJECTS: Final = "projects.json"
_FOLDERS: Final = "folders.json"
WORKFLOW: Final = "workflow"
"""What `Part.kind` says of a workflow."""
FINGERPRINT: Final = "key_fingerprint"
PRINT: Final = "print:"
"""What begins the facts that say how a workflow was (`n8n_workflow.Print`), for a comparison without the archive."""
_MOST_PRINTS: Final = 2 << 20
"""Bytes that these may have with all nodes in them; beyond it they say only whether nodes differ."""
_LOOKS: Final = 5
_SHOWN: Final = 5
_FOREVER: Final = 3600.0
_ENDED_SECONDS: Final = 60.0
_ResultT = TypeVar("_ResultT")


class N8nFacts(msgspec.Struct, frozen=True):
    """What a look told: versions of n8n and of its program (empty: not used), and the ids of all workflows."""

    version: str
    tool_version: str
    ids: tuple[str, ...]


class _File(msgspec.Struct, frozen=True):
    """A file that was written whole."""

    size: int
    digest: str


class N8nDump(Dump):
    """The thread that reads, and what it has written."""

    def __init__(self, settings: N8nSource, facts: N8nFacts, folder: Path) -> None:
        self._settings, self._facts, self._folder = settings, facts, folder
        self._link, self._command = N8nLink(settings), N8nCommand(settings)
        self._files: dict[str, _File] = {}
        self._parts: list[Part] = []
        self._prints: dict[str, Print] = {}
        self._index: list[dict[str, Any]] = []
        self._seen: set[str] = set()
        self._taken: set[str] = set()
        self._warnings: list[str] = []
        self._key = ""
        self._credentials = 0
        self._active = 0
        self._projects = ""
        self._owners: dict[str, None] = {}
        self._going = threading.Event()
        self._going.set()
        self._killed = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="n8n-dump", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """See `Dump.running`."""
        return self._thread.is_alive()

    @property
    def documents(self) -> int:
        """See `Dump.documents`."""
        return len(self._index)

    def pause(self) -> None:
        """See `Dump.pause`."""
        self._going.clear()

    def resume(self) -> None:
        """See `Dump.resume`."""
        self._going.set()

    def wait(self, timeout: float) -> bool:
        """See `Dump.wait`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """See `Dump.kill`."""
        self._killed = True
        self._going.set()
        self._command.kill()
        self._link.close()
        self._thread.join(_ENDED_SECONDS)

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`: every file is there as it was written."""
        self._thread.join(_ENDED_SECONDS)
        if self._fault is not None:
            raise self._fault
        for name, file in self._files.items():
            if sizes.get(name) != file.size:
                raise ToolError(
                    f"all of n8n was read, but {name} is not there as it was written",
                    hint="check the disk (journalctl -k) and run again; nothing was published",
                    code="dump-incomplete",
                    retryable=True,
                )
        facts = self._facts
        return Harvest(
            source=SourceInfo(
                type="n8n",
                server_version=facts.version,
                topology="api",
                databases=(),
                collections=(),
                parts=tuple(self._parts),
                by_hand=tuple(_by_hand(credentials=CREDENTIALS in self._files)),
                facts=self._told(),
            ),
            consistency=Consistency(level="none", reason="workflows are read one after the other"),
            tools={"n8n": facts.tool_version} if facts.tool_version else {"api": "v1"},
            documents=len(self._index),
            warnings=tuple(self._warnings),
        )

    def _told(self) -> dict[str, str]:
        facts = {"url": self._settings.url, "credentials": str(self._settings.credentials), "active": str(self._active)}
        if self._key:
            facts[FINGERPRINT] = self._key
        prints = {f"{PRINT}{name}": msgspec.json.encode(one).decode() for name, one in self._prints.items()}
        if sum(map(len, prints.values())) > _MOST_PRINTS:
            short = {name: msgspec.structs.replace(one, nodes={}) for name, one in self._prints.items()}
            prints = {f"{PRINT}{name}": msgspec.json.encode(one).decode() for name, one in short.items()}
        return facts | prints

    def _run(self) -> None:
        try:
            self._workflows()
            self._beside()
            if self._settings.credentials != N8nCredentials.NONE:
                self._save_credentials()
            self._write(METADATA, self._metadata(), kind="metadata")
        except (BackupdError, OSError) as error:
            self._fault = CancelledError("the dump was stopped") if self._killed else error
        except Refusal as refusal:
            self._fault = address(self._settings, refusal, "what was asked for")
        finally:
            self._link.close()

    def _workflows(self) -> None:
        """Write every workflow, and see that none was made meanwhile."""
        digest, size = hashlib.sha256(), 0
        with (self._folder / ALL).open("xb") as together:

            def add(piece: bytes) -> None:
                nonlocal size
                digest.update(piece)
                size += len(piece)
                together.write(piece)

            ids: tuple[str, ...] = self._facts.ids
            for _ in range(_LOOKS):
                for number in ids:
                    self._one(number, add)
                ids = self._new()
                if not ids:
                    break
            else:
                raise SourceError(
                    f"n8n at {self._settings.url} has new workflows each time that one looks",
                    hint="run again when nobody is importing there; nothing was published",
                )
            add(b"\n]\n" if self._index else b"[]\n")
        self._files[ALL] = _File(size, digest.hexdigest())
        self._parts.append(Part(name=ALL, kind="list", bytes=size, file=ALL, digest=digest.hexdigest()))
        if not self._index:
            raise SourceError(
                f"all workflows of n8n at {self._settings.url} were deleted while they were read",
                hint="look there; older backups are kept",
                code="source-empty",
                retryable=False,
            )

    def _new(self) -> tuple[str, ...]:
        """Return the ids of workflows that were not read yet."""
        found: dict[str, None] = {}
        for item in self._link.listed("workflows", excludePinnedData="true"):
            self._pass()
            if isinstance(item.get("id"), str) and item["id"] not in self._seen:
                found[item["id"]] = None
        return tuple(found)

    def _one(self, number: str, add: Callable[[bytes], None]) -> None:
        """Read one workflow and write it; one that was deleted since is passed over."""
        self._pass()
        self._seen.add(number)
        try:
            workflow = self._link.get("workflows", number)
        except Refusal as refusal:
            if refusal.status == 404:
                return
            raise address(self._settings, refusal, f"to show workflow {number}") from None
        if (
            not isinstance(workflow, dict)
            or workflow.get("id") != number
            or not isinstance(workflow.get("nodes"), list)
        ):
            raise SourceError(f"n8n at {self._settings.url} shows something else than workflow {number}")
        found = portrait(workflow)
        workflow = without_people(workflow)
        # With that in it n8n's own program would not take it: of the version it looks for a record that is not there.
        published = workflow.pop("activeVersion", None)
        file, part = file_name(workflow, self._taken), label(workflow)
        name = f"{FOLDER}/{file}"
        self._write(name, written(workflow), kind=WORKFLOW, part=part, items=1)
        if found.published:
            self._write(f"{PUBLISHED}/{file}", written(published), kind=PUBLISHED)
        add(b",\n" if self._index else b"[\n")
        add(written(workflow, indent=None)[:-1])
        self._prints[part] = found
        self._active += bool(workflow.get("active"))
        self._index.append(_entry(workflow, name))
        self._owners |= {str(owner["projectId"]): None for owner in _owners(workflow) if owner.get("projectId")}

    def _beside(self) -> None:
        """Write tags, projects and folders, as far as this n8n tells them."""
        tags = self._asked(lambda: list(self._link.listed("tags")))
        if isinstance(tags, list):
            self._write(_TAGS, written_list(tags), kind="tags")
        else:
            self._warnings.append(f"the list of tags was refused: {tags}; those of each workflow are saved with it")
        projects = self._asked(lambda: list(self._link.listed("projects")))
        if isinstance(projects, list):
            self._write(_PROJECTS, written_list(projects), kind="projects")
            self._owners |= {str(project.get("id")): None for project in projects}
        else:
            # Without a license there is but one of each person, and a workflow names it.
            self._projects = projects
        told = [self._asked(partial(self._folders, number)) for number in self._owners]
        if folders := [one for one in told if isinstance(one, dict)]:
            self._write(_FOLDERS, written_list(folders), kind="folders")

    def _folders(self, project: str) -> dict[str, Any]:
        """Return the folders of a project; raises Refusal, also where this version's interface does not have them."""
        return {"projectId": project, "folders": self._link.taken("projects", project, "folders")}

    def _asked(self, what: Callable[[], _ResultT]) -> _ResultT | str:
        """Return what n8n tells, or its reason for not telling: a license, a right, an older version."""
        self._pass()
        try:
            return what()
        except Refusal as refusal:
            if refusal.status in (400, 403, 404, 405):
                return refusal.text
            raise

    def _save_credentials(self) -> None:
        self._pass()
        credentials = self._command.export()
        self._credentials = len(credentials)
        self._write(CREDENTIALS, written_list(credentials), kind="credentials")
        if self._settings.credentials == N8nCredentials.DECRYPTED:
            return
        key = self._command.key()
        if key is None:
            self._warnings.append(
                "the fingerprint of n8n's encryption key cannot be had, so that nobody can tell which key these "
                "credentials need: name it in encryption_key, and keep it"
            )
            return
        self._key = fingerprint(key)
        if wrong := opened_by(key, credentials):
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            names = ", ".join(shown_name({"name": name}) for name in wrong[:_SHOWN])
            self._warnings.append(f"the encryption key that was found does not open these credentials: {names}{more}")

    def _metadata(self) -> bytes:
        return written(
            {
                "timestamp": SystemClock().now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "totalWorkflows": len(self._index),
                "activeWorkflows": self._active,
                "url": self._settings.url,
                "n8nVersion": self._facts.version,
                "credentials": self._settings.credentials,
                "totalCredentials": self._credentials,
                "encryptionKeyFingerprint": self._key,
                "projectsRefused": self._projects,
                "workflows": self._index,
            }
        )

    def _write(self, name: str, data: bytes, *, kind: str, part: str = "", items: int = 0) -> None:
        (self._folder / name).parent.mkdir(exist_ok=True)
        with (self._folder / name).open("xb") as output:
            output.write(data)
        digest = hashlib.sha256(data).hexdigest()
        self._files[name] = _File(len(data), digest)
        self._parts.append(Part(name=part or name, kind=kind, items=items, bytes=len(data), file=name, digest=digest))

    def _pass(self) -> None:
        """Wait while the dump is held; raises CancelledError once it was ended."""
        self._going.wait(_FOREVER)
        if self._killed:
            raise CancelledError("the dump was stopped")


def written_list(items: list[dict[str, Any]]) -> bytes:
    """Return a list as JSON, one element a line."""
    lines = b",\n".join(written(item, indent=None)[:-1] for item in items)
    return b"[\n" + lines + b"\n]\n" if items else b"[]\n"


def _owners(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in workflow.get("shared") or () if isinstance(one, dict)]


def _entry(workflow: dict[str, Any], file: str) -> dict[str, Any]:
    """Return what the metadata say of a workflow."""
    owner = next(iter(_owners(workflow)), {})
    project: Any = owner.get("project")
    return {
        "id": workflow["id"],
        "name": workflow.get("name"),
        "file": file,
        "active": bool(workflow.get("active")),
        "updatedAt": workflow.get("updatedAt"),
        "tags": [tag.get("name") for tag in workflow.get("tags") or () if isinstance(tag, dict)],
        "project": project.get("name") if isinstance(project, dict) else owner.get("projectId"),
    }


def _by_hand(*, credentials: bool) -> Iterator[str]:
    yield "# n8n's own program, of the same version; ids stay, and every workflow is inactive afterwards"
    yield "# over the API of an n8n, with the ids that it gives them: docs/sources/n8n.md"
    if credentials:
        yield f"n8n import:credentials --input={{folder}}/{CREDENTIALS}"
    yield f"n8n import:workflow --separate --input={{folder}}/{FOLDER}"
