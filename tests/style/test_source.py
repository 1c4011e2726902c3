"""Rules for source files that no linter knows."""

from __future__ import annotations

import ast
import re
import statistics
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef

#: Names that say nothing about what is inside.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "shared", "core", "base"}

#: Written as patterns, so that this file does not find itself.
MACHINE_PATHS = re.compile(r"/wor[k]/(main|shared)|/roo[t]/\.|/home/[a-z]+/|/Use[r]s/")
REGISTRY_HOSTS = re.compile(
    r"docker\.i[o]/|registry-\d\.docker|ghcr\.i[o]|quay\.i[o]|gcr\.i[o]|pypi\.or[g]|crates\.i[o]/|index\.crate[s]|"
    r"proxy\.golan[g]|artifact.?registr[y]|pkg\.de[v]\b"
)


def _python(files: list[Path], repository: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the product's Python files, parsed."""
    roots = (repository / "runtime_api", repository / "backends")
    for path in files:
        if path.suffix == ".py" and any(root in path.parents for root in roots):
            yield path, ast.parse(path.read_text(), str(path))


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _length(function: Function) -> int:
    """Count the lines of a function's body without its docstring."""
    body = function.body
    if (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    ):
        body = body[1:]
    if not body or function.end_lineno is None:
        return 0
    return function.end_lineno - body[0].lineno + 1


def test_functions_are_short(tracked_files: list[Path], repository: Path) -> None:
    lengths = sorted(
        _length(function) for _, tree in _python(tracked_files, repository) for function in _functions(tree)
    )

    assert statistics.median(lengths) < 11
    assert lengths[int(len(lengths) * 0.95)] <= 35


def test_no_function_is_a_program(tracked_files: list[Path], repository: Path) -> None:
    long = [
        f"{path.relative_to(repository)}:{function.lineno} {function.name} {_length(function)}"
        for path, tree in _python(tracked_files, repository)
        for function in _functions(tree)
        if _length(function) > 80
    ]

    assert long == []


def test_modules_have_telling_names(tracked_files: list[Path], repository: Path) -> None:
    named = [path.relative_to(repository) for path in tracked_files if path.suffix in {".py", ".rs", ".sh"}]

    assert [str(path) for path in named if EMPTY_NAMES & {part.removesuffix(path.suffix) for part in path.parts}] == []


def _dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Find what no line of a program that runs as root may hold."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                yield node.lineno, name
            case ast.ExceptHandler(type=None):
                yield node.lineno, "bare except"
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                yield node.value.lineno, "shell=True"
            case ast.keyword(arg="preexec_fn"):
                yield node.value.lineno, "preexec_fn: runs Python between fork and exec"
            case ast.Import(names=names) if {"pickle", "marshal", "shelve"} & {alias.name for alias in names}:
                yield node.lineno, "pickle"
            case ast.ImportFrom(module="pickle" | "marshal" | "shelve"):
                yield node.lineno, "pickle"


def test_no_dangerous_construct(tracked_files: list[Path], repository: Path) -> None:
    found = [
        f"{path.relative_to(repository)}:{line}: {what}"
        for path, tree in _python(tracked_files, repository)
        for line, what in _dangers(tree)
    ]

    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "try:\n    f()\nexcept:\n    pass",
        "run('ls', shell=True)",
        "Popen(a, preexec_fn=f)",
        "import pickle",
        "from marshal import loads",
    ],
)
def test_a_dangerous_construct_is_found(source: str) -> None:
    assert list(_dangers(ast.parse(source)))


def _public(tree: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _methods(node)


def _methods(owner: ast.ClassDef) -> Iterator[tuple[str, Function]]:
    """Yield public methods that define something; those that override take the docstring of what they override."""
    for node in owner.body:
        if isinstance(node, Function) and not node.name.startswith("_") and not owner.bases:
            yield f"{owner.name}.{node.name}", node


def test_public_names_are_documented(tracked_files: list[Path], repository: Path) -> None:
    bare = [
        f"{path.relative_to(repository)}: {name}"
        for path, tree in _python(tracked_files, repository)
        for name, node in [("the module", tree), *_public(tree)]
        if not ast.get_docstring(node)
        if not any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in getattr(node, "decorator_list", []))
    ]

    assert [name for name in bare if not name.endswith("__init__.py: the module")] == []


def test_annotations_cost_nothing_at_start(tracked_files: list[Path], repository: Path) -> None:
    without = [
        str(path.relative_to(repository))
        for path, tree in _python(tracked_files, repository)
        if any(True for _ in _functions(tree))
        if not any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    ]

    assert without == []


def _text(files: list[Path]) -> Iterator[tuple[Path, str]]:
    for path in files:
        try:
            yield path, path.read_text()
        except UnicodeDecodeError:
            continue


def test_files_know_no_machine_and_no_registry(tracked_files: list[Path], repository: Path) -> None:
    found = [
        f"{path.relative_to(repository)}: {match.group()}"
        for path, text in _text(tracked_files)
        if path.name != "Cargo.lock"
        for pattern in (MACHINE_PATHS, REGISTRY_HOSTS)
        for match in pattern.finditer(text)
    ]

    assert found == []


def test_text_files_are_tidy(tracked_files: list[Path], repository: Path) -> None:
    def untidy(text: str) -> bool:
        return bool(text) and (
            not text.endswith("\n") or "\r\n" in text or re.search(r"[ \t]+$", text, re.MULTILINE) is not None
        )

    suffixes = {".py", ".rs", ".md", ".toml", ".sh"}

    assert [
        str(path.relative_to(repository))
        for path, text in _text(tracked_files)
        if path.suffix in suffixes and untidy(text)
    ] == []
