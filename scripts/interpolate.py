"""Paint with mixtures of two styles (columns) and degrees of stylization (rows).

  python scripts/interpolate.py --content=PHOTO --style=ONE --style=OTHER [--flags]
  python scripts/interpolate.py --content=PHOTO --style=PAINTING --stylizations=0.25,0.5,0.75,1

Finished cells in --output are reused.
"""

from absl import flags

from neuart_jax.cli.flags import run_command
from neuart_jax.config.config import Config
from neuart_jax.runs.experiments import interpolate
from neuart_jax.runs.experiments.axes import read_numbers
from neuart_jax.runs.record import Record

_SHARES = flags.DEFINE_string(
    "shares", "0,0.25,0.5,0.75,1", "shares of the second style, from 0 to 1, separated by commas"
)
_STYLIZATIONS = flags.DEFINE_string(
    "stylizations", "1", "degrees of stylization, from 0 to 1, separated by commas"
)


def run(config: Config, record: Record | None) -> int:
    """Run the experiment and print the path of its contact sheet."""
    shares = read_numbers(_SHARES.value, flag="shares", example="0,0.5,1", at_most=1)
    stylizations = read_numbers(
        _STYLIZATIONS.value, flag="stylizations", example="0.5,1", at_most=1
    )
    print(interpolate(config, shares=shares, stylizations=stylizations).sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
