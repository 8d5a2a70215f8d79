-- Runs: what 001 did for one run of each message, for the current one. Explained in schemas/sql.md.

DROP FUNCTION hie.open_rows(bigint[], uuid[]), hie.open_page(bigint, integer), hie.claim(uuid[], boolean[], uuid, uuid, text);

-- Takes out stragglers that have ended by now: ten thousand a call, round and round, and more where most have ended. One that is
-- being redriven is passed over; one that was redriven meanwhile has another run.
CREATE OR REPLACE FUNCTION hie.sweep_stragglers(swept bigint) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    chunk CONSTANT integer := 10000;
    last bigint := swept;
    seen integer;
    over_seqs bigint[];
    over_runs integer[];
BEGIN
    FOR round IN 1..4 LOOP
        SELECT max(p.seq), count(*), array_agg(p.seq ORDER BY p.seq) FILTER (WHERE p.ended),
               array_agg(p.run ORDER BY p.seq) FILTER (WHERE p.ended)
          INTO last, seen, over_seqs, over_runs
          FROM (SELECT s.seq, s.run, (SELECT true FROM hie.ended e
                                       WHERE e.correlation_id = s.correlation_id AND e.run = s.run) AS ended
                  FROM hie.stragglers s WHERE s.seq > last ORDER BY s.seq LIMIT chunk) p;
        DELETE FROM hie.stragglers s
         USING (SELECT k.seq FROM unnest(over_seqs, over_runs) o(seq, run)
                  JOIN hie.stragglers k ON k.seq = o.seq AND k.run = o.run FOR UPDATE OF k SKIP LOCKED) l
         WHERE s.seq = l.seq;
        IF seen < chunk THEN
            RETURN 0;
        END IF;
        EXIT WHEN coalesce(cardinality(over_seqs), 0) * 2 < seen;
    END LOOP;
    RETURN last;
END $$;

-- Those of these rows whose run (NULL: the first) has no end. The lowest and the highest id are found first: as parameters of the
-- second statement they leave one or two partitions over before it starts, however many there are.
CREATE FUNCTION hie.open_rows(seqs bigint[], ids uuid[], runs integer[])
RETURNS TABLE (seq bigint, correlation_id uuid, run integer)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    lo uuid := (SELECT i FROM unnest(ids) i ORDER BY i LIMIT 1);
    hi uuid := (SELECT i FROM unnest(ids) i ORDER BY i DESC LIMIT 1);
BEGIN
    RETURN QUERY
    SELECT u.s, u.i, coalesce(u.r, 1) FROM (SELECT unnest(seqs) AS s, unnest(ids) AS i, unnest(runs) AS r) u
     WHERE (SELECT true FROM hie.ended e
             WHERE e.correlation_id = u.i AND e.run = coalesce(u.r, 1) AND e.correlation_id BETWEEN lo AND hi) IS NULL;
END $$;

-- Looks at the `look` rows that follow after_seq and answers the unfinished ones, in order of seq, behind a first line of NULL. Each
-- line tells how many rows were looked at and the last one's seq. Below the mark only stragglers are looked at. A redriven row above
-- it is looked at as a straggler first, then as one that has ended.
CREATE FUNCTION hie.open_page(after_seq bigint, look integer)
RETURNS TABLE (seq bigint, correlation_id uuid, run integer, looked_at integer, last_seq bigint)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    low bigint := (SELECT m.low FROM hie.marks m WHERE m.name = 'low');
    start bigint := greatest(after_seq, low);
    seqs bigint[];
    ids uuid[];
    runs integer[];
    seen integer;
BEGIN
    SELECT array_agg(p.seq), array_agg(p.correlation_id), array_agg(p.run) INTO seqs, ids, runs
      FROM (SELECT x.seq, x.correlation_id, x.run
              FROM ((SELECT s.seq, s.correlation_id, s.run FROM hie.stragglers s
                      WHERE s.seq > after_seq ORDER BY s.seq LIMIT look)
                    UNION ALL
                    (SELECT a.seq, a.correlation_id, 1 FROM hie.accepted a
                      WHERE a.seq > start ORDER BY a.seq LIMIT look)) x
             ORDER BY x.seq, x.run DESC LIMIT look) p;
    seen := coalesce(cardinality(seqs), 0);
    RETURN QUERY SELECT NULL::bigint, NULL::uuid, NULL::integer, seen, seqs[seen];
    RETURN QUERY SELECT r.seq, r.correlation_id, r.run, seen, seqs[seen] FROM hie.open_rows(seqs, ids, runs) r;
END $$;

-- Moves the mark up to `wanted` at most, over at most 20,000 rows a call, and answers hie.low_mark(). Only the holder
-- of a live lease moves it. It looks at the rows itself, in a snapshot in which no transaction with a lower seq is open, so a caller
-- cannot raise it too far. Unfinished rows hold it only while they are more than a twentieth of the rows that it is behind: then they
-- become stragglers, as redriven ones are. So a backlog that is worked off in its order makes none, and whatever waits, there are not
-- many finished rows above the mark, which owners of partitions pass over.
CREATE OR REPLACE FUNCTION hie.raise_low_mark(lease_token bigint, wanted bigint) RETURNS bigint
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
          INTO open_seqs, open_ids FROM hie.open_rows(seqs, ids, NULL) r;
        IF seen < chunk THEN
            top := upto;
        END IF;
        IF open_seqs IS NULL THEN
            m.low := top;
        ELSIF seen = chunk AND cardinality(open_seqs) * 20 <= m.safe - m.low THEN
            INSERT INTO hie.stragglers (seq, correlation_id, run, pattern, partition, item)
            SELECT o.seq, o.id, 1, a.pattern, a.partition, a.item
              FROM unnest(open_seqs, open_ids) o(seq, id),
                   LATERAL (SELECT x.pattern, x.partition, x.item FROM hie.accepted x
                             WHERE x.correlation_id = o.id LIMIT 1) a
            ON CONFLICT DO NOTHING;
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

-- What a worker asks before it runs messages of which some were in another's hand. The lock waits for settles that are under
-- way and keeps others out until this is committed: either the lost worker's settle is seen here as the end, or it is
-- refused for the attempt written here. Two who take over the same message get different numbers. A message that the store
-- does not have (yet) is counted too.
CREATE FUNCTION hie.claim(ids uuid[], taken boolean[], lo uuid, hi uuid, by_worker text, tokens bigint[])
RETURNS TABLE (seq bigint, ended boolean, run integer, attempt integer)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    runs integer[];
    held bigint[];
BEGIN
    LOCK TABLE ONLY hie.ended IN SHARE ROW EXCLUSIVE MODE;
    PERFORM FROM hie.partition_leases p WHERE p.token = ANY (tokens)
     ORDER BY p.item, p.pattern, p.partition FOR KEY SHARE;
    held := ARRAY(SELECT p.token FROM hie.partition_leases p WHERE p.token = ANY (tokens));
    runs := ARRAY(SELECT coalesce((SELECT d.run FROM hie.dead_letter_actions d
                                    WHERE d.correlation_id = u.id AND d.action = 0
                                    ORDER BY d.run DESC LIMIT 1), 0) + 1
                    FROM unnest(ids) WITH ORDINALITY u(id, n) ORDER BY u.n);
    INSERT INTO hie.attempts (correlation_id, run, attempt, kind, at, worker)
    SELECT u.id, u.run,
           coalesce((SELECT t.attempt FROM hie.attempts t
                      WHERE t.correlation_id = u.id AND t.run = u.run AND t.correlation_id BETWEEN lo AND hi
                      ORDER BY t.attempt DESC LIMIT 1), 0) + 1,
           1, clock_timestamp(), by_worker
      FROM (SELECT unnest(ids) AS id, unnest(taken) AS taken, unnest(runs) AS run, unnest(tokens) AS token) u
     WHERE u.taken AND (u.token = 0 OR u.token = ANY (held))
       AND (SELECT true FROM hie.ended e
             WHERE e.correlation_id = u.id AND e.run = u.run AND e.correlation_id BETWEEN lo AND hi) IS NULL
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT (SELECT a.seq FROM hie.accepted a
             WHERE a.correlation_id = u.id AND a.correlation_id BETWEEN lo AND hi),
           (SELECT true FROM hie.ended e
             WHERE e.correlation_id = u.id AND e.run = u.run AND e.correlation_id BETWEEN lo AND hi) IS NOT NULL,
           u.run,
           coalesce((SELECT t.attempt FROM hie.attempts t
                      WHERE t.correlation_id = u.id AND t.run = u.run AND t.correlation_id BETWEEN lo AND hi
                      ORDER BY t.attempt DESC LIMIT 1), 0) + 1
      FROM (SELECT unnest(ids) AS id, unnest(runs) AS run) u;
END $$;
