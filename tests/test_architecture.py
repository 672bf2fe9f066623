"""Rules about the source itself."""

import subprocess
import sys
from pathlib import Path

import neuart_jax
import neuart_jax.runs.batch
import neuart_jax.runs.experiments
from neuart_jax import runs

ROOT = Path(__file__).resolve().parents[1]


def test_imports_go_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_main_stays_short():
    assert len((ROOT / "neuart_jax" / "main.py").read_text().splitlines()) < 80


def test_the_package_has_a_dozen_rooms():
    entries = {path.name for path in (ROOT / "neuart_jax").iterdir()} - {"__pycache__", "py.typed"}
    assert len(entries) <= 12
    rooms = entries - {"__init__.py", "main.py"}
    readme = (ROOT / "README.md").read_text()
    assert all(f"\n{room}/  " in readme for room in rooms)


def test_no_module_has_the_name_of_a_public_function():
    """`import neuart_jax.stylize as module` would give the function."""
    for package in (neuart_jax, runs.batch, runs.experiments):
        folder = Path(package.__file__).parent
        modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
        functions = {name for name in vars(package) if callable(getattr(package, name))}
        assert not modules & functions
