"""The clinician's pages of one workplace."""

app_name = "reviews"
urlpatterns: list = []
