-- What a point is worth and when, how long new points are held back, rails beside the partner's, and no payout over what its
-- account has. All of it is this operator's alone.

-- A text as a range, so that a constraint can exclude by name and by time: with btree_gist it would need an extension.
CREATE TYPE local.name_range AS RANGE (SUBTYPE = text, COLLATION = "C");

-- So many minor units of a currency for so many points, at its time.
CREATE TABLE local.payout_rate (
    rate_id  UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    provider address NOT NULL,
    -- an ISO 4217 code, or the address of a token
    currency TEXT NOT NULL CHECK (currency ~ '^([A-Z]{3}|0x[0-9a-f]{40})$'),
    -- cents of a euro, won, base units of a token
    minor    u128 NOT NULL CHECK (minor > 0),
    points   BIGINT NOT NULL CHECK (points > 0),
    -- without an end: until another command ends it
    valid    TSTZRANGE NOT NULL CHECK (lower_inc(valid) AND NOT upper_inc(valid) AND NOT isempty(valid)),
    CONSTRAINT one_rate_at_a_time EXCLUDE USING gist (
        local.name_range(encode(provider, 'hex') || currency, encode(provider, 'hex') || currency, '[]') WITH &&,
        valid WITH &&
    ),
    -- for the payouts that were made by it
    UNIQUE (rate_id, provider, currency, minor, points)
);

-- What was valid stays as it was: a rate may be ended from now on, and is never another one.
CREATE FUNCTION local.payout_rate_step() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.rate_id, NEW.provider, NEW.currency, NEW.minor, NEW.points, lower(NEW.valid))
            IS NOT DISTINCT FROM (OLD.rate_id, OLD.provider, OLD.currency, OLD.minor, OLD.points, lower(OLD.valid))
        AND coalesce(upper(OLD.valid), 'infinity') >= now() AND upper(NEW.valid) >= now()
        AND upper(NEW.valid) <= coalesce(upper(OLD.valid), 'infinity') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a rate can only be ended, not before now and not later than it ends already';
END $$;
CREATE TRIGGER payout_rate_step BEFORE UPDATE OR DELETE ON local.payout_rate
    FOR EACH ROW EXECUTE FUNCTION local.payout_rate_step();

-- Points that were earned less than so long ago, by the time of their block, can't be asked for yet.
CREATE TABLE local.payout_hold (
    provider address PRIMARY KEY,
    seconds  BIGINT NOT NULL CHECK (seconds BETWEEN 0 AND 31622400)
);

ALTER TABLE local.payout
    -- which rail pays it, whatever the operator switches on or off later
    ADD COLUMN rail TEXT NOT NULL DEFAULT 'partner' CHECK (rail IN ('partner', 'bank', 'token')),
    -- what the rail pays where that is not points, by the rate that was valid when the payout was asked for
    ADD COLUMN currency TEXT,
    ADD COLUMN minor u128,
    ADD COLUMN rate_id UUID,
    ADD COLUMN rate_minor u128,
    ADD COLUMN rate_points BIGINT,
    -- what a bank wants to know beside the account; forgotten with the destination
    ADD COLUMN recipient_name TEXT CHECK (char_length(recipient_name) BETWEEN 1 AND 70),
    ADD COLUMN recipient_bic TEXT CHECK (recipient_bic ~ '^[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?$'),
    ADD CONSTRAINT paid_by_a_rate_exactly CHECK (
        CASE num_nonnulls(currency, minor, rate_id, rate_minor, rate_points)
            WHEN 0 THEN rail = 'partner'
            WHEN 5 THEN minor > 0 AND minor::numeric * rate_points = points::numeric * rate_minor
                AND (rail = 'token') = starts_with(currency, '0x')
            ELSE FALSE
        END
    ),
    ADD CONSTRAINT payout_rate_is_a_row FOREIGN KEY (rate_id, provider, currency, rate_minor, rate_points)
        REFERENCES local.payout_rate (rate_id, provider, currency, minor, points),
    ADD CONSTRAINT recipient_goes_with_destination CHECK (
        destination IS NOT NULL OR num_nonnulls(recipient_name, recipient_bic) = 0
    );

CREATE FUNCTION local.payout_begins() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.rate_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM local.payout_rate WHERE rate_id = NEW.rate_id AND valid @> NEW.created_at
    ) THEN
        RAISE EXCEPTION 'payout %: its rate is not valid when it is made', NEW.payout_id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payout_begins BEFORE INSERT ON local.payout FOR EACH ROW EXECUTE FUNCTION local.payout_begins();

-- accepted: taken on, and paid or refused later · never: this very payment was refused for good · doubt: only a person can tell
ALTER TABLE local.payout_attempt DROP CONSTRAINT payout_attempt_outcome_check;
ALTER TABLE local.payout_attempt ADD CONSTRAINT payout_attempt_outcome_check
    CHECK (outcome IN ('paid', 'later', 'refused', 'unknown', 'accepted', 'never', 'doubt'));

-- ---------------------------------------------------------------------------------------------------------------
-- bank: a file for each payout, and what the bank reports of it
-- ---------------------------------------------------------------------------------------------------------------

-- Written when the file is complete in `ready`, before it is moved to `outgoing`: a row whose file is not in `ready` any more
-- was handed over.
CREATE TABLE local.payout_file (
    payout_id  UUID PRIMARY KEY REFERENCES local.payout,
    -- MsgId, PmtInfId and EndToEndId
    message_id TEXT NOT NULL UNIQUE CHECK (message_id ~ '^[A-Za-z0-9]{1,35}$'),
    -- its name in `ready`, new for each making: a copy that another process made later is never handed over
    made_as    TEXT NOT NULL UNIQUE CHECK (starts_with(made_as, message_id || '.')),
    -- SHA-256 of the file
    digest     hash NOT NULL,
    made_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TRIGGER payout_file_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON local.payout_file
    FOR EACH STATEMENT EXECUTE FUNCTION local.payout_refuse();

-- What a pain.002 said of a payout.
CREATE TABLE local.payout_report (
    payout_id UUID NOT NULL REFERENCES local.payout_file,
    -- SHA-256 of the report
    report    hash NOT NULL,
    -- the bank's code, and its reason's
    status    TEXT NOT NULL CHECK (status ~ '^[A-Z0-9]{1,4}$'),
    reason    TEXT CHECK (char_length(reason) BETWEEN 1 AND 35),
    outcome   TEXT NOT NULL CHECK (outcome IN ('pending', 'paid', 'refused', 'doubt')),
    read_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (payout_id, report, status)
);
CREATE TRIGGER payout_report_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON local.payout_report
    FOR EACH STATEMENT EXECUTE FUNCTION local.payout_refuse();

-- ---------------------------------------------------------------------------------------------------------------
-- token: a transfer for each payout
-- ---------------------------------------------------------------------------------------------------------------

-- Signed and kept before the chain sees it. One row and so one nonce for a payout, for ever.
CREATE TABLE local.payout_transfer (
    payout_id UUID PRIMARY KEY REFERENCES local.payout,
    chain_id  BIGINT NOT NULL,
    signer    address NOT NULL,
    nonce     BIGINT NOT NULL CHECK (nonce >= 0),
    token     address NOT NULL,
    amount    u128 NOT NULL CHECK (amount > 0),
    -- of everything that was signed under this nonce, the newest last: a higher fee makes another hash
    tx_hashes BYTEA[] NOT NULL CHECK (cardinality(tx_hashes) BETWEEN 1 AND 64),
    -- the newest, signed
    raw       BYTEA NOT NULL,
    -- sent: signed, and sent or about to be · paid, failed: in a final block · lost: another transaction has the nonce, for good
    state     TEXT NOT NULL DEFAULT 'sent' CHECK (state IN ('sent', 'paid', 'failed', 'lost')),
    signed_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (chain_id, signer, nonce)
);

CREATE FUNCTION local.payout_transfer_step() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (NEW.payout_id, NEW.chain_id, NEW.signer, NEW.nonce, NEW.token, NEW.amount)
            IS DISTINCT FROM (OLD.payout_id, OLD.chain_id, OLD.signer, OLD.nonce, OLD.token, OLD.amount)
        OR NOT NEW.tx_hashes @> OLD.tx_hashes
        OR (NEW.state <> OLD.state AND (OLD.state IN ('paid', 'failed') OR NEW.state = 'sent')) THEN
        RAISE EXCEPTION 'payout %: a transfer is one nonce and one amount for ever, and its end is the end', OLD.payout_id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payout_transfer_step BEFORE UPDATE OR DELETE ON local.payout_transfer
    FOR EACH ROW EXECUTE FUNCTION local.payout_transfer_step();

-- As in 0002; besides, a payout keeps its rail and its rate, and what may still be paid on chain is not voided.
CREATE OR REPLACE FUNCTION local.payout_step() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.payout_id, NEW.provider, NEW.treasury, NEW.amount, NEW.points, NEW.rail, NEW.currency, NEW.minor, NEW.rate_id,
            NEW.rate_minor, NEW.rate_points, NEW.created_at)
        IS DISTINCT FROM (OLD.payout_id, OLD.provider, OLD.treasury, OLD.amount, OLD.points, OLD.rail, OLD.currency, OLD.minor,
            OLD.rate_id, OLD.rate_minor, OLD.rate_points, OLD.created_at) THEN
        RAISE EXCEPTION 'what a payout pays is never changed';
    END IF;
    -- in brackets, or THEN would end the IF
    IF NEW.state <> OLD.state AND NOT (CASE OLD.state
        WHEN 'reserved' THEN NEW.state IN ('paying', 'voided')
        WHEN 'paying' THEN NEW.state IN ('paid', 'voided', 'stuck')
        WHEN 'paid' THEN NEW.state IN ('redeeming', 'redeemed', 'stuck')
        WHEN 'redeeming' THEN NEW.state IN ('redeemed', 'paid', 'stuck')
        WHEN 'redeemed' THEN NEW.state IN ('posted', 'paid', 'stuck')
        WHEN 'stuck' THEN NEW.state = OLD.stuck_in OR (OLD.stuck_in = 'paying' AND NEW.state IN ('paid', 'voided'))
        ELSE FALSE
    END) THEN
        RAISE EXCEPTION 'payout %: no step leads from % to %', OLD.payout_id, OLD.state, NEW.state;
    END IF;
    IF NEW.state = 'voided' AND OLD.state <> 'voided' AND EXISTS (
        SELECT FROM local.payout_transfer AS t WHERE t.payout_id = OLD.payout_id AND t.state IN ('sent', 'paid')
    ) THEN
        RAISE EXCEPTION 'payout %: its transfer is signed and may be mined, so it is not voided', OLD.payout_id;
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

-- ---------------------------------------------------------------------------------------------------------------
-- no payout over what its accounts have
-- ---------------------------------------------------------------------------------------------------------------

-- The ledger's balance of accounts, what open payouts hold of it, what was redeemed on chain and waits for the ledger, and
-- what was earned too short a time ago. Free is what remains.
CREATE FUNCTION local.payout_room(of_provider BYTEA, accounts BYTEA[])
    RETURNS TABLE (account BYTEA, balance NUMERIC, held NUMERIC, waiting NUMERIC, on_hold NUMERIC) LANGUAGE sql STABLE AS $$
    SELECT asked.key, coalesce(a.balance, 0), open.held, redeemed.waiting, young.on_hold
    FROM unnest(accounts) AS asked (key)
    LEFT JOIN public.ledger_account AS a ON a.provider = of_provider AND a.kind = 'contributor' AND a.key = asked.key
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(entry.amount), 0) AS held
        FROM local.payout_entry AS entry JOIN local.payout AS p USING (payout_id)
        WHERE p.provider = of_provider AND entry.account = asked.key AND p.state <> 'voided'
            AND NOT EXISTS (
                SELECT FROM public.points_redeemed AS mirrored
                WHERE mirrored.provider = p.provider AND mirrored.payout_id = entry.debit_id
            )
    ) AS open
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(r.amount), 0) AS waiting FROM public.points_redeemed AS r
        WHERE r.provider = of_provider AND r.account = asked.key AND r.state = 'waiting'
    ) AS redeemed
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(t.amount), 0) AS on_hold
        FROM public.ledger_transfer AS t JOIN local.payout_hold AS h ON h.provider = t.provider
        WHERE t.provider = of_provider AND t.account = asked.key AND t.cause <> 'redeem'
            AND t.block_time + h.seconds > extract(epoch FROM now())
    ) AS young
$$;

-- Entries are never changed and payouts never come back from voided, so what is held grows only here.
CREATE FUNCTION local.payout_within_balance() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    p RECORD;
    over RECORD;
BEGIN
    -- with an older snapshot, what another payout took meanwhile would not be seen
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'serializable') THEN
        RAISE EXCEPTION 'payouts are taken in under read committed or serializable';
    END IF;
    FOR p IN
        SELECT payout.provider, array_agg(DISTINCT added.account::bytea) AS accounts
        FROM added JOIN local.payout USING (payout_id) GROUP BY payout.provider ORDER BY payout.provider
    LOOP
        -- one payout of a provider after another; the next statement sees what the one before has committed
        PERFORM pg_advisory_xact_lock(hashtextextended('tidemark/payout-provider/0x' || encode(p.provider, 'hex'), 0));
        SELECT * INTO over FROM local.payout_room(p.provider, p.accounts) AS room
        WHERE room.balance - room.held - room.waiting < 0 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'account 0x% has %, and payouts hold % and redemptions wait for % of it',
                encode(over.account, 'hex'), over.balance, over.held, over.waiting
                USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_within_balance', TABLE = 'payout_entry';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER payout_within_balance AFTER INSERT ON local.payout_entry
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION local.payout_within_balance();
