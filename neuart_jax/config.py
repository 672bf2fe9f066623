"""What a run is: frozen dataclasses, validated, to and from JSON.

Every default of the project lives here, once. The command line's flags are made from these
fields, and the resolved configuration is saved beside every result.
"""

import dataclasses
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, Self

from neuart_jax.errors import InputError
from neuart_jax.settings import LayerWeights, Numbers, Section, Steps, Texts, nearest, option

MODEL_SETTINGS: dict[str, dict[str, Any]] = {
    "vgg19": {
        # Gatys et al. 2016, "Image style transfer using convolutional neural networks", section 4.
        "content_layers": "relu4_2",
        "style_layers": "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1",
        "content_weight": 8.0,
        "smoothing": "none",
        "temperature": 1.0,
    },
    "resnet50": {
        # As fine as VGG19's relu4_2, and finer: deeper ones lost thin parts of the content.
        "content_layers": "conv2_block3_out,conv3_block4_out",
        # Wang, Li & Vasconcelos 2021, arXiv 2104.05623, without the fifth stage, whose positions
        # are 32 pixels apart.
        "style_layers": "conv1_relu,conv2_block3_out,conv3_block4_out,conv4_block6_out",
        "content_weight": 5.0,
        # Their softmax, much softer: at its own temperature of 1 it sees a few peaks only.
        "smoothing": "centered_softmax",
        "temperature": 16.0,
    },
}
"""What settings mean that are empty, by model."""

LEARNING_RATES = {"adam": 0.03, "lbfgs_fixed": 1.0, "lbfgs": 1.0}
"""What a learning rate of 0 means, by optimizer; lbfgs doesn't use it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig(Section):
    """The pictures that go in."""

    content: str = option("", "file with the picture that gives the content")
    style: Texts = option(
        (), "file with the picture that gives the style; repeat the flag for several styles"
    )
    size: int = option(
        512, "longest side of both pictures, in pixels; 0 keeps each file's own size", at_least=0
    )
    enlarge: bool = option(False, "let --size make a smaller picture larger")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig(Section):
    """The network whose features are compared, and where its weights come from."""

    model: str = option("vgg19", "feature network: vgg19 or resnet50")
    weights: str = option(
        "auto",
        "auto (imagenet if it is there or can be downloaded, else fitted); imagenet (Keras' files, "
        "the originals), imagenet-torchvision, imagenet-torchvision-v2, imagenet-timm, "
        "imagenet-matconvnet; fitted (learned from the pictures, no download); random (orthogonal, "
        "calibrated on the pictures: a baseline); or a weights file",
    )
    weights_dir: str = option("weights", "folder in which ImageNet weights are looked for first")
    offline: bool = option(False, "never use the network; HF_HUB_OFFLINE=1 says the same")
    preprocessing: str = option(
        "",
        "what ImageNet weights or a weights file get to see: caffe (0 to 255 less the mean pixel), "
        "torch (0 to 1, standardized), torch255 (0 to 255 less torch's mean); empty means what "
        "they were trained on",
        choices=("caffe", "torch", "torch255"),
    )
    normalize_weights: str = option(
        "",
        "rescale VGG19's filters to a mean activation of 1 over photographs: bundled (those of "
        "scikit-image), or a folder; empty leaves them",
    )
    pooling: str = option(
        "average",
        "average or max: how the resolution is halved (max: ResNet50's own strides)",
        choices=("average", "max"),
    )
    padding: str = option(
        "reflect",
        "reflect or zero: what convolutions see beyond the border",
        choices=("reflect", "zero"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The objective: which layers, which formulas, which coefficients."""

    content_layers: LayerWeights = option(
        (),
        "content layers with a weight each, relu4_2:1,relu5_2:0.5; bare names share 1 equally; "
        "empty means the model's own: relu4_2, or the last outputs of ResNet50's first two stages. "
        "relu4_2 is after the ReLU (the papers' conv4_2, Keras' block4_conv2), conv4_2 before it",
    )
    style_layers: LayerWeights = option(
        (),
        "style layers with a weight each, written like --content_layers; empty means the model's "
        "own: relu1_1 ... relu5_1, or ResNet50's stem and the last outputs of its first three "
        "stages",
    )
    content_loss: str = option(
        "relative",
        "content formula for features F and P, M positions and N channels: gatys = 1/2 sum "
        "(F-P)^2; sum = sum (F-P)^2; mean = mean (F-P)^2; quarter_mean = a quarter of that; "
        "relative = sum (F-P)^2 / sum P^2",
        choices=("relative", "mean", "sum", "gatys", "quarter_mean"),
    )
    style_loss: str = option(
        "relative",
        "style formula for Gram matrices G and A over M positions and N channels: "
        "gatys = sum (G-A)^2 / (4 N^2 M^2); mean = mean (G/M-A/M)^2; sum = sum (G/M-A/M)^2; "
        "half_sum = 1/2 sum (G-A)^2; mean_elements = mean (G/NM-A/NM)^2; "
        "relative = sum (G/M-A/M)^2 / sum (A/M)^2; wasserstein = squared Wasserstein-2 distance of "
        "normal distributions over N, relative_wasserstein = over the style's energy; for the "
        "means m, m' and standard deviations s, s' of channels: mean_std = mean (m-m')^2 + "
        "(s-s')^2; for features F and P: sliced_wasserstein = mean over directions v of "
        "(sort(Fv)-sort(Pv))^2, histogram = mean over channels of (sort(F)-sort(P))^2; "
        "relative_mean_std, relative_sliced_wasserstein, relative_histogram = over mean P^2",
        choices=(
            "relative",
            "mean",
            "sum",
            "half_sum",
            "gatys",
            "mean_elements",
            "wasserstein",
            "relative_wasserstein",
            "mean_std",
            "relative_mean_std",
            "sliced_wasserstein",
            "relative_sliced_wasserstein",
            "histogram",
            "relative_histogram",
        ),
    )
    smoothing: str = option(
        "",
        "what becomes of features before both formulas: none; softmax = softmax(F/T) over all "
        "channels and positions, times their number (SWAG), with T = --temperature; "
        "centered_softmax = the same less its mean 1, with T = --temperature times the target's "
        "standard deviation; empty means the model's own: none, or ResNet50's centered_softmax",
        choices=("none", "softmax", "centered_softmax"),
    )
    temperature: float | None = option(
        None,
        "temperature of --smoothing; empty means the model's own: 1, or ResNet50's 16",
        at_least=1e-6,
    )
    style_mix: str = option(
        "separate",
        "several styles: separate = a loss for each; blended = one loss, whose target is the "
        "weighted mean of the styles' statistics",
        choices=("separate", "blended"),
    )
    style_blend: Numbers = option(
        (), "several styles: their shares, such as 3,1; empty means equal shares"
    )
    content_weight: float | None = option(
        None,
        "coefficient of the content loss; empty means the model's own: 8, or ResNet50's 5",
        at_least=0,
    )
    style_weight: float = option(30.0, "coefficient of the style loss", at_least=0)
    tv_weight: float = option(100.0, "coefficient of total variation", at_least=0)
    tv_loss: str = option(
        "mean_squares",
        "total variation's formula over steps between neighboring pixels: mean_squares, "
        "half_sum_squares or sum_absolute",
        choices=("mean_squares", "half_sum_squares", "sum_absolute"),
    )
    pixel_scale: float = option(
        1.0, "what white is where pixels enter total variation: 1, 255 or 256", at_least=1e-6
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """How the pixels are moved."""

    optimizer: str = option(
        "lbfgs",
        "lbfgs (zoom line search); lbfgs_fixed (L-BFGS with a fixed step, no line search); adam",
        choices=("lbfgs", "lbfgs_fixed", "adam"),
    )
    learning_rate: float = option(
        0.0,
        "Adam's step in pixel units, where white is 1, or the factor of lbfgs_fixed's step; "
        "0 takes the optimizer's own, 0.03 or 1; lbfgs finds its own",
        at_least=0,
    )
    schedule: str = option(
        "cosine",
        "cosine or constant: learning rate over the run, for Adam",
        choices=("cosine", "constant"),
    )
    beta1: float = option(0.9, "Adam's decay of the mean gradient", at_least=0, at_most=0.9999)
    beta2: float = option(
        0.999, "Adam's decay of the mean squared gradient", at_least=0, at_most=0.99999
    )
    epsilon: float = option(
        1e-8, "Adam's epsilon; larger keeps pixels with small gradients still", at_least=0
    )
    history: int = option(10, "pairs of steps and gradients that L-BFGS keeps", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """Where the run starts and when it ends."""

    steps: int = option(40, "updates of the picture at full size, at the most", at_least=1)
    scales: int = option(
        2,
        "coarse to fine: number of sizes, each half of the next; 1 works at full size only",
        at_least=1,
        at_most=8,
    )
    coarse_steps: int = option(
        15,
        "updates at every size below the full one, at the most; more gives larger strokes and "
        "less of the content",
        at_least=1,
    )
    init: str = option(
        "content",
        "start: content, style, noise, blend (noise over content), gray, or an image file",
    )
    noise_ratio: float = option(
        0.6, "share of noise in --init=blend, the rest is content", at_least=0, at_most=1
    )
    noise: str = option(
        "gaussian",
        "distribution of the start's noise: gaussian, with the standard deviation --noise_scale, "
        "or uniform, between plus and minus --noise_scale",
        choices=("gaussian", "uniform"),
    )
    noise_scale: float = option(0.25, "size of the noise, where white is 1", at_least=0)
    noise_center: str = option(
        "gray",
        "what the noise lies around: gray (0.5) or imagenet (the mean pixel of ImageNet)",
        choices=("gray", "imagenet"),
    )
    seed: int = option(0, "seed of all randomness", at_least=0, at_most=2**31 - 1)
    stop_patience: int = option(
        0, "end after this many steps without a gain of --stop_tolerance; 0 never does", at_least=0
    )
    stop_tolerance: float = option(
        1e-3, "relative gain in the loss that counts as progress", at_least=0, at_most=1
    )
    report_every: int = option(
        5, "steps compiled into one call; losses are reported after each", at_least=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig(Section):
    """How it is computed. What is computed stays the same, up to rounding."""

    convolution: str = option(
        "auto",
        "3x3 convolutions: direct, or winograd (a quarter of the products; made for CPUs; float32 "
        "gradients differ by about 1e-5); auto is winograd on CPUs, direct elsewhere",
        choices=("auto", "direct", "winograd"),
    )
    precision: str = option(
        "auto",
        "what features are computed in: float32; tensorfloat32 (products as fast as the device "
        "makes them by default); bfloat16 (half the memory; Gram matrices and losses stay in "
        "float32); auto means float32 on CPUs, tensorfloat32 elsewhere",
        choices=("auto", "float32", "tensorfloat32", "bfloat16"),
    )
    memory_check: bool = option(
        True, "refuse a run that needs more memory than there is, before anything is computed"
    )
    compilation_cache: bool = option(
        True, "keep compiled programs for the next run, in the user's cache folder"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputConfig(Section):
    """What is written, and where."""

    output: str = option(
        "", "folder for the result; empty makes output/CONTENT_STYLE, numbered if it is there"
    )
    image_name: str = option(
        "result.png", "the picture's file name; the extension picks PNG, JPEG, WebP or 16-bit TIFF"
    )
    save_every: int = option(0, "write a frame every so many steps; 0 writes none", at_least=0)
    save_at: Steps = option((), "write a frame after these steps as well, such as 200,400,800")
    print_losses: bool = option(False, "print a line with the losses at every report")
    overwrite: bool = option(False, "replace an earlier result in --output")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. Field names are unique over all sections: they are the flags' names."""

    images: ImagesConfig = ImagesConfig()
    network: NetworkConfig = NetworkConfig()
    losses: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    run: RunConfig = RunConfig()
    compute: ComputeConfig = ComputeConfig()
    output: OutputConfig = OutputConfig()

    def replace(self, **values: Any) -> Self:
        """Return a copy with fields of any section changed: ``config.replace(steps=50)``.

        Raises:
          InputError: no section has such a field, or a value is not valid.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in FIELDS:
                raise InputError(
                    f"{name!r} is not a setting",
                    expected="the name of a flag",
                    remedy=f"did you mean {nearest(name, FIELDS)}",
                )
            changes.setdefault(FIELDS[name].section, {})[name] = value
        sections = {
            section: dataclasses.replace(getattr(self, section), **fields)
            for section, fields in changes.items()
        }
        return dataclasses.replace(self, **sections)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain JSON types, section by section; layers become {name: weight}."""
        sections = dataclasses.asdict(self)
        for fields in sections.values():
            for name in fields:
                if FIELDS[name].hint == LayerWeights:
                    fields[name] = dict(fields[name])
                elif isinstance(fields[name], tuple):
                    fields[name] = list(fields[name])
        return sections

    @classmethod
    def from_dict(cls, sections: Mapping[str, Any], *, source: str = "the configuration") -> Self:
        """Read what `to_dict` wrote. Missing fields get their defaults.

        Args:
          sections: section name to field name to value.
          source: where it came from, for messages.

        Raises:
          InputError: an unknown section or field, or a value that is not valid.
        """
        if not isinstance(sections, Mapping):
            raise InputError(
                f"{source} holds {type(sections).__name__} where settings should be",
                expected="sections of settings such as a run's config.json has",
                remedy="give the config.json of an earlier run",
            )
        values: dict[str, Any] = {}
        for section, fields in sections.items():
            if section not in SECTIONS or not isinstance(fields, Mapping):
                raise InputError(
                    f"{source} has {section!r} where a section should be",
                    expected="the sections " + ", ".join(SECTIONS),
                    remedy=f"did you mean {nearest(section, SECTIONS)}",
                )
            values.update(fields)
        return cls().replace(**values)


class Field(typing.NamedTuple):
    """One setting: where it lives and how it is declared."""

    section: str
    hint: Any
    default: Any
    metadata: types.MappingProxyType[Any, Any]


SECTIONS: dict[str, type[Section]] = {
    field.name: typing.cast(type[Section], field.type) for field in dataclasses.fields(Config)
}
FIELDS: dict[str, Field] = {
    field.name: Field(
        section, typing.get_type_hints(cls)[field.name], field.default, field.metadata
    )
    for section, cls in SECTIONS.items()
    for field in dataclasses.fields(cls)  # type: ignore[arg-type]
}


def parse_setting(name: str, text: Any) -> Any:
    """Read a setting as it is written on a command line; what isn't text is returned as it is.

    Numbers that can't be read are handed on as text, so that `Config.replace` reports them.
    """
    hint = FIELDS[name].hint
    if not isinstance(text, str) or hint not in (int, float, float | None):
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if hint is int and number.is_integer() else number


def describe_settings() -> str:
    """Lay out every setting by section, as help for the command line."""
    lines = []
    for section, cls in SECTIONS.items():
        lines += ["", f"{section}: {(cls.__doc__ or '').splitlines()[0]}"]
        for name, field in FIELDS.items():
            if field.section == section:
                default = "" if field.default in ("", (), None) else f" [{field.default}]"
                flag = f"--[no]{name}" if field.hint is bool else f"--{name}"
                text = field.metadata["help"] + default
                lines.append(f"  {flag}")
                lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
