"""Published recipes as data, each with its source and how its text was interpreted.

The loss weights are meant for ImageNet networks, whose features are hundreds of times as large as
those of fitted networks.
"""

import textwrap
from typing import Any, NamedTuple

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest


class Preset(NamedTuple):
    """A published recipe.

    Attributes:
      source: the authors and the publication or repository.
      settings: name of a setting to its value; all other settings keep their defaults.
      reading: what the source leaves open, and what was assumed instead.
      num_styles: how many style images the recipe needs.
    """

    source: str
    settings: dict[str, Any]
    reading: str
    num_styles: int = 1


_ONE_SIZE = {
    "scales": 1,
    "padding": "zero",
    "tv_weight": 0.0,
    "range_weight": 0.0,
    "precondition": False,
    "carry_state": False,
    "smoothing": "none",
}
"""Common to all but the newest recipes: a single scale, zero padding, no total variation, no bounds
on pixels, and an L-BFGS without a preconditioner."""

_CAFFE = {"feature_units": "caffe"}
"""For coefficients that assume features as large as those of Oxford's VGG."""

_FIVE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def _each(weight: float) -> dict[str, float]:
    return dict.fromkeys(_FIVE, weight)


_TUTORIAL_ADAM = {
    "optimizer": "adam",
    "learning_rate": 0.02,
    "beta1": 0.99,
    "epsilon": 0.1,
    "schedule": "constant",
}
"""Adam as in TensorFlow's style transfer tutorial, whose layers, sizes and step counts the report
shares."""

_CAPSTONE = {
    **_ONE_SIZE,
    **_CAFFE,
    **_TUTORIAL_ADAM,
    "pooling": "max",
    "content_layers": {"relu5_2": 1.0},
    "style_layers": {"relu1_1": 1.0, "relu3_1": 1.0, "relu5_1": 1.0},
    "content_loss": "gatys",
    "style_loss": "sum",
    "content_weight": 1e4,
    "style_weight": 0.1,
    "steps": 1000,
    "report_every": 100,
    "print_losses": True,
}

_GATYS_2015 = {
    **_ONE_SIZE,
    **_CAFFE,
    "pooling": "average",
    "content_layers": {"relu4_2": 1.0},
    "style_layers": _each(0.2),
    "content_loss": "gatys",
    "style_loss": "gatys",
    "content_weight": 1.0,
    "style_weight": 1e3,
    "init": "noise",
    "optimizer": "lbfgs",
    "steps": 500,
}

_NEURAL_STYLE = {
    **_ONE_SIZE,
    **_CAFFE,
    "pooling": "max",
    "content_layers": {"relu4_2": 1.0},
    "style_layers": _each(1.0),
    "content_loss": "mean",
    "style_loss": "mean_elements",
    "style_mix": "blended",
    "content_weight": 5.0,
    "style_weight": 100.0,
    "tv_weight": 1e-3,
    "tv_loss": "half_sum_squares",
    "pixel_scale": 256.0,
    "init": "noise",
    "noise_scale": 0.001 / 256,
    "noise_center": "imagenet",
    "optimizer": "lbfgs_fixed",
    "learning_rate": 1.0,
    "history": 100,
    "steps": 1000,
    "report_every": 50,
    "save_every": 100,
}

PRESETS = {
    "neuart-vgg19": Preset(
        source="Gahlan & Sharma, NeuArt, VGG19",
        settings={
            **_ONE_SIZE,
            **_CAFFE,
            "pooling": "max",
            "content_layers": {"relu5_2": 1.0},
            "style_layers": _each(0.2),
            "content_loss": "sum",
            "style_loss": "gatys",
            "content_weight": 1.0,
            "style_weight": 1e3,
            "init": "noise",
            "optimizer": "adam",
            "learning_rate": 10 / 255,
            "schedule": "constant",
            "steps": 1000,
        },
        reading=(
            "For VGG19 the source gives no alpha and beta, learning rate or number of steps; "
            "taken: Gatys' ratio of 1e-3, a learning rate of 10 of 255 as in neural-style's Adam, "
            "and 1000 steps."
        ),
    ),
    "neuart-resnet50": Preset(
        source="Gahlan & Sharma, NeuArt, ResNet50",
        settings={
            **_ONE_SIZE,
            "model": "resnet50",
            "pooling": "max",
            "content_layers": {"conv4_block6_out": 1.0},
            "style_layers": {
                "conv2_block3_out": 0.25,
                "conv3_block4_out": 0.25,
                "conv4_block6_out": 0.25,
                "conv5_block3_out": 0.25,
            },
            "content_loss": "sum",
            "style_loss": "gatys",
            "content_weight": 1.0,
            "style_weight": 1e6,
            "init": "noise",
            "optimizer": "adam",
            "learning_rate": 20 / 255,
            "schedule": "constant",
            "steps": 1000,
        },
        reading=(
            "The source doesn't name its layers; taken: the last outputs of the four stages for "
            "style, the third of them for content. The learning rate of 20 is in units of 0 to "
            "255. The number of steps isn't given; taken: 1000."
        ),
    ),
    "capstone": Preset(
        source="Capstone report, Neural Style Transfer",
        settings=_CAPSTONE,
        reading=(
            "The report's text sums over undivided Gram matrices, its code divides them by the "
            "number of positions; taken: the code. Adam's constants and the content as initial "
            "image are those of TensorFlow's tutorial, from which the report's layers, sizes and "
            "counts come."
        ),
    ),
    "capstone-two-styles": Preset(
        source="Capstone report, with two styles",
        settings={**_CAPSTONE, "style_weight": 0.2, "style_mix": "separate"},
        reading="beta = gamma = 0.1 are written as a style weight of 0.2, shared equally.",
        num_styles=2,
    ),
    "transfer-learning": Preset(
        source="Premamayudu, Subbarao & Venkata Rao, improved artistic images by transfer learning",
        settings={
            **_ONE_SIZE,
            **_CAFFE,
            "weights": "imagenet-matconvnet",
            "pooling": "average",
            "content_layers": {"relu4_2": 1.0},
            "style_layers": _each(0.2),
            "content_loss": "quarter_mean",
            "style_loss": "gatys",
            "content_weight": 10.0,
            "style_weight": 40.0,
            "init": "blend",
            "noise_ratio": 0.6,
            "noise": "uniform",
            "noise_scale": 20 / 255,
            "noise_center": "imagenet",
            "optimizer": "adam",
            "learning_rate": 2 / 255,
            "schedule": "constant",
            "steps": 200,
            "report_every": 20,
            "save_every": 20,
            "print_losses": True,
        },
        reading=(
            "alpha and beta come from the paper's log (10 x 7865.72 + 40 x 1.26186e8 = 5.04752e9). "
            "The paper says that the network is rescaled to mean activations of 1, but the style "
            "loss in its log, 1.26e8, is that of the published network; the rescaled one gives "
            "95. Taken: the published network; --normalize_weights=bundled rescales it. The "
            "layers and their weights lambda are not given; taken: five times 0.2. Nor is the "
            "pooling; taken: average."
        ),
    ),
    "slides": Preset(
        source="Group 16, style transfer using VGG, slides",
        settings={
            **_ONE_SIZE,
            **_CAFFE,
            "pooling": "max",
            "content_layers": {"relu5_2": 1.0},
            "style_layers": _each(1.0),
            "content_loss": "gatys",
            "style_loss": "half_sum",
            "content_weight": 1.0,
            "style_weight": 1e-9,
            "init": "blend",
            "noise_ratio": 0.5,
            "optimizer": "adam",
            "learning_rate": 10 / 255,
            "schedule": "constant",
            "steps": 3200,
            "save_at": (200, 400, 600, 800, 1400, 3200),
        },
        reading=(
            "No loss weights, learning rate or share of noise are given. Taken: half noise; a "
            "learning rate of 10 of 255; and a style weight of 1e-9, which for undivided Gram "
            "matrices at 512 pixels lies between the Gatys factors 1/(2 N^2 M^2) of the shallowest "
            "and of the deepest layer times 1e3."
        ),
    ),
    "gatys2015": Preset(
        source="Gatys et al. 2015, arXiv 1508.06576; Mann & Bhatnagar, alpha / beta = 1e-3",
        settings=_GATYS_2015,
        reading=(
            "The paper doesn't say which kind of gradient descent it uses; taken: 500 steps of "
            "L-BFGS, Gatys' own later choice."
        ),
    ),
    "gatys2015-strong": Preset(
        source="Gatys et al. 2015, arXiv 1508.06576; Mann & Bhatnagar, alpha / beta = 1e-4",
        settings={**_GATYS_2015, "style_weight": 1e4},
        reading="As gatys2015.",
    ),
    "gatys2017": Preset(
        source="Gatys et al. 2017, arXiv 1611.07865; leongatys/PytorchNeuralStyleTransfer",
        settings={
            **_ONE_SIZE,
            **_CAFFE,
            "size": 1024,
            "scales": 2,
            "coarse_steps": 500,
            "steps": 200,
            "pooling": "max",
            "content_layers": {"relu4_2": 1.0},
            "style_layers": {
                name: 1 / channels**2
                for name, channels in zip(_FIVE, (64, 128, 256, 512, 512), strict=True)
            },
            "content_loss": "mean",
            "style_loss": "mean",
            "content_weight": 1.0,
            "style_weight": 1e3,
            "optimizer": "lbfgs_fixed",
            "learning_rate": 1.0,
            "history": 100,
        },
        reading=(
            "Sizes are longest sides here, 512 and then 1024; the notebook uses the shorter side, "
            "the paper the area. Color and spatial control are not part of this recipe."
        ),
    ),
    "neural-style": Preset(
        source="jcjohnson/neural-style, its defaults",
        settings=_NEURAL_STYLE,
        reading=(
            "The original adds only the gradient of total variation, not the loss; here both. It "
            "multiplies pixels by 256 before it subtracts the mean, so features are 0.4 % larger "
            "than with the 255 used here."
        ),
    ),
    "photoreal": Preset(
        source="Luan et al. 2017, arXiv 1703.07511; Mann & Bhatnagar",
        settings={
            **_NEURAL_STYLE,
            "noise_scale": 1e-4 / 256,
            "size": 700,
            # Its 1e4 is of the sum over channels; this, of the mean over 698x523 windows.
            "realism_weight": 1.1e10,
            "realism_steps": 1000,
            "affine_radius": 3,
        },
        reading=(
            "Masks are given with --content_mask and --style_mask. The paper's lambda of 1e4 "
            "multiplies the sum over windows, which at 700x525 pixels corresponds to 1.1e10 times "
            "their mean. Its final smoothing fits windows of 3x3 pixels and averages the fits "
            "bilaterally; here the fits are averaged over windows of radius 3, the closest match. "
            "A region counts in proportion to its area; the paper's code also divides each Gram "
            "matrix by its region's share."
        ),
    ),
    "crowsonkb": Preset(
        source="crowsonkb/style-transfer-pytorch, its defaults",
        settings={
            "weights": "imagenet-timm",
            "padding": "reflect",
            "range_weight": 0.0,
            "smoothing": "none",
            "pooling": "max",
            "content_layers": {"relu4_2": 1.0},
            "style_layers": {
                name: weight / 341 for name, weight in zip(_FIVE, (256, 64, 16, 4, 1), strict=True)
            },
            "content_loss": "mean",
            "style_loss": "wasserstein",
            "style_mix": "blended",
            "content_weight": 0.015,
            "style_weight": 1.0,
            "tv_weight": 2.0,
            "optimizer": "adam",
            "learning_rate": 0.02,
            "beta2": 0.99,
            "schedule": "constant",
            "size": 512,
            "scales": 3,
            "carry_state": False,
            "coarse_steps": 500,
            "steps": 500,
        },
        reading=(
            "Three sizes a factor of two apart instead of five a factor of sqrt(2) apart; 500 "
            "steps at each, where the original makes 1000 at the first; Adam restarts at each "
            "size; no moving average of iterates; the ridge of 1e-4 is in units of the variance; "
            "total variation over five points, not nine; reflection padding at every layer, where "
            "the original replicates the border at the first. The weights are torchvision's, in "
            "timm's file."
        ),
    ),
    "gordicaleksa": Preset(
        source="gordicaleksa/pytorch-neural-style-transfer, its defaults",
        settings={
            **_ONE_SIZE,
            "weights": "imagenet-timm",
            "preprocessing": "torch255",
            "size": 533,
            "pooling": "max",
            "content_layers": {"conv4_2": 1.0},
            "style_layers": _each(0.2),
            "content_loss": "mean",
            "style_loss": "mean",
            "content_weight": 1e5,
            "style_weight": 3e4,
            "tv_weight": 1.0,
            "tv_loss": "sum_absolute",
            "pixel_scale": 255.0,
            "optimizer": "lbfgs",
            "history": 100,
            "steps": 1000,
        },
        reading=(
            "The original sets a height of 400 pixels; 533 is the longest side of a 4:3 image of "
            "that height. The weights are torchvision's, in timm's file; the original feeds them "
            "pixels from 0 to 255."
        ),
    ),
}


def find_preset(name: str) -> Preset:
    """Return the recipe of a name.

    Raises:
      InputError: there is no recipe of that name.
    """
    if name not in PRESETS:
        raise InputError(
            f"--preset={name} is not known",
            expected="one of " + ", ".join(PRESETS),
            remedy=f"did you mean {nearest(name, PRESETS)}",
        )
    return PRESETS[name]


def apply_preset(name: str, config: Config = Config(), **settings: Any) -> Config:
    """Return a configuration with a recipe's settings applied.

    Args:
      name: name of the recipe.
      config: configuration that the recipe's settings override.
      **settings: settings that override the recipe's.

    Raises:
      InputError: there is no recipe of that name, a setting is not valid, or there are fewer style
        images than the recipe needs.
    """
    preset = find_preset(name)
    config = config.replace(**{**preset.settings, **settings})
    if 0 < len(config.images.style) < preset.num_styles:
        raise InputError(
            f"--preset={name} got {len(config.images.style)} style image",
            expected=f"{preset.num_styles} of them",
            remedy="repeat the flag, --style=FILE --style=FILE, or choose another preset",
        )
    return config


def describe_presets() -> str:
    """Format the names and sources of all recipes, for the command line's help."""
    lines = ["", "presets, for --preset=NAME: Published recipes."]
    for name, preset in PRESETS.items():
        lines.append(f"  {name}")
        lines += textwrap.wrap(preset.source, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
