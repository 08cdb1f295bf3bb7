"""The audit trail and the policies are append-only, by the database itself; the trail is hash-chained per site."""

from django.db import migrations

FORWARD = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON triage_auditevent
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON triage_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON triage_policy
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON triage_policy
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION audit_digest(event triage_auditevent) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(event.previous || convert_to(jsonb_build_array(
        event.id, event.site_id, event.actor_id, event.verb, event.object_type, event.object_id, event.details,
        extract(epoch FROM event.at))::text, 'UTF8'))
$$;

-- The lock lasts until commit, so ids of a site's events stand in the order of its chain.
CREATE FUNCTION audit_link() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('triage_auditevent'), coalesce(NEW.site_id, 0)::int);
    NEW.id := nextval(pg_get_serial_sequence('triage_auditevent', 'id'));
    NEW.at := clock_timestamp();
    NEW.previous := coalesce(
        (SELECT digest FROM triage_auditevent WHERE site_id IS NOT DISTINCT FROM NEW.site_id ORDER BY id DESC LIMIT 1),
        ''::bytea);
    NEW.digest := audit_digest(NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER audit_link BEFORE INSERT ON triage_auditevent FOR EACH ROW EXECUTE FUNCTION audit_link();
"""

BACKWARD = """
DROP TRIGGER audit_link ON triage_auditevent;
DROP TRIGGER append_only ON triage_auditevent;
DROP TRIGGER append_only_truncate ON triage_auditevent;
DROP TRIGGER append_only ON triage_policy;
DROP TRIGGER append_only_truncate ON triage_policy;
DROP FUNCTION audit_link();
DROP FUNCTION audit_digest(triage_auditevent);
DROP FUNCTION refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("triage", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
