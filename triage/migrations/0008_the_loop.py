"""The loop: scheduled and approved turns, the hold, background tasks, the watch and its alarms, calibrations from labels."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

# A version written before there was a start began when it was written. The trigger lets nobody change a policy, but this.
STARTED = """
ALTER TABLE triage_policy DISABLE TRIGGER append_only;
UPDATE triage_policy SET starts_at = at;
ALTER TABLE triage_policy ENABLE TRIGGER append_only;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("triage", "0007_the_workbench"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Alarm",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("stream", "the stream of cases changed"),
                            ("check", "a week differs from calibration"),
                            ("missed", "more cases are missed than α allows"),
                        ],
                        max_length=10,
                    ),
                ),
                ("measure", models.CharField(help_text="which stream, check or label", max_length=40)),
                ("week", models.DateField(help_text="the Monday of the week it was raised for")),
                ("facts", models.JSONField()),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("seen_at", models.DateTimeField(null=True)),
                ("remark", models.TextField(blank=True)),
            ],
        ),
        migrations.CreateModel(
            name="Proposal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("alpha", models.FloatField()),
                ("typicality_floor", models.FloatField()),
                (
                    "audit_rate",
                    models.FloatField(db_default=0.0, help_text="share of automatic cases drawn to be read"),
                ),
                (
                    "second_opinion",
                    models.CharField(
                        choices=[("off", "Off"), ("advise", "Advise"), ("settle", "Settle")],
                        db_default="off",
                        help_text="whether a second model may advise the reader of an ambiguous case, or settle it",
                        max_length=10,
                    ),
                ),
                (
                    "automate",
                    models.BooleanField(
                        db_default=True, help_text="off: automation is on hold, every case is read"
                    ),
                ),
                (
                    "second_approver",
                    models.BooleanField(
                        db_default=False,
                        help_text="the next turn needs another administrator besides its author",
                    ),
                ),
                (
                    "hold_on_alarm",
                    models.BooleanField(
                        db_default=False,
                        help_text="an alarm of the watch puts automation on hold by a turn of its own",
                    ),
                ),
                ("reason", models.TextField()),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "base_version",
                    models.PositiveIntegerField(help_text="the version it was proposed against"),
                ),
                ("starts_at", models.DateTimeField(help_text="null: as soon as it is approved", null=True)),
                ("closed_at", models.DateTimeField(null=True)),
                ("remark", models.TextField(blank=True)),
            ],
        ),
        migrations.CreateModel(
            name="Task",
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
                    "kind",
                    models.CharField(
                        choices=[
                            ("train", "train a release from labels"),
                            ("recalibrate", "recalibrate from labels"),
                            ("shadow", "score in shadow"),
                        ],
                        max_length=12,
                    ),
                ),
                (
                    "params",
                    models.JSONField(default=dict, help_text="ids and settings; never text of a note"),
                ),
                ("asked_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("ended_at", models.DateTimeField(null=True)),
                ("stop_asked", models.BooleanField(default=False)),
                (
                    "stage",
                    models.CharField(
                        blank=True, help_text="English message id of what it does now", max_length=200
                    ),
                ),
                ("done", models.PositiveBigIntegerField(default=0)),
                ("total", models.PositiveBigIntegerField(default=0)),
                (
                    "log",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.TextField(),
                        default=list,
                        help_text="one line an event, its time first",
                        size=None,
                    ),
                ),
                ("result", models.JSONField(default=dict)),
            ],
        ),
        migrations.CreateModel(
            name="Watch",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("week", models.DateField(help_text="its Monday")),
                ("facts", models.JSONField(help_text="streams, checks and missed cases; figures only")),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.AddField(
            model_name="calibration",
            name="by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="calibration",
            name="made_of",
            field=models.JSONField(
                default=dict,
                help_text="of one made from labels: cases, weights and effective size of each label",
            ),
        ),
        migrations.AddField(
            model_name="calibration",
            name="reason",
            field=models.TextField(blank=True),
        ),
        migrations.AddField(
            model_name="policy",
            name="approver",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="policy",
            name="automate",
            field=models.BooleanField(
                db_default=True, help_text="off: automation is on hold, every case is read"
            ),
        ),
        migrations.AddField(
            model_name="policy",
            name="hold_on_alarm",
            field=models.BooleanField(
                db_default=False,
                help_text="an alarm of the watch puts automation on hold by a turn of its own",
            ),
        ),
        migrations.AddField(
            model_name="policy",
            name="second_approver",
            field=models.BooleanField(
                db_default=False, help_text="the next turn needs another administrator besides its author"
            ),
        ),
        migrations.AddField(
            model_name="policy",
            name="starts_at",
            field=models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
        ),
        migrations.AlterField(
            model_name="policy",
            name="author",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True)),
                fields=["site", "protocol", "at"],
                name="prediction_arrivals",
            ),
        ),
        migrations.AddConstraint(
            model_name="policy",
            constraint=models.CheckConstraint(
                condition=models.Q(("approver", models.F("author")), _negated=True),
                name="policy_approver_is_another",
            ),
        ),
        migrations.AddField(
            model_name="alarm",
            name="held",
            field=models.ForeignKey(
                help_text="the hold it brought about",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="triage.policy",
            ),
        ),
        migrations.AddField(
            model_name="alarm",
            name="protocol",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.protocol"),
        ),
        migrations.AddField(
            model_name="alarm",
            name="release",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.release"),
        ),
        migrations.AddField(
            model_name="alarm",
            name="seen_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="alarm",
            name="site",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.site"),
        ),
        migrations.AddField(
            model_name="proposal",
            name="author",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="proposal",
            name="closed_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="proposal",
            name="policy",
            field=models.OneToOneField(
                help_text="the version it became",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                to="triage.policy",
            ),
        ),
        migrations.AddField(
            model_name="proposal",
            name="protocol",
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="triage.protocol"),
        ),
        migrations.AddField(
            model_name="proposal",
            name="site",
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="triage.site"),
        ),
        migrations.AddField(
            model_name="task",
            name="by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="task",
            name="protocol",
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="triage.protocol"),
        ),
        migrations.AddField(
            model_name="task",
            name="site",
            field=models.ForeignKey(
                help_text="null: of every site",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                to="triage.site",
            ),
        ),
        migrations.AddField(
            model_name="watch",
            name="protocol",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.protocol"),
        ),
        migrations.AddField(
            model_name="watch",
            name="release",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.release"),
        ),
        migrations.AddField(
            model_name="watch",
            name="site",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triage.site"),
        ),
        migrations.AddConstraint(
            model_name="alarm",
            constraint=models.UniqueConstraint(
                fields=("site", "protocol", "release", "kind", "measure", "week"), name="alarm_once_a_week"
            ),
        ),
        migrations.AddConstraint(
            model_name="proposal",
            constraint=models.UniqueConstraint(
                condition=models.Q(("closed_at", None)), fields=("site", "protocol"), name="proposal_one_open"
            ),
        ),
        migrations.AddConstraint(
            model_name="proposal",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("policy", None),
                    models.Q(("closed_by", models.F("author")), _negated=True),
                    _connector="OR",
                ),
                name="proposal_approved_by_another",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(fields=["protocol", "-asked_at"], name="task_recent"),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("status__in", ["pending", "claimed"])),
                fields=["asked_at"],
                name="task_waiting",
            ),
        ),
        migrations.AddConstraint(
            model_name="watch",
            constraint=models.UniqueConstraint(
                fields=("site", "protocol", "release", "week"), name="watch_once"
            ),
        ),
        migrations.RunSQL(STARTED, migrations.RunSQL.noop),
    ]
