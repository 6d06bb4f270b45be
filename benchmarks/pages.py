"""Tables in a page, between two markers."""

from __future__ import annotations

from pathlib import Path

__all__ = ["replace_between"]


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between the markers ``begin`` and ``end`` of a page.

    Raises
    ------
    ValueError
        If the page has no such markers.
    """
    content = page.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{page}: {begin} and {end} must each stand there once")
    before, rest = content.split(begin)
    page.write_text(before + begin + text + end + rest.split(end)[1], encoding="utf-8")
