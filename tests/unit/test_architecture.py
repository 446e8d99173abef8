"""The shape of the code base: layers, sizes, docstrings, and who imports torch."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("distqatd", "distqatctl")
MAX_LINES = 350
MAX_TEST_LINES = 500
"""A test file is a flat list that is searched, not read from top to bottom."""

HEAVY = ("torch", "datasets", "transformers", "wandb", "sklearn")
LIGHT = ("base", "config", "wire", "identity", "net", "dht", "swarm", "api", "checkpoint")
"""Packages of distqatd that a daemon without experts imports: none may bring torch."""

TRANSFER = ("manifest", "slots", "serving", "offers", "stripes", "striping", "transfer")
"""Modules of distqatd.averaging that a mirror uses, which computes nothing."""


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lint_imports() -> str | None:
    """Return the import linter of this environment, also if it is not on the PATH."""
    beside = Path(sys.executable).with_name("lint-imports")
    return str(beside) if beside.exists() else shutil.which("lint-imports")


@pytest.mark.skipif(lint_imports() is None, reason="import-linter is in the dev extra")
def test_imports_go_down_the_layers() -> None:
    done = subprocess.run(
        [str(lint_imports()), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sources(*PACKAGES, "tests"), ids=name_of)
def test_a_file_is_short_enough_to_read(path: Path) -> None:
    limit = MAX_TEST_LINES if path.is_relative_to(ROOT / "tests") else MAX_LINES
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert len(docstring) > 20
    assert "laceholder" not in docstring


@pytest.mark.parametrize(
    "path", [path for path in sources(*PACKAGES) if path.name == "__init__.py"], ids=name_of
)
def test_a_package_init_holds_no_code(path: Path) -> None:
    body = ast.parse(path.read_text()).body[1:]
    constants = {"__version__", "__all__"}
    assert all(
        isinstance(node, ast.Assign) and {ast.unparse(t) for t in node.targets} <= constants
        for node in body
    )


def imported(code: str) -> set[str]:
    """Run `code` in a fresh interpreter and return the heavy packages that it imported."""
    report = f"import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def modules_of(package: str) -> list[str]:
    relative = [path.relative_to(ROOT).with_suffix("") for path in sources(package)]
    return [".".join(path.parts).removesuffix(".__init__") for path in relative]


@pytest.mark.parametrize("package", LIGHT)
def test_the_network_side_never_imports_torch(package: str) -> None:
    names = modules_of(f"distqatd/{package}")
    assert imported("\n".join(f"import {name}" for name in names)) == set()


def test_state_is_transferred_without_torch() -> None:
    names = [f"distqatd.averaging.{name}" for name in TRANSFER]
    assert imported("\n".join(f"import {name}" for name in names)) == set()


@pytest.mark.parametrize("program", ["distqatd.daemon.cli", "distqatctl.cli"])
def test_help_answers_without_heavy_imports(program: str) -> None:
    code = (
        f"import sys; sys.argv = ['x', '--help']; from {program} import main\n"
        "try: main()\n"
        "except SystemExit: pass"
    )
    assert imported(code) == set()


def test_what_a_monitor_or_client_daemon_runs_imports_nothing_heavy() -> None:
    assert imported("import distqatd.daemon.app") == set()
