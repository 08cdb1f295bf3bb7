"""A prediction is explained by several methods. What was explained before was explained by mask tokens."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models.functions import Now


def nothing():
    return models.Value([], models.JSONField())


METHODS = ["mask", "deletion", "gradients", "ablation"]
WERE_BY_MASK = "UPDATE triage_explanation SET method = 'mask' WHERE status = 'ready'"
BACK = "DELETE FROM triage_explanation WHERE method <> 'mask'"


class Migration(migrations.Migration):
    dependencies = [("triage", "0005_policy_audit_and_second_opinion")]
    operations = [
        migrations.CreateModel(
            name="Baseline",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("cases", models.PositiveIntegerField(help_text="calibration cases explained")),
                ("words", models.JSONField(help_text="word → score of mlcore.cohort.aggregate")),
                ("at", models.DateTimeField(db_default=Now())),
                (
                    "release",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="baseline",
                        to="triage.release",
                    ),
                ),
            ],
        ),
        migrations.RemoveIndex(model_name="explanation", name="explanation_waiting"),
        migrations.AlterField(
            model_name="explanation",
            name="prediction",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="explanations",
                to="triage.prediction",
            ),
        ),
        migrations.AddField(
            model_name="explanation",
            name="method",
            field=models.CharField(
                choices=[(name, name.capitalize()) for name in METHODS], db_default="deletion", max_length=9
            ),
        ),
        migrations.AddField(
            model_name="explanation",
            name="priority",
            field=models.PositiveSmallIntegerField(
                choices=[(0, "Reader"), (1, "Deferred"), (2, "Cohort")], db_default=1
            ),
        ),
        migrations.AlterField(
            model_name="explanation",
            name="words",
            field=models.JSONField(
                default=list,
                help_text="[{note, start, end, importance, margin, distance, sign}], most important first; distance may be null",
            ),
        ),
        migrations.AddField(
            model_name="explanation",
            name="phrases",
            field=models.JSONField(
                db_default=nothing(),
                help_text="[{note, start, end, words, margin, distance, sign, beyond}]",
            ),
        ),
        migrations.AddField(
            model_name="explanation",
            name="nearest",
            field=models.JSONField(
                db_default=nothing(),
                help_text="calibration cases: [{label, given, distance}], nearest first in each label",
            ),
        ),
        migrations.AddField(
            model_name="explanation",
            name="attentions",
            field=models.BooleanField(
                db_default=True,
                help_text="false where the encoder gives none: occlusion alone chose the words",
            ),
        ),
        migrations.AddIndex(
            model_name="explanation",
            index=models.Index(
                condition=models.Q(status__in=["pending", "claimed"]),
                fields=["priority", "asked_at"],
                name="explanation_waiting",
            ),
        ),
        migrations.AddConstraint(
            model_name="explanation",
            constraint=models.UniqueConstraint(fields=["prediction", "method"], name="explanation_once"),
        ),
        migrations.AddConstraint(
            model_name="explanation",
            constraint=models.CheckConstraint(
                condition=models.Q(method__in=METHODS), name="explanation_method_known"
            ),
        ),
        migrations.RunSQL(WERE_BY_MASK, BACK),
    ]
