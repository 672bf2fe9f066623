"""Command line: ``python -m neuart_jax.main --content=PHOTO --style=PAINTING``."""

import sys
from pathlib import Path

import absl.logging
import jax
from absl import app, flags

from neuart_jax import console
from neuart_jax.config import FIELDS, Config, parse_setting
from neuart_jax.errors import InputError
from neuart_jax.files import user_cache
from neuart_jax.loop import Progress
from neuart_jax.presets import apply_preset
from neuart_jax.record import Record, read_record
from neuart_jax.settings import Texts
from neuart_jax.step import Status
from neuart_jax.transfer import transfer

# Numbers are read by the configuration, which words its complaints better.
_KINDS = {bool: "bool", Texts: "multi_string"}
for _name, _field in FIELDS.items():
    _kind = _KINDS.get(_field.hint, "string")
    getattr(flags, f"DEFINE_{_kind}")(_name, None, _field.metadata["help"])
flags.DEFINE_string("config", None, "config.json or picture of an earlier run")
flags.DEFINE_string("preset", None, "recipe of a paper or of another project")


def read_flags() -> tuple[Config, Record | None]:
    """Return the configuration that the flags describe, and the record it starts from."""
    values, preset = flags.FLAGS, flags.FLAGS.preset
    record = read_record(Path(values.config).expanduser()) if values.config else None
    # The earlier result's folder belongs to that result.
    config = record.config.replace(output="", overwrite=False) if record else Config()
    given = {n: parse_setting(n, values[n].value) for n in FIELDS if values[n].present}
    config = config.replace(**given) if preset is None else apply_preset(preset, config, **given)
    return config, record


def run(argv: list[str]) -> int:
    """Run the command line; return the exit code."""
    # Only our own lines, and as they are: absl would show other packages' too, with dates.
    absl.logging.set_verbosity(absl.logging.WARNING)
    if argv[1:]:
        raise InputError(f"{argv[1]!r} is not a flag", expected="--name=value", remedy="see --help")
    config, repeated = read_flags()
    jax.config.update("jax_compilation_cache_dir", str(user_cache("jit")))
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
    """Start from a shell: bad input is one sentence and exit code 2."""
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(sys.argv[1:]):
        console.print_help()
        return
    console.show_own_log_lines()
    try:
        app.run(run, flags_parser=flags.FLAGS)
    except (InputError, flags.Error) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        sys.exit(f"The run failed; if it ran out of memory, a smaller --size helps ({error}).")


if __name__ == "__main__":
    main()
