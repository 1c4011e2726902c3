"""What the documents say is there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from runtime import Runtime

LINK = re.compile(r"\[[^\]]+\]\((?!https?:|#)([^)#\s]+)[^)]*\)")
COMMAND = re.compile(
    r"^\s*(?:\$ |# )?(?:sudo )?(?:\.venv/bin/)?pysandbox ((?:--?[\w-]+(?:[= ][A-Z/.:\w]+)? )*)([a-z]+)\b", re.MULTILINE
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: What docs/images.md says of make in the kernel's sources.
OF_THE_KERNEL = {"olddefconfig", "vmlinux"}
_REPOSITORY = Path(__file__).parent.parent.parent
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(path.relative_to(_REPOSITORY)) for path in (_REPOSITORY / "docs").glob("*.md")),
]


def shell_blocks(text: str) -> list[str]:
    return [block for language, block in FENCE.findall(text) if language in ("sh", "console", "bash")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_exists_and_its_links_lead_somewhere(repository: Path, name: str) -> None:
    document = repository / name

    links = LINK.findall(document.read_text())

    assert [link for link in links if not (document.parent / link).exists()] == []


def test_make_targets_in_documents_exist(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = "".join((repository / name).read_text() for name in DOCUMENTS)

    named = set(re.findall(r"`(?:sudo )?make ([a-z]+)", text)) | {
        word for block in shell_blocks(text) for word in re.findall(r"^\s*(?:sudo )?make ([a-z]+)", block, re.MULTILINE)
    }

    assert named
    assert named - OF_THE_KERNEL <= targets


def test_commands_in_the_readme_exist(repository: Path, pysandbox: Runtime) -> None:
    text = "\n".join(shell_blocks((repository / "README.md").read_text()))
    commands = {match.group(2) for match in COMMAND.finditer(text)}
    assert {"run", "create", "start", "state", "exec", "kill", "delete"} <= commands

    for command in sorted(commands):
        done = pysandbox(command, "--help")
        assert done.returncode == 0, pysandbox.log[-1]


def test_the_changelog_tells_of_this_version(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]

    assert f"## [{version}]" in (repository / "CHANGELOG.md").read_text()


def test_the_version_is_the_same_everywhere(repository: Path) -> None:
    from pysandbox import VERSION

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    crate = tomllib.loads((repository / "guest_agent/Cargo.toml").read_text())["package"]

    assert {VERSION, project["version"], crate["version"]} == {VERSION}


def test_every_exception_from_a_lint_rule_has_a_reason(repository: Path) -> None:
    lint = (
        (repository / "pyproject.toml")
        .read_text()
        .partition("[tool.ruff.lint]\n")[2]
        .partition("\n[tool.ruff.lint.m")[0]
    )
    ignored = lint.partition("ignore = [\n")[2].partition("\n]")[0].splitlines()

    assert ignored
    assert [line for line in ignored if not re.search(r"# \S.{8,}", line)] == []


@pytest.mark.parametrize(
    "script", ["setup/packages.sh", "setup/launcher.sh", "setup/demo.sh", "setup/runsc.sh", ".ci/run"]
)
def test_shell_scripts_parse(repository: Path, script: str) -> None:
    done = subprocess.run(["bash", "-n", repository / script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "set -euo pipefail" in (repository / script).read_text()
