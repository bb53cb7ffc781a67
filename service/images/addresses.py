"""Which internet addresses an image may be fetched from; knows addresses only, no names and no sockets.

The lists are those of IANA's special-purpose address registries (IPv4 and IPv6) and clouds' metadata services.
`ipaddress.is_global` differs between versions of Python, and calls some addresses global that reach the local network.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


def _networks(*texts: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in texts)


# Networks that `private` opens, as in a closed cluster: loopback, RFC 1918, carrier-grade NAT, unique local.
_PRIVATE = _networks(
    "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"
)
# Networks that nothing opens: this-network, link-local and clouds' metadata, protocol assignments, documentation, 6to4
# relays, benchmarks, multicast, reserved.
_NEVER = _networks(
    "0.0.0.0/8",
    "100.100.100.200/32",  # Alibaba's metadata
    "168.63.129.16/32",  # Azure's host
    "169.254.0.0/16",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "fd00:ec2::/32",  # Amazon's metadata
    "2001::/23",  # Teredo among others
    "2001:db8::/32",
    "2002::/16",  # 6to4
    "2620:4f:8000::/48",
    "3fff::/20",
)
# The rest of IPv6 is unassigned, or has addresses that contain another (IPv4-mapped, IPv4-compatible, NAT64).
_IPV6_UNICAST = IPv6Network("2000::/3")


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` is, or None where it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def may_connect(address: IPv4Address | IPv6Address, private: bool) -> bool:
    """Whether an image may be fetched from `address`: it is public, or in a private network and `private` is set.

    An address with a zone (fe80::1%eth0), and those of clouds' metadata services, may not either way.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False
    if any(address in network for network in _NEVER):
        return False
    if any(address in network for network in _PRIVATE):
        return private
    return isinstance(address, IPv4Address) or address in _IPV6_UNICAST
