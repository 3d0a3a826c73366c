"""docs/web.md: the lines for programs do what the page says, and the example for nginx is what the page needs."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from nanumpay_backupd.web.guard import LARGEST
from tests.servers.certs import Certificate, make_certificate
from tests.servers.daemon import Site, open_site
from tests.servers.mongod import Mongod
from tests.servers.process import free_port, running
from tests.servers.tools import PROJECT, find_tool
from tests.servers.web import ADMIN, PASSWORD, Page, add_admin, csrf_of, open_page

TEXT: Final = (PROJECT / "docs" / "web.md").read_text(encoding="utf-8")
NGINX: Final = (PROJECT / "docs" / "web" / "nginx.conf").read_text(encoding="utf-8")
BLOCKS: Final = dict(re.findall(r"<!-- test: ([\w-]+) -->\n```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site whose daemon runs, with a backup."""
    with open_site(mongod_rs) as site:
        add_admin(site)
        site.start()
        assert site.run()["outcome"] == "succeeded"
        yield site


@pytest.fixture(scope="module")
def page(site: Site) -> Iterator[Page]:
    """The page of that site."""
    with open_page(site) as page:
        yield page


@pytest.fixture(scope="module")
def token(page: Page) -> str:
    """A token with the scopes of the page's example."""
    words = BLOCKS["web-token"].splitlines()[0].split()
    assert words[:2] == ["backupctl", "token"]
    done = page.command(*words[1:])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def typed(name: str, page: Page, token: str, folder: Path) -> str:
    """Run a block as it stands, in a shell that stops at the first failure; returns what it wrote."""
    done = subprocess.run(
        ["bash", "-euc", BLOCKS[name]],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "URL": page.origin, "TOKEN": token, "no_proxy": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.servers
def test_status(page: Page, token: str, tmp_path: Path) -> None:
    """It is the daemon's own word."""
    assert json.loads(typed("web-api-status", page, token, tmp_path))["jobs"][0]["name"] == "nanumpay"


@pytest.mark.servers
def test_run(site: Site, page: Page, token: str, tmp_path: Path) -> None:
    """The first begins a run, which may be going on when the second comes; each says what came of it."""
    block = BLOCKS["web-api-run"]
    first, second = block[: block.index("curl", 5)], block[block.index("curl", 5) :]
    BLOCKS.update({"first": first, "second": second})
    begun = json.loads(typed("first", page, token, tmp_path))
    assert site.ended(begun["run"])["outcome"] == "succeeded"
    made = json.loads(typed("second", page, token, tmp_path))
    assert (made["success"], (site.backups / made["file"]).is_file()) == (True, True)


@pytest.mark.servers
def test_download(site: Site, page: Page, token: str, tmp_path: Path) -> None:
    """The newest backup is in the folder, byte for byte; one that broke off is gone on with by the same line."""
    typed("web-api-download", page, token, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = (site.backups / file.name).read_bytes()
    assert file.read_bytes() == whole
    file.write_bytes(whole[: len(whole) // 2])
    typed("web-api-download", page, token, tmp_path)
    assert file.read_bytes() == whole


@pytest.mark.servers
def test_events(page: Page, token: str, tmp_path: Path) -> None:
    """The stream begins with whether the daemon is there."""
    assert '"kind":"' in typed("web-api-events", page, token, tmp_path)


def test_every_block_is_run() -> None:
    """By this file, or on a booted host."""
    system = (PROJECT / "tests" / "system" / "test_web.py").read_text(encoding="utf-8")
    own = Path(__file__).read_text(encoding="utf-8")
    assert [
        name for name in BLOCKS if not re.search(rf"['\"]{name}['\"]", system + own) and name not in {"first", "second"}
    ] == []


def test_the_example_for_nginx() -> None:
    """What the page relies on is in there: its own name, the caller's address, and room for what may be sent."""
    assert "proxy_set_header Host $http_host;" in NGINX
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in NGINX
    assert f"client_max_body_size {LARGEST >> 10}k;" in NGINX
    assert "server 127.0.0.1:9680;" in NGINX


def through_nginx(page_port: int, port: int, plain: int, folder: Path, certificate: Certificate) -> Path:
    """Write the example with the ports and the certificate that are here; returns nginx' own file around it."""
    changes = {
        "server 127.0.0.1:9680;": f"server 127.0.0.1:{page_port};",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/letsencrypt/live/backup.example.com/fullchain.pem": str(certificate.certificate),
        "/etc/letsencrypt/live/backup.example.com/privkey.pem": str(certificate.key),
    }
    text = re.sub(r"^ *listen \[::\]:.*\n", "", NGINX, flags=re.MULTILINE)
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text, encoding="utf-8")
    own = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; worker_processes 1; error_log {folder}/error.log; pid {folder}/pid;\n"
        f"events {{}}\nhttp {{ access_log off; {own} include {folder}/site.conf; }}\n",
        encoding="utf-8",
    )
    return folder / "nginx.conf"


@pytest.mark.servers
def test_behind_nginx_with_tls(site: Site, tmp_path: Path) -> None:
    """By the example as it stands one signs in over TLS, changes something, hears events and takes a file away."""
    port, plain = free_port(), free_port()
    name = f"backup.example.com:{port}"
    certificate = make_certificate(tmp_path)
    with open_page(site, f"address = 'https://{name}'") as page:
        config = through_nginx(page.port, port, plain, tmp_path, certificate)
        argv = [str(find_tool("nginx")), "-e", str(tmp_path / "error.log"), "-c", str(config)]
        with running(argv, tmp_path / "nginx.log", "127.0.0.1", port):
            trust = ssl.create_default_context(cafile=str(certificate.authority))
            trust.check_hostname = False
            headers = {"host": name, "origin": f"https://{name}", "x-forwarded-for": "192.0.2.66"}
            base = f"https://127.0.0.1:{port}"
            with httpx.Client(base_url=base, headers=headers, verify=trust, timeout=30, trust_env=False) as browser:
                jar: dict[str, str] = {}

                def ask(method: str, path: str, **more: Any) -> httpx.Response:
                    """Ask as a browser does; cookies of a name that only nginx knows are carried by hand."""
                    cookies = "; ".join(f"{key}={value}" for key, value in jar.items())
                    answer = browser.request(method, path, headers={"cookie": cookies}, **more)
                    for line in answer.headers.get_list("set-cookie"):
                        key, _, rest = line.partition("=")
                        assert "Secure" in line
                        jar[key] = rest.partition(";")[0]
                    return answer

                token = csrf_of(ask("GET", "/sign-in").text)
                form = {"csrf": token, "name": ADMIN, "password": PASSWORD}
                assert ask("POST", "/sign-in", data=form).status_code == 303
                overview = ask("GET", "/")
                assert overview.status_code == 200
                assert overview.headers["strict-transport-security"]
                form = {"csrf": csrf_of(overview.text), "job": "nanumpay"}
                run = ask("POST", "/run", data=form).headers["location"].rpartition("/")[2]
                backup = site.ended(run)["backup"]
                cookies = "; ".join(f"{key}={value}" for key, value in jar.items())
                with browser.stream("GET", "/api/admin/backup/events", headers={"cookie": cookies}) as stream:
                    assert any(line.startswith("data: ") for line in stream.iter_lines())
                file = site.call("DescribeBackup", backup=backup)["backup"]["artifact"]
                taken = ask("GET", f"/api/admin/backup/download?file={file}")
                assert taken.content == (site.backups / file).read_bytes()
                assert httpx.get(f"http://127.0.0.1:{plain}/x", trust_env=False).status_code == 301
        assert "from 127.0.0.1" in page.log()
        assert "192.0.2.66" not in page.log(), "what the caller says of itself is not believed"
