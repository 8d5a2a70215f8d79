-- Keys whose repeats are no second message, for a day at most. Explained in schemas/sql.md.

-- correlation_id: the first message with this key; fingerprint: of its body. A partition for each day (UTC), dropped two days
-- later.
CREATE TABLE hie.dedup_keys (
    expires_at     timestamptz NOT NULL,
    day            date        NOT NULL,
    key            uuid        NOT NULL,
    fingerprint    uuid        NOT NULL,
    correlation_id uuid        NOT NULL,
    PRIMARY KEY (key, day)
) PARTITION BY RANGE (day);
CREATE TABLE hie.dedup_keys_default PARTITION OF hie.dedup_keys DEFAULT;

-- A key is decided on today's row. In the first hour of a day yesterday's row comes before it: a transaction that began before
-- midnight and is not over is met there.
CREATE FUNCTION hie.dedup_day() RETURNS date LANGUAGE sql STABLE AS $$
    SELECT (now() AT TIME ZONE 'UTC')::date
$$;
CREATE FUNCTION hie.dedup_first_day() RETURNS date LANGUAGE sql STABLE AS $$
    SELECT ((now() - interval '1 hour') AT TIME ZONE 'UTC')::date
$$;

-- As hie.make_partitions. All of these give up soon: whoever writes queues behind a lock that they wait for.
ALTER FUNCTION hie.make_partitions(date, date) SET lock_timeout = '50ms';
CREATE FUNCTION hie.make_dedup_partitions(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '50ms' AS $$
DECLARE
    made integer := 0;
    name text;
    day date := first_day;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('hie.make_partitions', 0));
    WHILE day <= last_day LOOP
        name := 'dedup_keys_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('hie.' || name) IS NULL THEN
            EXECUTE format('CREATE TABLE hie.%I (LIKE hie.dedup_keys INCLUDING CONSTRAINTS INCLUDING INDEXES)'
                ' WITH (autovacuum_vacuum_insert_scale_factor = 1, autovacuum_analyze_scale_factor = 1)', name);
            LOCK TABLE hie.dedup_keys_default IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('WITH moved AS (DELETE FROM hie.dedup_keys_default d WHERE d.day = %L RETURNING *)'
                ' INSERT INTO hie.%I SELECT * FROM moved', day, name);
            EXECUTE format('ALTER TABLE hie.dedup_keys ATTACH PARTITION hie.%I FOR VALUES FROM (%L) TO (%L)',
                name, day, day + 1);
            made := made + 1;
        END IF;
        day := day + 1;
    END LOOP;
    RETURN made;
END $$;

-- Drops the days before this one.
CREATE FUNCTION hie.drop_dedup_partitions(first_day date) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '50ms' AS $$
DECLARE
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('hie.make_partitions', 0));
    DELETE FROM hie.dedup_keys_default d WHERE d.day < first_day;
    FOR name IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = 'hie.dedup_keys'::regclass AND c.relname ~ '^dedup_keys_[0-9]{8}$'
                   AND c.relname < 'dedup_keys_' || to_char(first_day, 'YYYYMMDD') ORDER BY 1 LOOP
        EXECUTE format('DROP TABLE hie.%I', name);
    END LOOP;
END $$;

SELECT hie.make_dedup_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 7);
