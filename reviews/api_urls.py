"""The API's addresses, under /api/v1/."""

from django.urls import path

from reviews import api

urlpatterns = [path("", api.urls())]
