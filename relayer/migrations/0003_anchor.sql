-- Transactions: intent first, then signed, then broadcast; a nonce is a row.

CREATE TABLE nonce_lane (
    chain_id   bigint NOT NULL,
    signer     bytea NOT NULL CHECK (octet_length(signer) = 20),
    next_nonce bigint NOT NULL CHECK (next_nonce >= 0),
    PRIMARY KEY (chain_id, signer)
);

CREATE TABLE transaction (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id     bigint NOT NULL,
    signer       bytea NOT NULL CHECK (octet_length(signer) = 20),
    nonce        bigint NOT NULL CHECK (nonce >= 0),
    -- what it is for
    provider     bytea CHECK (octet_length(provider) = 20),
    number       bigint CHECK (number >= 0),
    consent_id   bytea CHECK (octet_length(consent_id) = 32),
    target       bytea NOT NULL CHECK (octet_length(target) = 20),
    input        bytea NOT NULL,
    gas          bigint NOT NULL CHECK (gas > 0),
    -- lost: another transaction of this key took the nonce
    state        text NOT NULL CHECK (state IN ('intent', 'submitted', 'mined', 'final', 'reverted', 'lost')),
    mined_hash   bytea CHECK (octet_length(mined_hash) = 32),
    block_number bigint,
    block_hash   bytea CHECK (octet_length(block_hash) = 32),
    gas_used     bigint,
    error        text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (chain_id, signer, nonce),
    CHECK ((provider IS NULL) = (number IS NULL) AND (provider IS NULL) <> (consent_id IS NULL)),
    CHECK ((state IN ('mined', 'final')) <= (num_nulls(mined_hash, block_number, block_hash) = 0))
);
CREATE UNIQUE INDEX transaction_one_anchor ON transaction (provider, number) WHERE state NOT IN ('reverted', 'lost');
CREATE UNIQUE INDEX transaction_one_withdrawal ON transaction (consent_id) WHERE state NOT IN ('reverted', 'lost');
CREATE INDEX transaction_open ON transaction (nonce) WHERE state IN ('intent', 'submitted', 'mined');

-- Every signed form of a transaction: a replacement does not make the first one impossible.
CREATE TABLE attempt (
    hash            bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    transaction_id  bigint NOT NULL REFERENCES transaction,
    raw             bytea NOT NULL,
    max_fee_wei     numeric(39, 0) NOT NULL CHECK (max_fee_wei >= 0),
    tip_wei         numeric(39, 0) NOT NULL CHECK (tip_wei >= 0),
    signed_at_block bigint NOT NULL,
    signed_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX attempt_of_transaction ON attempt (transaction_id);
