"""docs/backends.md: its example runs as it stands, and keeps the contract."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime import MakeBundle, Runtime

DOCUMENT = Path(__file__).parents[2] / "docs" / "backends.md"


def block(language: str, contains: str) -> str:
    """Return the document's one code block in a language that contains a text."""
    found = [
        code for code in re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL) if contains in code
    ]
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The example as pip would install it: a module, and metadata with its entry point."""
    path = tmp_path / "site"
    information = path / "example_backend-1.0.dist-info"
    information.mkdir(parents=True)
    (path / "example_backend.py").write_text(block("python", "# example_backend.py"))
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: example-backend\nVersion: 1.0\n")
    name, module = re.findall(r'^(\w+) = "(\w+)"$', block("toml", "entry-points"), re.MULTILINE)[0]
    (information / "entry_points.txt").write_text(f"[pysandbox.backends]\n{name} = {module}\n")
    return path


@pytest.fixture
def example(cold_script: Path, tmp_path: Path, site: Path) -> Iterator[Runtime]:
    program = tmp_path / "pysandbox"
    program.write_text(cold_script.read_text().replace('["', f'[{json.dumps(str(site))}, "', 1))
    program.chmod(0o755)
    runtime = Runtime([str(program), "--backend", "example"], tmp_path / "root")
    yield runtime
    runtime.remove_all()


def test_the_documents_commands_work(example: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(["sh", "-c", "echo from the example; exit 3"], rootfs=False)
    (bundle / "rootfs").mkdir()

    done = example("run", bundle)

    assert (done.returncode, done.stdout) == (3, "from the example\n"), example.log[-1]
    assert "example" in example.ok("backends")


def test_the_example_keeps_the_contract(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(block("python", "# test_example.py"))
    paths = [str(site), *(path for path in sys.path if path)]
    program = f"import sys; sys.path[:0] = {paths!r}\nimport pytest; sys.exit(pytest.main(sys.argv[1:]))"

    done = subprocess.run(
        [sys.executable, "-c", program, "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path / "test_example.py")],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
