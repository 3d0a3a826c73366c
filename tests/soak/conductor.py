"""Conducts a soak: who begins when, which fault comes next, which restore, and that all is well again at the end.

Faults that end the daemon come in the first third and at the very end only: between them it lives long enough for a
growth to be seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers.daemon import wait_for
from tests.soak.book import SettingsWriter, Writer
from tests.soak.diary import Diary
from tests.soak.faults import FAULTS, Fault
from tests.soak.house import DATABASE, JOBS, House, open_house
from tests.soak.load import Load
from tests.soak.proofs import PROOFS, Differs, NothingYet
from tests.soak.report import machine

__all__ = ["Plan", "soak"]

_TRIES: Final = 6
_KEPT_SECONDS: Final = 3600


@dataclass(frozen=True)
class Plan:
    """How long (seconds) it is, and how often what comes (mean seconds between two of them)."""

    seconds: float
    seed: int
    fault_every: float = 45.0
    fault_seconds: float = 25.0
    proof_every: float = 120.0
    full_every: float = 240.0
    each: bool = False
    """One fault of each kind and nothing else; it takes as long as it takes."""

    @property
    def early(self) -> float:
        """Return until when (seconds from the beginning) the daemon is ended too."""
        return 0.28 * self.seconds

    @property
    def late(self) -> float:
        """Return from when on it is again."""
        return 0.95 * self.seconds


def soak(plan: Plan, diary: Diary) -> None:
    """Do it all; what happened is in the diary."""
    with open_house(diary, plan.seed) as house:
        writers = _writers(house, plan)
        load = Load(house, plan.seed, full_every=plan.full_every)
        keeper = threading.Thread(target=house.keep_daemon, daemon=True)
        try:
            _begin(house, keeper, writers, load)
            diary.note("begin", seed=plan.seed, hours=plan.seconds / 3600, folder=str(house.site.folder))
            (diary.folder / "machine.json").write_text(json.dumps(machine()), encoding="utf-8")
            prover = Prover(house, plan)
            prover.start()
            _all_faults(house, plan) if plan.each else _faults(house, plan)
            diary.note("deed", what="faults over")
            prover.stop()
            _finish(house, prover, load)
        except Exception as error:
            diary.note("anomaly", what=f"the soak broke off: {error!r} {traceback.format_exc()[-1500:]}")
        finally:
            load.stop()
            for writer in writers:
                writer.stop()
            _keep_logs(house, diary)
            diary.note("end", writes=house.book.writes, lost_sight=house.book.lost_sight)


def _writers(house: House, plan: Plan) -> list[Writer]:
    def made(kind: type[Writer], name: str, pause: float) -> Writer:
        return kind(house.mongod, DATABASE, house.book, house.diary, name=name, seed=plan.seed, pause=pause)

    found = [made(Writer, name, 0.5) for name in ("ann", "ben", "cho")]
    return [*found, made(SettingsWriter, "settings", 240.0)]


def _begin(house: House, keeper: threading.Thread, writers: list[Writer], load: Load) -> None:
    """Start the daemon and have a first full of each job that is everywhere."""
    with house.mongod.client(w="majority") as client, client.start_session() as session:
        settings = next(one for one in writers if isinstance(one, SettingsWriter))
        house.book.begin("settings")
        house.book.done("settings", session, *settings.save(client, session))
    keeper.start()
    wait_for(house.healthy, "the daemon", 60)
    for writer in writers:
        writer.thread.start()
    for job in JOBS:
        _full(house, job)
    house.make_token()
    house.start_page()
    load.start()


def _full(house: House, job: str) -> None:
    """Make a full, again where something else is running, until one has succeeded."""
    said: object = ""
    for _ in range(_TRIES):
        try:
            run = house.site.run(job)
        except Exception as error:
            said = error
        else:
            if run.get("outcome") == "succeeded":
                return
            said = run.get("error") or run.get("warnings") or run
        time.sleep(10)
    house.diary.note("anomaly", what=f"no full of {job} succeeds: {str(said)[:600]}")


# Faults


def _faults(house: House, plan: Plan) -> None:
    dice = random.Random(f"{plan.seed}-faults")
    began = time.monotonic()
    while (passed := time.monotonic() - began) < plan.seconds:
        time.sleep(min(dice.expovariate(1 / plan.fault_every), 4 * plan.fault_every, plan.seconds - passed + 1))
        passed = time.monotonic() - began
        fatal = passed < plan.early or passed > plan.late
        kinds = [fault for fault in FAULTS if fatal or not fault.ends_daemon]
        _hit(house, dice.choices(kinds, [fault.weight for fault in kinds])[0], dice, plan.fault_seconds)


def _all_faults(house: House, plan: Plan) -> None:
    dice = random.Random(f"{plan.seed}-faults")
    for fault in dice.sample(FAULTS, len(FAULTS)):
        wait_for(house.healthy, f"a daemon before {fault.name}", 60)
        _hit(house, fault, dice, 3.0)


def _hit(house: House, fault: Fault, dice: random.Random, seconds: float) -> None:
    with house.calm:
        began = time.monotonic()
        try:
            said = fault.work(house, dice, seconds)
        except Exception as error:
            house.diary.note("anomaly", what=f"the fault {fault.name!r} could not be made: {error!r}")
            return
        house.diary.note("fault", name=fault.name, said=said, seconds=round(time.monotonic() - began, 1))


# Restores


class Prover:
    """Restores one thing after the other in a thread of its own, whatever is being broken meanwhile."""

    def __init__(self, house: House, plan: Plan) -> None:
        self.house = house
        self._dice = random.Random(f"{plan.seed}-proofs")
        self._every = plan.proof_every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End when the restore that is being made is over."""
        self._stop.set()
        self._thread.join(600)

    def _run(self) -> None:
        waiting: list[str] = []
        while not self._stop.wait(self._dice.uniform(0.5, 1.5) * self._every):
            waiting = waiting or self._dice.sample(sorted(PROOFS), len(PROOFS))
            self.prove(waiting.pop(), must=False)
            self.house.book.forget_before(int(time.time()) - _KEPT_SECONDS)

    def prove(self, name: str, *, must: bool) -> None:
        """Restore once; where a fault came between, once more without any. ``must``: there has to be something."""
        if self._try(name, first=True):
            return
        with self.house.calm:
            for attempt in range(_TRIES):
                time.sleep(5 + 10 * attempt)
                if self._try(name, first=False, last=attempt == _TRIES - 1, must=must):
                    return

    def _try(self, name: str, *, first: bool, last: bool = False, must: bool = False) -> bool:
        """Return whether nothing more is to be tried."""
        note = self.house.diary.note
        began = time.monotonic()
        try:
            said = PROOFS[name](self.house, self._dice)
        except Differs as error:
            note("anomaly", what=f"DIFFERS: {name}: {error}")
            return True
        except NothingYet:
            if last:
                note("anomaly" if must else "proof", what=f"{name}: nothing to restore", name=name, outcome="nothing")
            return False
        except Exception as error:
            note("cut", name=name, error=f"{error!r}"[-900:], first=first)
            if last:
                note("anomaly", what=f"{name} does not succeed without any fault either: {error!r}"[:1500])
            return False
        note("proof", name=name, outcome="same", said=said, seconds=round(time.monotonic() - began, 1), first=first)
        return True


# The end


def _finish(house: House, prover: Prover, load: Load) -> None:
    """See that all becomes well again, by itself, and that everything can be restored."""
    wait_for(house.healthy, "a daemon at the end", 90)
    for job in JOBS:
        _full(house, job)

    def queue() -> int:
        with contextlib.suppress(Exception):
            return int(sum(job["pending_uploads"] for job in house.site.status()["jobs"]))
        return 1

    try:
        wait_for(lambda: queue() == 0, "an empty queue of uploads", 420)
    except TimeoutError as error:
        house.diary.note("anomaly", what=str(error))
    for name in PROOFS:
        prover.prove(name, must=True)
    load.audit.look()
    house.diary.note("deed", what="at the end", status=house.site.status()["problems"])


def _keep_logs(house: House, diary: Diary) -> None:
    for path in (house.site.log_file, house.site.folder / "web.log"):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        Path(diary.folder / path.name).write_text(text, encoding="utf-8")
        for word in ("Traceback", "code=internal", "never awaited"):
            if word in text:
                at = text.index(word)
                diary.note("anomaly", what=f"{word} in {path.name}: {text[max(0, at - 300) : at + 900]}")
    with contextlib.suppress(OSError):
        os.sync()
