"""Coverage-guided fuzzing of one reader of bytes, by atheris.

    python -m tests.soak.fuzz frame -runs=200000 -seed=1

What follows the target's name is for libFuzzer. Inputs begin from real messages and are mutated by
libFuzzer and by `hostile_mutations`, which repairs checksums; what reaches new branches of
fedstrategies is kept and mutated further. Ends with a traceback at the first finding. The targets
are those of `hostile_targets`, and ``reply``: forged replies to every method's ``aggregate_train``.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

__all__ = ["MISSING", "main"]

MISSING = (
    "atheris is not installed: pip install atheris (Linux on x86-64, Python 3.11 to 3.13); the "
    "seeded mutations of python -m tests.soak.hostile do without it"
)
_LARGEST = 4096


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer has had its runs; does not return."""
    try:
        import atheris
    except ImportError:
        sys.exit(MISSING)
    with atheris.instrument_imports(include=["fedstrategies"]):
        from tests.soak.hostile_guided import REPLY
        from tests.soak.hostile_mutations import mutated
        from tests.soak.hostile_targets import TARGETS
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # numpy's, about numbers that overflow
    targets = {**TARGETS, "reply": REPLY}
    if len(arguments) < 2 or arguments[1] not in targets:
        sys.exit(f"python -m tests.soak.fuzz TARGET [OPTION...]; targets: {', '.join(targets)}")
    target = targets[arguments[1]]
    seeds = target.seeds()

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        draw = Random(seed)
        if draw.random() < 0.5:
            found = bytes(atheris.Mutate(data, largest))
            if target.repair is not None and draw.random() < 0.5:
                found = target.repair(found)
        else:
            found = mutated(data or draw.choice(seeds), draw, seeds, target.repair)
        return found[:largest]

    corpus = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_len={max(_LARGEST, *map(len, seeds))}", "-print_final_stats=1", str(corpus)]
    atheris.Setup(
        [arguments[0], *arguments[2:], *options],
        target.call,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
