from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("reviews", "0004_the_workbench")]

    operations = [
        migrations.AddField(
            model_name="draft",
            name="cause",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="of a disagreement: a lead's drafts alone have one",
                max_length=10,
            ),
        ),
    ]
