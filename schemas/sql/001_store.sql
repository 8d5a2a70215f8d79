-- The store: accepted messages, attempts, ends. Append only. Explained in schemas/sql.md.
-- Applied by the programs at start, in one transaction, with `hie.schema_versions` there already.

CREATE SEQUENCE hie.accepted_seq CACHE 1;
CREATE SEQUENCE hie.lease_token CACHE 1;

-- ---- tables: range partitions by the UUIDv7 itself, one a day ------------------------------------
-- pattern: 0 async_reliable, 1 sync_reliable, 2 concurrent_async, 3 concurrent_sync
-- direction: 0 inbound, 1 outbound, 2 internal
CREATE TABLE hie.accepted (
    seq            bigint      NOT NULL DEFAULT nextval('hie.accepted_seq'),
    received_at    timestamptz NOT NULL,
    due_at         timestamptz,
    correlation_id uuid        NOT NULL,
    parent_id      uuid,
    pattern        smallint    NOT NULL,
    direction      smallint    NOT NULL,
    priority       smallint    NOT NULL,
    item           text        NOT NULL,
    ordering_key   text,
    control_id     text,
    message_type   text,
    sender         text,
    content_type   text,
    meta           bytea,
    body           bytea       NOT NULL,
    PRIMARY KEY (correlation_id)
) PARTITION BY RANGE (correlation_id);
CREATE INDEX accepted_by_seq ON hie.accepted (seq);

-- kind: 0 failed (another attempt follows), 1 taken over (its worker was lost)
CREATE TABLE hie.attempts (
    correlation_id uuid        NOT NULL,
    run            integer     NOT NULL,
    attempt        integer     NOT NULL,
    kind           smallint    NOT NULL,
    started_at     timestamptz,
    at             timestamptz NOT NULL,
    due_at         timestamptz,
    worker         text,
    error          text,
    PRIMARY KEY (correlation_id, run, attempt)
) PARTITION BY RANGE (correlation_id);

-- status: 0 completed, 1 dead_lettered, 2 expired, 3 cancelled
CREATE TABLE hie.ended (
    started_at         timestamptz,
    at                 timestamptz NOT NULL,
    correlation_id     uuid        NOT NULL,
    run                integer     NOT NULL,
    attempt            integer     NOT NULL,
    status             smallint    NOT NULL,
    pattern            smallint    NOT NULL,
    item               text        NOT NULL,
    worker             text,
    error              text,
    reply_content_type text,
    reply              bytea,
    PRIMARY KEY (correlation_id, run)
) PARTITION BY RANGE (correlation_id);
CREATE INDEX ended_dead ON hie.ended (item, at) WHERE status = 1;

-- lz4 halves what a large body costs the log and the disk for little CPU; a server built without it keeps its own way.
DO $$
BEGIN
    ALTER TABLE hie.accepted ALTER COLUMN body SET COMPRESSION lz4;
    ALTER TABLE hie.ended ALTER COLUMN reply SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END $$;

CREATE TABLE hie.accepted_default PARTITION OF hie.accepted DEFAULT;
CREATE TABLE hie.attempts_default PARTITION OF hie.attempts DEFAULT;
CREATE TABLE hie.ended_default PARTITION OF hie.ended DEFAULT;

-- The lowest id of a moment, so that a time bounds a look-up: correlation_id >= hie.id_floor(now() - interval '1 hour')
CREATE FUNCTION hie.id_floor(moment timestamptz) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Creates the partitions of these days that are missing; how many. It attaches finished tables, which does not keep
-- writers out, and waits for readers of the (empty) default partition half a second at most, since others queue behind
-- that lock. What the default partition caught for such a day moves over.
CREATE FUNCTION hie.make_partitions(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    made integer := 0;
    parent text;
    name text;
    low uuid;
    high uuid;
    day date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('hie.make_partitions', 0));
    FOREACH parent IN ARRAY ARRAY['accepted', 'attempts', 'ended'] LOOP
        day := first_day;
        WHILE day <= last_day LOOP
            name := parent || '_' || to_char(day, 'YYYYMMDD');
            IF to_regclass('hie.' || name) IS NULL THEN
                low := hie.id_floor(day::timestamp AT TIME ZONE 'UTC');
                high := hie.id_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
                EXECUTE format('CREATE TABLE hie.%I (LIKE hie.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS'
                    ' INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION)', name, parent);
                -- Rows are only added: vacuum and analyze when a table has doubled, not at every fifth and tenth. Each makes every
                -- connection plan anew.
                EXECUTE format('ALTER TABLE hie.%I SET (autovacuum_vacuum_insert_scale_factor = 1,'
                    ' autovacuum_analyze_scale_factor = 1)', name);
                -- Bodies have no statistics worth their sampling.
                IF parent = 'accepted' THEN
                    EXECUTE format('ALTER TABLE hie.%I ALTER COLUMN body SET STATISTICS 0,'
                        ' ALTER COLUMN meta SET STATISTICS 0', name);
                ELSIF parent = 'ended' THEN
                    EXECUTE format('ALTER TABLE hie.%I ALTER COLUMN reply SET STATISTICS 0', name);
                END IF;
                EXECUTE format('LOCK TABLE hie.%I IN ACCESS EXCLUSIVE MODE', parent || '_default');
                EXECUTE format('WITH moved AS (DELETE FROM hie.%I WHERE correlation_id >= %L AND correlation_id < %L'
                    ' RETURNING *) INSERT INTO hie.%I SELECT * FROM moved', parent || '_default', low, high, name);
                EXECUTE format('ALTER TABLE hie.%I ATTACH PARTITION hie.%I FOR VALUES FROM (%L) TO (%L)',
                    parent, name, low, high);
                made := made + 1;
            END IF;
            day := day + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

SELECT hie.make_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 7);

-- ---- leases and the low mark ---------------------------------------------------------------------
CREATE TABLE hie.leases (
    name       text        PRIMARY KEY,
    holder     text        NOT NULL,
    token      bigint      NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Every accepted row with seq <= low has its end or stands in hie.stragglers. `safe`: no transaction is open that
-- drew a seq up to here. (candidate_seq, candidate_xid): the next `safe`, once every transaction before that xid is over.
CREATE TABLE hie.marks (
    name          text   PRIMARY KEY,
    low           bigint NOT NULL DEFAULT 0,
    safe          bigint NOT NULL DEFAULT 0,
    candidate_seq bigint,
    candidate_xid xid8,
    swept         bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO hie.marks (name) VALUES ('low');

CREATE TABLE hie.stragglers (
    seq            bigint PRIMARY KEY,
    correlation_id uuid   NOT NULL
);

-- Everything up to the answer has its end, for ever.
CREATE FUNCTION hie.low_mark() RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT least(m.low, (SELECT min(s.seq) - 1 FROM hie.stragglers s)) FROM hie.marks m WHERE m.name = 'low'
$$;

-- Takes out stragglers that have ended by now: a thousand a call, round and round.
CREATE FUNCTION hie.sweep_stragglers(swept bigint) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    last bigint;
    ended bigint[];
    seen integer;
BEGIN
    SELECT max(p.seq), count(*),
           array_agg(p.seq) FILTER (WHERE (SELECT true FROM hie.ended e
                                           WHERE e.correlation_id = p.correlation_id AND e.run = 1))
      INTO last, seen, ended
      FROM (SELECT s.seq, s.correlation_id FROM hie.stragglers s WHERE s.seq > swept ORDER BY s.seq LIMIT 1000) p;
    DELETE FROM hie.stragglers s WHERE s.seq = ANY (ended);
    RETURN CASE WHEN seen < 1000 THEN 0 ELSE last END;
END $$;

-- Those of these rows that have no end. The lowest and the highest id are found first: as parameters of the second statement
-- they leave one or two partitions over before it starts, however many there are.
CREATE FUNCTION hie.open_rows(seqs bigint[], ids uuid[]) RETURNS TABLE (seq bigint, correlation_id uuid)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    lo uuid := (SELECT i FROM unnest(ids) i ORDER BY i LIMIT 1);
    hi uuid := (SELECT i FROM unnest(ids) i ORDER BY i DESC LIMIT 1);
BEGIN
    RETURN QUERY
    SELECT u.s, u.i FROM (SELECT unnest(seqs) AS s, unnest(ids) AS i) u
     WHERE (SELECT true FROM hie.ended e
             WHERE e.correlation_id = u.i AND e.run = 1 AND e.correlation_id BETWEEN lo AND hi) IS NULL;
END $$;

-- Looks at the `look` rows that follow after_seq and answers those without an end, in order of seq, behind a first line of NULL. Each
-- line tells how many rows were looked at and the last one's seq. Below the mark only stragglers are looked at.
CREATE FUNCTION hie.open_page(after_seq bigint, look integer)
RETURNS TABLE (seq bigint, correlation_id uuid, looked_at integer, last_seq bigint)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    low bigint := (SELECT m.low FROM hie.marks m WHERE m.name = 'low');
    start bigint := greatest(after_seq, low);
    seqs bigint[];
    ids uuid[];
    seen integer;
BEGIN
    SELECT array_agg(p.seq ORDER BY p.seq), array_agg(p.correlation_id ORDER BY p.seq) INTO seqs, ids
      FROM (SELECT x.seq, x.correlation_id
              FROM ((SELECT s.seq, s.correlation_id FROM hie.stragglers s
                      WHERE s.seq > after_seq AND s.seq <= low ORDER BY s.seq LIMIT look)
                    UNION ALL
                    (SELECT a.seq, a.correlation_id FROM hie.accepted a
                      WHERE a.seq > start ORDER BY a.seq LIMIT look)) x
             ORDER BY x.seq LIMIT look) p;
    seen := coalesce(cardinality(seqs), 0);
    RETURN QUERY SELECT NULL::bigint, NULL::uuid, seen, seqs[seen];
    RETURN QUERY SELECT r.seq, r.correlation_id, seen, seqs[seen] FROM hie.open_rows(seqs, ids) r;
END $$;

-- Moves the mark up to `wanted` at most, over at most 20,000 rows a call, and answers hie.low_mark(). Only the holder
-- of a live lease moves it. It looks at the rows itself, in a snapshot in which no transaction with a lower seq is open, so a caller
-- cannot raise it too far. A few unfinished rows among many finished ones do not hold it: they become stragglers.
CREATE FUNCTION hie.raise_low_mark(lease_token bigint, wanted bigint) RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    chunk CONSTANT integer := 10000;
    drawn bigint;
    m hie.marks;
    upto bigint;
    seen integer;
    top bigint;
    seqs bigint[];
    ids uuid[];
    open_seqs bigint[];
    open_ids uuid[];
BEGIN
    -- The order of these matters: a writer has its xid before it draws a seq, so whoever drew up to `drawn` has a lower xid
    -- than this transaction gets after this line.
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'hie.raise_low_mark must be a transaction of its own';
    END IF;
    SELECT CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END INTO drawn FROM hie.accepted_seq q;
    IF NOT EXISTS (SELECT FROM hie.leases l WHERE l.token = lease_token AND l.expires_at > clock_timestamp()) THEN
        RETURN hie.low_mark();
    END IF;
    SELECT * INTO m FROM hie.marks k WHERE k.name = 'low' FOR UPDATE;

    IF pg_snapshot_xmin(pg_current_snapshot()) >= m.candidate_xid THEN
        m.safe := greatest(m.safe, m.candidate_seq);
        m.candidate_xid := NULL;
    ELSIF m.candidate_xid > pg_current_xact_id() THEN
        m.candidate_xid := NULL; -- it came with a dump of another server
    END IF;
    IF m.candidate_xid IS NULL THEN
        m.candidate_xid := pg_current_xact_id();
        m.candidate_seq := drawn;
    END IF;

    upto := least(wanted, m.safe);
    FOR round IN 1..2 LOOP
        EXIT WHEN m.low >= upto;
        SELECT count(*), max(p.seq), array_agg(p.seq), array_agg(p.correlation_id) INTO seen, top, seqs, ids
          FROM (SELECT a.seq, a.correlation_id FROM hie.accepted a
                 WHERE a.seq > m.low AND a.seq <= upto ORDER BY a.seq LIMIT chunk) p;
        SELECT array_agg(r.seq ORDER BY r.seq), array_agg(r.correlation_id ORDER BY r.seq)
          INTO open_seqs, open_ids FROM hie.open_rows(seqs, ids) r;
        IF seen < chunk THEN
            top := upto;
        END IF;
        IF open_seqs IS NULL THEN
            m.low := top;
        ELSIF seen = chunk AND cardinality(open_seqs) * 20 <= seen THEN
            INSERT INTO hie.stragglers SELECT * FROM unnest(open_seqs, open_ids) ON CONFLICT DO NOTHING;
            m.low := top;
        ELSE
            m.low := open_seqs[1] - 1;
            EXIT;
        END IF;
    END LOOP;

    m.swept := hie.sweep_stragglers(m.swept);
    UPDATE hie.marks k SET low = m.low, safe = m.safe, candidate_seq = m.candidate_seq,
           candidate_xid = m.candidate_xid, swept = m.swept WHERE k.name = 'low';
    RETURN hie.low_mark();
END $$;

-- ---- claims that take over ------------------------------------------------------------------------
-- What a worker asks before it runs messages of which some were in another's hand. The lock waits for settles that are under
-- way and keeps others out until this is committed: either the lost worker's settle is seen here as the end, or it is
-- refused for the attempt written here. Two who take over the same message get different numbers.
CREATE FUNCTION hie.claim(ids uuid[], taken boolean[], lo uuid, hi uuid, by_worker text)
RETURNS TABLE (known boolean, ended boolean, run integer, attempt integer)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
BEGIN
    LOCK TABLE ONLY hie.ended IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO hie.attempts (correlation_id, run, attempt, kind, at, worker)
    SELECT u.id, 1,
           coalesce((SELECT t.attempt FROM hie.attempts t
                      WHERE t.correlation_id = u.id AND t.run = 1 AND t.correlation_id BETWEEN lo AND hi
                      ORDER BY t.attempt DESC LIMIT 1), 0) + 1,
           1, clock_timestamp(), by_worker
      FROM (SELECT unnest(ids) AS id, unnest(taken) AS taken) u
     WHERE u.taken
       AND (SELECT true FROM hie.accepted a
             WHERE a.correlation_id = u.id AND a.correlation_id BETWEEN lo AND hi)
       AND (SELECT true FROM hie.ended e
             WHERE e.correlation_id = u.id AND e.run = 1 AND e.correlation_id BETWEEN lo AND hi) IS NULL
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT (SELECT true FROM hie.accepted a
             WHERE a.correlation_id = u.id AND a.correlation_id BETWEEN lo AND hi) IS NOT NULL,
           (SELECT true FROM hie.ended e
             WHERE e.correlation_id = u.id AND e.run = 1 AND e.correlation_id BETWEEN lo AND hi) IS NOT NULL,
           1,
           coalesce((SELECT t.attempt FROM hie.attempts t
                      WHERE t.correlation_id = u.id AND t.run = 1 AND t.correlation_id BETWEEN lo AND hi
                      ORDER BY t.attempt DESC LIMIT 1), 0) + 1
      FROM (SELECT unnest(ids) AS id) u;
END $$;
