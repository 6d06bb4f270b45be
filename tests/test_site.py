"""The documentation as a site: builds without a warning, and needs nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import fedstrategies

pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
ROOT = Path(__file__).parents[1]
# What a browser fetches of itself; a link that a reader follows is something else.
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}


class Page(HTMLParser):
    """Of a page what it fetches and the anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if (tag, name) in FETCHED and value:
                self.fetched.append(value)
            if name == "id" and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_there_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    sources = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")]
    assert len(sources) > 30
    for source in sources:
        page = Page(site / source.with_suffix(".html"))
        assert page.fetched
        assert not [one for one in page.fetched if re.match(r"(https?:)?//", one)], source
        for one in page.fetched:
            assert ((site / source).parent / one.partition("?")[0]).resolve().exists(), one


def test_styles_fetch_nothing_from_elsewhere(site: Path) -> None:
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8"))


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    anchors = set().union(*(Page(path).anchors for path in (site / "reference").glob("*.html")))
    missing = [
        name
        for name in fedstrategies.__all__
        if not any(re.fullmatch(rf"fedstrategies(\.\w+)+\.{name}", one) for one in anchors)
    ]
    assert not missing
