"""A run that began elsewhere says whether it reached the photograph."""

import types

import pytest

from neuart_jax import Config
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.step import Status
from neuart_jax.runs.painting import describe_lost_content


@pytest.mark.parametrize(
    ("init", "content", "loss", "lost"),
    [
        ("noise", 0.9, "relative", True),
        ("style", 0.9, "relative", True),
        ("noise", 0.4, "relative", False),
        ("content", 0.9, "relative", False),
        ("blend", 0.9, "relative", False),
        ("noise", 900.0, "sum", False),
    ],
)
def test_the_sentence_comes_where_the_content_is_missing(init, content, loss, lost):
    config = resolve_config(
        Config().replace(init=init, content_loss=loss, content_weight=2, model="vgg16")
    )
    result = types.SimpleNamespace(
        losses={"content": content}, history=[{"content": 2500.0}], status=Status.COMPLETED
    )
    sentence = describe_lost_content(config, result)
    assert bool(sentence) == lost
    assert not lost or f"--init={init}, use a larger --content_weight, 6 say" in sentence
    result.history[0]["content"] = content / 0.41
    assert bool(describe_lost_content(config, result)) == (init in ("noise", "style"))
    result.status = Status.STOPPED
    assert not describe_lost_content(config, result)
