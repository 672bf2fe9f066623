"""Reconstruct images from the content of single layers, and from the style of several.

  python scripts/reconstruct.py --content=PHOTO --style=PAINTING [--flags]

--content_layers are used one at a time, --style_layers are added one by one; empty takes the
model's style layers for both. The initial image is noise. Finished cells in --output are reused.
"""

from neuart_jax.cli.flags import run_command
from neuart_jax.config.config import Config
from neuart_jax.runs.experiments import reconstruct
from neuart_jax.runs.record import Record


def run(config: Config, record: Record | None) -> int:
    """Run the experiment and print the path of its contact sheet."""
    print(reconstruct(config).sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
