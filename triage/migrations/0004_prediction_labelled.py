"""The queue's index leaves out what is labelled: reading from the top no longer walks past every past verdict."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("triage", "0003_queue_reads_its_index_only")]
    operations = [
        migrations.AddField(
            model_name="prediction",
            name="labelled",
            field=models.BooleanField(
                db_default=False,
                help_text="its exact notes have a standing label; kept true by triggers (reviews 0003)",
            ),
        ),
        migrations.RemoveIndex(model_name="prediction", name="prediction_queue"),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True), ("labelled", False)),
                fields=["site", "protocol", "-urgency", "case"],
                include=("id", "credibility", "runner_up", "typicality", "notes_sha256"),
                name="prediction_queue",
            ),
        ),
    ]
