"""Paint the images that the README and the pages in docs/ show.

  python scripts/make_images.py [--only=strip,color] [--resnet50=FILE] [--output=FOLDER]

Photographs are scikit-image's and matplotlib's, paintings are in docs/images/styles; all are in the
public domain or CC0. Existing images in --output are not painted again. VGG16's weights are
`imagenet-lpips`; ResNet50's are given by --resnet50.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.font_manager
import numpy as np
import skimage.data
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from neuart_jax.cli.flags import run_command
from neuart_jax.config.config import Config
from neuart_jax.config.presets import PRESETS, apply_preset
from neuart_jax.io.images import load_image, save_image
from neuart_jax.runs.experiments.cells import run_cells
from neuart_jax.runs.experiments.model_comparison import DEFAULT_VARIANTS, parse_variant
from neuart_jax.runs.experiments.networks import NetworkPool
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.record import Record

_ONLY = flags.DEFINE_list("only", [], "Sheets to make; empty makes all.")
_RESNET50 = flags.DEFINE_string("resnet50", "auto", "ResNet50's weights.")

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
STYLES = IMAGES / "styles"
WORK = ROOT / "output" / "pictures"

_VGG16 = {"model": "vgg16", "weights": "imagenet-lpips"}
_CAFE, _TANGUY, _NIGHT, _AUVERS, _BRIDGE = (
    STYLES / f"van_gogh_{name}.jpg"
    for name in (
        "cafe_terrace",
        "pere_tanguy",
        "night_cafe",
        "church_at_auvers",
        "langlois_bridge",
    )
)
_STROKES = IMAGES / "brush_strokes.png"


_GAP, _FONT_PIXELS = 6, 14


class Sheet(NamedTuple):
    """Images side by side.

    Attributes:
      rows: label of every image, and the settings that paint it, or the path of an image.
      width: average width of an image in the sheet, in pixels.
    """

    rows: Sequence[Sequence[tuple[str, Path | Mapping[str, Any]]]]
    width: int = 300


def _row(content: Path, styles: Sequence[Path], variants: Mapping[str, Mapping[str, Any]]) -> Any:
    images = {"content": content, "style": styles}
    return [
        ("photograph", content),
        *(("painting", style) for style in styles),
        *((label, {**_VGG16, **images, **settings}) for label, settings in variants.items()),
    ]


def make_sheets(photographs: Mapping[str, Path], resnet50: str) -> dict[str, Sheet]:
    """Lay out every sheet.

    Args:
      photographs: files of the photographs, by name.
      resnet50: ResNet50's weights.
    """
    both = {"VGG16": {}, "ResNet50": {"model": "resnet50", "weights": resnet50}}
    astronaut, cat, coffee, rocket, grace = (
        photographs[name] for name in ("astronaut", "chelsea", "coffee", "rocket", "grace_hopper")
    )
    small = {"size": 384}
    # Half an hour is enough for one image: this is the length of a frame that the recipe saves.
    own_lengths = {"slides": {"steps": 800}}
    recipes = {
        name: {"preset": name, **({"style": [_AUVERS, _CAFE]} if preset.num_styles == 2 else {})}
        | (both["ResNet50"] if preset.settings.get("model") == "resnet50" else {})
        | own_lengths.get(name, {})
        for name, preset in PRESETS.items()
        # Photoreal needs masks and two photographs.
        if name != "photoreal"
    }
    variants = {
        (name := text.partition(":")[0]): {"variant": text, **small}
        | (both["ResNet50"] if name.startswith("resnet50") else {})
        for text in DEFAULT_VARIANTS
    }
    by_recipe = _row(rocket, [_AUVERS], recipes)
    return {
        "strip": Sheet(
            [
                _row(rocket, [_AUVERS], both),
                _row(astronaut, [_TANGUY], both),
                _row(coffee, [_NIGHT], both),
                _row(cat, [_CAFE], both),
            ],
            width=320,
        ),
        "weights": Sheet(
            [_row(cat, [_STROKES], {"trained (VGG16)": {}, "fitted": {"weights": "fitted"}})]
        ),
        "systems": Sheet([by_recipe[i : i + 4] for i in range(0, len(by_recipe), 4)], width=300),
        "networks": Sheet(
            [_row(rocket, [_AUVERS], variants), _row(astronaut, [_TANGUY], variants)], width=190
        ),
        "color": Sheet(
            [
                _row(
                    coffee,
                    [_CAFE],
                    {f"--color={c}": {"color": c, **small} for c in ("style", "luminance", "keep")},
                ),
                _row(
                    grace,
                    [_TANGUY],
                    {f"--color={c}": {"color": c, **small} for c in ("style", "match", "keep")},
                ),
            ],
            width=240,
        ),
        "strength": Sheet(
            [
                _row(
                    photograph,
                    [style],
                    {
                        f"--stylization={s}": {"stylization": s, **small}
                        for s in (0.25, 0.5, 0.75, 1)
                    },
                )
                for photograph, style in ((rocket, _AUVERS), (astronaut, _BRIDGE))
            ],
            width=220,
        ),
        "content_weight": Sheet(
            [
                _row(
                    astronaut,
                    [_AUVERS],
                    {
                        f"--content_weight={w:g}": {"content_weight": w, **small}
                        for w in (8, 3, 1.3, 0.5)
                    },
                )
            ],
            width=220,
        ),
        "scale": Sheet(
            [
                _row(
                    rocket,
                    [_NIGHT],
                    {
                        f"--style_scale={s}": {"style_scale": s, "enlarge": True, **small}
                        for s in (0.5, 1, 2)
                    },
                )
            ],
            width=240,
        ),
        "place": Sheet(
            [
                _row(
                    rocket,
                    [_AUVERS],
                    {
                        "the whole": small,
                        "--auto_masks=2": {"auto_masks": 2, **small},
                        "--auto_masks=3": {"auto_masks": 3, **small},
                    },
                )
            ],
            width=240,
        ),
        "blend": Sheet(
            [
                _row(
                    cat,
                    [_CAFE, _BRIDGE],
                    {
                        f"--style_blend={a},{b}": {"style_blend": (a, b), **small}
                        for a, b in ((3, 1), (1, 1), (1, 3))
                    },
                )
            ],
            width=220,
        ),
    }


def _write_photographs() -> dict[str, Path]:
    """Write the photographs of the packages to files."""
    images = {
        # NASA, public domain; Stefan van der Walt, CC0; Rachel Michetti, CC0; SpaceX, CC0.
        **{n: getattr(skimage.data, n)() for n in ("astronaut", "chelsea", "coffee", "rocket")},
        # The United States Navy, public domain.
        "grace_hopper": np.asarray(
            Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
        ),
    }
    folder = WORK / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in images}
    for name, path in paths.items():
        save_image(path, images[name].astype(np.float32) / 255)
    return paths


def _config(sources: Mapping[str, Any], common: Config) -> Config:
    paths = {
        "content": str(sources["content"]),
        "style": [str(path) for path in sources["style"]],
    }
    settings = {**sources, **paths}
    preset, variant = settings.pop("preset", ""), settings.pop("variant", "")
    if variant:
        return parse_variant(variant, common.replace(**settings)).config
    return apply_preset(preset, common, **settings) if preset else common.replace(**settings)


def _lay_out(rows: Sequence[Sequence[tuple[str, Any]]], *, width: int) -> Image.Image:
    """Put images side by side, each row as wide as the sheet and of one height."""
    font = ImageFont.truetype(matplotlib.font_manager.findfont("DejaVu Sans"), _FONT_PIXELS)
    total = width * max(map(len, rows)) + _GAP * (max(map(len, rows)) - 1)
    lines = []
    for row in rows:
        aspects = [image.shape[1] / image.shape[0] for _, image in row]
        height = round((total - _GAP * (len(row) - 1)) / sum(aspects))
        line = Image.new("RGB", (total, height + 2 * _FONT_PIXELS), "white")
        left = 0.0
        for (label, image), aspect in zip(row, aspects, strict=True):
            scaled = Image.fromarray((image * 255).round().astype(np.uint8))
            size = round(height * aspect), height
            line.paste(scaled.resize(size, Image.Resampling.LANCZOS), (round(left), 0))
            place = round(left), height + _FONT_PIXELS // 4
            ImageDraw.Draw(line).text(place, label, "#555555", font)
            left += size[0] + _GAP
        lines.append(line)
    sheet = Image.new("RGB", (total, sum(line.height for line in lines)), "white")
    for number, line in enumerate(lines):
        sheet.paste(line, (0, sum(above.height for above in lines[:number])))
    return sheet


def run(config: Config, record: Record | None) -> int:
    """Paint the missing images and write the sheets."""
    sheets = make_sheets(_write_photographs(), _RESNET50.value)
    chosen = {name: sheets[name] for name in _ONLY.value or sheets}
    load = functools.partial(load_image, size=512)
    for name, sheet in chosen.items():
        cells = {
            (i, j): Job(f"{name}_{i}_{j}", _config(what, config))
            for i, row in enumerate(sheet.rows)
            for j, (_, what) in enumerate(row)
            if isinstance(what, Mapping)
        }
        networks = NetworkPool(cell.config for cell in cells.values())
        done = run_cells(list(cells.values()), WORK / "cells", networks=networks, overwrite=True)
        images = {place: cell.load_image() for place, cell in zip(cells, done, strict=True)}
        tiles = [
            [
                (label, load(what).image if isinstance(what, Path) else images[i, j])
                for j, (label, what) in enumerate(row)
            ]
            for i, row in enumerate(sheet.rows)
        ]
        path = IMAGES / f"{name}.jpg"
        _lay_out(tiles, width=sheet.width).save(path, quality=85, optimize=True)
        print(path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
