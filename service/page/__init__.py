"""The pages at `/` and `/docs`: their files are read once, when the app is made, and served from memory.

Knows no question and no adapter. Both pages are plain HTML, CSS and ES modules in `files/`, with one vendored library
(`files/vendor`) and no build step. They call the same routes as any other client. They load nothing from other hosts,
which the content security policy (POLICY) forbids the browser.
"""

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

FILES = Path(__file__).parent / "files"
# The pages, each by its file; all other files are below FOLDER.
PAGES = {"index.html": "/", "docs.html": "/docs"}
# Where a browser finds the files, below the service's own root.
FOLDER = "/page"
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # A browser asks each time, and is answered 304 where it has the file: so a new version of the service shows at
    # once.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


@dataclass(frozen=True)
class File:
    """One file as it is sent: media type, bytes, the same compressed by gzip where that is shorter, and ETag."""

    kind: str
    plain: bytes
    packed: bytes | None
    tag: str

    @classmethod
    def of(cls, kind: str, content: bytes) -> "File":
        """Make it of `content`, whose media type is `kind`."""
        packed = gzip.compress(content, 9, mtime=0)
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return cls(kind, content, packed if len(packed) < len(content) else None, tag)

    def answer(self, request: Request) -> Response:
        """The response with the file, compressed where the browser takes gzip; 304 where the browser has it."""
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=_HEADERS | {"etag": self.tag})
        headers, body = _HEADERS | {"etag": self.tag}, self.plain
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            headers, body = headers | {"content-encoding": "gzip"}, self.packed
        return Response(body, media_type=self.kind, headers=headers)


def load(root_path: str = "") -> dict[str, File]:
    """Every file by the path it is served at; `root_path` is the prefix below which a proxy serves all of this.

    Raises:
        OSError: a file of the package cannot be read.
        KeyError: a file has an ending that _TYPES does not have.
    """
    found = {}
    for file in sorted(path for path in FILES.rglob("*") if path.is_file()):
        name, content = file.relative_to(FILES).as_posix(), file.read_bytes()
        if name in PAGES:
            # All addresses in the page are relative to this one.
            content = content.replace(b'<base href="/">', f'<base href="{root_path}/">'.encode())
        found[PAGES.get(name, f"{FOLDER}/{name}")] = File.of(_TYPES[file.suffix], content)
    return found


def router(files: dict[str, File]) -> APIRouter:
    """A router with one route for each path of `files`; none needs a key, and none is in the OpenAPI document."""
    made = APIRouter()
    for path, file in files.items():
        made.add_api_route(path, _route(file), include_in_schema=False)
    return made


def _route(file: File) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return file.answer(request)

    return send
