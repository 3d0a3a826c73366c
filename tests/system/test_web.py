"""The web page of the package on a booted host: off until it is wanted, as closed as it says, and of use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.servers.tools import PROJECT
from tests.system.container import wait_for
from tests.system.host import BACKUPS, Host

UNIT: Final = "nanumpay-backup-web"
PASSWORD: Final = "a long pass-word 77"
# What a browser does, with nothing but what every host has; prints what came of it as JSON.
BROWSER: Final = """
import http.client, json, re, sys, urllib.parse
link = http.client.HTTPConnection("127.0.0.1", 9680, timeout=60)
jar = {}
def ask(method, path, form=None, **headers):
    body = urllib.parse.urlencode(form) if form is not None else None
    if body is not None:
        headers["content-type"] = "application/x-www-form-urlencoded"
    headers["cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
    link.request(method, path, body, headers)
    answer = link.getresponse()
    for name, value in answer.getheaders():
        if name.lower() == "set-cookie":
            key, _, rest = value.partition("=")
            jar[key] = rest.partition(";")[0]
    return answer.status, answer.read()
def token(text):
    return re.search(rb'name="csrf" value="([^"]+)"', text)[1].decode()
_, page = ask("GET", "/sign-in")
signed, _ = ask("POST", "/sign-in", {"csrf": token(page), "name": sys.argv[1], "password": sys.argv[2]})
overview, page = ask("GET", "/")
found = {"signed": signed, "overview": overview}
if overview == 200:
    form = {"csrf": token(page), "job": "nanumpay", "when": "backup", "backup": sys.argv[3], "what": "all"}
    form |= {"where": "other", "to": "elsewhere", "safety": "1"}
    planned, text = ask("POST", "/recover/plan", form)
    found |= {"planned": planned, "named": b"elsewhere" in text}
print(json.dumps(found))
"""


def told(name: str) -> str:
    """Return the commands of docs/web.md behind a mark."""
    text = (PROJECT / "docs" / "web.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- test: {name} -->\n```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


@pytest.fixture(scope="module")
def page(host: Host) -> Iterator[Host]:
    """The installed host, with the page switched on as docs/web.md says; off again at the end."""
    assert host.run(f"systemctl is-enabled {UNIT}", check=False).out == "disabled\n"
    assert host.show("ActiveState", unit=f"{UNIT}.service") == "inactive"
    host.run(f"set -e\n{told('web-start')}")
    wait_for(lambda: host.show("ActiveState", unit=f"{UNIT}.service") == "active", "the page")
    yield host
    host.run(f"systemctl disable --now {UNIT}")


def browse(host: Host, name: str, password: str, backup: str = "latest") -> dict[str, Any]:
    """Sign in on the host and plan a restore; returns the answers."""
    host.put("/root/browser.py", BROWSER)
    done = host.run(f"python3 /root/browser.py '{name}' '{password}' '{backup}'")
    return dict(json.loads(done.out))


def test_a_user_of_its_own_that_sees_no_backups(page: Host) -> None:
    """It is not root and not the daemon's user; backups and the daemon's state are out of its sight."""
    assert page.backup()["outcome"] == "succeeded"
    pid = page.show("MainPID", unit=f"{UNIT}.service")
    assert page.run(f"ps -o user= -p {pid}").out.strip() in {UNIT, UNIT[:7] + "+"}
    assert page.stored(), "there is something to see"
    for folder in (BACKUPS, "/opt/nanumpay", "/var/lib/nanumpay-backupd"):
        assert page.run(f"ls -A /proc/{pid}/root{folder}", check=False).out == "", folder
    listening = page.run("ss -Hltn 'sport = :9680'", check=False).out or page.run("cat /proc/net/tcp").out
    assert "127.0.0.1:9680" in listening or "0100007F:25D0" in listening


def test_local_users_and_what_they_may(page: Host) -> None:
    """Added by root, they sign in at once; the daemon lets the page's user plan a restore for who may."""
    backup = page.backup()["backup"]
    assert page.run(told("web-user").splitlines()[0], stdin=f"{PASSWORD}\n").code == 0
    assert page.run("backupctl web-user add boss --role admin", stdin=f"{PASSWORD}\n").code == 0
    assert "operator" in page.run(told("web-user").splitlines()[1]).out
    assert page.run("stat -c '%U %a' /var/lib/nanumpay-backup-web/users.json").out == f"{UNIT} 600\n"
    assert browse(page, "kim", "wrong", backup)["overview"] == 303
    assert browse(page, "kim", PASSWORD, backup) == {"signed": 303, "overview": 200, "planned": 403, "named": False}
    assert browse(page, "boss", PASSWORD, backup) == {"signed": 303, "overview": 200, "planned": 200, "named": True}


def test_without_changes_the_daemon_refuses(page: Host) -> None:
    """With `changes = false` even an admin of the page plans no restore; looking goes on."""
    backup = page.backup()["backup"]
    page.host_file("[web]\nchanges = false\n")
    try:
        page.run("systemctl reload nanumpay-backupd")
        found = browse(page, "boss", PASSWORD, backup)
        assert (found["overview"], found["planned"]) == (200, 403)
    finally:
        page.host_file("")
        page.run("systemctl reload nanumpay-backupd")


def test_tokens(page: Host) -> None:
    """Made by root as the page says; the daemon takes the order, and opens the file that is taken away."""
    secret = page.run(told("web-token").splitlines()[0]).out.strip()
    assert "app" in page.run(told("web-token").splitlines()[1]).out
    script = (
        "import json,sys,urllib.request as u\n"
        f"def ask(path, data=None): return u.urlopen(u.Request('http://127.0.0.1:9680/api/admin/' + path, data=data, "
        f"headers={{'authorization': 'Bearer {secret}'}}), timeout=100).read()\n"
        "made = json.loads(ask('backup/execute', b''))\n"
        "print(made['success'], len(ask('backup/download?file=' + made['file'])))\n"
    )
    page.put("/root/program.py", script)
    good, size = page.run("python3 /root/program.py").out.split()
    assert (good, int(size)) == ("True", page.stored()[-1].stat().st_size)
    page.run("backupctl token revoke app")
    assert "401" in page.run("python3 /root/program.py", check=False).err


def test_backups_go_on_without_it(page: Host) -> None:
    """Killed in the middle of its work, the page comes back by itself; the daemon does not notice."""
    daemon = page.main_pid()
    page.run(f"systemctl kill -s KILL {UNIT}")
    assert page.backup()["outcome"] == "succeeded"
    wait_for(lambda: browse_quietly(page) == 200, "the page again")
    assert page.main_pid() == daemon


def browse_quietly(host: Host) -> int:
    """Return what the overview answers, 0 while nobody does."""
    host.put("/root/browser.py", BROWSER)
    done = host.run(f"python3 /root/browser.py boss '{PASSWORD}' latest", check=False)
    return int(json.loads(done.out)["overview"]) if done.code == 0 else 0


def test_exposure(page: Host, figures: dict[str, str]) -> None:
    """Systemd's own judgement of its sandbox is 1.5 at most."""
    said = page.run(f"systemd-analyze security --no-pager {UNIT}").out
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    figures["systemd-analyze security, page"] = f"{figure} (at most 1.5)"
    figures["memory of the page"] = page.show("MemoryCurrent", unit=f"{UNIT}.service")
    assert float(figure) <= 1.5
