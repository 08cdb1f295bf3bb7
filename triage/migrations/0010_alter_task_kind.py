from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("triage", "0009_dial_tally")]

    operations = [
        migrations.AlterField(
            model_name="task",
            name="kind",
            field=models.CharField(
                choices=[
                    ("train", "train a release from labels"),
                    ("recalibrate", "recalibrate from labels"),
                    ("shadow", "score in shadow"),
                    ("promote", "make a release the active one"),
                    ("compare", "compare releases"),
                ],
                max_length=12,
            ),
        ),
    ]
