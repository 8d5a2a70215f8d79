-- The fleet's production, and who runs by which version of it. Explained in schemas/sql.md.

CREATE TABLE hie.productions (
    version bigint      PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    by      text        NOT NULL,
    hash    bytea       NOT NULL,
    text    bytea       NOT NULL
);

-- Two calls at once get two versions in a row. Answers the current one.
CREATE FUNCTION hie.publish(new_text bytea, new_hash bytea, publisher text, only_first boolean)
RETURNS TABLE (version bigint, text bytea, hash bytea, at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    current hie.productions;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('hie.publish', 0));
    SELECT * INTO current FROM hie.productions p ORDER BY p.version DESC LIMIT 1;
    IF current.version IS NULL OR (NOT only_first AND current.hash <> new_hash) THEN
        INSERT INTO hie.productions (version, by, hash, text)
        VALUES (coalesce(current.version, 0) + 1, publisher, new_hash, new_text) RETURNING * INTO current;
    END IF;
    RETURN QUERY SELECT current.version, current.text, current.hash, current.at;
END $$;

-- Live processes and the version of the production that each has applied.
CREATE TABLE hie.members (
    id         text        PRIMARY KEY,
    kind       text        NOT NULL,
    version    bigint      NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Takes out processes that have been gone for a day.
CREATE FUNCTION hie.forget_gone() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM hie.members m WHERE m.expires_at < now() - interval '1 day';
    PERFORM hie.disown(w.worker, NULL, NULL, NULL) FROM hie.partition_workers w
      WHERE w.expires_at < now() - interval '1 day';
END $$;
