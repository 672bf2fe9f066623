"""Files that appear whole or not at all."""

import json
import os
import stat

import pytest

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import dump_json, write_atomically


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_failed_block_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    raised = error("a", expected="b", remedy="c") if error is InputError else error("a")
    with pytest.raises(error), write_atomically(path) as file:
        file.write(b"new")
        raise raised
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_nothing_has_the_name_before_the_end(tmp_path):
    path = tmp_path / "a.json"
    with write_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_are_those_of_open(tmp_path, umask):
    previous = os.umask(umask)
    try:
        with write_atomically(tmp_path / "a"):
            pass
        (tmp_path / "b").touch()
    finally:
        os.umask(previous)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


def test_replacing_keeps_permissions_and_links(tmp_path):
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    with write_atomically(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_unwritable_name_is_refused(tmp_path):
    with (
        pytest.raises(
            InputError, match=r"nowhere/a can't be written \(No such file .*\); expected"
        ),
        write_atomically(tmp_path / "nowhere" / "a"),
    ):
        raise AssertionError("the block runs only with an open file")


def test_json_has_no_numbers_that_json_lacks():
    text = dump_json({"a": [1.5, float("nan")], "b": (float("inf"), "x", True, None, 3)})
    assert json.loads(text) == {"a": [1.5, None], "b": [None, "x", True, None, 3]}
