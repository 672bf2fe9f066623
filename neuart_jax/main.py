"""Command line: ``python -m neuart_jax.main --content=PHOTO --style=PAINTING``."""

import contextlib

from neuart_jax.cli import console, flags
from neuart_jax.config.config import Config
from neuart_jax.engine.step import Status
from neuart_jax.runs.batch import run_batch
from neuart_jax.runs.destination import find_batch_folder
from neuart_jax.runs.driver import transfer
from neuart_jax.runs.manifest import find_jobs
from neuart_jax.runs.record import Record
from neuart_jax.runs.video import is_clip_run, paint_film

_USAGE = """Paint one image in the style of another, or many images, or a film.

  python -m neuart_jax.main [--content=]PHOTO [--style=]PAINTING [--flags]
  python -m neuart_jax.main --content=CLIP.mp4 --style=PAINTING --output=FILM.mp4 [--flags]
  python -m neuart_jax.main --content=PHOTOS/ --style=PAINTINGS/ --pair=cross --output=FOLDER
  python -m neuart_jax.main --manifest=PAIRS.csv --output=FOLDER [--flags]"""

_PAIR_FLAGS = flags.define_pair_flags()
_BATCH_FLAGS = flags.define_batch_flags(_PAIR_FLAGS)
flags.define_machine_flags()


def run(config: Config, repeated: Record | None) -> int:
    """Run one pair or many, as the flags say; return the exit code."""
    is_clip = not any(_PAIR_FLAGS()) and is_clip_run(config)
    many = _BATCH_FLAGS(["devices"] if is_clip else [])
    if many is not None:
        return paint_many(config, many)
    return (paint_clip if is_clip else paint)(config, repeated)


def paint(config: Config, repeated: Record | None) -> int:
    """Run one pair; return the exit code."""
    request = console.StopRequest()
    with contextlib.closing(console.ProgressBar(config.output.print_losses)) as bar:
        result, path = transfer(config, callback=request.after(bar), repeated=repeated)
    console.print_summary(result, path)
    return 128 + request.signal if request.signal else int(result.status == Status.NON_FINITE)


def paint_clip(config: Config, repeated: Record | None) -> int:
    """Paint the frames of a clip; return the exit code: 1 if a frame has no good result."""
    request, count = console.StopRequest(), flags.read_num_devices()
    with contextlib.closing(console.FilmBar()) as bar:
        film = paint_film(config, num_devices=count, repeated=repeated, observer=request.after(bar))
    console.print_film_summary(film)
    return 128 + request.signal if request.signal else int(film.num_failed > 0)


def paint_many(config: Config, many: flags.BatchFlags) -> int:
    """Run many pairs; return the exit code, 1 if any row has no usable result."""
    folder = find_batch_folder(config.output)
    manifest = find_jobs(config, **_PAIR_FLAGS()._asdict())
    request, options = console.StopRequest(), many._asdict()
    with contextlib.closing(console.BatchBar()) as bar:
        options |= {"overwrite": config.output.overwrite, "observer": request.after(bar)}
        result = run_batch(manifest, folder, **options)
    console.print_batch_summary(result)
    return 128 + request.signal if request.signal else int(result.failed > 0)


def main() -> None:
    """Run the command line."""
    flags.run_command(run, usage=_USAGE)


if __name__ == "__main__":
    main()
