"""Pure: which paths of a tree are left out, by rules as gitignore(5) has them, and the presets. Reads no disk.

A rule is a line: ``name`` anywhere below, ``/name`` or ``a/b`` from the tree's root on, ``name/`` folders only, ``*``,
``?``, ``[…]`` within a name, ``**`` across folders, ``!…`` takes back in. The last rule that fits decides; what lies in
a folder that is left out cannot be taken back in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["ALWAYS", "ASIDE", "PRESETS", "WORKING", "Here", "Rule", "Rules", "for_tar", "parse_rules"]

ASIDE: Final = ".nanumpay-before-"
"""Begins the name of a folder in which a restore keeps what was there before."""
WORKING: Final = ".nanumpay-restore-"
"""Begins the name of a folder in which a restore works."""
ALWAYS: Final = (f"{ASIDE}*/", f"{WORKING}*/")
"""Rules that hold for every tree, behind all others."""
_SECRETS: Final = (".env", ".env.*", "!.env.example", "!.env.dist", "/auth.json", "/.npmrc", "/*.key", "/*.pem")
PRESETS: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "laravel": (
        "/vendor/",
        "node_modules/",
        ".git/",
        "/storage/logs/*",
        "/storage/framework/cache/*",
        "!/storage/framework/cache/data/",
        "/storage/framework/cache/data/*",
        "/storage/framework/sessions/*",
        "/storage/framework/testing/*",
        "/storage/framework/views/*",
        "/storage/debugbar/*",
        "/storage/app/backup-temp/",
        "/storage/*.key",
        "/bootstrap/cache/*",
        "/public/hot",
        ".phpunit.cache/",
        ".phpunit.result.cache",
        "!.gitignore",
        *_SECRETS,
    ),
    "node": (
        "node_modules/",
        ".git/",
        ".cache/",
        ".npm/",
        ".pnpm-store/",
        ".next/cache/",
        "/logs/*",
        "/*.log",
        *_SECRETS,
    ),
    "wordpress": (
        "/wp-content/cache/*",
        "/wp-content/upgrade/*",
        "/wp-content/debug.log",
        "error_log",
        ".git/",
        "/wp-config.php",
        *_SECRETS,
    ),
}
"""What is left out of a tree of that kind: what can be made again, and secrets, which belong into a safe of their own.

An empty folder that the application needs (``storage/logs``) stays, with its ``.gitignore``. Rules for files hold only
where such files are the application's own: what people upload may be called anything.
"""
_SPECIAL: Final = re.compile(r"[*?\[\\]")
_NAMED: Final = re.compile(r":([a-z]+):\]")
_CLASSES: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
"""What stands for a class of letters within brackets, as in the C locale."""


class Rule(NamedTuple):
    """One line: whether it takes back in, is for folders only, begins at the root, and what fits its path.

    ``name`` fits the last part of a path, where that and a fit of ``above`` to the folder are the same as a fit to the
    whole; None: only ``fits`` tells. ``literal`` is the only name that fits, empty: there are several.
    """

    text: str
    back: bool
    folders: bool
    rooted: bool
    fits: re.Pattern[str]
    name: re.Pattern[str] | None
    above: re.Pattern[str] | None
    literal: str


class Rules:
    """The rules of one folder, for what is below it."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._known: dict[tuple[int, ...], Here] = {}

    def __bool__(self) -> bool:
        return bool(self.rules)

    def verdict(self, path: str, *, folder: bool) -> bool | None:
        """Tell whether ``path`` (from the rules' folder on, without a slash at its ends) is out; None: nothing said."""
        # The last one decides.
        for rule in reversed(self.rules):
            if (folder or not rule.folders) and rule.fits.fullmatch(path):
                return not rule.back
        return None

    def within(self, folder: str) -> Here:
        """Return the rules that may fit what is in a folder (its path from the rules' folder on, empty: that itself).

        Of most folders they are the same, so it is cheap.
        """
        some = tuple(
            at
            for at, rule in enumerate(self.rules)
            if rule.name is None or rule.above is None or rule.above.fullmatch(folder)
        )
        found = self._known.get(some)
        if found is None:
            found = self._known[some] = Here(tuple(self.rules[at] for at in some))
        return found


class Here:
    """Those of some rules that may fit what is in one folder."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules[::-1]
        self._literals = frozenset(rule.literal for rule in rules if rule.literal)
        odd = [rule.name.pattern for rule in rules if rule.name is not None and not rule.literal]
        self._odd = re.compile("|".join(f"(?:{pattern})" for pattern in odd), re.DOTALL) if odd else None
        self._deep = any(rule.name is None for rule in rules)

    def verdict(self, name: str, path: str, *, folder: bool) -> bool | None:
        """Do as `Rules.verdict`; ``name`` is the end of ``path``."""
        if name not in self._literals and not self._deep and (self._odd is None or not self._odd.fullmatch(name)):
            return None
        for rule in self._rules:
            if folder or not rule.folders:
                fits = rule.fits.fullmatch(path) if rule.name is None else rule.name.fullmatch(name)
                if fits:
                    return not rule.back
        return None


def parse_rules(lines: Iterable[str]) -> Rules:
    """Read rules; empty lines and those that begin with ``#`` say nothing. Raises ValueError that names a bad one."""
    found = []
    for line in lines:
        rule = _parse(line)
        if rule is not None:
            found.append(rule)
    return Rules(found)


def for_tar(rules: Rules) -> list[str]:
    """Return the names that are left out wherever they are, as patterns of tar: those that no rule takes back in.

    tar gets the exact paths that a look at the tree found; these are for what comes to be after that look.
    """
    names = []
    for at, rule in enumerate(rules.rules):
        plain = not rule.rooted and not rule.folders and not rule.back
        if plain and not any(_takes_back(later, rule) for later in rules.rules[at:]):
            names.append(rule.text)
    return names


def _takes_back(later: Rule, rule: Rule) -> bool:
    """Tell whether a later rule may take back in something of what ``rule`` leaves out."""
    patterned = bool(_SPECIAL.search(rule.text))
    return later.back and (later.rooted or patterned or later.fits.fullmatch(rule.text) is not None)


def _parse(line: str) -> Rule | None:
    text = _trimmed(line.removesuffix("\n").removesuffix("\r"))
    if not text or text.startswith("#"):
        return None
    back = text.startswith("!")
    text = text[1:] if back else text
    folders = text.endswith("/")
    text = text.removesuffix("/")
    rooted = "/" in text
    text = text.removeprefix("/")
    if not text:
        raise ValueError(f"{line!r} names nothing")
    above, slash, last = text.rpartition("/")
    plain = "**" not in text and "[" not in text and "\\" not in text  # what has a slash in it stays whole
    try:
        fits = re.compile(_expression(text) if rooted else rf"(?:.*/)?{_expression(text)}", re.DOTALL)
        deep = rooted and "**" in text  # "/**" is about all that is below, however deep
        name = re.compile(_expression(last), re.DOTALL) if plain or (not slash and not deep) else None
        # A folder that is named has to be there: the "*" of "*/a" is not the folder of the rules itself.
        there = f"(?=.){_expression(above)}" if above else ""
        place = re.compile(there, re.DOTALL) if rooted and name is not None else None
    except re.error:
        raise ValueError(f"{line!r} is no pattern") from None
    literal = last if name is not None and _SPECIAL.search(last) is None else ""
    return Rule(text, back, folders, rooted, fits, name, place, literal)


def _trimmed(line: str) -> str:
    """Take blanks from its end, but for one behind a backslash."""
    text = line.rstrip(" ")
    escapes = len(text) - len(text.rstrip("\\"))
    return f"{text} " if escapes % 2 and len(text) < len(line) else text


def _expression(text: str) -> str:
    """Translate a pattern into a regular expression over a path."""
    out, at = [], 0
    while at < len(text):
        char = text[at]
        begins = at == 0 or text[at - 1] == "/"
        at += 1
        if char == "*":
            first = at
            while text[at : at + 1] == "*":
                at += 1
            if at == first or not begins or text[at : at + 1] not in ("", "/"):
                out.append("[^/]*")
            elif at == len(text):
                out.append(".+")
            else:
                out.append("(?:[^/]+/)*")
                at += 1
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            span, at = _bracket(text, at)
            out.append(span)
        elif char == "\\":
            out.append(re.escape(_escaped(text, at)))
            at += 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def _bracket(text: str, at: int) -> tuple[str, int]:
    """Translate ``[…]`` whose inside begins at ``at``; returns where it goes on. Raises ValueError."""
    negated = text[at : at + 1] in ("!", "^")
    at += negated
    spans: list[str] = []
    last = ""  # the letter before, with which a span may begin
    first = at
    while (char := text[at : at + 1]) != "]" or at == first:
        if not char:
            raise ValueError(f"{text!r} has a [ without its ]")
        at += 1
        named = _NAMED.match(text, at) if char == "[" else None
        if named is not None and named[1] in _CLASSES:
            spans.append(_CLASSES[named[1]])
            last, at = "", named.end()
            continue
        if char == "-" and last and text[at : at + 1] not in ("", "]"):
            char = text[at]
            at += 1
            if char == "\\":
                char = _escaped(text, at)
                at += 1
            if last <= char:
                spans[-1] = f"{re.escape(last)}-{re.escape(char)}"
            last = ""
            continue
        if char == "\\":
            char = _escaped(text, at)
            at += 1
        spans.append(re.escape(char))
        last = char
    return f"(?!/)[{'^' if negated else ''}{''.join(spans)}]", at + 1


def _escaped(text: str, at: int) -> str:
    if at == len(text):
        raise ValueError(f"{text!r} ends in a backslash")
    return text[at]
