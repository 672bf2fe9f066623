"""The clips of scripts/make_clips.py move as their flows say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuart_jax.inputs.motion.consistency import find_weights
from neuart_jax.inputs.motion.warping import warp
from neuart_jax.io.clips.opening import open_clip
from neuart_jax.io.flow_files import load_flow

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_clips.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def test_frames_are_where_the_flows_say(tmp_path):
    made = run(f"--output={tmp_path}", "--frames=16", "--width=128", "--flows", "--check=dis")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("dis: length") == 3
    for name in ("pan", "object", "cut"):
        frames = [frame.image for frame in open_clip(tmp_path / f"{name}.mp4").frames()]
        assert len(frames) == 16 and frames[0].shape == (96, 128, 3)
        errors, changes = [], []
        for number in range(1, 16):
            backward = tmp_path / f"{name}_flow" / f"backward_{number + 1}_{number}.flo"
            forward = tmp_path / f"{name}_flow" / f"forward_{number}_{number + 1}.flo"
            assert backward.exists() == forward.exists() == (name != "cut" or number != 8)
            if not backward.exists():
                continue
            flow = load_flow(backward)
            trusted = find_weights(flow, load_flow(forward)) > 0.9
            assert trusted.mean() > 0.7
            moved = warp(frames[number - 1], flow, kernel="linear", outside=frames[number])
            errors.append(np.abs(moved - frames[number])[trusted].mean())
            changes.append(np.abs(frames[number - 1] - frames[number])[trusted].mean())
        # What an encoder and two interpolations leave.
        assert np.mean(errors) < 0.02
        assert np.mean(errors) < np.mean(changes) / 2


def test_what_it_can_not_make_is_a_sentence():
    for flag, sentence in [
        ("--check=raft", "raft came as a way"),
        ("more", "'more' is not a flag"),
    ]:
        refused = run(flag)
        assert refused.returncode == 2
        assert sentence in refused.stderr and "Traceback" not in refused.stderr
