-- Who owns which partition of a fifo item. Explained in schemas/sql.md.

-- What comes before: asked by partition.
CREATE INDEX stragglers_by_partition ON hie.stragglers (item, pattern, partition, seq) WHERE partition IS NOT NULL;
CREATE INDEX accepted_by_partition ON hie.accepted (item, pattern, partition, seq) WHERE partition IS NOT NULL;

-- Live workers. A worker's leases live as long as its row here: one write a second renews them all.
CREATE TABLE hie.partition_workers (
    worker     text        PRIMARY KEY,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Which partitions a worker would share.
CREATE TABLE hie.partition_shares (
    item    text     NOT NULL,
    pattern smallint NOT NULL,
    worker  text     NOT NULL,
    PRIMARY KEY (item, pattern, worker)
);
CREATE INDEX partition_shares_by_worker ON hie.partition_shares (worker);

-- The token is a key: changing it excludes a settle's FOR KEY SHARE, which nothing else does.
CREATE TABLE hie.partition_leases (
    item      text     NOT NULL,
    pattern   smallint NOT NULL,
    partition smallint NOT NULL,
    holder    text     NOT NULL,
    token     bigint   NOT NULL UNIQUE,
    PRIMARY KEY (item, pattern, partition)
);
CREATE INDEX partition_leases_by_holder ON hie.partition_leases (holder);

-- The balance of each named item: what `me` may take now, and give up so that others have theirs. Everybody ends with the lowest
-- or the highest even share: partitions / workers rounded down or up (one more: `odd`). What is above the highest is given; the one
-- above the lowest is taken only from what is left when all have the lowest, and given, by the first workers in order of name, only
-- when somebody lacks his lowest. So nothing goes to and fro.
CREATE FUNCTION hie.balance_partitions(me text, items text[], patterns smallint[], counts integer[], moment timestamptz)
RETURNS TABLE (item text, pattern smallint, parts integer, take bigint, give bigint)
LANGUAGE plpgsql STABLE
SET enable_nestloop = off SET enable_hashjoin = on SET enable_seqscan = on
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH named AS (
        SELECT unnest(items) AS item, unnest(patterns) AS pattern, unnest(counts) AS parts
    ), have AS (
        SELECT l.item, l.pattern, l.holder, count(*) AS have
          FROM named n JOIN hie.partition_leases l ON l.item = n.item AND l.pattern = n.pattern
         WHERE l.partition < n.parts GROUP BY l.item, l.pattern, l.holder
    ), member AS (
        SELECT n.item, n.pattern, n.parts, s.worker, coalesce(h.have, 0) AS have,
               n.parts / count(*) OVER same AS lowest,
               (n.parts % count(*) OVER same > 0)::integer AS odd
          FROM named n
          JOIN hie.partition_shares s ON s.item = n.item AND s.pattern = n.pattern
          JOIN hie.partition_workers w ON w.worker = s.worker AND w.expires_at > moment
          LEFT JOIN have h ON h.item = s.item AND h.pattern = s.pattern AND h.holder = s.worker
        WINDOW same AS (PARTITION BY n.item, n.pattern)
    ), ranked AS (
        SELECT m.*, count(*) FILTER (WHERE m.odd = 1 AND m.have > m.lowest) OVER (
                        PARTITION BY m.item, m.pattern ORDER BY m.worker) AS rank
          FROM member m
    ), sums AS (
        SELECT r.item, r.pattern, r.parts, max(r.odd) AS odd, max(r.lowest) AS lowest,
               max(r.have) FILTER (WHERE r.worker = me) AS mine,
               max(r.rank) FILTER (WHERE r.worker = me) AS rank,
               r.parts - sum(r.have) AS free,
               sum(greatest(r.lowest - r.have, 0)) AS lacking,
               sum(greatest(r.lowest - r.have, 0)) FILTER (WHERE r.worker <> me) AS lacking_others,
               sum(greatest(r.have - r.lowest - r.odd, 0)) AS excess
          FROM ranked r GROUP BY r.item, r.pattern, r.parts
    )
    SELECT s.item, s.pattern, s.parts,
           least(s.free, greatest(s.lowest - s.mine, 0)
                 + CASE WHEN s.odd = 1 AND s.mine <= s.lowest
                         AND s.free > s.lacking_others + greatest(s.lowest - s.mine, 0) THEN 1 ELSE 0 END)::bigint,
           (greatest(s.mine - s.lowest - s.odd, 0)
            + CASE WHEN s.odd = 1 AND s.mine > s.lowest AND s.rank <= s.lacking - s.free - s.excess THEN 1 ELSE 0 END)::bigint
      FROM sums s WHERE s.mine IS NOT NULL;
END $$;

-- One call a second from each worker: it lives, has these leases, and these of them are wanted by others: all of an item that it
-- leaves, of which it takes none. Calls go one after the other, so that none sees half of another; none waits for a settle: a lease
-- that a settle holds is passed over.
CREATE FUNCTION hie.own(me text, items text[], patterns smallint[], counts integer[], leaves boolean[], ttl_ms bigint)
RETURNS TABLE (item text, pattern smallint, partition smallint, token bigint, wanted boolean)
LANGUAGE plpgsql
SET enable_nestloop = off SET enable_hashjoin = on SET enable_seqscan = on
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz;
    b record;
    live text[];
    taken smallint[];
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('hie.own', 0));
    moment := clock_timestamp();
    INSERT INTO hie.partition_workers (worker, expires_at)
    VALUES (me, moment + ttl_ms * interval '1 millisecond')
    ON CONFLICT (worker) DO UPDATE SET expires_at = excluded.expires_at;
    DELETE FROM hie.partition_shares s
     WHERE s.worker = me AND NOT EXISTS (SELECT FROM unnest(items, patterns, leaves) n(item, pattern, leaves)
                                          WHERE n.item = s.item AND n.pattern = s.pattern AND NOT n.leaves);
    INSERT INTO hie.partition_shares (item, pattern, worker)
    SELECT n.item, n.pattern, me FROM unnest(items, patterns, leaves) n(item, pattern, leaves)
     WHERE NOT n.leaves AND NOT EXISTS (SELECT FROM hie.partition_shares s
                        WHERE s.worker = me AND s.item = n.item AND s.pattern = n.pattern)
    ON CONFLICT DO NOTHING;

    DELETE FROM hie.partition_leases l
     USING (SELECT x.token FROM hie.partition_leases x
             WHERE x.holder = me AND NOT EXISTS (SELECT FROM unnest(items, patterns, counts) n(item, pattern, parts)
                                                  WHERE n.item = x.item AND n.pattern = x.pattern
                                                    AND x.partition < n.parts)
               FOR UPDATE SKIP LOCKED) u
     WHERE l.token = u.token;

    live := ARRAY(SELECT w.worker FROM hie.partition_workers w WHERE w.expires_at > moment);
    FOR b IN SELECT * FROM hie.balance_partitions(me, items, patterns, counts, moment) p WHERE p.take > 0 LOOP
        taken := ARRAY(SELECT l.partition FROM hie.partition_leases l
                        WHERE l.item = b.item AND l.pattern = b.pattern AND l.partition < b.parts
                          AND l.holder <> ALL (live)
                        ORDER BY l.partition LIMIT b.take FOR UPDATE SKIP LOCKED);
        UPDATE hie.partition_leases l SET holder = me, token = nextval('hie.lease_token')
         WHERE l.item = b.item AND l.pattern = b.pattern AND l.partition = ANY (taken);
        INSERT INTO hie.partition_leases (item, pattern, partition, holder, token)
        SELECT b.item, b.pattern, g, me, nextval('hie.lease_token')
          FROM (SELECT g FROM generate_series(0, b.parts - 1) g
                 WHERE NOT EXISTS (SELECT FROM hie.partition_leases l
                                    WHERE l.item = b.item AND l.pattern = b.pattern AND l.partition = g)
                 ORDER BY g LIMIT b.take - cardinality(taken)) missing
        ON CONFLICT DO NOTHING;
    END LOOP;

    RETURN QUERY
    SELECT l.item, l.pattern, l.partition, l.token, n.leaves OR l.place <= coalesce(p.give, 0)
      FROM (SELECT x.*, row_number() OVER (PARTITION BY x.item, x.pattern ORDER BY x.partition DESC) AS place
              FROM hie.partition_leases x WHERE x.holder = me) l
      JOIN unnest(items, patterns, counts, leaves) n(item, pattern, parts, leaves)
        ON n.item = l.item AND n.pattern = l.pattern AND l.partition < n.parts
      LEFT JOIN hie.balance_partitions(me, items, patterns, counts, moment) p ON p.item = l.item AND p.pattern = l.pattern
     WHERE n.leaves OR p.item IS NOT NULL
     ORDER BY l.item, l.pattern, l.partition;
END $$;

-- Gives up these leases, or (items NULL) all and the membership. Waits for settles that hold them.
CREATE FUNCTION hie.disown(me text, items text[], patterns smallint[], partitions smallint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM hie.partition_leases l
     USING (SELECT x.token FROM hie.partition_leases x
             WHERE x.holder = me
               AND (items IS NULL OR EXISTS (SELECT FROM unnest(items, patterns, partitions) n(item, pattern, partition)
                                              WHERE n.item = x.item AND n.pattern = x.pattern
                                                AND n.partition = x.partition))
             ORDER BY x.item, x.pattern, x.partition FOR UPDATE) u
     WHERE l.token = u.token;
    IF items IS NULL THEN
        DELETE FROM hie.partition_shares s WHERE s.worker = me;
        DELETE FROM hie.partition_workers w WHERE w.worker = me;
    END IF;
END $$;

CREATE VIEW hie.partitions AS
SELECT l.item, hie.pattern_word(l.pattern) AS pattern, l.partition, l.holder AS worker, w.expires_at, l.token
  FROM hie.partition_leases l LEFT JOIN hie.partition_workers w ON w.worker = l.holder;
