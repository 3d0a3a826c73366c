"""What one can do with a demo that was left running: how to play, told at its end, and a save of other settings."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient

from nanumpay_backupd.control.client import Client
from tests.demo.house import kept_facts
from tests.demo.scene import DATABASE, Document, Scene, moment
from tests.demo.teller import DemoError, Teller
from tests.demo.zone import local_time
from tests.sample_data import save_settings
from tests.servers.process import free_port
from tests.servers.tools import PROJECT

__all__ = ["change_settings", "how_to_play"]

_NOTICED: Final = 1.0
"""Seconds after which saved settings are in force or refused; they take some hundredths."""


def how_to_play(scene: Scene) -> None:
    """Say how to use what is left running, and how to end it; keep what `change_settings` needs."""
    tell, house, servers = scene.tell, scene.house, scene.servers
    uri = servers["mongod"]["database_uri"]
    page = _serve_page(scene)
    house.note(socket=str(house.socket), off=house.off, **servers)
    tell.heading("Everything goes on running")
    tell.note("Paste this into a shell:")
    tell.typed(f"cd {PROJECT}")
    tell.typed(f"export PATH={PROJECT / '.tools' / 'bin'}:{Path(sys.executable).parent}:$PATH")
    for name, value in house.variables.items():
        tell.typed(f"export {name}={value}")
    tell.note("Then, for example:")
    folder = house.folder.relative_to(PROJECT) if house.folder.is_relative_to(PROJECT) else house.folder
    tell.table(
        [
            ("backupctl status --watch", "how things stand, live"),
            ("backupctl run", "a backup now"),
            ("backupctl show latest", "all about it, and the commands that restore it"),
            ("backupctl --help", "what else there is"),
            ("python -m tests.demo --set time=21:30", "save other settings, as the application does"),
            ("python -m tests.demo --set time=25:00", "… also wrong ones: then look at the status"),
            (f"tail -f {folder}/daemon.log", "what the daemon says"),
            (f"ls -R {folder}/backups {folder}/s3 {folder}/ftp", "the backups at the three places"),
        ]
    )
    tell.note("The web page, and a demo sign-in:")
    tell.table([(page["address"], f"name {page['name']}, password {page['password']}")])
    tell.note(f"MongoDB is at {uri}; logins of S3 and FTP are in {folder}/demo.json.")
    tell.heading("To stop it and delete its files")
    tell.typed("make demo-stop")


def _serve_page(scene: Scene) -> dict[str, str]:
    """Serve the page of the demo, with somebody who may sign in; returns where it is, name and password."""
    house, port, name, password = scene.house, free_port(), "demo", secrets.token_urlsafe(9)
    with house.config.open("a", encoding="utf-8") as stream:
        stream.write(f'\n[web]  # the page\nlisten = "127.0.0.1:{port}"\nstate = "{house.folder}/web"\n')
    argv = [str(Path(sys.executable).with_name("nanumpay-backup-web")), "--config", str(house.config)]
    subprocess.run(
        [*argv, "user", "add", name],
        input=password,
        text=True,
        check=True,
        env=house.environment,
        stdout=subprocess.DEVNULL,
    )
    scene.site.ask("web", argv=[*argv, "serve"], environment=house.environment, port=port)
    return {"address": f"http://127.0.0.1:{port}/", "name": name, "password": password}


def change_settings(teller: Teller, folder: Path, changes: Iterable[str]) -> None:
    """Save changed settings in the demo that was left running, the way the application does, and say what follows."""
    facts = kept_facts(folder)
    with MongoClient[Document](facts["mongod"]["uri"], serverSelectionTimeoutMS=5000) as client:
        database = client[DATABASE]
        admin = database.admins.find_one({"loginId": "admin"}) or {}
        backup = admin["systemSettings"]["backup"]
        for change in changes:
            _put(backup, change)
        save_settings(database, backup)
    time.sleep(_NOTICED)
    status = Client(facts["socket"]).call("GetStatus")
    problem = status["settings"]["problem"]
    if problem is not None:
        teller.cross(problem["message"], problem["hint"])
        return
    due = status["jobs"][0]["next_run"]
    text = f"{local_time(moment(due), facts['off']):%Y-%m-%d %H:%M}" if due else "none"
    teller.tick(f"saved and in force; next run: {text}")


def _put(backup: dict[str, Any], change: str) -> None:
    """Change one field, given as ``retention.count=3``; values are JSON, or text where they are not."""
    path, equals, text = change.partition("=")
    *parents, last = path.split(".")
    place = backup
    for name in parents:
        place = place[name] if isinstance(place.get(name), dict) else {}
    if not equals or last not in place:
        raise DemoError(f"{change!r} is not FIELD=VALUE with a field of the form", "for example: retention.count=3")
    try:
        place[last] = json.loads(text)
    except ValueError:
        place[last] = text
