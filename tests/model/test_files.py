"""Checkpoints from anywhere: HTTP, S3 and a model hub on loopback; kept by content, fetched again when they change."""

import argparse
import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import fsspec
import pytest
import torch

from misoxr import Model
from misoxr.errors import CheckpointError, MisoxrWarning
from misoxr.model.files import fetch, read_state
from misoxr.paths import cache


class Handler(http.server.BaseHTTPRequestHandler):
    """One file under an ETag, also in the manner of a Hugging Face hub, and a count of its bodies."""

    protocol_version = "HTTP/1.1"
    body, bodies, tag, broken = b"", 0, True, ""

    def _send(self, status, data=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        digest = hashlib.sha256(self.body).hexdigest()
        if "/tree/" in self.path:
            self._send(200, self._entries(), Content_Type="application/json")
            return
        if self.path.startswith("/api/models/"):
            self._send(
                200, json.dumps({"id": "someone/soil", "sha": "0" * 40, "siblings": []}).encode(), Content_Type="application/json"
            )
            return
        if "missing" in self.path:
            self._send(404)
            return
        if self.command == "GET" and self.broken == "server":
            self._send(503)
            return
        if self.command == "GET" and self.broken == "body":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body[:100])
            self.close_connection = True
            return
        if self.command == "GET":
            type(self).bodies += 1
        first, last = 0, len(self.body) - 1
        if "Range" in self.headers:
            first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
            last = min(last, len(self.body) - 1)
        extra = {"ETag": f'"{digest}"'} if self.tag else {}
        extra |= {"X-Repo-Commit": "0" * 40, "Accept-Ranges": "bytes"}
        if "Range" in self.headers:
            extra["Content-Range"] = f"bytes {first}-{last}/{len(self.body)}"
        self._send(206 if "Range" in self.headers else 200, self.body[first : last + 1], **extra)

    do_HEAD = do_GET

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, self._entries(), Content_Type="application/json")

    def _entries(self):
        entry = {"type": "file", "path": "model.safetensors", "size": len(self.body), "oid": hashlib.sha1(self.body).hexdigest()}
        return json.dumps([entry]).encode()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(model, monkeypatch, tmp_path):
    monkeypatch.setenv("MISOXR_CACHE", str(tmp_path / "cache"))
    handler = type("OneFile", (Handler,), {"body": model._bytes})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_port}", handler
        service.shutdown()


def test_http_is_fetched_once_and_again_when_it_changes(server, model):
    url, handler = server
    assert Model.load(f"{url}/model.safetensors").sha256 == model.sha256
    assert (cache("files") / model.sha256).exists()
    assert fetch(f"{url}/model.safetensors") == model._bytes
    assert handler.bodies == 1
    handler.body = b"another"
    fsspec.filesystem("http").invalidate_cache()
    assert fetch(f"{url}/model.safetensors") == b"another"
    assert handler.bodies == 2


def test_a_damaged_copy_is_not_taken(server, model):
    url, handler = server
    fetch(f"{url}/model.safetensors")
    (cache("files") / model.sha256).write_bytes(b"damaged")
    with pytest.warns(MisoxrWarning, match="is damaged or gone, and is fetched again"):
        assert fetch(f"{url}/model.safetensors") == model._bytes
    assert handler.bodies == 2


def test_without_a_version_nothing_is_kept(server):
    url, handler = server
    handler.tag = False
    for _ in range(2):
        fetch(f"{url}/model.safetensors")
    assert handler.bodies == 2
    assert not cache("files").exists()


def test_what_is_not_there(server):
    url, _ = server
    with pytest.raises(CheckpointError, match=r"missing\.safetensors cannot be read"):
        Model.load(f"{url}/missing.safetensors")
    with pytest.raises(CheckpointError, match="nowhere://x cannot be read"):
        Model.load("nowhere://x")


@pytest.mark.parametrize("broken", ["server", "body"])
def test_what_breaks_on_its_way(server, broken):
    url, handler = server
    handler.broken = broken
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read: \w+"):
        Model.load(f"{url}/model.safetensors")


def test_s3_without_credentials(monkeypatch, tmp_path):
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:9", "skip_instance_cache": True})
    with pytest.raises(CheckpointError, match="FSSPEC_S3_ANON"):
        Model.load("s3://models/soil.safetensors")


def test_files_are_told_by_their_content(model, tmp_path):
    state = {"geo_out.4.bias": torch.ones(3)}
    torch.save(state, tmp_path / "w.safetensors")
    assert read_state(tmp_path / "w.safetensors")["geo_out.4.bias"].sum() == 3
    torch.save({**state, "options": argparse.Namespace(lr=1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"more than weights, such as argparse\.Namespace, and that is never unpickled"):
        read_state(tmp_path / "more.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "w.safetensors").read_bytes()[:200])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_state(tmp_path / "cut.pth")


def test_a_hub(server, model, monkeypatch):
    pytest.importorskip("huggingface_hub")
    url, handler = server
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": url, "skip_instance_cache": True})
    assert Model.load("hf://someone/soil/model.safetensors").sha256 == model.sha256
    bodies = handler.bodies
    assert Model.load("hf://someone/soil/model.safetensors").sha256 == model.sha256
    assert handler.bodies == bodies


def test_s3(server, model, monkeypatch):
    pytest.importorskip("s3fs")
    url, handler = server
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url, "anon": True, "skip_instance_cache": True})
    for _ in range(2):
        assert Model.load("s3://models/soil.safetensors").sha256 == model.sha256
    assert handler.bodies == 1


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MISOXR_CACHE", os.fspath(tmp_path))
    assert cache("models") == Path(tmp_path) / "models"
    monkeypatch.delenv("MISOXR_CACHE")
    assert "misoxr" in str(cache("models"))
