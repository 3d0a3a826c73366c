"""The page's service as a real process beside a site's daemon, and browsers that speak HTTP to it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import bcrypt
import httpx

from nanumpay_backupd.web.userfile import Tokens
from tests.servers.daemon import Site, wait_for
from tests.servers.process import free_port
from tests.servers.tools import PROJECT

__all__ = ["ADMIN", "ODD", "PASSWORD", "Page", "add_admin", "add_users", "csrf_of", "make_slice", "open_page"]

ADMIN: Final = "boss"
PASSWORD: Final = "correct horse 배터리"
_ROUNDS: Final = 4
"""Quick: what it costs to guess is not tried here."""


ODD: Final = "<img src=x onerror=alert(1)>"
"""A collection's name: allowed by MongoDB, and harmless where it is shown as text."""


def add_users(site: Site, *roles: str) -> None:
    """Add a local user of each role, who has the role's name. As `backupctl web-user add`, but cheap to sign in."""
    path = site.folder / "web" / "users.json"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    digest = base64.b64encode(hashlib.sha384(PASSWORD.encode()).digest())
    stored = "sha384-bcrypt:" + bcrypt.hashpw(digest, bcrypt.gensalt(_ROUNDS)).decode()
    now = datetime.now(UTC).isoformat()
    users = [*json.loads(path.read_text(encoding="utf-8") if path.exists() else "[]")]
    users += [{"name": role, "role": role, "hash": stored, "made": now, "changed": now} for role in roles]
    path.touch(mode=0o600)
    path.write_text(json.dumps(users), encoding="utf-8")


def add_admin(site: Site, name: str = ADMIN, password: str = PASSWORD, **more: Any) -> None:
    """Add an administrator to the application's database, as the application stores one."""
    stored = bcrypt.hashpw(password.encode(), bcrypt.gensalt(_ROUNDS)).decode()
    document = {"loginId": name, "passwordHash": stored, "permissions": ["full_access"], "isActive": True}
    with site.db() as db:
        db.admins.insert_one(document | {"loginAttempts": 0, "lockUntil": None} | more)


def make_slice(site: Site) -> None:
    """Save changes of the site's database, so that every second since its last full can be restored."""
    with site.db() as db:
        db.orders.update_one({"n": 0}, {"$inc": {"seen": 1}}, upsert=True)
    wait_for(lambda: not site.job()["running"], "the job to be free")
    assert site.run(kind="incremental")["outcome"] == "succeeded"


class Page:
    """The service, and what speaks to it. Made by `open_page`."""

    def __init__(self, site: Site, process: subprocess.Popen[bytes], port: int, base: str) -> None:
        self.site = site
        self.process = process
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.base = base

    def browser(self, **headers: str) -> httpx.Client:
        """Return somebody who has not signed in."""
        found = httpx.Client(base_url=self.origin + self.base, timeout=60, trust_env=False)
        found.headers.update({"origin": self.origin, "accept-language": "en", **headers})
        return found

    def signed_in(self, name: str = ADMIN, password: str = PASSWORD) -> httpx.Client:
        """Return somebody who has signed in; the token for changes is in the headers."""
        browser = self.browser()
        form = {"csrf": csrf_of(browser.get("/sign-in").text), "name": name, "password": password}
        answer = browser.post("/sign-in", data=form)
        assert answer.status_code == 303, answer.text
        browser.headers["x-csrf-token"] = body_csrf(browser.get("/").text)
        return browser

    def token(self, *scopes: str, name: str = "") -> httpx.Client:
        """Return a program with a token of these scopes."""
        tokens = Tokens(self.site.folder / "web" / "tokens.json")
        secret = tokens.create(name or f"t{uuid.uuid4().hex[:8]}", scopes, datetime.now(UTC), None)
        found = httpx.Client(base_url=self.origin + self.base, timeout=60, trust_env=False)
        found.headers["authorization"] = f"Bearer {secret}"
        return found

    def command(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run `nanumpay-backup-web` with the site's host file."""
        argv = [sys.executable, "-m", "nanumpay_backupd.web.command", "--config", str(self.site.config), *words]
        return subprocess.run(
            argv, input=typed, capture_output=True, text=True, env=self.site.environment(), cwd=PROJECT, timeout=60
        )

    def memory(self) -> int:
        """Return the bytes that the service has in memory, at their most."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            (line,) = (line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def log(self) -> str:
        """Return what the service wrote."""
        return (self.site.folder / "web.log").read_text(encoding="utf-8")


def csrf_of(text: str) -> str:
    """Return the token in a form."""
    found = re.search(r'name="csrf" value="([^"]+)"', text)
    assert found is not None, text[:500]
    return found[1]


def body_csrf(text: str) -> str:
    """Return the token that scripts use."""
    found = re.search(r'data-csrf="([^"]+)"', text)
    assert found is not None, text[:500]
    return found[1]


@contextlib.contextmanager
def open_page(site: Site, more: str = "", *, base: str = "") -> Iterator[Page]:
    """Serve the page of a site until the end of the block; ``more`` is added to its table ``[web]``."""
    port = free_port()
    own = f"listen = '127.0.0.1:{port}'\nstate = '{site.folder}/web'\nbase_path = '{base}'\n{more}"
    text = site.config.read_text(encoding="utf-8").partition("\n[web]\n")[0]
    site.config.write_text(f"{text}\n[web]\n{own}\n", encoding="utf-8")
    with (site.folder / "web.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nanumpay_backupd.web.command", "--config", str(site.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=site.environment(),
            cwd=PROJECT,
        )
    page = Page(site, process, port, base)
    try:

        def answers() -> bool:
            assert process.poll() is None, page.log()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        wait_for(answers, "the page's service")
        yield page
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
