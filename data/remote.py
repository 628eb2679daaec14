"""The fsspec file system behind a URL: fresh for each process, with time limits, and strict about HTTP answers."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from jepa.data.errors import DataError
from jepa.data.locations import may_fetch

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "https": "aiohttp",
    "http": "aiohttp",
    "memory": "fsspec",
}
"""Scheme that may be read -> the package that reads it."""

_CONNECT_SECONDS, _READ_SECONDS = 10, 60


def open_filesystem(url: str) -> "AbstractFileSystem":
    """A file system of its own for `url`: fsspec's shared ones keep sockets that no forked process may use."""
    return filesystem_class(url)(skip_instance_cache=True, **_options(url.partition("://")[0]))


def filesystem_class(url: str) -> type["AbstractFileSystem"]:
    """fsspec's class for `url`; opens no connection.

    Raises:
        DataError: its package is not installed.
    """
    from fsspec import get_filesystem_class

    scheme = url.partition("://")[0]
    try:
        return get_filesystem_class(scheme)
    except ImportError as error:
        raise DataError(f"{url}: {scheme}:// needs another package: pip install {_PACKAGES[scheme]}") from error


def _options(scheme: str) -> dict[str, Any]:
    if scheme == "s3":
        return {"config_kwargs": {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}}
    if scheme in ("gs", "gcs"):
        return {"requests_timeout": _READ_SECONDS}
    if scheme in ("http", "https"):
        return {"client_kwargs": _http_options()}
    return {}


def _http_options() -> dict[str, Any]:
    """Settings of the HTTP client: time limits, plain bytes, and no answer but the one that was asked for."""
    import aiohttp

    async def check_redirect(_session: Any, _context: Any, request: Any) -> None:
        headers = request.response.headers
        target = urljoin(str(request.url), headers.get("Location") or headers.get("URI", ""))
        if not may_fetch(target):
            raise DataError(f"{request.url}: redirects to '{target}', which is not https; give the true address")

    async def check_range(answer: Any) -> None:
        wanted = answer.request_info.headers.get("Range")  # bytes=START-LAST
        if wanted is None or answer.status not in (200, 206, 416):
            return  # fsspec raises what is wrong with these
        if answer.status == 416:
            raise OSError("cut off: the file ends before these bytes")
        start = wanted.removeprefix("bytes=").partition("-")[0]
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            answer.close()  # else the whole shard would follow
            raise DataError(f"{answer.url}: the server does not serve byte ranges; copy the shards to a folder")

    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(check_redirect)
    return {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS),
        "headers": {"Accept-Encoding": "identity"},  # offsets count stored bytes, not compressed ones
        "trace_configs": [redirects],
        "raise_for_status": check_range,
    }
