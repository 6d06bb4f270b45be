"""Inner solvers as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

from fedstrategies.sppm.second_order import LBFGS, ConjugateGradient
from fedstrategies.sppm.solvers import AdamSolver, InnerSolver, LocalGDSolver, ProxGD

__all__ = ["SOLVERS", "parse_solver"]

SOLVERS: Mapping[str, Callable[..., InnerSolver]] = {
    "gd": ProxGD,
    "cg": ConjugateGradient,
    "lbfgs": LBFGS,
    "local-gd": LocalGDSolver,
    "adam": AdamSolver,
}
_WHOLE = ("steps", "memory")


def parse_solver(text: str) -> InnerSolver:
    """An inner solver from its name and settings.

    ``gd[:stepsize=..]``, ``cg``, ``lbfgs[:memory=..]``, ``local-gd[:steps=..,stepsize=..]`` or
    ``adam:lr=..[,eps=..]``.

    Parameters
    ----------
    text : str
        One of these.

    Raises
    ------
    ValueError
        If the text is none of these, or a value is out of range.
    """
    name, _, rest = text.partition(":")
    kind = SOLVERS.get(name.strip())
    if kind is None:
        raise ValueError(f"{text!r}: the solvers are {', '.join(SOLVERS)}")
    known = [entry.name for entry in fields(kind) if entry.init]  # type: ignore[arg-type]
    settings: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in known or key in settings:
            knows = f"knows {', '.join(known)}, once each" if known else "has no settings"
            raise ValueError(f"{text!r}: {part!r}; {name} {knows}")
        try:
            settings[key] = int(value) if key in _WHOLE else float(value)
        except ValueError:
            raise ValueError(f"{text!r}: {key} = {value!r} is not a number") from None
    if name.strip() == "adam" and "lr" not in settings:
        raise ValueError(f"{text!r}: adam needs lr, e.g. adam:lr=0.01")
    return kind(**settings)
