"""Checkpoints from anywhere: HTTP, S3 and a model hub on loopback; kept by content, fetched again when they change."""

import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import fsspec
import pytest

from misoxr import Model
from misoxr.errors import CheckpointError
from misoxr.model.files import cache, fetch


class Handler(http.server.BaseHTTPRequestHandler):
    """One file under an ETag, also in the manner of a Hugging Face hub, and a count of its bodies."""

    protocol_version = "HTTP/1.1"
    body, bodies, tag = b"", 0, True

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
