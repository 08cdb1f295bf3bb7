from django.apps import AppConfig


class ReviewsConfig(AppConfig):
    name = "reviews"

    def ready(self) -> None:
        from reviews import exports, progress, recalibration, training
        from reviews import jobs as own
        from triage import background, dial, jobs, labelled, tasks

        jobs.ALLOWED |= own.NAMES
        jobs.RECONCILERS.append(own.reconcile)
        background.PROVIDERS.append(exports.at_work)
        dial.PACES.append(progress.pace)
        tasks.RUNNERS["recalibrate"] = recalibration.run
        tasks.RUNNERS["train"] = training.run
        labelled.SOURCES["labels"] = training.named
