from django.apps import AppConfig


class ReviewsConfig(AppConfig):
    name = "reviews"

    def ready(self) -> None:
        from reviews import jobs as own
        from triage import jobs

        jobs.ALLOWED |= own.NAMES
        jobs.RECONCILERS.append(own.reconcile)
