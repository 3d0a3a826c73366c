"""Holds what was read of a backup against the parts that its manifest names. MongoDB's collections: see `verify`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import STREAM, Content, Manifest, Part
from nanumpay_backupd.sources.base import WHOLE
from nanumpay_backupd.wording import words_for

if TYPE_CHECKING:
    from nanumpay_backupd.pipeline.verify import Seen

__all__ = ["compare_parts"]

_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"


def compare_parts(manifest: Manifest, found: Mapping[str, Seen]) -> tuple[int, tuple[Part, ...]]:
    """Return how many documents were counted, and the manifest's parts with the digests of what they hold.

    Raises VerifyError where a part's file is not there, or is not what the manifest says.
    """
    by_file: dict[str, list[Part]] = defaultdict(list)
    for part in manifest.source.parts:
        by_file[WHOLE if manifest.source.form == STREAM else part.file].append(part)
    # Of a part without a file nothing is to be found; in a stream all parts are in the one archive.
    loose = [] if manifest.source.form == STREAM else by_file.pop("", [])
    missing = sorted(file for file in by_file if file not in found)
    if missing:
        raise _differs(manifest, f"does not hold {missing[0]!r}, which its manifest names", "verify-structure")
    proven = {part.name: part for part in loose}
    for file, parts in by_file.items():
        for part in parts:
            proven[part.name] = _proven(manifest, part, found[file], alone=len(parts) == 1)
    return sum(seen.documents for seen in found.values()), tuple(proven[part.name] for part in manifest.source.parts)


def _proven(manifest: Manifest, part: Part, seen: Seen, *, alone: bool) -> Part:
    """Return the part with its digest, after a comparison with what was seen of it."""
    content = seen.parts.get(part.name)
    if seen.parts and content is None:
        raise _differs(manifest, f"holds nothing of {part.name}, which its manifest names", "verify-counts")
    if content is None:
        if not alone:
            return part
        content = Content(documents=seen.documents if seen.counted else part.items, digest=seen.digest)
    if content.documents != part.items:
        words = words_for(manifest.source.type)
        told = f"{words.count_items(content.documents)} of {part.name}, its manifest says {part.items:,}"
        raise _differs(manifest, f"holds {told}", "verify-counts")
    if alone and part.file and seen.size != part.bytes:
        raise _differs(
            manifest, f"holds {seen.size} bytes of {part.name}, its manifest says {part.bytes}", "verify-size"
        )
    if part.digest and content.digest and part.digest != content.digest:
        raise _differs(manifest, f"holds another content of {part.name} than its manifest says", "verify-checksum")
    return msgspec.structs.replace(part, digest=content.digest or part.digest)


def _differs(manifest: Manifest, what: str, code: str) -> VerifyError:
    return VerifyError(f"{manifest.artifact.name} {what}", hint=_HINT, code=code)
