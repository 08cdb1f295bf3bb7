"""Ends sessions that are idle or twelve hours old; keeps pages with patients' data out of caches; reads the dial once."""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers

from triage import policy
from triage.sessions import RENEWED, STARTED

SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")
RENEW_SECONDS = 60  # the row is written at most once a minute, so an idle session ends after 14 to 15


class SessionLimits:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        signed_in = request.user.is_authenticated
        now = time.time()
        if signed_in and now - request.session.get(STARTED, 0) > settings.SESSION_ABSOLUTE_SECONDS:
            logout(request)
        elif signed_in and now - request.session.get(RENEWED, 0) > RENEW_SECONDS:
            request.session[RENEWED] = now
        with policy.read_once(opens=request.method not in SAFE):
            response = self.get_response(request)
        if signed_in:
            add_never_cache_headers(response)
        return response
