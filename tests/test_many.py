"""Many pairs: each as if alone, none lost, none twice."""

import csv
import html.parser
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_array_equal
from standins import write_converted

from neuart_jax import Config, InputError, save_image, transfer
from neuart_jax.io.images import load_image
from neuart_jax.runs import checkpoints, scheduler
from neuart_jax.runs.batch import run_batch
from neuart_jax.runs.batch.plan import advise_on_sizes, check_jobs, make_groups
from neuart_jax.runs.folder import RunFolder
from neuart_jax.runs.manifest import Job, Manifest, make_jobs
from neuart_jax.runs.record import read_record

pytestmark = pytest.mark.slow

SIZES = [(40, 48), (48, 40), (40, 48), (37, 50), (40, 48), (48, 40)]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a network with one convolution, whose weights are in a file that pairs share."""
    path = write_converted(tmp_path_factory.mktemp("weights") / "mine.safetensors", "vgg19")
    return Config().replace(
        weights=str(path),
        content_layers="conv1_1",
        style_layers="relu1_1",
        # A file's weights count as trained ones; these are not.
        style_loss="relative",
        content_weight=8,
        tv_weight=100,
        range_weight=0,
        steps=6,
        report_every=2,
        scales=1,
        checkpoint_seconds=1e-6,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(SIZES):
        save_image(folder / f"photo{number}.png", smooth_image(*size, seed=number))
    for number, size in enumerate([(50, 40), (44, 60)]):
        save_image(folder / f"style{number}.png", smooth_image(*size, seed=20 + number))
    return folder


@pytest.fixture
def jobs(config, pictures):
    return make_jobs(
        config, str(pictures / "photo*.png"), [str(pictures / "style*.png")], pair="cross"
    )


@pytest.fixture
def groups_run(monkeypatch):
    """The names of the pairs of every group that is painted, as it is."""
    names = []
    paint_task = scheduler.paint_task

    def counted(group, task, **options):
        names.append([job.name for job in task.jobs])
        return paint_task(group, task, **options)

    monkeypatch.setattr(scheduler, "paint_task", counted)
    return names


def run(jobs, folder, **options):
    return run_batch(Manifest("the rows", list(jobs), []), folder, **options)


def read_summary(folder):
    with open(folder / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def read_results(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/result.png")}


def load_results(folder):
    return {p.parent.name: load_image(str(p)).image for p in folder.glob("*/result.png")}


@pytest.fixture(scope="module")
def alone(config, pictures, tmp_path_factory):
    """Every pair by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for job in make_jobs(
        config, str(pictures / "photo*.png"), [str(pictures / "style*.png")], pair="cross"
    ):
        transfer(job.config.replace(output=str(folder / job.name)))
    return load_results(folder)


@pytest.mark.parametrize("batch", [0, 1, 2, 4, 16])
def test_every_pair_comes_out_as_if_alone(batch, jobs, alone, tmp_path, groups_run):
    result = run(jobs, tmp_path, batch=batch)
    assert result.failed == 0
    found = load_results(tmp_path)
    assert found.keys() == alone.keys()
    for name, image in found.items():
        assert image.shape == alone[name].shape
        # A sum in another order can round a byte the other way.
        assert np.abs(image - alone[name]).max() <= 1.01 / 255
    assert max(map(len, groups_run)) == min(max(batch, 1), 6)
    assert sorted(name for group in groups_run for name in group) == sorted(alone)


def test_order_and_company_do_not_matter(jobs, alone, tmp_path):
    some = [jobs[index] for index in (7, 11, 0, 4, 1)]
    run(some, tmp_path, batch=3)
    for name, image in load_results(tmp_path).items():
        assert np.abs(image - alone[name]).max() <= 1.01 / 255


def test_pairs_have_settings_of_their_own(config, jobs, tmp_path, groups_run):
    changed = [
        job._replace(config=job.config.replace(seed=number, content_weight=2.0**number))
        for number, job in enumerate(jobs[:2])
    ]
    other = jobs[2]._replace(config=config.replace(steps=3, content=jobs[2].content, style=()))
    other = other._replace(config=other.config.replace(style=jobs[2].style))
    run([*changed, other], tmp_path, batch=4)
    # The same shape of content, but other steps.
    assert groups_run == [[job.name for job in changed], [other.name]]
    records = [read_record(tmp_path / job.name / "config.json") for job in (*changed, other)]
    assert [r.config.losses.content_weight for r in records] == [1.0, 2.0, 8.0]
    assert [r.outcome["steps"] for r in records] == [6, 6, 3]


def test_the_summary_has_a_line_for_every_row(jobs, tmp_path):
    run(jobs, tmp_path, batch=2)
    lines = read_summary(tmp_path)
    assert [line["pair"] for line in lines] == [job.name for job in jobs]
    for line in lines:
        record = read_record(tmp_path / line["pair"] / "config.json")
        assert line["status"] == "completed"
        assert float(line["total_loss"]) == record.outcome["losses"]["total"]
        assert (tmp_path / line["image"]).is_file()


def test_what_is_there_is_not_painted_again(jobs, tmp_path, groups_run):
    run(jobs[:4], tmp_path, batch=2)
    before = read_results(tmp_path)
    groups_run.clear()
    run(jobs[:4], tmp_path, batch=2)
    assert groups_run == []
    (tmp_path / jobs[1].name / "result.png").unlink()
    run(jobs, tmp_path, batch=2)
    assert sorted(sum(groups_run, [])) == sorted(j.name for j in (jobs[1], *jobs[4:]))
    after = read_results(tmp_path)
    del before[jobs[1].name]
    assert {name: after[name] for name in before} == before
    assert not (tmp_path / "checkpoints").exists()


def test_a_folder_with_other_settings_is_refused_with_the_difference(jobs, tmp_path, caplog):
    run(jobs[:2], tmp_path)
    others = [job._replace(config=job.config.replace(steps=7)) for job in jobs[:3]]
    with pytest.raises(InputError, match="2 of 3 rows of the rows can't be used"):
        run(others, tmp_path)
    assert f"Row 1: {tmp_path / jobs[0].name} already holds" in caplog.text
    assert "steps: 6 there, 7 here" in caplog.text
    assert run(others, tmp_path, overwrite=True).failed == 0
    assert read_record(tmp_path / jobs[0].name / "config.json").outcome["steps"] == 7


def test_weights_that_changed_under_their_name_are_noticed(jobs, tmp_path, caplog):
    path = write_converted(tmp_path / "mine.safetensors", "vgg19")
    jobs = [job._replace(config=job.config.replace(weights=str(path))) for job in jobs[:2]]
    run(jobs, tmp_path / "out")
    write_converted(path, "vgg19", seed=1)
    with pytest.raises(InputError, match="2 of 2 rows"):
        run(jobs, tmp_path / "out")
    assert re.search(
        "Row 1: .*weights: file [0-9a-f]{12} there, file [0-9a-f]{12} here", caplog.text
    )
    path.unlink()
    with pytest.raises(InputError, match="2 of 2 rows"):
        run(jobs, tmp_path / "out")
    assert "mine.safetensors is not a file" in caplog.text


class Crash(Exception):
    """What ends a batch at a moment of the test's choice."""


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_that_crashed_ends_as_if_it_had_not(batch, jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SHARE_OF_TIME", 1e12)
    jobs = jobs[:7]
    run(jobs, tmp_path / "whole", batch=batch)
    rng = np.random.default_rng(0)
    crashes = 0
    for calls in rng.integers(2, 9, size=20):
        left = iter(range(int(calls)))

        def observe(progress, left=left):
            if next(left, None) is None:
                raise Crash

        try:
            run(jobs, tmp_path / "cut", batch=batch, observer=observe)
        except Crash:
            crashes += 1
    assert crashes >= 3
    run(jobs, tmp_path / "cut", batch=batch)
    whole, cut = (load_results(tmp_path / name) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    for name, image in whole.items():
        assert_array_equal(cut[name], image)
    assert not (tmp_path / "cut/checkpoints").exists()


def test_results_that_were_half_written_are_made_again_from_where_they_ended(
    jobs, tmp_path, monkeypatch
):
    """Two of a group's three are there, and the third goes on where it ended."""
    group = [job for job in jobs if job.name.startswith(("photo0", "photo2"))][:3]
    run(group, tmp_path / "whole", batch=3)
    save = RunFolder.save
    saved = []

    def fail_at_the_third(*args, **options):
        if len(saved) == 2:
            raise Crash
        saved.append(1)
        save(*args, **options)

    monkeypatch.setattr(RunFolder, "save", fail_at_the_third)
    with pytest.raises(Crash):
        run(group, tmp_path / "cut", batch=3)
    assert len(read_results(tmp_path / "cut")) == 2
    monkeypatch.undo()
    steps = []
    run(group, tmp_path / "cut", batch=3, observer=lambda p: steps.append(p.progress))
    assert not any(steps)  # No chunk was run.
    whole, cut = (load_results(tmp_path / name) for name in ("whole", "cut"))
    for name, image in whole.items():
        assert_array_equal(cut[name], image)


def test_a_batch_that_is_stopped_goes_on(jobs, tmp_path):
    whole = run(jobs[:5], tmp_path / "whole")
    seen = []

    def observe(progress):
        seen.append(progress)
        return progress.name == jobs[2].name and 0 < progress.part % 1 < 1

    result = run(jobs[:5], tmp_path / "cut", observer=observe)
    assert result.stopped and result.failed == 0
    assert {line.status for line in result.lines} == {"completed", "stopped", ""}
    assert seen[-1].num_done < 5
    assert not run(jobs[:5], tmp_path / "cut").stopped
    assert whole.lines[0].pair in read_results(tmp_path / "cut")
    whole, cut = (load_results(tmp_path / name) for name in ("whole", "cut"))
    for name, image in whole.items():
        assert_array_equal(cut[name], image)


def test_progress_counts_pairs_and_knows_the_time_left(jobs, tmp_path):
    run(jobs[:1], tmp_path)
    seen = []
    run(jobs[:3], tmp_path, observer=lambda progress: seen.append(progress))
    assert all(p.num_pairs == 3 and p.num_found == 1 and p.num_done >= 1 for p in seen)
    assert seen[-1].num_done == 3
    assert seen[-1].seconds_left == 0
    middle = next(p for p in seen if p.num_done + p.part == 2)
    assert middle.pairs_per_hour == pytest.approx(3600 / middle.seconds)
    assert middle.seconds_left == pytest.approx(middle.seconds)


def test_a_second_run_in_a_folder_is_refused(jobs, tmp_path):
    def observe(progress):
        with pytest.raises(InputError, match="is being written by process "):
            run(jobs[:1], tmp_path)

    run(jobs[:1], tmp_path, observer=observe)


def bad_rows(config, pictures, folder):
    """Ten kinds, each with what is said of it."""
    (folder / "text.png").write_text("no picture")
    (folder / "empty").mkdir()
    whole = (pictures / "photo0.png").read_bytes()
    (folder / "short.png").write_bytes(whole[: len(whole) // 2])
    save_image(folder / "tiny.png", smooth_image(1, 1, seed=0))
    save_image(folder / "mask.png", np.zeros((40, 48, 3), np.float32))
    content, style = str(pictures / "photo0.png"), str(pictures / "style0.png")
    changes = [
        ({"content": "nowhere.jpg"}, "nowhere.jpg can't be read"),
        ({"content": str(folder / "text.png")}, "text.png"),
        ({"content": str(folder / "short.png")}, "short.png"),
        ({"style": str(folder / "empty")}, "holds no image"),
        ({"style": str(folder / "tiny.png"), "style_layers": "relu2_1"}, "is 1x1 pixels"),
        ({"model": "vgg91"}, "model 'vgg91' is not known"),
        ({"style_layers": "relu9_1"}, "has no layer 'relu9_1'"),
        ({"style_blend": (1, 2)}, "style_blend has 2 shares"),
        ({"content_mask": str(folder / "mask.png"), "regions": ("red",)}, "red"),
        ({"init": "noize"}, "noize"),
    ]
    base = config.replace(content=content, style=style)
    return [
        (Job(f"bad{number}", base.replace(**settings), number + 2), sentence)
        for number, (settings, sentence) in enumerate(changes)
    ]


def test_all_bad_rows_are_told_before_the_first_step(
    config, jobs, pictures, tmp_path, caplog, groups_run
):
    bad = bad_rows(config, pictures, tmp_path)
    rows = [jobs[0], *(job for job, _ in bad)]
    with pytest.raises(InputError, match="10 of 11 rows of the rows can't be used"):
        run(rows, tmp_path / "out")
    assert groups_run == []
    messages = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(messages) == 10
    for (job, sentence), message in zip(bad, messages, strict=True):
        assert message.startswith(f"Row {job.row}: ")
        with pytest.raises(InputError, match=sentence):
            raise InputError(message, expected="", remedy="")
    result = run(rows, tmp_path / "out", keep_going=True)
    assert result.failed == 10
    assert list(read_results(tmp_path / "out")) == [jobs[0].name]
    assert [line["status"] for line in read_summary(tmp_path / "out")] == [
        "completed",
        *["bad row"] * 10,
    ]


def test_a_group_that_fails_leaves_the_others_with_keep_going(jobs, tmp_path, monkeypatch):
    read = scheduler.read_task

    def fail_for_one(task, folder):
        if task.jobs[0].name == jobs[1].name:
            raise InputError("it is gone", expected="it", remedy="bring it back")
        return read(task, folder)

    monkeypatch.setattr(scheduler, "read_task", fail_for_one)
    with pytest.raises(InputError, match="it is gone"):
        run(jobs[:3], tmp_path / "a")
    result = run(jobs[:3], tmp_path / "b", keep_going=True)
    assert [line.status for line in result.lines] == ["completed", "failed", "completed"]
    assert "it is gone" in read_summary(tmp_path / "b")[1]["remark"]


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "meta"):
            self.open.append(tag)
        self.images += [dict(attrs)["src"]] if tag == "img" else []
        self.links += [dict(attrs)["href"]] if tag == "a" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_gallery_is_one_page_with_all_pictures(config, jobs, pictures, tmp_path):
    odd = pictures / "<b>&.png"
    save_image(odd, smooth_image(40, 48, seed=3))
    job = Job("odd", config.replace(content=str(odd), style=jobs[0].style), 3)
    missing = Job("missing", config.replace(content="nowhere.png", style=jobs[0].style), 4)
    run([*jobs[:2], job, missing], tmp_path, keep_going=True)
    page = _Page((tmp_path / "gallery.html").read_text(encoding="utf-8"))
    assert len(page.images) == 9
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    assert page.links == [f"{name}/result.png" for name in (jobs[0].name, jobs[1].name, "odd")]
    assert all((tmp_path / link).is_file() for link in page.links)
    assert any("nowhere.png can't be read" in word for word in page.words)
    assert any(word.startswith("3 of 4 images") for word in page.words)


def test_mixed_sizes_share_programs_with_a_size_step(jobs, tmp_path, groups_run, alone):
    rounded = [job._replace(config=job.config.replace(size_step=8)) for job in jobs]
    run(rounded, tmp_path, batch=16)
    assert sorted(map(len, groups_run)) == [4, 8]
    for name, image in load_results(tmp_path).items():
        assert image.shape == alone[name].shape


def run_python(code, **environment):
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags_of(config):
    values = {n: v for section in config.to_dict().values() for n, v in section.items()}
    names = ("weights", "steps", "report_every", "scales")
    return {**{n: values[n] for n in names}, "content_layers": "conv1_1", "style_layers": "relu1_1"}


def test_the_command_line_paints_many(config, pictures, tmp_path, run_main, capsys):
    table = tmp_path / "pairs.csv"
    row = f"{pictures}/photo0.png,{pictures}/style0.png"
    table.write_text(f"content,style,steps\n{row},3\n{row},\nnowhere.png,{row.split(',')[1]},\n")
    flags = {**flags_of(config), "manifest": table, "output": tmp_path / "out"}
    assert run_main(**flags) == 2
    said = capsys.readouterr().err
    assert "Row 3: " in said and "add --keep_going" in said
    assert run_main(**flags, keep_going=True) == 1
    out, said = capsys.readouterr()
    assert out.strip() == str(tmp_path / "out/gallery.html")
    assert "3 rows: 2 completed, 1 bad row." in said
    assert [line["steps"] for line in read_summary(tmp_path / "out")] == ["3", "6", ""]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"pair": "zip"}, "--output is missing"),
        ({"pair": "zap", "output": "x"}, "--pair=zap is not known.*'zip'"),
        ({"pair": "zip", "output": "x", "batch": "many"}, "--batch=many; expected a whole number"),
        ({"pair": "zip", "output": "x", "devices": "-1"}, "--devices=-1; expected a whole number"),
        ({"pair": "zip", "output": "x", "engine": "rya"}, "--engine=rya is not known"),
        ({"manifest": "t.csv", "output": "x", "pair": "zip"}, "one way of naming the pairs"),
        ({"batch": "4"}, "--batch came without pairs to paint; .* --manifest=FILE, or .* --pair"),
        ({"keep_going": True}, "--keep_going came without pairs to paint"),
        ({"engine": "ray"}, "--engine came without pairs to paint"),
        ({"devices": "2"}, "--devices came without pairs to paint"),
    ],
)
def test_nonsense_in_flags_is_one_sentence(flags, sentence, pictures, tmp_path, run_main, capsys):
    flags = {**flags, **({"output": tmp_path / "x"} if "output" in flags else {})}
    files = {"content": pictures / "photo0.png", "style": pictures / "style0.png"}
    assert run_main(**files, **flags) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "x").exists()


def test_many_sizes_are_worth_a_word(config, tmp_path):
    for number in range(9):
        save_image(tmp_path / f"c{number}.png", smooth_image(512, 384 + 2 * number, seed=0))
    checked, _ = check_jobs(
        make_jobs(config, str(tmp_path), [str(tmp_path / "c0.png")], pair="cross"),
        tmp_path / "out",
        overwrite=False,
        num_threads=1,
    )
    assert advise_on_sizes(checked).startswith("The images have 9 sizes")
    assert advise_on_sizes(checked).endswith("--size_step=64 reduces them to 1.")
    assert advise_on_sizes(checked[:7]) == ""


@pytest.mark.parametrize(("given", "kind"), [("", "folder"), ("photo*.png", "pattern")])
def test_many_pictures_without_pair_are_one_sentence(given, kind, pictures, run_main, capsys):
    assert run_main(content=pictures / given, style=pictures / "style0.png") == 2
    assert re.search(f"is a {kind}; .* add --pair=cross", capsys.readouterr().err)


def test_pairs_are_shared_out_among_devices(jobs, alone, tmp_path, config):
    """Five pairs on four devices: the same pictures, and as many evaluations as alone."""
    code = f"""
        from pathlib import Path
        from neuart_jax import Config
        from neuart_jax.runs.batch import run_batch
        from neuart_jax.config.config import Config
        from neuart_jax.runs.manifest import Manifest, read_manifest
        config = Config.from_dict({config.to_dict()!r})
        manifest = read_manifest(config, {str(tmp_path / "t.csv")!r})
        result = run_batch(manifest, Path({str(tmp_path / "out")!r}), batch=2, num_devices=4)
        assert result.failed == 0
        """
    same = [job for job in jobs if job.name.startswith(("photo0", "photo2", "photo4"))][:5]
    rows = [f"{job.content},{job.style[0]}" for job in same]
    (tmp_path / "t.csv").write_text("\n".join(["content,style", *rows]))
    run_python(
        code, XLA_FLAGS=f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    )
    found = load_results(tmp_path / "out")
    assert found.keys() == {job.name for job in same}
    for name, image in found.items():
        assert np.abs(image - alone[name]).max() <= 1.01 / 255


def test_devices_exchange_nothing_within_a_chunk():
    code = """
        import jax, jax.numpy as jnp
        from neuart_jax.engine.loop import compile_loop
        from neuart_jax.objective.term import Targets
        from neuart_jax.optimizers import make_lbfgs
        from neuart_jax.engine.step import Numbers, StopRule

        def objective(image, params, targets):
            loss = jnp.sum((image - targets.values["to"]) ** 4)
            return loss, {"total": loss}

        programs = compile_loop(
            objective, make_lbfgs(history=3), batched=True, num_devices=4
        )
        targets = Targets({}, {"to": jnp.ones((8, 4, 4, 3))})
        state = programs.init(jnp.zeros((8, 4, 4, 3)), (), targets)
        arguments = state, (), targets, Numbers(StopRule(9)), jnp.int32(5)
        text = programs.chunk.lower(*arguments).compile().as_text()
        words = ("all-reduce", "all-gather", "collective-permute", "all-to-all")
        assert not any(word in text for word in words)
        assert len(state.image.sharding.device_set) == 4
        """
    run_python(
        code, XLA_FLAGS=f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    )


def test_more_devices_than_there_are_is_one_sentence(jobs, tmp_path):
    with pytest.raises(InputError, match="--devices=99; expected 1 to"):
        run(jobs[:1], tmp_path, num_devices=99)
    with pytest.raises(InputError, match="--engine=rya is not known.*'ray'"):
        run(jobs[:1], tmp_path, engine="rya")


def test_several_processes_share_no_batch(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(InputError, match="many pairs came with 2 processes"):
        run(jobs[:2], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pairs_whose_rows_are_shared_out_are_painted_one_by_one(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.device_count", lambda: 2)
    alike = [job._replace(config=job.config.replace(shard_rows=2)) for job in jobs[:2]]
    alike = [job._replace(config=job.config.replace(content=jobs[0].content)) for job in alike]
    checked, bad_rows = check_jobs(alike, tmp_path, overwrite=False, num_threads=1)
    assert not bad_rows
    assert [len(group.jobs) for group in make_groups(checked, batch=2, num_devices=1)] == [1, 1]
