"""Who may talk to the server: a one-time token in the address, and a secret in a cookie for the page that used it.

The same on loopback and on a network: other users of this machine, and other pages in the user's browser, reach a loopback port as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from threading import Lock
from urllib.parse import urlsplit

_PAGES = 32


class Access:
    """Hands out tokens and knows the pages that used one. `announce` is called with each new token, from whichever thread used the last."""

    def __init__(self, announce: Callable[[str], None] | None = None) -> None:
        self._lock = Lock()
        self._announce = announce
        self._secrets: list[str] = []
        self.token = secrets.token_urlsafe(24)

    def exchange(self, token: str) -> str | None:
        """A page's secret for the token, which is worth nothing afterwards; None for a token that is not the current one."""
        with self._lock:
            if not _equal(token, self.token) or len(self._secrets) >= _PAGES:
                return None
            self.token = secrets.token_urlsafe(24)
            secret = secrets.token_urlsafe(32)
            self._secrets.append(secret)
        if self._announce is not None:
            self._announce(self.token)
        return secret

    def known(self, secret: str) -> bool:
        """Whether a page has this secret. Every secret is compared, whichever fits."""
        with self._lock:
            return sum(_equal(secret, each) for each in self._secrets) > 0  # no early end that could be timed


def cookie_name(port: int) -> str:
    """Browsers send a host's cookies to all of its ports: the name keeps two servers on one machine apart."""
    return f"kdedge_{port}"


def secret_in(header: str, name: str) -> str:
    """The page's secret in a Cookie header, "" where there is none."""
    try:
        cookie = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return cookie.value if cookie is not None else ""


def host_is_ours(host: str, bound: str) -> bool:
    """Whether a Host header names this server: the address it is bound to, loopback, or any address by number where it is bound to all.

    A foreign name in it means that a foreign page had its own name pointed at this machine (DNS rebinding).
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", bound.lower()):
        return True
    try:
        address = ip_address(name)
        return address.is_loopback or ip_address(bound).is_unspecified
    except ValueError:
        return False


def origin_is_ours(origin: str | None, host: str, scheme: str) -> bool:
    """Whether a request comes from the server's own page; browsers name the origin in every POST."""
    return origin is None or origin == f"{scheme}://{host}"


def _equal(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
