"""What is left out of a tree: git itself is asked about the same rules; presets by what they leave out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanumpay_backupd.settings.sources import FilesSource
from nanumpay_backupd.sources.files import rules_of
from nanumpay_backupd.sources.files_rules import PRESETS, Rules, for_tar, parse_rules
from nanumpay_backupd.sources.files_survey import survey

_FOLDERS: Final = ("a", "b", "a/b", "a/b/a", "ab", "ab/a b", "a.b", "b/[a]", "b/[a]/-")
_NAMES: Final = ("a", "b", "ab", "a.b", "a b", "a ", "!a", "#a", "*", "?", "[a]", "a\\b", "A", ".a", "-", "]", "^")
_PIECES: Final = (
    *("a", "b", "A", ".", "-", " ", "\\ ", "/", "*", "**", "?", "!", "#", "\\", "\\*", "\\a", "]", "^"),
    *(
        "[",
        "[a]",
        "[!a]",
        "[^a]",
        "[a-b]",
        "[]]",
        "[!]]",
        "[]-a]",
        "[a-]",
        "[\\]]",
        "[a\\-b]",
        "[[:alpha:]]",
        "[[:upper:]b]",
    ),
)
_LINE: Final = st.one_of(
    st.lists(st.sampled_from(_PIECES), min_size=1, max_size=5).map("".join),
    st.builds(
        lambda back, rooted, words, folder: f"{back}{rooted}{'/'.join(words)}{folder}",
        st.sampled_from(("", "", "!")),
        st.sampled_from(("", "", "/", "**/")),
        st.lists(st.sampled_from((*_NAMES, "**", "*", "a*", "*b", "[ab]*")), min_size=1, max_size=4),
        st.sampled_from(("", "", "/", "/*", "/**")),
    ),
)


def _understood(line: str) -> bool:
    """Tell whether a line is not refused: git passes over one that cannot fit anything."""
    try:
        parse_rules([line])
    except ValueError:
        return False
    return True


_RULES: Final = st.lists(_LINE.filter(_understood), max_size=5)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a repository whose folders and files share a few odd names."""
    root = tmp_path_factory.mktemp("rules") / "tree"
    root.mkdir()
    subprocess.run(["git", "init", "-q", root], check=True)
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    for folder in ("", *_FOLDERS):
        for name in _NAMES:
            if not (root / folder / name).exists():
                (root / folder / name).touch()
    return root


def _files(root: Path, left_out: set[str]) -> Iterator[str]:
    """Yield the files that are not left out, by their path below the root."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".git" and f"{folder}/{name}" not in left_out]
        yield from (f"{folder}/{name}"[len(str(root)) + 1 :] for name in names if f"{folder}/{name}" not in left_out)


def _with_git(root: Path) -> set[str]:
    command = ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "--others", "--exclude-standard", "-z"]
    said = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    return {os.fsdecode(name) for name in said.split(b"\0") if name}


@settings(max_examples=250, deadline=None)
@given(top=_RULES, middle=_RULES, deep=_RULES)
@example([], [], ["*/a"])
@example(["*", "!*/", "!a.b"], ["a.b"], ["!a"])
@example([], [], ["*/*"])
@example(["a/**/a", "**/-", "b/**"], [], [])
@example([], [], ["a", "!/**"])
@example(["\\!a", "\\#a", "#a", "a\\ "], ["!b"], ["/a", "!a/"])
def test_rules_leave_out_what_git_leaves_out(tree: Path, top: list[str], middle: list[str], deep: list[str]) -> None:
    """Files of rules in three folders of a tree act as git's do, whatever is in them."""
    for folder, lines in (("", top), ("a", middle), ("a/b", deep)):
        path = tree / folder / ".gitignore"
        path.unlink(missing_ok=True)
        if lines:
            path.write_text("".join(f"{line}\n" for line in lines))
    found = survey([str(tree)], parse_rules([".git/"]), ".gitignore")
    assert set(_files(tree, set(found.left_out))) == _with_git(tree)
    assert found.rule_files == [
        f"{tree / folder / '.gitignore'}\n" + "".join(f"{line}\n" for line in lines)
        for folder, lines in (("", top), ("a", middle), ("a/b", deep))
        if lines and (tree / folder / ".gitignore") in {Path(text.partition("\n")[0]) for text in found.rule_files}
    ]


@pytest.mark.parametrize(
    "line,path,folder,fits",
    [
        ("?.txt", "한.txt", False, True),
        ("[가-힣]*", "이름", False, True),
        ("name\r\n", "name", False, True),
        ("/a/", "a", True, True),
        ("/a/", "a", False, None),
        ("*.log", "deep/er/x.log", False, True),
        ("!*.log", "x.log", False, False),
    ],
)
def test_what_a_rule_says_of_a_path(line: str, path: str, folder: bool, fits: bool | None) -> None:
    """A letter is one of any alphabet; a line may end as on Windows; a rule for folders says nothing of files."""
    assert parse_rules([line]).verdict(path, folder=folder) is fits


@pytest.mark.parametrize("line", ["/", "!", "!/", "a[b", "a\\", "[", "[a-", "[]"])
def test_a_line_that_cannot_fit_anything_is_refused(line: str) -> None:
    """Git passes over it; here somebody meant something by it, and is told."""
    with pytest.raises(ValueError, match=r"names nothing|without its|ends in a backslash"):
        parse_rules([line])


@pytest.mark.parametrize(
    "preset,out,kept",
    [
        (
            "laravel",
            """
            vendor/ a/node_modules/ .git/ storage/logs/a.log storage/framework/cache/x
            storage/framework/cache/data/ab/ storage/framework/sessions/x storage/framework/views/x.php
            bootstrap/cache/config.php public/hot .env .env.production a/.env auth.json
            storage/oauth-private.key server.pem .phpunit.result.cache
            """,
            """
            storage/logs/ storage/logs/.gitignore storage/framework/cache/ storage/framework/cache/data/
            .env.example storage/framework/cache/data/.gitignore app/vendor/ app/Http/x.php public/index.php
            storage/app/public/their.pem storage/app/auth.json storage/app/notes.log composer.lock
            """,
        ),
        (
            "node",
            """
            node_modules/ packages/a/node_modules/ .next/cache/ .npm/ logs/app.log npm-debug.log .env .npmrc
            a/.env.local
            """,
            """
            src/logs/ package-lock.json uploads/a.log uploads/id.key .next/ logs/ .env.dist
            """,
        ),
        (
            "wordpress",
            """
            wp-config.php wp-content/cache/x wp-content/upgrade/y/ wp-content/debug.log a/error_log .git/ .env
            """,
            """
            wp-content/uploads/2026/a.jpg wp-content/plugins/x/cache/ wp-content/cache/ wp-content/uploads/a.key
            index.php
            """,
        ),
        ("none", "", ".env vendor/ .git/ a.log"),
    ],
)
def test_what_presets_leave_out(preset: str, out: str, kept: str) -> None:
    """What can be made again, and secrets; nothing that people upload, and no folder that the application needs."""
    rules = rules_of(FilesSource(path=("/srv/app",), preset=preset))
    for words, left_out in ((out, True), (kept, False)):
        for word in words.split():
            assert bool(rules.verdict(word.rstrip("/"), folder=word.endswith("/"))) is left_out, word


def test_the_page_has_the_presets() -> None:
    """docs/sources/files.md lists every rule of each preset, in its order."""
    page = (Path(__file__).parents[2] / "docs" / "sources" / "files.md").read_text(encoding="utf-8")
    for name, lines in PRESETS.items():
        if lines:
            _, found, rest = page.partition(f'`preset = "{name}"`:\n\n```gitignore\n')
            assert found, name
            assert tuple(rest.partition("\n```")[0].split("\n")) == lines


@pytest.mark.parametrize(
    "lines,given_to_tar",
    [
        (["*.tmp", "core"], ["*.tmp", "core"]),
        (["*.tmp", "!keep.tmp"], []),
        (["core", "!keep.tmp"], ["core"]),
        (["core", "!/a/core"], []),
        (["!core", "core"], ["core"]),
        (["/top", "cache/", "a/b"], []),
    ],
)
def test_names_for_what_comes_after_the_look(lines: list[str], given_to_tar: list[str]) -> None:
    """Tar gets the patterns that no rule takes anything back from, and that need no knowledge of folders."""
    assert for_tar(parse_rules(lines)) == given_to_tar


def test_no_rules_say_nothing() -> None:
    """Without rules nothing is left out, and that is cheap to see."""
    assert not Rules(())
    assert parse_rules(["", "# a remark", "   "]).verdict("a", folder=True) is None
