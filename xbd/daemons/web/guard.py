"""Whom the page is for: requests that a browser sends because this page, or its address, asked for them.

Another site's page may send a browser here, by a link, a picture or a name of its own that it lets point to this machine
(DNS rebinding). Such a request names that site: as its host, as its origin, or as where it was fetched from.
"""

from collections.abc import Collection
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import h11

from xbd.daemons.http_server import Headers, Refused
from xbd.text import quote

# Nothing but this server's own files and answers; nothing inline; in no other page's frame; no text becomes markup.
_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE_HEADERS: Final[Headers] = (
    ("Content-Security-Policy", _CONTENT_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
_LOOPBACK_NAME: Final = "localhost"
# What a browser says where a request comes from: this page, or an address that was typed.
_OWN_SITES: Final = ("same-origin", "none")
_FORBIDDEN: Final = "403 Forbidden"


class Guard:
    """Refuses requests that are not this page's own.

    Args:
        names: by which it may be called beside `localhost` and addresses of this machine's own.
        from_other_machines: whether any address may be asked for, not only this machine's own.
    """

    def __init__(self, names: Collection[str] = (), *, from_other_machines: bool = False) -> None:
        self._names = {_LOOPBACK_NAME, *(name.lower().rstrip(".") for name in names)}
        self._from_other_machines = from_other_machines

    def check(self, request: h11.Request, *, is_page: bool) -> None:
        """Let a request in. Raises Refused.

        *is_page*: it is for the page itself, to which another site may link.
        """
        hosts = _all_of(request, b"host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            known = ", ".join(sorted(self._names))
            raise Refused(
                "421 Misdirected Request",
                f"this page is not called {quote(', '.join(hosts))}; open it as {known}, or name it with --host-name",
            )
        for origin in _all_of(request, b"origin"):
            if urlsplit(origin).netloc.lower() != hosts[0].lower():
                raise Refused(_FORBIDDEN, f"a page of {quote(origin)} may not ask here; open this page itself")
        for site in _all_of(request, b"sec-fetch-site"):
            is_link = is_page and _all_of(request, b"sec-fetch-mode") == ["navigate"]
            if site not in _OWN_SITES and not is_link:
                raise Refused(
                    _FORBIDDEN, f"another site's page ({quote(site)}) may not ask here; open this page itself"
                )

    def _is_own(self, host: str) -> bool:
        """Tell whether a Host names this server, at whatever port: it may be forwarded."""
        try:
            named = urlsplit(f"//{host}")
            name = (named.hostname or "").rstrip(".")
            _ = named.port
        except ValueError:
            return False
        if named.username is not None or named.path:
            return False
        if name in self._names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self._from_other_machines


def _all_of(request: h11.Request, name: bytes) -> list[str]:
    """List what a request says in the headers of a name."""
    return [header.decode("latin-1") for known, header in request.headers if known == name]
