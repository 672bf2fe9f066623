"""Damaged files of every layout: refused, or read right, or other finite numbers of right shape.

Only where a layout has no checksums can damage give other numbers. Each layout is read in a process
of its own, so that a crash, a hang or a huge allocation fails the test instead of ending it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_convert import write_layout
from weights_files import random_layers, write_keras

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NUM_CASES = 250
# Of a layout whose reader is a process of its own, which takes its time to start.
NUM_CASES_IN_PROCESSES = 25
WITHOUT_CHECKSUMS = (
    "legacy h5",
    "legacy h5 with names as text",
    "weights.h5",
    "weights.h5 without names",
    "torch safetensors",
    "mat",
    "pth stream",
)
WITH_CHECKSUMS = ("keras", "packed mat", "ours", "pth zip")
IN_PROCESSES = (*WITHOUT_CHECKSUMS[:4], "mat", "keras", "packed mat")


@pytest.mark.parametrize("layout", [*WITHOUT_CHECKSUMS, *WITH_CHECKSUMS])
def test_damage_never_crashes_hangs_or_deceives(tmp_path, layout):
    if layout == "legacy h5 with names as text":
        options = {"as_bytes": False, "num_parts": 2, "nested": True}
        layers = random_layers("vgg19")
        path = write_keras(tmp_path / "weights", "vgg19", layers=layers, **options)
    else:
        path = write_layout(layout, tmp_path, "vgg19")
    num_cases = NUM_CASES_IN_PROCESSES if layout in IN_PROCESSES else NUM_CASES
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fuzz_weights.py", path, "vgg19", "7", str(num_cases)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert sum(counts.values()) == num_cases
    assert counts["refused"] > num_cases / 4
    if layout in WITH_CHECKSUMS:
        assert "other numbers" not in counts
