"""Paint the same pairs with several networks and settings, and judge them by held-out measures.

  python scripts/compare_models.py --content=PATH --style=PATH [--pair=cross] [--flags]
  python scripts/compare_models.py --manifest=FILE --variant=vgg19:model=vgg19
      --variant=plain:model=resnet50,smoothing=none [--flags]

Flags are for all variants, a variant's own settings come over them. Finished cells below --output
are not made again.
"""

from absl import flags

from neuart_jax.command_line import define_pair_flags, run_command
from neuart_jax.config import Config
from neuart_jax.experiments import compare_models
from neuart_jax.experiments.compare_models import DEFAULT_VARIANTS
from neuart_jax.manifest import find_jobs
from neuart_jax.record import Record

_PAIR_FLAGS = define_pair_flags()
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
    jobs = find_jobs(config, **_PAIR_FLAGS()._asdict()).all_jobs()
    report = compare_models(config, jobs, _VARIANT.value, judge_weights=_JUDGE_WEIGHTS.value)
    print(report.sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
