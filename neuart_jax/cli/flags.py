"""What every command shares: each setting is a flag, and bad input is one sentence."""

import os
import sys
from collections.abc import Callable
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
from neuart_jax.io.files import brief_cause, user_cache
from neuart_jax.io.paths import check_place
from neuart_jax.runs.record import Record, read_record

Command = Callable[[Config, Record | None], int]
"""(settings, the record that they start from) -> exit code."""

# Whoever gives two of these wants something else than the last.
_SINGLE_FILES = ("content", "content_mask", "paint_mask", "init")

# Numbers are read by the configuration, which words its complaints better.
_KINDS = {bool: "bool", Texts: "multi_string"}
for _name, _field in FIELDS.items():
    _kind = _KINDS.get(_field.hint, "string")
    getattr(flags, f"DEFINE_{_kind}")(_name, None, _field.metadata["help"])
flags.DEFINE_string(
    "config",
    None,
    "config.json or picture of an earlier run: its settings, under those given here",
)
flags.DEFINE_string(
    "preset",
    None,
    "recipe of a paper or of another project: its settings, under those given here",
)


class PairFlags(NamedTuple):
    """How many pairs are named; see `manifest.find_jobs`."""

    manifest: str
    pair: str


class BatchFlags(NamedTuple):
    """How many pairs are painted; see `batch.run_batch`."""

    keep_going: bool
    batch: int
    num_devices: int
    engine: str


def define_pair_flags() -> Callable[[], PairFlags]:
    """Define --manifest and --pair, for commands that take many pairs; return their reader."""
    flags.DEFINE_string(
        "manifest",
        "",
        "table of pairs: CSV, or JSON Lines in a .jsonl file, with the columns content, style, "
        "output and any setting",
    )
    flags.DEFINE_string(
        "pair",
        "",
        "zip or cross: --content and --style are folders or patterns; the first content goes with "
        "the first style and so on, or each with each",
    )
    return lambda: PairFlags(_value("manifest"), _value("pair"))


def define_batch_flags(read_pairs: Callable[[], PairFlags]) -> Callable[[], BatchFlags | None]:
    """Define what else a command needs that paints many pairs; return its reader.

    Args:
      read_pairs: from `define_pair_flags`. Where these flags name no pairs, there are no batch
        flags either, and giving one is a mistake.
    """
    flags.DEFINE_bool(
        "keep_going", False, "many pairs: paint the good ones where others can't be painted"
    )
    flags.DEFINE_string(
        "batch",
        "0",
        "many pairs: how many are painted at once on each device; 0 takes what fits into an "
        "accelerator's memory, and 1 on CPUs",
    )
    flags.DEFINE_string(
        "devices", "0", "many pairs: among how many of a machine's devices; 0 takes all"
    )
    flags.DEFINE_string(
        "engine",
        "local",
        "many pairs: local, or ray for a cluster: that of RAY_ADDRESS, or one started here",
    )

    def read() -> BatchFlags | None:
        if any(read_pairs()):
            count, devices = _read_count("batch"), _read_count("devices")
            return BatchFlags(_value("keep_going"), count, devices, _value("engine"))
        for name in ("keep_going", "batch", "devices", "engine"):
            if flags.FLAGS[name].present:
                raise InputError(
                    f"--{name} came without many pairs",
                    expected="a table of pairs, --manifest=FILE, or folders with --pair",
                    remedy=f"add one of them, or leave out --{name}",
                )
        return None

    return read


def define_machine_flags() -> None:
    """Define what a command needs that can share one picture among several machines."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "several machines for one huge picture: HOST:PORT of the first; all of them are started "
        "with the same flags but for --process_id, and see the same files",
    )
    flags.DEFINE_string("num_processes", "1", "several machines: how many there are")
    flags.DEFINE_string("process_id", "0", "several machines: the number of this one, from 0")


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
    """Run a command from a shell and exit with its code; bad input is a sentence and exit code 2.

    A command with flags of its own defines them before.

    Args:
      command: what to run.
      usage: what --help shows above all flags.
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
        # Only our own lines, and as they are: absl would show other packages' too, with dates, such
        # as those on a home that can't be written.
        absl.logging.set_verbosity(absl.logging.FATAL)
        if "coordinator" in flags.FLAGS:
            _join_machines()
        config, record = read_flags()
        _check_platform()
        if config.compute.compilation_cache:
            use_compilation_cache(user_cache("jit"))
        give_back_after_compiling()
        keep_memory_between_steps()
        return command(config, record)

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
    """Give all flags their values; return what is left, the command's own name."""
    known = {name: flags.FLAGS[name] for name in flags.FLAGS}
    kinds = Flags(
        known=known,
        switches=[name for name, flag in known.items() if flag.boolean],
        lists=[name for name, field in FIELDS.items() if field.hint == Texts],
        single_files=_SINGLE_FILES,
    )
    return flags.FLAGS([argv[0], *arrange_arguments(argv[1:], kinds)])


def _check_platform() -> None:
    """Check that what JAX is asked to compute on is there."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    try:
        jax.local_devices()
    # JAX asserts that a platform without its plugin isn't asked for.
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            # An assertion's name says nothing to anybody.
            f"JAX_PLATFORMS={asked} can't be had here"
            + (f" ({brief_cause(error)})" if str(error) else ""),
            expected="cpu, or cuda or tpu with its extra and a driver that is new enough",
            remedy='set JAX_PLATFORMS=cpu to compute on the CPU, or pip install "neuart_jax[cuda]"',
        ) from error


def _join_machines() -> None:
    """Make all machines' devices one set, before any of them is used."""
    address = _value("coordinator")
    count, number = _read_count("num_processes"), _read_count("process_id")
    if address is None and count == 1 and number == 0:
        return
    if address is None or number >= count:
        raise InputError(
            f"--coordinator={address or ''} --num_processes={count} --process_id={number}",
            expected="a coordinator's HOST:PORT, and a number below that of the processes",
            remedy="give all three",
        )
    join_machines(address, num_processes=count, process_id=number)


def read_flags() -> tuple[Config, Record | None]:
    """Return the configuration that the flags describe, and the record it starts from."""
    values = flags.FLAGS
    place = values.config and check_place(values.config, name="--config")
    record = read_record(place) if place else None
    # The earlier result's folder belongs to that result.
    config = record.config.replace(output="", overwrite=False) if record else Config()
    given = {n: parse_setting(n, values[n].value) for n in FIELDS if values[n].present}
    if values.preset is not None:
        return apply_preset(values.preset, config, **given), record
    return config.replace(**given), record


def _flags_beside_settings() -> dict[str, str]:
    """Return the flags that are no settings, with their help: those here, and the command's own."""
    return {
        # absl's own words on repeating stand in a line of their own.
        flag.name: flag.help.splitlines()[0].rstrip(";")
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if not module.startswith("absl")
        for flag in defined
        if flag.name not in FIELDS
    }
