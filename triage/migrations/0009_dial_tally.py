"""Standing predictions counted by steps of their numbers, by triggers: a preview of the dial adds up a few thousand rows.

The steps are those of ``triage.tally.EDGES``, negated and ascending: ``width_bucket`` then counts the edges at or above a
value, and what is left of them lies below it.
"""

import django.db.models.deletion
from django.db import migrations, models

FORWARD = """
CREATE FUNCTION dial_step(value double precision) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (251 - width_bucket(-value, ARRAY[
        -0.5, -0.49, -0.48, -0.47, -0.46, -0.45, -0.44, -0.43, -0.42, -0.41, -0.4, -0.39, -0.38,
        -0.37, -0.36, -0.35, -0.34, -0.33, -0.32, -0.31, -0.3, -0.29, -0.28, -0.27, -0.26, -0.25,
        -0.24, -0.23, -0.22, -0.21, -0.2, -0.19, -0.1821, -0.18, -0.17, -0.1657, -0.16, -0.1509,
        -0.15, -0.14, -0.1373, -0.13, -0.125, -0.12, -0.1138, -0.11, -0.1036, -0.1, -0.099, -0.098,
        -0.097, -0.096, -0.095, -0.0943, -0.094, -0.093, -0.092, -0.091, -0.09, -0.089, -0.088,
        -0.087, -0.086, -0.0858, -0.085, -0.084, -0.083, -0.082, -0.081, -0.08, -0.079, -0.0781,
        -0.078, -0.077, -0.076, -0.075, -0.074, -0.073, -0.072, -0.0711, -0.071, -0.07, -0.069,
        -0.068, -0.067, -0.066, -0.065, -0.0647, -0.064, -0.063, -0.062, -0.061, -0.06, -0.059,
        -0.0589, -0.058, -0.057, -0.056, -0.055, -0.054, -0.0537, -0.053, -0.052, -0.051, -0.05,
        -0.049, -0.0488, -0.048, -0.047, -0.046, -0.045, -0.0445, -0.044, -0.043, -0.042, -0.041,
        -0.0405, -0.04, -0.039, -0.038, -0.037, -0.0368, -0.036, -0.035, -0.034, -0.0335, -0.033,
        -0.032, -0.031, -0.0305, -0.03, -0.029, -0.028, -0.0278, -0.027, -0.026, -0.0253, -0.025,
        -0.024, -0.023, -0.022, -0.021, -0.02, -0.0191, -0.019, -0.018, -0.0174, -0.017, -0.016,
        -0.0158, -0.015, -0.0144, -0.014, -0.0131, -0.013, -0.012, -0.0119, -0.011, -0.0109, -0.01,
        -0.0099, -0.0098, -0.0097, -0.0096, -0.0095, -0.0094, -0.0093, -0.0092, -0.0091, -0.009,
        -0.0089, -0.0088, -0.0087, -0.0086, -0.0085, -0.0084, -0.0083, -0.0082, -0.0081, -0.008,
        -0.0079, -0.0078, -0.0077, -0.0076, -0.0075, -0.0074, -0.0073, -0.0072, -0.0071, -0.007,
        -0.0069, -0.0068, -0.0067, -0.0066, -0.0065, -0.0064, -0.0063, -0.0062, -0.0061, -0.006,
        -0.0059, -0.0058, -0.0057, -0.0056, -0.0055, -0.0054, -0.0053, -0.0052, -0.0051, -0.005,
        -0.0049, -0.0048, -0.0047, -0.0046, -0.0045, -0.0044, -0.0043, -0.0042, -0.0041, -0.004,
        -0.0039, -0.0038, -0.0037, -0.0036, -0.0035, -0.0034, -0.0033, -0.0032, -0.0031, -0.003,
        -0.0029, -0.0028, -0.0027, -0.0026, -0.0025, -0.0024, -0.0023, -0.0022, -0.0021, -0.002,
        -0.0019, -0.0018, -0.0017, -0.0016, -0.0015, -0.0014, -0.0013, -0.0012, -0.0011, -0.001, 0
    ]::double precision[]))::smallint
$$;

-- What an update leaves as it was (a verdict marks its prediction as labelled) adds up to nothing and writes nothing.
CREATE FUNCTION dial_tally() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO triage_tally (site_id, protocol_id, step, typical, runner_up, credibility)
        SELECT site_id, protocol_id, step, dial_step(typicality), sum(up), sum(own)
        FROM came, LATERAL (VALUES (dial_step(came.runner_up), 1, 0), (dial_step(came.credibility), 0, 1)) AS of(step, up, own)
        WHERE current GROUP BY 1, 2, 3, 4;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO triage_tally (site_id, protocol_id, step, typical, runner_up, credibility)
        SELECT site_id, protocol_id, step, dial_step(typicality), sum(up), sum(own)
        FROM went, LATERAL (VALUES (dial_step(went.runner_up), -1, 0), (dial_step(went.credibility), 0, -1)) AS of(step, up, own)
        WHERE current GROUP BY 1, 2, 3, 4;
    ELSE
        INSERT INTO triage_tally (site_id, protocol_id, step, typical, runner_up, credibility)
        SELECT site_id, protocol_id, step, dial_step(typicality), sum(up), sum(own)
        FROM (
            SELECT site_id, protocol_id, typicality, runner_up, credibility, 1 AS sign FROM came WHERE current
            UNION ALL
            SELECT site_id, protocol_id, typicality, runner_up, credibility, -1 FROM went WHERE current
        ) AS moved, LATERAL (
            VALUES (dial_step(moved.runner_up), moved.sign, 0), (dial_step(moved.credibility), 0, moved.sign)
        ) AS of(step, up, own)
        GROUP BY 1, 2, 3, 4 HAVING sum(up) <> 0 OR sum(own) <> 0;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER dial_tally_came AFTER INSERT ON triage_prediction
    REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION dial_tally();
CREATE TRIGGER dial_tally_moved AFTER UPDATE ON triage_prediction
    REFERENCING OLD TABLE AS went NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION dial_tally();
CREATE TRIGGER dial_tally_went AFTER DELETE ON triage_prediction
    REFERENCING OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION dial_tally();
ALTER TABLE triage_prediction ENABLE ALWAYS TRIGGER dial_tally_came;
ALTER TABLE triage_prediction ENABLE ALWAYS TRIGGER dial_tally_moved;
ALTER TABLE triage_prediction ENABLE ALWAYS TRIGGER dial_tally_went;

INSERT INTO triage_tally (site_id, protocol_id, step, typical, runner_up, credibility, folded)
SELECT site_id, protocol_id, step, dial_step(typicality), sum(up), sum(own), true
FROM triage_prediction AS p, LATERAL (VALUES (dial_step(p.runner_up), 1, 0), (dial_step(p.credibility), 0, 1)) AS of(step, up, own)
WHERE current GROUP BY 1, 2, 3, 4;
"""

BACKWARD = """
DROP TRIGGER dial_tally_came ON triage_prediction;
DROP TRIGGER dial_tally_moved ON triage_prediction;
DROP TRIGGER dial_tally_went ON triage_prediction;
DROP FUNCTION dial_tally();
DROP FUNCTION dial_step(double precision);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("triage", "0008_the_loop"),
    ]

    operations = [
        migrations.CreateModel(
            name="Tally",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("step", models.SmallIntegerField(help_text="of a p-value: how many edges lie below it")),
                (
                    "typical",
                    models.SmallIntegerField(help_text="of the typicality: how many edges lie below it"),
                ),
                (
                    "runner_up",
                    models.BigIntegerField(help_text="predictions whose runner-up lies in the step"),
                ),
                (
                    "credibility",
                    models.BigIntegerField(help_text="predictions whose credibility lies in the step"),
                ),
                ("folded", models.BooleanField(db_default=False)),
                (
                    "protocol",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="triage.protocol",
                    ),
                ),
                (
                    "site",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="triage.site",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(fields=["site", "protocol"], name="tally_of_workplace"),
                    models.Index(
                        condition=models.Q(("folded", False)), fields=["site", "protocol"], name="tally_added"
                    ),
                ],
            },
        ),
        migrations.RemoveIndex(
            model_name="prediction",
            name="prediction_dial",
        ),
        migrations.AddIndex(
            model_name="prediction",
            index=models.Index(
                condition=models.Q(("current", True)),
                fields=["site", "protocol", "credibility"],
                include=("label", "runner_up", "typicality"),
                name="prediction_dial",
            ),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
