"""Pure: what a workflow of n8n consists of: names of files, what can be brought back, what differs between two."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

__all__ = [
    "Print",
    "Workflow",
    "changes",
    "file_name",
    "label",
    "portrait",
    "rewired",
    "sendable",
    "shown_name",
    "without_people",
    "written",
]

Workflow = dict[str, Any]

_NAME_BYTES: Final = 80
_SHOWN: Final = 60
_TAKEN: Final = ("name", "nodes", "connections", "settings", "staticData")
"""What the interface takes of a workflow (n8n 1 and 2); ids, tags and the active state have ways of their own."""
_NODE_KEYS: Final = frozenset(
    "id name type typeVersion position parameters credentials disabled notes notesInFlow executeOnce alwaysOutputData "
    "retryOnFail maxTries waitBetweenTries continueOnFail onError webhookId createdAt updatedAt".split()
)
_SETTING_KEYS: Final = frozenset(
    "saveExecutionProgress saveManualExecutions saveDataErrorExecution saveDataSuccessExecution executionTimeout "
    "errorWorkflow timezone executionOrder callerPolicy callerIds timeSavedPerExecution availableInMCP".split()
)
_NOT_TAKEN: Final = ("pinData", "description")
"""Its ``meta`` is not missed: n8n notes there which template it came from."""
_NAMING: Final = ("value", "cachedResultUrl")
"""What of a reference to another workflow names it by its id."""
_SHORT: Final = 12
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Print(msgspec.Struct, frozen=True):
    """What tells whether two workflows are the same, without their content: digests of the nodes and of the rest.

    ``nodes`` is empty where there were too many to be kept; ``whole`` is of all of them, the name and the connections.
    ``published`` is of the version that works, where the last saved one is another. ``lost`` names what the interface
    does not take.
    """

    id: str
    name: str
    whole: str
    nodes: dict[str, str] = {}
    connections: str = ""
    settings: dict[str, str] = {}
    static: str = ""
    active: bool = False
    published: str = ""
    tags: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def label(workflow: Mapping[str, Any]) -> str:
    """Return what a workflow is called among the parts of a backup: its name for people, and its id."""
    return f"{shown_name(workflow)} ({_id(workflow)})"


def shown_name(workflow: Mapping[str, Any]) -> str:
    """Return its name for people: one line, not too long, without signs that move what stands around it."""
    name = "".join(sign if sign.isprintable() else " " for sign in str(workflow.get("name") or ""))
    name = " ".join(name.split()) or "without a name"
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN - 1]}…"


def file_name(workflow: Mapping[str, Any], taken: set[str]) -> str:
    """Return the name of its file, which is good on any filesystem, and note it in ``taken``.

    The id comes first, so that a workflow keeps its file's beginning when it is renamed; of the name the letters and
    digits of any script stay.
    """
    name = unicodedata.normalize("NFC", str(workflow.get("name") or ""))
    plain = re.sub(r"[^\w]+", "-", name).strip("-_")
    plain = plain.encode("utf-8", "ignore")[:_NAME_BYTES].decode("utf-8", "ignore").rstrip("-")
    base = f"{_id(workflow)}-{plain}" if plain else _id(workflow)
    found, number = base, 1
    while found.casefold() in taken:
        number += 1
        found = f"{base}-{number}"
    taken.add(found.casefold())
    return f"{found}.json"


def written(workflow: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
    """Return it as JSON with a line's end; lone surrogates, which a script may hold, stay escapes."""
    try:
        return (json.dumps(workflow, ensure_ascii=False, indent=indent) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(workflow, indent=indent) + "\n").encode()


def without_people(workflow: Workflow) -> Workflow:
    """Return it without the accounts that n8n tells of everyone who may see it: no part of it, and personal data."""
    shared = workflow.get("shared")
    if not isinstance(shared, list):
        return workflow
    kept = []
    for share in shared:
        project = share.get("project") if isinstance(share, dict) else None
        if isinstance(project, dict):
            share = {**share, "project": {key: value for key, value in project.items() if key != "projectRelations"}}  # noqa: PLW2901
        kept.append(share)
    return {**workflow, "shared": kept}


def portrait(workflow: Mapping[str, Any]) -> Print:
    """Return what tells it apart from another state of it."""
    nodes = {str(node.get("name")): _digest(_node(node)) for node in _nodes(workflow)}
    connections, static = _digest(workflow.get("connections") or {}), workflow.get("staticData")
    settings = {str(key): _digest(value) for key, value in (workflow.get("settings") or {}).items()}
    published = _published(workflow)
    return Print(
        id=str(workflow.get("id")),
        name=str(workflow.get("name") or ""),
        whole=_digest([str(workflow.get("name")), sorted(nodes.items()), connections]),
        nodes=nodes,
        connections=connections,
        settings=settings,
        static=_digest(static) if static else "",
        active=bool(workflow.get("active")),
        published=_digest([sorted((str(n.get("name")), _digest(_node(n))) for n in published[0]), published[1]])
        if published is not None
        else "",
        tags=tuple(sorted(str(tag.get("name")) for tag in workflow.get("tags") or () if isinstance(tag, dict))),
        lost=tuple(_not_taken(workflow)),
    )


def changes(before: Print, after: Print) -> Iterator[str]:
    """Yield what bringing back ``after`` over ``before`` changes, for people; nothing: they are the same.

    Of settings those count that ``after`` has: n8n keeps the others. What its nodes remember (static data) counts only
    beside something else: it changes with every execution.
    """
    if before.name != after.name:
        yield f"is called {shown_name({'name': before.name})} now"
    if before.whole != after.whole:
        found = list(_changed_nodes(before.nodes, after.nodes)) if after.nodes and before.nodes else ["its nodes"]
        if before.connections != after.connections:
            found.append("connections")
        yield from found
    changed = [key for key, digest in after.settings.items() if before.settings.get(key) != digest]
    if changed:
        yield f"settings {_some(sorted(changed))}"
    if before.tags != after.tags:
        yield f"tags: {', '.join(after.tags) or 'none'}"
    if before.active != after.active:
        yield "becomes active" if after.active else "is deactivated"
    elif before.published != after.published:
        yield "what is published"


def sendable(workflow: Mapping[str, Any], *, all_keys: bool = True) -> Workflow:
    """Return what the interface takes of a workflow.

    Without ``all_keys`` nodes and settings have only what every version of it takes.
    """
    body = {key: workflow[key] for key in _TAKEN if workflow.get(key) is not None}
    body = {"name": "", "nodes": [], "connections": {}, "settings": {}, **body}
    if not all_keys:
        body["nodes"] = [{key: node[key] for key in node if key in _NODE_KEYS} for node in _nodes(workflow)]
        body["settings"] = {key: value for key, value in body["settings"].items() if key in _SETTING_KEYS}
    return body


def rewired(workflow: Workflow, ids: Mapping[str, str]) -> Workflow:
    """Return it with the ids of workflows that it calls (sub-workflows, its error workflow) changed by ``ids``."""
    ids = {old: new for old, new in ids.items() if old != new}
    if not ids:
        return workflow
    settings = dict(workflow.get("settings") or {})
    if settings.get("errorWorkflow") in ids:
        settings["errorWorkflow"] = ids[settings["errorWorkflow"]]
    if isinstance(callers := settings.get("callerIds"), str):
        settings["callerIds"] = re.sub(r"[^\s,]+", lambda found: ids.get(found[0], found[0]), callers)
    changed = {**workflow, "nodes": _rewired(workflow, ids), "settings": settings}
    if isinstance(active := workflow.get("activeVersion"), dict):
        changed["activeVersion"] = {**active, "nodes": _rewired(active, ids)}
    return changed


def _rewired(version: Mapping[str, Any], ids: Mapping[str, str]) -> list[Workflow]:
    return [_rewired_node(node, ids) for node in _nodes(version)]


def _rewired_node(node: Workflow, ids: Mapping[str, str]) -> Workflow:
    parameters: Any = node.get("parameters")
    called: Any = parameters.get("workflowId") if isinstance(parameters, dict) else None
    if isinstance(called, str) and called in ids:
        return {**node, "parameters": {**parameters, "workflowId": ids[called]}}
    if isinstance(called, dict) and isinstance(old := called.get("value"), str) and old in ids:
        found = {key: called[key].replace(old, ids[old]) for key in _NAMING if isinstance(called.get(key), str)}
        return {**node, "parameters": {**parameters, "workflowId": {**called, **found}}}
    return node


def _id(workflow: Mapping[str, Any]) -> str:
    """Return its id as it can stand in a file's name."""
    found = str(workflow.get("id") or "")
    if _ID.fullmatch(found):
        return found
    return f"id-{hashlib.sha256(found.encode('utf-8', 'surrogatepass')).hexdigest()[:_SHORT]}"


def _nodes(workflow: Mapping[str, Any]) -> list[Workflow]:
    return [node for node in workflow.get("nodes") or () if isinstance(node, dict)]


def _node(node: Mapping[str, Any]) -> Workflow:
    """Return what a node says, in one form: ids of credentials are those of one n8n, their names are not."""
    credentials = node.get("credentials")
    if isinstance(credentials, dict):
        named = {kind: one.get("name") if isinstance(one, dict) else one for kind, one in credentials.items()}
        return {**node, "credentials": named}
    return dict(node)


def _published(workflow: Mapping[str, Any]) -> tuple[list[Workflow], str] | None:
    """Return nodes and connections of the version that works, where that is another one than the last saved."""
    active = workflow.get("activeVersion")
    if not workflow.get("active") or not isinstance(active, dict):
        return None
    nodes = _nodes(active)
    if nodes == _nodes(workflow) and active.get("connections") == workflow.get("connections"):
        return None
    return nodes, _digest(active.get("connections") or {})


def _not_taken(workflow: Mapping[str, Any]) -> Iterator[str]:
    """Name what of a workflow the interface does not take."""
    yield from (key for key in _NOT_TAKEN if workflow.get(key))
    if workflow.get("isArchived"):
        yield "that it is archived"
    settings = (workflow.get("settings") or {}).keys() - _SETTING_KEYS
    nodes = {key for node in _nodes(workflow) for key in node} - _NODE_KEYS
    yield from (f"settings.{key}" for key in sorted(map(str, settings)))
    yield from (f"nodes.{key}" for key in sorted(map(str, nodes)))


def _changed_nodes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    sorts = (
        ("changed", [name for name in after if name in before and before[name] != after[name]]),
        ("comes back", [name for name in after if name not in before]),
        ("goes", [name for name in before if name not in after]),
    )
    for what, names in sorts:
        if names:
            yield f"{what}: {_some(names)}"


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown_name({"name": name}) for name in names[:most]) + more


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_SHORT]
