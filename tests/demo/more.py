"""The demo's last step: what else the application has, Redis and a folder of files, saved by two more jobs.

Redis is left out where there is no redis-server.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.cli.words import plural
from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.redis_link import Link, command
from nanumpay_backupd.system.secrets import Secret
from tests.demo.scene import Scene
from tests.demo.teller import DemoError
from tests.servers.redis import content_by, find_redis
from tests.trees import read_tree

__all__ = ["protect_more"]

_SESSIONS: Final = 500
_UPLOADS: Final = 120
_FILES_JOB: Final = """
[[job]]
name = "uploads"
type = "files"
path = ["{folder}/app/uploads"]
destinations = ["office"]
"""
_REDIS_JOB: Final = """
[[job]]
name = "sessions"
type = "redis"
url = {{ file = "{folder}/redis-url" }}
destinations = ["office"]
"""


def protect_more(scene: Scene) -> None:
    """Add jobs, run them, do harm, and bring all of it back."""
    tell, folder = scene.tell, scene.house.folder
    tell.step("What else the application has: Redis and its files")
    redis = _start_redis(scene)
    uploads = folder / "app" / "uploads"
    _fill_folder(uploads)
    _add_jobs(scene, (_REDIS_JOB if redis else "") + _FILES_JOB)
    saved = {job: _save(scene, job) for job in (("sessions",) if redis else ()) + ("uploads",)}
    before = (_keys(redis), read_tree(uploads))
    tell.note("Then somebody types this in the wrong window:")
    if redis:
        tell.typed("FLUSHALL", "redis>")
        with Link(redis) as link:
            link.ask("FLUSHALL")
    tell.typed("rm -r app/uploads/2026-11; echo > app/uploads/notice.txt")
    shutil.rmtree(uploads / "2026-11")
    (uploads / "notice.txt").write_text("\n")
    if read_tree(uploads) == before[1] or (redis and _keys(redis) == before[0]):
        raise DemoError("nothing was harmed")
    for backup in saved.values():
        scene.backupctl("restore", backup, "--overwrite", "--yes")
    after = (_keys(redis), read_tree(uploads))
    if after != before:
        raise DemoError("what came back is not what was there")
    keys = f"{plural(len(before[0]), 'key')} with their times of expiry and " if redis else ""
    names = [path for path in uploads.rglob("*") if path.is_symlink() or not path.is_dir()]
    files = f"{plural(len(names), 'file')} with owners and modes"
    tell.tick(f"as they were: {keys}{files}")
    scene.summary.append(("Redis and files" if redis else "files", f"{keys}{files} are back"))


def _start_redis(scene: Scene) -> RedisSource | None:
    """Start Redis with some keys, where it is installed; returns how it is reached."""
    tell = scene.tell
    try:
        find_redis()
    except FileNotFoundError:
        tell.note("(No redis-server is installed here, so this goes without it; make tools fetches one.)")
        return None
    server = scene.servers["redis"] = scene.site.ask("redis")
    url = scene.house.folder / "redis-url"
    url.touch(mode=0o600)
    url.write_text(server["url"] + "\n", encoding="utf-8")
    settings = RedisSource(url=Secret(server["url"]))
    until = int((datetime.now(UTC) + timedelta(days=7)).timestamp() * 1000)
    with Link(settings) as link:
        asked = [("SET", f"session:{at:04d}", f"회원 {at}", "PXAT", until + at) for at in range(_SESSIONS)]
        asked += [("ZADD", "ranking", at, f"member:{at}") for at in range(20)]  # type: ignore[misc]
        link.send(b"".join(command(*parts) for parts in asked))
        for _ in asked:
            link.reply()
        version = link.ask("INFO", "server").decode().partition("redis_version:")[2].split()[0]
    tell.tick(f"Redis {version}: port {server['port']}, {plural(_SESSIONS + 1, 'key')}", server["seconds"])
    return settings


def _fill_folder(uploads: Path) -> None:
    for at in range(_UPLOADS):
        path = uploads / f"2026-{10 + at % 2}" / f"영수증 {at:03d}.pdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%PDF-1.4 " + b"%d " % at * 500)
        path.chmod(0o640)
    (uploads / "notice.txt").write_text("공지\n", encoding="utf-8")
    (uploads / "latest").symlink_to("2026-11")


def _add_jobs(scene: Scene, template: str) -> None:
    """Put jobs into the host file and have it read again."""
    tell, house = scene.tell, scene.house
    text = template.format(folder=house.folder)
    tell.typed(f"cat >> {house.config.name}")
    tell.output(text.strip().splitlines())
    with house.config.open("a", encoding="utf-8") as file:
        file.write(text)
    scene.backupctl("reload")


def _save(scene: Scene, job: str) -> str:
    """Make a backup; returns its id. It has to be proven, and to have its copy."""
    scene.backupctl("run", job)
    (backup,) = scene.control.call("ListBackups", {"job": job})["backups"]
    copies: dict[str, Any] = {copy["destination"]: copy["state"] for copy in backup["copies"]}
    if backup["state"] != "verified" or copies.keys() != {"local", "office"}:
        raise DemoError(f"the backup of {job} is {backup['state']}, with copies {copies}")
    return str(backup["id"])


def _keys(redis: RedisSource | None) -> dict[Any, Any]:
    """Return all that Redis holds."""
    if redis is None:
        return {}
    with Link(redis) as link:
        return content_by(link).get(0, {})
