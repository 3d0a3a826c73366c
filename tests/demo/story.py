"""The first steps of the demo: servers, data, daemon, settings, the backup at its time. The rest is in proof."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from nanumpay_backupd.cli.progress import Progress
from nanumpay_backupd.cli.words import plural, size
from nanumpay_backupd.errors import BackupdError
from tests import sample_data
from tests.demo.scene import PATIENCE, Document, Reply, Scene, moment
from tests.demo.teller import DemoError
from tests.demo.zone import due_time, seconds_off
from tests.servers.tools import find_tool

__all__ = ["KEPT_BACKUPS", "await_schedule", "load_data", "save_settings", "start_daemon", "start_servers"]

KEPT_BACKUPS: Final = 2
_LOOK: Final = 0.002
"""Seconds between two looks at the status while it is measured how soon new settings are in force."""
_DOCTOR_SECONDS: Final = 4.0


def start_servers(scene: Scene) -> None:
    """Start MongoDB, S3 and FTP."""
    tell, servers = scene.tell, scene.servers
    tell.step("A real MongoDB, an S3 server and an FTP server")
    mongod = servers["mongod"] = scene.site.ask("mongod")
    version = scene.mongo.server_info()["version"]
    tell.tick(f"MongoDB {version}: replica set rs0, port {mongod['port']}", mongod["seconds"])
    s3 = servers["s3"] = scene.site.ask("s3")
    tell.tick(f"S3: rclone, {s3['endpoint']}, bucket {s3['bucket']}", s3["seconds"])
    ftp = servers["ftp"] = scene.site.ask("ftp")
    tell.tick(f"FTP: pyftpdlib, port {ftp['port']}, folder {ftp['path']}", ftp["seconds"])
    for place, folder in (("local", "backups"), ("app", s3["folder"]), ("office", ftp["folder"])):
        scene.places[place] = scene.house.folder / folder


def load_data(scene: Scene) -> None:
    """Fill the database as the application would have."""
    tell, database = scene.tell, scene.database
    tell.step("Data as the application stores it")
    began = time.monotonic()
    sample_data.load(database)
    seconds = time.monotonic() - began
    tell.typed('db.users.findOne({memo: {$ne: ""}})', ">")
    tell.output(_member_lines(database.users.find_one({"memo": {"$ne": ""}}, sort=[("_id", 1)]) or {}))
    tell.note(
        "Also int64, dates and nested arrays; unique, compound, partial, sparse, hashed, TTL, wildcard and Korean "
        f"collated indexes; a validator; the GridFS file “{sample_data.GRIDFS_NAME}”; a time-series collection, a "
        "capped one and a view."
    )
    # Counted as mongodump counts: a time-series collection is its buckets.
    stored = [name for name in database.list_collection_names(filter={"type": "collection"}) if name != "system.views"]
    documents = sum(database[name].count_documents({}) for name in stored)
    stats = database.command("dbStats")
    tell.tick(
        f"{plural(documents, 'document')} in {plural(len(stored), 'collection')}, "
        f"{plural(stats['indexes'], 'index', 'indexes')}, {size(stats['dataSize'])}",
        seconds,
    )


def start_daemon(scene: Scene) -> None:
    """Start the daemon with a host file."""
    tell, house, servers = scene.tell, scene.house, scene.servers
    tell.step("The daemon; its host file says what the application cannot know")
    off = seconds_off(datetime.now(UTC))
    text = house.furnish(servers["mongod"]["database_uri"], servers["s3"], servers["ftp"], off)
    tell.typed(f"cd {house.folder}")
    tell.typed(f"cat {house.config.name}")
    tell.output(text.splitlines())
    for name, value in house.variables.items():
        tell.typed(f"export {name}={value}")
    tell.typed(f"nanumpay-backupd --config {house.config.name} 2> daemon.log &")
    began = time.monotonic()
    argv = [str(find_tool("nanumpay-backupd")), "--config", house.config.name]
    servers["daemon"] = scene.site.ask("daemon", argv=argv, environment=house.environment)
    status = scene.wait_for(lambda: _connected(scene), "the daemon was not ready in time")
    seconds = time.monotonic() - began
    tell.tick(f"ready; watches the settings by change stream ({status['settings']['server']})", seconds)
    tell.note(f"As freshly installed: next run {_minute(scene, status['jobs'][0]['next_run'])}, no remote place yet.")


def _connected(scene: Scene) -> Reply | None:
    status = scene.control.call("GetStatus")
    settings = status["settings"]
    # What was read shows a moment before the plan that follows from it.
    planned = any(job["next_run"] for job in status["jobs"])
    ready = settings["connected"] and settings["mode"] == "change-stream" and settings["since"] and planned
    return status if ready else None


def save_settings(scene: Scene) -> None:
    """Save settings as the application does, and measure how soon they are in force."""
    tell, house = scene.tell, scene.house
    tell.step("An administrator saves the backup settings in the application")
    if house.off:
        tell.note(
            "(The form knows hours and minutes only. So that nobody waits long for a full minute, this demo has a time "
            f"zone {abs(house.off)} s {'ahead of' if house.off > 0 else 'behind'} Seoul's. The clock is the real one.)"
        )
    time_text, scene.due = due_time(datetime.now(UTC), house.off)
    backup = _wanted(scene.servers["s3"], time_text)
    tell.note("PUT /api/admin/settings/system comes down to this in MongoDB:")
    tell.typed("\n".join(_mongosh_lines(backup)), ">")
    before = scene.job()["next_run"]
    began = time.perf_counter()
    sample_data.save_settings(scene.database, backup)
    job = scene.wait_for(lambda: _planned(scene), "the saved settings did not come into force", pause=_LOOK)
    milliseconds = (time.perf_counter() - began) * 1000
    tell.table(
        [
            ("next run", f"{_minute(scene, before)} {tell.arrow} {_minute(scene, job['next_run'])}"),
            ("copies go to", f"{' and '.join(job['destinations'])} (app: the form's S3; office: the host file's FTP)"),
            ("kept", f"{job['retention_count']} backups at each place"),
        ]
    )
    tell.tick(f"noticed at once: {milliseconds:.0f} ms from the save to the new plan in the daemon's status")
    scene.summary.append(("settings in force", f"{milliseconds:.0f} ms after the save"))


def _planned(scene: Scene) -> Reply | None:
    job = scene.job()
    known = job["next_run"] is not None and moment(job["next_run"]) == scene.due
    return job if known and "app" in job["destinations"] else None


def _wanted(s3: Reply, time_text: str) -> Document:
    """Return the form's content: what a fresh install has, with some fields filled in."""
    default = sample_data.DEFAULT_BACKUP
    storage = default["storage"]
    bucket = {"bucket": s3["bucket"], "accessKeyId": s3["access_key"], "secretAccessKey": s3["secret_key"]}
    return {
        **default,
        "time": time_text,
        "retention": {**default["retention"], "count": KEPT_BACKUPS},
        "storage": {**storage, "type": "s3", "s3": {**storage["s3"], **bucket}},
    }


def await_schedule(scene: Scene) -> None:
    """Wait until the backup is due, and watch it begin by itself."""
    tell = scene.tell
    assert scene.due is not None
    due = scene.due
    tell.step("The backup begins by itself when its time has come")
    # Before the doctor: on a busy machine that may still be at it when the run begins.
    events = _Events(scene)
    if due.timestamp() - time.time() > _DOCTOR_SECONDS:
        tell.note("Until then: would everything work?")
        scene.backupctl("doctor")
    tell.countdown(due.timestamp(), lambda left: f"It is due at {scene.local(due):%H:%M:%S}, in {left} s ...")
    run = _follow(scene, events)
    if run["outcome"] != "succeeded":
        raise DemoError(f"the scheduled run {run['outcome']}: {(run.get('error') or {}).get('message', '')}")
    late = (moment(run["started"]) - due).total_seconds()
    took = (moment(run["ended"]) - moment(run["started"])).total_seconds()
    scene.run = run
    when = f"{abs(late):.1f} s {'after' if late >= 0 else 'before'} its due time"
    tell.tick(f"began {when} by itself, and took {took:.1f} s")
    scene.summary.append(("scheduled run", f"{run['outcome']} in {took:.1f} s, begun {when}"))


class _Events:
    """Listens to the daemon in a thread, so that no event is missed while something else is shown."""

    def __init__(self, scene: Scene) -> None:
        self._queue: queue.Queue[Reply | None] = queue.Queue()
        threading.Thread(target=self._listen, args=(scene,), name="events", daemon=True).start()

    def _listen(self, scene: Scene) -> None:
        try:
            for reply in scene.control.stream("Watch"):
                self._queue.put(reply["event"])
        except BackupdError:
            self._queue.put(None)

    def __iter__(self) -> Iterator[Reply]:
        while True:
            try:
                event = self._queue.get(timeout=PATIENCE)
            except queue.Empty:
                raise DemoError("the scheduled backup did not begin in time", "the daemon's log says why") from None
            if event is None:
                raise DemoError("the daemon is gone", "its log says why")
            yield event


def _follow(scene: Scene, events: _Events) -> Reply:
    """Show a scheduled run from its first event to its last, and return it.

    On a slow host the full with which saved changes begin may be under way by then: it is the one that is made.
    """
    tell, taken, begun = scene.tell, False, False
    with Progress(tell.indented()) as progress:
        for event in events:
            run: Reply | None = event.get("run")
            if run is not None and run.get("action") == "slice":
                continue  # saves changes, over and over
            begun = begun or event["kind"] == "run-started"
            if not begun:
                continue  # what a slice has to tell
            if event["kind"] == "run-started" and run is not None:
                now = scene.local(moment(event["time"]))
                tell.note(f"{now:%H:%M:%S}  run {run['id']} of job {run['job']} begins (trigger: {run['trigger']})")
            if event["kind"] != "message":
                progress.feed(run, event)
            if event["kind"] != "run-ended" or run is None:
                continue
            if run["trigger"] == "schedule" and run["outcome"] == "skipped":
                tell.note("A full was begun just before, because saved changes need one to go on from: it will do.")
                taken = True
            elif run["trigger"] == "schedule" or (taken and run["trigger"] == "repair"):
                return run
    raise AssertionError  # the events have no end


def _minute(scene: Scene, text: str) -> str:
    return f"{scene.local(moment(text)):%Y-%m-%d %H:%M}"


def _member_lines(member: Document) -> list[str]:
    address, insurance = member["address"], member["insurance"]
    return [
        f"{{ loginId: '{member['loginId']}', name: '{member['name']}', planner: '{member['planner']}',",
        f"  address: {{ city: '{address['city']}', street: '{address['street']}' }},",
        f"  insurance: {{ company: '{insurance['company']}', premium: Decimal128('{insurance['premium']}') }},",
        f"  memo: '{member['memo']}', createdAt: ISODate('{member['createdAt']:%Y-%m-%dT%H:%M:%SZ}'), ... }}",
    ]


def _mongosh_lines(backup: Document) -> Iterator[str]:
    """Write the save as one would type it into mongosh; secrets are masked."""
    plain = {key: value for key, value in backup.items() if not isinstance(value, dict)}
    storage = backup["storage"]
    yield 'db.admins.updateOne({loginId: "admin"}, {$set: {systemSettings: {'
    yield "  maintenanceMode: false,"
    yield "  backup: {"
    yield f"    {_pairs(plain)},"
    yield f"    retention: {{{_pairs(backup['retention'])}}},"
    yield "    storage: {"
    yield f'      type: "{storage["type"]}",'
    first, second = _halves(storage["s3"])
    yield f"      s3: {{{_pairs(first)},"
    yield f"           {_pairs(second)}}},"
    first, second = _halves(storage["ftp"])
    yield f"      ftp: {{{_pairs(first)},"
    yield f"            {_pairs(second)}}}}}}}}}}})"


def _halves(values: Document) -> tuple[Document, Document]:
    pairs = list(values.items())
    return dict(pairs[:3]), dict(pairs[3:])


def _pairs(values: Document) -> str:
    return ", ".join(f"{key}: {_literal(key, value)}" for key, value in values.items())


def _literal(key: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"…"' if value and key in ("secretAccessKey", "password") else f'"{value}"'
    return str(value)
