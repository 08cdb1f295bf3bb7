"""The clinician's pages of one workplace."""

from django.urls import path

from reviews import views

app_name = "reviews"
urlpatterns = [
    path("queue/", views.queue_page, name="queue"),
    path("queue/next/", views.next_case, name="queue-next"),
    path("queue/<int:case>/", views.case_page, name="queue-case"),
    path("queue/<int:case>/reading/", views.reading, name="queue-reading"),
    path("queue/<int:case>/method/", views.method, name="queue-method"),
    path("queue/<int:case>/draft/", views.draft, name="queue-draft"),
    path("queue/<int:case>/hold/", views.hold, name="queue-hold"),
    path("queue/undo/<int:review>/", views.undo, name="queue-undo"),
    path("words/", views.words, name="words"),
    path("export/", views.export, name="export"),
]
