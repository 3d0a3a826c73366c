"""debian/ is in step with the product: version, files, and what its scripts say about the program's own doings."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd import __version__
from nanumpay_backupd.takeover.folder import APPLICATION, DEFAULT, HEADER
from nanumpay_backupd.takeover.folders import Host
from tests.servers.tools import PROJECT

FOLDER: Final = PROJECT / "debian"
RULES: Final = (FOLDER / "rules").read_text(encoding="utf-8")
ENVIRONMENT: Final = (FOLDER / "environment").read_text(encoding="utf-8")
SCRIPTS: Final = [
    path for path in sorted(FOLDER.iterdir()) if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")
]
POSTRM: Final = (FOLDER / "nanumpay-backupd.postrm").read_text(encoding="utf-8")


def test_the_changelog_begins_with_the_products_version() -> None:
    """One version everywhere: a package never claims another one than the program in it."""
    first = (FOLDER / "changelog").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"nanumpay-backupd ({__version__}) unstable; urgency=medium"


def test_all_scripts_are_looked_at() -> None:
    """The four of the maintainer and the two of the build."""
    assert {path.name for path in SCRIPTS} == {
        "build",
        "environment",
        *(f"nanumpay-backupd.{name}" for name in ("preinst", "postinst", "prerm", "postrm")),
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_plain_shell(path: Path) -> None:
    """The shell reads it, and it stops at the first failure."""
    done = subprocess.run(["sh", "-n", path], capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)
    assert re.search(r"^set -eu?$", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", sorted((PROJECT / "systemd").iterdir()), ids=lambda path: path.name)
def test_everything_for_systemd_is_installed(path: Path) -> None:
    """A unit, or another file for systemd, that is added reaches the package."""
    assert f"systemd/{path.name}" in RULES


def test_the_licence_of_every_library_in_the_package_is_told() -> None:
    """Each library that the lock file names has its licence in debian/copyright, and no other is named there."""
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    lines = re.findall(r"^([a-z0-9-]+)==\S+ (?:; (.*) )?\\$", lock, re.MULTILINE)
    # What other kinds of Python do without is in the package; what later versions need is not.
    locked = {name for name, condition in lines if not condition or "implementation" in condition}
    text = (FOLDER / "copyright").read_text(encoding="utf-8")
    (told,) = re.findall(r"They are:\n \.\n(.*?)\n\n", text, re.DOTALL)
    words = re.sub(r"\(.*?\)", "", told, flags=re.DOTALL)
    lists = [part.partition(":")[2] for part in re.split(r"[;.](?:\n|$)", words)]
    named = {name.strip() for names in lists for name in names.split(",") if name.strip()}
    # The lines of a later Python have a condition; the zone files are the system's.
    assert named == locked - {"tzdata"}


def test_every_completion_is_installed() -> None:
    """Each program has one for each of the three shells."""
    names = {path.name for path in (PROJECT / "nanumpay_backupd" / "cli" / "completions").iterdir()}
    (programs,) = re.findall(r"for program in (.*?);", RULES)
    patterns = re.findall(r"\t\tinstall -D -m 0644 (\S+) ", RULES)
    assert names == {pattern.replace("$$program", name) for pattern in patterns for name in programs.split()}


def test_the_units_start_what_the_package_links() -> None:
    """The programs that units name are where the package puts them."""
    links = dict(line.split()[::-1] for line in (FOLDER / "nanumpay-backupd.links").read_text("utf-8").splitlines())
    assert links["/opt/nanumpay/bin/nanumpay-backup"] == "/opt/nanumpay-backupd/bin/nanumpay-backup"
    for unit in ("nanumpay-backupd.service", "nanumpay-backup-web.service"):
        service = (PROJECT / "systemd" / unit).read_text(encoding="utf-8")
        named = re.findall(r"^Exec\w+=(\S+)", service, re.MULTILINE)
        assert named
        assert set(named) <= set(links)
    # Each of them is a program that the environment makes.
    made = re.findall(r"([\w-]+):[\w.]+", re.findall(r"for program in (.*?); do", ENVIRONMENT)[0])
    assert {Path(target).name for target in links.values()} == set(made)


def test_the_package_brings_the_libraries_of_everything() -> None:
    """What is optional elsewhere is there: the page, and every type of destination."""
    assert "'nanumpay-backupd[all]'" in ENVIRONMENT


def test_the_unit_is_open_where_no_drop_in_is_made() -> None:
    """For the two usual folders `prepare-folder` relies on the unit."""
    service = (PROJECT / "systemd" / "nanumpay-backupd.service").read_text(encoding="utf-8")
    assert f"\nReadWritePaths=-{DEFAULT} -{APPLICATION}\n" in service


def test_purge_knows_the_drop_in_that_is_ours() -> None:
    """It removes that very file, when it begins with our words, and looks for unused folders where they would be."""
    folder = re.search(r"^drop_ins=(.*)$", POSTRM, re.MULTILINE)
    file = re.search(r"^ours=\$drop_ins/(.*)$", POSTRM, re.MULTILINE)
    words = re.search(r"grep -q '\^(.*)' \"\$ours\"", POSTRM)
    assert folder is not None
    assert file is not None
    assert words is not None
    assert Path(folder[1]) / file[1] == Host().drop_in
    assert HEADER.startswith(words[1])
    assert re.findall(r"^    remove_unused (.*)$", POSTRM, re.MULTILINE) == [str(DEFAULT), str(APPLICATION)]


def test_every_override_of_lintian_has_its_reason() -> None:
    """Above each tag stands why the package is right not to follow it."""
    lines = (FOLDER / "nanumpay-backupd.lintian-overrides").read_text(encoding="utf-8").splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        assert line.startswith("#") or before.startswith("# ")
