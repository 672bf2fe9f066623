"""Which public ImageNet weights there are: facts only, no code that fetches them."""

from typing import NamedTuple

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""(mean, standard deviation), red-green-blue, for sRGB in [0, 1]."""

CAFFE: Normalization = (
    (123.68 / 255, 116.779 / 255, 103.939 / 255),
    (1 / 255, 1 / 255, 1 / 255),
)
"""0 to 255 minus the mean pixel. Keras and Caffe feed blue-green-red; the converters turn the
first kernel around instead, which is the same to rounding."""

FITTED: Normalization = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
"""For filters learned from the pictures: any will do, since they adapt to it."""


class PublishedFile(NamedTuple):
    """One file that somebody publishes.

    Attributes:
      model: row of `models.MODELS`.
      name: file name.
      url: where its owner has it.
      md5: as its owner states it.
      sha256: as several independent projects state it, or empty.
      num_bytes: its size.
      stride_on: for ResNet50, see `models.resnet50.ResNet50`; else empty.
      licence: and to whom attribution is owed.
    """

    model: str
    name: str
    url: str
    md5: str
    sha256: str
    num_bytes: int
    stride_on: str
    licence: str


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"

PUBLISHED = (
    PublishedFile(
        model="vgg19",
        name="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        url=f"{_KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        md5="253f8cb515780f3b799900260a226db6",
        sha256="",
        num_bytes=80_134_624,
        stride_on="",
        licence="CC BY 4.0, Visual Geometry Group, University of Oxford",
    ),
    PublishedFile(
        model="resnet50",
        name="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        url=f"{_KERAS}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        md5="4d473c1dd8becc155b73f8504c6f6626",
        sha256="66c8b43daff3fcc15bc4f30e3d2a167e21a14d9c9598a5394e5516471f4af504",
        num_bytes=94_765_736,
        stride_on="1x1",
        licence="MIT, Kaiming He et al.",
    ),
    PublishedFile(
        model="vgg19",
        name="vgg19_weights_tf_dim_ordering_tf_kernels.h5",
        url=f"{_KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels.h5",
        md5="cbe5617147190e668d6c5d5026f83318",
        sha256="",
        num_bytes=574_710_816,
        stride_on="",
        licence="CC BY 4.0, Visual Geometry Group, University of Oxford",
    ),
    PublishedFile(
        model="resnet50",
        name="resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        url=f"{_KERAS}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        md5="2cb95161c43110f7111970584f804107",
        sha256="",
        num_bytes=102_967_424,
        stride_on="1x1",
        licence="MIT, Kaiming He et al.",
    ),
)
"""In the order in which they are looked for."""
