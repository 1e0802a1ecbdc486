-- Chains the ledger's rows by hash, so that a row that was changed, taken out or moved is found (`tidemark-indexer ledger
-- verify`). A lane is what one cause writes in an order that the chain gives: the rewards of a provider, batch by batch; the
-- royalties of a licence, by place in the members' manifest; the redemptions of an account. Between lanes there is no order,
-- because files come in any order and every indexer has to reach the same hashes.

CREATE TABLE ledger_lane (
    -- reward/<provider>, royalty/<license id> or redeem/<provider>/<account>
    lane      TEXT PRIMARY KEY CHECK (lane ~ '^(reward|royalty|redeem)/'),
    transfers BIGINT NOT NULL CHECK (transfers > 0),
    -- link of its newest transfer
    head      hash NOT NULL
);

-- no row is written here: readers go on; 0004 fills what is there. A column of the domain `hash` would have every row written anew.
ALTER TABLE ledger_transfer ADD COLUMN position BIGINT, ADD COLUMN link BYTEA;
ALTER TABLE ledger_transfer ADD CONSTRAINT chained
    CHECK (position > 0 AND octet_length(link) = 32 AND num_nonnulls(position, link) = 2) NOT VALID;
COMMENT ON COLUMN ledger_transfer.position IS 'place in its lane, from 1';
COMMENT ON COLUMN ledger_transfer.link IS 'SHA-256(link before it, 32 zero bytes at the first; its fields: see docs/ledger.md)';

CREATE FUNCTION ledger_lane_of(cause TEXT, id TEXT, account BYTEA) RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$
    SELECT split_part(id, '/', 1) || '/' || split_part(id, '/', 2)
        || CASE cause WHEN 'redeem' THEN '/0x' || encode(account, 'hex') ELSE '' END
$$;

-- A field with its length in front, so that no two rows are the same bytes.
CREATE FUNCTION ledger_field(value BYTEA) RETURNS BYTEA LANGUAGE sql IMMUTABLE AS $$
    SELECT int4send(octet_length(coalesce(value, ''))) || coalesce(value, '')
$$;
CREATE FUNCTION ledger_field(value TEXT) RETURNS BYTEA LANGUAGE sql IMMUTABLE AS $$
    SELECT ledger_field(convert_to(value, 'UTF8'))
$$;

-- What was there before moves balances; a lane has to go on where it ends, whoever inserts.
CREATE OR REPLACE FUNCTION ledger_post() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    lanes BIGINT;
    moved BIGINT;
BEGIN
    INSERT INTO ledger_account (provider, kind, key)
        SELECT provider, debit_kind, debit_key FROM posted
        UNION
        SELECT provider, credit_kind, credit_key FROM posted
        ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING;
    UPDATE ledger_account AS a SET balance = a.balance + moved.delta
    FROM (
        SELECT provider, kind, key, sum(delta) AS delta FROM (
            SELECT provider, debit_kind AS kind, debit_key AS key, -amount AS delta FROM posted
            UNION ALL
            SELECT provider, credit_kind, credit_key, amount FROM posted
        ) AS sides GROUP BY provider, kind, key
    ) AS moved
    WHERE (a.provider, a.kind, a.key) = (moved.provider, moved.kind, moved.key);

    -- nobody else adds to these lanes meanwhile: the update above holds the provider's issuer or the account
    WITH added AS (
        SELECT ledger_lane_of(cause, id, account) AS lane, count(*) AS transfers, count(DISTINCT position) AS places,
            min(position) AS first, max(position) AS last, (array_agg(link ORDER BY position DESC))[1] AS head
        FROM posted GROUP BY 1
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

-- A lane moves only through a transfer, as a balance does.
CREATE FUNCTION ledger_lane_guard() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'a lane goes on only through a ledger transfer';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_lane_guard AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger_lane
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_lane_guard();

-- ---------------------------------------------------------------------------------------------------------------
-- local: each step of each payout of this operator, in a chain of its own
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE local.payout_journal (
    position  BIGINT PRIMARY KEY CHECK (position > 0),
    payout_id UUID NOT NULL REFERENCES local.payout,
    state     TEXT NOT NULL,
    amount    u128 NOT NULL,
    -- SHA-256 of the payout's entries in their order
    entries   hash NOT NULL,
    -- SHA-256(link before it, 32 zero bytes at the first; its fields)
    link      hash NOT NULL
);
CREATE INDEX payout_journal_payout ON local.payout_journal (payout_id, position DESC);

CREATE FUNCTION local.payout_entries_digest(payout UUID) RETURNS BYTEA LANGUAGE sql STABLE AS $$
    SELECT sha256(coalesce(string_agg(public.ledger_field(position::text) || public.ledger_field(account)
        || public.ledger_field(amount::text) || public.ledger_field(debit_id), ''::bytea ORDER BY position), ''))
    FROM local.payout_entry WHERE payout_id = payout
$$;

CREATE FUNCTION local.payout_write_down(payout UUID, step TEXT, units NUMERIC) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    place BIGINT;
    before BYTEA;
    digest BYTEA := local.payout_entries_digest(payout);
BEGIN
    -- one after another, to the end of the transaction; the next statement sees what the one before has committed
    PERFORM pg_advisory_xact_lock(hashtextextended('tidemark/payout-journal', 0));
    SELECT position, link INTO place, before FROM local.payout_journal ORDER BY position DESC LIMIT 1;
    place := coalesce(place, 0) + 1;
    before := coalesce(before, decode(repeat('00', 32), 'hex'));
    INSERT INTO local.payout_journal (position, payout_id, state, amount, entries, link) VALUES (
        place, payout, step, units, digest,
        sha256(before || public.ledger_field(place::text) || public.ledger_field(uuid_send(payout))
            || public.ledger_field(step) || public.ledger_field(units::text) || public.ledger_field(digest))
    );
END $$;

-- At the end of the transaction, when the entries are there.
CREATE FUNCTION local.payout_journal_step() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    held NUMERIC;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.state = OLD.state THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(sum(amount), 0) INTO held FROM local.payout_entry WHERE payout_id = NEW.payout_id;
    IF held <> NEW.amount THEN
        RAISE EXCEPTION 'payout % does not balance: it pays %, its entries hold %', NEW.payout_id, NEW.amount, held;
    END IF;
    PERFORM local.payout_write_down(NEW.payout_id, NEW.state, NEW.amount);
    RETURN NULL;
END $$;
-- what is there is written down as it stands; its steps before today are not known
SELECT local.payout_write_down(payout_id, state, amount) FROM (
    SELECT payout_id, state, amount FROM local.payout ORDER BY created_at, payout_id
) AS payouts;
CREATE CONSTRAINT TRIGGER payout_journal_step AFTER INSERT OR UPDATE OF state ON local.payout
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION local.payout_journal_step();

CREATE FUNCTION local.payout_refuse() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME;
END $$;
CREATE TRIGGER payout_journal_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON local.payout_journal
    FOR EACH STATEMENT EXECUTE FUNCTION local.payout_refuse();
CREATE TRIGGER payout_entry_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON local.payout_entry
    FOR EACH STATEMENT EXECUTE FUNCTION local.payout_refuse();
CREATE TRIGGER payout_stays BEFORE DELETE OR TRUNCATE ON local.payout
    FOR EACH STATEMENT EXECUTE FUNCTION local.payout_refuse();
