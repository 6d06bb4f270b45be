"""The history of a run: one JSON line for the start and one for each round.

Every value is measured on the server's model after the round:

* ``loss``: ``f(x) + R(x)``, f the plain mean of the f_i;
* ``grad_norm_sq``: ``||grad f(x)||^2``, and with a regulariser R the squared norm of the
  prox-gradient mapping at step 1/L, ``L^2 ||x - prox_{R/L}(x - grad f(x)/L)||^2``, which is
  the same quantity for R = 0 and vanishes exactly at a minimiser of f + R. The step is 1/L of f
  and not the run's own, so that algorithms can be compared;
* ``gap``: ``loss - f*`` where f* is known; ``distance_sq``: ``||x - x*||^2`` where x* was solved
  for; ``accuracy`` as `Problem.accuracy`;
* for personalised methods f_i is taken at each client's deployed model, ``accuracy_personal`` is
  the mean over clients of its accuracy on the client's own held-out rows (else its training
  rows), ``accuracy_personal_worst_decile`` the mean over the worst tenth of the clients, and
  ``accuracy_personal_std`` the spread;
* ``epsilon_max`` and ``epsilon_mean``, where clients are private: the largest and the mean epsilon
  over clients of what the server knows them to have released. Everything measured above is then
  simulated and outside of it: in deployment none of it leaves the nodes;
* bytes, participants and failures as the strategy counted them; ``seconds`` since the start;
* ``outer_round``: cohorts done with, ``round`` itself except for SPPM-AS, whose model moves with
  the last of a cohort's rounds; ``cost``: ``cost_inner * round + cost_outer * outer_round``.

A key that is absent was not measured. Nothing is ever NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TypeAlias

__all__ = ["HistoryRecord", "read_history", "total_bytes"]

HistoryRecord: TypeAlias = dict[str, int | float]


def read_history(path: Path) -> list[HistoryRecord]:
    """The records in a ``history.jsonl``; a line cut short by a crash is left out.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    list of HistoryRecord
        From round 0 on.

    Raises
    ------
    ValueError
        If the file cannot be read, a line other than the last is not a record, or a value is not
        a finite number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a history (not UTF-8 text)") from None
    records: list[HistoryRecord] = []
    for number, line in enumerate(lines, start=1):
        try:
            record: Mapping[str, int | float] = json.loads(line)
            records.append({"round": record["round"], **record})
        except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not a history record") from None
            continue
        for key, value in record.items():
            if not _is_number(value):
                raise ValueError(f"{path}: line {number}: {key} is {value!r}, not a finite number")
    return records


def total_bytes(record: Mapping[str, int | float]) -> int | float | None:
    """Bytes both ways so far, recovery included; None if one of the three was not counted."""
    parts = [record.get(f"{way}_bytes") for way in ("uplink", "downlink", "recovery")]
    measured = [part for part in parts if part is not None]
    return sum(measured) if len(measured) == len(parts) else None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        return False
