"""An image's URL -> its bytes, downloaded from public addresses only; knows nothing of images or callers.

A name is resolved once for each request, all its addresses are judged, and the connection goes to one of these while
TLS is verified against the name: so it does not matter what the name resolves to later. Redirects are followed here,
and each is judged as the first URL was. No proxy, cookie, netrc or pooled connection is used.

`service.images` does not import it: the trainer needs no network.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version

import httpx

from service.errors import FetchFailed, FetchTimeout, ImageNotThere, ImageTooLarge, UrlRefused
from service.images.addresses import literal, may_connect
from service.tracing import hop

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

REDIRECTS = 3
# The most addresses of one name that are tried, and seconds that each has to accept a connection.
_ADDRESSES, _CONNECT_S = 3, 3.0
_REDIRECT_STATUS = (301, 302, 303, 307, 308)
_HEADERS = {"accept": "image/png, image/jpeg, image/webp, image/*;q=0.8, */*;q=0.5", "accept-encoding": "identity"}
# Values of content-encoding that change a body. Servers send others that do not: S3 sends aws-chunked, or an empty one.
_ENCODED = {"br", "compress", "deflate", "gzip", "x-compress", "x-gzip", "zstd"}
# Of 400 to 499 those that another try may not get: request timeout, too early, too many requests.
_AGAIN = (408, 425, 429)
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
# Many resolvers read a name whose last label is a number as an IPv4 address, in decimal, octal, hex or a short form.
_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits of a fetch: `size` in bytes, seconds in all, hosts that may be fetched from (empty: any public one).

    `private` also opens loopback and private networks, for closed clusters. `contact` is an address or page of who runs
    this service, sent to the hosts in the User-Agent.
    """

    size: int = 20_000_000
    seconds: float = 10.0
    hosts: tuple[str, ...] = ()
    private: bool = False
    contact: str | None = None


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of `host` by the system's resolver, the preferred first.

    The resolver blocks a thread of asyncio's own pool, so that a slow name server holds none of the threads that
    decode.

    Raises:
        socket.gaierror: it has no address.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Fetcher:
    """Downloads images by HTTP within one set of limits; `resolve` gives a host's addresses."""

    def __init__(self, limits: FetchLimits, resolve: Resolve = resolve) -> None:
        self._limits, self._resolve = limits, resolve
        self._hosts = frozenset(host.lower().removesuffix(".") for host in limits.hosts)
        self._tls = httpx.create_ssl_context()
        contact = f" (+{limits.contact})" if limits.contact else ""
        self._headers = {**_HEADERS, "user-agent": f"manylens/{version('manylens')}{contact}"}

    @property
    def most(self) -> int:
        """The most bytes that one image may have."""
        return self._limits.size

    async def fetch(self, url: str) -> bytes:
        """The bytes behind `url`.

        Raises:
            UrlRefused: a scheme, host or address that is not fetched from, of the URL or of a redirect.
            ImageNotThere: the host answered with a status of 400 to 499, except for those of _AGAIN.
            FetchFailed: the host has no address or accepts no connection, or what it sent is no uncompressed 200.
            FetchTimeout: not all of it came in time.
            ImageTooLarge: it has more bytes than the limit; reading ended there.
        """
        with hop("fetch"):
            try:
                async with asyncio.timeout(self._limits.seconds):
                    return await self._follow(url)
            except TimeoutError as error:
                raise FetchTimeout(f"the image's URL did not deliver within {self._limits.seconds:g} s") from error
            except httpx.TransportError as error:
                raise FetchFailed(f"the image's URL broke off ({type(error).__name__})") from error

    async def _follow(self, target: str) -> bytes:
        url = self._judge_url(target, base=None)
        for _ in range(REDIRECTS + 1):
            async with (
                httpx.AsyncHTTPTransport(verify=self._tls) as transport,
                aclosing(await self._open(transport, url)) as response,
            ):
                if response.status_code not in _REDIRECT_STATUS or "location" not in response.headers:
                    return await self._read(response)
                url = self._judge_url(response.headers["location"], base=url)
        raise FetchFailed(f"the image's URL redirects more than {REDIRECTS} times")

    def _judge_url(self, target: str, base: httpx.URL | None) -> httpx.URL:
        try:
            url = base.join(target) if base else httpx.URL(target)
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: what urllib's joining and UTF-8 raise
            raise UrlRefused("the image's URL cannot be read: write it as a browser shows it") from error
        if url.scheme not in ("http", "https"):
            raise UrlRefused(f"the image's URL has scheme {url.scheme[:16]!r}: only https and http are fetched")
        if url.userinfo:
            raise UrlRefused("the image's URL carries a user or password: leave them out")
        if url.port == 0 or (url.port or 0) > 65535:
            raise UrlRefused("the image's URL has a port that does not exist")
        host = _host(url)
        if literal(host) is None and (not _NAME.fullmatch(host) or _NUMBER.fullmatch(host) or len(host) > 253):
            raise UrlRefused("the image's URL names no host: write a domain name or a plain IP address")
        if self._hosts and host not in self._hosts:
            raise UrlRefused(f"images are not fetched from {host!r} here")
        return url

    async def _open(self, transport: httpx.AsyncHTTPTransport, url: httpx.URL) -> httpx.Response:
        """The response's head, from the first of the host's addresses that accepts a connection."""
        host = _host(url)
        failure: Exception | None = None
        for address in await self._addresses(host, url.port or {"http": 80, "https": 443}[url.scheme]):
            request = httpx.Request(
                "GET",
                url.copy_with(host=address),
                headers={"host": url.netloc.decode("ascii"), **self._headers},
                extensions={"sni_hostname": host, "timeout": {"connect": _CONNECT_S}},
            )
            try:
                return await transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise FetchFailed(f"the image's host {host!r} does not answer, or its certificate is not for it") from failure

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            texts = [host] if literal(host) else await self._resolve(host, port)
        except socket.gaierror as error:
            raise FetchFailed(f"the image's host {host!r} has no address") from error
        found = [literal(text) for text in dict.fromkeys(texts)]
        # One forbidden address is enough to refuse the name: a public host has none.
        if not all(address and may_connect(address, self._limits.private) for address in found):
            raise UrlRefused(f"the image's host {host!r} is not on the public internet: send the image's bytes")
        return [str(address) for address in found[:_ADDRESSES]]

    async def _read(self, response: httpx.Response) -> bytes:
        status = response.status_code
        if status in range(400, 500) and status not in _AGAIN:
            raise ImageNotThere(
                f"the image's host answered {status}: check that the URL can be opened without signing in"
            )
        if status != 200:
            raise FetchFailed(f"the image's URL answered {status}")
        encodings = {word.strip().lower() for word in response.headers.get("content-encoding", "").split(",")}
        if encodings & _ENCODED:
            # None was asked for, and a small body could decompress to any size.
            raise FetchFailed("the image's URL answered in a compressed encoding nobody asked for")
        if int(response.headers.get("content-length", 0)) > self._limits.size:
            raise self._too_large()
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._limits.size:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(f"the image's URL delivers over {self._limits.size:,} bytes: scale the image down")


def _host(url: httpx.URL) -> str:
    """The host as it is judged, resolved and verified by TLS: in ASCII, without a dot at its end."""
    return url.raw_host.decode("ascii").removesuffix(".")
