"""The queue finds its next thirty cases and its counts without reading a row: the digest joins the index."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("triage", "0002_append_only")]
    operations = [
        migrations.RemoveIndex(model_name="prediction", name="prediction_queue"),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True)),
                fields=["site", "protocol", "-urgency", "case"],
                include=("id", "credibility", "runner_up", "typicality", "notes_sha256"),
                name="prediction_queue",
            ),
        ),
    ]
