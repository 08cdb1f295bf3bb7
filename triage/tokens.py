"""Keys to the API: shown once, kept as a digest, for one person at one site, with what each may do and until when.

A key never gives more than its owner has: their account and membership are looked at on every use.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop

from mlcore.errors import CentinelaError
from triage import audit
from triage.models import Membership, Role, Site, Token

PREFIX = "ctl_"
DAYS, MOST_DAYS = 90, 365
ALLOWED = {
    Role.READER: (Token.Scope.READ,),
    Role.LEAD: tuple(Token.Scope),
    Role.ADMIN: tuple(Token.Scope),
}


class NotAllowed(CentinelaError):
    """A key was asked for that would do more than its owner may."""


TOO_MUCH = gettext_noop("Your role here does not do that: a key never does more than its owner.")


def scopes_of(membership: Membership) -> tuple[str, ...]:
    """What a key of this member may do at most."""
    return ALLOWED[Role(membership.role)]


def create(membership: Membership, name: str, scopes: Sequence[str], days: int = DAYS) -> tuple[Token, str]:
    """The token and its key, which is not kept. NotAllowed for a scope the member's role does not have."""
    if not set(scopes) <= set(scopes_of(membership)):
        raise NotAllowed(TOO_MUCH)
    key = PREFIX + secrets.token_urlsafe(32)
    token = Token.objects.create(
        user=membership.user,
        site=membership.site,
        name=name,
        scopes=sorted(scopes),
        digest=_digest(key),
        start=key[:8],
        expires_at=timezone.now() + timedelta(days=min(days, MOST_DAYS)),
    )
    details = {"scopes": token.scopes, "until": token.expires_at.date().isoformat()}
    audit.record("token.create", token, site=token.site, actor=token.user, details=details)
    return token, key


def revoke(token: Token, actor: Any) -> bool:
    """Whether it still held."""
    held = Token.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
    if held:
        audit.record("token.revoke", token, site=token.site, actor=actor, details={"user": token.user_id})
    return bool(held)


def find(key: str) -> Token | None:
    """The live token of a key and an active account. Looked up by digest, so its time tells nothing of other keys."""
    live = Token.objects.filter(revoked_at=None, expires_at__gt=timezone.now(), user__is_active=True)
    return live.select_related("user", "site").filter(digest=_digest(key)).first()


def used(token: Token) -> None:
    """Remember the use; the first of a day is an event."""
    now = timezone.now()
    before = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    mine = Token.objects.filter(pk=token.pk)
    first = mine.exclude(used_at__gte=before).update(used_at=now)
    if first:
        audit.record("token.use", token, site=token.site, actor=token.user)
    elif token.used_at is None or now - token.used_at > timedelta(minutes=1):
        mine.update(used_at=now)


def of(user: Any, site: Site) -> QuerySet[Token]:
    """The user's own, the newest first; those revoked or out of time too."""
    return Token.objects.filter(user=user, site=site).order_by("-created_at", "-pk")


def of_others(user: Any, site: Site) -> QuerySet[Token]:
    """Those of everybody else that still open something, or would if their owner were a member, the newest first."""
    live = Token.objects.filter(site=site, revoked_at=None, expires_at__gt=timezone.now())
    return live.exclude(user=user).select_related("user").order_by("-created_at", "-pk")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
