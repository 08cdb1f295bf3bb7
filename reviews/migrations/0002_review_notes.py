"""A review carries the digest of the notes it was given on, as its label does: the queue asks for it on every row."""

from django.db import migrations, models

FILL = """
UPDATE reviews_review SET notes_sha256 = p.notes_sha256 FROM triage_prediction AS p WHERE p.id = prediction_id
"""


class Migration(migrations.Migration):
    dependencies = [("reviews", "0001_initial"), ("triage", "0003_queue_reads_its_index_only")]
    operations = [
        migrations.AddField(
            model_name="review",
            name="notes_sha256",
            field=models.CharField(
                default="", help_text="the exact notes the verdict was given on", max_length=64
            ),
            preserve_default=False,
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name="review",
            index=models.Index(
                condition=models.Q(("withdrawn_at", None)),
                fields=["reader", "case", "notes_sha256"],
                name="review_standing",
            ),
        ),
    ]
