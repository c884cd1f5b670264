"""One POST: exact on the wire, bounded in time and size, never where the policy does not let it, never an exception."""

import asyncio
import gzip
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.core.headers import request_headers
from flask_webhook_endpoints.errors import InvalidURL
from flask_webhook_endpoints.security import egress, signing
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.security.encryption import Headers
from flask_webhook_endpoints.security.private import PrivateURL
from flask_webhook_endpoints.worker import request
from flask_webhook_endpoints.worker.http_client import Answer, Sender
from tests.support import names
from tests.support.proxy import EgressProxy, page
from tests.support.receivers import (
    OK_HEAD,
    endless,
    ok,
    say,
    then_close,
    then_half_close,
    then_hang,
    then_reset,
)
from tests.support.waiting import PATIENCE_SECONDS, SLOWNESS

PUBLIC_ONLY = EgressPolicy.of(require_https=False, allowed_networks=[])
LOOPBACK = EgressPolicy.of(require_https=False, allowed_networks=["127.0.0.0/8", "::1/128"])
BODY = b'{"type":"invoice.paid","data":{"id":7}}'
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
HEADERS = dict(request_headers(None, message_id="evt_1", timestamp=1, signature="v1,x"))


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", autouse=True)
def trust(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make ours the one issuer that is trusted, as an operating system's bundle does."""
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


def with_sender(work: Callable[[Sender], Awaitable[Any]], policy: EgressPolicy = LOOPBACK, **options: Any) -> Any:
    async def main() -> Any:
        async with Sender(policy, **{"concurrency": 200, **options}) as sender:
            return await work(sender)

    return asyncio.run(main())


async def post(sender: Sender, url: str, **changes: Any) -> Answer:
    headers = Headers(changes.pop("headers", HEADERS))
    options = {"body": BODY, "timeout_seconds": PATIENCE_SECONDS, **changes}
    return await sender.post(PrivateURL(url), headers=headers, **options)


def post_once(url: str, policy: EgressPolicy = LOOPBACK, *, proxy: str | None = None, **changes: Any) -> Answer:
    return with_sender(lambda sender: post(sender, url, **changes), policy, proxy=proxy)


def url_of(receiver: Any, path: str = "/", *, scheme: str = "http", host: str = "127.0.0.1") -> str:
    return f"{scheme}://{host}:{receiver.port}{path}"


class TestOnTheWire:
    def test_the_whole_request_is_as_expected(self, receivers):
        receiver = receivers.start(ok())

        answer = post_once(
            url_of(receiver, "/a%2Fb/../c/%zz|~?q=%2f&r=a+b&s='\"%00"),
            headers=request_headers(Headers({"X-Key": "k"}), message_id="evt_1", timestamp=12, signature="v1,x v1,y"),
        )

        assert (answer.status, answer.error) == (200, None)
        head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
        assert body == BODY
        user_agent = HEADERS["user-agent"].encode()
        assert user_agent.startswith(b"flask-webhook-endpoints/")
        assert head.split(b"\r\n") == [
            b"POST /a%2Fb/../c/%zz|~?q=%2f&r=a+b&s='\"%00 HTTP/1.1",
            b"Host: 127.0.0.1:%d" % receiver.port,
            b"X-Key: k",
            b"content-type: application/json",
            b"user-agent: " + user_agent,
            b"accept-encoding: identity",
            b"webhook-id: evt_1",
            b"webhook-timestamp: 12",
            b"webhook-signature: v1,x v1,y",
            b"Accept: */*",
            b"Content-Length: %d" % len(BODY),
        ]

    @pytest.mark.parametrize("rest", ["?", "/?", "/a?", "/a??", "/a?b?", "/a%2F?"])
    def test_a_question_mark_at_the_end_goes_out(self, receivers, rest):
        receiver = receivers.start(ok())

        post_once(url_of(receiver, rest))

        path = "/" + rest.removeprefix("/")
        assert [request.split(b" ")[1].decode() for request in receiver.requests] == [path]

    @pytest.mark.parametrize("body", [b"{}", bytes(range(256)) * 4, b"x" * 262_144], ids=["{}", "any bytes", "256 KiB"])
    def test_what_was_signed_arrives_and_verifies(self, receivers, body):
        receiver = receivers.start(ok())
        now = datetime.now(UTC)
        timestamp = int(now.timestamp())
        signature = signing.sign(["a secret"], message_id="evt_1", timestamp=timestamp, body=body)

        post_once(
            url_of(receiver),
            headers=request_headers(None, message_id="evt_1", timestamp=timestamp, signature=signature),
            body=body,
        )

        head, _, received = receiver.requests[0].partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert received == body
        signing.verify(["a secret"], headers, received, now=now)

    def test_nothing_of_a_body_is_sent_after_the_deadline(self):
        body = b"x" * 2**25

        async def send(sender: Sender) -> int:
            with socket.create_server(("127.0.0.1", 0)) as server:
                url = f"http://127.0.0.1:{server.getsockname()[1]}/"
                assert (await post(sender, url, body=body, timeout_seconds=0.5)).error is SendError.TIMEOUT
                connection, _ = server.accept()
                with connection:
                    return await asyncio.to_thread(lambda: sum(map(len, iter(partial(connection.recv, 2**16), b""))))

        assert 0 < with_sender(send) < len(body)

    def test_the_tenant_may_say_what_it_accepts(self, receivers):
        receiver = receivers.start(ok())

        post_once(url_of(receiver), headers={**HEADERS, "ACCEPT": "text/plain"})

        assert receiver.requests[0].lower().count(b"\r\naccept: ") == 1
        assert b"\r\nACCEPT: text/plain\r\n" in receiver.requests[0]

    def test_header_values_go_out_in_latin_1(self, receivers):
        receiver = receivers.start(ok())
        every_letter = "".join(map(chr, range(0xA0, 0x100)))

        post_once(url_of(receiver), headers={**HEADERS, "X-Name": "Zoë", "X-All": every_letter, "X-UTF-8": "Ã©"})

        assert b"\r\nX-Name: Zo\xeb\r\n" in receiver.requests[0]
        assert b"\r\nX-All: " + bytes(range(0xA0, 0x100)) + b"\r\n" in receiver.requests[0]
        assert b"\r\nX-UTF-8: \xc3\xa9\r\n" in receiver.requests[0]

    @pytest.mark.parametrize("url", ["http://localhost:{}", "http://LOCALHOST:{}?x=1"])
    def test_names_are_resolved_and_sent_as_host(self, receivers, url):
        receiver = receivers.start(ok())

        assert post_once(url.format(receiver.port)).status == 200
        assert b"\r\nhost: localhost" in receiver.requests[0].lower()

    def test_ipv6_is_reached(self, receivers):
        receiver = receivers.start(ok(), host="::1")

        assert post_once(url_of(receiver, host="[::1]")).status == 200
        assert b"\r\nHost: [::1]:%d\r\n" % receiver.port in receiver.requests[0]

    def test_connections_are_kept_for_the_next_post(self, receivers):
        receiver = receivers.start(ok(b"fine"))

        async def five(sender: Sender) -> list[Answer]:
            return [await post(sender, url_of(receiver)) for _ in range(5)]

        assert [answer.status for answer in with_sender(five)] == [200] * 5
        assert receiver.connections == 1

    def test_tenants_share_no_cookies(self, receivers):
        receiver = receivers.start(ok(b"", b"Set-Cookie: session=acme; Path=/", b"Set-Cookie: =;;\xff; expires=soon"))

        async def two(sender: Sender) -> None:
            await post(sender, url_of(receiver, host="localhost"))
            await post(sender, url_of(receiver, host="localhost"))

        with_sender(two)

        assert len(receiver.requests) == 2
        assert not any(b"cookie" in request.lower() for request in receiver.requests)

    def test_the_environment_has_no_say(self, receivers, monkeypatch, tmp_path):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login someone password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        receiver = receivers.start(ok())

        assert post_once(url_of(receiver)).status == 200
        assert b"authorization" not in receiver.requests[0].lower()


class TestRequestHeaders:
    def test_ours_replace_the_tenants_in_any_spelling(self):
        custom = {
            "Content-Type": "text/html",
            "USER-AGENT": "x",
            "Webhook-Id": "x",
            "webhook-SIGNATURE": "x",
            "Accept-Encoding": "gzip",
            "X-Key": "k",
        }

        headers = request_headers(Headers(custom), message_id="evt_1", timestamp=12, signature="v1,x")

        ours = request_headers(None, message_id="evt_1", timestamp=12, signature="v1,x")
        assert headers == {"X-Key": "k", **ours}
        assert next(iter(headers)) == "X-Key"

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param({"X-Key": "a\r\nX-Other: b"}, id="line break"),
            pytest.param({"X-Key": "a\nb"}, id="line feed"),
            pytest.param({"X-Key": "a\0b"}, id="NUL"),
            pytest.param({"X-Key": "€"}, id="beyond Latin-1"),
            pytest.param({"X-Key": "\udce9"}, id="lone surrogate"),
            pytest.param({"X Key": "a"}, id="space in the name"),
            pytest.param({"X-Key: a\r\nX-Other": "b"}, id="line break in the name"),
            pytest.param({"": "a"}, id="no name"),
            pytest.param({"X-Kéy": "a"}, id="letter in the name"),
            pytest.param({"HOST": "example.com"}, id="another host"),
            pytest.param({"content-Length": "1"}, id="another length"),
            pytest.param({"Transfer-Encoding": "chunked"}, id="another end"),
        ],
    )
    def test_a_header_that_would_not_arrive_as_it_is_sends_nothing(self, receivers, header):
        receiver = receivers.start(ok())

        answer = post_once(url_of(receiver), headers=HEADERS | header)

        assert (answer.status, answer.error) == (None, SendError.INVALID_REQUEST)
        assert receiver.connections == 0


class TestAnswers:
    def test_a_kibibyte_of_the_body_is_kept_as_it_came(self, receivers):
        body = bytes(range(256)) * 5
        receiver = receivers.start(ok(body))

        answer = post_once(url_of(receiver))

        assert answer.excerpt == body[:1024]
        assert answer.error is None

    def test_values_of_headers_that_a_receiver_echoes_are_not_kept(self, receivers):
        custom = {"Authorization": "Bearer s3cret-token", "X-Name": "Zo\xeb-and-more"}
        headers = request_headers(custom, message_id="evt_1", timestamp=1, signature="v1,signature")
        echo = b"\r\n".join(b"%s: %s" % (name.encode(), value.encode("latin-1")) for name, value in headers.items())
        receiver = receivers.start(ok(echo + b' {"token":"s3cret-token"} ' + b"x" * 800 + b"Bearer s3cret-token" * 30))

        excerpt = post_once(url_of(receiver), headers=headers).excerpt

        assert b"Authorization: ***\r\nX-Name: ***\r\n" in excerpt
        assert b'{"token":"***"}' in excerpt
        assert not any(value in excerpt for value in (b"s3cret", b"signature,", b"and-more", b"v1,sig"))
        assert len(excerpt) <= 1024

    @pytest.mark.parametrize("status", [b"503 Service Unavailable", b"429 Too Many Requests", b"500 Oh", b"200 OK"])
    def test_retry_after_is_read_in_whatever_answer(self, receivers, status):
        head = b"HTTP/1.1 " + status + b"\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"

        assert post_once(url_of(receivers.start(say(head)))).retry_after_seconds == 120

    def test_interim_answers_are_passed_over(self, receivers):
        receiver = receivers.start(
            then_close(say(b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" * 3, OK_HEAD, b"\r\n"))
        )

        assert post_once(url_of(receiver)).status == 200

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirects_are_not_followed(self, receivers, status):
        target = receivers.start(ok())
        locations = ("http://169.254.169.254/latest/meta-data/", url_of(target))
        for location in locations:
            head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            answer = post_once(url_of(receivers.start(say(head.encode()))))

            assert (answer.status, answer.error) == (status, None)
        assert target.connections == 0

    def test_compressed_bodies_are_not_unpacked(self, receivers):
        bomb = gzip.compress(bytes(200 * 1024 * 1024 // 16), compresslevel=9)
        receiver = receivers.start(ok(bomb, b"Content-Encoding: gzip"))

        answer = post_once(url_of(receiver))

        assert (answer.status, answer.error, answer.excerpt) == (200, None, bomb[:1024])

    @pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's advice beyond a megabyte
    def test_an_answer_without_reading_the_body_is_an_answer(self, receivers):
        # The connection, with half a request in it, must not serve the next one.
        writers: list[asyncio.StreamWriter] = []

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            writers.append(writer)

        async def two(sender: Sender) -> list[Answer]:
            server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=4096)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            answers = [await post(sender, url, body=bytes(32 * 1024 * 1024)) for _ in range(2)]
            server.close()
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0.01)
            return answers

        for answer in with_sender(two):
            assert (answer.status, answer.error) == (413, None)


# Each with what it answers, the status that arrives and the error's code.
ILL_BEHAVED = {
    "closes": (then_close(say()), None, SendError.DISCONNECTED),
    "resets": (then_reset(say()), None, SendError.DISCONNECTED),
    "half-closes": (then_half_close(say()), None, SendError.DISCONNECTED),
    "half-closes in the head": (then_half_close(say(OK_HEAD)), None, SendError.DISCONNECTED),
    "closes in the body": (then_close(say(OK_HEAD, b"Content-Length: 9\r\n\r\nx")), 200, SendError.DISCONNECTED),
    "resets in the body": (then_reset(say(OK_HEAD, b"Content-Length: 9\r\n\r\nx")), 200, SendError.DISCONNECTED),
    "closes in a chunk": (
        then_close(say(OK_HEAD, b"Transfer-Encoding: chunked\r\n\r\n9\r\nx")), 200, SendError.DISCONNECTED,
    ),
    "an invalid chunk": (say(OK_HEAD, b"Transfer-Encoding: chunked\r\n\r\nx\r\n"), 200, SendError.PROTOCOL),
    "another protocol": (say(b"SSH-2.0-OpenSSH_9.2\r\n"), None, SendError.PROTOCOL),
    "HTML alone": (then_close(say(b"<html>")), None, SendError.PROTOCOL),
    "noise": (say(bytes(range(256))), None, SendError.PROTOCOL),
    "no number as status": (say(b"HTTP/1.1 OK OK\r\n\r\n"), None, SendError.PROTOCOL),
    "two lengths": (
        say(OK_HEAD, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), None, SendError.PROTOCOL,
    ),
    "length and chunks": (
        say(OK_HEAD, b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 200, None,
    ),
    "one length twice": (say(OK_HEAD, b"Content-Length: 2\r\nX: y\r\ncontent-length: 2\r\n\r\nxx"), 200, None),
    "a body that is none": (say(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"), 204, None),
    "a body after the head alone": (say(b"HTTP/1.1 204 No Content\r\n\r\nhello"), 204, None),
    "a length in characters": (say(OK_HEAD, b"Content-Length: 4\r\n\r\n", "Zoëë".encode()), 200, None),
    "bytes behind the last chunk": (
        say(OK_HEAD, b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nhello"), 200, None,
    ),
    "sixteen interim answers": (
        say(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 16, OK_HEAD, b"Content-Length: 0\r\n\r\n"), 200, None,
    ),
    "seventeen interim answers": (
        say(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17, OK_HEAD, b"Content-Length: 0\r\n\r\n"),
        None, SendError.PROTOCOL,
    ),
    "endless interim answers": (endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000), None, SendError.PROTOCOL),
    "large interim answers": (
        endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: " + b"a" * 16_000 + b"\r\n\r\n"), None, SendError.PROTOCOL,
    ),
    "a long line": (
        say(OK_HEAD, b"Content-Security-Policy: " + b"a" * 16_000 + b"\r\nContent-Length: 0\r\n\r\n"), 200, None,
    ),
    "120 headers of 8 kB": (
        say(OK_HEAD, (b"X-Header: " + b"a" * 8000 + b"\r\n") * 120, b"Content-Length: 0\r\n\r\n"),
        None, SendError.PROTOCOL,
    ),
    "10 MB in a header": (say(OK_HEAD, b"X: ", b"a" * 10_000_000, b"\r\n\r\n"), None, SendError.PROTOCOL),
    "10 MB in headers": (say(OK_HEAD, b"X: y\r\n" * 1_666_666, b"\r\n"), None, SendError.PROTOCOL),
    "10 MB in the status": (say(b"HTTP/1.1 200 ", b"a" * 10_000_000, b"\r\n\r\n"), None, SendError.PROTOCOL),
    "endless header": (endless(OK_HEAD + b"X: ", b"a" * 65_536), None, SendError.PROTOCOL),
    "endless body": (endless(OK_HEAD + b"\r\n", b"a" * 65_536), 200, None),
    "endless body in chunks": (
        endless(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"a" * 65_536 + b"\r\n"), 200, None,
    ),
    "switches protocols": (
        say(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"a" * 100), 101, None,
    ),
    "an answer too many": (say((OK_HEAD + b"Content-Length: 0\r\n\r\n") * 2), 200, None),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "status", "error"), ILL_BEHAVED.values(), ids=ILL_BEHAVED)
def test_each_ill_behaved_receiver_has_its_outcome_long_before_the_deadline(receivers, answer, status, error):
    receiver = receivers.start(answer)

    async def twice(sender: Sender) -> list[Answer]:
        return [await post(sender, url_of(receiver)) for _ in range(2)]

    for outcome in with_sender(twice):
        assert (outcome.status, outcome.error) == (status, error)
        assert outcome.duration_ms < 1000 * PATIENCE_SECONDS / 2


def test_every_way_to_be_slow_ends_at_the_deadline(receivers):
    silent = receivers.start(then_hang(say()))
    head = receivers.start(endless(OK_HEAD, b"X", pause=0.2))
    interim = receivers.start(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.2))
    body = receivers.start(endless(OK_HEAD + b"\r\n", b"a", pause=0.2))
    chunk = receivers.start(endless(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;", b"x" * 100, pause=0.2))
    missing = receivers.start(then_hang(say(OK_HEAD, b"Content-Length: 9\r\n\r\nx")))
    full = socket.create_server(("127.0.0.1", 0), backlog=0)  # takes connections into its backlog, reads nothing
    no_answer: tuple[int | None, bytes] = (None, b"")
    expected = {
        url_of(silent): no_answer,
        url_of(silent, scheme="https"): no_answer,  # as a TLS handshake that never goes on
        url_of(head): no_answer,
        url_of(interim): no_answer,
        url_of(body): (200, b"a" * 10),
        url_of(chunk): (200, b""),
        url_of(missing): (200, b"x"),
        f"http://127.0.0.1:{full.getsockname()[1]}/": no_answer,
        "http://hang.test/": no_answer,
    }

    async def together(sender: Sender) -> list[Answer]:
        posts = [post(sender, url, body=bytes(1024 * 1024), timeout_seconds=2) for url in expected]
        return await asyncio.gather(*posts)

    with full, names.answering():
        answers = dict(zip(expected, with_sender(together), strict=True))

    for url, (status, excerpt) in expected.items():
        assert (answers[url].status, answers[url].error) == (status, SendError.TIMEOUT), url
        assert answers[url].excerpt.startswith(excerpt[:3]), url
        assert 2000 <= answers[url].duration_ms <= 2000 + SLOWNESS * 200, url


def test_a_hundred_ill_behaved_receivers_at_once_cost_no_memory(receivers):
    kinds = ("endless header", "endless body", "endless body in chunks")
    ill_behaved = [receivers.start(ILL_BEHAVED[kind][0]) for kind in kinds]
    bomb = receivers.start(ok(gzip.compress(bytes(16 * 1024 * 1024)), b"Content-Encoding: gzip"))
    urls = [url_of(receiver) for receiver in (*ill_behaved, bomb)] * 25

    async def together(sender: Sender) -> list[Answer]:
        await asyncio.gather(*(post(sender, url) for url in urls[:8]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answers = await asyncio.gather(*(post(sender, url) for url in urls))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 60 * 1024  # KiB; half a megabyte for each, sockets' buffers on both ends included
        return answers

    assert {answer.error for answer in with_sender(together)} == {None, SendError.PROTOCOL}


def test_a_reused_connection_survives_no_ill_behaviour(receivers):
    receiver = receivers.start(say(OK_HEAD, b"Content-Length: 2\r\n\r\nhi", b"HTTP/1.1 500 Smuggled\r\n\r\n"))

    async def five(sender: Sender) -> list[Answer]:
        return [await post(sender, url_of(receiver)) for _ in range(5)]

    assert [answer.status for answer in with_sender(five)] == [200] * 5


@pytest.mark.parametrize("pieces", [1, 2, 3, 7], ids=lambda size: f"{size} bytes at a time")
@pytest.mark.parametrize("kind", ["length and chunks", "one length twice", "a length in characters", "a long line"])
def test_an_answer_in_pieces_is_the_same_answer(receivers, kind, pieces):
    async def collect(writer: Any) -> None:
        await ILL_BEHAVED[kind][0](writer)

    written: list[bytes] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        written.clear()
        await collect(SimpleNamespace(write=written.append, drain=lambda: asyncio.sleep(0)))
        said = b"".join(written)
        for begin in range(0, min(len(said), 400), pieces):
            writer.write(said[begin : begin + pieces])
            await asyncio.sleep(0)
        writer.write(said[400:] if len(said) > 400 else b"")

    answered = post_once(url_of(receivers.start(answer)))

    assert (answered.status, answered.error) == ILL_BEHAVED[kind][1:]


def test_a_connection_that_received_something_while_idle_answers_nobody(receivers):
    first = True

    async def smuggle(writer: asyncio.StreamWriter) -> None:
        nonlocal first
        writer.write(OK_HEAD + b"Content-Length: 0\r\n\r\n")
        await writer.drain()
        if first:
            first = False
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 418 Unasked\r\nContent-Length: 0\r\n\r\n")

    receiver = receivers.start(smuggle)

    async def twice(sender: Sender) -> list[Answer]:
        one = await post(sender, url_of(receiver))
        await asyncio.sleep(0.5)
        return [one, await post(sender, url_of(receiver))]

    assert [answer.status for answer in with_sender(twice)] == [200, 200]
    assert receiver.connections == 2


def test_a_connection_whose_bytes_wait_unread_answers_nobody(receivers):
    receiver = receivers.start(say(OK_HEAD, b"Content-Length: 0\r\n\r\n"))
    written = threading.Event()

    async def smuggle(writer: asyncio.StreamWriter) -> None:
        writer.write(OK_HEAD + b"Content-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.write(b"HTTP/1.1 418 Unasked\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        written.set()

    receiver = receivers.start(smuggle)

    async def twice(sender: Sender) -> list[Answer]:
        one = await post(sender, url_of(receiver))
        # Hold up the loop, so that it has not read when the next request takes the connection.
        written.wait(PATIENCE_SECONDS)
        time.sleep(0.05)
        return [one, await post(sender, url_of(receiver))]

    assert [answer.status for answer in with_sender(twice)] == [200, 200]
    assert receiver.connections == 2


@pytest.mark.slow
def test_300_answers_with_large_heads_cost_little_memory(receivers):
    head = OK_HEAD + (b"X-Header: " + b"a" * 8000 + b"\r\n") * 7 + b"Content-Length: 9\r\n\r\n"
    receiver = receivers.start(then_hang(say(head)))

    async def together(sender: Sender) -> list[Answer]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answers = await asyncio.gather(*(post(sender, url_of(receiver), timeout_seconds=5) for _ in range(300)))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        # KiB, buffers on both ends included; the parser holds 115 for each until the answer is complete.
        assert grown < 120 * 1024
        return answers

    assert {answer.error for answer in with_sender(together, concurrency=400)} == {SendError.TIMEOUT}


NOISE = st.binary(max_size=200)


ANSWERS_OF_NOISE = (
    NOISE
    | NOISE.map(lambda noise: OK_HEAD + noise)
    | NOISE.map(lambda noise: OK_HEAD + b"X: " + noise + b"\r\n\r\n" + noise)
    | NOISE.map(lambda noise: OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + noise)
    | NOISE.map(lambda noise: OK_HEAD + b"Set-Cookie: " + noise + b"\r\nContent-Length: 3\r\n\r\n" + noise)
)


@settings(max_examples=10)
@given(st.lists(ANSWERS_OF_NOISE, min_size=10, max_size=20))
def test_no_bytes_of_a_receiver_are_unexpected(receivers, noises):
    urls = [url_of(receivers.start(then_close(say(noise)))) for noise in noises]

    async def together(sender: Sender) -> list[Answer]:
        return await asyncio.gather(*(post(sender, url) for url in urls))

    errors = {answer.error for answer in with_sender(together)}
    assert errors <= {None, SendError.PROTOCOL, SendError.DISCONNECTED}


class TestConnecting:
    def test_a_closed_port(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

        answer = post_once(f"http://127.0.0.1:{port}/")

        assert (answer.status, answer.error, answer.excerpt) == (None, SendError.CONNECT, b"")

    @pytest.mark.parametrize("name", ["nowhere.invalid", "xn--a.invalid", "a_b.invalid", "a" * 63 + ".invalid"])
    def test_an_unresolvable_name(self, name):
        with names.answering():
            assert post_once(f"http://{name}/").error is SendError.DNS

    @pytest.mark.parametrize(
        ("url", "error"),
        [
            ("http://127.0.0.1/", SendError.BLOCKED_ADDRESS),
            ("http://[::1]/", SendError.BLOCKED_ADDRESS),
            ("http://[::ffff:127.0.0.1]/", SendError.BLOCKED_ADDRESS),
            ("http://169.254.169.254/latest/meta-data/", SendError.BLOCKED_ADDRESS),
            ("http://127.1/", SendError.INVALID_URL),
            ("http://user@example.com/", SendError.INVALID_URL),
            ("http://example.com\\@127.0.0.1/", SendError.INVALID_URL),
            ("ftp://example.com/", SendError.INVALID_URL),
            ("", SendError.INVALID_URL),
            ("\ud800", SendError.INVALID_URL),
        ],
    )
    def test_urls_that_the_policy_refuses_today(self, url, error):
        assert post_once(url, PUBLIC_ONLY).error is error

    def test_https_only_when_the_host_says_so(self):
        policy = EgressPolicy.of(require_https=True, allowed_networks=[])

        assert post_once("http://example.com/", policy).error is SendError.INVALID_URL

    @given(
        st.from_regex(
            r"[hH][tT]{2}[pP][sS]?://([A-Za-z0-9_.-]{1,12}|\[[0-9a-fA-F:.]{2,20}\]|[0-9.x]{1,15})(:[0-9]{1,5})?"
            r"([/?][!-~]{0,20})?",
            fullmatch=True,
        )
    )
    @settings(max_examples=100)
    def test_the_host_that_is_dialled_is_the_one_that_was_checked(self, url):
        policy = EgressPolicy.of(require_https=False, allowed_networks=["0.0.0.0/0", "::/0"])
        try:
            policy.check_url(url)
        except InvalidURL:
            return

        parts = egress._URL.fullmatch(url)
        dialled = request.as_written(url)

        assert parts
        assert dialled.raw_host == (parts["ipv6"] or parts["name"])
        assert dialled.scheme == parts["scheme"].lower()
        assert dialled.port == int(parts["port"] or {"http": 80, "https": 443}[dialled.scheme])
        assert dialled.raw_path_qs == "/" + (parts["rest"] or "").removeprefix("/")


class TestNames:
    """Names whose answers are those of an attacker."""

    @pytest.fixture
    def dns(self) -> Iterator[dict[str, Sequence[Sequence[str]]]]:
        """What each name resolves to, lookup by lookup; the last answer stays."""
        with names.answering() as server:
            yield server.answers

    @pytest.mark.parametrize(
        "addresses",
        [
            pytest.param(["127.0.0.1"], id="loopback"),
            pytest.param(["::1"], id="IPv6 loopback"),
            pytest.param(["10.0.0.1"], id="private"),
            pytest.param(["169.254.169.254"], id="link-local"),
            pytest.param(["::ffff:127.0.0.1"], id="IPv4-mapped"),
            pytest.param(["::127.0.0.1"], id="IPv4-compatible"),
            pytest.param(["64:ff9b::7f00:1"], id="NAT64"),
            pytest.param(["64:ff9b:1::7f00:1"], id="local NAT64"),
            pytest.param(["2002:7f00:1::1"], id="6to4"),
            pytest.param(["2001:0:7f00:1::1"], id="Teredo"),
            pytest.param(["fe80::1"], id="link-local in IPv6"),
            pytest.param(["0.0.0.0"], id="this host"),
            pytest.param(["::"], id="this host in IPv6"),
            pytest.param(["10.0.0.1", "127.0.0.1", "::1", "fd00::1"], id="several"),
        ],
    )
    def test_a_name_that_leads_inside_is_refused(self, receivers, dns, addresses):
        inside = receivers.start(ok())
        dns["inside.test"] = [addresses]

        answer = post_once(url_of(inside, host="inside.test"), PUBLIC_ONLY)

        assert (answer.status, answer.error) == (None, SendError.BLOCKED_ADDRESS)
        assert inside.connections == 0

    def test_mapped_addresses_are_refused_even_where_loopback_is_allowed(self, receivers, dns):
        inside = receivers.start(ok())
        dns["inside.test"] = [["::ffff:127.0.0.1"]]

        assert post_once(url_of(inside, host="inside.test")).error is SendError.BLOCKED_ADDRESS

    def test_a_name_that_leads_inside_at_its_second_lookup_is_refused(self, receivers, dns):
        # 127.0.0.2 stands for a public address, so that the test needs no Internet.
        policy = EgressPolicy.of(require_https=False, allowed_networks=["127.0.0.2/32"])
        # This one first: nobody else takes ports of 127.0.0.2.
        inside = receivers.start(ok())
        outside = receivers.start(then_close(ok(b"", b"Connection: close")), host="127.0.0.2", port=inside.port)
        dns["rebinding.test"] = [["127.0.0.2"], ["127.0.0.1"]]

        async def twice(sender: Sender) -> list[Answer]:
            first = await post(sender, url_of(outside, host="rebinding.test"))
            sender._connector.clear_dns_cache()
            return [first, await post(sender, url_of(outside, host="rebinding.test"))]

        first, second = with_sender(twice, policy)

        assert (first.status, first.error) == (200, None)
        assert (second.status, second.error) == (None, SendError.BLOCKED_ADDRESS)
        assert inside.connections == 0

    def test_only_the_allowed_ones_of_several_addresses_are_connected_to(self, receivers, dns):
        policy = EgressPolicy.of(require_https=False, allowed_networks=["127.0.0.2/32"])
        inside = receivers.start(ok())
        outside = receivers.start(ok(), host="127.0.0.2", port=inside.port)
        dns["both.test"] = [["127.0.0.1", "::1", "127.0.0.2"]]

        assert post_once(url_of(outside, host="both.test"), policy).status == 200
        assert inside.connections == 0

    def test_a_name_with_an_ipv6_address_alone(self, receivers, dns):
        receiver = receivers.start(ok(), host="::1")
        dns["six.test"] = [["::1"]]

        assert post_once(url_of(receiver, host="six.test")).status == 200

    def test_an_address_that_takes_no_connection_is_passed_over(self, receivers, dns):
        receiver = receivers.start(ok())
        dns["both.test"] = [["::1", "127.0.0.3", "127.0.0.1"]]

        assert post_once(url_of(receiver, host="both.test")).status == 200

    def test_a_name_with_thousands_of_addresses_keeps_nobody_busy(self, dns):
        dns["many.test"] = [[f"127.1.{high}.{low}" for high in range(16) for low in range(250)]]
        started = time.process_time()

        answer = post_once("http://many.test:65000/")

        assert answer.error is SendError.CONNECT
        assert time.process_time() - started < SLOWNESS

    def test_a_name_without_addresses(self, dns):
        dns["none.test"] = [[]]

        assert post_once("http://none.test/").error is SendError.DNS

    @pytest.mark.slow
    def test_names_that_hang_hold_up_no_other_names(self, receivers):
        receiver = receivers.start(ok())
        fine = {f"fine{number}.test": [["127.0.0.1"]] for number in range(25)}

        async def together(sender: Sender) -> tuple[list[Answer], list[Answer]]:
            hanging = [
                asyncio.create_task(post(sender, f"http://hang{number}.test/", timeout_seconds=SLOWNESS))
                for number in range(300)
            ]
            await asyncio.sleep(0.1)
            answers = await asyncio.gather(*(post(sender, url_of(receiver, host=host)) for host in fine))
            assert not any(task.done() for task in hanging)
            return answers, await asyncio.gather(*hanging)

        with names.answering(fine) as server:
            answers, hung = with_sender(together, concurrency=400)

        assert [answer.status for answer in answers] == [200] * 25
        assert max(answer.duration_ms for answer in answers) < 1000 * SLOWNESS
        assert {answer.error for answer in hung} == {SendError.TIMEOUT}
        assert {f"hang{number}.test" for number in range(300)} <= server.asked


class TestTLS:
    @staticmethod
    def context(ca: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert(*names, **options).configure_cert(context)
        return context

    def test_a_certificate_for_the_name_is_fine(self, receivers, ca):
        receiver = receivers.start(ok(b"fine"), tls=self.context(ca, "localhost"))

        for host in ("localhost", "LOCALHOST"):
            answer = post_once(url_of(receiver, scheme="https", host=host))
            assert (answer.status, answer.error, answer.excerpt) == (200, None, b"fine")

    def test_a_certificate_for_the_address_is_fine(self, receivers, ca):
        receiver = receivers.start(ok(), tls=self.context(ca, "127.0.0.1"))

        assert post_once(url_of(receiver, scheme="https")).status == 200

    def test_a_certificate_for_another_name(self, receivers, ca):
        receiver = receivers.start(ok(), tls=self.context(ca, "example.org"))

        answer = post_once(url_of(receiver, scheme="https", host="localhost"))

        assert (answer.status, answer.error) == (None, SendError.CERTIFICATE)
        assert receiver.requests == []

    def test_a_certificate_of_an_unknown_issuer(self, receivers):
        receiver = receivers.start(ok(), tls=self.context(trustme.CA(), "localhost"))

        assert post_once(url_of(receiver, scheme="https", host="localhost")).error is SendError.CERTIFICATE

    def test_an_expired_certificate(self, receivers, ca):
        yesterday = datetime.now(UTC) - timedelta(days=1)
        tls = self.context(ca, "localhost", not_before=yesterday - timedelta(days=1), not_after=yesterday)
        receiver = receivers.start(ok(), tls=tls)

        assert post_once(url_of(receiver, scheme="https", host="localhost")).error is SendError.CERTIFICATE

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_receiver_that_wants_a_certificate_of_ours(self, ca, version):
        tls = self.context(ca, "localhost")
        ca.configure_trust(tls)
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.minimum_version = tls.maximum_version = version
        # A plain server, because those of asyncio abort without an alert.
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=_ask_for_a_certificate, args=(server, tls))
            thread.start()
            answer = post_once(f"https://localhost:{server.getsockname()[1]}/")
            thread.join()

        assert answer.error is SendError.TLS

    def test_a_receiver_reads_the_request_at_once(self, ca):
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
            read = threads.submit(_read_once, server, self.context(ca, "localhost"))
            answer = post_once(f"https://localhost:{server.getsockname()[1]}/")

        assert answer.status == 413
        assert read.result().endswith(BODY)

    def test_a_connection_on_which_a_body_was_refused_unread_is_not_used_again(self, ca):
        tls, body = self.context(ca, "localhost"), b"x" * 2**24

        async def send(sender: Sender) -> tuple[Answer, int]:
            with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
                read = threads.submit(_refuse_unread, server, tls)
                answer = await post(sender, f"https://localhost:{server.getsockname()[1]}/", body=body)
                return answer, await asyncio.wrap_future(read)

        answer, received = with_sender(send)
        assert answer.status == 413
        assert received < len(body)

    def test_a_receiver_without_tls(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            thread = threading.Thread(target=_answer_plainly, args=(server,))
            thread.start()
            answer = post_once(f"https://127.0.0.1:{port}/")
            thread.join()

        assert answer.error is SendError.TLS

    def test_a_handshake_that_is_cut_off(self, receivers, ca):
        # With no cipher in common, asyncio's servers abort without an alert.
        tls = self.context(ca, "localhost")
        tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_2
        tls.set_ciphers("NULL-SHA256:@SECLEVEL=0")
        receiver = receivers.start(ok(), tls=tls)

        assert post_once(url_of(receiver, scheme="https", host="localhost")).error is SendError.DISCONNECTED


def _ask_for_a_certificate(server: socket.socket, tls: ssl.SSLContext) -> None:
    connection, _ = server.accept()
    with tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as asking:
        with pytest.raises(ssl.SSLError):
            asking.do_handshake()
        # Read to the end: a connection that is closed before is reset, which may overtake the alert.
        with suppress(ConnectionError):
            while os.read(asking.fileno(), 65_536):
                pass


def _read_once(server: socket.socket, tls: ssl.SSLContext) -> bytes:
    """Answer to what comes first, and return it; what comes later would reset the connection."""
    connection, _ = server.accept()
    with tls.wrap_socket(connection, server_side=True) as read:
        received = read.recv(65_536)
        read.sendall(REFUSED)
        return received


def _refuse_unread(server: socket.socket, tls: ssl.SSLContext) -> int:
    """Answer to the beginning of a request, and return how many bytes of it come in all."""
    # Little fits into the buffers between the two.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection, _ = server.accept()
    with tls.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as read:
        received = len(read.recv(4096))
        read.sendall(REFUSED)
        time.sleep(1)
        with suppress(OSError):
            while part := read.recv(65_536):
                received += len(part)
        return received


def _answer_plainly(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


SCHEMES = pytest.mark.parametrize("scheme", ["http", "https"])


class TestProxy:
    @pytest.fixture
    def proxies(self) -> Iterator[Callable[..., EgressProxy]]:
        with ExitStack() as stack:
            yield lambda **options: stack.enter_context(closing(EgressProxy(**options)))

    @pytest.fixture
    def tls(self, ca: trustme.CA) -> dict[str, ssl.SSLContext | None]:
        return {"http": None, "https": TestTLS.context(ca, "receiver.invalid")}

    @SCHEMES
    @pytest.mark.parametrize("to_proxy", ["http", "https"])
    def test_each_delivery_goes_through_a_tunnel(self, receivers, proxies, ca, tls, scheme, to_proxy):  # noqa: PLR0917 - fixtures
        receiver = receivers.start(ok(b"fine"), tls=tls[scheme])
        proxy = proxies(user="ann:s3cret", tls=TestTLS.context(ca, "localhost") if to_proxy == "https" else None)
        url = url_of(receiver, "/a%2Fb/%zz|?q=%2f", scheme=scheme, host="receiver.invalid")

        answer = post_once(url, PUBLIC_ONLY, proxy=proxy.url("ann:s3cret", host="localhost"))

        assert (answer.status, answer.error, answer.excerpt) == (200, None, b"fine")
        host = b"receiver.invalid:%d" % receiver.port
        assert proxy.requests == [
            b"CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n" % (host, host)
        ]
        head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /a%%2Fb/%%zz|?q=%%2f HTTP/1.1\r\nHost: %s\r\n" % host)
        assert body == BODY
        assert b"proxy" not in head.lower()

    def test_a_tunnel_is_kept_for_the_next_post_to_the_same_receiver_alone(self, receivers, proxies, tls):
        proxy, kept = proxies(), [receivers.start(ok(), tls=each) for each in (*tls.values(), None)]

        async def posts(sender: Sender) -> None:
            for receiver, scheme in zip(kept * 3, ("http", "https", "http") * 3, strict=True):
                answer = await post(
                    sender, url_of(receiver, f"/{receiver.port}", scheme=scheme, host="receiver.invalid")
                )
                assert answer.status == 200

        with_sender(posts, PUBLIC_ONLY, proxy=proxy.url())

        assert len(proxy.requests) == 3
        assert [receiver.connections for receiver in kept] == [1, 1, 1]
        targets = [[request.split(b" ")[1] for request in receiver.requests] for receiver in kept]
        assert targets == [[b"/%d" % receiver.port] * 3 for receiver in kept]

    def test_an_address_of_ipv6_is_named_with_its_brackets(self, receivers, proxies):
        receiver, proxy = receivers.start(ok()), proxies()

        assert post_once(url_of(receiver, host="[2a00::7]"), PUBLIC_ONLY, proxy=proxy.url()).status == 200
        assert proxy.requests[0].startswith(b"CONNECT [2a00::7]:%d HTTP/1.1\r\n" % receiver.port)

    def test_literal_addresses_are_still_refused(self, proxies):
        proxy = proxies()

        assert post_once("http://10.0.0.1/", PUBLIC_ONLY, proxy=proxy.url()).error is SendError.BLOCKED_ADDRESS
        assert proxy.requests == []

    def test_tls_is_verified_for_the_name_through_the_proxy(self, receivers, proxies, ca):
        receiver = receivers.start(ok(), tls=TestTLS.context(ca, "example.org"))

        answer = post_once(url_of(receiver, scheme="https", host="receiver.invalid"), proxy=proxies().url())

        assert (answer.status, answer.error) == (None, SendError.CERTIFICATE)
        assert receiver.requests == []

    @SCHEMES
    @pytest.mark.parametrize(
        "answer",
        [
            *(pytest.param(page(status), id=str(status)) for status in (302, 403, 407, 429, 502, 503)),
            pytest.param(b"SSH-2.0-OpenSSH_9.2p1 gate-7.corp.example\r\n\r\n", id="not HTTP"),
            pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20, id="interim answers"),
        ],
    )
    def test_what_a_proxy_says_itself_is_no_answer_of_the_receivers(self, proxies, scheme, answer):
        proxy = proxies(answer=answer)

        answered = post_once(f"{scheme}://receiver.invalid/", PUBLIC_ONLY, proxy=proxy.url())

        assert answered._replace(duration_ms=0) == Answer(None, SendError.PROXY, 0, b"", None)
        assert len(proxy.requests) == 1

    @SCHEMES
    def test_a_proxy_that_is_away_gone_or_a_stranger(self, receivers, proxies, scheme):
        stranger = proxies(tls=TestTLS.context(trustme.CA(), "localhost"))
        away = [
            "http://127.0.0.1:1",
            "http://proxy.invalid:3128",
            url_of(receivers.start(then_close(say()))).rstrip("/"),
        ]

        for url in (*away, stranger.url(host="localhost")):
            assert post_once(f"{scheme}://receiver.invalid/", PUBLIC_ONLY, proxy=url).error is SendError.PROXY

    @SCHEMES
    def test_a_proxy_that_hangs_ends_at_the_deadline(self, proxies, scheme):
        answer = post_once(
            f"{scheme}://receiver.invalid/", PUBLIC_ONLY, proxy=proxies(answer=b"").url(), timeout_seconds=0.3
        )

        assert answer.error is SendError.TIMEOUT

    def test_the_log_says_once_a_minute_what_the_proxy_answers(self, proxies, caplog):
        proxy = proxies(user="ann:s3cret")

        async def two(sender: Sender) -> list[Answer]:
            return [await post(sender, "http://receiver.invalid/") for _ in range(2)]

        assert [answer.error for answer in with_sender(two, proxy=proxy.url("ann:typo"))] == [SendError.PROXY] * 2
        assert [(record.levelname, record.message) for record in caplog.records] == [
            ("WARNING", "webhooks.proxy_failed error=The proxy answered 407 to CONNECT.")
        ]
        assert vars(caplog.records[0])["webhooks.error"] == "The proxy answered 407 to CONNECT."


def test_cancelling_is_not_swallowed(receivers):
    receiver = receivers.start(then_hang(say()))

    async def cancel(sender: Sender) -> None:
        task = asyncio.create_task(post(sender, url_of(receiver)))
        while not receiver.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        with_sender(cancel)
