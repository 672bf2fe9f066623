"""The values of empty settings, which depend on the model and the kind of its weights."""

from typing import Any

_GATYS: dict[str, Any] = {
    # Gatys et al. 2016, "Image style transfer using convolutional neural networks", section 4.
    "content_layers": "relu4_2",
    "style_layers": "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1",
    "style_loss": "relative",
    "content_weight": 8.0,
}
_STAGES: dict[str, Any] = {
    # As fine as VGG19's relu4_2, and finer: deeper layers lost thin parts of the content.
    "content_layers": "conv2_block3_out,conv3_block4_out",
    # Wang, Li & Vasconcelos 2021, arXiv 2104.05623, without the fifth stage, whose positions are
    # 32 pixels apart.
    "style_layers": "conv1_relu,conv2_block3_out,conv3_block4_out,conv4_block6_out",
}
_UNSMOOTHED = {"smoothing": "none", "temperature": 1.0}
# Wang et al.'s softmax, much softer: at their temperature of 1 only a few peaks count.
_SOFT = {"smoothing": "centered_softmax", "temperature": 16.0}
_UNTRAINED: dict[str, Any] = {
    "pooling": "average",
    "tv_weight": 100.0,
    "range_weight": 0.0,
    "coarse_steps": 15,
    "steps": 40,
    "carry_state": False,
}
_TRAINED: dict[str, Any] = {
    "range_weight": 300.0,
    "coarse_steps": 40,
    # Within 3 % of the style distance, under the other network, of the 30 steps that VGGs with
    # relu5_1 and exact roots needed; see docs/defaults.md.
    "steps": 25,
}
_VGG_BY_KIND: dict[str, dict[str, Any]] = {
    "trained": {
        # Crowson, style-transfer-pytorch: the loss, and nearly its layers' shares when each is
        # measured by the style's energy. With equal shares, skin and skies fill with dots; more of
        # relu1_1 makes colors richer and skies rougher, more of relu4_1 and relu5_1 makes larger
        # whorls and poorer faces. Without relu5_1 pictures are nearer to the style, and sooner.
        "content_layers": "relu4_2",
        "style_layers": "relu1_1:0.12,relu2_1:0.4,relu3_1:0.36,relu4_1:0.12",
        "style_loss": "principal_wasserstein",
        "content_weight": 1.3,
        "tv_weight": 20.0,
        # What was learned of the curvature at half the size saves a third of the steps; a ResNet50
        # gains nothing by it.
        "carry_state": True,
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
            # Without the third stage, whose 1024 channels double the time and which distorted
            # faces.
            "style_layers": "conv1_relu:0.3,conv2_block3_out:0.4,conv3_block4_out:0.3",
            "style_loss": "principal_wasserstein",
            # Max pooling as trained: average pooling left a faint weave in flat parts, and twice
            # the distance from the style under VGG16, at a larger distance from the content.
            "content_weight": 3.5,
            "tv_weight": 15.0,
            "carry_state": False,
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
"""Values of settings left empty, by model, kind of weights and setting.

The kinds are "trained", "fitted" (to the images) and "random"; see `load.kind_of_weights`.
"""
