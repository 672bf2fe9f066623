"""Make pictures from what single layers keep: of the content, and of the style.

  python scripts/reconstruct.py --content=PHOTO --style=PAINTING [--flags]

--content_layers are taken one by one, --style_layers one more at a time; empty means the model's
style layers for both. The start is noise. Finished cells below --output are not made again.
"""

from neuart_jax.cli.flags import run_command
from neuart_jax.config.config import Config
from neuart_jax.runs.experiments import reconstruct
from neuart_jax.runs.record import Record


def run(config: Config, record: Record | None) -> int:
    """Run the experiment and say where its contact sheet is."""
    print(reconstruct(config).sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
