"""Who may ask, and how much: Host allow-list, same-origin changes, API key, body size; and every answer's headers.

Pure ASGI: Starlette's BaseHTTPMiddleware would buffer event streams. The body limit is here because Starlette's own
answers in plain text.
"""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, response
from api.settings import Settings

COOKIE = "evomerge_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/livez", "/readyz", "/api/v1/session"})
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware in front of everything."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.hosts = settings.hosts
        self.key_sha256 = settings.key_sha256
        self.max_body_bytes = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        refused = self._refuse(scope)
        app = self.app if refused is None else response(scope["path"], refused)
        await app(scope, self._counted(receive), send_with_headers)

    def _counted(self, receive: Receive) -> Receive:
        """The body as it comes in, given up as soon as it is too large."""
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise HTTPException(413, f"the body is larger than {self.max_body_bytes} bytes")
            return message

        return receive_counted

    def _refuse(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname if _plain(host) else None
        if name is None or ("*" not in self.hosts and name not in self.hosts):
            return Problem(
                "host-not-allowed", f"Host: got {host!r}; expected one of {sorted(self.hosts)} (EVOMERGE_ALLOWED_HOSTS)"
            )
        # Browsers send Origin with every change; a page of another site must not act on a service on this machine.
        origin = headers.get("origin")
        if scope["method"] not in SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
            return Problem("cross-origin", f"Origin: got {origin!r}; expected the service's own, {host!r}")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            return Problem("too-large", f"body: got {length} bytes; expected at most {self.max_body_bytes}")
        if self.key_sha256 is not None and _protected(scope["path"]) and not self._has_key(headers):
            return Problem(
                "unauthorized",
                "Authorization: expected 'Bearer ' and the API key that the operator gave you",
                headers={"WWW-Authenticate": 'Bearer realm="evomerge"'},
            )
        return None

    def _has_key(self, headers: Headers) -> bool:
        assert self.key_sha256 is not None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return key_matches(key.strip(), self.key_sha256)
        cookie: SimpleCookie = SimpleCookie()
        cookie.load(headers.get("cookie", "")[:8192])
        morsel = cookie.get(COOKIE)
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), session_token(self.key_sha256))


def key_matches(key: str, key_sha256: str) -> bool:
    """Whether `key` is the one whose SHA-256 is given; takes the same time for every wrong key."""
    return hmac.compare_digest(hashlib.sha256(key.encode()).hexdigest(), key_sha256)


def session_token(key_sha256: str) -> bytes:
    """What the dashboard's cookie holds: proof that the key was known, not the key."""
    return hmac.new(key_sha256.encode(), b"evomerge dashboard session 1", hashlib.sha256).hexdigest().encode()


def _protected(path: str) -> bool:
    return path.startswith("/api/") and path not in OPEN_PATHS


def _plain(host: str) -> bool:
    return bool(host) and not set(host) & set("/\\@?# \t")
