import re
import socket
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from flask_webhook_endpoints.errors import InvalidURL
from flask_webhook_endpoints.security import egress
from flask_webhook_endpoints.security.egress import MAX_URL_LENGTH, EgressPolicy, is_public
from flask_webhook_endpoints.security.interfaces import is_own
from flask_webhook_endpoints.security.ports import DEFAULT_PORTS, pattern_of, ports_of

DEFAULT = EgressPolicy()
NOT_PUBLIC = "Must not name an address that is not public."

# The IANA registries as of 2025-10: "Globally Reachable" is False or N/A, or the block is deprecated.
IANA_IPV4 = [
    "0.0.0.0/8",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.0.0/29",
    "192.0.0.8/32",
    "192.0.0.170/32",
    "192.0.0.171/32",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.88.99.2/32",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "255.255.255.255/32",
]
IANA_IPV6 = [
    "::1/128",
    "::/128",
    "::ffff:0:0/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:2::/48",
    "2001:db8::/32",
    "2001:10::/28",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
]
# Reachable from everywhere says the registry; but they lead to an IPv4 address, a nearby relay or to many receivers.
STRICTER_THAN_IANA = [
    "192.0.0.9/32",
    "192.0.0.10/32",
    "192.0.0.192/32",
    "168.63.129.16/32",
    "224.0.0.0/4",
    "64:ff9b::/96",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:20::/28",
    "2001:30::/28",
    "::/96",
    "4000::/2",
    "8000::/1",
    "fec0::/10",
    "ff00::/8",
]
# Listed by the registry as reachable, or ordinary.
PUBLIC = [
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.175.48.0/24",
    "8.8.8.8/32",
    "2620:4f:8000::/48",
    "2606:4700:4700::1111/128",
    "2a00::/12",
]
# The outermost addresses of each closed range, and their neighbours: None where that is another closed range.
EDGES = [
    ("0.0.0.0", "0.255.255.255", None, "1.0.0.0"),
    ("10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
    ("100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"),
    ("127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"),
    ("168.63.129.16", "168.63.129.16", "168.63.129.15", "168.63.129.17"),
    ("169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"),
    ("172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"),
    ("192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"),
    ("192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
    ("192.88.99.0", "192.88.99.255", "192.88.98.255", "192.88.100.0"),
    ("192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"),
    ("198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
    ("198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"),
    ("203.0.113.0", "203.0.113.255", "203.0.112.255", "203.0.114.0"),
    ("224.0.0.0", "255.255.255.255", "223.255.255.255", None),
    ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, "2000::"),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"),
    ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
]


def rule_broken(url, policy=DEFAULT):
    """Return what the policy says against the URL, or None."""
    try:
        policy.check_url(url)
    except InvalidURL as error:
        return error.rule
    return None


def as_url(address):
    return f"http://[{address}]/" if ":" in str(address) else f"http://{address}/"


@pytest.mark.parametrize("network", [*IANA_IPV4, *IANA_IPV6, *STRICTER_THAN_IANA])
def test_no_address_of_a_special_purpose_range_is_public(network):
    network = ip_network(network)

    middle = network[network.num_addresses // 2]
    assert not any(is_public(address) for address in (network[0], middle, network[-1]))


@pytest.mark.parametrize("network", PUBLIC)
def test_addresses_that_anybody_may_have_are_public(network):
    network = ip_network(network)

    assert is_public(network[0])
    assert is_public(network[-1])


@pytest.mark.parametrize(("first", "last", "before", "after"), EDGES, ids=str)
def test_a_closed_range_ends_where_it_says(first, last, before, after):
    assert ip_address(before or first) == ip_address(first) - bool(before)
    assert ip_address(after or last) == ip_address(last) + bool(after)
    for address in (first, last):
        assert not is_public(ip_address(address))
        assert rule_broken(as_url(address)) == NOT_PUBLIC
    for address in filter(None, (before, after)):
        assert is_public(ip_address(address))
        assert rule_broken(as_url(address)) is None


@settings(max_examples=500)
@given(st.ip_addresses())
def test_every_address_outside_the_closed_ranges_is_public(address):
    closed = [(ip_address(first), ip_address(last)) for first, last, *_ in EDGES]

    inside = any(first <= address <= last for first, last in closed if first.version == address.version)
    assert is_public(address) is not inside


def test_an_address_with_a_zone_is_not_public():
    assert is_public(IPv6Address("2606:4700:4700::1111"))
    assert not is_public(IPv6Address("2606:4700:4700::1111%eth0"))


HIDDEN_LOOPBACK = {
    "dotted": "127.0.0.1",
    "trailing dot": "127.0.0.1.",
    "two trailing dots": "127.0.0.1..",
    "decimal": "2130706433",
    "decimal, trailing dot": "2130706433.",
    "octal": "0177.0.0.1",
    "octal, one number": "017700000001",
    "octal, many zeros": "0000000000000177.0.0.1",
    "octal, all parts": "0177.00.00.01",
    "leading zeros": "127.000.000.001",
    "hexadecimal": "0x7f.0.0.1",
    "hexadecimal, one number": "0x7f000001",
    "hexadecimal, capital": "0X7F000001",
    "hexadecimal, all parts": "0x7f.0x0.0x0.0x1",
    "hexadecimal, no digits": "127.0.0.0x",
    "hexadecimal, alone": "0x",
    "three parts": "127.0.1",
    "two parts": "127.1",
    "zero": "0",
    "overflowing part": "127.0.0.257",
    "overflowing number": "4294967296",
    "wrapped number": "6425673729",
    "five parts": "127.0.0.1.1",
    "empty part": "127..1",
    "leading dot": ".127.0.0.1",
    "mixed": "0x7f.1",
    "full-width digits": "１２７.0.0.1",
    "full-width, all": "１２７．０．０．１",
    "circled digits": "①②⑦.⓪.⓪.①",
    "Arabic digits": "١٢٧.٠.٠.١",
    "superscript digits": "¹²⁷.0.0.1",
    "mathematical digits": "𝟙𝟚𝟟.𝟘.𝟘.𝟙",
    "ideographic dots": "127。0。0。1",
    "half-width ideographic dots": "127｡0｡0｡1",
    "soft hyphen": "127.0.0.\u00ad1",
    "zero-width space": "127.0.0.\u200b1",
    "percent-encoded": "%31%32%37.0.0.1",
    "percent-encoded dots": "127%2e0%2e0%2e1",
    "percent-encoded localhost": "%6c%6f%63alhost",
    "percent-encoded NUL": "127.0.0.1%00.example.com",
    "NUL": "127.0.0.1\x00.example.com",
    "NUL at the end": "127.0.0.1\x00",
    "tab": "127.0\t.0.1",
    "newline": "127.0.0.1\n.example.com",
    "carriage return": "127.0.0.1\r",
    "space": "127.0.0.1 .example.com",
    "plus": "+127.0.0.1",
    "minus": "-1",
    "comma": "127,0,0,1",
}
HIDDEN_IPV6 = {
    "loopback": "::1",
    "loopback in full": "0000:0000:0000:0000:0000:0000:0000:0001",
    "loopback, zeros": "0::0:1",
    "unspecified": "::",
    "mapped": "::ffff:127.0.0.1",
    "mapped, hexadecimal": "::ffff:7f00:1",
    "mapped, capitals": "::FFFF:7F00:1",
    "mapped, public": "::ffff:8.8.8.8",
    "mapped, in full": "0:0:0:0:0:ffff:7f00:0001",
    "compatible": "::127.0.0.1",
    "compatible, hexadecimal": "::7f00:1",
    "translated (SIIT)": "::ffff:0:127.0.0.1",
    "6to4": "2002:7f00:1::",
    "6to4, public": "2002:808:808::1",
    "NAT64": "64:ff9b::127.0.0.1",
    "NAT64, hexadecimal": "64:ff9b::7f00:1",
    "NAT64, public": "64:ff9b::8.8.8.8",
    "NAT64, local": "64:ff9b:1::7f00:1",
    "Teredo": "2001:0:7f00:1::80ff:fffe",
    "ORCHID": "2001:10::1",
    "unique local": "fd00:ec2::254",
    "link-local": "fe80::1",
    "site-local": "fec0::1",
    "multicast": "ff02::1",
    "zone": "fe80::1%eth0",
    "zone, percent-encoded": "fe80::1%25eth0",
    "zone on loopback": "::1%lo",
    "zone on a public address": "2606:4700:4700::1111%eth0",
    "empty zone": "::1%",
    "nothing": "",
    "IPv4": "127.0.0.1",
    "name": "localhost",
    "future": "v1.fe80",
    "too many groups": "1:2:3:4:5:6:7:8:9",
    "full-width digit": "::１",
    "space": " ::1",
    "octal dotted quad": "::ffff:0177.0.0.1",
}


@pytest.mark.parametrize("host", HIDDEN_LOOPBACK.values(), ids=HIDDEN_LOOPBACK.keys())
@pytest.mark.parametrize("port", ["", ":80"], ids=["no port", "port"])
def test_no_spelling_of_a_number_hides_an_ipv4_address(host, port):
    assert rule_broken(f"http://{host}{port}/") is not None


@pytest.mark.parametrize("host", HIDDEN_IPV6.values(), ids=HIDDEN_IPV6.keys())
@pytest.mark.parametrize("port", ["", ":80"], ids=["no port", "port"])
def test_no_spelling_of_an_ipv6_address_hides_another(host, port):
    assert rule_broken(f"http://[{host}]{port}/") is not None


MALFORMED = {
    "nothing": "",
    "no scheme": "example.com",
    "no scheme, slashes": "//example.com/",
    "another scheme": "ftp://example.com/",
    "file": "file:///etc/passwd",
    "gopher": "gopher://example.com/",
    "javascript": "javascript:alert(1)",
    "scheme twice": "http:http://example.com/",
    "scheme glued": "xhttp://example.com/",
    "long s": "httpſ://example.com/",
    "no slashes": "https:example.com",
    "one slash": "https:/example.com",
    "backslashes": "https:\\\\example.com\\",
    "three slashes": "http:///example.com",
    "no host": "http://",
    "no host, path": "http:///x",
    "no host, query": "http://?x",
    "no host, port": "http://:80/",
    "dot for a host": "http://./",
    "empty label": "http://example..com/",
    "leading dot": "http://.example.com/",
    "leading hyphen": "http://-example.com/",
    "trailing hyphen": "http://example-.com/",
    "asterisk": "http://*.example.com/",
    "label of 64": f"http://{'a' * 64}.com/",
    "name of 254": f"http://{'.'.join(['a' * 63] * 3)}.{'a' * 62}/",
    "very long label": f"http://{'a' * 2000}/",
    "international name": "http://müller.example/",
    "percent in the host": "http://ex%61mple.com/",
    "ideographic dot": "http://example。com/",
    "open bracket": "http://[::1",
    "open bracket, path": "http://[::1/",
    "close bracket": "http://::1]/",
    "no brackets": "http://2606:4700:4700::1111/",
    "text after the bracket": "http://[2606:4700:4700::1111]x/",
    "text before the bracket": "http://x[2606:4700:4700::1111]/",
    "two brackets": "http://[[2606:4700:4700::1111]]/",
    "user name": "http://example.com@127.0.0.1/",
    "user name and password": "http://user:password@example.com/",
    "empty user name": "http://@example.com/",
    "user name with port": "http://example.com:80@127.0.0.1:80/",
    "backslash before @": "http://127.0.0.1\\@example.com/",
    "backslash in the path": "http://example.com/\\",
    "question mark before @, user name": "http://a@b?@127.0.0.1/",
    "port 0": "http://example.com:0/",
    "port 00": "http://example.com:00/",
    "port 65536": "http://example.com:65536/",
    "port, six digits": "http://example.com:000080/",
    "port, many digits": f"http://example.com:{'9' * 1000}/",
    "empty port": "http://example.com:/",
    "empty port, no path": "http://example.com:",
    "port in letters": "http://example.com:http/",
    "port with plus": "http://example.com:+80/",
    "port with minus": "http://example.com:-80/",
    "port with underscore": "http://example.com:8_0/",
    "port in Arabic digits": "http://example.com:٨٠/",
    "two ports": "http://example.com:80:80/",
    "IPv6, port 65536": "http://[2606:4700:4700::1111]:65536/",
    "fragment": "http://example.com/#x",
    "empty fragment": "http://example.com/#",
    "fragment after the host": "http://example.com#@127.0.0.1/",
    "leading space": " http://example.com/",
    "trailing space": "http://example.com/ ",
    "trailing newline": "http://example.com/\n",
    "tab in the scheme": "ht\ttp://example.com/",
    "newline in the host": "http://exam\nple.com/",
    "CRLF in the path": "http://example.com/\r\nHost: internal",
    "space in the path": "http://example.com/a b",
    "NUL in the path": "http://example.com/\x00",
    "DEL in the path": "http://example.com/\x7f",
    "no-break space": "http://example.com/\xa0",
    "non-ASCII path": "http://example.com/ü",
    "lone surrogate": "http://example.com/\ud800",
    "byte order mark": "\ufeffhttp://example.com/",
    "2049 characters": "http://example.com/".ljust(MAX_URL_LENGTH + 1, "x"),
}
WELL_FORMED = {
    "plain": "https://example.com/",
    "no path": "https://example.com",
    "query, no path": "https://example.com?x=1",
    "upper case": "HTTPS://EXAMPLE.COM/",
    "trailing dot": "https://example.com./",
    "single label": "https://receiver/",
    "underscore": "https://my_receiver.example.com/",
    "punycode": "https://xn--mller-kva.example/",
    "numeric labels": "https://1.2.3.4.example.com/",
    "number and letter": "https://127.0.0.1x/",
    "hexadecimal, not a number": "https://0xg/",
    "label of 63": f"https://{'a' * 63}.com/",
    "name of 253": f"https://{'.'.join(['a' * 63] * 3)}.{'a' * 61}/",
    "name of 253 and the root": f"https://{'.'.join(['a' * 63] * 3)}.{'a' * 61}./",
    "port 443": "https://example.com:443/",
    "port 1024": "https://example.com:1024/",
    "port 65535": "https://example.com:65535/",
    "port, leading zero": "https://example.com:08080/",
    "IPv4": "https://8.8.8.8/",
    "IPv6": "https://[2606:4700:4700::1111]/",
    "IPv6, capitals": "https://[2606:4700:4700::ABCD]:8443/",
    "@ in the path": "https://example.com/@127.0.0.1/",
    "@ in the query": "https://example.com?@127.0.0.1/",
    "URL in the path": "https://example.com/http://127.0.0.1/",
    "colon and brackets in the path": "https://example.com/a:[b]",
    "bad percent-encoding": "https://example.com/%zz%",
    "dots": "https://example.com/../..",
    "2048 characters": "https://example.com/".ljust(MAX_URL_LENGTH, "x"),
}


@pytest.mark.parametrize("url", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_plainly_a_url_is_refused(url):
    rule = rule_broken(url)

    assert rule is not None
    assert rule != NOT_PUBLIC


@pytest.mark.parametrize("url", WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_a_url_of_a_name_or_a_public_address_is_taken(url):
    assert rule_broken(url) is None


def test_the_error_does_not_repeat_the_url():
    with pytest.raises(InvalidURL) as caught:
        DEFAULT.check_url("http://user:hunter2@example.com/")

    assert "hunter2" not in f"{caught.value!r} {caught.value} {caught.value.rule}"


def test_allowed_networks_open_what_they_say_and_nothing_else():
    policy = EgressPolicy.of(require_https=False, allowed_networks=["127.0.0.0/8", "fd00:1::/32", "10.0.0.7"])

    for address in ("127.0.0.1", "127.255.255.255", "fd00:1::5", "10.0.0.7", "8.8.8.8"):
        assert rule_broken(as_url(address), policy) is None
        assert policy.allows(ip_address(address))
    for address in ("::1", "::ffff:127.0.0.1", "fd00:2::1", "10.0.0.8", "0.0.0.0", "2002:7f00:1::", "64:ff9b::7f00:1"):
        assert rule_broken(as_url(address), policy) == NOT_PUBLIC
        assert not policy.allows(ip_address(address))


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.1."])
def test_an_allowed_network_is_still_written_one_way(host):
    policy = EgressPolicy.of(require_https=False, allowed_networks=["127.0.0.0/8"])

    assert rule_broken(f"http://{host}/", policy) is not None


def test_an_allowed_ipv6_network_does_not_open_its_zones_in_urls():
    policy = EgressPolicy.of(require_https=False, allowed_networks=["::/0"])

    assert rule_broken("http://[fe80::1]/", policy) is None
    assert rule_broken("http://[fe80::1%25eth0]/", policy) == "Must not have an IPv6 zone."
    assert rule_broken("http://127.0.0.1/", policy) == NOT_PUBLIC


def test_require_https_refuses_http_alone():
    policy = EgressPolicy.of(require_https=True, allowed_networks=[])

    assert rule_broken("http://example.com/", policy) == "Must start with https://."
    assert rule_broken("HTTP://example.com/", policy) == "Must start with https://."
    assert rule_broken("HttpS://example.com/", policy) is None


# Pieces that parsers quarrel about, glued at random.
_PIECE = st.sampled_from(
    [
        *("127", "0", "1", "7f", "0x7f", "0177", "255", "256", "2130706433", "8", "10", "169", "254", "192", "168"),
        *(".", ".", ".", "..", "。", "-", "_", "+", "@", ":", ":80", "::", "[", "]", "\\", "%", "%2e", "%00", "\x00"),
        *("\t", "\n", " ", "/", "?", "#", "x", "a", "F", "localhost", "example.com", "ffff", "fe80", "64:ff9b", "１"),
    ]
)
_HOST = st.one_of(
    st.lists(_PIECE, min_size=1, max_size=8).map("".join),
    st.integers(0, 2**33).map(str),
    st.integers(0, 2**33).map(hex),
    st.integers(0, 2**33).map("0{:o}".format),
    st.lists(st.integers(0, 300).flatmap(lambda n: st.sampled_from([str(n), hex(n), f"0{n:o}"])), max_size=5).map(
        ".".join
    ),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map("[{}]".format),
    st.ip_addresses(v=4).map("[::ffff:{}]".format),
)


def glibc_address(host):
    """Return the address that the C library reads in `host` without asking anybody, or None."""
    try:
        return ip_address(socket.inet_aton(host))
    except (OSError, ValueError):
        pass  # not that one, perhaps the other
    try:
        return ip_address(socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)[0][4][0])
    except (OSError, ValueError):
        return None


@settings(max_examples=1000)
@given(scheme=st.sampled_from(["http", "HTTPS"]), host=_HOST, rest=st.sampled_from(["", "/", ":443/", "?x", "/@a"]))
@example(scheme="http", host="127.1", rest="/")
@example(scheme="http", host="example.com", rest=":443/")
@example(scheme="http", host="[2606:4700:4700::1111]", rest="/")
def test_no_url_taken_means_another_host_to_any_other_parser(scheme, host, rest):
    url = f"{scheme}://{host}{rest}"
    if rule_broken(url) is not None:
        return

    split, parsed = urlsplit(url), URL(url, encoded=True)
    assert split.hostname == parsed.host.lower()
    assert split.port == parsed.explicit_port
    assert split.username is None is parsed.user
    address = glibc_address(split.hostname)
    assert address is None or is_public(address)


@settings(max_examples=500)
@given(st.ip_addresses())
def test_the_url_check_and_the_address_check_agree(address):
    assert (rule_broken(as_url(address)) is None) == is_public(address) == DEFAULT.allows(address)


def test_blocked_networks_close_public_addresses_and_allowed_networks_win_over_them():
    policy = EgressPolicy.of(
        require_https=False,
        allowed_networks=["8.8.8.8/32", "10.0.0.0/8"],
        blocked_networks=["8.8.8.0/24", "10.0.0.0/8", "2606:4700::/32"],
    )

    assert [policy.allows(ip_address(each)) for each in ("8.8.8.8", "10.0.0.1", "8.8.9.1")] == [True] * 3
    assert [policy.allows(ip_address(each)) for each in ("8.8.8.9", "2606:4700::1111")] == [False] * 2
    assert rule_broken("http://8.8.8.9/", policy) == NOT_PUBLIC


def own_address():
    """Return an address that an interface of this machine has, loopback where there is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]


def test_the_machines_own_addresses_are_known_and_no_others():
    own = ["127.0.0.1", "::1", own_address()]

    assert [is_own(ip_address(each)) for each in own] == [True] * 3
    assert [is_own(ip_address(each)) for each in ("192.0.2.1", "8.8.8.8", "2606:4700::1111")] == [False] * 3


def test_a_public_address_of_the_machine_itself_is_refused_unless_it_is_allowed(monkeypatch):
    monkeypatch.setattr(egress, "is_public", lambda _: True)
    own = ip_address(own_address())

    assert not DEFAULT.allows(own)
    assert rule_broken(as_url(own)) == NOT_PUBLIC
    assert EgressPolicy.of(require_https=False, allowed_networks=[f"{own}/32"]).allows(own)


@pytest.mark.parametrize("port", [1, 22, 25, 79, 81, 444, 1023, 2049, 5060, 6000, 6667, 10080])
def test_ports_of_other_protocols_are_refused(port):
    assert "port" in rule_broken(f"http://example.com:{port}/")


@pytest.mark.parametrize("port", ["", ":80", ":0080", ":443", ":1024", ":8080", ":8443", ":65535"])
def test_ports_of_http_are_taken(port):
    assert rule_broken(f"https://example.com{port}/") is None


def test_allowed_ports_hold_for_the_port_that_a_url_does_not_write():
    policy = EgressPolicy.of(require_https=False, allowed_networks=[], allowed_ports=["443", 6667, "25-26"])

    assert [rule_broken(url, policy) for url in ("https://a.com/", "http://a.com:6667/", "http://a.com:25/")] == (
        [None] * 3
    )
    assert rule_broken("http://a.com/", policy)
    assert rule_broken("https://a.com:8443/", policy)


SETS_OF_PORTS = [(), DEFAULT_PORTS, (1, 9, 10), ("1-65535",), ("80", "443", "8000-8099", 8443), ("2047-2051",)]


@pytest.mark.parametrize("written", SETS_OF_PORTS, ids=str)
def test_the_pattern_of_ports_has_each_of_them_and_no_other(written):
    ports, pattern = ports_of(written), re.compile(pattern_of(ports_of(written)))

    for digits in range(1, 7):
        matched = {number for number in range(min(10**digits, 70_000)) if pattern.fullmatch(f"{number:0{digits}}")}
        assert matched == ({port for port in ports if port < 10**digits} if digits <= 5 else set())
