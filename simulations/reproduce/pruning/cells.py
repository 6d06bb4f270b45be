"""What is measured: a method at a sparsity with a calibration seed; one file for each cell."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from fedstrategies.durable import make_directory, write_durably
from fedstrategies.language import (
    LanguageModel,
    calibration_batches,
    load_language_model,
    perplexity,
    read_text,
)
from fedstrategies.pruning import (
    Pattern,
    Unstructured,
    parse_method,
    parse_pattern,
    prune_module,
)

__all__ = ["METHODS", "PATTERNS", "SEEDS", "Cell", "label", "measure", "read_cells"]

METHODS = (
    "magnitude",
    "symmetric",
    "ri",
    "stochri:seed={seed}",
    "output-wanda",
    "symwanda",
    "wanda",
    "ria",
    "stochria:seed={seed}",
    "ria:per=row",
    "stochria:seed={seed},per=row",
    "dsnot",
    "dsnot:fixed=*feed_forward*",
    "r2-dsnot",
    "r2-dsnot:fixed=*feed_forward*",
    "dsnot:same_sign=yes",
    "r2-dsnot:same_sign=yes",
    "r2-dsnot:reweigh=prune",
    "r2-dsnot:same_sign=yes,reweigh=prune",
    "dsnot:cycles=50",
    "dsnot:cycles=50,fixed=*feed_forward*",
    "dsnot:cycles=50,same_sign=yes",
    "r2-dsnot:cycles=50",
    "r2-dsnot:cycles=50,same_sign=yes",
)
"""As `parse_method` reads them; ``{seed}`` is the cell's, for methods that draw."""

PATTERNS = ("0.5", "0.6", "0.7", "2:4")
SEEDS = (0, 1, 2)
SAMPLES, LENGTH, BATCH = 128, 256, 16
WIKI_CHARACTERS = 30_000

MODEL = Path("tinylm/stories260K.bin")
STORIES = Path("tinylm/tinystories_sample.txt")
WIKI = Path("lm/wiki.test.raw.joined.txt.xz")
DENSE = "dense"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement.

    Attributes
    ----------
    method, pattern : str
        As in the tables; the dense model has no pattern.
    seed : int
        Of the calibration windows.
    stories, wiki : float
        Mean negative log-likelihood in nats a token.
    seconds, scoring_seconds : float
        For pruning with its calibration, and without.
    """

    method: str
    pattern: str
    seed: int
    stories: float
    wiki: float
    seconds: float
    scoring_seconds: float

    @property
    def name(self) -> str:
        """Of its file."""
        text = f"{self.pattern}-{self.method}-{self.seed}"
        return "".join(c if c.isalnum() or c in "-.=" else "_" for c in text)


@dataclass(frozen=True)
class _Texts:
    calibration: Tensor
    stories: Tensor
    wiki: Tensor


def label(method: str) -> str:
    """A method without the seed of its draws."""
    name, _, options = method.partition(":")
    kept = [one for one in options.split(",") if one and not one.startswith("seed=")]
    return ":".join([name, ",".join(kept)] if kept else [name])


def read_cells(runs: Path) -> list[Cell]:
    """All cells that were measured.

    Raises
    ------
    ValueError
        If a file is none.
    """
    cells = []
    for path in sorted(runs.glob("*.json")):
        try:
            cells.append(Cell(**json.loads(path.read_text(encoding="utf-8"))))
        except (TypeError, json.JSONDecodeError):
            raise ValueError(f"{path}: not a cell; delete it") from None
    return cells


def measure(
    data: Path, runs: Path, *, patterns: Sequence[str], report: Callable[[str], None]
) -> None:
    """Measure every cell that has no file yet.

    Parameters
    ----------
    data : Path
        Folder with ``tinylm`` and ``lm``.
    runs : Path
        Folder of the cells.
    patterns : sequence of str
        Of `PATTERNS`.
    report : callable
        Hears of each cell.

    Raises
    ------
    DataError
        If a file of ``data`` cannot be read.
    """
    make_directory(runs)
    model = load_language_model(str(data / MODEL))
    texts = _texts(model, data)
    done = {cell.name for cell in read_cells(runs)}

    def keep(cell: Cell) -> None:
        write_durably(runs / f"{cell.name}.json", json.dumps(asdict(cell)).encode())
        report(f"{cell.name}: {cell.stories:.4f} nats on stories, {cell.wiki:.4f} on WikiText-2")

    dense = Cell(method=DENSE, pattern="0", seed=0, seconds=0.0, scoring_seconds=0.0, **_nan())
    if dense.name not in done:
        keep(Cell(**{**asdict(dense), **_nats(model, texts)}))
    for pattern in patterns:
        for method, seed in _planned():
            cell = Cell(**{**asdict(dense), "method": method, "pattern": pattern, "seed": seed})
            if cell.name not in done:
                keep(_measured(model, texts, cell))


def _nan() -> Mapping[str, float]:
    return {"stories": float("nan"), "wiki": float("nan")}


def _planned() -> Iterator[tuple[str, int]]:
    """Methods that neither draw nor calibrate need one seed."""
    for method in METHODS:
        draws = "{seed}" in method or parse_method(method.format(seed=0)).needs_activations
        for seed in SEEDS if draws else SEEDS[:1]:
            yield method, seed


def _texts(model: LanguageModel, data: Path) -> _Texts:
    """Every other story calibrates, the others are predicted."""
    stories = [line for line in read_text(data / STORIES).splitlines() if line.strip()]
    wiki = read_text(data / WIKI)[:WIKI_CHARACTERS]
    return _Texts(
        model.encode("\n".join(stories[::2])),
        model.encode("\n".join(stories[1::2])),
        model.encode(wiki),
    )


def _nats(model: LanguageModel, texts: _Texts) -> dict[str, float]:
    return {
        name: perplexity(model, tokens, length=LENGTH, batch=BATCH).nats
        for name, tokens in (("stories", texts.stories), ("wiki", texts.wiki))
    }


def _measured(dense: LanguageModel, texts: _Texts, cell: Cell) -> Cell:
    module = deepcopy(dense.module)
    model = LanguageModel(
        name=dense.name,
        module=module,
        encode=dense.encode,
        scores=dense.scores,
        context=dense.context,
    )
    batches = calibration_batches(
        texts.calibration, samples=SAMPLES, length=LENGTH, seed=cell.seed, batch=BATCH
    )
    began = time.perf_counter()
    layers = prune_module(
        module,
        batches,
        method=parse_method(cell.method.format(seed=cell.seed)),
        pattern=_pattern(cell.pattern),
        forward=model.scores,
    )
    seconds = time.perf_counter() - began
    return Cell(
        method=cell.method,
        pattern=cell.pattern,
        seed=cell.seed,
        seconds=seconds,
        scoring_seconds=sum(layer.seconds for layer in layers),
        **_nats(model, texts),
    )


def _pattern(text: str) -> Pattern:
    return parse_pattern(text) if ":" in text else Unstructured(sparsity=float(text))
