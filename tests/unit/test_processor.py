"""What a processor is said to be able to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanumpay_backupd.system.processor import has_aes


@pytest.mark.parametrize(
    "told, expected",
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 aes avx\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd aes pmull\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd crc32\n", False),
        ("model name\t: aes\nflags\t\t: fpu vaes\n", False),
        ("", False),
        (None, False),
    ],
)
def test_instructions_for_aes_are_found_where_the_kernel_tells_them(
    told: str | None, expected: bool, tmp_path: Path
) -> None:
    """The word counts in the list of what a processor has, of x86 or ARM, and nowhere else; no file is no."""
    path = tmp_path / "cpuinfo"
    if told is not None:
        path.write_text(told)
    assert has_aes(path) is expected
