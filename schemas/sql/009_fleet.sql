-- The fleet's production, who runs by which version of it, and whose queues are changing. Explained in schemas/sql.md.

CREATE TABLE hie.productions (
    version bigint      PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    by      text        NOT NULL,
    hash    bytea       NOT NULL,
    text    bytea       NOT NULL
);

-- Live processes: the version that each has applied, and up to which step it follows hie.queue_changes.
CREATE TABLE hie.members (
    id         text        PRIMARY KEY,
    kind       text        NOT NULL,
    version    bigint      NOT NULL,
    step       bigint      NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Items whose queues change. versions: those that changed it and are not through, in order; the first one's change is under way:
-- what was accepted below it is finished in the queue of the version before. closed: that is done. No row: the queue is open. A
-- step is drawn for each move, under the lock of hie.publish, so steps become visible in their order.
CREATE SEQUENCE hie.change_steps;
CREATE TABLE hie.queue_changes (
    item     text     PRIMARY KEY,
    versions bigint[] NOT NULL,
    closed   boolean  NOT NULL DEFAULT false,
    step     bigint   NOT NULL
) WITH (fillfactor = 50);

-- Publishes on top of `base` (-1: only as the first one), with the items whose queues it changes. Answers the current version, which
-- is another when somebody else was faster, and the same when it says the same.
CREATE FUNCTION hie.publish(new_text bytea, new_hash bytea, publisher text, base bigint, changed text[])
RETURNS TABLE (version bigint, text bytea, hash bytea, at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    current hie.productions;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('hie.publish', 0));
    SELECT * INTO current FROM hie.productions p ORDER BY p.version DESC LIMIT 1;
    IF current.version IS NULL OR (current.version = base AND current.hash <> new_hash) THEN
        INSERT INTO hie.productions (version, by, hash, text)
        VALUES (coalesce(current.version, 0) + 1, publisher, new_hash, new_text) RETURNING * INTO current;
        INSERT INTO hie.queue_changes AS c (item, versions, step)
        SELECT u, ARRAY[current.version], nextval('hie.change_steps') FROM unnest(changed) u
         WHERE current.version > 1
        ON CONFLICT (item) DO UPDATE SET versions = c.versions || excluded.versions, step = excluded.step;
    END IF;
    RETURN QUERY SELECT current.version, current.text, current.hash, current.at;
END $$;

-- Says that a process lives (ttl_ms 0: that it leaves), and how things stand: the first line has the current version and the last
-- step, the others an item whose queue changes: below which version is to be finished, the last version that changed it, and up
-- to which version all live processes have come. What all follow as closed goes on from here: to its next change, or it is open.
-- All of this is one after the other, in whatever process: who is new sees how things stand before they go on.
CREATE FUNCTION hie.attend(member text, member_kind text, applied bigint, followed bigint, ttl_ms bigint)
RETURNS TABLE (item text, version bigint, last_version bigint, closed boolean, step bigint, all_applied bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    low bigint;
    low_step bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('hie.publish', 0));
    INSERT INTO hie.members AS m (id, kind, version, step, expires_at)
    VALUES (member, member_kind, applied, followed, clock_timestamp() + ttl_ms * interval '1 millisecond')
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, version = excluded.version, step = excluded.step,
        expires_at = excluded.expires_at;
    SELECT min(m.version), min(m.step) INTO low, low_step FROM hie.members m WHERE m.expires_at > clock_timestamp();
    DELETE FROM hie.queue_changes c
     WHERE c.closed AND c.step <= low_step AND cardinality(c.versions) = 1 AND c.versions[1] <= low;
    UPDATE hie.queue_changes c SET versions = c.versions[2:], closed = false, step = nextval('hie.change_steps')
     WHERE c.closed AND c.step <= low_step AND cardinality(c.versions) > 1;
    RETURN QUERY SELECT NULL::text, coalesce((SELECT max(p.version) FROM hie.productions p), 0), NULL::bigint, NULL::boolean,
        (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM hie.change_steps s), low;
    RETURN QUERY SELECT c.item, c.versions[1], c.versions[cardinality(c.versions)], c.closed, c.step, low
        FROM hie.queue_changes c ORDER BY c.item;
END $$;

-- What was accepted below a version is finished: the item's changes up to it are closed. Not while a live process has not come so far.
CREATE FUNCTION hie.close_queue(closing text, below bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('hie.publish', 0));
    UPDATE hie.queue_changes c
       SET closed = true, step = nextval('hie.change_steps'),
           versions = ARRAY(SELECT v FROM unnest(c.versions) WITH ORDINALITY u(v, n) WHERE v >= below ORDER BY n)
     WHERE c.item = closing AND NOT c.closed AND c.versions[1] <= below AND below = ANY (c.versions)
       AND NOT EXISTS (SELECT FROM hie.members m WHERE m.expires_at > clock_timestamp() AND m.version < below);
END $$;

-- Takes out processes that have been gone for a day, and productions that nobody needs: neither one of the last hundred, nor the one
-- before a queue's change, or a later one.
CREATE FUNCTION hie.forget_gone() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM hie.members m WHERE m.expires_at < now() - interval '1 day';
    PERFORM hie.disown(w.worker, NULL, NULL, NULL) FROM hie.partition_workers w
      WHERE w.expires_at < now() - interval '1 day';
    DELETE FROM hie.productions p
     WHERE p.version <= (SELECT max(x.version) FROM hie.productions x) - 100
       AND NOT EXISTS (SELECT FROM hie.queue_changes c WHERE p.version >= c.versions[1] - 1);
END $$;
