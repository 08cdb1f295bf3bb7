"""Every address. A workplace is /<site>/<protocol>/…; ids only, never text."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.contrib.auth.decorators import login_not_required
from django.db.transaction import non_atomic_requests
from django.urls import include, path
from django.views.i18n import set_language

from triage import background_views, dial_views, intake_views, release_views, token_views, views

triage = (
    [
        path("dial/", dial_views.dial, name="dial"),
        path("dial/preview/", dial_views.dial_preview, name="dial-preview"),
        path("dial/versions/", dial_views.dial_versions, name="dial-versions"),
        path("dial/proposals/<int:proposal>/", dial_views.dial_proposal, name="dial-proposal"),
        path("intake/", intake_views.intake, name="intake"),
        path("intake/progress/", intake_views.intake_progress, name="intake-progress"),
        path("intake/<int:run>/", intake_views.intake_result, name="intake-result"),
        path("intake/<int:run>/rejected.csv", intake_views.intake_rejected, name="intake-rejected"),
        path("releases/", release_views.releases_page, name="releases"),
        path("background/", background_views.background_page, name="background"),
        path("background/status/", background_views.background_status, name="background-status"),
        path("background/<int:task>/", background_views.background_task, name="background-task"),
        path("keys/", token_views.keys, name="keys"),
        path("keys/<int:token>/revoke/", token_views.revoke, name="keys-revoke"),
    ],
    "triage",
)

urlpatterns = [
    path("", views.home, name="home"),
    path("healthz", login_not_required(non_atomic_requests(views.healthz)), name="healthz"),
    path("readyz", login_not_required(non_atomic_requests(views.readyz)), name="readyz"),
    path("login/", auth.LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", auth.LogoutView.as_view(), name="logout"),
    path("i18n/setlang/", login_not_required(set_language), name="set_language"),
    path("admin/", admin.site.urls),
    path("api/v1/", include("reviews.api_urls")),
    path("<slug:site>/<slug:protocol>/", include(triage)),
    path("<slug:site>/<slug:protocol>/", include("reviews.urls")),
]
