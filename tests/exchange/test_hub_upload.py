"""Uploads go to the hub that is named, as one commit, and only when asked; a hub on loopback stands in for the real one."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0" * 40


class FakeHub(ThreadingHTTPServer):
    """Records requests and the files of commits. ``refusal``: the HTTP code of every answer, 0 for none."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}
        self.refusal = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: object) -> None: ...

    def _answer(self, document: object, code: int = 200) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        self._answer({"id": "owner/pairs", "sha": COMMIT, "siblings": [], "private": True})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"POST {self.path}")
        if self.server.refusal:
            self._answer({"error": "no"}, self.server.refusal)
        elif "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._answer(
                {"commitUrl": f"{self.server.url}/owner/pairs/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        else:
            self._answer({"url": f"{self.server.url}/datasets/owner/pairs", "name": "owner/pairs", "id": "owner/pairs"})


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


UPLOAD = """
import sys
from pathlib import Path
from avpref.errors import AvprefError
from avpref.exchange.hub_upload import HubTarget, upload
try:
    print(upload(Path(sys.argv[1]), HubTarget("owner/pairs", "dataset")))
except AvprefError as error:
    sys.exit(str(error))
"""


def upload(hub: FakeHub, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads the address of its hub when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HOME": str(home)}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", UPLOAD, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_folder_becomes_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: other\n---\n# Pairs\n")
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 bytes PAR1")
    done = upload(hub, folder, tmp_path / "home")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith(f"/commit/{COMMIT}")
    assert hub.files == {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    assert sum("/commit/" in request for request in hub.requests) == 1


def test_a_hub_that_refuses_is_an_error_with_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "README.md").write_text("# Pairs\n")
    hub.refusal = 401
    done = upload(hub, tmp_path / "export", tmp_path / "home")
    assert done.returncode != 0 and "was not uploaded to owner/pairs" in done.stderr and "hf auth login" in done.stderr
    assert (tmp_path / "export" / "README.md").exists() and not hub.files
