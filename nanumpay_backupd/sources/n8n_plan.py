"""Pure: which workflows of a backup go where: what is wanted of it, and which of those that are there they meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from nanumpay_backupd.errors import NotFoundError, RefusedError
from nanumpay_backupd.model import Manifest, Part
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.sources.n8n_dump import CREDENTIALS, PRINT, PUBLISHED, WORKFLOW
from nanumpay_backupd.sources.n8n_workflow import Print

__all__ = ["OPTIONS", "Plan", "expected", "meet", "plan_of"]

OPTIONS: Final = {
    "active-only": "yes: only workflows that were active",
    "active": "keep (the default: each as it was) or off (none is active afterwards)",
    "credentials": "yes, no, or unchecked (also where nobody can tell whether they fit n8n's key)",
    "prefix": "what is put before the names: copies, which are not active, beside what is there",
}
_YES: Final = ("yes", "true", "1")
_NO: Final = ("no", "false", "0", "")
_SHOWN: Final = 5


class Plan(msgspec.Struct, frozen=True):
    """What of a backup is brought back: ``workflows`` with what they were, by the part's name.

    ``folder`` is a folder, ``url`` another n8n, both empty: the job's own. ``credentials`` is empty where it was not
    said. ``whole``: neither names nor states choose among the workflows.
    """

    parts: tuple[Part, ...]
    prints: dict[str, Print]
    folder: str = ""
    url: str = ""
    prefix: str = ""
    credentials: str = ""
    off: bool = False
    whole: bool = True

    @property
    def workflows(self) -> tuple[Part, ...]:
        """Return the parts that are workflows."""
        return tuple(part for part in self.parts if part.kind == WORKFLOW)


def plan_of(manifest: Manifest, wanted: Wanted) -> Plan:
    """Say what is wanted; raises NotFoundError, RefusedError (``target-refused``)."""
    options = wanted.options
    active_only = _flag("active-only", options.get("active-only", ""))
    credentials = options.get("credentials", "")
    if credentials not in ("", "unchecked"):
        credentials = "yes" if _flag("credentials", credentials) else "no"
    if options.get("active", "keep") not in ("keep", "off"):
        raise _refused(f"active is {options['active']!r}", "it is keep or off")
    folder = wanted.to if wanted.to.startswith("/") else ""
    url = wanted.to.rstrip("/") if wanted.to.startswith(("http://", "https://")) else ""
    if wanted.to and not folder and not url:
        raise _refused(
            f"{wanted.to!r} is no place for n8n", "name a folder by its whole path, or the address of an n8n"
        )
    if "@" in url:
        raise _refused("the address of the other n8n has a login in it", "leave it out: the job's API key is used")
    if folder and options.keys() - {"active-only"}:
        raise _refused("into a folder go files as they are", f"leave out {', '.join(sorted(options))}")
    prints = prints_of(manifest)
    parts = tuple(part for part in manifest.source.parts if _is_wanted(part, prints, wanted.only))
    _see_found(manifest, prints, wanted.only)
    if active_only:
        parts = tuple(part for part in parts if part.kind != WORKFLOW or prints[part.name].active)
    chosen = {part.file.rpartition("/")[2] for part in parts if part.kind == WORKFLOW}
    parts = tuple(part for part in parts if part.kind != PUBLISHED)
    parts += tuple(
        part for part in manifest.source.parts if part.kind == PUBLISHED and part.file.rpartition("/")[2] in chosen
    )
    if not parts:
        raise NotFoundError(f"{manifest.backup} holds no workflow that was active", hint="leave out active-only")
    if CREDENTIALS in wanted.only and not credentials:
        credentials = "yes"
    return Plan(
        parts=parts,
        prints={part.name: prints[part.name] for part in parts if part.kind == WORKFLOW},
        folder=folder,
        url=url,
        prefix=options.get("prefix", ""),
        credentials=credentials,
        off=options.get("active") == "off" or bool(options.get("prefix")),
        whole=not wanted.only and not active_only,
    )


def prints_of(manifest: Manifest) -> dict[str, Print]:
    """Return what the workflows of a backup were like, by the part's name."""
    found = {}
    for part in manifest.source.parts:
        if part.kind == WORKFLOW:
            said = manifest.source.facts.get(f"{PRINT}{part.name}", "")
            found[part.name] = msgspec.json.decode(said, type=Print) if said else Print("", part.name, "")
    return found


def meet(plan: Plan, there: Iterable[Print]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the id of what each workflow meets, by the part's name, and the names of which nobody can tell which.

    A workflow meets the one with its id; else the only one with its name, if it is the only one of that name itself;
    else one that is the same to the last node. What meets none is made anew. With a prefix only names count.
    """
    left = {one.id: one for one in there}
    found: dict[str, str] = {}
    for name, one in plan.prints.items():
        if not plan.prefix and one.id in left:
            found[name] = left.pop(one.id).id
    rest = {name: one for name, one in plan.prints.items() if name not in found}
    ours = Counter(plan.prefix + one.name for one in rest.values())
    theirs = Counter(one.name for one in left.values())
    unclear = []
    for name, one in rest.items():
        called = plan.prefix + one.name
        same = [other for other in left.values() if other.name == called]
        if same and (ours[called] > 1 or theirs[called] > 1):
            same = [other for other in same if other.whole == one.whole]
            if not same:
                unclear.append(called)
        if same:
            found[name] = left.pop(same[0].id).id
    return found, tuple(dict.fromkeys(unclear))


def expected(plan: Plan, one: Print) -> Print:
    """Return what a workflow is to be like afterwards, as far as the options change it."""
    if plan.off:
        one = msgspec.structs.replace(one, active=False, published="")
    return one


def _is_wanted(part: Part, prints: dict[str, Print], only: tuple[str, ...]) -> bool:
    return not only or any(_is_meant(part, prints.get(part.name), word) for word in only)


def _is_meant(part: Part, one: Print | None, word: str) -> bool:
    """Tell whether a word means that part: its name, its file, of a workflow its name (also a pattern) or its id."""
    names = {part.name, part.file, part.file.rpartition("/")[2]}
    if one is None:
        return word in names
    return word in names | {one.name, one.id} or fnmatchcase(one.name, word)


def _see_found(manifest: Manifest, prints: dict[str, Print], only: tuple[str, ...]) -> None:
    for word in only:
        if not any(_is_meant(part, prints.get(part.name), word) for part in manifest.source.parts):
            names = list(prints)
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise NotFoundError(
                f"{manifest.backup} holds no workflow {word!r}", hint=f"it holds: {', '.join(names[:_SHOWN])}{more}"
            )


def _flag(key: str, text: str) -> bool:
    if text.lower() not in _YES + _NO:
        raise _refused(f"{key} is {text!r}", f"it is one of: {OPTIONS[key]}")
    return text.lower() in _YES


def _refused(message: str, hint: str) -> RefusedError:
    return RefusedError(message, hint=hint, code="target-refused")
