-- What people read, of runs, partitions and versions too. New columns stand behind the old ones, so that grants and what is built on
-- the views stay. Explained in schemas/sql.md.

-- The moment of an id, to the millisecond.
CREATE FUNCTION hie.id_time(id uuid) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT timestamptz 'epoch' + ('x' || left(translate(id::text, '-', ''), 12))::bit(48)::bigint * interval '1 millisecond'
$$;

-- Of each message its current run. The second part: messages that were not to be kept, of which the end alone is left.
CREATE OR REPLACE VIEW hie.messages AS
SELECT a.correlation_id, a.parent_id, a.item,
       hie.pattern_word(a.pattern) AS pattern,
       hie.direction_word(a.direction) AS direction,
       CASE WHEN e.status IS NOT NULL THEN hie.status_word(e.status)
            WHEN t.failed THEN 'retrying' ELSE 'accepted' END AS state,
       a.control_id, a.message_type, a.sender, a.ordering_key, a.priority, a.seq,
       coalesce(e.attempt, t.attempts, 0) AS attempts,
       CASE WHEN e.status IS NULL THEN t.error ELSE e.error END AS error,
       a.received_at, e.at AS finished_at,
       a.content_type AS request_content_type, a.body AS request,
       e.reply_content_type, e.reply,
       a.partition, a.version, coalesce(d.run, 0) + 1 AS run
  FROM hie.accepted a
  LEFT JOIN (SELECT x.correlation_id, max(x.run) AS run FROM hie.dead_letter_actions x
              WHERE x.action = 0 GROUP BY x.correlation_id) d ON d.correlation_id = a.correlation_id
  LEFT JOIN hie.ended e ON e.correlation_id = a.correlation_id AND e.run = coalesce(d.run, 0) + 1
  LEFT JOIN (SELECT x.correlation_id, x.run, max(x.attempt) AS attempts, bool_or(x.kind = 0) AS failed,
                    (array_agg(x.error ORDER BY x.attempt DESC) FILTER (WHERE x.kind = 0))[1] AS error
               FROM hie.attempts x GROUP BY x.correlation_id, x.run) t
         ON t.correlation_id = a.correlation_id AND t.run = coalesce(d.run, 0) + 1
UNION ALL
SELECT e.correlation_id, NULL, e.item, hie.pattern_word(e.pattern), NULL, hie.status_word(e.status),
       NULL, NULL, NULL, NULL, NULL, NULL, e.attempt, e.error,
       hie.id_time(e.correlation_id), e.at, NULL, NULL, NULL, NULL, NULL, NULL, e.run
  FROM hie.ended e
 WHERE e.forgotten
   AND NOT EXISTS (SELECT FROM hie.accepted a WHERE a.correlation_id = e.correlation_id);

CREATE OR REPLACE VIEW hie.audit AS
SELECT a.correlation_id, 'accepted'::text AS event, a.item, hie.pattern_word(a.pattern) AS pattern,
       NULL::text AS worker, NULL::integer AS attempt, a.received_at AS at, NULL::text AS detail, 1 AS run
  FROM hie.accepted a
UNION ALL
SELECT t.correlation_id, CASE t.kind WHEN 0 THEN 'retried' ELSE 'taken_over' END, a.item,
       hie.pattern_word(a.pattern), t.worker, t.attempt, t.at, t.error, t.run
  FROM hie.attempts t LEFT JOIN hie.accepted a ON a.correlation_id = t.correlation_id
UNION ALL
SELECT e.correlation_id, hie.status_word(e.status), e.item, hie.pattern_word(e.pattern), e.worker, e.attempt,
       e.at, e.error, e.run
  FROM hie.ended e
UNION ALL
SELECT d.correlation_id, CASE d.action WHEN 0 THEN 'redriven' ELSE 'dismissed' END, d.item,
       hie.pattern_word(d.pattern), NULL, NULL, d.at, NULL, d.run
  FROM hie.dead_letter_actions d;

-- The upper bound on seq says to the planner that few rows are meant, so it takes the index.
CREATE OR REPLACE VIEW hie.wal AS
SELECT a.correlation_id, a.item, hie.pattern_word(a.pattern) AS pattern, a.received_at, a.due_at, a.seq,
       a.priority, a.ordering_key, octet_length(a.body) AS body_len, a.partition, a.version
  FROM hie.accepted a
 WHERE a.seq > (SELECT m.low FROM hie.marks m WHERE m.name = 'low') AND a.seq < 9223372036854775807
   AND (SELECT true FROM hie.ended e WHERE e.correlation_id = a.correlation_id AND e.run = 1) IS NULL
UNION ALL
SELECT a.correlation_id, a.item, hie.pattern_word(a.pattern), a.received_at, a.due_at, a.seq, a.priority,
       a.ordering_key, octet_length(a.body), a.partition, a.version
  FROM hie.stragglers s JOIN hie.accepted a ON a.correlation_id = s.correlation_id
 WHERE (SELECT true FROM hie.ended e WHERE e.correlation_id = s.correlation_id AND e.run = s.run) IS NULL;

CREATE OR REPLACE VIEW hie.dead_letters AS
SELECT e.correlation_id, e.item, hie.pattern_word(e.pattern) AS pattern, e.error AS reason,
       e.attempt AS attempts, e.at, e.worker, e.run
  FROM hie.ended e
 WHERE e.status = 1
   AND NOT EXISTS (SELECT FROM hie.dead_letter_actions d
                    WHERE d.correlation_id = e.correlation_id AND d.run = e.run);
