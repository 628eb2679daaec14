"""Which locations and names are refused, in one line, before anything is opened."""

from pathlib import Path

import pytest

from jepa.data.errors import DataError
from jepa.data.locations import checked_name, checked_url, local_folder, may_fetch

REFUSED = [
    *("pipe:cat /etc/passwd", "pipe://cat", "ssh://host/data", "ssh:host", "sftp://host/x", "ftp://host/x"),
    *("simplecache::s3://bucket/x", "filecache::memory://x", "s3://bucket/x::memory://y", "zip://*::s3://b/x.zip"),
    *("http://example.org/x", "HTTP://example.org/x", "http://10.0.0.1/x", "http://169.254.169.254/x"),
    *("http://127.0.0.1.example.org/x", "http://127.0.0.1@example.org/x", "http://localhost.example.org"),
    *("http://[::1", "http://localhost:port/x", "https:example.org", "s3:bucket/x", "data:text/plain,x", "a:b"),
    *("s3://bucket/x\nrm", "local:/x", "github://a:b@/x", "reference://x", "memory:x", "jar://x"),
]


@pytest.mark.parametrize("location", REFUSED)
def test_other_schemes_and_chains_are_refused_with_what_is_allowed(location: str) -> None:
    assert local_folder(location) is None
    with pytest.raises(DataError, match=r"allowed are .*s3://.*hf://.*https://") as raised:
        checked_url(location)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("location", ["https://me:secret@host/x", "s3://k:s@bucket", "https://h/x?a=1", "hf://x#y"])
def test_addresses_with_more_than_a_folder_are_refused(location: str) -> None:
    with pytest.raises(DataError, match="leave out"):
        checked_url(location)


def test_remote_locations() -> None:
    for url in (
        "s3://bucket",
        "gs://b/x",
        "gcs://b/x",
        "hf://datasets/me/set@main/x",
        "https://h:8443/x",
        "memory://x",
    ):
        assert local_folder(url) is None and checked_url(url) == checked_url(f"{url}/") == url
    for host in ("127.0.0.1:80", "localhost:8000", "[::1]:9"):
        assert checked_url(f"http://{host}/x") == f"http://{host}/x"
    assert checked_url("S3://Bucket/X") == "s3://Bucket/X"


def test_local_locations(tmp_path: Path) -> None:
    folder = tmp_path / "with space %41"
    for location in (folder, str(folder), folder.as_uri(), folder.as_uri().replace("file://", "FILE://localhost")):
        assert local_folder(location) == folder
    assert local_folder("./a:b") == Path("a:b") == local_folder(Path("a:b"))
    with pytest.raises(DataError, match="another machine"):
        local_folder("file://server/share")


def test_redirects_may_lead_to_https_or_this_machine_only() -> None:
    assert may_fetch("https://cdn.example.org/x?signature=1") and may_fetch("http://localhost:1/x")
    assert not any(may_fetch(url) for url in ("http://example.org", "file:///etc/passwd", "http://[::1", ""))


OUTSIDE = [
    *("", ".", "..", "../x", "a/../x", "/etc/passwd", "a//b", "a/", "a\\b", "..\\x", "C:x", "s3://b/x"),
    *("a?b", "a#b", "a%2e%2e/b", "a\0b", "a\nb"),
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="not the name of a file"):
        checked_name(name, "memory://x")


@pytest.mark.parametrize("name", ["shard-000000.tar", "index/x.npy", "a b", "..a", "é.tar", "{0..3}*.tar"])
def test_ordinary_names_pass(name: str) -> None:
    assert checked_name(name, "memory://x") == name
