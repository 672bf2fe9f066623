"""Flags and error handling of all commands: each setting is a flag, bad input is one sentence."""

import os
import sys
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import absl.logging
import jax
from absl import app, flags

from neuart_jax.cli import console
from neuart_jax.cli.arguments import Flags, arrange_arguments
from neuart_jax.cli.streams import flush_stdout, lasting_streams
from neuart_jax.config.config import FIELDS, Config, parse_setting
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import Texts
from neuart_jax.config.presets import apply_preset
from neuart_jax.engine.compilation_cache import use_compilation_cache
from neuart_jax.engine.compile import give_back_after_compiling, keep_memory_between_steps
from neuart_jax.engine.distributed import join_machines
from neuart_jax.engine.sharding import writes_files
from neuart_jax.io.files import brief_cause, user_cache
from neuart_jax.io.paths import check_place
from neuart_jax.runs.profile import record_profile
from neuart_jax.runs.record import Record, read_record

Command = Callable[[Config, Record | None], int]
"""(configuration, record that it starts from) -> exit code."""

# Giving two of these is a mistake; absl would take the last.
_SINGLE_FILES = ("content", "content_mask", "paint_mask", "init")

# Numbers are parsed by the configuration, whose messages are better than absl's.
_KINDS = {bool: "bool", bool | None: "bool", Texts: "multi_string"}
for _name, _field in FIELDS.items():
    _kind = _KINDS.get(_field.hint, "string")
    getattr(flags, f"DEFINE_{_kind}")(_name, None, _field.metadata["help"])
flags.DEFINE_string(
    "config",
    None,
    "config.json, image or film of an earlier run, whose settings are used; other flags override "
    "them",
)
flags.DEFINE_string(
    "preset",
    None,
    "recipe of a paper or of another project, whose settings are used; other flags override them",
)
flags.DEFINE_string(
    "profile",
    None,
    "new folder for a profile: the seconds of reading, compiling, steps, writing; and traces that "
    "divide a step into network, losses, optimizer",
)


class PairFlags(NamedTuple):
    """Flags that name many pairs; see `manifest.find_jobs`."""

    manifest: str
    pair: str


class BatchFlags(NamedTuple):
    """Flags that say how many pairs are run; see `batch.run_batch`."""

    keep_going: bool
    batch: int
    num_devices: int
    engine: str


def define_pair_flags() -> Callable[[], PairFlags]:
    """Define --manifest and --pair, for commands that take many pairs.

    Returns:
      A function that reads the flags.
    """
    flags.DEFINE_string(
        "manifest",
        "",
        "table of pairs: CSV, or JSON Lines in a .jsonl file, with the columns content, style, "
        "output and any setting",
    )
    flags.DEFINE_string(
        "pair",
        "",
        "zip or cross, with folders or patterns as --content and --style: zip pairs the first "
        "content with the first style and so on, cross pairs each with each",
    )
    return lambda: PairFlags(_value("manifest"), _value("pair"))


def define_batch_flags(
    read_pairs: Callable[[], PairFlags],
) -> Callable[[Collection[str]], BatchFlags | None]:
    """Define the other flags of a command that runs many pairs.

    Args:
      read_pairs: reader from `define_pair_flags`. If its flags name no pairs, giving a batch flag
        is a mistake.

    Returns:
      A function that reads the flags; it returns None if no pairs are named. Its argument names
      those that the run takes without pairs, too.
    """
    flags.DEFINE_bool(
        "keep_going", False, "many pairs: skip those that can't be painted and paint the others"
    )
    flags.DEFINE_string(
        "batch",
        "0",
        "many pairs: number painted at once on each device; 0 takes as many as fit into an "
        "accelerator's memory, and 1 on CPUs",
    )
    flags.DEFINE_string(
        "devices",
        "0",
        "many pairs, or a clip's shots: number of the machine's devices to use; 0 takes all",
    )
    flags.DEFINE_string(
        "engine",
        "local",
        "many pairs: local, or ray for a cluster, either that of RAY_ADDRESS or a new one here",
    )

    def read(taken: Collection[str]) -> BatchFlags | None:
        if any(read_pairs()):
            return BatchFlags(
                _value("keep_going"), _read_count("batch"), read_num_devices(), _value("engine")
            )
        for name in ("keep_going", "batch", "devices", "engine"):
            if flags.FLAGS[name].present and name not in taken:
                raise InputError(
                    f"--{name} came without pairs to paint",
                    expected="a table of pairs, --manifest=FILE, or folders with --pair"
                    + (", or a clip as --content" if name == "devices" else ""),
                    remedy=f"add one of these, or leave out --{name}",
                )
        return None

    return read


def read_num_devices() -> int:
    """Return the value of --devices, of `define_batch_flags`; 0 means all."""
    return _read_count("devices")


def define_machine_flags() -> None:
    """Define the flags of a command that can divide one image among several machines."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "several machines for one huge image: HOST:PORT of the first; start all with the same "
        "flags except --process_id, on shared files",
    )
    flags.DEFINE_string("num_processes", "1", "several machines: their number")
    flags.DEFINE_string("process_id", "0", "several machines: index of this one, from 0")


def _value(name: str) -> Any:
    return flags.FLAGS[name].value


def _read_count(name: str) -> int:
    text = _value(name)
    if not text.strip().isdecimal():
        raise InputError(
            f"--{name}={text}",
            expected="a whole number of at least 0",
            remedy=f"write --{name}=1, say",
        )
    return int(text)


def run_command(command: Command, *, usage: str) -> None:
    """Run a command and exit with its code; bad input prints one sentence and exits with code 2.

    A command defines its own flags before this call.

    Args:
      command: function to run.
      usage: text that --help shows above the flags.
    """
    with lasting_streams():
        _run_command(command, usage=usage)


def _run_command(command: Command, *, usage: str) -> None:
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(sys.argv[1:]):
        console.print_help(usage, _flags_beside_settings())
        if failure := flush_stdout():
            sys.exit(f"The help can't be written to stdout ({failure}).")
        return
    console.never_fail_to_print()
    console.show_own_log_lines()

    def run(argv: list[str]) -> int:
        # absl would also show the log lines of other packages, with dates, such as JAX's about a
        # home folder that can't be written.
        absl.logging.set_verbosity(absl.logging.FATAL)
        if "coordinator" in flags.FLAGS:
            _join_machines()
        config, record = read_flags()
        _check_platform()
        if config.compute.compilation_cache:
            use_compilation_cache(user_cache("jit"))
        give_back_after_compiling()
        keep_memory_between_steps()
        folder = _value("profile")
        # Of several machines, the first shows where the time goes.
        if folder is None or not writes_files():
            return command(config, record)
        place = check_place(folder, name="--profile")
        code, profile = record_profile(lambda: command(config, record), place)
        if profile is not None:
            console.print_profile(profile)
        return code

    try:
        app.run(run, flags_parser=_parse_arguments)
    except (InputError, flags.Error) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        sys.exit(f"The run failed; if it ran out of memory, a smaller --size helps ({error}).")


def _parse_arguments(argv: list[str]) -> list[str]:
    """Set all flags from the command line; return the remaining words: the command's name."""
    known = {name: flags.FLAGS[name] for name in flags.FLAGS}
    kinds = Flags(
        known=known,
        switches=[name for name, flag in known.items() if flag.boolean],
        lists=[name for name, field in FIELDS.items() if field.hint == Texts],
        single_files=_SINGLE_FILES,
    )
    return flags.FLAGS([argv[0], *arrange_arguments(argv[1:], kinds)])


def _check_platform() -> None:
    """Check that the platform that JAX is asked for is available."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    try:
        jax.local_devices()
    # JAX raises an AssertionError for a platform whose plugin isn't installed.
    except (RuntimeError, AssertionError) as error:
        # JAX's own advice follows its cause.
        cause = str(error) and brief_cause(error).partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        raise InputError(
            f"JAX_PLATFORMS={asked} is not available here" + (f" ({cause})" if cause else ""),
            expected="cpu, or cuda or tpu with its extra and a driver that is new enough",
            remedy='set JAX_PLATFORMS=cpu to compute on the CPU, or pip install "neuart_jax[cuda]"',
        ) from error


def _join_machines() -> None:
    """Join the devices of all machines, before any device is used."""
    address = _value("coordinator")
    count, number = _read_count("num_processes"), _read_count("process_id")
    if address is None and count == 1 and number == 0:
        return
    if address is None or number >= count:
        raise InputError(
            f"--coordinator={address or ''} --num_processes={count} --process_id={number}",
            expected="a coordinator's HOST:PORT, and a process_id below num_processes",
            remedy="give all three",
        )
    join_machines(address, num_processes=count, process_id=number)


def read_flags() -> tuple[Config, Record | None]:
    """Return the configuration given by the flags, and the record that it starts from."""
    values = flags.FLAGS
    place = values.config and check_place(values.config, name="--config")
    record = read_record(place) if place else None
    # Don't write into the earlier result's folder.
    config = record.config.replace(output="", overwrite=False) if record else Config()
    given = {n: parse_setting(n, values[n].value) for n in FIELDS if values[n].present}
    if values.preset is not None:
        return apply_preset(values.preset, config, **given), record
    return config.replace(**given), record


def _flags_beside_settings() -> dict[str, str]:
    """Return the help of all flags that are not settings: those above and the command's own."""
    return {
        # absl appends its own remark on repeated flags as a second line.
        flag.name: flag.help.splitlines()[0].rstrip(";")
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if not module.startswith("absl")
        for flag in defined
        if flag.name not in FIELDS
    }
