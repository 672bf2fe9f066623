"""Reads damaged weights files, in a process of its own that a crash or a hang may end.

python tests/fuzz_weights.py FILE MODEL SEED CASES: damages FILE in CASES ways, and prints a JSON
object of outcome to count. FILE, undamaged, says what the right numbers are.
"""

import collections
import faulthandler
import json
import resource
import sys
import warnings
from pathlib import Path

import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.models.params.canonical import check_variables
from neuart_jax.models.params.formats import reader_process
from neuart_jax.models.params.formats.convert import read_weights

MOST_SECONDS = 10
"""For a file; a reader's process has half of it, on a machine that does other things, too."""
MOST_BYTES = 2**29
"""That a stand-in of at most half a megabyte may make a reader allocate."""


def spans_of_numbers(content, variables):
    """Find the bytes that are numbers: nearly all, and the least interesting ones to damage."""
    is_number = np.zeros(len(content), bool)
    for array in variables.values():
        as_stored = [array, array.T]
        if array.ndim == 4:
            as_stored += [array[:, :, ::-1], array.transpose(3, 2, 0, 1)]
        for ordered in as_stored:
            data = ordered.tobytes()
            start = content.find(data)
            if start >= 0:
                is_number[start : start + len(data)] = True
    return is_number


def damage(content, structure, rng):
    """Cut a file short, change some of its bytes, or overwrite a stretch of it."""
    kind = rng.random()
    if kind < 0.2:
        return content[: rng.integers(len(content))]
    damaged = bytearray(content)

    def position():
        return int(rng.choice(structure) if rng.random() < 0.7 else rng.integers(len(content)))

    if kind < 0.3:
        start, length = position(), int(rng.integers(1, 64))
        source = int(rng.integers(len(content)))
        damaged[start : start + length] = content[source : source + length]
        return bytes(damaged)
    for _ in range(rng.integers(1, 5)):
        extreme = rng.random() < 0.3
        value = rng.choice([0, 1, 127, 128, 255]) if extreme else rng.integers(256)
        damaged[position()] = int(value)
    return bytes(damaged)


def outcome(path, model, right):
    """Return "refused", "right" or "other numbers"; anything else raises."""
    try:
        weights = read_weights(path, model=model)
        check_variables(
            weights.variables, needed=right.variables, known=right.variables, source="it"
        )
    except InputError as error:
        assert error.came and error.expected and error.remedy
        return "refused"
    for array in weights.variables.values():
        assert array.dtype == np.float32 and array.flags.c_contiguous
    assert np.all(np.isfinite(weights.normalization)) and np.all(np.array(weights.normalization[1]))
    assert weights.stride_on == right.stride_on
    same = weights.normalization == right.normalization and all(
        np.array_equal(array, right.variables[name]) for name, array in weights.variables.items()
    )
    return "right" if same else "other numbers"


def main(path, model, seed, num_cases):
    """Damage a file in `num_cases` ways."""
    warnings.simplefilter("error")
    reader_process.MOST_SECONDS = MOST_SECONDS / 2
    path = Path(path)
    content = path.read_bytes()
    right = read_weights(path, model=model)
    structure = np.flatnonzero(~spans_of_numbers(content, right.variables))
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_BYTES, mapped + MOST_BYTES))
    damaged = path.with_name(f"damaged-{path.name}")
    counts = collections.Counter()
    for case in range(num_cases):
        damaged.write_bytes(damage(content, structure, np.random.default_rng((seed, case))))
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        try:
            counts[outcome(damaged, model, right)] += 1
        except BaseException:
            print(f"case {case} of seed {seed}: {damaged}", file=sys.stderr)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
    print(json.dumps(counts))


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
