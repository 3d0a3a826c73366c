"""Fetches the database servers that tests run, and igzip, out of Debian's packages into .tools: none is installed.

Installing would start servers and keep their data in /var. Run by setup_tools; standard library only. A program in
.tools/bin is a line of shell that runs the one in the unpacked tree with the libraries that came with it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["IGZIP", "MARIADB", "POSTGRES", "fetch_servers"]

MARIADB: Final = (
    *("mariadb-server-core", "mariadb-server", "mariadb-client-core", "mariadb-client"),
    *("libmariadb3", "liburing2", "libnuma1", "libaio1", "libedit2", "libncurses6", "libbsd0", "libmd0"),
)
POSTGRES: Final = ("postgresql-15", "postgresql-client-15", "libpq5", "libldap-2.5-0", "libxml2", "libicu72")
IGZIP: Final = ("isal", "libisal2")
_MARIADB_PROGRAMS: Final[Mapping[str, str]] = {
    "mariadb": "usr/bin/mariadb",
    "mariadb-dump": "usr/bin/mariadb-dump",
    "mariadb-binlog": "usr/bin/mariadb-binlog",
    "mariadb-install-db": "usr/bin/mariadb-install-db",
    "mariadbd": "usr/sbin/mariadbd",
}
_NEED_BASE: Final = frozenset({"mariadb-install-db", "mariadbd"})
_POSTGRES_FOLDER: Final = "usr/lib/postgresql/15/bin"
_POSTGRES_PROGRAMS: Final = ("initdb", "postgres", "psql", "pg_dump", "pg_dumpall", "pg_restore")
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


def fetch_servers(tools: Path, download: Callable[[Sequence[str], Path], None]) -> None:
    """Fetch what is not there; ``download`` brings Debian packages into a folder."""
    if not (tools / "bin" / "mariadbd").exists():
        tree = _unpacked(tools, "mariadb", MARIADB, download)
        for name, inside in _MARIADB_PROGRAMS.items():
            _write(tools, tree, name, inside, base=name in _NEED_BASE)
    if not (tools / "bin" / "igzip").exists():
        # The benchmark's measure: what a pipe by hand would compress with.
        _write(tools, _unpacked(tools, "isal", IGZIP, download), "igzip", "usr/bin/igzip", base=False)
    installed = any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed and not (tools / "bin" / "postgres").exists():
        tree = _unpacked(tools, "postgresql", POSTGRES, download)
        for name in _POSTGRES_PROGRAMS:
            _write(tools, tree, name, f"{_POSTGRES_FOLDER}/{name}", base=False)


def _unpacked(tools: Path, name: str, packages: Sequence[str], download: Callable[[Sequence[str], Path], None]) -> Path:
    """Return the tree of packages, unpacked anew."""
    cache, tree = tools / "download", tools / name
    for folder in (cache, tree):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    download(packages, cache)
    for package in sorted(cache.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
    shutil.rmtree(cache)
    return tree


def _write(tools: Path, tree: Path, name: str, inside: str, *, base: bool) -> None:
    """Write the line of shell. An option about option files has to come first, so the base goes behind that."""
    program, libraries = shlex.quote(str(tree / inside)), shlex.quote(str(tree / _LIBRARIES))
    lines = ["#!/bin/sh", f"export LD_LIBRARY_PATH={libraries}"]
    if base:
        lines += ['first=; case "$1" in --no-defaults|--defaults-file=*) first=$1; shift;; esac']
        lines += [f'exec {program} ${{first:+"$first"}} --basedir={shlex.quote(str(tree / "usr"))} "$@"']
    else:
        lines += [f'exec {program} "$@"']
    (tools / "bin").mkdir(exist_ok=True)
    partial = tools / "bin" / f".{name}.partial"
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.chmod(0o755)
    partial.rename(tools / "bin" / name)
