-- Chains the transfers that were posted before there was a chain. Apart from 0003 so that readers go on meanwhile: nothing
-- here takes a lock that keeps a SELECT out.

CREATE FUNCTION pg_temp.ledger_link(before BYTEA, content BYTEA) RETURNS BYTEA LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(before || content)
$$;
CREATE AGGREGATE pg_temp.ledger_chain(BYTEA) (
    SFUNC = pg_temp.ledger_link, STYPE = BYTEA,
    INITCOND = '\x0000000000000000000000000000000000000000000000000000000000000000'
);

CREATE TEMPORARY TABLE placed ON COMMIT DROP AS
    SELECT id, lane, row_number() OVER (PARTITION BY lane ORDER BY major, middle, minor) AS position
    FROM (
        SELECT t.id, ledger_lane_of(t.cause, t.id, t.account) AS lane,
            CASE t.cause WHEN 'reward' THEN split_part(t.id, '/', 3)::numeric WHEN 'redeem' THEN r.block_number ELSE 0 END
                AS major,
            CASE t.cause WHEN 'reward' THEN split_part(t.id, '/', 4)::numeric WHEN 'redeem' THEN r.log_index ELSE 0 END
                AS middle,
            coalesce(m.position, 0) AS minor
        FROM ledger_transfer AS t
        LEFT JOIN points_redeemed AS r ON t.cause = 'redeem' AND r.provider = t.provider
            AND t.id = 'redeem/0x' || encode(t.provider, 'hex') || '/0x' || encode(r.payout_id, 'hex')
        LEFT JOIN license AS l ON t.cause = 'royalty' AND l.license_id::text = split_part(t.id, '/', 2)
        LEFT JOIN dataset_member AS m ON (m.ip_id, m.version, m.data_id) = (l.ip_id, l.version, t.data_id)
    ) AS ordered;

CREATE TEMPORARY TABLE linked ON COMMIT DROP AS
    SELECT p.id, p.lane, p.position, pg_temp.ledger_chain(
        ledger_field(p.lane) || ledger_field(p.position::text) || ledger_field(t.id) || ledger_field(t.cause)
            || ledger_field(t.provider) || ledger_field(t.debit_kind) || ledger_field(t.debit_key)
            || ledger_field(t.credit_kind) || ledger_field(t.credit_key) || ledger_field(t.amount::text)
            || ledger_field(t.account) || ledger_field(uuid_send(t.data_id)) || ledger_field(t.block_number::text)
            || ledger_field(t.block_time::text) || ledger_field(t.tx_hash)
    ) OVER (PARTITION BY p.lane ORDER BY p.position) AS link
    FROM placed AS p JOIN ledger_transfer AS t USING (id);

ALTER TABLE ledger_transfer DISABLE TRIGGER ledger_transfer_is_immutable;
UPDATE ledger_transfer AS t SET position = linked.position, link = linked.link FROM linked WHERE linked.id = t.id;
-- or the next statement finds checks of foreign keys that wait for the end
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE ledger_transfer ENABLE TRIGGER ledger_transfer_is_immutable;
ALTER TABLE ledger_lane DISABLE TRIGGER ledger_lane_guard;
INSERT INTO ledger_lane (lane, transfers, head)
    SELECT DISTINCT ON (lane) lane, position, link FROM linked ORDER BY lane, position DESC;
ALTER TABLE ledger_lane ENABLE TRIGGER ledger_lane_guard;
ALTER TABLE ledger_transfer VALIDATE CONSTRAINT chained;
