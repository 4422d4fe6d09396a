"""Links that are proven by a signature: who may do what, until when. No account, no password, nothing stored.

A token is `role.subject.expires.signature`: HMAC-SHA256 (RFC 2104) over the first three parts. In a link it stands
behind `#`, which browsers do not send: it reaches no server's log and no other site.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass

from vivace.core.errors import VivaceError

MOST = 400  # characters of a token


class LinkRefused(VivaceError):
    """A token that was forged, cut or has expired."""


@dataclass(frozen=True)
class Pass:
    """What a valid token says. `expires`: seconds since 1970."""

    role: str
    subject: str
    expires: int


def sign(secret: bytes, role: str, subject: str, expires: float) -> str:
    """A token. `role` and `subject` hold letters, digits, `-`, `_` and `~` only."""
    said = f"{role}.{subject}.{int(expires)}"
    return f"{said}.{_signature(secret, said)}"


def verify(secret: bytes, token: str, role: str, now: float) -> Pass:
    """Raises LinkRefused unless the token was signed with `secret` for this role and has not expired."""
    said, _, signature = token.rpartition(".")
    parts = said.split(".")
    if len(token) > MOST or len(parts) != 3 or not token.isascii():
        raise LinkRefused("this link is not complete; open it again as it was sent")
    if not hmac.compare_digest(signature, _signature(secret, said)):  # in constant time
        raise LinkRefused("this link is not valid; open it again as it was sent, or ask for another")
    found = Pass(parts[0], parts[1], int(parts[2]))
    if found.role != role:
        raise LinkRefused("this link is for something else; ask for another")
    if found.expires <= now:
        raise LinkRefused("this link has expired; ask for another")
    return found


def _signature(secret: bytes, said: str) -> str:
    made = hmac.new(secret, said.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(made).decode().rstrip("=")
