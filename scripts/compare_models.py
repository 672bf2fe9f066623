"""Paint the same pairs with several networks and settings, and judge them by held-out measures.

  python scripts/compare_models.py --content=PATH --style=PATH [--pairing=cross] [--flags]
  python scripts/compare_models.py --pairs=FILE.csv --variant=vgg19:model=vgg19
      --variant=plain:model=resnet50,smoothing=none [--flags]

Flags are for all variants, a variant's own settings come over them. Finished cells below --output
are not made again.
"""

from absl import flags

from neuart_jax.command_line import run_command
from neuart_jax.config import Config
from neuart_jax.experiments import compare_models, find_pairs
from neuart_jax.experiments.compare_models import DEFAULT_VARIANTS
from neuart_jax.record import Record

_PAIRS = flags.DEFINE_string("pairs", "", "CSV file with the columns content and style")
_PAIRING = flags.DEFINE_string(
    "pairing",
    "zip",
    "zip or cross: the first content with the first style and so on, or each with each",
)
_VARIANT = flags.DEFINE_multi_string(
    "variant",
    list(DEFAULT_VARIANTS),
    "NAME:SETTING=VALUE,SETTING=VALUE, repeated; preset=NAME is a setting here; without any: "
    "VGG19, and ResNet50 as it is by default, without smoothing, plain, and with SWAG's softmax",
)
_JUDGE_WEIGHTS = flags.DEFINE_string(
    "judge_weights", "", "weights of the networks that judge; empty means --weights"
)


def run(config: Config, record: Record | None) -> int:
    """Run the experiment and say where its contact sheet is."""
    pairs = find_pairs(config.images, table=_PAIRS.value, pairing=_PAIRING.value)
    report = compare_models(config, pairs, _VARIANT.value, judge_weights=_JUDGE_WEIGHTS.value)
    print(report.sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
