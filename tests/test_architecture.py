"""Rules about the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "neuart_jax").rglob("*.py"))


def test_imports_go_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_main_stays_short():
    assert len((ROOT / "neuart_jax" / "main.py").read_text().splitlines()) < 80


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_level_state(path):
    """Nothing at module level is rebound from inside a function."""
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
