"""Paint the same pairs with several networks and settings, and judge them by held-out measures.

  python scripts/compare_models.py --content=PATH --style=PATH [--pair=cross] [--flags]
  python scripts/compare_models.py --manifest=FILE --variant=vgg16:model=vgg16
      --variant=plain:model=resnet50,smoothing=none [--flags]

Flags apply to all variants; a variant's own settings override them. Finished cells in --output are
reused.
"""

from absl import flags

from neuart_jax.cli.flags import define_pair_flags, run_command
from neuart_jax.config.config import Config
from neuart_jax.runs.experiments import compare_models
from neuart_jax.runs.experiments.model_comparison import DEFAULT_JUDGES, DEFAULT_VARIANTS
from neuart_jax.runs.manifest import find_jobs
from neuart_jax.runs.record import Record

_PAIR_FLAGS = define_pair_flags()
_VARIANT = flags.DEFINE_multi_string(
    "variant",
    list(DEFAULT_VARIANTS),
    "NAME:SETTING=VALUE,SETTING=VALUE, repeated; preset=NAME is a setting here; by default VGG16, "
    "and ResNet50 with its defaults, with average pooling, with smoothing, plain, and with SWAG's "
    "softmax",
)
_JUDGE = flags.DEFINE_multi_string(
    "judge",
    list(DEFAULT_JUDGES),
    "judging network, written like a variant and repeated; by default VGG16 and ResNet50",
)


def run(config: Config, record: Record | None) -> int:
    """Run the experiment and print the path of its contact sheet."""
    jobs = find_jobs(config, **_PAIR_FLAGS()._asdict()).all_jobs()
    report = compare_models(config, jobs, _VARIANT.value, judges=_JUDGE.value)
    print(report.sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
