"""Measure the speed of this machine: evaluations, steps, starts, memory, compared with torch.

  python scripts/benchmark.py [--parts=evaluation,torch] [--sizes=256,512] [--flags]

Without images, scikit-image's cat and our own brush strokes are used. Filters are random unless
--weights is given, or a part depends on them.
"""

import sys
from pathlib import Path

import jax
from absl import flags

# The benchmarks are in no wheel, and the package may not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.benchmark import benchmark
from benchmarks.plan import PARTS, Plan, read_plan
from benchmarks.problem import with_images
from neuart_jax.cli.flags import run_command
from neuart_jax.config.config import Config
from neuart_jax.io.files import make_folder
from neuart_jax.runs.record import Record

flags.DEFINE_list("parts", "evaluation,steps,start,torch", f"some of {', '.join(PARTS)}")
flags.DEFINE_list("sizes", "256,512", "sides of the square images, in pixels")
flags.DEFINE_list("models", "vgg19,resnet50", "networks")
flags.DEFINE_list("precisions", "float32,bfloat16", "values of --precision, and of torch's own")
flags.DEFINE_list("convolutions", "auto", "values of --convolution")
flags.DEFINE_list("batches", "1,4,16", "numbers of pairs evaluated at once")
flags.DEFINE_string("rounds", "3", "number of measurements of each variant, interleaved")
flags.DEFINE_string("evaluations", "5", "evaluations timed in one go")
flags.DEFINE_string("time_limit", "0", "seconds after which a variant is given up; 0 waits")
flags.DEFINE_string("torch_python", sys.executable, "an interpreter that has torch and numpy")
flags.DEFINE_string("peak_tflops", "0", "the device's peak rate in TFLOP/s, for a column of shares")
flags.DEFINE_list("presets", "neural-style,gordicaleksa", "recipes whose loss time_to_loss reaches")
flags.DEFINE_string("loss_size", "0", "size for time_to_loss; 0 takes each recipe's own")


def run(config: Config, record: Record | None) -> int:
    """Measure and print the tables; return 1 if a result can't be trusted or is missing."""
    # This process only plans: if it held a GPU, measuring processes would have no memory there.
    jax.config.update("jax_platforms", "cpu")
    network, config = config.network, with_images(config)
    parts = flags.FLAGS["parts"].value
    if network.weights == "auto" and not {"picture", "time_to_loss"} & set(parts):
        # Filters don't affect the time; random ones need no download and no fit.
        config = config.replace(weights="random")
    plan = read_plan(config, {name: flags.FLAGS[name].value for name in Plan._fields})
    folder = Path(config.output.output or "output/benchmark").expanduser()
    make_folder(folder)
    outcome = benchmark(config, plan, folder)
    print(outcome.text)
    return int(bool(outcome.problems))


if __name__ == "__main__":
    run_command(run, usage=__doc__)
