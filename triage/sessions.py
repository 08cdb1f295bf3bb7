"""Sign-in leaves its time in the session, so that a session can end after half a day however busy it was."""

import time
from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest

STARTED = "started"
RENEWED = "renewed"


@receiver(user_logged_in)
def remember_start(request: HttpRequest, **kwargs: Any) -> None:
    request.session[STARTED] = time.time()
