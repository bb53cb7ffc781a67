"""Fetching an image's URL: what is refused reaches no socket, what is fetched is pinned, capped and timed."""

import asyncio
import contextlib
import gzip
import re
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import httpx
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import FetchFailed, FetchTimeout, ImageNotThere, ImageTooLarge, ServiceError, UrlRefused
from service.images import fetch
from service.images.addresses import may_connect
from service.images.fetch import Fetcher, FetchLimits
from tests.origins import Origin, answer, origin

PUBLIC = "93.184.216.34"
OPEN = FetchLimits(size=100_000, seconds=5, private=True)


class Names:
    """A resolver that gives the next of a name's answers each time, and the last for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers, self.asked = answers, 0

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        """See Resolve."""
        answers = self.answers.get(host.partition(".")[0])
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        self.asked += 1
        return answers[min(self.asked, len(answers)) - 1]


class Loopback(Names):
    """A resolver that finds every name here."""

    async def __call__(self, _host: str, _port: int) -> Sequence[str]:
        """See Resolve."""
        return ["127.0.0.1", "::1"]


@pytest.fixture
async def web() -> AsyncGenerator[Origin, None]:
    async with origin() as made:
        yield made


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that would be connected to; nothing is."""
    hosts: list[str] = []

    async def refuse(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        raise httpx.ConnectError("no network in this test")

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", refuse)
    return hosts


@pytest.fixture
def public_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the first address that is judged pass for public: loopback plays the honest host."""
    judged = iter([True])
    monkeypatch.setattr(fetch, "may_connect", lambda *arguments: next(judged, None) or may_connect(*arguments))


REFUSED_FORMS = [
    "http://127.0.0.1:{port}/",
    "http://127.8.9.10:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://017700000001:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7F.0x0.0x0.0x1:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0177.0.0.01:{port}/",
    "http://127.0.0.0x1:{port}/",
    "http://00000127.0.0.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://127。0。0。1:{port}/",
    "http://１２７.0.0.1:{port}/",
    "http://127%2e0.0.1:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "HtTp://127.0.0.1:{port}/",
    "hTTp://LocalHost:{port}/",
    "HTTP://0X7F.1:{port}/",
    "http://127.0.0.1:0{port}/",
    "http://127.0.0.1:{port}?x=.png",
    "http://127.0.0.1:{port}#x",
    "http://127.0.0.1..:{port}/",
    "http://127.0.0.1%00:{port}/",
    "http://127.0.0.1%09:{port}/",
    "http://127.0.0.1\t:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://١٢٧.٠.٠.١:{port}/",
    "http://127．0．0．1:{port}/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
    "http://0x0000007f000001:{port}/",
    "http://0b1111111.1:{port}/",
    "http://6425673729:{port}/",
    "http://127.256.0.1:{port}/",
    "http://127.65536:{port}/",
    "http://a%40b@127.0.0.1:{port}/",
    "http://example.com%40127.0.0.1:{port}/",
    "http://example.com%2f@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@example.com/",
    "http://@127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}\\",
    "http:/127.0.0.1:{port}/",
    "http:////127.0.0.1:{port}/",
    " http://127.0.0.1:{port}/",
    "https://127.0.0.1:{port}/",
    "http://loopback.test:{port}/",
    "http://loopback.test.:{port}/",
    "http://LOOPBACK.TEST:{port}/",
    "http://127.0.0.1.loopback.test:{port}/",
    "http://xn--loopback.loopback.test:{port}/",
    "http://a@127.0.0.1:{port}/",
    "http://example.com@127.0.0.1:{port}/",
    "http://example.com:80@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@example.com/",
    "http://example.com#@127.0.0.1:{port}/",
    "http://user:pass@example.com/",
    "http://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::FFFF:7F00:0001]:{port}/",
    "http://[::ffff:0:127.0.0.1]:{port}/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]:{port}/",
    "http://[::1%251]:{port}/",
    "http://[::1%lo]:{port}/",
    "http://[::1].:{port}/",
    "http://user@[::1]:{port}/",
    "http://::1:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[2001:0:7f00:1::]:{port}/",
    "http://[fe80::5efe:7f00:1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::]/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[fe80::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fc00::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://169.254.169.254/latest/meta-data/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://203.0.113.7/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_x",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "//127.0.0.1:{port}/",
    "http:127.0.0.1:{port}",
    "http:///127.0.0.1:{port}/",
    "http://",
    "http://:{port}/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:0/",
    "http://[::1/",
    "http://a b/",
    "http://\n127.0.0.1:{port}/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 130 + "example/",
    "",
]


@pytest.mark.parametrize("form", REFUSED_FORMS)
async def test_a_forbidden_url_is_refused_with_zero_hits(web: Origin, form: str, dialled: list[str]) -> None:
    with pytest.raises(UrlRefused):
        await Fetcher(FetchLimits(), Loopback()).fetch(form.format(port=web.port))
    assert (dialled, web.hits) == ([], 0)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.1.2.3"], ["::1"], ["::ffff:10.0.0.1"], ["fe80::1%2"], [PUBLIC, "192.168.0.9"], ["nonsense"]],
)
async def test_a_name_with_one_forbidden_address_is_refused(addresses: list[str], dialled: list[str]) -> None:
    with pytest.raises(UrlRefused, match="public"):
        await Fetcher(FetchLimits(), Names(photos=[addresses])).fetch("https://photos.example/cat.png")
    assert dialled == []


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "224.0.0.1", "0.0.0.0"])
async def test_metadata_and_multicast_stay_closed_where_private_networks_are_open(address: str) -> None:
    assert not may_connect(ip_address(address), private=True)
    assert may_connect(ip_address("10.0.0.1"), private=True)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111"])
async def test_public_addresses_are_dialled_as_they_are(address: str, dialled: list[str]) -> None:
    with pytest.raises(FetchFailed):
        await Fetcher(FetchLimits(), Names(photos=[[address]])).fetch("http://photos.example/")
    assert dialled == [address]


async def test_a_rebinding_name_is_resolved_once_and_pinned(web: Origin, dialled: list[str]) -> None:
    names = Names(photos=[[PUBLIC], ["127.0.0.1"]])
    with pytest.raises(FetchFailed):
        await Fetcher(FetchLimits(), names).fetch(web.url(host="photos.example"))
    assert (dialled, names.asked, web.hits) == ([PUBLIC], 1, 0)


@pytest.mark.usefixtures("public_at_first")
async def test_a_name_that_rebinds_on_a_redirect_to_itself_is_judged_anew(web: Origin) -> None:
    web.paths["/"] = answer(302, b"", "location: /secret")
    names = Names(photos=[["127.0.0.1"]])
    with pytest.raises(UrlRefused):
        await Fetcher(FetchLimits(), names).fetch(web.url(host="photos.example"))
    assert (names.asked, web.hits) == (2, 1)


REDIRECTED_FORMS = [
    "http://127.0.0.1:{port}/secret",
    "//[::1]:{port}/",
    "/secret",
    "http://0x7f.1:{port}/",
    "HTTP://2130706433:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://localhost:{port}/",
    "http://u:p@127.0.0.1:{port}/",
    "http://169.254.169.254/",
    "http://[::1",
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/",
]


@pytest.mark.usefixtures("public_at_first")
@pytest.mark.parametrize("location", REDIRECTED_FORMS)
async def test_a_redirect_to_a_forbidden_place_is_refused_with_zero_hits(location: str) -> None:
    async with origin() as honest, origin() as secret:
        honest.paths["/"] = answer(302, b"", f"location: {location.format(port=secret.port)}")
        names = Names(localhost=[["127.0.0.1"]])
        with pytest.raises(UrlRefused):
            await Fetcher(FetchLimits(), names).fetch(honest.url())
        assert (honest.hits, secret.hits) == (1, 0)


async def test_an_image_comes_as_it_is_under_the_name_that_was_asked(web: Origin) -> None:
    web.paths["/cat.png?size=1"] = answer(200, b"bytes")
    url = web.url("/cat.png?size=1#part", host="Photos.example")
    assert await Fetcher(OPEN, Names(photos=[["127.0.0.1"]])).fetch(url) == b"bytes"
    assert f"host: photos.example:{web.port}" in web.heads[0].lower()
    assert "accept-encoding: identity" in web.heads[0].lower()


async def test_redirects_are_followed_three_times_without_cookies(web: Origin) -> None:
    for hop in range(4):
        web.paths[f"/{hop}"] = answer(302, b"", f"location: {hop + 1}", "set-cookie: spy=1")
    web.paths["/4"] = answer(200, b"bytes")
    assert await Fetcher(OPEN).fetch(web.url("/1")) == b"bytes"
    assert web.hits == 4
    assert not any("cookie" in head.lower() for head in web.heads)
    with pytest.raises(FetchFailed, match="more than 3"):
        await Fetcher(OPEN).fetch(web.url("/0"))
    assert web.hits == 8


@pytest.mark.parametrize("hosts", [("photos.example",), ("PHOTOS.example.",)])
async def test_only_listed_hosts_are_fetched_from(web: Origin, hosts: tuple[str, ...]) -> None:
    limits = FetchLimits(hosts=hosts, private=True)
    web.paths |= {"/": answer(200, b"bytes"), "/away": answer(302, b"", f"location: {web.url(host='other.example')}")}
    fetcher = Fetcher(limits, Names(photos=[["127.0.0.1"]], other=[["127.0.0.1"]]))
    assert await fetcher.fetch(web.url(host="photos.example")) == b"bytes"
    for url in (web.url(), web.url(host="other.example"), web.url(host="x.photos.example"), "http://photos.example.x/"):
        with pytest.raises(UrlRefused, match="not fetched from"):
            await fetcher.fetch(url)
    assert web.hits == 1
    with pytest.raises(UrlRefused, match="other"):
        await fetcher.fetch(web.url("/away", host="photos.example"))
    assert web.hits == 2


@pytest.mark.parametrize(
    "said",
    [answer(status, b"x") for status in (201, 203, 206, 408, 425, 429, 500, 503)]
    + [answer(204), answer(304), answer(302), answer(200, b"x", "content-encoding: br")]
    + [b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\nshort", b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"\x16\x03\x01"]
    + [b"HTTP/1.1 200 x\r\ncontent-length: -1\r\n\r\n", b"HTTP/1.1 200 x\r\ncontent-length: 9e9\r\n\r\n"]
    + [b"HTTP/1.1 200 x\r\ntransfer-encoding: gzip\r\n\r\nx", b"HTTP/1.1 200 x\r\n" + b"a: b\r\n" * 50_000],
)
async def test_any_answer_other_than_a_plain_200_is_a_failure(web: Origin, said: bytes) -> None:
    web.paths["/"] = said
    with pytest.raises(FetchFailed):
        await Fetcher(OPEN).fetch(web.url())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
async def test_what_its_host_will_not_give_is_the_callers_to_mend(web: Origin, status: int) -> None:
    web.paths["/"] = answer(status, b"x")
    with pytest.raises(ImageNotThere, match=str(status)):
        await Fetcher(OPEN).fetch(web.url())


@pytest.mark.parametrize("words", ["", " ", "identity", "Identity", "none", "aws-chunked", "utf-8", "aws-chunked,"])
async def test_a_content_encoding_that_is_none_changes_nothing(web: Origin, words: str) -> None:
    web.paths["/"] = answer(200, b"bytes", f"content-encoding: {words}")
    assert await Fetcher(OPEN).fetch(web.url()) == b"bytes"


@pytest.mark.parametrize("words", ["GZIP", "aws-chunked, gzip", "zstd", "deflate"])
async def test_a_content_encoding_that_is_one_is_refused(web: Origin, words: str) -> None:
    web.paths["/"] = answer(200, b"bytes", f"content-encoding: {words}")
    with pytest.raises(FetchFailed, match="encoding"):
        await Fetcher(OPEN).fetch(web.url())


async def test_a_host_is_told_who_fetches(web: Origin) -> None:
    web.paths["/"] = answer(200, b"bytes")
    await Fetcher(OPEN).fetch(web.url())
    await Fetcher(FetchLimits(private=True, contact="mailto:ops@example.com")).fetch(web.url())
    plain, told = (re.search(r"user-agent: (.*)\r", head.lower()) for head in web.heads)
    assert plain is not None
    assert re.fullmatch(r"manylens/[\w.]+", plain[1])
    assert told is not None
    assert told[1] == f"{plain[1]} (+mailto:ops@example.com)"


async def test_a_gzip_bomb_is_refused_unopened(web: Origin) -> None:
    web.paths["/"] = answer(200, gzip.compress(bytes(50_000_000)), "content-encoding: gzip")
    with pytest.raises(FetchFailed, match="encoding"):
        await Fetcher(OPEN).fetch(web.url())


async def test_an_endless_body_is_cut_at_the_cap(web: Origin) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\n\r\n")
        while True:
            writer.write(bytes(10_000))
            await writer.drain()

    web.paths |= {"/": endless, "/declared": b"HTTP/1.1 200 x\r\ncontent-length: 100001\r\n\r\n"}
    for path in ("/", "/declared"):
        with pytest.raises(ImageTooLarge, match="100,000"):
            await Fetcher(OPEN).fetch(web.url(path))
    await asyncio.wait_for(web.gone.wait(), 5)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\n", b"HTTP/1.1 200 x\r\nx: ", b""])
async def test_a_slow_drip_ends_at_the_total_deadline(web: Origin, head: bytes) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(b"x" if head else b"")
            await writer.drain()
            await asyncio.sleep(0.02)

    web.paths["/"] = drip
    started = time.perf_counter()
    with pytest.raises(FetchTimeout, match="within"):
        await Fetcher(FetchLimits(seconds=0.2, private=True)).fetch(web.url())
    assert time.perf_counter() - started < 1


async def test_a_slow_resolver_ends_at_the_total_deadline() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    with pytest.raises(FetchTimeout):
        await Fetcher(FetchLimits(seconds=0.1), never).fetch("http://photos.example/")


async def test_a_caller_who_leaves_closes_the_connection(web: Origin) -> None:
    async def hold(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    web.paths["/"] = hold
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Fetcher(OPEN).fetch(web.url()), 0.1)
    await asyncio.wait_for(web.gone.wait(), 5)


async def test_a_dead_port_or_an_unknown_name_fails_fast() -> None:
    with socket.socket() as taken:  # bound but not listening: nothing else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        started = time.perf_counter()
        with pytest.raises(FetchFailed, match="does not answer"):
            await Fetcher(OPEN).fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    with pytest.raises(FetchFailed, match="no address"):
        await Fetcher(OPEN, Names()).fetch("http://nobody.example/")
    assert time.perf_counter() - started < 1


async def test_the_next_address_is_tried_where_one_is_dead(web: Origin) -> None:
    web.paths["/"] = answer(200, b"bytes")
    names = Names(photos=[["::1", "127.0.0.1"]])
    assert await Fetcher(OPEN, names).fetch(web.url(host="photos.example")) == b"bytes"


@pytest.mark.parametrize(("name", "well"), [("photos.example", True), ("other.example", False)])
async def test_tls_is_verified_against_the_name(
    name: str, well: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    names = Names(photos=[["127.0.0.1"]])
    async with origin(tls) as secure:
        secure.paths["/"] = answer(200, b"bytes")
        url = secure.url(host="photos.example").replace("http:", "https:")
        with pytest.raises(FetchFailed):
            await Fetcher(OPEN, names).fetch(url)  # an authority nobody trusts
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with contextlib.nullcontext() if well else pytest.raises(FetchFailed):
            assert await Fetcher(OPEN, names).fetch(url) == b"bytes"
        assert len(secure.heads) == int(well)


def spellings(address: int) -> list[str]:
    """One IPv4 address as resolvers of all kinds may read it."""
    quad, octets = str(IPv4Address(address)), address.to_bytes(4, "big")
    return [
        quad,
        str(address),
        hex(address),
        f"0{address:o}",
        ".".join(hex(octet) for octet in octets),
        ".".join(f"0{octet:o}" for octet in octets),
        f"{octets[0]}.{address & 0xFFFFFF}",
        f"{quad}.",
        f"[::ffff:{quad}]",
        f"[::{quad}]",
        f"[64:ff9b::{quad}]",
        f"[2002:{address >> 16:x}:{address & 0xFFFF:x}::1]",
    ]


_FETCHER = Fetcher(FetchLimits(), Names(localhost=[["127.0.0.1"]]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_no_spelling_of_a_private_address_is_dialled(dialled: list[str], data: st.DataObject) -> None:
    first = data.draw(st.sampled_from([0x7F000000, 0x0A000000, 0xA9FE0000, 0x64400000, 0xE0000000]))
    host = data.draw(st.sampled_from(spellings(first + data.draw(st.integers(0, 0xFFFF)))))
    user, port = data.draw(st.sampled_from(["", "a@", "a:b@", "8.8.8.8@"])), data.draw(st.sampled_from(["", ":80"]))
    with pytest.raises(UrlRefused):
        await _FETCHER.fetch(f"http://{user}{host}{port}/")
    assert dialled == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=60)
    | st.from_regex(r"https?://[0-9a-fx:.%@\[\]\\/?#。-]{1,30}", fullmatch=True)
    | st.builds("http://{}".format, st.ip_addresses())
    | st.builds("http://[{}]/".format, st.ip_addresses(v=6))
)
async def test_any_text_ends_in_a_typed_error_and_dials_only_public_addresses(dialled: list[str], url: str) -> None:
    dialled.clear()
    with pytest.raises(ServiceError) as caught:
        await _FETCHER.fetch(url)
    assert caught.value.status in (400, 502)
    assert all(ip_address(host).is_global for host in dialled)
