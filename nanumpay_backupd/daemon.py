"""The daemon's life: start, readiness, watchdog, reload, stop. Wires the rooms together; each does its own work."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.resources
import os
import signal
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from nanumpay_backupd import __version__
from nanumpay_backupd.announcer import Announcer
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.methods import Methods
from nanumpay_backupd.control.refusal import refuse_callers
from nanumpay_backupd.control.server import GROUP_HINT, ControlServer
from nanumpay_backupd.errors import EXIT_FAILED, EXIT_OK, BackupdError
from nanumpay_backupd.events import Event, Fault, Severity
from nanumpay_backupd.fleet.keeper import Keeper, Place
from nanumpay_backupd.fleet.standing import faults_of as fleet_faults
from nanumpay_backupd.messages import Message
from nanumpay_backupd.metrics.exporter import Exporter
from nanumpay_backupd.model import ErrorInfo, Outcome, Run, Trigger
from nanumpay_backupd.promises import Promises
from nanumpay_backupd.scheduler import zone_of
from nanumpay_backupd.settings.cache import SettingsCache
from nanumpay_backupd.settings.credentials import with_credentials
from nanumpay_backupd.settings.fleeting import host_name
from nanumpay_backupd.settings.grouping import build_groups
from nanumpay_backupd.settings.hostfile import load_host_file
from nanumpay_backupd.settings.merge import build_jobs
from nanumpay_backupd.settings.schema import HostConfig, Schedule, to_public
from nanumpay_backupd.settings.watch import SettingsUpdate, SettingsWatch
from nanumpay_backupd.supervisor import MENDED_HINT, Supervisor
from nanumpay_backupd.system.activation import passed_socket
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.files import make_private_dir
from nanumpay_backupd.system.journal import configure
from nanumpay_backupd.system.locks import FileLock
from nanumpay_backupd.system.notify import ServiceManager
from nanumpay_backupd.system.sandbox import way_out
from nanumpay_backupd.system.tasks import end_tasks
from nanumpay_backupd.system.units import human_size

if TYPE_CHECKING:
    from nanumpay_backupd.metrics.figures import Figures

__all__ = ["Daemon", "serve"]

_STOP_BUDGET: Final = 60.0
"""Seconds a running backup may take to finish, or to be cancelled, when the service stops."""
_STATUS_INTERVAL: Final = 15.0
_LOOKED_AT: Final = 20
"""Runs among which the last backup is looked for."""
_STATUS_PAUSE: Final = 0.1
"""Seconds between two looks at what changed, however many events there are."""
_LAST_WORDS: Final = 5.0
"""Seconds that a message which is on its way when the service stops may take to arrive."""
_AWAY: Final = frozenset({"settings-unreachable", "settings-failed"})
"""The faults that mean: MongoDB does not answer, and not: what it says cannot be used."""
_PATIENCE: Final = 300.0
"""Seconds for which MongoDB may be away (a restart, an election) until somebody is told."""
log = structlog.get_logger()


class Daemon:
    """One daemon. `run` returns when it has been told to stop."""

    def __init__(self, config: Path | None, host: HostConfig, clock: Clock, listen_fd: int | None = None) -> None:
        """``listen_fd`` is the control socket, where systemd listens on it for us."""
        self.started = clock.now()
        self.supervisor = Supervisor(host.paths, clock)
        self._methods = Methods(self, clock)
        self.announcer = Announcer(clock, self.supervisor.db, look=self._methods.faults, review=self._methods.review)
        self.metrics = Exporter(clock, self._figures)
        self._config = config
        self._host = host
        self._clock = clock
        self._manager = ServiceManager()
        self._server = self._make_server(listen_fd)
        self._stop = asyncio.Event()
        self._loaded = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._applying = asyncio.Lock()
        self._settings: SettingsUpdate | None = None
        self._watch: asyncio.Task[None] | None = None
        self._reload_problem: BackupdError | None = None
        self._last = ""
        self._refresh_status = asyncio.Event()
        self._ready = False
        self._defect = False

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code, which is not 0 when a part of the daemon broke down."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        self.supervisor.fleet = _keeper(self._host, self.supervisor)
        await self.supervisor.recover()
        await self._server.start()
        tasks = [
            self._task("scheduler", self.supervisor.run()),
            self._task("watchdog", self._feed_watchdog()),
            self._task("status", self._keep_status()),
            self._task("reload", self._reload_on_signal()),
            self._task("announcer", self.announcer.run(self.supervisor.events)),
            self._task("promises", Promises(self.supervisor, self._clock).run()),
            self._task("monitor", self._methods.watch_places()),
            self._task("learning", self._methods.learn_lost()),
            self._task("metrics", self.metrics.run(self.supervisor.events)),
        ]
        try:
            await self._start_settings()
            await _first_of(self._loaded, self._stop)
            if not self._stop.is_set():
                self._tell_ready()
                # Not sooner: a holder has to know its jobs.
                if self.supervisor.fleet is not None:
                    tasks.append(self._task("fleet", self.supervisor.fleet.run()))
            await self._stop.wait()
        finally:
            await self._shut_down(tasks)
        return EXIT_FAILED if self._defect else EXIT_OK

    def _tell_ready(self) -> None:
        self._ready = True
        self._manager.ready()
        log.info(
            "nanumpay-backupd is ready",
            message=Message.READY,
            version=__version__,
            socket=str(self._host.paths.socket),
            backups=str(self._host.paths.backups),
        )
        # What start-up left behind is garbage by now; what remains stays for good.
        gc.collect()
        gc.freeze()

    def _make_server(self, listen_fd: int | None) -> ControlServer:
        text = importlib.resources.files("nanumpay_backupd.control").joinpath("com.nanumpay.Backup.varlink")
        return ControlServer(
            text.read_text(encoding="utf-8"),
            self._methods.handlers(),
            path=self._host.paths.socket,
            group=self._host.control.group or None,
            listen_fd=listen_fd,
        )

    def _task(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a part of the daemon; if it ends by a defect the daemon ends too, and systemd starts it afresh."""
        task = asyncio.create_task(work, name=name)

        def ended(done: asyncio.Task[None]) -> None:
            if done.cancelled():
                return
            error = done.exception()
            if error is not None:
                text = f"the {name} stopped by a defect"
                log.error(text, message=Message.DEFECT, code="internal", exc_info=error)
                self._defect = True
                self._stop.set()

        task.add_done_callback(ended)
        return task

    async def _shut_down(self, tasks: list[asyncio.Task[None]]) -> None:
        self._manager.stopping(_STOP_BUDGET + 15)
        self._show_status()
        log.info("stopping", running=len(self.supervisor.active))
        if self._watch is not None:
            tasks.append(self._watch)
        await self.supervisor.stop(_STOP_BUDGET if self.supervisor.active else 0.0)
        if self.supervisor.fleet is not None:
            await self.supervisor.fleet.leave(_LAST_WORDS)
        await self._server.close()
        await self.announcer.finish(_LAST_WORDS)
        for task in await end_tasks(tasks):
            log.error(f"the {task.get_name()} does not end", code="internal")
        # Last: what callers and tasks were still doing needed the catalog.
        await self.supervisor.close()
        log.info("stopped")

    # Settings

    async def _start_settings(self) -> None:
        """Begin to watch the application's settings, or go without them when the host file says so."""
        if not self._host.nanumpay.enabled:
            await self._apply()
            self._loaded.set()
            self.supervisor.settled()
            return
        connection = self._host.mongodb
        watch = SettingsWatch(
            connection.uri,
            connection.database,
            poll_interval=connection.poll_interval,
            connect_timeout=connection.connect_timeout,
            on_change=self._on_settings,
            cache=SettingsCache(self._host.paths.state / "settings.json"),
        )
        self._watch = self._task("settings watch", watch.run())

    async def _on_settings(self, update: SettingsUpdate) -> None:
        """Take new settings, or the news that there are none."""
        before = self._settings
        await self._apply(update)
        self._tell(before, update)
        self._loaded.set()
        if update.connected:
            self.supervisor.settled()
        self.supervisor.note("settings", update.problem.message if update.problem else "settings are in force")
        self._show_status()

    def _tell(self, before: SettingsUpdate | None, update: SettingsUpdate) -> None:
        """Say in the journal what changed; the watch itself logs outages."""
        if update.problem is not None and update.connected and (before is None or before.problem != update.problem):
            refused = Message.SETTINGS_REFUSED
            log.warning(update.problem.message, message=refused, code=update.problem.code, hint=update.problem.hint)
        if update.app is not None and (before is None or before.app != update.app):
            due = self.supervisor.plans.get("nanumpay")
            log.info(
                "settings are in force",
                message=Message.SETTINGS_IN_FORCE,
                origin=update.origin,
                frequency=update.app.frequency,
                time=update.app.time,
                enabled=update.app.enabled,
                next_run=self._local(due) if due else "none",
            )

    async def _apply(self, update: SettingsUpdate | None = None) -> None:
        """Put settings in force, new ones or (after a reload) those that are; only then they are told to be."""
        async with self._applying:
            update = update or self._settings
            app = update.app if update else None
            jobs = build_jobs(self._host, app, update.warnings if update else ())
            self.supervisor.agenda.most = self._host.limits.max_parallel
            await self.supervisor.apply(jobs, build_groups(self._host, jobs))
            self._settings = update
            self.announcer.configure(self._host, jobs)
            self.metrics.configure(self._host.metrics, self._host.control.group)

    # Reload

    async def _reload_on_signal(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            with contextlib.suppress(BackupdError):
                await self.reload()

    async def reload(self) -> str:
        """Read the host file again; a refused one changes nothing. See `DaemonView.reload`."""
        if self._ready:
            self._manager.reloading()
        try:
            host, later = _without_restart(load_host_file(self._config), self._host)
            if later:
                log.warning(later)
        except BackupdError as error:
            self._reload_problem = error
            text = f"reload refused: {error.message}"
            log.error(text, message=Message.RELOAD_REFUSED, code=error.code, hint=error.hint)
            raise
        else:
            self._reload_problem = None
            before, self._host = self._host, host
            configure(host.log.level)
            if (before.mongodb, before.nanumpay.enabled) != (host.mongodb, host.nanumpay.enabled):
                await self._restart_settings()
            else:
                await self._apply()
            log.info("configuration reloaded", message=Message.RELOADED, file=host.origin or "defaults")
            done = f"reloaded {host.origin or 'the defaults (there is no host file)'}"
            return f"{done}; {later}" if later else done
        finally:
            # A reload during the start must not make the start look complete.
            if self._ready:
                self._manager.ready()
            self._show_status()

    async def _restart_settings(self) -> None:
        if self._watch is not None:
            await end_tasks([self._watch])
            self._watch = None
        self._settings = None
        await self._start_settings()

    # What others ask

    @property
    def timezone(self) -> str:
        """Name of the zone in which schedules are meant. See `DaemonView.timezone`."""
        return str(zone_of(Schedule(cron=(), timezone=self._host.timezone)))

    @property
    def monitor_at(self) -> tuple[str, ...]:
        """See `DaemonView.monitor_at`."""
        return self._host.monitor.at

    @property
    def language(self) -> str:
        """See `DaemonView.language`."""
        return self._host.notify.language

    @property
    def host(self) -> HostConfig:
        """See `DaemonView.host`."""
        return self._host

    @property
    def admin_group(self) -> str:
        """See `DaemonView.admin_group`."""
        return self._host.control.admin_group

    def settings_state(self) -> dict[str, Any]:
        """See `DaemonView.settings_state`."""
        update = self._settings
        if update is None:
            mode = "connecting" if self._host.nanumpay.enabled else "off"
            return {"mode": mode, "origin": "none", "connected": False, "server": "", "since": None, "problem": None}
        return {
            "mode": update.mode,
            "origin": update.origin,
            "connected": update.connected,
            "server": update.server,
            "since": update.since.isoformat().replace("+00:00", "Z") if update.since else None,
            "problem": to_public(update.problem) if update.problem else None,
        }

    def settings_public(self) -> dict[str, Any]:
        """See `DaemonView.settings_public`."""
        app = self._settings.app if self._settings else None
        public: dict[str, Any] = {"host": to_public(self._host), "application": to_public(app)}
        return dict(with_credentials(public, os.environ))

    def problems(self) -> list[Fault]:
        """See `DaemonView.problems`."""
        found = []
        if self._server.problem:
            found.append(Fault(key="socket", text=self._server.problem, severity=Severity.WARNING, hint=GROUP_HINT))
        if mended := self.supervisor.mended:
            text = f"the catalog was damaged: {mended}"
            found.append(_mended_fault(text))
        update = self._settings
        if update is not None and update.problem is not None:
            found.append(_settings_fault(update.problem, lost=update.app is None))
        if self._reload_problem is not None:
            text = f"the last reload was refused: {self._reload_problem.message}"
            found.append(_fault("reload", text, Severity.WARNING, Event.SETTINGS_REFUSED, self._reload_problem))
        if self.supervisor.fleet is not None:
            found += fleet_faults(self.supervisor.fleet.standing())
        return [*found, *self.announcer.faults(), *self.metrics.faults()]

    async def _figures(self) -> Figures:
        """Take the figures of the metrics; what that needs is loaded when somebody wants them."""
        from nanumpay_backupd.metrics.figures import gather

        return await gather(self, self._methods)

    # Service manager

    async def _feed_watchdog(self) -> None:
        interval = self._manager.watchdog_interval
        while interval is not None:
            self._manager.alive()
            await asyncio.sleep(interval)

    async def _keep_status(self) -> None:
        self.supervisor.on_change = self._refresh_status.set
        while True:
            self._refresh_status.clear()
            with contextlib.suppress(BackupdError):
                self._last = await self.supervisor.db(_last_words)
            self._show_status()
            # Not wait_for: that of Python 3.11 forgets a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STATUS_INTERVAL):
                    await self._refresh_status.wait()
            await asyncio.sleep(_STATUS_PAUSE)

    def _show_status(self) -> None:
        """Keep the line in ``systemctl status`` true."""
        running = [active for active in self.supervisor.active.values() if not active.quiet]
        parts = [f"{active.run.job} is running ({active.stage or 'starting'})" for active in running]
        if self._stop.is_set():
            self._manager.status(", ".join(["stopping", *parts]))
            return
        due = self.supervisor.plans.next_backup()
        parts.append(f"next backup {self._local(due)}" if due else "no backup is planned")
        if self._last:
            parts.append(self._last)
        problems = self.problems()
        if problems:
            parts.append(problems[0].text)
        self._manager.status(", ".join(parts))

    def _local(self, moment: datetime) -> str:
        """Write a due time as an operator says it: the hour when it is within a day, else with its date."""
        local = moment.astimezone(zone_of(Schedule(cron=(), timezone=self._host.timezone)))
        near = abs((moment - self._clock.now()).total_seconds()) < 86400
        return f"{local:%H:%M %Z}" if near else f"{local:%Y-%m-%d %H:%M %Z}"


def _settings_fault(problem: ErrorInfo, *, lost: bool) -> Fault:
    """Say what is wrong with the application's settings; ``lost``: there are none, not even from before."""
    severity = Severity.ERROR if lost else Severity.WARNING
    if problem.code in _AWAY:
        return _fault("mongodb", problem.message, severity, Event.UNHEALTHY, problem, patience=_PATIENCE)
    return _fault("settings", problem.message, severity, Event.SETTINGS_REFUSED, problem)


def _mended_fault(text: str) -> Fault:
    return Fault(
        key="catalog",
        text=text,
        severity=Severity.WARNING,
        event=Event.UNHEALTHY,
        reason=text,
        hint=MENDED_HINT,
        code="catalog-damaged",
    )


def _fault(
    key: str,
    text: str,
    severity: Severity,
    event: Event,
    error: ErrorInfo | BackupdError,
    *,
    patience: float = 0.0,
) -> Fault:
    return Fault(
        key=key,
        text=text,
        severity=severity,
        event=event,
        reason=error.message,
        hint=error.hint,
        code=error.code,
        patience=patience,
    )


def _last_words(catalog: Catalog) -> str:
    """Say how the last run went: ``last one succeeded 160 MB in 4.1 s``."""
    run = next((item for item in catalog.runs(limit=_LOOKED_AT) if _is_backup(item)), None)
    if run is None or run.ended is None:
        return ""
    backup = catalog.backup(run.backup) if run.backup is not None else None
    size = f" {human_size(backup.size)}" if backup is not None else ""
    return f"last one {run.outcome}{size} in {(run.ended - run.started).total_seconds():.1f} s"


def _is_backup(run: Run) -> bool:
    """Tell whether a run's end says something about backups: not one that never began, nor a mere retry of uploads."""
    return run.outcome not in {None, Outcome.SKIPPED} and run.trigger is not Trigger.RETRY


def _without_restart(host: HostConfig, running: HostConfig) -> tuple[HostConfig, str]:
    """Return the part of a new configuration that a running daemon can take over, and a sentence about the rest."""
    parts = []
    if host.paths != running.paths:
        parts.append("[paths]")
    if host.control.group != running.control.group:
        parts.append("[control] group")
    if host.fleet != running.fleet:
        parts.append("[fleet]")
    if running.fleet.enabled and host.mongodb != running.mongodb:
        parts.append("[mongodb], for the fleet's lease,")
    if not parts:
        return host, ""
    control = msgspec.structs.replace(host.control, group=running.control.group)
    kept = msgspec.structs.replace(host, paths=running.paths, control=control, fleet=running.fleet)
    return kept, f"what changed in {' and '.join(parts)} waits for: systemctl restart nanumpay-backupd"


def _keeper(host: HostConfig, supervisor: Supervisor) -> Keeper | None:
    """Return who keeps the fleet's lease, None: there is no fleet."""
    options, mongodb = host.fleet, host.mongodb
    if not options.enabled:
        return None
    database = options.database or mongodb.database
    place = Place(mongodb.uri, database, options.collection, host_name(options.host), options.lease)
    return Keeper(place, supervisor)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def serve(config: Path | None) -> int:
    """Run the daemon in this process; raises BackupdError for what keeps it from starting.

    Who waits on the socket that systemd handed over is told of that too.
    """
    listen_fd = passed_socket()
    try:
        return _serve(config, listen_fd)
    except BackupdError as error:
        if listen_fd is not None:
            refuse_callers(listen_fd, error)
        raise


def _serve(config: Path | None, listen_fd: int | None) -> int:
    host = load_host_file(config)
    configure(host.log.level)
    state = host.paths.state
    lock = FileLock(state / "daemon.lock", f"the state folder {state}")
    try:
        make_private_dir(state)
        lock.acquire()
    except OSError as error:
        raise BackupdError(
            f"the state folder {state} cannot be used: {os.strerror(error.errno or 0)}",
            hint=way_out(state) or "create it and give it to the service's user, or set [paths] state in backupd.toml",
            code="folder-unusable",
        ) from None
    try:
        return asyncio.run(Daemon(config, host, SystemClock(), listen_fd).run())
    finally:
        lock.release()
