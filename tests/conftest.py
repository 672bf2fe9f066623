"""What all tests share: strict broadcasting, small pictures, no network, no cache of the user's."""

import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Half of the suite's time would be the compiler's last optimizations of programs that run for
# milliseconds, and a third of the rest its newer code generator, which JAX 0.12 can't do without.
# Before JAX is imported; also for the processes that tests start. Later flags win, so that the
# caller's do.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else "",
        os.environ.get("XLA_FLAGS", ""),
    )
)

import jax
import numpy as np
import pytest
import scipy.ndimage

from neuart_jax.engine.compilation_cache import use_compilation_cache
from neuart_jax.engine.program_cache import cache_programs_in

CACHE_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
"""What the command line sets for the whole process."""


@pytest.fixture(autouse=True)
def strict_broadcasting(request: pytest.FixtureRequest) -> Iterator[None]:
    """Refuse implicit rank promotion, except where other people's code runs (marked `lenient`)."""
    if request.node.get_closest_marker("lenient"):
        yield
        return
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Compute in double precision where arrays are given in it."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep weights and compiled programs out of the user's own caches, and fetch none."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    # For the whole session: fixtures that serve a module are made before those of its tests.
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        for name in ("KERAS_HOME", "TORCH_HOME", "HF_HOME"):
            monkeypatch.setenv(name, str(folder / name.lower()))
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        yield folder


@pytest.fixture(autouse=True, scope="session")
def shared_programs() -> None:
    """Compile equal programs once for all tests, workers and later runs.

    Their names are made from the program itself, the flags and the versions: no test is weakened.
    What this package exports of its own programs stays off but where a test asks for it.
    """
    use_compilation_cache(Path(__file__).parents[1] / ".pytest_cache" / "programs")
    cache_programs_in(None)


@pytest.fixture
def run_main(run_words: Callable[..., int]) -> Callable[..., int]:
    """Do what `run_words` does, called with flags by name; one given a list is repeated."""

    def run(**given: object) -> int:
        return run_words(
            *(
                f"--{name}={one}"
                for name, value in given.items()
                for one in (value if isinstance(value, list) else [value])
            )
        )

    return run


@pytest.fixture
def run_words(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run the command line in this process, since a new one would take seconds; get its exit code.

    Called with the words of the command line.
    """
    from absl import flags

    from neuart_jax import main

    logger = logging.getLogger("neuart_jax")
    before = logger.propagate, logger.level
    root = logging.getLogger()
    root_level = root.level
    cache = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["neuart", *arguments])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(logger, "handlers", [])
        flags.FLAGS.unparse_flags()
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        with pytest.raises(SystemExit) as ended:
            main.main()
        return int(ended.value.code or 0)

    yield run
    logger.propagate, logger.level = before
    root.setLevel(root_level)  # absl's verbosity is also the root's.
    for name, value in cache.items():
        jax.config.update(name, value)
    cache_programs_in(None)


def smooth_image(height: int, width: int, *, seed: int) -> np.ndarray:
    """Make float32[height, width, 3] in [0, 1] with structure at several scales."""
    rng = np.random.default_rng(seed)
    layers = [
        scipy.ndimage.gaussian_filter(rng.random((height, width, 3)), (scale, scale, 0)) * scale
        for scale in (1.0, 3.0, 8.0)
    ]
    picture = np.sum(layers, axis=0)
    low, high = picture.min(), picture.max()
    return ((picture - low) / (high - low)).astype(np.float32)


@pytest.fixture(scope="session")
def content_image() -> np.ndarray:
    return smooth_image(48, 64, seed=1)


@pytest.fixture(scope="session")
def style_image() -> np.ndarray:
    return smooth_image(56, 40, seed=2)
