"""Paint many pairs with the same settings and tabulate time, evaluations and losses.

  python scripts/evaluate.py --content=FOLDER --style=FOLDER [--pair=cross] [--flags]
  python scripts/evaluate.py --manifest=FILE [--flags]

Finished cells in --output are reused.
"""

from neuart_jax.cli.flags import define_pair_flags, run_command
from neuart_jax.config.config import Config
from neuart_jax.runs.experiments import evaluate
from neuart_jax.runs.manifest import find_jobs
from neuart_jax.runs.record import Record

_PAIR_FLAGS = define_pair_flags()


def run(config: Config, record: Record | None) -> int:
    """Run the experiment and print the path of its contact sheet."""
    jobs = find_jobs(config, **_PAIR_FLAGS()._asdict()).all_jobs()
    print(evaluate(config, jobs).sheet_path)
    return 0


if __name__ == "__main__":
    run_command(run, usage=__doc__)
