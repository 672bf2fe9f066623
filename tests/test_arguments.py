"""The words of a command line: files without flags, lists, and flags of other programs."""

import pytest

from neuart_jax.cli.arguments import Flags, arrange_arguments
from neuart_jax.config.errors import InputError

FLAGS = Flags(
    known=("content", "style", "style_mask", "size", "steps", "init", "enlarge", "output", "seed")
    + ("content_weight", "content_mask", "image_name"),
    switches=("enlarge",),
    lists=("style", "style_mask"),
    single_files=("content", "content_mask", "init"),
)


def arrange(line):
    return arrange_arguments(line.split(), FLAGS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--content=a.jpg --style=b.jpg", "--content=a.jpg --style=b.jpg"),
        ("--style a.jpg b.jpg --size 64", "--style=a.jpg --style=b.jpg --size=64"),
        ("--style a.jpg b.jpg c.jpg", "--style=a.jpg --style=b.jpg --style=c.jpg"),
        ("photo.jpg painting.jpg", "--content=photo.jpg --style=painting.jpg"),
        ("p.jpg --size=64 a.jpg b.jpg", "--size=64 --content=p.jpg --style=a.jpg --style=b.jpg"),
        ("--content=p.jpg --style=a.jpg b.jpg", "--content=p.jpg --style=a.jpg --style=b.jpg"),
        ("-size 64 --seed -1", "--size=64 --seed=-1"),
        ("--enlarge true --size=9", "--enlarge=true --size=9"),
        ("--enlarge No", "--enlarge=false"),
        ("--enlarge=Off", "--enlarge=false"),
        ("--enlarge --noenlarge", "--enlarge --noenlarge"),
        ("--enlarge photo.jpg", "--enlarge --content=photo.jpg"),
        ("--content-weight 5", "--content_weight=5"),
        ("--output=a=b", "--output=a=b"),
        ("-- -odd.jpg b.jpg", "--content=-odd.jpg --style=b.jpg"),
    ],
)  # fmt: skip
def test_words_become_flags(line, expected):
    assert arrange(line) == expected.split()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--content=a.jpg --content=b.jpg", "--content has 2 files: a.jpg, b.jpg; .*--pair=cross"),
        ("--content a.jpg b.jpg c.jpg d.jpg", r"content has 4 files: .*, \.\.\.; .*pattern"),
        ("--init=a.png --init=b.png", "--init has 2 files"),
        ("--size --style=a.jpg", "--size came without a value; expected --size=VALUE"),
        ("--style=a.jpg rubbish", "'rubbish' is neither a flag nor a file"),
        ("--contnt=a.jpg", "--contnt is not a flag of this command; .*did you mean --content"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told(line, message):
    with pytest.raises(InputError, match=message):
        arrange(line)


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("-content_image a.jpg", "write --content=a.jpg."),
        ("-style_image b.jpg", "write --style=b.jpg."),
        ("--styles b.jpg", "write --style=b.jpg."),
        ("--image_size=512", "write --size=512."),
        ("--max_size 512", "write --size=512."),
        ("--end-scale 512", "write --size=512."),
        ("--iterations 500", "write --steps=500."),
        ("-num_iterations 500", "write --steps=500."),
        ("--iterations", "write --steps=...."),
        ("-gpu 0", "write CUDA_VISIBLE_DEVICES=0 before the command, which chooses a card."),
        ("-gpu -1", "write CUDA_VISIBLE_DEVICES=0 before the command, which chooses a card."),
        ("-output_image o.png", "write --output=o.png."),
        ("-o o.png", "write --output=o.png."),
        ("-s b.jpg", "write --style=b.jpg."),
        ("-original_colors 1", "write --color=keep."),
        ("-backend cudnn", "leave out -backend."),
    ],
)
def test_flags_of_other_programs_are_translated(line, ours):
    with pytest.raises(InputError) as refused:
        arrange(line)
    assert str(refused.value).endswith(f"; {ours}")


def test_all_of_them_at_once():
    with pytest.raises(InputError) as refused:
        arrange("-content_image a.jpg -style_image b.jpg -image_size 512 -wibble -init random")
    assert str(refused.value).startswith(
        "-content_image, -style_image, -image_size, -wibble are not flags of this command; "
        "expected flags that --help lists; write --content=a.jpg, write --style=b.jpg, write "
        "--size=512, for -wibble, did you"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--enlarge=maybe", r"--enlarge=maybe; expected --enlarge or --noenlarge"),
        ("--noenlarge=3", r"--noenlarge=3; expected --noenlarge alone"),
    ],
)
def test_a_switch_is_on_or_off(line, message):
    with pytest.raises(InputError, match=message):
        arrange(line)
