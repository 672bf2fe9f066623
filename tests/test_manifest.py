"""Which pictures go together, and what each row says."""

import json
import logging

import pytest

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.runs.manifest import find_jobs, folder_name, make_jobs, read_manifest


@pytest.fixture
def folders(tmp_path):
    for name in ("photos/b.jpg", "photos/a.PNG", "photos/notes.txt", "photos/.hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("paintings/y.png", "paintings/x.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(jobs):
    return [job.name for job in jobs]


def jobs_of(contents, styles, *, pair):
    return make_jobs(Config(), str(contents), [str(style) for style in styles], pair=pair)


def write(folder, text, name="t.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_manifest(Config(), str(folder / name))


def test_zip_goes_by_name(folders):
    jobs = jobs_of(folders / "photos", [folders / "paintings"], pair="zip")
    assert names(jobs) == ["a__x", "b__y"]
    assert jobs[0].content == str(folders / "photos/a.PNG")
    assert jobs[1].style == (str(folders / "paintings/y.png"),)
    assert [job.row for job in jobs] == [1, 2]


def test_cross_takes_all_with_all(folders):
    jobs = jobs_of(folders / "photos", [folders / "paintings", "other.png"], pair="cross")
    assert names(jobs) == [f"{c}__{style}" for c in "ab" for style in ("x", "y", "other")]


def test_two_files_are_a_pair():
    assert names(jobs_of("one.jpg", ["two.jpg"], pair="zip")) == ["one__two"]


def test_patterns_are_files_by_name(folders):
    jobs = jobs_of(folders / "*/[ab].*", [folders / "paintings/*"], pair="zip")
    assert names(jobs) == ["a__x", "b__y"]
    # A file may have the name of a pattern.
    (folders / "[x].png").touch()
    assert names(jobs_of(folders / "[x].png", ["s.png"], pair="zip")) == ["x___s"]


def test_a_table_is_read_from_its_own_folder(folders):
    manifest = write(
        folders,
        "\ufeffstyle, content\r\n"
        f"paintings/x.webp,photos/a.PNG\r\n{folders}/paintings/y.png, photos/a.PNG\r\n",
    )
    jobs = manifest.all_jobs()
    assert names(jobs) == ["a__x", "a__y"]
    assert jobs[0].content == str(folders / "photos/a.PNG")
    assert jobs[1].style == (f"{folders}/paintings/y.png",)


def test_cells_are_settings_and_empty_ones_leave_them_alone(tmp_path):
    [first, second] = write(
        tmp_path,
        "content,style,output,steps,enlarge,style_blend,weights,init,style_layers\n"
        'a.png,b.png; c.png,one,7,true,"3,1",mine.h5,noise,"relu1_1:2,relu2_1:1"\n'
        "a.png,b.png,,,,,fitted,start.png,\n",
    ).all_jobs()
    assert first.name == "one"
    assert first.style == (str(tmp_path / "b.png"), str(tmp_path / "c.png"))
    assert first.config.run.steps == 7
    assert first.config.images.enlarge
    assert first.config.losses.style_blend == (3.0, 1.0)
    assert first.config.losses.style_layers == (("relu1_1", 2.0), ("relu2_1", 1.0))
    assert first.config.network.weights == str(tmp_path / "mine.h5")
    assert first.config.run.init == "noise"
    assert second.name == "a__b"
    assert second.config.network.weights == "fitted"
    assert second.config.run.init == str(tmp_path / "start.png")
    assert second.config.run.steps == Config().run.steps


def test_json_lines_say_the_same(tmp_path):
    rows = [
        {"content": "a.png", "style": ["b.png", "c;d.png"], "steps": 7, "output": "one"},
        {"content": "a.png", "style": "b.png", "style_layers": {"relu1_1": 2}},
    ]
    text = json.dumps(rows[0]) + "\n\n" + json.dumps(rows[1])
    [first, second] = write(tmp_path, text, "t.jsonl").all_jobs()
    assert first.style == (str(tmp_path / "b.png"), str(tmp_path / "c;d.png"))
    assert (first.config.run.steps, first.name, first.row) == (7, "one", 1)
    assert second.config.losses.style_layers == (("relu1_1", 2.0),)
    assert second.row == 3


def test_json_lines_hold_what_ends_lines_elsewhere(tmp_path):
    name = "a\u2028b\x85c"
    text = json.dumps({"content": f"{name}.png", "style": "s.png"}, ensure_ascii=False)
    [job] = write(tmp_path, f"{text}\r\n", "t.jsonl").all_jobs()
    assert job.content == str(tmp_path / f"{name}.png")


def test_the_same_names_in_other_folders_stay_apart(tmp_path):
    manifest = write(tmp_path, "content,style\nx/a.png,s.png\ny/A.png,s.png\na_.png,s.png\n")
    assert len({name.lower() for name in names(manifest.all_jobs())}) == 3


BAD_ROWS = {
    "a.png,,,": "it lacks a style",
    ",b.png,,": "it lacks a content",
    "a.png,b.png,-3,": "steps=-3.*at least 1",
    "a.png,b.png,many,": "steps='many'",
    "a.png,b.png,3,../x": "output='../x'",
    "a.png,b.png,3,two words": "output='two words'",
    "a.png,b.png,3,Good": "output='Good' is used by an earlier row",
    "a.png,b.png,3,x,y": "1 cells more than the header",
}


def test_all_bad_rows_are_told_at_once(tmp_path):
    text = "content,style,steps,output\na.png,b.png,3,good\n" + "\n".join(BAD_ROWS)
    manifest = write(tmp_path, text)
    assert names(manifest.jobs) == ["good"]
    assert [bad.row for bad in manifest.bad_rows] == list(range(2, 2 + len(BAD_ROWS)))
    for bad, sentence in zip(manifest.bad_rows, BAD_ROWS.values(), strict=True):
        with pytest.raises(InputError, match=sentence):
            raise InputError(bad.reason, expected="", remedy="")
    with pytest.raises(InputError, match=r"8 of 9 rows of --manifest=.*row 2: it lacks a style"):
        manifest.all_jobs()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[1, 2]", r"it is \[1, 2\]"),
        ('{"content": "a", "style": "b", "stile": 1}', "'stile' is not a setting.*'style'"),
        ('{"content": 3, "style": "b"}', "content=3"),
        ('{"content": "a", "style": [3]}', "style=.3."),
        ('{"content": "a", "style": "b", "output": 7}', "output=7"),
        ('{"content": "a", "style": "b", "weights": null}', "weights=None"),
    ],
)
def test_bad_lines(line, sentence, tmp_path):
    [bad] = write(tmp_path, line, "t.jsonl").bad_rows
    with pytest.raises(InputError, match=sentence):
        raise InputError(bad.reason, expected="", remedy="")


@pytest.mark.parametrize("text", ["", "content,style\n"])
def test_tables_without_rows(tmp_path, text):
    with pytest.raises(InputError, match="has no rows"):
        write(tmp_path, text)


def test_bad_pairs(folders):
    photos, paintings = folders / "photos", folders / "paintings"
    with pytest.raises(InputError, match="--content names 2 images and --style 1;"):
        jobs_of(photos, ["x.png"], pair="zip")
    with pytest.raises(InputError, match="--pair=crss is not known.*'cross'"):
        jobs_of(photos, [paintings], pair="crss")
    with pytest.raises(InputError, match="--style is missing"):
        jobs_of(photos, [], pair="zip")
    (folders / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no image"):
        jobs_of(folders / "empty", [paintings], pair="zip")
    with pytest.raises(InputError, match="matches no file"):
        jobs_of(folders / "*.gif", [paintings], pair="zip")
    with pytest.raises(InputError, match="nowhere.csv can't be read"):
        read_manifest(Config(), "nowhere.csv")
    (folders / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.csv can't be read"):
        read_manifest(Config(), str(folders / "binary.csv"))
    with pytest.raises(InputError, match="one way of naming the pairs"):
        find_jobs(Config().replace(content="a.png"), manifest="t.csv")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my photo (1)", "my_photo_1"),
        ("../x", "x"),
        ("", "unnamed"),
        ("ü", "ü"),
        ("?!", "unnamed"),
        ("a" * 99, "a" * 80),
        ("NUL", "NUL_"),
        ("com1.old", "com1_.old"),
        ("console", "console"),
    ],
)
def test_names_of_folders(text, name):
    assert folder_name(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("写真__絵画", "写真__絵画"),
        ("Фото__Картина", "Фото__Картина"),
        ("café", "café"),
        ("cafe\u0301", "café"),  # As Macs write it.
        ("नमस्ते", "नमस्ते"),
        ("a/b\\c:d*e?f", "a_b_c_d_e_f"),
        ("caf\udce9", "caf"),
        ("100% #1", "100_1"),
        ("\u0000\u200b", "unnamed"),
        ("𝄞" * 90, "unnamed"),
        ("画" * 90, "画" * 66),
    ],
)
def test_names_keep_their_letters(text, name):
    assert folder_name(text) == name


def test_pairs_in_any_script_stay_with_their_folders(tmp_path):
    """Whatever other files come: only what would have the same name is told apart."""
    for name in ("写真/二.png", "写真/三.png", "Фото/кот.png", "絵画/波.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = names(jobs_of(tmp_path / "写真", [tmp_path / "絵画"], pair="cross"))
    assert before == ["三__波", "二__波"]
    (tmp_path / "写真/一.png").touch()
    after = names(jobs_of(tmp_path / "写真", [tmp_path / "絵画"], pair="cross"))
    assert set(before) < set(after) and len(after) == 3
    assert names(jobs_of(tmp_path / "Фото", [tmp_path / "絵画"], pair="cross")) == ["кот__波"]


def test_pairs_of_one_name_are_told_apart_by_their_pictures(tmp_path):
    for name in ("a.png", "a.jpg", "b.png", "s.png"):
        (tmp_path / name).touch()
    styles = [tmp_path / "s.png"]
    found = names(jobs_of(tmp_path / "[ab].*", styles, pair="cross"))
    assert found[2] == "b__s"
    assert [name[:5] for name in found[:2]] == ["a__s_", "a__s_"]
    assert len(set(found)) == 3
    # A third one moves no folder of theirs.
    (tmp_path / "a.bmp").touch()
    assert set(found) < set(names(jobs_of(tmp_path / "[ab].*", styles, pair="cross")))


def test_long_names_of_one_beginning_do_not_depend_on_others(tmp_path):
    contents = [tmp_path / f"{'x' * 50}{number}.png" for number in range(3)]
    for content in contents:
        content.touch()
    alone = [names(jobs_of(c, ["s.png"], pair="cross")) for c in contents]
    assert [[name] for name in names(jobs_of(tmp_path, ["s.png"], pair="cross"))] == alone


@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_spreadsheets_of_any_country_are_read(tmp_path, mark):
    lines = [["content", "style", "steps"], ["a.png", '"b.png;c.png"', "7"]]
    [job] = write(tmp_path, "\r\n".join(mark.join(line) for line in lines)).all_jobs()
    assert job.content == str(tmp_path / "a.png")
    assert job.style == (str(tmp_path / "b.png"), str(tmp_path / "c.png"))
    assert job.config.run.steps == 7


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    for number in range(1, 13):
        (tmp_path / f"frame_{number}.png").touch()
    found = names(jobs_of(tmp_path, ["s.png"], pair="cross"))
    assert found == [f"frame_{number}__s" for number in range(1, 13)]


@pytest.mark.parametrize(("other", "told"), [("frame_2.png", True), ("cat.png", False)])
def test_frames_of_a_film_are_told_of_a_better_way(tmp_path, caplog, other, told):
    caplog.set_level(logging.INFO)
    for name in ("frame_1.png", other):
        (tmp_path / name).touch()
    config = Config().replace(content=str(tmp_path), style="s.png")
    assert len(find_jobs(config, pair="cross").jobs) == 2
    assert ("if they are the frames of a film, leave out --pair" in caplog.text) == told
