"""tar's snapshot file: real ones, as tar writes them; what is dropped makes tar save a folder whole; damage is told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanumpay_backupd.errors import SourceError
from nanumpay_backupd.sources.files_state import (
    add_unread,
    begun,
    count_listed,
    forget_folders,
    forget_moved,
    is_state,
    take_unread,
)
from tests.trees import ODD


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a tree with folders of odd names, empty ones, and names that begin as flags do."""
    root = tmp_path / "tree"
    for folder in ("a/b", "empty", "Y", "a/Yes"):
        (root / folder).mkdir(parents=True)
    (root / "Y" / "Y").touch()
    (root / "a" / "b" / "file").touch()
    for name in ODD:
        os.mkdir(os.fsencode(root) + b"/" + name)
        with open(os.fsencode(root) + b"/" + name + b"/Y" + name[:200], "wb"):
            pass
    return root


def save(tree: Path, state: Path) -> list[bytes]:
    """Let tar save it; returns the names in the archive that are no folders."""
    command = ["tar", "-cf", str(tree.with_name("out.tar")), f"--listed-incremental={state}", str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    listed = subprocess.run(
        ["tar", "-tf", tree.with_name("out.tar"), "--quoting-style=escape"], check=True, capture_output=True
    ).stdout
    return [name for name in listed.splitlines() if not name.endswith(b"/")]


def test_what_tar_wrote_is_understood(tree: Path, tmp_path: Path) -> None:
    """The file is recognized, tells when tar began, and how many files it meant to save: those in the archive."""
    before = time.time_ns()
    state = tmp_path / "state"
    names = save(tree, state)
    assert is_state(state)
    assert before - 2 * 10**9 < begun(state) <= time.time_ns()
    assert count_listed(state) == len(names) == len(ODD) + 2
    assert save(tree, state) == []
    assert count_listed(state) == 0


def test_nothing_is_forgotten_of_what_is_in_place(tree: Path, tmp_path: Path) -> None:
    """A tree in which no folder moved leaves the file as it was, byte for byte."""
    state = tmp_path / "state"
    save(tree, state)
    held = state.read_bytes()
    assert forget_moved(state, check_device=True) == 0
    assert state.read_bytes() == held


def test_a_moved_folder_is_saved_whole(tree: Path, tmp_path: Path) -> None:
    """What moved, what is below it, and what took its place are forgotten; the rest is not saved again."""
    state = tmp_path / "state"
    save(tree, state)
    (tree / "a").rename(tree / "c")
    (tree / "empty").rmdir()
    (tree / "empty").write_text("a file now")
    # A new folder in the place of an old one: the numbers of the two must differ.
    odd = os.fsencode(tree) + b"/" + ODD[0]
    os.rename(odd, odd + b"2")
    os.mkdir(odd)
    assert forget_moved(state, check_device=True) == len(["a", "a/b", "a/Yes", "empty", ODD[0]])
    base = os.fsencode(tree)[1:]
    assert set(save(tree, state)) == {base + b"/c/b/file", base + b"/empty", base + b"/" + ODD[0] + b"2/Y" + ODD[0]}


def test_another_device_is_another_tree_unless_told(tree: Path, tmp_path: Path) -> None:
    """Device numbers that differ make every folder a new one, but where they are not looked at."""
    state = tmp_path / "state"
    save(tree, state)
    device = str(tree.stat().st_dev).encode()
    other = state.read_bytes().replace(b"\0" + device + b"\0", b"\0" + str(int(device) + 1).encode() + b"\0")
    state.write_bytes(other)
    assert forget_moved(state, check_device=False) == 0
    assert forget_moved(state, check_device=True) == len(ODD) + 6


@pytest.mark.parametrize("names", [[], [b"/a"], [b"/a/\xff\n", b"/b"]])
def test_what_could_not_be_read_is_noted_behind(tree: Path, tmp_path: Path, names: list[bytes]) -> None:
    """Names of any bytes come back, once, and what tar wrote is as it was."""
    state = tmp_path / "state"
    save(tree, state)
    held = state.read_bytes()
    add_unread(state, names)
    assert take_unread(state) == names
    assert state.read_bytes() == held
    assert take_unread(state) == []


def test_a_folder_that_is_forgotten_is_saved_again(tree: Path, tmp_path: Path) -> None:
    """Everything in it, and nothing beside it."""
    state = tmp_path / "state"
    save(tree, state)
    assert forget_folders(state, {os.fsencode(tree / "Y"), b"/nowhere"}) == 1
    assert save(tree, state) == [os.fsencode(tree / "Y" / "Y")[1:]]


_DAMAGED = st.binary(max_size=300)


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(0, 10_000), more=_DAMAGED)
def test_damage_is_told_and_changes_nothing(cut: int, more: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file that is cut off or has something else in it leads to a full, not to a traceback or a half of it."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = b"GNU tar-1.34-2\n1700000000\0005\0" + b"0\0001\0002\0003\0004\0/nowhere\0Yfile\0Dfolder\0\0\0" * 3
    state = folder / "state"
    state.write_bytes(whole[:cut] + more)
    with contextlib.suppress(SourceError):
        forget_moved(state, check_device=True)
        assert is_state(state)
        return
    assert state.read_bytes() == whole[:cut] + more
    assert [path.name for path in folder.iterdir()] == ["state"]
