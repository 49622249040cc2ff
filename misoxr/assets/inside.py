"""Which addresses are inside, on this machine or in a private network, and who may be led there.

What comes from outside must not have requests sent inside: a server there trusts whoever asks from this machine. Names are looked up
once for each connection, and it goes to an address that was looked at, so that no name means another a moment later.
"""

import ipaddress
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Reach", "Refused", "is_inside", "names_inside"]

INSIDE = tuple(
    ipaddress.ip_network(block)
    for block in (
        *(
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
        ),
        *("192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # all but 2000::/3, and what in it is Teredo, for documents, 6to4, or reserved
        *("::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
"""Blocks of IANA's registries of special addresses, with those for groups and those that are not given out."""
HOLDING = (ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96"))
"""Blocks whose last 32 bits are an IPv4 address: mapped ones, and those of networks that have IPv6 alone (NAT64)."""
NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa")
"""Ends of names that are of no public host."""


class Refused(Exception):
    """A connection from outside to an address inside; the text names the address. No OSError, so nothing tries again."""


def is_inside(address: str) -> bool:
    """Whether an IP address is on this machine, in a private network, or of no public host."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if any(found in block for block in HOLDING if block.version == found.version):
        found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return any(found in block for block in INSIDE if block.version == found.version)


def names_inside(address: str | None) -> bool:
    """Whether an address of http(s) is one inside as it is written; no name is looked up.

    Link-local ones do not count: no catalogue lies there, but the keys of machines in a cloud do.
    """
    host = ""
    try:
        host = urlsplit(address or "").hostname or ""
        found = _looked_up(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return bool(host) and _is_private_name(host)
    return all(is_inside(one) and not ipaddress.ip_address(one.partition("%")[0]).is_link_local for one in found)


def _is_private_name(host: str) -> bool:
    return "." not in host or host.rstrip(".").lower().endswith(tuple(f".{end}" for end in NAMES))


@dataclass
class Reach:
    """How far requests may go that belong together.

    Attributes
    ----------
    inside : bool, optional
        Whether they may go inside. None lets the first one decide, whose address is the user's own: they may where it does.
    """

    inside: bool | None = None
    _named: dict[str, bool] = field(default_factory=dict)

    def addresses(self, host: str, port: int) -> list[str]:
        """Return the IP addresses of a host, all of which may be connected to.

        Raises
        ------
        OSError
            If the name is not known.
        Refused
            If one of them is inside, and requests may not go there.
        """
        found = _looked_up(host, port)
        wrong = next((address for address in found if is_inside(address)), None)
        if wrong is not None and self.inside is False:
            raise Refused(wrong)
        return found

    def connected(self, address: str) -> None:
        """Note where a connection was made."""
        if self.inside is None:
            self.inside = is_inside(address)

    def named(self, host: str) -> None:
        """Look at a host that a proxy connects to: its name alone, where this machine does not know its addresses.

        Raises
        ------
        Refused
            If it is inside, and requests may not go there.
        """
        if host not in self._named:
            try:
                found = _looked_up(host, None)
                self._named[host] = any(map(is_inside, found)) if self.inside is False else all(map(is_inside, found))
            except (OSError, UnicodeError):
                self._named[host] = _is_private_name(host)
        if self.inside is None:
            self.inside = self._named[host]
        if self._named[host] and not self.inside:
            raise Refused(host)


def _looked_up(host: str, port: int | None, flags: int = 0) -> list[str]:
    """Return the addresses of a name, or of a number in any spelling."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(info[4][0]) for info in found))
