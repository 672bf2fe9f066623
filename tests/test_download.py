"""A download gives the published file under its name, or a reason and nothing else."""

import errno
import hashlib
import logging
import socket
import threading
import time

import numpy as np
import pytest
from server import (
    cut,
    endless,
    moved,
    mute,
    resumable,
    run_server,
    slow,
    stall,
    status,
    unannounced,
    whole,
)

from neuart_jax.config.errors import InputError
from neuart_jax.models.params.catalog import PublishedFile
from neuart_jax.models.params.published import download as module
from neuart_jax.models.params.published.download import DownloadError, Patience, download

CONTENT = np.random.default_rng(0).bytes(700_001)  # Some chunks and a bit.
PATIENCE = Patience(first_answer=5, connect=5, stall=0.3)


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def server():
    with run_server() as running:
        yield running


def describe(*urls, content=CONTENT, **facts):
    """A catalog's row for this content."""
    known = {
        "num_bytes": len(content),
        "md5": hashlib.md5(content).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return PublishedFile(
        model="vgg19",
        flavor="imagenet",
        name="weights.h5",
        url=urls[0],
        mirrors=tuple(urls[1:]),
        licence="CC BY 4.0",
        attribution="somebody",
        layout="keras",
        preprocessing="caffe",
        **{**known, **facts},
    )


def dead_url():
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/weights.h5"


def assert_fails(file, folder, reasons, *, patience=PATIENCE, left=()):
    with pytest.raises(DownloadError) as caught:
        download(file, folder / file.name, patience=patience)
    told = "; ".join(f"127.0.0.1: {reason}" for reason in reasons)
    assert str(caught.value) == (
        f"the imagenet weights of vgg19 could not be downloaded ({told}); expected a network on "
        f"which one of these servers provides weights.h5; get it from {file.url} in another way "
        "and put it into weights/, or use --weights=fitted."
    )
    assert [path.name for path in folder.iterdir()] == list(left)


PART = "weights.h5.part"


@pytest.mark.parametrize("answer", [whole, unannounced])
@pytest.mark.parametrize(
    "facts", [{}, {"md5": ""}, {"sha256": ""}, {"num_bytes": None}], ids=lambda f: "-".join(f)
)
def test_a_good_file_arrives(server, tmp_path, caplog, answer, facts):
    file = describe(server.publish("/weights.h5", answer(CONTENT)), **facts)
    with caplog.at_level(logging.INFO, logger="neuart_jax"):
        fingerprint = download(file, tmp_path / "w.h5", patience=PATIENCE)
    assert (tmp_path / "w.h5").read_bytes() == CONTENT
    assert fingerprint == (
        len(CONTENT),
        hashlib.md5(CONTENT).hexdigest(),
        hashlib.sha256(CONTENT).hexdigest(),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["w.h5"]
    size = "" if facts == {"num_bytes": None} else "1 MB, "
    assert caplog.messages == [f"Downloading weights.h5 ({size}CC BY 4.0) from 127.0.0.1."]


def test_a_redirection_is_followed(server, tmp_path):
    url = server.publish("/elsewhere", whole(CONTENT))
    file = describe(server.publish("/weights.h5", moved(url)))
    download(file, tmp_path / "w.h5", patience=PATIENCE)
    assert (tmp_path / "w.h5").read_bytes() == CONTENT


@pytest.mark.parametrize("facts", [{}, {"md5": ""}, {"sha256": ""}])
def test_another_content_is_refused(server, tmp_path, facts):
    other = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    file = describe(server.publish("/weights.h5", whole(other)), **facts)
    algorithm = "md5" if not file.sha256 else "sha256"
    came = hashlib.new(algorithm, other).hexdigest()
    wanted = hashlib.new(algorithm, CONTENT).hexdigest()
    assert_fails(
        file, tmp_path, [f"the download has the {algorithm} sum {came} instead of {wanted}"]
    )


def test_a_file_cut_short_at_its_source_is_refused(server, tmp_path):
    file = describe(server.publish("/weights.h5", whole(CONTENT[:-1])))
    assert_fails(file, tmp_path, ["the download has 700000 bytes instead of 700001"])


def test_a_longer_file_is_refused(server, tmp_path):
    file = describe(server.publish("/weights.h5", whole(CONTENT + b"!")))
    assert_fails(file, tmp_path, ["it goes on after 700001 bytes"])


@pytest.mark.parametrize("num_bytes", [len(CONTENT), None])
def test_a_file_without_end_does_not_fill_the_disk(server, tmp_path, monkeypatch, num_bytes):
    monkeypatch.setattr(module, "_MOST_BYTES", 2_000_000)
    file = describe(server.publish("/weights.h5", endless), num_bytes=num_bytes)
    assert_fails(file, tmp_path, [f"it goes on after {num_bytes or 2_000_000} bytes"])


def test_a_server_gone_half_way_is_told(server, tmp_path):
    file = describe(server.publish("/weights.h5", cut(CONTENT)))
    assert_fails(file, tmp_path, ["the connection was cut"], left=[PART])


def test_an_end_too_soon_counts_although_no_length_was_promised(server, tmp_path):
    file = describe(server.publish("/weights.h5", unannounced(CONTENT[:1000])))
    assert_fails(file, tmp_path, ["the download has 1000 bytes instead of 700001"])


def test_a_stalled_connection_is_given_up(server, tmp_path):
    file = describe(server.publish("/weights.h5", stall(CONTENT)))
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"no data for 0\.3 s"):
        download(file, tmp_path / file.name, patience=PATIENCE)
    assert time.monotonic() - began < 3
    assert [path.name for path in tmp_path.iterdir()] == [PART]


@pytest.mark.parametrize(
    ("code", "words"), [(404, "404 Not Found"), (403, "403 Forbidden"), (503, "503 Service")]
)
def test_a_refusal_is_told_with_its_number(server, tmp_path, code, words):
    file = describe(server.publish("/weights.h5", status(code)))
    with pytest.raises(DownloadError, match=words):
        download(file, tmp_path / file.name, patience=PATIENCE)


def test_a_server_that_is_not_there_is_told(tmp_path):
    assert_fails(describe(dead_url()), tmp_path, ["no connection"])


def test_a_host_that_is_not_there_is_told(tmp_path, monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(DownloadError, match=r"\(nowhere\.example: host not found\)"):
        download(describe("http://nowhere.example/w.h5"), tmp_path / "w.h5", patience=PATIENCE)


@pytest.mark.parametrize("bad", ["dead", "404", "cut", "stall", "wrong", "mute"])
def test_the_next_mirror_gives_what_the_first_does_not(server, tmp_path, bad):
    first = {
        "dead": dead_url,
        "404": lambda: server.publish("/gone", status(404)),
        "cut": lambda: server.publish("/cut", cut(CONTENT)),
        "stall": lambda: server.publish("/stall", stall(CONTENT)),
        "wrong": lambda: server.publish("/wrong", whole(CONTENT[::-1])),
        "mute": lambda: server.publish("/mute", mute),
    }[bad]()
    file = describe(first, server.publish("/weights.h5", whole(CONTENT)))
    began = time.monotonic()
    download(file, tmp_path / "w.h5", patience=PATIENCE._replace(first_answer=0.7))
    assert time.monotonic() - began < 5
    assert (tmp_path / "w.h5").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["w.h5"]


def test_a_mirror_is_left_alone_while_the_first_is_good(server, tmp_path):
    first = server.publish("/weights.h5", whole(CONTENT))
    download(
        describe(first, server.publish("/mirror", whole(CONTENT))),
        tmp_path / "w.h5",
        patience=PATIENCE,
    )
    assert ("GET", "/mirror") not in server.requests


def test_a_good_first_server_is_not_kept_waiting_for_the_others(server, tmp_path):
    first = server.publish("/weights.h5", whole(CONTENT))
    began = time.monotonic()
    download(
        describe(first, server.publish("/mute", mute)),
        tmp_path / "w.h5",
        patience=PATIENCE._replace(first_answer=3),
    )
    assert time.monotonic() - began < 2


def test_every_mirror_is_told(server, tmp_path):
    urls = (dead_url(), server.publish("/gone", status(404)), server.publish("/cut", cut(b"ab")))
    assert_fails(
        describe(*urls),
        tmp_path,
        ["no connection", "404 Not Found", "the connection was cut"],
        left=[PART],
    )


def test_a_server_that_takes_connections_and_says_nothing_is_given_up(server, tmp_path):
    file = describe(server.publish("/weights.h5", mute))
    began = time.monotonic()
    with pytest.raises(DownloadError, match="no data for|no answer within"):
        download(file, tmp_path / file.name, patience=PATIENCE._replace(first_answer=0.4))
    assert time.monotonic() - began < 2


def test_a_name_look_up_that_blocks_is_given_up(tmp_path, monkeypatch):
    done = threading.Event()

    def getaddrinfo(*_, **__):
        done.wait(30)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    began = time.monotonic()
    try:
        with pytest.raises(DownloadError, match=r"\(nowhere\.example: no answer within 0\.4 s\)"):
            download(
                describe("http://nowhere.example/w.h5"),
                tmp_path / "w.h5",
                patience=PATIENCE._replace(first_answer=0.4),
            )
        assert time.monotonic() - began < 2
    finally:
        done.set()


def fail_at_write(monkeypatch, error):
    """Let the file that a download goes to fail after its first chunk."""
    original = module._open_part

    class Full:
        def __init__(self, file):
            self._file, self._count = file, 0

        def write(self, chunk):
            self._count += 1
            if self._count > 1:
                raise error
            self._file.write(chunk)

        def __enter__(self):
            return self

        def __exit__(self, *details):
            self._file.close()

    monkeypatch.setattr(module, "_open_part", lambda *details: Full(original(*details)))


def test_a_full_disk_is_not_taken_for_the_network(server, tmp_path, monkeypatch):
    mirror = server.publish("/mirror", whole(CONTENT))
    file = describe(server.publish("/weights.h5", whole(CONTENT)), mirror)
    fail_at_write(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(InputError, match=r"can't be written \(No space left") as caught:
        download(file, tmp_path / file.name, patience=PATIENCE)
    assert not isinstance(caught.value, DownloadError)
    assert list(tmp_path.iterdir()) == []
    assert server.num_downloads == 1


def test_a_folder_that_is_not_there_is_not_taken_for_the_network(server, tmp_path):
    file = describe(server.publish("/weights.h5", whole(CONTENT)))
    with pytest.raises(InputError, match="can't be written") as caught:
        download(file, tmp_path / "none" / file.name, patience=PATIENCE)
    assert not isinstance(caught.value, DownloadError)


def asked_for(server):
    """The ranges of the downloads, in order."""
    return [
        headers.get("Range")
        for (command, _), headers in zip(server.requests, server.headers, strict=True)
        if command == "GET"
    ]


def test_an_interrupted_download_goes_on_where_it_was(server, tmp_path, monkeypatch, caplog):
    file = describe(server.publish("/weights.h5", resumable(CONTENT)))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        fail_at_write(patch, KeyboardInterrupt())
        download(file, tmp_path / file.name, patience=PATIENCE)
    assert [path.name for path in tmp_path.iterdir()] == [PART]
    assert (tmp_path / PART).read_bytes() == CONTENT[:262_144]
    with caplog.at_level(logging.INFO, logger="neuart_jax"):
        fingerprint = download(file, tmp_path / file.name, patience=PATIENCE)
    assert asked_for(server) == [None, "bytes=262144-"]
    assert fingerprint.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / file.name).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert caplog.messages[-1].endswith(" from 127.0.0.1, resuming after 0 MB.")


def test_the_next_mirror_goes_on_where_the_first_was_cut(server, tmp_path):
    urls = (
        server.publish("/cut", cut(CONTENT)),
        server.publish("/weights.h5", resumable(CONTENT)),
    )
    download(describe(*urls), tmp_path / "w.h5", patience=PATIENCE)
    assert (tmp_path / "w.h5").read_bytes() == CONTENT
    first, second = asked_for(server)
    assert first is None
    assert second.startswith("bytes=")


@pytest.mark.parametrize("answer", [resumable, whole, unannounced])
@pytest.mark.parametrize(
    "begun",
    [CONTENT[:1000], CONTENT[:-1], CONTENT, CONTENT + b"!", b"?", CONTENT[:5000][::-1], b""],
    ids=["begun", "nearly done", "done", "too long", "other byte", "something else", "empty"],
)
@pytest.mark.parametrize("num_bytes", [len(CONTENT), None], ids=["known size", "unknown size"])
def test_whatever_was_there_the_right_file_comes(server, tmp_path, answer, begun, num_bytes):
    """Also from a server that knows nothing of ranges."""
    (tmp_path / PART).write_bytes(begun)
    url = server.publish("/weights.h5", answer(CONTENT))
    download(describe(url, num_bytes=num_bytes), tmp_path / "weights.h5", patience=PATIENCE)
    assert (tmp_path / "weights.h5").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["weights.h5"]


def test_a_whole_part_is_not_asked_for_again(server, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT)
    file = describe(server.publish("/weights.h5", resumable(CONTENT)))
    download(file, tmp_path / "weights.h5", patience=PATIENCE)
    assert server.requests == []


def test_a_part_of_another_file_is_removed_with_what_was_put_behind_it(server, tmp_path):
    (tmp_path / PART).write_bytes(b"something else")
    other = CONTENT[::-1]
    file = describe(server.publish("/weights.h5", resumable(other)))
    came, wanted = (hashlib.sha256(content).hexdigest() for content in (other, CONTENT))
    assert_fails(file, tmp_path, [f"the download has the sha256 sum {came} instead of {wanted}"])
    assert asked_for(server) == ["bytes=14-", None]


def test_an_earlier_file_stands_until_the_new_one_is_whole(server, tmp_path):
    (tmp_path / "w.h5").write_bytes(b"earlier")
    file = describe(server.publish("/weights.h5", cut(CONTENT)))
    with pytest.raises(DownloadError):
        download(file, tmp_path / "w.h5", patience=PATIENCE)
    assert (tmp_path / "w.h5").read_bytes() == b"earlier"
    assert (tmp_path / "w.h5.part").is_file()


def test_the_name_is_not_there_before_the_file_is_whole(server, tmp_path):
    seen: list[list[str]] = []
    answer = slow(
        CONTENT, seconds=0.1, started=lambda: seen.append([p.suffix for p in tmp_path.iterdir()])
    )
    file = describe(server.publish("/weights.h5", answer))
    download(file, tmp_path / "w.h5", patience=PATIENCE)
    assert all(".h5" not in suffixes for suffixes in seen)
    assert len(seen) == 1
