"""What may be wrong with the name of a file is one sentence, wherever it was written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import painter
import pytest

from neuart_jax import InputError
from neuart_jax.config.config import Config
from neuart_jax.io.paths import check_place, read_whole, resolve_place
from neuart_jax.runs.batch import run_batch
from neuart_jax.runs.manifest import BadRow, Manifest, read_manifest

ROOT = Path(__file__).resolve().parents[1]


def bad_paths(folder):
    """Return what is wrong with a path to such a path."""
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return {
        "Too many levels of symbolic links": str(folder / "loop"),
        "there is no user 'nosuchuser'": "~nosuchuser/x.png",
        "null": str(folder / "a\0b.png"),
        "it contains an invalid character": str(folder / "a\ud800b.png"),
        "File name too long": str(folder / ("a" * 300)),
    }


def unreadable_paths(folder):
    return {"device or a pipe": str(folder / "pipe"), "a device": "/dev/zero"}


def test_names_that_lead_nowhere(tmp_path):
    for reason, path in bad_paths(tmp_path).items():
        with pytest.raises(InputError, match=f"^--x=.*{reason}.*; expected the path") as caught:
            check_place(path, name="--x")
        assert len(str(caught.value)) < 400 and "\0" not in str(caught.value)


def test_names_that_are_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").touch()
    (tmp_path / "~copy").touch()
    (tmp_path / "link").symlink_to("real")
    assert check_place("~/missing/x.png", name="--x") == tmp_path / "missing/x.png"
    assert check_place("real/below", name="--x") == Path("real/below")
    assert check_place("~copy", name="--x") == Path("~copy")
    assert resolve_place("link", name="--x") == str((tmp_path / "real").resolve())


def test_only_files_are_read_and_no_more_than_is_allowed(tmp_path):
    for reason, path in unreadable_paths(bad_paths(tmp_path) and tmp_path).items():
        with pytest.raises(OSError, match=reason):
            read_whole(path, most=100)
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_whole(tmp_path / "a", most=100) == b"x" * 100
    with pytest.raises(OSError, match="it has more than 0 MiB"):
        read_whole(tmp_path / "a", most=99)


FLAGS = ("content", "style", "init", "weights", "content_mask", "style_mask", "config", "manifest")
FLAGS += ("output", "normalize_weights", "weights_dir")


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_answers_every_bad_path_with_a_sentence(flag, tmp_path, run_main, capsys):
    (content,), style = painter.pictures(tmp_path / "pictures")
    paths = bad_paths(tmp_path)
    # Where a file is asked for, not a folder to write to or to look into.
    if flag not in ("output", "normalize_weights", "weights_dir"):
        paths |= unreadable_paths(tmp_path)
    for path in paths.values():
        given = {"content": content, "style": style, "output": tmp_path / "out"}
        if flag in ("content_mask", "style_mask"):
            given |= {"content_mask": content, "style_mask": style}
        if flag in ("weights_dir", "normalize_weights"):
            given |= {"weights": "imagenet", "offline": True}
        if flag == "manifest":
            given = {"output": tmp_path / "out"}
        assert run_main(**{**given, flag: path}, compilation_cache=False) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and "; expected " in said.err, said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bad_paths_in_rows_hide_no_other_row(kind, tmp_path):
    (content,), style = painter.pictures(tmp_path)
    paths = bad_paths(tmp_path)
    rows = [{"content": str(content), "style": path} for path in paths.values()]
    rows.append({"content": str(content), "style": str(style)})
    if kind == "csv":
        text = "content,style\n" + "".join(f"{r['content']},{r['style']}\n" for r in rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    table = tmp_path / f"table.{kind}"
    # Half a letter has bytes, too, though they are no UTF-8.
    table.write_bytes(text.encode(errors="surrogatepass"))
    manifest = read_manifest(Config(), str(table))
    assert [bad.row for bad in manifest.bad_rows] == list(range(1, len(rows)))
    told = [bad.reason for bad in manifest.bad_rows]
    assert [r for r in told if "is not a valid path" not in r] == (
        ["it has characters that are not UTF-8; expected a table in UTF-8; save it as UTF-8."]
        if kind == "csv"
        else []
    )
    assert [job.row for job in manifest.jobs] == [len(rows)]


@pytest.mark.parametrize("content", [b"content,s\xfftyle\na,b\n", "content,style".encode("utf-16")])
def test_a_table_whose_head_is_no_utf8_is_one_sentence(content, tmp_path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(InputError, match="table.csv can't be read .'utf-8' codec can't decode"):
        read_manifest(Config(), str(tmp_path / "table.csv"))


def test_a_column_that_comes_twice_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("content,style,style\na.png,b.png,c.png\n")
    with pytest.raises(InputError, match="it has 2 columns 'style'"):
        read_manifest(Config(), str(tmp_path / "table.csv"))


def test_a_report_of_many_bad_rows_ends_after_twenty(tmp_path, caplog):
    # Only in the file: an invalid character can't be told by pytest's workers either.
    letter = "\ud800"
    bad = [BadRow(n, f"reason {letter * (n == 100)} {n}") for n in range(1, 101)]
    with pytest.raises(InputError, match="100 of 100 rows"):
        run_batch(Manifest("the rows", [], bad), tmp_path / "out")
    assert len(caplog.messages) == 21
    path = tmp_path / "out/bad_rows.txt"
    assert caplog.messages[-1] == f"And 80 more, all listed in {path}."
    lines = path.read_text().splitlines()
    assert len(lines) == 100 and lines[-1].startswith("Row 100: reason ")
    # It is this program's own, and the next report takes its place.
    with pytest.raises(InputError, match="21 of 21 rows"):
        run_batch(Manifest("the rows", [], bad[:21]), tmp_path / "out")
    assert len(path.read_text().splitlines()) == 21


GONE = """
import os, sys, tempfile
from neuart_jax.io.paths import check_place
from neuart_jax.config.errors import InputError
from neuart_jax.models.params.published.published import weights_folders
from neuart_jax.config.sections import NetworkConfig
# JAX itself can't be imported in a folder that is gone, from Python 3.13 on.
folder = tempfile.mkdtemp(dir=sys.argv[1])
os.chdir(folder)
os.rmdir(folder)
try:
    check_place("x.png", name="--content")
except InputError as error:
    print(error)
print(check_place("/x.png", name="--content"), len(weights_folders(NetworkConfig())))
"""


def test_a_working_folder_that_is_gone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", GONE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("--content=x.png is not a valid path (the working folder is gone);")
    assert second == "/x.png 1"


@pytest.mark.parametrize("window", [1, 2])
def test_a_window_too_small_for_the_network_is_one_sentence(window, tmp_path, run_main, capsys):
    (content,), style = painter.pictures(tmp_path)
    layers = {"content_layers": "relu2_1", "style_layers": "relu2_1", "weights": "random"}
    assert (
        run_main(content=content, style=style, output=tmp_path / "o", window=window, **layers) == 2
    )
    said = capsys.readouterr().err
    assert said.startswith(f"what --window={window} shows is ") and said.count("\n") == 1


def test_steps_without_end_are_one_sentence():
    for name in ("steps", "coarse_steps", "realism_steps"):
        with pytest.raises(
            InputError, match=f"{name}=1000000000000; expected a whole number.*at most"
        ):
            Config().replace(**{name: 10**12})
