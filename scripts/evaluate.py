"""Paint many pairs with the same settings and tabulate time, evaluations and losses.

  python scripts/evaluate.py --content=FOLDER --style=FOLDER [--pairing=cross] [--flags]
  python scripts/evaluate.py --pairs=FILE.csv [--flags]

Finished cells below --output are not made again.
"""

from absl import flags

from neuart_jax.command_line import run_command
from neuart_jax.config import Config
from neuart_jax.experiments import evaluate, find_pairs
from neuart_jax.record import Record

_PAIRS = flags.DEFINE_string("pairs", "", "CSV file with the columns content and style")
_PAIRING = flags.DEFINE_string(
    "pairing",
    "zip",
    "zip or cross: the first content with the first style and so on, or each with each",
)


def run(config: Config, record: Record | None) -> int:
    """Run the experiment and say where its contact sheet is."""
    pairs = find_pairs(config.images, table=_PAIRS.value, pairing=_PAIRING.value)
    print(evaluate(config, pairs).sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
