"""deploy/nginx.conf where a server's machine is off: nothing refuses, and nothing answers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import front
import pytest

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
PATIENCE = "proxy_connect_timeout 2s"
ASKED = 8  # requests, of which the hash sends about half to the machine that is off


class Answering(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[int]:
    """A port whose queue is full: the system drops who wants to connect, as if nobody was there."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        place = listening.getsockname()
        waiting = []
        try:
            while True:
                one = socket.socket()
                waiting.append(one)
                one.settimeout(0.2)
                one.connect(place)
        except TimeoutError:
            yield place[1]
        finally:
            for one in waiting:
                one.close()


@contextmanager
def running(conf: str, port: int, folder: Path) -> Iterator[None]:
    assert NGINX is not None
    (folder / "nginx.conf").write_text(conf, encoding="utf-8")
    where = ("-p", folder, "-e", "stderr", "-c", folder / "nginx.conf")
    process = subprocess.Popen([NGINX, *where, "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)")
def test_what_a_silent_machine_is_asked_another_answers(tmp_path: Path) -> None:
    port = front.free_port()
    with answering() as there, silent() as off:
        conf = front.nginx_conf(port, [there, off], str(tmp_path))
        assert PATIENCE in conf
        conf = conf.replace(PATIENCE, "proxy_connect_timeout 100ms")
        with running(conf, port, tmp_path):
            for number in range(ASKED):
                body = json.dumps({"number": number}).encode()
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/v1/responses", body, {"X-Session-ID": str(number)}
                )
                with urllib.request.urlopen(request, timeout=30) as response:
                    assert response.read() == body
