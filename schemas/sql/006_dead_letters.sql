-- Dead letters: which there are now, the next run, or off the list. Explained in schemas/sql.md.

-- Those that were neither redriven nor dismissed: of each the dead run. A row comes with the end, whoever writes that, and goes with what
-- is done about it.
CREATE TABLE hie.open_dead_letters (
    at             timestamptz NOT NULL,
    correlation_id uuid        NOT NULL,
    run            integer     NOT NULL,
    pattern        smallint    NOT NULL,
    item           text        NOT NULL,
    PRIMARY KEY (item, correlation_id)
);
CREATE INDEX open_dead_letters_by_time ON hie.open_dead_letters (item, at, correlation_id);

CREATE FUNCTION hie.note_dead_letter() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO hie.open_dead_letters (at, correlation_id, run, pattern, item)
    VALUES (NEW.at, NEW.correlation_id, NEW.run, NEW.pattern, NEW.item)
    ON CONFLICT (item, correlation_id) DO UPDATE SET at = excluded.at, run = excluded.run, pattern = excluded.pattern;
    RETURN NULL;
END $$;
CREATE TRIGGER note_dead_letter AFTER INSERT ON hie.ended FOR EACH ROW WHEN (NEW.status = 1)
    EXECUTE FUNCTION hie.note_dead_letter();
INSERT INTO hie.open_dead_letters (at, correlation_id, run, pattern, item)
SELECT e.at, e.correlation_id, e.run, e.pattern, e.item FROM hie.ended e WHERE e.status = 1;
DROP INDEX hie.ended_dead;

CREATE OR REPLACE VIEW hie.dead_letters AS
SELECT o.correlation_id, o.item, hie.pattern_word(o.pattern) AS pattern, e.error AS reason,
       e.attempt AS attempts, o.at, e.worker, o.run
  FROM hie.open_dead_letters o LEFT JOIN hie.ended e ON e.correlation_id = o.correlation_id AND e.run = o.run;

-- Takes off the list: those of `ids` that are on the item's, or (ids NULL) the first `most` behind `after`, in order of their ids, so that
-- two calls do not wait for each other in a circle. keep_lone: what has no accepted row stays, and is told with run NULL.
CREATE FUNCTION hie.take_dead_letters(of_item text, ids uuid[], after uuid, most bigint, keep_lone boolean)
RETURNS TABLE (correlation_id uuid, run integer, pattern smallint)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    found uuid[];
BEGIN
    IF ids IS NULL THEN
        found := ARRAY(SELECT o.correlation_id FROM hie.open_dead_letters o
                        WHERE o.item = of_item AND o.correlation_id > after
                        ORDER BY o.correlation_id LIMIT most FOR UPDATE);
    ELSE
        found := ARRAY(SELECT o.correlation_id FROM hie.open_dead_letters o
                        WHERE o.item = of_item AND o.correlation_id = ANY (ids)
                        ORDER BY o.correlation_id FOR UPDATE);
    END IF;
    RETURN QUERY
    WITH gone AS (
        DELETE FROM hie.open_dead_letters o
         USING (SELECT unnest(found) AS id) f
         WHERE o.item = of_item AND o.correlation_id = f.id
           AND (NOT keep_lone OR (SELECT true FROM hie.accepted a WHERE a.correlation_id = f.id))
        RETURNING o.correlation_id, o.run, o.pattern)
    SELECT f.id, g.run, g.pattern
      FROM unnest(found) WITH ORDINALITY f(id, n) LEFT JOIN gone g ON g.correlation_id = f.id ORDER BY f.n;
END $$;

-- Begins the next run; answers those for which this call did it, and those that cannot run again: they have no accepted row.
CREATE FUNCTION hie.redrive(of_item text, ids uuid[], after uuid, most bigint)
RETURNS TABLE (correlation_id uuid, done boolean)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    all_ids uuid[];
    all_runs integer[];
BEGIN
    WITH taken AS (SELECT * FROM hie.take_dead_letters(of_item, ids, after, most, true)),
         begun AS (INSERT INTO hie.dead_letter_actions (correlation_id, run, action, pattern, item)
                   SELECT t.correlation_id, t.run, 0, t.pattern, of_item FROM taken t WHERE t.run IS NOT NULL)
    SELECT array_agg(t.correlation_id ORDER BY t.correlation_id), array_agg(t.run ORDER BY t.correlation_id)
      INTO all_ids, all_runs FROM taken t;
    INSERT INTO hie.stragglers AS s (seq, correlation_id, run, pattern, partition, item)
    SELECT a.seq, b.id, b.run + 1, a.pattern, a.partition, a.item
      FROM unnest(all_ids, all_runs) b(id, run),
           LATERAL (SELECT x.seq, x.pattern, x.partition, x.item FROM hie.accepted x
                     WHERE x.correlation_id = b.id LIMIT 1) a
     WHERE b.run IS NOT NULL
     ORDER BY a.seq
    ON CONFLICT (seq) DO UPDATE SET run = excluded.run;
    RETURN QUERY SELECT b.id, b.run IS NOT NULL FROM unnest(all_ids, all_runs) b(id, run);
END $$;

CREATE FUNCTION hie.dismiss(of_item text, ids uuid[], after uuid, most bigint)
RETURNS TABLE (correlation_id uuid, done boolean)
LANGUAGE sql AS $$
    WITH taken AS (SELECT * FROM hie.take_dead_letters(of_item, ids, after, most, false)),
         noted AS (INSERT INTO hie.dead_letter_actions (correlation_id, run, action, pattern, item)
                   SELECT t.correlation_id, t.run, 1, t.pattern, of_item FROM taken t)
    SELECT t.correlation_id, true FROM taken t ORDER BY 1
$$;
