"""Flipped bits and cuts in what is kept between runs: made anew, never other pixels, no crash."""

import logging

import numpy as np
import painter
import pytest
from numpy.testing import assert_array_equal
from standins import write_converted

from neuart_jax import InputError, transfer
from neuart_jax.io.sealed import DamagedError, seal, unseal
from neuart_jax.models.params.canonical import read_safetensors
from neuart_jax.runs import checkpoints


class Stop(Exception):
    """What ends a run at a moment of the test's choice."""


def damaged(content, rng):
    """Flip a bit, or cut the end off."""
    place = int(rng.integers(len(content)))
    if rng.random() < 0.3:
        return content[:place]
    changed = bytearray(content)
    changed[place] ^= 1 << rng.integers(8)
    return bytes(changed)


def test_no_flip_and_no_cut_of_a_sealed_document_is_taken_for_it():
    blobs = {"a": memoryview(b"some bytes"), "b": memoryview(b"")}
    facts = {"x": [1.5, float("inf"), None], "y": "ä"}
    whole = b"".join(seal(facts, blobs))
    assert unseal(whole) == (facts, blobs)
    for number in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[number] ^= 1 << bit
            with pytest.raises(DamagedError):
                unseal(bytes(changed))
        with pytest.raises(DamagedError):
            unseal(whole[:number])
    with pytest.raises(DamagedError):
        unseal(whole + b"x")


def test_damaged_checkpoints_cost_steps_only(tmp_path, monkeypatch, caplog):
    painter.install(monkeypatch)
    monkeypatch.setattr(checkpoints, "_SHARE_OF_TIME", 1e12)
    (content,), style = painter.pictures(tmp_path / "pictures")
    config = painter.config_of(content, style, output=str(tmp_path / "out"))
    whole = transfer(config.replace(output=str(tmp_path / "whole"))).result.image
    rng = np.random.default_rng(0)

    def stop(progress):
        if progress.num_steps == painter.STEPS:
            raise Stop

    folder = tmp_path / "out/checkpoints"
    for number in range(60):
        with pytest.raises(Stop):
            transfer(config.replace(overwrite=True), callback=stop)
        paths = sorted(folder.iterdir())
        assert len(paths) == 2
        for path in paths[rng.integers(2) :]:  # The last one, or both.
            path.write_bytes(damaged(path.read_bytes(), rng))
        caplog.clear()
        assert_array_equal(transfer(config.replace(overwrite=True)).result.image, whole)
        said = [m for m in caplog.messages if "can't be used" in m]
        assert len(said) in (1, 2), number


def test_damaged_fits_and_conversions_are_refused_or_are_as_they_were(tmp_path):
    """Both are files of this format; what is refused there is fitted, or converted, anew."""
    path = write_converted(tmp_path / "a.safetensors", "vgg19")
    content, whole = path.read_bytes(), read_safetensors(path, model="vgg19")
    head = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(400):
        # Half of them in the head, which is short.
        part = content[:head] if number % 2 else content
        path.write_bytes(damaged(part, rng) + content[len(part) :])
        try:
            found = read_safetensors(path, model="vgg19")
        except InputError:
            refused += 1
            continue
        assert found.normalization == whole.normalization
        assert found.variables.keys() == whole.variables.keys()
        for name, array in whole.variables.items():
            assert_array_equal(found.variables[name], array)
    assert refused > 350


def test_a_damaged_fit_is_fitted_anew_with_one_line(tmp_path, monkeypatch, caplog):
    from neuart_jax.config.sections import NetworkConfig
    from neuart_jax.models.params.fitted import fit_cache
    from neuart_jax.models.params.request import Request

    monkeypatch.setattr(fit_cache, "user_cache", lambda name: tmp_path / name)
    images = tuple(np.random.default_rng(n).random((16, 16, 3), np.float32) for n in range(2))
    request = Request(NetworkConfig(model="vgg19", weights="fitted"), ("relu1_1",), images, 0)
    whole = fit_cache.load_fitted(request)
    (path,) = (tmp_path / "fitted").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = fit_cache.load_fitted(request)
    assert len(caplog.messages) == 1 and "the cached fit is damaged" in caplog.text
    assert again.identity == whole.identity
    caplog.clear()
    assert fit_cache.load_fitted(request).message.endswith("from the cache, no ImageNet weights.")
    assert not caplog.messages
