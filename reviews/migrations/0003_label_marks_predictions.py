"""A standing label marks the predictions over its notes, so that the queue's index holds only what may wait.

Whoever writes a label, or a prediction over notes that have one, finds the mark kept. A prediction written while its
label falls is the one case two transactions could disagree on: both lock the case first.
"""

from django.db import migrations

FORWARD = """
CREATE FUNCTION label_marks_predictions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE triage_prediction SET labelled = NEW.withdrawn_at IS NULL
    WHERE case_id = NEW.case_id AND notes_sha256 = NEW.notes_sha256;
    RETURN NULL;
END $$;
CREATE TRIGGER marks_predictions AFTER INSERT OR UPDATE OF withdrawn_at ON reviews_label
    FOR EACH ROW EXECUTE FUNCTION label_marks_predictions();

CREATE FUNCTION prediction_finds_label() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.labelled := EXISTS (
        SELECT FROM reviews_label
        WHERE case_id = NEW.case_id AND notes_sha256 = NEW.notes_sha256 AND withdrawn_at IS NULL);
    RETURN NEW;
END $$;
CREATE TRIGGER finds_label BEFORE INSERT ON triage_prediction
    FOR EACH ROW EXECUTE FUNCTION prediction_finds_label();

UPDATE triage_prediction AS p SET labelled = true FROM reviews_label AS l
WHERE l.case_id = p.case_id AND l.notes_sha256 = p.notes_sha256 AND l.withdrawn_at IS NULL;
"""

BACKWARD = """
DROP TRIGGER finds_label ON triage_prediction;
DROP TRIGGER marks_predictions ON reviews_label;
DROP FUNCTION prediction_finds_label();
DROP FUNCTION label_marks_predictions();
"""


class Migration(migrations.Migration):
    dependencies = [("reviews", "0002_review_notes"), ("triage", "0004_prediction_labelled")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
