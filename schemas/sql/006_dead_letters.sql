-- Dead letters: the next run, or off the list. Explained in schemas/sql.md.

-- Those of `ids` that are dead letters of the item now, or (ids NULL) the oldest `most` of them, with their runs.
CREATE FUNCTION hie.find_dead_letters(of_item text, ids uuid[], most bigint)
RETURNS TABLE (correlation_id uuid, run integer, pattern smallint)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
BEGIN
    IF ids IS NULL THEN
        RETURN QUERY
        SELECT e.correlation_id, e.run, e.pattern FROM hie.ended e
         WHERE e.item = of_item AND e.status = 1
           AND (SELECT true FROM hie.dead_letter_actions d
                 WHERE d.correlation_id = e.correlation_id AND d.run = e.run) IS NULL
         ORDER BY e.at, e.correlation_id, e.run LIMIT most;
    ELSE
        RETURN QUERY
        SELECT e.correlation_id, e.run, e.pattern
          FROM (SELECT DISTINCT i FROM unnest(ids) i) u,
               LATERAL (SELECT x.correlation_id, x.run, x.pattern, x.status, x.item FROM hie.ended x
                         WHERE x.correlation_id = u.i ORDER BY x.run DESC LIMIT 1) e
         WHERE e.status = 1 AND e.item = of_item
           AND (SELECT true FROM hie.dead_letter_actions d
                 WHERE d.correlation_id = e.correlation_id AND d.run = e.run) IS NULL;
    END IF;
END $$;

-- Begins the next run; answers those for which this call did it. In order of their ids, so that two calls do not wait for each
-- other in a circle. What has no accepted row cannot run again.
CREATE FUNCTION hie.redrive(of_item text, ids uuid[], most bigint) RETURNS SETOF uuid
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    begun_ids uuid[];
    begun_runs integer[];
BEGIN
    WITH begun AS (
        INSERT INTO hie.dead_letter_actions AS d (correlation_id, run, action, pattern, item)
        SELECT f.correlation_id, f.run, 0, f.pattern, of_item
          FROM hie.find_dead_letters(of_item, ids, most) f
         WHERE (SELECT true FROM hie.accepted a WHERE a.correlation_id = f.correlation_id)
         ORDER BY f.correlation_id
        ON CONFLICT DO NOTHING RETURNING d.correlation_id, d.run)
    SELECT array_agg(b.correlation_id), array_agg(b.run + 1) INTO begun_ids, begun_runs FROM begun b;
    INSERT INTO hie.stragglers AS s (seq, correlation_id, run, pattern, partition, item)
    SELECT a.seq, b.id, b.run, a.pattern, a.partition, a.item
      FROM unnest(begun_ids, begun_runs) b(id, run),
           LATERAL (SELECT x.seq, x.pattern, x.partition, x.item FROM hie.accepted x
                     WHERE x.correlation_id = b.id LIMIT 1) a
     ORDER BY a.seq
    ON CONFLICT (seq) DO UPDATE SET run = excluded.run;
    RETURN QUERY SELECT unnest(begun_ids);
END $$;

CREATE FUNCTION hie.dismiss(of_item text, ids uuid[], most bigint) RETURNS SETOF uuid
LANGUAGE sql AS $$
    INSERT INTO hie.dead_letter_actions (correlation_id, run, action, pattern, item)
    SELECT f.correlation_id, f.run, 1, f.pattern, of_item
      FROM hie.find_dead_letters(of_item, ids, most) f ORDER BY f.correlation_id
    ON CONFLICT DO NOTHING RETURNING correlation_id
$$;
