import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0005_draft_cause"),
        ("triage", "0008_the_loop"),
    ]

    operations = [
        migrations.AddField(
            model_name="delivery",
            name="alarm",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.CASCADE, to="triage.alarm"
            ),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="event",
            field=models.CharField(
                choices=[("given", "given"), ("withdrawn", "withdrawn"), ("alarm", "alarm")], max_length=10
            ),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="label",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.CASCADE, to="reviews.label"
            ),
        ),
        migrations.AddConstraint(
            model_name="delivery",
            constraint=models.UniqueConstraint(fields=("webhook", "alarm"), name="delivery_of_alarm_once"),
        ),
        migrations.AddConstraint(
            model_name="delivery",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("alarm__isnull", False), ("event", "alarm"), ("label", None)),
                    models.Q(
                        models.Q(("event", "alarm"), _negated=True), ("alarm", None), ("label__isnull", False)
                    ),
                    _connector="OR",
                ),
                name="delivery_label_or_alarm",
            ),
        ),
    ]
