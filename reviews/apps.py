from django.apps import AppConfig


class ReviewsConfig(AppConfig):
    name = "reviews"

    def ready(self) -> None:
        from reviews import comparison, exports, progress, recalibration, training
        from reviews import jobs as own
        from triage import background, dial, jobs, labelled, tasks

        jobs.ALLOWED |= own.NAMES
        jobs.RECONCILERS += [own.reconcile, recalibration.sweep, training.sweep]
        background.PROVIDERS.append(exports.at_work)
        dial.PACES.append(progress.pace)
        tasks.RUNNERS["recalibrate"] = recalibration.run
        tasks.RUNNERS["compare"] = comparison.run
        tasks.RUNNERS["train"] = training.run
        labelled.SOURCES["labels"] = training.named
