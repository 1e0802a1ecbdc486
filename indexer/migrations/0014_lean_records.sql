-- Less that is written for each record: most of the time of taking a batch in went into entries of indexes, and into looking up, once a
-- row, what every row of a statement has in common. What the schema refuses stays refused.

-- A verdict follows the registration and nothing else (docs/protocol.md), so it is the second event of its record; and there is one event
-- a place. An index of verdicts said no more than that.
ALTER TABLE event ADD CONSTRAINT a_verdict_is_the_second_event CHECK (kind NOT IN (1, 2) OR sequence = 1) NOT VALID;
ALTER TABLE event VALIDATE CONSTRAINT a_verdict_is_the_second_event;
DROP INDEX event_one_verdict;

-- Whose a record may be is asked of its registrations, by one_event_a_place_in_the_chain.
DROP INDEX record_data_id;

-- The newest disclosed metadata stands in the newest disclosure that has some, and stood here once more.
ALTER TABLE record DROP COLUMN metadata;

-- A payload that is not its event's shows nothing, whatever it says: where a rejection had one of another kind, its record was shown by
-- that. These are computed anew when the indexer starts.
INSERT INTO trace_fill (provider, data_id)
    SELECT e.provider, e.data_id FROM event AS e JOIN disclosure AS d USING (provider, number, index)
    WHERE e.kind = 2 AND d.payload IS NOT NULL AND d.fault LIKE 'kind: %'
ON CONFLICT DO NOTHING;

-- As `refers`, where the rows of a statement refer to few others: those are looked up once each.
CREATE FUNCTION refers_to_few() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    missing TEXT;
BEGIN
    EXECUTE format(
        'SELECT a::text FROM (SELECT DISTINCT %3$s FROM added) AS a WHERE NOT EXISTS (SELECT FROM %1$I.%2$I AS p WHERE (%4$s) = (%5$s))
         LIMIT 1',
        TG_TABLE_SCHEMA, TG_ARGV[0],
        (SELECT string_agg(format('%I', name), ', ') FROM unnest(TG_ARGV[1:]) AS name),
        (SELECT string_agg(format('p.%I', name), ', ') FROM unnest(TG_ARGV[1:]) AS name),
        (SELECT string_agg(format('a.%I', name), ', ') FROM unnest(TG_ARGV[1:]) AS name)
    ) INTO missing;
    IF missing IS NOT NULL THEN
        RAISE foreign_key_violation USING MESSAGE = format('%s refers to no row of %s: %s', TG_TABLE_NAME, TG_ARGV[0], missing);
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER event_refers_to_batch ON event;
CREATE TRIGGER event_refers_to_batch AFTER INSERT ON event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION refers_to_few('batch', 'provider', 'number');
DROP TRIGGER trace_record_refers_to_batch ON trace_record;
CREATE TRIGGER trace_record_refers_to_batch AFTER INSERT ON trace_record
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION refers_to_few('batch', 'provider', 'number');
DROP TRIGGER trace_record_still_refers_to_batch ON trace_record;
CREATE TRIGGER trace_record_still_refers_to_batch AFTER UPDATE ON trace_record
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION refers_to_few('batch', 'provider', 'number');

-- Where a batch has as many events from the first place that is referred to to the last one as there are places, each of them is there:
-- counting them, side by side as they lie, takes a fraction of looking each one up. Where it has fewer, each row is looked up.
CREATE FUNCTION disclosure_refers() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    gaps BOOLEAN;
    missing TEXT;
BEGIN
    EXECUTE format(
        'SELECT EXISTS (
             SELECT FROM (SELECT provider, number, min(index) AS first, max(index) AS last FROM added GROUP BY provider, number) AS a
             WHERE last - first + 1 <> (SELECT count(*) FROM %I.event AS e
                 WHERE (e.provider, e.number) = (a.provider, a.number) AND e.index BETWEEN a.first AND a.last))',
        TG_TABLE_SCHEMA
    ) INTO gaps;
    IF gaps THEN
        EXECUTE format(
            'SELECT a::text FROM added AS a WHERE NOT EXISTS (
                 SELECT FROM %I.event AS e WHERE (e.provider, e.number, e.index) = (a.provider, a.number, a.index)) LIMIT 1',
            TG_TABLE_SCHEMA
        ) INTO missing;
    END IF;
    IF missing IS NOT NULL THEN
        RAISE foreign_key_violation USING MESSAGE = format('disclosure refers to no row of event: %s', missing);
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER disclosure_refers_to_event ON disclosure;
CREATE TRIGGER disclosure_refers_to_event AFTER INSERT ON disclosure
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION disclosure_refers();
DROP TRIGGER disclosure_still_refers_to_event ON disclosure;
CREATE TRIGGER disclosure_still_refers_to_event AFTER UPDATE ON disclosure
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION disclosure_refers();

-- As before, with less work a transfer: credits are ordered by what differs between them, and a statement that goes on in one lane, as
-- those of the indexer do, is not sorted by its name.
CREATE OR REPLACE FUNCTION ledger_post() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    lanes BIGINT;
    moved BIGINT;
BEGIN
    IF (SELECT count(DISTINCT relnamespace) FROM pg_class WHERE oid IN (TG_RELID, 'ledger_account'::regclass)) <> 1 THEN
        RAISE EXCEPTION 'the search path leads to other accounts than those of %', TG_TABLE_SCHEMA;
    END IF;
    IF EXISTS (SELECT FROM posted WHERE provider <> ALL (SELECT address FROM provider)) THEN
        RAISE foreign_key_violation USING MESSAGE = 'a ledger transfer is of a provider';
    END IF;
    -- what gives has to be there with what it gives, but for an issuer
    INSERT INTO ledger_account (provider, kind, key)
        SELECT DISTINCT provider, debit_kind, debit_key FROM posted ORDER BY 3, 1, 2
    ON CONFLICT DO NOTHING;
    UPDATE ledger_account AS a SET balance = a.balance - gives.amount
    FROM (
        SELECT provider, debit_kind AS kind, debit_key AS key, sum(amount) AS amount FROM posted GROUP BY 1, 2, 3
    ) AS gives
    WHERE (a.provider, a.kind, a.key) = (gives.provider, gives.kind, gives.key);
    INSERT INTO ledger_account AS a (provider, kind, key, balance)
        SELECT provider, credit_kind, credit_key, sum(amount) FROM posted GROUP BY 1, 2, 3 ORDER BY 3, 1, 2
    ON CONFLICT (provider, kind, key) DO UPDATE SET balance = a.balance + excluded.balance;

    -- nobody else adds to these lanes meanwhile: the update above holds the provider's issuer or the account
    WITH lane AS (
        SELECT ledger_lane_of(cause, id, account) AS name, count(*) AS transfers, min(position) AS first, max(position) AS last
        FROM posted GROUP BY 1
    ), one AS (
        SELECT name FROM lane WHERE (SELECT count(*) FROM lane) = 1
    ), added AS (
        SELECT lane.name AS lane, transfers, (SELECT count(DISTINCT position) FROM posted) AS places, first, last,
            (SELECT link FROM posted WHERE position = last LIMIT 1) AS head
        FROM lane JOIN one USING (name)
        UNION ALL
        SELECT ledger_lane_of(cause, id, account), count(*), count(DISTINCT position), min(position), max(position),
            (array_agg(link ORDER BY position DESC))[1]
        FROM posted WHERE NOT EXISTS (SELECT FROM one) GROUP BY 1
    ), written AS (
        INSERT INTO ledger_lane AS l (lane, transfers, head)
            SELECT lane, last, head FROM added
            WHERE transfers = places AND transfers = last - first + 1
                AND first = 1 + coalesce((SELECT o.transfers FROM ledger_lane AS o WHERE o.lane = added.lane), 0)
            ORDER BY lane
        ON CONFLICT (lane) DO UPDATE SET transfers = excluded.transfers, head = excluded.head
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM added), (SELECT count(*) FROM written) INTO lanes, moved;
    IF lanes <> moved THEN
        RAISE EXCEPTION 'a ledger transfer follows the last one of its lane: % of % lanes do not go on', lanes - moved, lanes;
    END IF;
    RETURN NULL;
END $$;
