"""The last steps of the demo: what an operator sees, a restore by hand with its comparison, retention."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Final

from nanumpay_backupd.cli.terminal import Column
from nanumpay_backupd.cli.words import number, plural, size
from tests.compare import compare_databases, describe_database
from tests.demo.scene import DATABASE, Scene
from tests.demo.story import KEPT_BACKUPS
from tests.demo.teller import DemoError

__all__ = ["look", "restore_by_hand", "retain"]

RESTORED: Final = "nanumpay_restored"
_HASH: Final = "content (dbHash)"
_DIGITS: Final = 8
_MADE: Final = 3


def look(scene: Scene) -> None:
    """Show what an operator sees, and check the copies."""
    tell = scene.tell
    tell.step("What an operator sees")
    scene.backupctl("status")
    scene.backupctl("list")
    backup = scene.backup = scene.control.call("DescribeBackup", {"backup": scene.run["backup"]})["backup"]
    copies = {copy["destination"]: copy["state"] for copy in backup["copies"]}
    good = all(state in ("verified", "uploaded") for state in copies.values())
    if backup["state"] != "verified" or not good or set(copies) != set(scene.places):
        raise DemoError(f"the backup is {backup['state']}, its copies are not as they should be: {copies}")
    artifact = backup["manifest"]["artifact"]
    content = (
        f"{plural(backup['documents'], 'document')}, {size(artifact['raw_bytes'])} of BSON in {size(artifact['size'])}"
    )
    tell.tick(f"{content}, {backup['state']}, {len(copies)} copies")
    scene.summary.append(("backup", f"{backup['artifact']}, {backup['state']}"))
    scene.summary.append(("content", content))
    scene.summary.append(("copies", ", ".join(f"{place} {copies[place]}" for place in scene.places)))


def restore_by_hand(scene: Scene) -> None:
    """Restore with stock tools into another database, and compare."""
    tell = scene.tell
    tell.step("Back again, by hand, with stock tools only")
    artifact = scene.backup["artifact"]
    files = {place: _find(folder, artifact).relative_to(scene.house.folder) for place, folder in scene.places.items()}
    _compare_sums(scene, list(files.values()))
    folder = scene.house.folder / "restore"
    tell.note("The copy from the FTP server, into another database:")
    scene.command(["mkdir", folder.name])
    scene.command(["tar", "-xzf", str(files["office"]), "-C", folder.name])
    dump = f"./{folder.name}/{artifact.removesuffix('.tar.gz')}/{DATABASE}"
    uri = scene.servers["mongod"]["uri"]
    began = time.monotonic()
    scene.command(
        ["mongorestore", f"--uri={uri}", f"--db={RESTORED}", "--drop", dump],
        shown=f"mongorestore --uri='{uri}' --db={RESTORED} --drop {dump}",
        keep=_is_result,
    )
    tell.tick(f"restored as {RESTORED}", time.monotonic() - began)
    _compare_content(scene)
    shutil.rmtree(folder)


def _compare_sums(scene: Scene, files: list[Path]) -> None:
    """Let sha256sum read the copies, each where its server keeps it."""
    lines = scene.command(["sha256sum", *map(str, files)], abridge=lambda line: f"{line[:16]}…{line[64:]}")
    sums = {line.partition(" ")[0] for line in lines}
    wanted = scene.backup["manifest"]["artifact"]["sha256"]
    if sums != {wanted}:
        raise DemoError(f"the copies differ from each other or from the manifest's sha256 {wanted}")
    scene.tell.tick(f"{len(files)} copies, each is what the manifest says: {wanted[:16]}…")


def _is_result(line: str) -> bool:
    """Tell whether a line of mongorestore is more than a note of its progress."""
    return "\t" not in line or "restored successfully" in line


def _compare_content(scene: Scene) -> None:
    """Compare what was backed up with what was restored: hashes by the server, options, indexes."""
    tell, mongo = scene.tell, scene.mongo
    began = time.monotonic()
    tell.note("Both databases, hashed by the server itself:")
    tell.typed("db.runCommand({dbHash: 1})", ">")
    ours, theirs = describe_database(mongo, DATABASE), describe_database(mongo, RESTORED)
    screen = tell.screen
    marks = {True: screen.paint(screen.mark("ok"), "green"), False: screen.paint(screen.mark("bad"), "red")}
    names = sorted(ours)

    def restored(name: str) -> str:
        found = theirs.get(name, {}).get(_HASH, "-")[:_DIGITS]
        return f"{found:<{_DIGITS}} {marks[ours[name] == theirs.get(name)]}"

    columns = [
        Column("COLLECTION", names),
        Column("TYPE", [ours[name]["type"] for name in names], drop=1),
        Column("DOCUMENTS", [number(int(ours[name]["documents"])) for name in names], right=True),
        Column("INDEXES", [str(sum(key.startswith("index ") for key in ours[name])) for name in names], right=True),
        Column("HASH", [ours[name].get(_HASH, "-")[:_DIGITS] for name in names]),
        Column("RESTORED", [restored(name) for name in names]),
    ]
    tell.output(screen.table(*columns))
    differences = compare_databases(mongo, DATABASE, RESTORED)
    if differences:
        raise DemoError("what was restored differs: " + "; ".join(differences))
    hashes = sum(_HASH in one for one in ours.values())
    tell.tick(
        f"all {len(ours)} are equal: {hashes} content hashes, and every option and index", time.monotonic() - began
    )
    scene.summary.append(("restored by hand", f"{hashes} of {hashes} dbHash equal; options and indexes too"))


def retain(scene: Scene) -> None:
    """Make more backups than are kept."""
    tell = scene.tell
    tell.step(f"Old ones go: {KEPT_BACKUPS} are kept")
    scene.backupctl("run")
    tell.note("“Run now” in the application starts the old program's name:")
    scene.command(
        ["nanumpay-backup"],
        environment={**scene.house.environment, "FORCE_BACKUP": "true"},
        shown="FORCE_BACKUP=true nanumpay-backup",
    )
    scene.backupctl("list")
    folders = [str(folder.relative_to(scene.house.folder)) for folder in scene.places.values()]
    scene.command(["find", *folders, "-name", "*.tar.gz"], shown=f"find {' '.join(folders)} -name '*.tar.gz'")
    held = {place: _backups_in(folder) for place, folder in scene.places.items()}
    if {len(names) for names in held.values()} != {KEPT_BACKUPS}:
        raise DemoError(f"there should be {KEPT_BACKUPS} at each place, but there are: {held}")
    if any(scene.backup["artifact"] in names for names in held.values()):
        raise DemoError(f"the oldest, {scene.backup['artifact']}, should be gone")
    tell.tick(f"{_MADE} were made; the newest {KEPT_BACKUPS} are left at each of {len(held)} places")
    scene.summary.append(("retention", f"{_MADE} made, {KEPT_BACKUPS} left at each of {len(held)} places"))


def _backups_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("nanumpay-backup-*.tar.gz"))


def _find(folder: Path, name: str) -> Path:
    for path in folder.rglob(name):
        return path
    raise DemoError(f"{name} is not in {folder}")
