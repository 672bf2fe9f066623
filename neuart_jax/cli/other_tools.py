"""Flags of other style transfer programs, and their equivalents here."""

from collections.abc import Mapping

_CARD = "CUDA_VISIBLE_DEVICES=0 before the command, which chooses a card"
_NOTHING = ""

# {} stands for the flag's value. From the programs of Johnson (neural-style), Smith
# (neural-style-tf), Athalye, Somshubra Majumdar, Crowson (style-transfer-pytorch), ProGamerGov
# (neural-style-pt), Gordić and Keras' example.
_FLAGS: Mapping[str, str] = {
    **dict.fromkeys(
        ("content_image", "content_img", "content_img_name", "base_image_path", "input")
        + ("input_image", "image", "i", "c"),
        "--content={}",
    ),
    **dict.fromkeys(
        ("style_image", "style_images", "style_img", "style_imgs", "style_img_name", "styles")
        + ("style_reference_image_path", "s"),
        "--style={}",
    ),
    **dict.fromkeys(
        ("image_size", "img_size", "max_size", "max_dim", "end_scale", "es", "imsize", "width")
        + ("height", "resolution"),
        "--size={}",
    ),
    **dict.fromkeys(
        ("num_iterations", "num_iteration", "iterations", "max_iterations", "iters", "num_iter")
        + ("iter", "num_steps", "epochs", "n"),
        "--steps={}",
    ),
    **dict.fromkeys(("initial_iterations", "ii"), "--coarse_steps={}"),
    **dict.fromkeys(("min_scale", "ms"), "--scales=2"),
    **dict.fromkeys(("gpu", "device", "cuda", "gpu_id", "multigpu_strategy"), _CARD),
    **dict.fromkeys(
        ("output_image", "o", "out", "out_dir", "output_dir", "output_folder", "img_output_dir")
        + ("img_name", "result_prefix"),
        "--output={}",
    ),
    **dict.fromkeys(("original_colors", "preserve_colors", "preserve_color"), "--color=keep"),
    "color_convert_type": "--color=luminance",
    **dict.fromkeys(("init_image", "initial", "init_img_type", "init_method"), "--init={}"),
    **dict.fromkeys(("cw", "alpha"), "--content_weight={}"),
    **dict.fromkeys(("sw", "style_weights", "beta"), "--style_weight={}"),
    **dict.fromkeys(("tw", "total_variation_weight", "tv"), "--tv_weight={}"),
    **dict.fromkeys(("style_blend_weights", "style_imgs_weights"), "--style_blend={}"),
    **dict.fromkeys(("lr", "step_size", "ss"), "--learning_rate={}"),
    **dict.fromkeys(("print_iter", "print_iterations"), "--report_every={} --print_losses"),
    **dict.fromkeys(
        ("save_iter", "checkpoint_iterations", "saving_freq", "image_interval"), "--save_every={}"
    ),
    **dict.fromkeys(("random_seed", "r"), "--seed={}"),
    **dict.fromkeys(("style_scale_fac",), "--style_scale={}"),
    **dict.fromkeys(("avg_decay", "ad"), "--average={}"),
    **dict.fromkeys(("model_file", "model_weights", "vgg_path", "model_path"), "--weights={}"),
    **dict.fromkeys(("network", "net", "arch"), "--model=vgg19"),
    **dict.fromkeys(("pooling_type", "pool_type"), "--pooling={}"),
    **dict.fromkeys(("mask", "style_mask_imgs"), "--content_mask={}"),
    "verbose": "--print_losses",
    **dict.fromkeys(
        ("backend", "cudnn_autotune", "normalize_gradients", "proto_file", "disable_check")
        + ("lbfgs_num_correction", "web", "browser"),
        _NOTHING,
    ),
}


def translate_flag(name: str, value: str | None) -> str | None:
    """Translate a flag of another program.

    Args:
      name: the flag's name, without leading dashes and with underscores inside.
      value: the flag's value, if it has one.

    Returns:
      The equivalent here, empty if there is none; None for an unknown flag.
    """
    wording = _FLAGS.get(name)
    return None if wording is None else wording.format("..." if value is None else value)
