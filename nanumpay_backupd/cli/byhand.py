"""The commands that bring data back without this software: the one place for their words. Text only; runs nothing.

The documentation repeats them. Paths are those of the backups folder, where the lines are meant to be typed.
"""

from __future__ import annotations

import shlex

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = [
    "Chain",
    "chain_to",
    "elsewhere_commands",
    "full_commands",
    "import_commands",
    "look_commands",
    "oplog_limit",
    "own_commands",
    "replay_commands",
]

_COMPRESSED_TAR = ".tar.gz"
_ENCRYPTED = "encrypted"  # the folder of what is encrypted in the backups folder, but for slices
_DECRYPT = {".gpg": "gpg -d", ".age": "age -d -i KEY"}
_ABOUT_KEY = "# KEY: the file with the private key; where a passphrase was used, leave -i KEY out"
_SLICES = "slices"  # the folder in the backups folder, and beside the copies elsewhere
_NAMED = 4  # as many slices are named; more are taken by their place in the listing
_WHOLE = ("full", "legacy")


class Chain:
    """What restores the end of a slice: a full and the slices after it, oldest first; ``whole``: nothing is missing."""

    def __init__(self, full: Reply | None, slices: list[Reply], *, whole: bool) -> None:
        self.full = full
        self.slices = slices
        self.whole = whole


def full_commands(artifact: str, databases: list[str], *, replays: bool = False) -> list[str]:
    """Say how a full is restored; ``replays``: with its own oplog, so that all is of one moment."""
    lines = [*_about(artifact), _unpack(artifact)]
    if replays:
        lines.append(f"mongorestore --uri=URI --oplogReplay --drop ./{_folder(artifact)}")
        lines.append("# or, by a user who may not replay (the collections are of slightly different moments then):")
    lines.extend(f"mongorestore --uri=URI --db={name} --drop ./{_folder(artifact)}/{name}" for name in databases)
    return lines


def import_commands(artifact: str, database: str, collection: str, *, series: bool = False) -> list[str]:
    """Say how Extended JSON of one collection is restored, a time-series if ``series``: without options and indexes."""
    from urllib.parse import quote_plus

    stem = f"./{_folder(artifact)}/{database}/{quote_plus(collection, safe='')}"
    metadata = shlex.quote(f"{stem}.metadata.json")
    where = f"--db={shlex.quote(database)} --collection={shlex.quote(collection)}"
    return [
        *_about(artifact),
        _unpack(artifact),
        f"# make the time-series collection first: {metadata} says how"
        if series
        else f"# options and indexes stay in {metadata}; backupctl restore brings them back as well",
        f"mongoimport --uri=URI {where}{'' if series else ' --drop'} --file={shlex.quote(f'{stem}.json')}",
    ]


def own_commands(artifact: str, lines: list[str], *, stream: bool = False) -> list[str]:
    """Say how a backup is restored as its manifest has it (``by_hand``); ``stream``: it is not unpacked before."""
    first = [] if stream else [_unpack(artifact)]
    # Not str.format: a line of a shell may have braces of its own.
    told = [line.replace("{folder}", f"./{_folder(artifact)}").replace("{plain}", _plain(artifact)) for line in lines]
    return [*_about(artifact), *first, *told]


def _plain(artifact: str) -> str:
    """Return the command that writes a plain archive."""
    seal = _seal(artifact)
    packed = artifact.removesuffix(seal).endswith(_COMPRESSED_TAR)
    if not seal:
        return f"gunzip -c {artifact}" if packed else f"cat {artifact}"
    decrypt = f"{_DECRYPT[seal]} {_ENCRYPTED}/{artifact}"
    return f"{decrypt} | gunzip" if packed else decrypt


def elsewhere_commands(artifact: str) -> list[str]:
    """Say how an artifact that is encrypted elsewhere only is unpacked there; the rest is as with the one here."""
    return [*_about(artifact), f"# or, of a copy from elsewhere: {_unpack(artifact).replace(f'{_ENCRYPTED}/', '')}"]


def look_commands(artifact: str) -> list[str]:
    """Say how a slice is looked into."""
    return [*_about(artifact), f"{_read([artifact])} > oplog.bson", "bsondump oplog.bson | head"]


def replay_commands(full: str, slices: list[str], end: str) -> list[str]:
    """Say how a full (its artifact) and the slices after it (theirs, in order) are restored up to and with ``end``."""
    from itertools import groupby

    folder = _folder(full)
    # Encryption may have been switched on, off or over between two slices.
    groups = [list(names) for _, names in groupby(slices, _seal)]
    unpack = [f"{_read(names)} >> {folder}/oplog.bson" for names in groups]
    restore = f"mongorestore --uri=URI --oplogReplay --oplogLimit={oplog_limit(end)} --drop ./{folder}"
    return [*_about(full, *slices), _unpack(full), *unpack, restore]


def _read(slices: list[str]) -> str:
    """Return the command that writes what slices hold, one after the other; all are encrypted alike."""
    decrypt = _DECRYPT.get(_seal(slices[0]), "")
    if len(slices) <= _NAMED:
        paths = [f"{_SLICES}/{name}" for name in slices]
        if decrypt and len(paths) == 1:
            return f"{decrypt} {paths[0]} | zstd -dc"
        if decrypt:
            return f"for one in {' '.join(paths)}; do {decrypt} $one | zstd -dc; done"
        return f"zstd -dc {' '.join(paths)}"
    # Names sort as the slices follow each other.
    names = f"{slices[0].rpartition('-slice-')[0]}-slice-*.bson.zst{_seal(slices[0])}"
    listed = f"ls {names} | sed -n {shlex.quote(f'/^{slices[0]}$/,/^{slices[-1]}$/p')}"
    if decrypt:
        return f"(cd {_SLICES} && for one in $({listed}); do {decrypt} $one | zstd -dc; done)"
    return f"(cd {_SLICES} && {listed} | xargs zstd -dc)"


def _seal(artifact: str) -> str:
    """Return what encryption has added to an artifact's name."""
    return artifact[-4:] if artifact[-4:] in _DECRYPT else ""


def _about(*artifacts: str) -> list[str]:
    return [_ABOUT_KEY] if any(_seal(name) == ".age" for name in artifacts) else []


def oplog_limit(end: str) -> str:
    """Return the ``--oplogLimit`` that lets everything up to and with an oplog time through: itself, it leaves out."""
    seconds, _, counter = end.partition(":")
    return f"{seconds}:{int(counter) + 1}"


def chain_to(slice_: Reply, full: str, backups: list[Reply]) -> Chain:
    """Find what leads from a full (its id) to the end of a slice, among all backups of the job."""
    base = next((one for one in backups if one["id"] == full and one["kind"] in _WHOLE and one["end"]), None)
    if base is None:
        return Chain(None, [slice_], whole=False)
    reached, end = _place(base["end"]), _place(slice_["end"])
    if slice_["kind"] == "differential":
        return Chain(base, [slice_], whole=_place(slice_["start"]) <= reached)
    found = []
    for one in sorted((one for one in backups if one["kind"] == "incremental"), key=lambda one: _place(one["end"])):
        if reached < _place(one["end"]) <= end and _place(one["start"]) <= reached and one["state"] != "corrupt":
            found.append(one)
            reached = _place(one["end"])
    return Chain(base, found, whole=reached == end)


def _place(optime: str) -> tuple[int, int]:
    seconds, _, counter = optime.partition(":")
    return int(seconds), int(counter)


def _unpack(artifact: str) -> str:
    seal = _seal(artifact)
    flag = "-xzf" if artifact.removesuffix(seal).endswith(_COMPRESSED_TAR) else "-xf"
    return f"{_DECRYPT[seal]} {_ENCRYPTED}/{artifact} | tar {flag} -" if seal else f"tar {flag} {artifact}"


def _folder(artifact: str) -> str:
    return artifact.removesuffix(_seal(artifact)).removesuffix(_COMPRESSED_TAR).removesuffix(".tar")
