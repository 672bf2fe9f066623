"""Command line: ``python -m neuart_jax.main --content=PHOTO --style=PAINTING``."""

from neuart_jax import console
from neuart_jax.command_line import run_command
from neuart_jax.config import Config
from neuart_jax.record import Record
from neuart_jax.result import Progress
from neuart_jax.step import Status
from neuart_jax.transfer import transfer

_USAGE = """Paint one picture in the manner of another.

  python -m neuart_jax.main --content=PHOTO --style=PAINTING [--flags]"""


def paint(config: Config, repeated: Record | None) -> int:
    """Paint one picture; return the exit code."""
    request, bar = console.StopRequest(), console.ProgressBar(config.output.print_losses)

    def report(progress: Progress) -> bool:
        bar(progress)
        return request.wanted()

    try:
        result, path = transfer(config, callback=report, repeated=repeated)
    finally:
        bar.close()
    console.print_summary(result, path)
    return 128 + request.signal if request.signal else int(result.status == Status.NON_FINITE)


def main() -> None:
    """Start from a shell."""
    run_command(paint, usage=_USAGE)


if __name__ == "__main__":
    main()
