"""Compiled programs found again, and what is in the way of that."""

import logging
import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest
from conftest import CACHE_SETTINGS

from neuart_jax.engine.compilation_cache import check_entries, use_compilation_cache
from neuart_jax.engine.program_cache import cache_programs_in

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
    cache_programs_in(None)


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


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def age(*paths):
    """Let files have been written a while ago."""
    for path in paths:
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 60))


def find_entries(folder):
    return sorted(folder.glob("*-cache"))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_programs_are_found_again_and_a_damaged_one_is_compiled_anew_once(tmp_path, killed):
    """Whether the run before could still write down what it left, or couldn't."""
    folder = tmp_path / "made" / "here"
    assert run_python(COMPILE, folder).stdout == "0\n"
    assert int(run_python(COMPILE, folder).stdout) > 0
    entries = find_entries(folder)
    assert entries  # However fast they were compiled.
    if killed:
        (folder / "digests.json").unlink(missing_ok=True)
    for entry in entries:
        flip(entry)
    age(*entries)
    again = run_python(COMPILE, folder)
    assert again.stdout == "0\n"
    assert again.stderr.count("Cached programs are damaged and will be compiled again") == 1
    assert again.stderr.count("\n") == 1
    last = run_python(COMPILE, folder)
    assert int(last.stdout) > 0 and not last.stderr


def test_entries_are_looked_at_where_they_changed_only(tmp_path, monkeypatch):
    whole = zlib.compress(b"a program")
    for name in ("one-cache", "two-cache"):
        (tmp_path / name).write_bytes(whole)
    age(*find_entries(tmp_path))
    check_entries(tmp_path)
    read = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    check_entries(tmp_path)
    assert set(read) == {"digests.json"}
    # It can be unpacked, and isn't what was there.
    (tmp_path / "two-cache").write_bytes(zlib.compress(b"another program"))
    (tmp_path / "new-cache").write_bytes(whole[:-3])
    (tmp_path / "notes.txt").write_bytes(b"mine")
    age(tmp_path / "two-cache", tmp_path / "new-cache")
    # Another run may be writing it.
    (tmp_path / "young-cache").write_bytes(whole[:-3])
    check_entries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "digests.json",
        "notes.txt",
        "one-cache",
        "young-cache",
    ]


@pytest.mark.parametrize("digests", [b"", b"{", b"[1]", b'{"one-cache": 3}', b'{"one-cache": []}'])
def test_damaged_digests_cost_a_look_at_every_entry(tmp_path, digests):
    (tmp_path / "one-cache").write_bytes(zlib.compress(b"a program"))
    age(tmp_path / "one-cache")
    check_entries(tmp_path)
    noted = (tmp_path / "digests.json").read_bytes()
    (tmp_path / "digests.json").write_bytes(digests)
    check_entries(tmp_path)
    assert (tmp_path / "digests.json").read_bytes() == noted


def test_the_entries_used_last_stay(tmp_path):
    for age, name in enumerate(("a-cache", "b-cache", "c-cache")):
        (tmp_path / name).write_bytes(zlib.compress(bytes(10), level=0))
        os.utime(tmp_path / name, (age, age))
    os.utime(tmp_path / "a-cache", (9, 0))  # It was read.
    size = (tmp_path / "a-cache").stat().st_size
    check_entries(tmp_path, max_bytes=2 * size)
    assert [path.name for path in find_entries(tmp_path)] == ["a-cache", "c-cache"]


def test_settings(tmp_path, jax_settings):
    use_compilation_cache(tmp_path / "cache")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache")
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
    assert line.startswith("Compiled programs are not cached: ")
    assert "can't be written (Not a directory)." in line


def test_the_command_line_starts_without_what_it_may_not_need():
    code = f"import neuart_jax.main, sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert run_python(code).stdout == "[]\n"


def test_an_import_uses_no_device():
    """Machines join, and platforms are chosen, before any device is used."""
    code = """
import neuart_jax.main
import jax
jax.config.update("jax_platforms", "nothing")
try:
    print(jax.devices())
except RuntimeError as error:
    print(error)
"""
    assert "nothing" in run_python(code).stdout
