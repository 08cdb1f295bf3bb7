"""The clinician's pages of one workplace."""

from django.urls import path

from reviews import case_views, export_views, lead_views, queue_views, views

app_name = "reviews"
urlpatterns = [
    path("queue/", views.queue_page, name="queue"),
    path("queue/next/", views.next_case, name="queue-next"),
    path("queue/<int:case>/", views.case_page, name="queue-case"),
    path("queue/<int:case>/reading/", views.reading, name="queue-reading"),
    path("queue/<int:case>/method/", views.method, name="queue-method"),
    path("queue/<int:case>/draft/", views.draft, name="queue-draft"),
    path("queue/<int:case>/hold/", views.hold, name="queue-hold"),
    path("queue/<int:case>/skip/", case_views.skip, name="queue-skip"),
    path("queue/<int:case>/say/", case_views.say, name="queue-say"),
    path("queue/unsay/<int:comment>/", case_views.unsay, name="queue-unsay"),
    path("queue/undo/<int:review>/", views.undo, name="queue-undo"),
    path("queue/search/", queue_views.search_notes, name="queue-search"),
    path("queue/views/", queue_views.save_view, name="queue-view-save"),
    path("queue/views/<int:view>/", queue_views.change_view, name="queue-view"),
    path("queue/mine/", queue_views.mine, name="queue-mine"),
    path("queue/team/", queue_views.team, name="queue-team"),
    path("queue/<int:case>/release/", queue_views.release, name="queue-release"),
    path("queue/return/<int:review>/", queue_views.resume, name="queue-return"),
    path("adjudications/", lead_views.adjudications, name="adjudications"),
    path("adjudications/<int:adjudication>/", lead_views.adjudicate, name="adjudications-case"),
    path("agreement/", lead_views.agreement, name="agreement"),
    path("progress/", lead_views.progress_of, name="progress"),
    path("settings/reading/", lead_views.reading_settings, name="reading-settings"),
    path("words/", views.words, name="words"),
    path("export/", export_views.export, name="export"),
    path("export/<int:run>/", export_views.export_status, name="export-status"),
    path("export/<int:run>/file/", export_views.export_file, name="export-file"),
    path("export/<int:run>/retry/", export_views.export_retry, name="export-retry"),
    path("webhooks/", export_views.hooks, name="webhooks"),
    path("webhooks/<int:hook>/", export_views.hook, name="webhook"),
]
