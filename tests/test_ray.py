"""Groups on a Ray cluster of this machine."""

import os
import signal
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
from conftest import smooth_image
from standins import write_converted

from neuart_jax import Config, InputError, save_image
from neuart_jax.io.images import load_image
from neuart_jax.runs.batch import run_batch
from neuart_jax.runs.manifest import Manifest, make_jobs

pytest.importorskip("ray")
# Ray leaves sockets and child processes to the end of the process.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "default::FutureWarning", "ignore:os.fork:RuntimeWarning"
    ),
]


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    weights = write_converted(tmp_path / "mine.safetensors", "vgg19")
    for number in range(4):
        save_image(tmp_path / f"photo{number}.png", smooth_image(40, 48, seed=number))
    save_image(tmp_path / "style.png", smooth_image(50, 40, seed=20))
    config = Config().replace(
        weights=str(weights),
        content_layers="conv1_1",
        style_layers="relu1_1",
        steps=600,
        optimizer="adam",
        report_every=5,
        scales=1,
        checkpoint_seconds=0.05,
    )
    root = Path(__file__).resolve().parents[1]
    monkeypatch.setenv("PYTHONPATH", str(root))
    contents, style = str(tmp_path / "photo*.png"), str(tmp_path / "style.png")
    return Manifest("the rows", make_jobs(config, contents, [style], pair="cross"), [])


def workers():
    """The processes that paint."""
    children = psutil.Process().children(recursive=True)
    return [p for p in children if "_paint" in "".join(p.cmdline())]


def test_a_worker_that_is_killed_leaves_its_pairs_to_others(manifest, tmp_path):
    jax.block_until_ready(jax.numpy.ones(3) + 1)  # JAX's threads are there before Ray's processes.
    killed = []

    def observe(progress):
        if not killed and list((tmp_path / "out").glob("*/checkpoints/*")) and workers():
            victim = workers()[0]
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)

    result = run_batch(manifest, tmp_path / "out", engine="ray", observer=observe)
    assert killed
    assert [line.status for line in result.lines] == ["completed"] * 4
    assert sorted(p.name for p in (tmp_path / "out").glob("*/*.png")) == sorted(
        ["result.png", "losses.png"] * 4
    )
    assert not list((tmp_path / "out").rglob("checkpoints"))
    run_batch(manifest, tmp_path / "local")
    for line in result.lines:
        here, there = (load_image(str(tmp_path / n / line.image)).image for n in ("out", "local"))
        np.testing.assert_array_equal(here, there)


def test_a_cluster_that_is_not_there_is_one_sentence(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "localhost:1")
    with pytest.raises(InputError, match="RAY_ADDRESS=localhost:1 can't be reached"):
        run_batch(manifest, tmp_path / "out", engine="ray")
