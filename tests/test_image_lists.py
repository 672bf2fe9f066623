"""Which files a text names."""

import logging

import pytest

from neuart_jax.config.errors import InputError
from neuart_jax.io.image_lists import list_named_images, sort_naturally


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "c,d.jpg", "photos [2019]/2.jpg", "photos [2019]/10.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("a.jpg", ["a.jpg"]),
        ("missing.jpg", ["missing.jpg"]),
        ("a.jpg,b.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg, b.jpg", ["a.jpg", "b.jpg"]),
        ("c,d.jpg", ["c,d.jpg"]),
        ("photos [2019]", ["photos [2019]/2.jpg", "photos [2019]/10.jpg"]),
        ("photos [2019]/*.jpg", ["photos [2019]/2.jpg", "photos [2019]/10.jpg"]),
        ("photos*/1?.jpg", ["photos [2019]/10.jpg"]),
        ("[ab].jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg,photos [2019]/*", ["a.jpg", "photos [2019]/2.jpg", "photos [2019]/10.jpg"]),
    ],
)
def test_files_folders_patterns_and_lists(folder, text, files):
    assert list_named_images(text, name="--style") == files
    assert list_named_images(text, name="--style", beside=folder) == [
        str(folder / file) for file in files
    ]


def test_the_home_folder_is_found_in_every_part(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    files = [str(folder / "a.jpg"), str(folder / "b.jpg")]
    assert list_named_images("~/a.jpg,~/b.jpg", name="--style") == files


def test_a_list_with_a_part_that_is_missing_shows_the_way(folder):
    with pytest.raises(InputError, match="neither does x.jpg; .*--style=A --style=B"):
        list_named_images("a.jpg,x.jpg", name="--style")


def test_every_kind_that_is_read_is_taken_and_the_rest_is_told(tmp_path, caplog):
    taken = ["a.jpg", "b.avif", "c.jp2", "d.ppm", "e.jfif", "f.PNG", "g.tif", "h.webp"]
    for name in (*taken, "notes.txt", "drawing.svg", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "more.png").mkdir()
    with caplog.at_level(logging.INFO, "neuart_jax"):
        found = list_named_images(str(tmp_path), name="--style")
    assert found == [str(tmp_path / name) for name in taken]
    assert f"{tmp_path}: skipped drawing.svg, more.png, notes.txt." in caplog.messages


def test_a_folder_without_pictures_says_what_is_there(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds no image that can be read, only notes.txt;"):
        list_named_images(str(tmp_path), name="--style")


def test_names_are_sorted_by_their_numbers():
    names = ["frame_10", "frame_2", "Frame_1", "x", "frame_2b", "3", "²", "frame_007"]
    assert sort_naturally(names) == [
        *("3", "Frame_1", "frame_2", "frame_2b", "frame_007", "frame_10", "x", "²")
    ]
