"""Second readers, adjudication, threads, exports by the background, webhooks."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

SAY_WHY = "UPDATE reviews_review SET why = 'other' WHERE label IS NULL"


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0003_label_marks_predictions"),
        ("triage", "0007_the_workbench"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Adjudication",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("notes_sha256", models.CharField(max_length=64)),
                ("opened_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("closed_at", models.DateTimeField(null=True)),
                (
                    "cause",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("overlooked", "one reader overlooked something"),
                            ("criteria", "the criteria leave it open"),
                            ("record", "the record contradicts itself"),
                            ("slip", "a slip of the hand"),
                            ("other", "another cause"),
                        ],
                        max_length=10,
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Comment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("text", models.TextField()),
                (
                    "start",
                    models.PositiveIntegerField(help_text="first code point of the passage", null=True),
                ),
                ("end", models.PositiveIntegerField(help_text="one past its last code point", null=True)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("withdrawn_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("claimed", "Claimed"),
                            ("ready", "Ready"),
                            ("failed", "Failed"),
                        ],
                        default="pending",
                        max_length=8,
                    ),
                ),
                ("claimed_at", models.DateTimeField(null=True)),
                ("claim", models.BigIntegerField(null=True)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("failure", models.CharField(blank=True, max_length=300)),
                (
                    "event",
                    models.CharField(choices=[("given", "given"), ("withdrawn", "withdrawn")], max_length=10),
                ),
                ("tries", models.PositiveSmallIntegerField(default=0)),
                ("due_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("answer", models.PositiveSmallIntegerField(help_text="last HTTP status", null=True)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name="ExportRun",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("claimed", "Claimed"),
                            ("ready", "Ready"),
                            ("failed", "Failed"),
                        ],
                        default="pending",
                        max_length=8,
                    ),
                ),
                ("claimed_at", models.DateTimeField(null=True)),
                ("claim", models.BigIntegerField(null=True)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("failure", models.CharField(blank=True, max_length=300)),
                ("form", models.CharField(max_length=10)),
                ("with_notes", models.BooleanField(default=False)),
                ("asked_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("total", models.PositiveIntegerField(default=0, help_text="labels when it began")),
                ("rows", models.PositiveIntegerField(default=0, help_text="written so far")),
                ("size", models.PositiveBigIntegerField(default=0, help_text="bytes")),
                ("sha256", models.CharField(blank=True, max_length=64)),
                ("ready_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="SavedView",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=60)),
                ("query", models.CharField(max_length=500)),
            ],
        ),
        migrations.CreateModel(
            name="Skip",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name="Webhook",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("url", models.URLField(max_length=500)),
                ("secret", models.CharField(help_text="signs each delivery (HMAC-SHA256)", max_length=64)),
                ("active", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.AddField(
            model_name="draft",
            name="why",
            field=models.CharField(
                blank=True,
                choices=[
                    ("conflicting", "the notes contradict each other"),
                    ("insufficient", "too little is written"),
                    ("specialty", "another specialty must judge"),
                    ("other", "another reason"),
                    ("information", "more information is needed"),
                ],
                db_default="",
                max_length=12,
            ),
        ),
        migrations.AddField(
            model_name="review",
            name="double",
            field=models.BooleanField(
                db_default=False, help_text="drawn, as it was submitted, to be followed by a second reading"
            ),
        ),
        migrations.AddField(
            model_name="review",
            name="why",
            field=models.CharField(
                blank=True,
                choices=[
                    ("conflicting", "the notes contradict each other"),
                    ("insufficient", "too little is written"),
                    ("specialty", "another specialty must judge"),
                    ("other", "another reason"),
                    ("information", "more information is needed"),
                ],
                db_default="",
                max_length=12,
            ),
        ),
        migrations.AlterField(
            model_name="draft",
            name="choice",
            field=models.CharField(
                blank=True, help_text="a label, «undecided», «information», or nothing yet", max_length=60
            ),
        ),
        migrations.AlterField(
            model_name="draft",
            name="evidence",
            field=models.JSONField(
                default=list,
                help_text="[{note, start, end, label}] in code points of the note's text; label of the protocol, or empty",
            ),
        ),
        migrations.AlterField(
            model_name="review",
            name="mode",
            field=models.CharField(
                choices=[("assisted", "assisted"), ("blind", "blind"), ("adjudication", "adjudication")],
                max_length=12,
            ),
        ),
        migrations.AddIndex(
            model_name="review",
            index=models.Index(
                condition=models.Q(("withdrawn_at", None)),
                fields=["case", "notes_sha256"],
                name="review_of_case",
            ),
        ),
        migrations.RunSQL(SAY_WHY, migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name="review",
            constraint=models.CheckConstraint(
                condition=models.Q(("label", None), ("why", ""), _connector="XOR"), name="review_label_or_why"
            ),
        ),
        migrations.AddField(
            model_name="adjudication",
            name="case",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="adjudications", to="triage.case"
            ),
        ),
        migrations.AddField(
            model_name="adjudication",
            name="prediction",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="adjudications",
                to="triage.prediction",
            ),
        ),
        migrations.AddField(
            model_name="adjudication",
            name="review",
            field=models.OneToOneField(
                help_text="the lead's own",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="adjudication",
                to="reviews.review",
            ),
        ),
        migrations.AddField(
            model_name="comment",
            name="author",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="comments",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="comment",
            name="case",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="comments", to="triage.case"
            ),
        ),
        migrations.AddField(
            model_name="comment",
            name="note",
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, to="triage.note"),
        ),
        migrations.AddField(
            model_name="delivery",
            name="label",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="reviews.label"),
        ),
        migrations.AddField(
            model_name="exportrun",
            name="by",
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name="exportrun",
            name="protocol",
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="triage.protocol"),
        ),
        migrations.AddField(
            model_name="exportrun",
            name="site",
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="triage.site"),
        ),
        migrations.AddField(
            model_name="savedview",
            name="protocol",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.protocol"),
        ),
        migrations.AddField(
            model_name="savedview",
            name="site",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.site"),
        ),
        migrations.AddField(
            model_name="savedview",
            name="user",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="saved_views",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="skip",
            name="case",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.case"),
        ),
        migrations.AddField(
            model_name="skip",
            name="reader",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name="webhook",
            name="by",
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name="webhook",
            name="protocol",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.protocol"),
        ),
        migrations.AddField(
            model_name="webhook",
            name="site",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.site"),
        ),
        migrations.AddField(
            model_name="delivery",
            name="webhook",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="deliveries", to="reviews.webhook"
            ),
        ),
        migrations.AddConstraint(
            model_name="adjudication",
            constraint=models.UniqueConstraint(
                condition=models.Q(("closed_at", None)),
                fields=("case", "notes_sha256"),
                name="adjudication_one_open",
            ),
        ),
        migrations.AddConstraint(
            model_name="adjudication",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("review", None),
                    models.Q(("closed_at__isnull", False), models.Q(("cause", ""), _negated=True)),
                    _connector="OR",
                ),
                name="adjudication_closed_with_cause",
            ),
        ),
        migrations.AddIndex(
            model_name="comment",
            index=models.Index(fields=["case", "at"], name="comment_thread"),
        ),
        migrations.AddConstraint(
            model_name="comment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("end", None), ("note", None), ("start", None)),
                    models.Q(("note__isnull", False), ("start__lt", models.F("end"))),
                    _connector="OR",
                ),
                name="comment_passage_whole",
            ),
        ),
        migrations.AddIndex(
            model_name="exportrun",
            index=models.Index(fields=["site", "protocol", "-asked_at"], name="export_recent"),
        ),
        migrations.AddIndex(
            model_name="exportrun",
            index=models.Index(
                condition=models.Q(("status__in", ["pending", "claimed"])),
                fields=["asked_at"],
                name="export_waiting",
            ),
        ),
        migrations.AddConstraint(
            model_name="savedview",
            constraint=models.UniqueConstraint(
                fields=("user", "site", "protocol", "name"), name="saved_view_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="skip",
            constraint=models.UniqueConstraint(fields=("reader", "case"), name="skip_once"),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("status__in", ["pending", "claimed"])),
                fields=["due_at"],
                name="delivery_due",
            ),
        ),
        migrations.AddConstraint(
            model_name="delivery",
            constraint=models.UniqueConstraint(fields=("webhook", "label", "event"), name="delivery_once"),
        ),
    ]
