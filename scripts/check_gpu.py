"""Check a GPU in six minutes: correctness, speed, memory, compared with torch.

  python scripts/check_gpu.py [--output=FOLDER] [--minutes=6] [--small] [--flags]

Prints a table and writes it as device.md and device.json. No network is needed: without --weights,
filters are random, which take as long as others. --small runs everything with tiny images, on any
device, as a test.
"""

import sys
from pathlib import Path

import jax
from absl import flags

# The benchmarks are in no wheel, and the package may not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.device_check import check_device
from benchmarks.device_plan import SMALL, Scope
from benchmarks.problem import with_images
from neuart_jax.cli.flags import run_command
from neuart_jax.config.config import Config
from neuart_jax.io.files import make_folder
from neuart_jax.runs.experiments.axes import read_numbers
from neuart_jax.runs.record import Record

_SMALL = flags.DEFINE_bool("small", False, "tiny images")
_MINUTES = flags.DEFINE_string("minutes", "6", "minutes after which no further part is started")
_TORCH = flags.DEFINE_string("torch_python", sys.executable, "an interpreter with torch and numpy")


def run(config: Config, record: Record | None) -> int:
    """Check and print the table; return 1 if a figure is wrong or a part failed."""
    # This process only plans: if it held a GPU, measuring processes would have no memory there.
    jax.config.update("jax_platforms", "cpu")
    config = with_images(config)
    if config.network.weights == "auto":
        config = config.replace(weights="random")
    minutes = sum(read_numbers(_MINUTES.value, flag="minutes", example="6"))
    folder = Path(config.output.output or "output/check_gpu").expanduser()
    make_folder(folder)
    outcome = check_device(
        config,
        SMALL if _SMALL.value else Scope(),
        folder,
        seconds=60 * minutes,
        torch_python=_TORCH.value,
    )
    print(outcome.text)
    print(f"{outcome.wrong} wrong; {folder / 'device.json'}")
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    run_command(run, usage=__doc__)
