"""Downloads: a server on this machine that breaks off, a wrong checksum, a closed
network; no network is needed.
"""

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from glioma_repro.patients import download
from glioma_repro.patients.cohort import manifest_of
from glioma_repro.patients.core import ReproError, generator
from glioma_repro.patients.download import fetch, fetch_file

NAME = "tcga-lgg-slices"


@pytest.fixture
def server():
    content = generator("file").integers(0, 256, 200_000).astype(np.uint8).tobytes()

    class Handler(BaseHTTPRequestHandler):
        asked, most, ranges = [], 10**9, True

        def do_GET(self):
            start = (
                int((self.headers.get("Range") or "bytes=0-")[6:-1])
                if self.ranges
                else 0
            )
            Handler.asked.append(start)
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + self.most])

        def log_message(self, *_):
            pass

    Handler.asked = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/file.bin", content, Handler
    running.shutdown()
    running.server_close()


@pytest.fixture
def pooch():
    return pytest.importorskip("pooch", reason="downloads are the optional extra fetch")


def test_a_download_resumes(server, tmp_path, pooch):
    url, content, handler = server
    handler.most = 90_000
    for _ in range(2):
        with pytest.raises(ReproError, match="start again to go on"):
            fetch_file(url, tmp_path / "file.bin", hashlib.sha256(content).hexdigest())
        assert not (tmp_path / "file.bin").exists()
    fetch_file(url, tmp_path / "file.bin", hashlib.sha256(content).hexdigest())
    assert (tmp_path / "file.bin").read_bytes() == content and handler.asked[
        0
    ] == 0 < handler.asked[1] < handler.asked[2]
    asked = len(handler.asked)
    fetch_file(url, tmp_path / "file.bin", hashlib.sha256(content).hexdigest())
    assert len(handler.asked) == asked  # whole already: not asked again


def test_a_server_that_cannot_resume_starts_again(server, tmp_path, pooch):
    url, content, handler = server
    handler.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 500)
    assert (
        fetch_file(
            url, tmp_path / "file.bin", hashlib.sha256(content).hexdigest()
        ).read_bytes()
        == content
    )


def test_a_wrong_checksum_is_refused(server, tmp_path, pooch):
    url, content, _ = server
    with pytest.raises(ReproError, match="another SHA-256"):
        fetch_file(url, tmp_path / "file.bin", "0" * 64)
    assert list(tmp_path.iterdir()) == []
    # as long as it is, it is not the file
    (tmp_path / "file.bin.part").write_bytes(content + b"more")
    with pytest.raises(ReproError, match="another SHA-256"):
        fetch_file(url, tmp_path / "file.bin", hashlib.sha256(content).hexdigest())
    assert fetch_file(
        url, tmp_path / "file.bin", hashlib.sha256(content).hexdigest()
    ).exists()


def test_a_closed_network_says_what_to_do(tmp_path, pooch):
    with pytest.raises(
        ReproError, match="http://127.0.0.1:9/file.bin could not be downloaded.*by hand"
    ):
        fetch_file("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", None)


def test_without_the_extra(tmp_path, monkeypatch):
    for name in ("pooch", "kagglehub", "idc_index"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ReproError, match=r"glioma-repro\[fetch\].*by hand"):
        fetch_file("http://127.0.0.1:9/a", tmp_path / "a", None)
    for name in ("brain-mri-yes-no", "tcga-lgg"):
        with pytest.raises(ReproError, match=r"glioma-repro\[fetch\].*https://"):
            fetch(name, tmp_path)


@pytest.mark.parametrize("name", ["brats", "lgg-1p19qdeletion", "phantom"])
def test_what_no_program_may_download(tmp_path, name):
    with pytest.raises(ReproError) as caught:
        fetch(name, tmp_path)
    assert manifest_of(name).source["by_hand"] in str(caught.value) and manifest_of(
        name
    ).source["url"] in str(caught.value)


def test_fetch_goes_through_kagglehub(tmp_path, monkeypatch, server, capsys):
    url, content, _ = server
    asked = []
    module = type(sys)("kagglehub")
    module.dataset_download = lambda handle, output_dir: asked.append(
        (handle, output_dir)
    )
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    monkeypatch.setattr(
        download,
        "fetch_file",
        lambda address, path, sha256: asked.append((address, path.name, sha256)),
    )
    assert fetch(NAME, tmp_path) == tmp_path / NAME
    assert [one[1] for one in asked] == [
        "tcga_2021_who_labels.csv",
        str(tmp_path / NAME / "archive"),
    ]
    assert "cbioportal.org" in capsys.readouterr().out

    def closed(handle, output_dir):
        raise ConnectionError("no network")

    module.dataset_download = closed
    with pytest.raises(ReproError, match="no network.*kaggle.com.*press Download"):
        fetch(NAME, tmp_path)
