"""Which pictures go together."""

import pytest

from neuart_jax.errors import InputError
from neuart_jax.experiments.pairs import find_pairs, folder_name, make_pairs, read_pairs
from neuart_jax.sections import ImagesConfig


@pytest.fixture
def folders(tmp_path):
    for name in ("photos/b.jpg", "photos/a.PNG", "photos/notes.txt", "photos/.hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("paintings/y.png", "paintings/x.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(pairs):
    return [pair.name for pair in pairs]


def test_zip_goes_by_name(folders):
    pairs = make_pairs(str(folders / "photos"), [str(folders / "paintings")], pairing="zip")
    assert names(pairs) == ["a__x", "b__y"]
    assert pairs[0].content == str(folders / "photos/a.PNG")
    assert pairs[1].style == str(folders / "paintings/y.png")


def test_cross_takes_all_with_all(folders):
    styles = [str(folders / "paintings"), "other.png"]
    pairs = make_pairs(str(folders / "photos"), styles, pairing="cross")
    expected = [f"{content}__{style}" for content in "ab" for style in ("x", "y", "other")]
    assert names(pairs) == expected


def test_two_files_are_a_pair():
    assert names(make_pairs("one.jpg", ["two.jpg"], pairing="zip")) == ["one__two"]


def test_a_table_is_read_from_its_own_folder(folders):
    table = folders / "pairs.csv"
    table.write_text(
        "\ufeffstyle, content, remark\r\n"
        f"paintings/x.webp,photos/a.PNG,\r\n{folders}/paintings/y.png, photos/a.PNG,good\r\n",
        encoding="utf-8",
    )
    pairs = read_pairs(str(table))
    assert names(pairs) == ["a__x", "a__y"]
    assert pairs[0].content == str(folders / "photos/a.PNG")
    assert pairs[1].style == f"{folders}/paintings/y.png"


def test_the_same_names_in_other_folders_stay_apart(tmp_path):
    (tmp_path / "t.csv").write_text("content,style\nx/a.png,s.png\ny/A.png,s.png\na_.png,s.png\n")
    found = names(read_pairs(str(tmp_path / "t.csv")))
    assert len({name.lower() for name in found}) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no row"),
        ("content,style\n", "has no row"),
        ("content,stile\na.png,b.png\n", "row 1 of .* lacks a content or a style"),
        ("content,style\na.png,b.png\na.png\n", "row 2 of"),
    ],
)
def test_bad_tables(tmp_path, text, sentence):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_pairs(str(tmp_path / "t.csv"))


def test_bad_pairs(folders):
    photos, paintings = str(folders / "photos"), str(folders / "paintings")
    with pytest.raises(InputError, match="--content has 2 pictures and --style has 1"):
        make_pairs(photos, ["x.png"], pairing="zip")
    with pytest.raises(InputError, match="--pairing=crss is not known.*'cross'"):
        make_pairs(photos, [paintings], pairing="crss")
    with pytest.raises(InputError, match="--style is missing"):
        make_pairs(photos, [], pairing="zip")
    (folders / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no picture"):
        make_pairs(str(folders / "empty"), [paintings], pairing="zip")
    with pytest.raises(InputError, match="nowhere.csv can't be read"):
        read_pairs("nowhere.csv")
    (folders / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.csv can't be read"):
        read_pairs(str(folders / "binary.csv"))
    with pytest.raises(InputError, match="one way of naming the pairs"):
        find_pairs(ImagesConfig(content="a.png"), table="t.csv")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my photo (1)", "my_photo_1"),
        ("../x", "x"),
        ("", "unnamed"),
        ("ü", "unnamed"),
        ("a" * 99, "a" * 80),
    ],
)
def test_names_of_folders(text, name):
    assert folder_name(text) == name
