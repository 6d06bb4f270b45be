"""Every public name says what it takes, in which shape and unit, what it raises and whence it is.

What counts is in `docstring_rules`; that it can find something is tried here first.
"""

from __future__ import annotations

import importlib
import inspect
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedstrategies
from tests.docstring_rules import example_faults, faults, method_faults, sections

PACKAGE = Path(fedstrategies.__file__).parent
ROOMS = sorted({path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"cli"})

# Plumbing of ours and textbook formulas, for which there is no paper to name.
NO_SOURCE = {
    "Cast",
    "CohortGrid",
    "Composition",
    "DirectoryStore",
    "Identity",
    "LogisticRegression",
    "RayGrid",
    "TorchObjective",
    "as_legacy",
    "client_app",
    "legacy_client",
    "logistic_smoothness",
    "parse_aggregator",
    "parse_compressor",
}


# ------------------------------------------------------------------ the rules find something


def halved(x: np.ndarray, *, timeout: float = 1.0) -> np.ndarray:
    """Half of a vector.

    Parameters
    ----------
    x : ndarray
        Shape (d,).
    timeout : float
        Seconds, positive.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    ValueError
        If the timeout is not.

    Examples
    --------
    >>> half = 1 / 2
    >>> half
    0.5
    """
    _require_positive(timeout)
    return x / 2


def _require_positive(number: float) -> None:
    if number <= 0:
        raise ValueError(number)


class Base:
    """Something with settings.

    Parameters
    ----------
    first, second : int
        Two numbers.
    """

    def __init__(self, *, first: int, second: int = 2) -> None:
        self.sum = first + second

    def sum_below(self, most: int) -> int:
        """The sum."""
        if self.sum >= most:
            raise OverflowError(self.sum)
        return self.sum


class Fixed(Base):
    """It has the second setting and its own.

    Parameters
    ----------
    own : int
        A third number.
    **settings
        See `Base`.
    """

    def __init__(self, *, own: int, **settings: Any) -> None:
        super().__init__(first=own, **settings)


def saying(thing: Any, old: str, new: str) -> Any:
    """A copy with another docstring."""
    said = inspect.cleandoc(thing.__doc__)  # as Python 3.13 keeps it
    assert said.count(old) == 1
    text = said.replace(old, new)
    if inspect.isclass(thing):
        return type(thing.__name__, (thing,), {"__doc__": text, "__module__": __name__})
    copy = types.FunctionType(thing.__code__, thing.__globals__, thing.__name__)
    copy.__annotations__, copy.__kwdefaults__ = thing.__annotations__, thing.__kwdefaults__
    copy.__doc__ = text
    return copy


def test_what_is_whole_has_no_faults() -> None:
    for thing in (halved, Base, Fixed):
        assert not list(faults(thing))
    assert not list(example_faults(halved))


@pytest.mark.parametrize(
    ("thing", "old", "new", "fault"),
    [
        (halved, "Half of a vector.", "", "no summary"),
        (halved, "x : ndarray", "y : ndarray", "x: not described"),
        (halved, "    Seconds, positive.\n", "", "timeout: not described"),
        (halved, "Shape (d,).", "A vector.", "x: which shape?"),
        (halved, "Seconds, positive.", "Positive.", "timeout: in which unit?"),
        (halved, "Of the same shape.", "The half.", "the result: which shape?"),
        (halved, "Raises\n------", "Note\n----", "no Raises, but it raises ValueError"),
        (Base, "first, second : int", "first : int", "second: not described"),
        (Fixed, "See `Base`.", "Handed on.", "second: not described"),
    ],
)
def test_what_is_missing_is_found(thing: Any, old: str, new: str, fault: str) -> None:
    assert list(faults(saying(thing, old, new))) == [fault]


def test_a_reference_to_nothing_is_found() -> None:
    with pytest.raises(AssertionError, match="Fixed refers to Nothing, which is not there"):
        list(faults(saying(Fixed, "`Base`", "`Nothing`")))


def test_a_method_that_raises_unannounced_is_found() -> None:
    assert list(method_faults(Base)) == ["sum_below raises OverflowError, which is not said"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("\n0.5", "\n0.25", "Expected:\n    0.25\nGot:\n    0.5\n"),
        (">>> half = 1 / 2\n", "\n", "examples of 1 lines"),
        (">>> half\n", ">>> half  # doctest: +SKIP\n", "an example that is not run"),
    ],
)
def test_an_example_that_shows_nothing_is_found(old: str, new: str, fault: str) -> None:
    assert any(fault in one for one in example_faults(saying(halved, old, new)))


# ------------------------------------------------------------------ the public names


def public_names() -> list[Any]:
    found = []
    for room in (*ROOMS, "server_optimizer"):
        module = importlib.import_module(f"fedstrategies.{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing)):
                found.append(pytest.param(thing, id=f"{room}.{name}"))
    return found


@pytest.mark.parametrize("thing", public_names())
def test_a_public_name_says_what_it_takes_and_raises(thing: Any) -> None:
    assert not list(faults(thing))


def test_the_names_of_the_root_are_among_them() -> None:
    things = [param.values[0] for param in public_names()]
    assert all(getattr(fedstrategies, name) in things for name in fedstrategies.__all__)


@pytest.mark.parametrize("name", fedstrategies.__all__)
def test_a_name_of_the_root_has_a_source(name: str) -> None:
    thing = getattr(fedstrategies, name)
    assert ("References" in sections(thing.__doc__)) != (name in NO_SOURCE)
    assert not inspect.isclass(thing) or not list(method_faults(thing))


# `RayGrid` starts processes: its examples run with the tests of it.
@pytest.mark.parametrize("name", sorted({*fedstrategies.__all__} - {"RayGrid"}))
def test_the_examples_of_a_name_of_the_root_run(name: str) -> None:
    assert not list(example_faults(getattr(fedstrategies, name)))
