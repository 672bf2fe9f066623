"""Compiled programs found again, and what is in the way of that."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from conftest import CACHE_SETTINGS

from neuart_jax.engine.compilation_cache import use_compilation_cache
from neuart_jax.engine.program_cache import keep_programs_in

ROOT = Path(__file__).resolve().parents[1]

# Prints how many programs were compiled although the folder has them.
COMPILE = """
import sys, pathlib, jax
from neuart_jax.engine.compilation_cache import use_compilation_cache
use_compilation_cache(pathlib.Path(sys.argv[1]))
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
assert jax.jit(lambda x: 3 * x + 1)(2.0) == 7
print(sum(name == "/jax/compilation_cache/cache_hits" for name in hits))
"""

HEAVY = (
    *("skimage", "scipy.sparse", "scipy.linalg", "scipy.ndimage", "matplotlib", "requests"),
    *("urllib3", "keras", "torch"),
)


@pytest.fixture
def jax_settings(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    keep_programs_in(None)


def run_python(code, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_programs_are_found_again_and_a_damaged_one_is_compiled_anew_once(tmp_path):
    folder = tmp_path / "made" / "here"
    assert run_python(COMPILE, folder).stdout == "0\n"
    assert int(run_python(COMPILE, folder).stdout) > 0
    entries = list((folder / "programs").iterdir())
    assert entries  # However fast they were compiled.
    for entry in entries:
        content = bytearray(entry.read_bytes())
        content[len(content) // 2] ^= 1
        entry.write_bytes(content)
    again = run_python(COMPILE, folder)
    assert again.stdout == "0\n"
    assert again.stderr.count("Kept programs are damaged, and are made anew") == 1
    assert again.stderr.count("\n") == 1
    last = run_python(COMPILE, folder)
    assert int(last.stdout) > 0 and not last.stderr


def test_settings(tmp_path, jax_settings):
    use_compilation_cache(tmp_path / "cache")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache")
    assert 0 < jax.config.jax_compilation_cache_max_size < 2**40
    assert os.listdir(tmp_path / "cache") == []


def test_the_users_own_folder_stays(tmp_path, monkeypatch, jax_settings):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    before = [getattr(jax.config, name) for name in CACHE_SETTINGS]
    use_compilation_cache(tmp_path / "cache")
    assert [getattr(jax.config, name) for name in CACHE_SETTINGS] == before
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cant_be_made_is_one_line(tmp_path, caplog, jax_settings):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    with caplog.at_level(logging.WARNING):
        use_compilation_cache(tmp_path / "file" / "cache")
    assert jax.config.jax_compilation_cache_dir == before
    (line,) = caplog.messages
    assert line.startswith("Compiled programs are not kept: ")
    assert "can't be written (Not a directory)." in line


def test_the_command_line_starts_without_what_it_may_not_need():
    code = f"import neuart_jax.main, sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert run_python(code).stdout == "[]\n"
