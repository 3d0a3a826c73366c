"""Packages for the tests: the one that `make deb` built, an older one of it, and one that plays the application's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from nanumpay_backupd import __version__
from tests.servers.tools import PROJECT

__all__ = ["OLD_VERSION", "PACKAGE", "SHIM", "application", "built", "older"]

PACKAGE: Final = "nanumpay-backupd"
OLD_VERSION: Final = "0.0.9"
SHIM: Final = "/opt/nanumpay/bin/nanumpay-backup"
"""The path that the application's own package has a program of its own at."""
_APPLICATION: Final = """\
Package: nanumpay
Version: {version}
Architecture: all
Maintainer: Nobody <nobody@example.com>
Description: stands in for the application's package
"""


def built() -> Path:
    """Return the package that `make deb` built last; it must be for the Python of Debian 12."""
    found = sorted((PROJECT / "dist").glob(f"{PACKAGE}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError("there is no package in dist/: make deb")
    depends = subprocess.run(["dpkg-deb", "-f", str(found[-1]), "Depends"], check=True, capture_output=True, text=True)
    assert "python3 (<< 3.12)" in depends.stdout, f"build it on Debian 12; this one is for: {depends.stdout}"
    return found[-1]


def older(package: Path, folder: Path) -> Path:
    """Make a package of the same content that calls itself older, and has one module that the newer one has not."""
    tree = folder / "older"
    _run("dpkg-deb", "-R", str(package), str(tree))
    control = tree / "DEBIAN" / "control"
    control.write_text(_replaced(control, rf"^Version: {re.escape(__version__)}\S*$", f"Version: {OLD_VERSION}"))
    (code,) = tree.glob("opt/nanumpay-backupd/lib/python3*/site-packages/nanumpay_backupd")
    init = code / "__init__.py"
    init.write_text(_replaced(init, rf'"{re.escape(__version__)}"', f'"{OLD_VERSION}"'))
    (code / "left_out_later.py").write_text('"""What the next version has no more."""\n', encoding="utf-8")
    # Compiled as the package is: nobody looks whether a compiled file still belongs to its source.
    _run(
        "/usr/bin/python3", "-m", "compileall", "-qf", "--invalidation-mode=unchecked-hash", "-s", str(tree), str(code)
    )
    return _pack(tree, folder / f"{PACKAGE}_{OLD_VERSION}_all.deb")


def application(folder: Path, version: str) -> Path:
    """Make a package that owns the old program's path, as the application's does; the program says its version."""
    tree = folder / f"application-{version}"
    program = tree / SHIM.lstrip("/")
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho the old program {version}\n", encoding="utf-8")
    program.chmod(0o755)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(_APPLICATION.format(version=version), encoding="utf-8")
    return _pack(tree, folder / f"nanumpay_{version}_all.deb")


def _replaced(path: Path, pattern: str, by: str) -> str:
    text, count = re.subn(pattern, by, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1, f"{path}: {pattern} is there {count} times"
    return text


def _pack(tree: Path, package: Path) -> Path:
    # Without compression: it is installed once.
    _run("dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(package))
    return package


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
