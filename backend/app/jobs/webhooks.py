"""Tells another service that a document is done: signed, and never sent into a network that clients cannot see."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import socket
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog

from app import __version__
from app.errors import WebhookRefused

log = structlog.get_logger()

SIGNATURE_HEADER, TIMESTAMP_HEADER = "X-OCR-Signature", "X-OCR-Timestamp"
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Webhooks:
    """Sends webhooks; `secret` empty leaves them unsigned, `allow_private` lets them go to any address."""

    secret: str
    allow_private: bool

    def check(self, url: str) -> None:
        """Raise WebhookRefused for an address that is none, or not a public one."""
        self._resolve(url)

    def send(self, url: str, body: dict[str, Any]) -> bool:
        """Send a body and say whether it was taken (any 2xx). Blocks; raises WebhookRefused.

        The connection goes to the address that was checked, whatever the name resolves to by then. Redirects are not
        followed.
        """
        import httpx  # here, since it takes a tenth of a second and most services send none

        address = self._resolve(url)
        parts = urlsplit(url)
        host = f"[{address}]" if ":" in address else address
        target = parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host, fragment="").geturl()
        content = json.dumps(body, ensure_ascii=False).encode()
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "User-Agent": f"deepseek-ocr-service/{__version__}",
            **self._signature(content),
        }
        try:
            with httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False, follow_redirects=False) as client:
                # TLS asks for the name, and checks the certificate against it, although the address is a number.
                answer = client.stream(
                    "POST", target, content=content, headers=headers, extensions={"sni_hostname": parts.hostname}
                )
                with answer as response:
                    return bool(response.is_success)
        except httpx.HTTPError:
            return False

    def _signature(self, content: bytes) -> dict[str, str]:
        if not self.secret:
            return {}
        timestamp = str(int(time.time()))
        return {TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: sign(self.secret, timestamp, content)}

    def _resolve(self, url: str) -> str:
        """Return an address of the host of `url`; raise WebhookRefused unless all of them are allowed."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise WebhookRefused from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise WebhookRefused
        if not url.isascii() or any(character <= " " for character in url):
            raise WebhookRefused
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError:
            raise WebhookRefused("The host of the address in 'webhook_url' does not exist.") from None
        addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
        if not self.allow_private and not all(_is_public(address) for address in addresses):
            raise WebhookRefused(
                "The address in 'webhook_url' is not a public one, and this service sends to no other."
            )
        return addresses[0]


def sign(secret: str, timestamp: str, content: bytes) -> str:
    """Return the signature of a body sent at `timestamp`: HMAC-SHA256 over both, joined by a dot."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + content, hashlib.sha256).hexdigest()


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        # What a translator or a tunnel would carry on to an IPv4 address is judged by that.
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return found.is_global and not found.is_multicast
