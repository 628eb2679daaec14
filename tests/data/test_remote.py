"""Shards behind a web server of this machine: right bytes or one line, however the server behaves."""

import multiprocessing
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from jepa.data.errors import DataError
from jepa.data.remote import open_filesystem
from jepa.data.store import RemoteStore, open_store

DATA = np.random.default_rng(0).bytes(5000)


@dataclass
class Server:
    """What the server has, how it misbehaves, and what it was asked: (method, path, Range)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"/set/a.tar": DATA, "/set/index/x.npy": DATA[:300]})
    faults: int = 0  # so many GETs are answered with 503
    cut: int = 0  # so many GETs break off in the middle of the body
    ignores_range: bool = False
    wrong_range: bool = False
    etag: str = '"1"'
    moved_to: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        state, wanted = self.state, self.headers["Range"]
        state.asked.append((self.command, self.path, wanted))
        if state.moved_to:
            return self.answer(302, b"", Location=state.moved_to + self.path)
        if self.path not in state.files:
            return self.answer(404, b"no such file")
        if self.command == "GET" and state.faults:
            state.faults -= 1
            return self.answer(503, b"too busy")
        data = state.files[self.path]
        if wanted is None or state.ignores_range:
            return self.answer(200, data, ETag=state.etag)
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
        if first >= len(data):
            return self.answer(416, b"not satisfiable")
        first = 0 if state.wrong_range else first
        part = data[first : last + 1]
        return self.answer(206, part, **{"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            if self.state.cut and status < 400:
                self.state.cut -= 1
                body = body[: len(body) // 2]
                self.close_connection = True
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve() -> Iterator[Server]:
    state = Server()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHandler", (Handler,), {"state": state}))
    httpd.daemon_threads = True
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


server = pytest.fixture(serve, name="server")
other_server = pytest.fixture(serve, name="other_server")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa.data.retry.RETRY_SECONDS", (0.001, 0.002, 0.003))


@pytest.fixture
def store(server: Server, tmp_path: Path) -> RemoteStore:
    store = open_store(f"{server.url}/set", cache_dir=tmp_path / "cache")
    assert isinstance(store, RemoteStore)
    return store


def test_ranges_are_fetched_once_and_no_more_than_asked(store: RemoteStore, server: Server) -> None:
    for _ in range(2):
        for start, stop in ((0, 5000), (100, 200), (4999, 5000)):
            assert store.read_range("a.tar", start, stop) == DATA[start:stop]
    assert server.asked == [("GET", "/set/a.tar", f"bytes={r}") for r in ("0-4999", "100-199", "4999-4999")]
    assert store.read("a.tar") == DATA
    assert store.sizes() is None


def test_a_damaged_range_is_fetched_again(store: RemoteStore, server: Server) -> None:
    server.files["/set/a.tar"] = bytes(5000)
    assert store.read_range("a.tar", 5, 9) == bytes(4)
    server.files["/set/a.tar"] = DATA
    store.forget("a.tar", 5, 9)
    assert store.read_range("a.tar", 5, 9) == DATA[5:9]


def test_passing_faults_are_outlived(store: RemoteStore, server: Server) -> None:
    server.faults = 2
    assert store.read_range("a.tar", 0, 100) == DATA[:100]
    server.faults = 3
    assert store.read("a.tar") == DATA
    server.cut = 2
    assert store.read_range("a.tar", 100, 200) == DATA[100:200]
    server.cut = 2
    assert store.local("index/x.npy").read_bytes() == DATA[:300]
    assert len(server.asked) == 3 + 4 + 3 + 3 + 3  # `local` asks for the version before each try


def test_lasting_faults_are_named_and_nothing_is_kept(store: RemoteStore, server: Server, tmp_path: Path) -> None:
    server.faults = 1000
    with pytest.raises(DataError, match=r"/set/a\.tar: cannot be read: .*503.*\(tries: 4\)"):
        store.read_range("a.tar", 0, 100)
    server.faults, server.cut = 0, 1000
    for read in (store.read, store.local, lambda name: store.read_range(name, 0, 100)):
        with pytest.raises(DataError, match=r"/set/index/x\.npy: cannot be read: .*[Pp]ayload"):
            read("index/x.npy")
    with pytest.raises(DataError, match=r"gone\.tar: cannot be read: FileNotFoundError"):
        store.read_range("gone.tar", 0, 10)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_shard_shorter_than_its_index_is_cut_off(store: RemoteStore) -> None:
    for start in (4990, 5000):
        with pytest.raises(DataError, match=r"a\.tar: .*cut off"):
            store.read_range("a.tar", start, start + 20)


def test_a_server_without_ranges_is_refused_at_once(store: RemoteStore, server: Server) -> None:
    server.ignores_range = True
    # 100 to 5100: the whole file would have just the length that was asked for
    for start, stop in ((0, 10), (100, 5100), (0, 5000)):
        with pytest.raises(DataError, match=r"/set/a\.tar: the server does not serve byte ranges"):
            store.read_range("a.tar", start, stop)
    assert len(server.asked) == 3
    assert store.read("a.tar") == DATA


def test_a_server_that_sends_other_bytes_is_refused(store: RemoteStore, server: Server) -> None:
    server.wrong_range = True
    assert store.read_range("a.tar", 0, 20) == DATA[:20]
    with pytest.raises(DataError, match="byte ranges"):
        store.read_range("a.tar", 10, 20)


def test_a_whole_file_is_downloaded_once_per_version(store: RemoteStore, server: Server) -> None:
    path = store.local("index/x.npy")
    assert path.read_bytes() == DATA[:300] and store.local("index/x.npy") == path
    assert [method for method, *_ in server.asked] == ["HEAD", "GET", "HEAD"]
    server.files["/set/index/x.npy"], server.etag = bytes(300), '"2"'
    assert store.local("index/x.npy").read_bytes() == bytes(300)


def test_redirects_inside_this_machine_are_followed(store: RemoteStore, server: Server, other_server: Server) -> None:
    server.moved_to = other_server.url
    assert store.read_range("a.tar", 5, 10) == DATA[5:10]
    assert other_server.asked == [("GET", "/set/a.tar", "bytes=5-9")]


def test_a_redirect_to_another_machine_without_tls_is_not_followed(
    store: RemoteStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: looked_up.append(host) or resolve(host, *a, **k))
    server.moved_to = "http://shards.invalid"
    with pytest.raises(DataError, match=r"redirects to 'http://shards\.invalid/set/a\.tar', which is not https"):
        store.read_range("a.tar", 0, 10)
    assert "shards.invalid" not in looked_up and len(server.asked) == 1


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DataError, match=rf"http://127\.0\.0\.1:{port}/set/a\.tar: cannot be read: .*\(tries: 4\)"):
        open_store(f"http://127.0.0.1:{port}/set", cache_dir=tmp_path).read_range("a.tar", 0, 1)


def test_a_silent_server_does_not_hang_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa.data.remote._READ_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = open_store(f"http://127.0.0.1:{silent.getsockname()[1]}/set", cache_dir=tmp_path)
        with pytest.raises(DataError, match=r"a\.tar: cannot be read: .*[Tt]imeout.*\(tries: 4\)"):
            store.read_range("a.tar", 0, 1)


def test_time_limits_of_every_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa.data.remote.filesystem_class", lambda _: dict)
    assert open_filesystem("s3://b")["config_kwargs"] == {"connect_timeout": 10, "read_timeout": 60}
    assert open_filesystem("gs://b")["requests_timeout"] == open_filesystem("gcs://b")["requests_timeout"] == 60
    limits = open_filesystem("https://h")["client_kwargs"]["timeout"]
    assert (limits.sock_connect, limits.sock_read, limits.total) == (10, 60, None)


def _read_in_child(store: RemoteStore, start: int, answers: "multiprocessing.Queue[bytes]") -> None:
    answers.put(store.read_range("a.tar", start, start + 10))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_after_their_parent_has(store: RemoteStore, server: Server, method: str) -> None:
    assert store.read_range("a.tar", 0, 10) == DATA[:10]
    context = multiprocessing.get_context(method)
    answers: multiprocessing.Queue[bytes] = context.Queue()
    workers = [context.Process(target=_read_in_child, args=(store, start, answers)) for start in (10, 20)]
    for worker in workers:
        worker.start()
    assert {answers.get(timeout=60) for _ in workers} == {DATA[10:20], DATA[20:30]}
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert store.read_range("a.tar", 30, 40) == DATA[30:40]
