"""What the workbench stands on: API tokens, the second reader's share, the lot that draws the audit sample, note search.

A case's lot is drawn once for its exact notes. Notes are searched through an index over an expression, not a column:
nothing is stored twice. Only the first SEARCHED characters of a note are searched, because PostgreSQL holds at most
1 MB of lexemes of one text.
"""

from itertools import islice
from typing import Any

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
import django.db.models.functions.math
from django.conf import settings
from django.db import migrations, models

SEARCH = """
CREATE EXTENSION IF NOT EXISTS unaccent;
CREATE TEXT SEARCH CONFIGURATION note_es (COPY = spanish);
ALTER TEXT SEARCH CONFIGURATION note_es ALTER MAPPING FOR hword, hword_part, word WITH unaccent, spanish_stem;
CREATE TEXT SEARCH CONFIGURATION note_en (COPY = english);
ALTER TEXT SEARCH CONFIGURATION note_en ALTER MAPPING FOR hword, hword_part, word WITH unaccent, english_stem;
CREATE INDEX note_search_es ON triage_note USING gin (to_tsvector('note_es', left(text, 200000)));
CREATE INDEX note_search_en ON triage_note USING gin (to_tsvector('note_en', left(text, 200000)));
"""

NO_SEARCH = """
DROP INDEX note_search_es;
DROP INDEX note_search_en;
DROP TEXT SEARCH CONFIGURATION note_es;
DROP TEXT SEARCH CONFIGURATION note_en;
"""

LATEST_NOTE = """
UPDATE triage_prediction AS p SET specialty = latest.specialty, written_at = latest.written_at
FROM (
    SELECT DISTINCT ON (p.id) p.id, n.specialty, n.written_at
    FROM triage_prediction AS p JOIN triage_note AS n ON n.id = ANY(p.note_ids)
    ORDER BY p.id, n.written_at DESC NULLS LAST, n.id DESC
) AS latest WHERE latest.id = p.id;
SET CONSTRAINTS ALL IMMEDIATE
"""


def draw_lots(apps: Any, schema_editor: Any) -> None:
    """The lots that scoring would have drawn, the same for every release's prediction of the same notes."""
    from triage.sampling import lot

    found = apps.get_model("triage", "Prediction").objects.only("case_id", "notes_sha256")
    rows = found.iterator(chunk_size=5000)
    while batch := list(islice(rows, 5000)):
        for row in batch:
            row.lot = lot(row.case_id, row.notes_sha256)
        found.bulk_update(batch, ["lot"])
    schema_editor.execute("SET CONSTRAINTS ALL IMMEDIATE")


class Migration(migrations.Migration):
    dependencies = [
        ("triage", "0006_explanations_by_method"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Token",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=80)),
                (
                    "scopes",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[
                                ("import", "deliver notes"),
                                ("read", "read the queue and its figures"),
                                ("export", "take labels out"),
                            ],
                            max_length=10,
                        ),
                        size=None,
                    ),
                ),
                ("digest", models.BinaryField(help_text="SHA-256 of the key", max_length=32, unique=True)),
                (
                    "start",
                    models.CharField(help_text="first characters of the key, to tell it by", max_length=12),
                ),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("expires_at", models.DateTimeField()),
                ("used_at", models.DateTimeField(null=True)),
                ("revoked_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.RemoveIndex(
            model_name="prediction",
            name="prediction_queue",
        ),
        migrations.AddField(
            model_name="prediction",
            name="lot",
            field=models.FloatField(
                db_default=django.db.models.functions.math.Random(),
                help_text="uniform in [0, 1), of the case and its exact notes: below the audit rate it is read blind",
            ),
        ),
        migrations.AddField(
            model_name="prediction",
            name="specialty",
            field=models.CharField(blank=True, db_default="", help_text="of the latest note", max_length=80),
        ),
        migrations.AddField(
            model_name="prediction",
            name="written_at",
            field=models.DateField(help_text="of the latest note", null=True),
        ),
        migrations.AddField(
            model_name="protocol",
            name="double_share",
            field=models.FloatField(
                db_default=0.0, help_text="share of cases that get a second reader: 0 none, 1 every one"
            ),
        ),
        migrations.RunSQL(LATEST_NOTE, migrations.RunSQL.noop),
        migrations.RunPython(draw_lots, migrations.RunPython.noop),
        migrations.RunSQL(SEARCH, NO_SEARCH),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True), ("labelled", False)),
                fields=["site", "protocol", "-urgency", "case"],
                include=("id", "credibility", "runner_up", "typicality", "notes_sha256", "lot"),
                name="prediction_queue",
            ),
        ),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True), ("labelled", False)),
                fields=["site", "protocol", "at", "case"],
                name="prediction_by_wait",
            ),
        ),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True), ("labelled", False)),
                fields=["site", "protocol", "written_at", "case"],
                name="prediction_by_date",
            ),
        ),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True), ("labelled", False)),
                fields=["site", "protocol", "specialty", "-urgency", "case"],
                name="prediction_by_specialty",
            ),
        ),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True), ("labelled", False)),
                fields=["site", "protocol", "lot", "case"],
                name="prediction_by_lot",
            ),
        ),
        migrations.AddConstraint(
            model_name="protocol",
            constraint=models.CheckConstraint(
                condition=models.Q(("double_share__gte", 0), ("double_share__lte", 1)),
                name="protocol_double_share_unit",
            ),
        ),
        migrations.AddField(
            model_name="token",
            name="site",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.site"),
        ),
        migrations.AddField(
            model_name="token",
            name="user",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="tokens",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
    ]
