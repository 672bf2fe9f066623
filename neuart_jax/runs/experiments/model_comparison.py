"""Comparison of networks and settings on the same pairs, by held-out measures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from neuart_jax.config.config import FIELDS, Config, parse_setting
from neuart_jax.config.errors import InputError
from neuart_jax.config.presets import apply_preset
from neuart_jax.io.decoding import Float32
from neuart_jax.models.params.load import NAMED_WEIGHTS
from neuart_jax.runs.experiments.cells import run_cells
from neuart_jax.runs.experiments.contact_sheet import Tile, make_contact_sheet
from neuart_jax.runs.experiments.measures import (
    color_distance,
    feature_distances,
    luminance_similarity,
)
from neuart_jax.runs.experiments.networks import NetworkPool, settle_configs
from neuart_jax.runs.experiments.report import Report, cells_folder, experiment_folder, write_report
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.prepare import Prepared, prepare, resolve_run
from neuart_jax.runs.tables import Row, average_row, format_value

NAME = "compare_models"

DEFAULT_VARIANTS = (
    "vgg16:model=vgg16",
    "resnet50:model=resnet50",
    # One change each: average pooling, or a softmax.
    "resnet50-averages:model=resnet50,pooling=average",
    "resnet50-smoothed:model=resnet50,smoothing=centered_softmax,temperature=16",
    # As trained, with the last outputs of the stages: without any adaptation to style transfer.
    "resnet50-plain:model=resnet50,smoothing=none,pooling=max,padding=zero,style_loss=relative,"
    "content_layers=conv4_block6_out,style_layers=conv2_block3_out,conv3_block4_out,"
    "conv4_block6_out,conv5_block3_out",
    # Wang, Li & Vasconcelos 2021, arXiv 2104.05623: the softmax as published, on the network as
    # trained, with all stages for style and the fourth for content.
    "resnet50-swag:model=resnet50,smoothing=softmax,temperature=1,pooling=max,padding=zero,"
    "style_loss=relative,"
    "content_layers=conv4_block6_out,style_layers=conv1_relu,conv2_block3_out,conv3_block4_out,"
    "conv4_block6_out,conv5_block3_out",
)
"""Default variants of the command line."""

DEFAULT_JUDGES = ("vgg16:model=vgg16", "resnet50:model=resnet50")
"""Default judges of the command line."""

PHOTOGRAPH = "(photograph)"
"""Row of the table for the content image itself: the baseline that any variant must beat."""

_PRESET = "preset"
# Settings that must be equal for images to be comparable.
_COMMON = {"content", "style", "size", "enlarge"}


class Variant(NamedTuple):
    """A variant, one column of the comparison.

    Attributes:
      name: unique name, usable as a folder name.
      config: configuration of the variant's runs, except for the images.
    """

    name: str
    config: Config


def parse_variant(text: str, config: Config, *, flag: str = "variant") -> Variant:
    """Parse a variant from the command line.

    Args:
      text: NAME:SETTING=VALUE,SETTING=VALUE. Values may contain commas, as layers do. The setting
        preset=NAME applies a recipe, which the other settings override.
      config: configuration that the variant changes.
      flag: name of the flag in messages.

    Raises:
      InputError: the syntax is wrong, or a setting is invalid or can't differ between variants.
    """
    name, colon, rest = text.partition(":")
    entries = [entry for entry in re.split(r",(?=\s*\w+\s*=)", rest) if entry.strip()]
    good = colon and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    if not good or not all("=" in entry for entry in entries):
        raise InputError(
            f"--{flag}={text!r} can't be read",
            expected="NAME:SETTING=VALUE,SETTING=VALUE with a name of letters, digits, - and _",
            remedy=f"write --{flag}=plain:model=resnet50,smoothing=none, say",
        )
    settings = {key.strip(): value.strip() for key, _, value in (e.partition("=") for e in entries)}
    sizes = {name: getattr(config.images, name) for name in ("size", "enlarge")}
    if _PRESET in settings:
        # Sizes must be equal for a comparison, whatever the recipe says.
        config = apply_preset(settings.pop(_PRESET), config).replace(**sizes)
    for key in settings:
        if key in _COMMON or (key in FIELDS and FIELDS[key].section == "output"):
            raise InputError(
                f"--{flag}={text!r} sets {key}",
                expected="settings of the network, the losses, the optimizer or the run",
                remedy=f"give --{key} once, for all of them",
            )
    values = {k: parse_setting(k, v) if k in FIELDS else v for k, v in settings.items()}
    return Variant(name, config.replace(**values))


def compare_models(
    config: Config,
    jobs: Sequence[Job],
    variants: Sequence[str] = DEFAULT_VARIANTS,
    *,
    judges: Sequence[str] = DEFAULT_JUDGES,
) -> Report:
    """Run every pair through every variant, and judge the results by held-out measures.

    Every judge is a network with its default layers, formulas and smoothing, whatever the variants
    do: JUDGE_content and JUDGE_style are its relative content and style losses. A judge of the
    variant's own model measures what the run optimized, or nearly so, and doesn't count; the other
    judges are held out. So are `ssim`, the similarity to the content image's luminance, and
    `color`, the distance from the style image's colors; see `measures`. The same measures of the
    content image itself are the baseline.

    Args:
      config: common settings of the variants; its images are not used.
      jobs: the pairs, of which only the images are used; see `manifest.make_jobs`.
      variants: variants in the syntax of `parse_variant`.
      judges: judging networks, in the same syntax; their settings override the defaults. Nothing
        of `config` or of a variant applies to them, except named weights.

    Raises:
      InputError: an argument is invalid, or the folder has other results.
    """
    parsed = _settle(parse_variant(text, config) for text in variants)
    _check_names(parsed, "variant")
    panel = _Panel(config, judges)
    places = [(job, variant) for job in jobs for variant in parsed]
    cells = [
        Job(f"{job.name}/{v.name}", v.config.replace(content=job.content, style=job.style))
        for job, v in places
    ]
    networks = NetworkPool(
        [*(cell.config for cell in cells), *(c for job in jobs for c in panel.of(job).values())]
    )
    folder = experiment_folder(config, NAME)
    runs = run_cells(
        cells, cells_folder(folder), networks=networks, overwrite=config.output.overwrite
    )
    rows: list[Row] = []
    finished, tiles = [], []
    for job in jobs:
        prepared = prepare(config.replace(content=job.content, style=job.style))
        line = [Tile(prepared.content.image), Tile(prepared.styles[0].image)]
        image = prepared.content.image
        judged = panel.measure(job, networks, image, prepared)
        rows.append({"pair": job.name, "variant": PHOTOGRAPH, "model": "", **judged})
        for variant in parsed:
            cell = next(runs)
            image = cell.load_image()
            judged = panel.measure(job, networks, image, prepared)
            model = variant.config.network.model
            finished.append(cell)
            rows.append(
                {
                    "pair": job.name,
                    "variant": variant.name,
                    "model": model,
                    **judged,
                    **cell.figures(),
                }
            )
            line.append(Tile(image, _caption(rows[-1], panel.not_of(model))))
        tiles.append(line)
    rows += [
        average_row(
            [row for row in rows if row["variant"] == name],
            pair="average",
            variant=name,
            model=model,
            status="",
        )
        for name, model in [
            (PHOTOGRAPH, ""),
            *((v.name, v.config.network.model) for v in parsed),
        ]
    ]
    sheet = make_contact_sheet(
        tiles,
        row_labels=[job.name.replace("__", " × ") for job in jobs],
        column_labels=["content", "style", *(variant.name for variant in parsed)],
        title="The same pairs through every variant",
    )
    return write_report(
        folder,
        experiment=NAME,
        config=config,
        rows=rows,
        cells=finished,
        sheet=sheet,
        facts={
            "variants": {v.name: v.config.to_dict() for v in parsed},
            "judges": panel.identities,
        },
        shown_rows=[_star(row, panel) for row in rows],
        notes=(
            "JUDGE_content, JUDGE_style: relative distances under JUDGE's features; smaller is "
            "closer. \\* The variant's own model, which its run optimized: doesn't count. ssim: "
            "similarity to the content's luminance, 1 = equal. color: distance from the style's "
            "colors, in units of color difference (CIE 1976)."
        ),
    )


def _settle(variants: Iterable[Variant]) -> list[Variant]:
    variants = list(variants)
    configs = settle_configs(variant.config for variant in variants)
    return [v._replace(config=config) for v, config in zip(variants, configs, strict=True)]


class _Panel:
    """Networks, each with its default settings, as measuring instruments."""

    def __init__(self, config: Config, judges: Sequence[str]) -> None:
        images, network = config.images, config.network
        # A weights file is for one model only.
        named = network.weights if network.weights in NAMED_WEIGHTS else "auto"
        base = Config().replace(
            weights=named,
            weights_dir=network.weights_dir,
            offline=network.offline,
            size=images.size,
            enlarge=images.enlarge,
            seed=config.run.seed,
        )
        members = _settle(parse_variant(text, base, flag="judge") for text in judges)
        _check_names(members, "judge")
        self._configs = {member.name: member.config for member in members}
        self.identities: dict[str, dict[str, Mapping[str, str]]] = {}

    def of(self, job: Job) -> dict[str, Config]:
        """Return every judge's configuration for a pair, by name."""
        return {
            name: config.replace(content=job.content, style=job.style)
            for name, config in self._configs.items()
        }

    @property
    def names(self) -> list[str]:
        """The judges' names."""
        return list(self._configs)

    def not_of(self, model: str) -> list[str]:
        """Return the names of the judges whose network is another model."""
        return [name for name, config in self._configs.items() if config.network.model != model]

    def measure(
        self, job: Job, networks: NetworkPool, image: Float32, prepared: Prepared
    ) -> dict[str, Any]:
        """Return every measure of an image, by column."""
        content, style = prepared.content.image, prepared.styles[0].image
        columns: dict[str, Any] = {}
        for judge, config in self.of(job).items():
            network = networks.load(config)
            distances = feature_distances(
                resolve_run(config), network, image, content_image=content, style_image=style
            )
            columns |= {f"{judge}_{name}": value for name, value in distances.items()}
            self.identities.setdefault(job.name, {})[judge] = network.identity
        return columns | {
            "ssim": luminance_similarity(image, content),
            "color": color_distance(image, style),
        }


def _check_names(variants: Sequence[Variant], kind: str) -> None:
    names = [variant.name.lower() for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"the {kind} {name} comes {names.count(name)} times",
                expected=f"a unique name for every {kind}",
                remedy="rename one",
            )
    if not names:
        raise InputError(
            f"there is no {kind}", expected="at least one", remedy=f"give one with --{kind}"
        )


def _caption(row: Row, judges: Sequence[str]) -> str:
    judged = [
        f"{judge}: content {row[f'{judge}_content']:.3g}, style {row[f'{judge}_style']:.3g}"
        for judge in judges
    ]
    failed = ["not finite"] if row["status"] == "non_finite" else []
    others = f"ssim {row['ssim']:.2f}, color {row['color']:.1f}, {row['seconds']:.0f} s"
    return "\n".join([*judged, others, *failed])


def _star(row: Row, panel: _Panel) -> Row:
    """Mark the measures of a judge of the row's own model."""
    columns = {f"{judge}_{name}" for judge in panel.names for name in ("content", "style")}
    held_out = {f"{j}_{n}" for j in panel.not_of(row["model"]) for n in ("content", "style")}
    return {
        name: f"{format_value(value)}\\*" if name in columns - held_out else value
        for name, value in row.items()
    }
