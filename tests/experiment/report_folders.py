"""Folders of runs written by hand, and the page on them as a parser sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import tomli_w

from fedstrategies.experiment.results import Summary

_VOID = {"meta", "input", "path", "link", "br", "img", "hr"}


def record(number: int, loss: float, **more: float) -> dict[str, float]:
    sent = {"uplink_bytes": 100 * number, "downlink_bytes": 10 * number, "recovery_bytes": 0}
    return {"round": number, "loss": loss, **sent, "cost": number, "seconds": 0.5 * number, **more}


def write_run(
    folder: Path,
    losses: Sequence[float],
    *,
    options: Mapping[str, object] | None = None,
    history: Sequence[Mapping[str, float]] | None = None,
    **summary: object,
) -> Path:
    """A run whose loss after round t is ``losses[t]``, or with the records of ``history``."""
    folder.mkdir(parents=True)
    records = history or [record(number, loss) for number, loss in enumerate(losses)]
    (folder / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    given = {"algorithm": "efbv", "rounds": len(records) - 1, "seed": 0, **(options or {})}
    (folder / "config.toml").write_text(tomli_w.dumps({**given, "versions": {"torch": "2.13.0"}}))
    ended = {
        "status": "done",
        "algorithm": str(given["algorithm"]),
        "dataset": "mushrooms",
        "backend": "cohort",
        "clients": 4,
        "dimension": 6,
        "out": str(folder),
        "last": dict(records[-1]),
        "stepsize": 0.25,
        **summary,
    }
    (folder / "summary.json").write_text(Summary(**ended).to_json())  # type: ignore[arg-type]
    return folder


@dataclass
class Page(HTMLParser):
    """Elements with their attributes, the text of each kind, and whether all are closed."""

    html: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def having(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and kind in (a.get("class") or "").split()]
