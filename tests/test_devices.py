"""One picture on several devices, and on several processes: the same as on one."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose

from neuart_jax import Config, InputError, save_image, stylize, stylize_batch, transfer
from neuart_jax.engine import distributed, sharding
from neuart_jax.io.images import load_image
from neuart_jax.runs.record import read_record

pytestmark = pytest.mark.slow

SETTINGS = {
    "weights": "random",
    "style_layers": "relu1_1,relu2_1",
    "content_layers": "relu2_1",
    "steps": 2,
    "coarse_steps": 2,
    "report_every": 1,
    "save_every": 1,
    "size": 208,
    "enlarge": True,
    "checkpoint_seconds": 0.001,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    # 208 and 104 rows: on four devices both scales are shared out.
    save_image(folder / "photo.png", smooth_image(104, 96, seed=1))
    save_image(folder / "painting.png", smooth_image(100, 104, seed=2))
    return folder


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    # The very convolutions that the devices share out.
    transfer(config_for(pictures, folder / "a", convolution="direct"))
    return folder / "a"


def config_for(pictures, output, **settings):
    files = {"content": str(pictures / "photo.png"), "style": str(pictures / "painting.png")}
    return Config().replace(**SETTINGS, **files, output=str(output), **settings)


def start(config, *flags, num_devices):
    values = {n: v for section in config.to_dict().values() for n, v in section.items()}
    defaults = {n: v for section in Config().to_dict().values() for n, v in section.items()}
    given = []
    for name, value in values.items():
        if value != defaults[name]:
            text = (
                ",".join(f"{k}:{v}" for k, v in value.items()) if isinstance(value, dict) else value
            )
            text = text[0] if isinstance(text, list) else text
            given.append(f"--{name}={text}")
    root = Path(__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} "
        f"--xla_force_host_platform_device_count={num_devices}",
    }
    command = [sys.executable, "-m", "neuart_jax.main", *given, *flags]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def check_equal(folder, expected):
    """Up to rounding, which steps let grow."""
    here, there = (load_image(str(f / "result.png")).image for f in (folder, expected))
    assert np.abs(here - there).max() <= 2.01 / 255
    losses = [read_record(f / "config.json").outcome["losses"] for f in (folder, expected)]
    for name, value in losses[0].items():
        assert_allclose(value, losses[1][name], rtol=1e-4)
    frames = [sorted(p.name for p in (f / "frames").iterdir()) for f in (folder, expected)]
    assert frames[0] == frames[1]


def test_rows_on_four_devices_make_the_same_picture(pictures, alone, tmp_path):
    process = start(config_for(pictures, tmp_path / "a", shard_rows=4), num_devices=4)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    check_equal(tmp_path / "a", alone)


def test_rows_on_two_processes_make_the_same_picture(pictures, alone, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    config = config_for(pictures, tmp_path / "a", shard_rows=2)
    processes = [
        start(
            config,
            f"--coordinator={address}",
            "--num_processes=2",
            f"--process_id={number}",
            num_devices=1,
        )
        for number in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    check_equal(tmp_path / "a", alone)


@pytest.mark.parametrize(
    ("settings", "there", "sentence"),
    [
        ({"shard_rows": 4}, 1, "--shard_rows=4 came, but there are 1 devices"),
        ({"shard_rows": 3}, 4, "an image of 64 rows; .* add --size_step=48"),
        (
            {"shard_rows": 2, "convolution": "winograd"},
            4,
            "--convolution=winograd came with --shard_rows=2",
        ),
    ],
)
def test_rows_that_cannot_be_shared_out(settings, there, sentence, monkeypatch):
    monkeypatch.setattr(sharding.jax, "device_count", lambda: there)
    with pytest.raises(InputError, match=sentence):
        stylize(
            smooth_image(64, 64, seed=1),
            smooth_image(64, 64, seed=2),
            Config().replace(weights="random", **settings),
        )


@pytest.mark.parametrize(
    "flags",
    [
        {"num_processes": "2"},
        {"coordinator": "localhost:1", "process_id": "1"},
        {"coordinator": "localhost:1", "num_processes": "x"},
        {"coordinator": "localhost", "num_processes": "2"},
        {"coordinator": "localhost:99999", "num_processes": "2"},
        {"coordinator": "no such host:80", "num_processes": "2"},
    ],
)
def test_machines_that_are_not_named_whole(flags, run_main, capsys):
    assert run_main(**flags) == 2
    assert re.search("expected (a|the HOST:PORT)", capsys.readouterr().err)


@pytest.mark.parametrize("process_id", [0, 1])
def test_a_coordinator_that_cannot_be_had_is_one_sentence(process_id, monkeypatch):
    monkeypatch.setattr(distributed, "_SECONDS_TO_FIND", 0.1)
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        if process_id:
            taken.close()
        cause = "Connection refused" if process_id else "Address already in use"
        with pytest.raises(InputError, match=f"{address} can't be joined .*{cause}"):
            distributed.join_machines(address, num_processes=2, process_id=process_id)


def test_several_pairs_are_refused_where_rows_are_shared_out():
    picture = smooth_image(64, 64, seed=1)
    with pytest.raises(InputError, match="shard_rows=2 came with 2 pairs at once"):
        stylize_batch(
            [picture] * 2, [picture] * 2, Config().replace(weights="random", shard_rows=2)
        )
