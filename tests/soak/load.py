"""What a soak does beside its faults: Redis and the tree are written to, fulls asked for, the page read, all audited.

Each is a thread that ends when the house closes. The writers on MongoDB are `tests.soak.book`.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.soak.house import House
from tests.soak.samples import orphans, take

__all__ = ["Audit", "Load"]

Document = dict[str, Any]
SAMPLE_SECONDS = 10.0
AUDIT_SECONDS = 45.0


class Load:
    """The threads, from `start` to `stop`."""

    def __init__(self, house: House, seed: int, *, full_every: float) -> None:
        self.house = house
        self.audit = Audit(house)
        self._dice = random.Random(f"{seed}-load")
        self._full_every = full_every
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin."""
        works: list[tuple[Callable[[], object], float]] = [
            (self._write_sources, 1.0),
            (lambda: take(self.house), SAMPLE_SECONDS),
            (self._ask_for_a_full, self._full_every),
            (self._visit_page, 15.0),
            (self.audit.look, AUDIT_SECONDS),
        ]
        for work, pause in works:
            thread = threading.Thread(target=self._again, args=(work, pause), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End them all."""
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def _again(self, work: Callable[[], object], pause: float) -> None:
        while not self._stop.wait(pause):
            try:
                work()
            except Exception as error:  # the soak must not go on without a word
                self.house.diary.note("anomaly", what=f"the soak itself failed: {error!r}")

    def _write_sources(self) -> None:
        dice, house = self._dice, self.house
        with house.paused_sources():
            with contextlib.suppress(Exception), house.redis.link() as link:
                for _ in range(5):
                    key = f"key{dice.randrange(200)}"
                    if dice.random() < 0.3:
                        link.ask("DEL", key)
                    elif dice.random() < 0.5:
                        link.ask("SET", key, dice.randbytes(300).hex())
                    else:
                        link.ask("DEL", key)
                        link.ask("HSET", key, "이름", "값", "n", dice.randrange(1000))
            at = dice.randrange(70)
            path = house.tree / f"folder{at % 6}" / f"file{at}"
            if path.exists() and dice.random() < 0.3:
                path.unlink()
            else:
                path.write_bytes(dice.randbytes(dice.randrange(20000)))

    def _ask_for_a_full(self) -> None:
        with contextlib.suppress(Exception):
            self.house.site.begin("nanumpay")

    def _visit_page(self) -> None:
        house = self.house
        page = house.page
        if page is None:
            return
        headers = {"authorization": f"Bearer {house.page_token}"}
        where = f"http://127.0.0.1:{house.page_port}"
        try:
            with httpx.Client(base_url=where, timeout=20, trust_env=False) as browser:
                seen = [browser.get("/sign-in").status_code]
                seen += [browser.get(path, headers=headers).status_code for path in ("/api/admin/backup/status",)]
            house.diary.note("visit", codes=seen)
        except httpx.HTTPError as error:
            house.diary.note("visit", codes=[repr(error)[:80]])
            if page is house.page and page.poll() is not None:
                house.diary.note("anomaly", what=f"the page's service ended by itself with {page.returncode}")
                house.start_page()


class Audit:
    """What must never happen: a committed backup that is gone or changed, a process nobody has, a silent daemon."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._seen: dict[str, dict[str, Document]] = {}
        self._runs: dict[str, str] = {}
        self._suspects: set[int] = set()
        self._said: set[str] = set()
        self._silent_since = 0.0
        self._lock = threading.Lock()

    def look(self) -> None:
        """Look at everything once."""
        with self._lock:
            self._look_at_orphans()
            try:
                runs = self.house.site.call("ListRuns", limit=1000, slices=True)["runs"]
                backups = self.house.site.call("ListBackups")["backups"]
            except Exception as error:
                self._silent(error)
                return
            self._silent_since = 0.0
            self._note_runs(runs)
            self._look_at_backups(backups)

    def _silent(self, error: Exception) -> None:
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > 180:
            self._silent_since = now
            self.house.diary.note("anomaly", what=f"the daemon has not answered for three minutes: {error!r}")

    def _look_at_orphans(self) -> None:
        found = orphans(self.house)
        for pid in self._suspects & set(found):
            self.house.diary.note("anomaly", what=f"a process that nobody has: {pid} {found[pid]}")
        self._suspects = set(found)

    def _note_runs(self, runs: list[Document]) -> None:
        for run in reversed(runs):
            outcome = run.get("outcome")
            if outcome and run["id"] not in self._runs:
                self._runs[run["id"]] = outcome
                error = run.get("error") or {}
                words = {name: run.get(name) for name in ("job", "action", "trigger")}
                code, message = error.get("code", ""), str(error.get("message", ""))[:300]
                self.house.diary.note("run", id=run["id"], outcome=outcome, code=code, message=message, **words)
                if code == "internal":
                    self.house.diary.note("anomaly", what=f"run {run['id']} of {run['job']}: internal: {message}")

    def _look_at_backups(self, backups: list[Document]) -> None:
        listed = {one["id"]: one for one in backups}
        for one in backups:
            wanted = one["kind"] == "full" and one["state"] == "verified" and not one.get("collection")
            if wanted and one["id"] not in self._seen.setdefault(one["job"], {}):
                digest = self._digest(self.house.site.backups / one["artifact"])
                self._seen[one["job"]][one["id"]] = {**one, "digest": digest}
        for job, seen in self._seen.items():
            # Retention keeps three at least; one of these may be newer and not proven yet.
            for one in sorted(seen.values(), key=lambda item: str(item["created"]))[-2:]:
                problem = self._problem(one, listed.get(one["id"]))
                if problem and problem not in self._said:
                    self._said.add(problem)
                    self.house.diary.note("anomaly", what=f"{one['id']} of {job}: {problem}")

    def _problem(self, known: Document, now: Document | None) -> str:
        if now is None:
            return f"{known['id']} is not listed any more"
        if now["state"] != "verified":
            return f"{known['id']} has become {now['state']}"
        digest = self._digest(self.house.site.backups / known["artifact"])
        if known["digest"] and digest != known["digest"]:
            return f"{known['id']}: its file has changed or is gone"
        return ""

    def _digest(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""
