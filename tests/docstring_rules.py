"""What is missing in the docstring of a public name, and what goes wrong in its examples.

Sections are numpydoc's. A name may take over what another one says of parameters: by a sentence
"Parameters are those of `X`", or by "See `X`" where ``**settings`` is described.
"""

from __future__ import annotations

import ast
import dataclasses
import doctest
import enum
import importlib
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import fedstrategies
from fedstrategies.experiment.options import options

# What a number counts is said where it is described.
UNITS = {
    r"budget$|bytes$": r"\bbytes?\b",
    r"timeout|seconds|wait": r"\bseconds?\b",
    r"rounds$|every$": r"\brounds?\b",
    r"epochs": r"\bepochs?\b",
}
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .*)?$")
TENSOR = re.compile(r"Tensor|ndarray")
SHAPE = re.compile(r"[Ss]hapes?\b|\([\w']+,[\w', ]*\)")
GOES_ON = r"[Aa]fter the example of `(\w+)`"


def sections(text: str) -> dict[str, str]:
    """Sections by title; the summary is that of the empty title."""
    lines = inspect.cleandoc(text).splitlines()
    starts = [i for i in range(1, len(lines)) if re.fullmatch("-{3,}", lines[i]) and lines[i - 1]]
    found = {"": "\n".join(lines[: starts[0] - 1 if starts else None])}
    for start, after in zip(starts, [*starts[1:], len(lines) + 1], strict=False):
        found[lines[start - 1]] = "\n".join(lines[start + 1 : after - 1])
    return found


def entries(section: str) -> dict[str, str]:
    """What is described, with its type and text; several names may share a line."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if match := ENTRY.match(line):
            names = [name.strip().lstrip("*") for name in match[1].split(",")]
            found |= dict.fromkeys(names, "")
        for name in names:
            found[name] += line + "\n"
    return found


def ours(kind: type) -> list[type]:
    """The class and its bases, as far as they are this package's."""
    homes = (fedstrategies.__name__, kind.__module__)
    return [base for base in kind.__mro__ if base.__module__.startswith(homes)]


def syntax(function: Callable[..., Any]) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def constructors(kind: type) -> list[Callable[..., Any]]:
    """Its own and, as long as it hands ``**settings`` on, those of its bases."""
    found = []
    for base in ours(kind):
        generated = "__dataclass_fields__" in vars(base) or getattr(base, "_is_protocol", False)
        if "__init__" in vars(base) and not generated:
            found.append(vars(base)["__init__"])
            if not any(p.kind is p.VAR_KEYWORD for p in parameters(found[-1]).values()):
                break
    return found


def parameters(thing: Any) -> dict[str, inspect.Parameter]:
    """What may be given to a function or a constructor, ``**settings`` resolved in the latter."""
    if not inspect.isclass(thing):
        given = inspect.signature(inspect.unwrap(thing)).parameters
        return {name: p for name, p in given.items() if name != "self"}
    if issubclass(thing, enum.Enum) or getattr(thing, "_is_protocol", False):
        return {}
    if dataclasses.is_dataclass(thing) or issubclass(thing, tuple):
        return dict(inspect.signature(thing).parameters)
    found: dict[str, inspect.Parameter] = {}
    fixed: set[str] = set()
    for function in constructors(thing):
        own = {n: p for n, p in parameters(function).items() if p.kind is not p.VAR_KEYWORD}
        found |= {name: p for name, p in own.items() if name not in fixed | {*found}}
        fixed |= {
            keyword.arg
            for call in ast.walk(syntax(function))
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__"
            for keyword in call.keywords
            if keyword.arg and keyword.arg not in own
        }
    return found


def referred(thing: Any) -> list[Any]:
    """What the docstring refers to for (some of) the parameters."""
    parts = sections(thing.__doc__ or "")
    rest = [text for text in entries(parts.get("Parameters", "")).values() if text[0] == "*"]
    names = re.findall(r"Parameters[\w\s,]* are\s+those\s+of\s+`([\w.]+)`", parts[""])
    names += [name for text in rest for name in re.findall(r"See `([\w.]+)`", text)]
    return [resolved(name, thing) for name in names]


def resolved(name: str, thing: Any) -> Any:
    home, _, last = name.rpartition(".")
    modules = [importlib.import_module(home)] if home else [sys.modules[thing.__module__]]
    for module in (*modules, fedstrategies):
        if hasattr(module, last):
            return getattr(module, last)
    raise AssertionError(f"{thing.__qualname__} refers to {name}, which is not there")


def described(thing: Any) -> dict[str, str]:
    """All entries of Parameters and Attributes, with those of what is referred to."""
    found: dict[str, str] = {}
    for other in referred(thing):
        found |= described(other)
    parts = sections(thing.__doc__ or "")
    for title in ("Parameters", "Attributes"):
        found |= entries(parts.get(title, ""))
    if dataclasses.is_dataclass(thing):
        # Options of experiments say what they are where they are declared.
        found |= {entry.name: f"{entry.name}\n{entry.help}\n" for entry in options(thing)}
    return found


def raises(function: Callable[..., Any], *, calls: int = 1) -> set[str]:
    """Names of what it raises, by itself or in functions of this package that it calls."""
    found = set()
    for node in ast.walk(syntax(function)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            found.add(ast.unparse(getattr(node.exc, "func", node.exc)))
        if calls and isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = inspect.unwrap(function).__globals__.get(node.func.id)
            if inspect.isfunction(called) and _package(called) == _package(function):
                found |= raises(called, calls=calls - 1)
    return found - {"NotImplementedError"}


def _package(function: Callable[..., Any]) -> str:
    return function.__module__.split(".")[0]


def faults(thing: Any) -> Iterator[str]:
    """What is missing in the docstring of a public name."""
    parts = sections(thing.__doc__ or "")
    if not parts[""].strip():
        yield "no summary"
    told = described(thing)
    for name, parameter in parameters(thing).items():
        if name.startswith("_"):
            continue
        if name not in told or told[name].count("\n") < 2:
            yield f"{name}: not described"
        elif TENSOR.search(str(parameter.annotation)):
            if not SHAPE.search(told[name]):
                yield f"{name}: which shape?"
        elif re.search(r"float|int", str(parameter.annotation)):
            for pattern, unit in UNITS.items():
                if re.search(pattern, name) and not re.search(unit, told[name], re.IGNORECASE):
                    yield f"{name}: in which unit?"
    result = not inspect.isclass(thing) and inspect.signature(thing).return_annotation
    if TENSOR.search(str(result)) and not SHAPE.search(parts[""] + parts.get("Returns", "")):
        yield "the result: which shape?"
    if inspect.isclass(thing):
        run = constructors(thing)
        run += [vars(b)["__post_init__"] for b in ours(thing) if "__post_init__" in vars(b)]
    else:
        run = [inspect.unwrap(thing)]
    raised = {name for function in run for name in raises(function)}
    where = [parts, *(sections(other.__doc__ or "") for other in referred(thing))]
    if raised and not any("Raises" in titles for titles in where):
        yield f"no Raises, but it raises {', '.join(sorted(raised))}"


def method_faults(kind: type) -> Iterator[str]:
    """Public methods that raise what neither their docstring nor the class's names."""
    for name, member in vars(kind).items():
        method = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        texts = (method.__doc__ or "") + (kind.__doc__ or "")
        for error in raises(method, calls=0):
            if error not in texts:
                yield f"{name} raises {error}, which is not said"


def line_of(thing: Any) -> list[Any]:
    """Names whose examples run one after the other: those that this one's go on from, and it."""
    text = sections(thing.__doc__ or "").get("Examples", "")
    before = [line_of(getattr(fedstrategies, name)) for name in re.findall(GOES_ON, text)]
    return [*itertools.chain(*before), thing]


def example_faults(thing: Any) -> Iterator[str]:
    """What goes wrong in the examples; they may go on from those of another name."""
    text = sections(thing.__doc__ or "").get("Examples", "")
    lines = [line for line in text.splitlines() if line.startswith((">>> ", "... "))]
    if not 2 <= len(lines) <= 9:
        yield f"examples of {len(lines)} lines in place of 2 to 9"
    if "+SKIP" in text:
        yield "an example that is not run"
    globs: dict[str, Any] = {}
    for source in line_of(thing):
        report: list[str] = []
        examples = sections(source.__doc__ or "").get("Examples", "")
        test = doctest.DocTestParser().get_doctest(examples, globs, source.__name__, None, 0)
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(test, out=report.append, clear_globs=False)
        globs = test.globs
        if runner.failures:
            yield "".join(report)
