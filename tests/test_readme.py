"""The README's code runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from neuart_jax.config.config import FIELDS
from neuart_jax.config.presets import PRESETS
from neuart_jax.io.images import save_image
from neuart_jax.models.params.load import NAMED_WEIGHTS, load_network

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.lenient  # Readers write ordinary code.
def test_python_blocks_run_in_order(tmp_path, monkeypatch, content_image, style_image):
    monkeypatch.chdir(tmp_path)
    save_image("photo.jpg", content_image)
    save_image("painting.jpg", style_image)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    # What is compiled and fitted here is the same for any layer.
    shallow = "steps=3, weights='random', content_layers='relu2_1', style_layers='relu2_1'"
    for block in blocks:
        cheap = "steps=3" if "style_layers" in block else shallow
        block = block.replace("steps=40", cheap)
        exec(block, names)  # noqa: S102
        assert np.all(np.isfinite(names["result"].image))  # type: ignore[attr-defined]
    assert Path("painted.png").is_file()


@pytest.mark.lenient
def test_the_librarys_page_runs_in_order(tmp_path, monkeypatch, content_image, style_image):
    monkeypatch.chdir(tmp_path)
    save_image("photo.jpg", content_image)
    save_image("painting.jpg", style_image)
    page = (ROOT / "docs" / "library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 12
    shallow = "content_layers='relu2_1', style_layers='relu2_1', model='vgg19', weights='random'"
    loaded = {}

    def load_once(config, *, layers, **options):
        if (config, layers) not in loaded:
            loaded[config, layers] = load_network(config, layers=layers, **options)
        return loaded[config, layers]

    monkeypatch.setattr("neuart_jax.engine.binding.load_network", load_once)
    names: dict[str, object] = {}
    for block in blocks:
        block = block.replace("steps=40", f"steps=2, scales=1, optimizer='adam', {shallow}")
        exec(block.replace("relu3_1", "relu1_1"), names)  # noqa: S102
        assert np.all(np.isfinite(names["result"].image))  # type: ignore[attr-defined]
    first, *_, last = names["sweep"]  # type: ignore[misc]
    assert len(names["results"]) == 2 and first != last  # type: ignore[arg-type]
    assert names["record"].own == "one matrix for all, 1"  # type: ignore[attr-defined]
    assert np.abs(names["product"]).max() > 0  # type: ignore[call-overload]


def test_flags_and_files_named_exist():
    commands = [*(ROOT / "scripts").glob("*.py"), ROOT / "neuart_jax" / "cli" / "flags.py"]
    source = "".join(path.read_text() for path in commands)
    of_commands = re.findall(r'flags\.DEFINE_\w+\(\s*"([a-z_]+)"', source)
    negated = {f"no{name}" for name, field in FIELDS.items() if field.hint is bool}
    known = {*FIELDS, *negated, *of_commands, "help"}
    for flag in re.findall(r"--([a-z_]+)", README):
        assert flag in known, flag
    for preset in re.findall(r"--preset=([\w-]+)", README):
        assert preset in PRESETS, preset
    for weights in re.findall(r"^\| `([a-z0-9-]+)`", README, re.MULTILINE):
        assert weights in NAMED_WEIGHTS, weights
    for weights in NAMED_WEIGHTS:
        assert f"| `{weights}`" in README, weights
    for path in re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"`((?:\w+/)*\w+\.py)`", README):
        assert any((root / module).exists() for root in (ROOT, ROOT / "neuart_jax")), module


def test_every_recipe_has_its_line_on_the_page_of_systems():
    page = (ROOT / "docs" / "systems.md").read_text().partition("\n## ResNet50")[0]
    rows = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)
    # What it leaves open, and what came out.
    assert rows[: len(PRESETS)] == list(PRESETS)
    assert set(rows[len(PRESETS) :]) == set(PRESETS)
