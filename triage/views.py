from django.http import HttpResponse


def _todo(request, **kw):
    return HttpResponse()


dial = dial_preview = intake = intake_progress = intake_result = intake_rejected = home = healthz = readyz = _todo
