from django.apps import AppConfig
from django.db.models.signals import post_migrate


class TriageConfig(AppConfig):
    name = "triage"

    def ready(self) -> None:
        import triage.sessions  # noqa: F401  (connects the sign-in signal)
        from triage import promotion, shadow, tasks

        tasks.RUNNERS["shadow"] = shadow.run
        tasks.RUNNERS["promote"] = promotion.run
        post_migrate.connect(_mirror_protocols, sender=self)


def _mirror_protocols(**kwargs: object) -> None:
    """Keep the rows of the shipped protocols true to mlcore."""
    from dataclasses import asdict

    from mlcore.protocols import SHIPPED
    from triage.models import Protocol

    for spec in SHIPPED.values():
        facts = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(spec).items()}
        Protocol.objects.update_or_create(slug=facts.pop("slug"), defaults=facts)
