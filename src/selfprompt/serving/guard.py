"""Who may ask: the host's name, the page that asks, and the token; and the headers of every answer."""

import hmac
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfprompt.utils.files import to_json
from selfprompt.utils.wording import printable

SECRET_PATHS = ("/predict", "/classes")
"""Paths that need the token; the page itself and /health hold nothing of the classifier."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer as JSON; what UTF-8 cannot hold, half of a surrogate pair, becomes an escape of JSON."""
    return Response(to_json(value).encode(errors="backslashreplace"), status, headers, "application/json")


def error_response(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error as JSON, ``{"error": sentence}``."""
    return json_response({"error": sentence}, status, headers)


class Guard:
    """Refuses requests for foreign hosts, from foreign pages and without the token; an ASGI middleware.

    A page of another site can make a browser send requests here. If it has made its own name point to this machine
    (DNS rebinding), the browser even lets it read the answers; but then the Host header has that name. Addresses in
    digits and localhost cannot be rebound.

    Args:
        app: The application.
        hosts: Further names of this server, in lower case.
        token: The token; None for none.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), token: str | None = None) -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(Headers(scope=scope), scope["path"])
        await (refusal or self.app)(scope, receive, send_with_headers)

    def refusal(self, headers: Headers, path: str) -> Response | None:
        """Return the answer to a request that is not allowed; None if it is."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_known_host(host, self.hosts):
            name = printable(host[:100])
            return error_response(400, f"This server is not known as {name!r}; --allow-host adds a name.")
        if origin is not None and not is_same_site(origin, host, self.hosts):
            return error_response(403, "Pages of other sites may not use this server.")
        if self.token is not None and path in SECRET_PATHS and not is_token(headers, self.token):
            challenge = {"WWW-Authenticate": "Bearer"}
            return error_response(401, "The token is missing or wrong: send Authorization: Bearer TOKEN.", challenge)
        return None


def is_known_host(host: str, hosts: Collection[str]) -> bool:
    """Return whether a Host header has an address in digits, localhost, or one of the names."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name in hosts or bool(ip_address(name))
    except ValueError:
        return False


def is_same_site(origin: str, host: str, hosts: Collection[str]) -> bool:
    """Return whether a page belongs to this server, whose name a proxy may have changed in the Host header."""
    try:
        parts = urlsplit(origin)
        return parts.netloc == host or (parts.hostname or "") in hosts
    except ValueError:
        return False


def is_token(headers: Headers, token: str) -> bool:
    """Return whether a request has the token; takes the same time for all wrong ones."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
