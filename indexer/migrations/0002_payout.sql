-- Tables of payouts: points to cash, two phases, each step a row before it is taken. All of it is this operator's alone.

CREATE TABLE local.payout (
    payout_id    UUID PRIMARY KEY,
    provider     address NOT NULL,
    -- the provider's points treasury when the payout was made; it can't change on chain
    treasury     address NOT NULL,
    -- whom the rail pays; forgotten once the payout has ended
    destination  TEXT CHECK (char_length(destination) BETWEEN 1 AND 128),
    -- payment-token units
    amount       u128 NOT NULL CHECK (amount > 0),
    -- the same in whole points, which is what the rail pays
    points       BIGINT NOT NULL CHECK (points > 0),
    -- reserved: the entries are held · paying: the rail may have been asked · paid: the rail has paid ·
    -- redeeming: the transaction is signed · redeemed: it is sent, or was not needed · posted: the ledger has it ·
    -- voided: nobody was paid, the entries are free again · stuck: only an operator can tell
    state        TEXT NOT NULL DEFAULT 'reserved' CHECK (
        state IN ('reserved', 'paying', 'paid', 'redeeming', 'redeemed', 'posted', 'voided', 'stuck')
    ),
    -- where it got stuck
    stuck_in     TEXT CHECK (stuck_in IN ('paying', 'paid', 'redeeming', 'redeemed')),
    -- what happened last, for provider and operator
    note         TEXT,
    -- in a row, in this state
    failures     INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
    next_step_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT stuck_somewhere CHECK ((state = 'stuck') = (stuck_in IS NOT NULL)),
    CONSTRAINT destination_while_needed CHECK (destination IS NOT NULL OR state IN ('posted', 'voided'))
);
CREATE INDEX payout_next ON local.payout (next_step_at) WHERE state NOT IN ('posted', 'voided', 'stuck');

CREATE TABLE local.payout_entry (
    payout_id UUID NOT NULL REFERENCES local.payout,
    position  INTEGER NOT NULL CHECK (position BETWEEN 0 AND 199),
    -- points account: the per-record pseudonym
    account   hash NOT NULL,
    amount    u128 NOT NULL CHECK (amount > 0),
    -- keccak256(payout id ‖ account): PointsTreasury settles it once
    debit_id  hash NOT NULL UNIQUE,
    PRIMARY KEY (payout_id, position),
    UNIQUE (payout_id, account)
);
CREATE INDEX payout_entry_account ON local.payout_entry (account);

-- The first answer to an idempotency key, replayed byte for byte.
CREATE TABLE local.payout_request (
    provider        address NOT NULL,
    idempotency_key TEXT NOT NULL CHECK (char_length(idempotency_key) BETWEEN 1 AND 255),
    -- SHA-256 of the canonical body
    digest          hash NOT NULL,
    -- none where the answer was a refusal
    payout_id       UUID UNIQUE REFERENCES local.payout,
    status          SMALLINT NOT NULL CHECK (status BETWEEN 200 AND 499),
    answer          TEXT NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, idempotency_key)
);

-- Each time the rail was asked; written before asking, so that no answer means that nobody knows.
CREATE TABLE local.payout_attempt (
    payout_id  UUID NOT NULL REFERENCES local.payout,
    attempt    INTEGER NOT NULL CHECK (attempt > 0),
    outcome    TEXT CHECK (outcome IN ('paid', 'later', 'refused', 'unknown')),
    detail     TEXT,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    ended_at   TIMESTAMPTZ,
    PRIMARY KEY (payout_id, attempt),
    CHECK ((outcome IS NULL) = (ended_at IS NULL))
);

-- Redemptions sent to the chain; a nonce is a row, and the signed bytes are here before the chain sees them.
CREATE TABLE local.payout_transaction (
    chain_id  BIGINT NOT NULL,
    signer    address NOT NULL,
    nonce     BIGINT NOT NULL CHECK (nonce >= 0),
    payout_id UUID NOT NULL REFERENCES local.payout,
    tx_hash   hash NOT NULL,
    raw       BYTEA NOT NULL,
    -- sent: signed, and sent or about to be · mined · reverted · lost: another transaction took the nonce
    state     TEXT NOT NULL DEFAULT 'sent' CHECK (state IN ('sent', 'mined', 'reverted', 'lost')),
    signed_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, signer, nonce)
);
CREATE UNIQUE INDEX payout_transaction_live ON local.payout_transaction (payout_id) WHERE state IN ('sent', 'mined');

-- A payout takes only these steps. Above all: what the rail has paid is never voided.
CREATE FUNCTION local.payout_step() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.payout_id, NEW.provider, NEW.treasury, NEW.amount, NEW.points)
        IS DISTINCT FROM (OLD.payout_id, OLD.provider, OLD.treasury, OLD.amount, OLD.points) THEN
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
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER payout_step BEFORE UPDATE ON local.payout FOR EACH ROW EXECUTE FUNCTION local.payout_step();
