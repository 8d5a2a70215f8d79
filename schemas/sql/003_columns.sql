-- What runs, fifo partitions, versions and persistence modes need of the tables that there are: no row is rewritten, and the locks that
-- keep everybody out come last. Explained in schemas/sql.md.

-- What was done with a dead letter, once for each: 0 redriven (the next run began), 1 dismissed. So a message's current run is one
-- more than its last redriven one. Few rows, so one table: looking whether a batch has any costs one probe.
CREATE TABLE hie.dead_letter_actions (
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    correlation_id uuid        NOT NULL,
    run            integer     NOT NULL,
    action         smallint    NOT NULL,
    pattern        smallint    NOT NULL,
    item           text        NOT NULL,
    PRIMARY KEY (correlation_id, run)
);

-- run: the current one. A redrive writes its row whatever the mark is, so a mark that passes meanwhile misses nothing, and every
-- unfinished row is either one whose first run has no end, or here.
ALTER TABLE hie.stragglers ADD COLUMN run integer, ADD COLUMN pattern smallint, ADD COLUMN partition smallint,
    ADD COLUMN item text;
UPDATE hie.stragglers s SET run = 1, pattern = a.pattern, item = a.item
  FROM hie.accepted a WHERE a.correlation_id = s.correlation_id;
DELETE FROM hie.stragglers s WHERE s.run IS NULL; -- their days are gone
ALTER TABLE hie.stragglers ALTER COLUMN run SET NOT NULL, ALTER COLUMN pattern SET NOT NULL, ALTER COLUMN item SET NOT NULL;

-- partition: of a fifo item, else NULL. version: of the production under which it was accepted.
ALTER TABLE hie.accepted ADD COLUMN version bigint, ADD COLUMN partition smallint;
-- forgotten: its accepted row was taken away with a good end, since its item keeps no messages; else NULL.
ALTER TABLE hie.ended ADD COLUMN forgotten boolean;
