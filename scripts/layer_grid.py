"""Paint with growing sets of style layers (rows) and several weights of the content (columns).

  python scripts/layer_grid.py --content=PHOTO --style=PAINTING [--flags]

Rows are --style_layers, one more per row. Finished cells in --output are reused.
"""

from absl import flags

from neuart_jax.cli.flags import run_command
from neuart_jax.config.config import Config
from neuart_jax.runs.experiments import layer_grid
from neuart_jax.runs.experiments.axes import read_numbers
from neuart_jax.runs.record import Record

_RATIOS = flags.DEFINE_string(
    "ratios",
    "",
    "content weight / style weight of the columns, such as 1e-5,1e-4; empty takes 0.01, 0.1, 1 "
    "and 10 times the ratio of the settings",
)


def run(config: Config, record: Record | None) -> int:
    """Run the experiment and print the path of its contact sheet."""
    ratios = read_numbers(_RATIOS.value, flag="ratios", example="1e-5,1e-4")
    print(layer_grid(config, ratios=ratios).sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
