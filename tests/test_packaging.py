"""What the archives are built from, and what a contributor finds; `make wheel-test` builds them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import fedstrategies
from fedstrategies.experiment.families import ALGORITHMS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def names_of_constraints() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines if "==" in line}


def test_every_requirement_is_pinned_for_the_tests() -> None:
    entries = [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *(e for extra in PROJECT["project"]["optional-dependencies"].values() for e in extra),
    ]
    names = {re.split(r"[^A-Za-z0-9._-]", entry, maxsplit=1)[0].lower() for entry in entries}
    assert {re.sub(r"[-_.]+", "-", name) for name in names} <= names_of_constraints()


def test_what_the_source_archive_takes_is_there() -> None:
    for path in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert path.startswith("/"), f"{path} would match in any folder"
        assert (ROOT / path[1:]).exists(), path


def test_the_description_names_the_methods() -> None:
    said = PROJECT["project"]["description"]
    assert len(said) <= 512, "the index takes no longer summary"
    baselines = {"gd", "fedavg", "localgd", "fedprox", "i-scaffnew"}
    names = {"efbv": "EF-BV", "sppm": "SPPM-AS"}
    for algorithm in {*ALGORITHMS} - baselines:
        assert names.get(algorithm, algorithm).lower() in said.lower()


def test_the_citation_is_of_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == fedstrategies.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= {*reference}
        for entry in reference.get("identifiers", ()):
            assert reference["url"] == f"https://arxiv.org/abs/{entry['value'].split(':')[1]}"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_whole(form: Path) -> None:
    content = read(form)
    assert {"name", "description", "body"} <= {*content}
    identifiers = [part["id"] for part in content["body"]]
    assert len(identifiers) == len({*identifiers})
    assert {part["type"] for part in content["body"]} <= {"textarea", "dropdown", "checkboxes"}
    for page in re.findall(r"`((?:docs|fedstrategies)/[\w./-]+)`", form.read_text("utf-8")):
        assert (ROOT / page).exists(), page


def test_a_bug_report_has_what_doctor_says() -> None:
    assert [form.stem for form in FORMS] == ["algorithm", "bug"]
    (field,) = [part for part in read(FORMS[1])["body"] if part["id"] == "doctor"]
    assert field["validations"]["required"] is True


def test_hooks_are_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert lint is not None
    tools = set(re.findall(r"\$\(BIN\)/([\w-]+)", lint[1]))
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    entries = [hook["entry"].split()[0] for hook in local["hooks"]]
    assert {entry.removeprefix(".venv/bin/") for entry in entries} == tools
    assert all(hook["language"] == "system" for hook in local["hooks"])
