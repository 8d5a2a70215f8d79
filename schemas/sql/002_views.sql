-- What people and reports read. Explained in schemas/sql.md.

CREATE FUNCTION hie.pattern_word(pattern smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE pattern WHEN 0 THEN 'async_reliable' WHEN 1 THEN 'sync_reliable'
                        WHEN 2 THEN 'concurrent_async' WHEN 3 THEN 'concurrent_sync' END
$$;
CREATE FUNCTION hie.direction_word(direction smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE direction WHEN 0 THEN 'inbound' WHEN 1 THEN 'outbound' WHEN 2 THEN 'internal' END
$$;
CREATE FUNCTION hie.status_word(status smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE status WHEN 0 THEN 'completed' WHEN 1 THEN 'dead_lettered'
                       WHEN 2 THEN 'expired' WHEN 3 THEN 'cancelled' END
$$;

CREATE VIEW hie.messages AS
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
       e.reply_content_type, e.reply
  FROM hie.accepted a
  LEFT JOIN hie.ended e ON e.correlation_id = a.correlation_id AND e.run = 1
  LEFT JOIN (SELECT x.correlation_id, max(x.attempt) AS attempts, bool_or(x.kind = 0) AS failed,
                    (array_agg(x.error ORDER BY x.attempt DESC) FILTER (WHERE x.kind = 0))[1] AS error
               FROM hie.attempts x WHERE x.run = 1 GROUP BY x.correlation_id) t
         ON t.correlation_id = a.correlation_id;

CREATE VIEW hie.audit AS
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
  FROM hie.ended e;

-- The upper bound on seq says to the planner that few rows are meant, so it takes the index.
CREATE VIEW hie.wal AS
SELECT a.correlation_id, a.item, hie.pattern_word(a.pattern) AS pattern, a.received_at, a.due_at, a.seq,
       a.priority, a.ordering_key, octet_length(a.body) AS body_len
  FROM hie.accepted a
 WHERE a.seq > (SELECT m.low FROM hie.marks m WHERE m.name = 'low') AND a.seq < 9223372036854775807
   AND (SELECT true FROM hie.ended e WHERE e.correlation_id = a.correlation_id AND e.run = 1) IS NULL
UNION ALL
SELECT a.correlation_id, a.item, hie.pattern_word(a.pattern), a.received_at, a.due_at, a.seq, a.priority,
       a.ordering_key, octet_length(a.body)
  FROM hie.stragglers s JOIN hie.accepted a ON a.correlation_id = s.correlation_id
 WHERE s.seq <= (SELECT m.low FROM hie.marks m WHERE m.name = 'low')
   AND (SELECT true FROM hie.ended e WHERE e.correlation_id = a.correlation_id AND e.run = 1) IS NULL;

CREATE VIEW hie.dead_letters AS
SELECT e.correlation_id, e.item, hie.pattern_word(e.pattern) AS pattern, e.error AS reason,
       e.attempt AS attempts, e.at, e.worker
  FROM hie.ended e
 WHERE e.status = 1;
