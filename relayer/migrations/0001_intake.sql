-- What was taken in: providers, their keys, contributors, consents, records and their events.

CREATE TABLE provider (
    account    bytea PRIMARY KEY CHECK (octet_length(account) = 20),
    name       text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9-]{2,32}$'),
    added_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_key (
    key_hash   bytea PRIMARY KEY CHECK (octet_length(key_hash) = 32),
    provider   bytea NOT NULL REFERENCES provider,
    issued_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

-- The secret makes a contributor's pseudonyms; sealed under the storage key.
CREATE TABLE contributor (
    provider      bytea NOT NULL REFERENCES provider,
    reference     text NOT NULL CHECK (octet_length(reference) BETWEEN 1 AND 600),
    sealed_secret bytea NOT NULL CHECK (octet_length(sealed_secret) = 72),
    PRIMARY KEY (provider, reference)
);

CREATE TABLE consent (
    consent_id  bytea PRIMARY KEY CHECK (octet_length(consent_id) = 32),
    provider    bytea NOT NULL REFERENCES provider,
    signed      jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);

-- Taken back by the contributor; settled once the chain says so too.
CREATE TABLE withdrawal (
    consent_id  bytea PRIMARY KEY REFERENCES consent,
    signature   bytea NOT NULL CHECK (octet_length(signature) = 65),
    received_at timestamptz NOT NULL DEFAULT now(),
    settled_at  timestamptz,
    error       text
);
CREATE INDEX withdrawal_unsettled ON withdrawal (received_at) WHERE settled_at IS NULL;

CREATE TABLE record (
    data_id               uuid PRIMARY KEY,
    provider              bytea NOT NULL REFERENCES provider,
    source_record_id      text NOT NULL CHECK (octet_length(source_record_id) BETWEEN 1 AND 512),
    door                  text NOT NULL CHECK (door IN ('upload', 'trace')),
    -- of what was sent: tells a retry from a conflict
    fingerprint           bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    contributor_reference text NOT NULL,
    contributor           bytea NOT NULL CHECK (octet_length(contributor) = 32),
    content_hash          bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    consent_id            bytea REFERENCES consent,
    task_id               bigint NOT NULL CHECK (task_id >= 0),
    reward                numeric(39, 0) NOT NULL CHECK (reward >= 0),
    payee                 bytea NOT NULL CHECK (octet_length(payee) = 20),
    outcome               text CHECK ((outcome IS NOT NULL) = (door = 'upload')),
    detail                text,
    metadata_root         bytea NOT NULL CHECK (octet_length(metadata_root) = 32),
    trace_seq             integer NOT NULL DEFAULT 0 CHECK (trace_seq BETWEEN 0 AND 100),
    next_sequence         integer NOT NULL CHECK (next_sequence >= 1),
    -- leaf of the newest sealed event
    tip_leaf              bytea CHECK (octet_length(tip_leaf) = 32),
    received_at           timestamptz NOT NULL DEFAULT now(),
    UNIQUE (provider, source_record_id),
    FOREIGN KEY (provider, contributor_reference) REFERENCES contributor
);
CREATE INDEX record_of_contributor ON record (provider, contributor_reference, data_id);
CREATE INDEX record_of_consent ON record (consent_id) WHERE consent_id IS NOT NULL;

CREATE TABLE event (
    position     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    data_id      uuid NOT NULL REFERENCES record,
    sequence     integer NOT NULL CHECK (sequence >= 0),
    provider     bytea NOT NULL REFERENCES provider,
    kind         smallint NOT NULL CHECK (kind BETWEEN 0 AND 5),
    contributor  bytea NOT NULL CHECK (octet_length(contributor) = 32),
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    consent_id   bytea NOT NULL CHECK (octet_length(consent_id) = 32),
    commitment   bytea NOT NULL CHECK (octet_length(commitment) = 32),
    salt         bytea NOT NULL CHECK (octet_length(salt) = 32),
    payload      text NOT NULL,
    occurred_at  bigint NOT NULL CHECK (occurred_at >= 0),
    task_id      bigint NOT NULL CHECK (task_id >= 0),
    reward       numeric(39, 0) NOT NULL CHECK (reward >= 0 AND (reward = 0 OR (kind = 1 AND task_id > 0))),
    payee        bytea NOT NULL CHECK (octet_length(payee) = 20),
    received_at  timestamptz NOT NULL DEFAULT now(),
    -- given when the batch is sealed
    batch_number bigint CHECK (batch_number >= 0),
    batch_index  integer CHECK (batch_index >= 0),
    previous     bytea CHECK (octet_length(previous) = 32),
    leaf         bytea CHECK (octet_length(leaf) = 32),
    PRIMARY KEY (data_id, sequence),
    UNIQUE (provider, batch_number, batch_index),
    CHECK ((sequence = 0) = (kind = 0)),
    CHECK (num_nulls(batch_number, batch_index, previous, leaf) IN (0, 4))
);
CREATE UNIQUE INDEX event_one_verdict ON event (data_id) WHERE kind IN (1, 2);
CREATE UNIQUE INDEX event_one_withdrawal ON event (data_id) WHERE kind = 4;
CREATE INDEX event_pending ON event (provider, position) WHERE batch_number IS NULL;

-- Full states of metadata that arrived by the Trace door, in whatever order.
CREATE TABLE metadata_update (
    provider           bytea NOT NULL REFERENCES provider,
    data_id            uuid NOT NULL,
    seq                integer NOT NULL CHECK (seq BETWEEN 1 AND 100),
    prev_metadata_root bytea NOT NULL CHECK (octet_length(prev_metadata_root) = 32),
    metadata_root      bytea NOT NULL CHECK (octet_length(metadata_root) = 32),
    content_hash       bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    metadata           text NOT NULL,
    occurred_at        bigint NOT NULL CHECK (occurred_at >= 0),
    fingerprint        bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    state              text NOT NULL CHECK (state IN ('waiting', 'applied', 'refused')),
    reason             text CHECK ((reason IS NOT NULL) = (state = 'refused')),
    received_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, data_id, seq)
);

-- Answers by X-Batch-Id, so that a retry gets the same one.
CREATE TABLE webhook_batch (
    provider    bytea NOT NULL REFERENCES provider,
    batch_id    text NOT NULL CHECK (octet_length(batch_id) BETWEEN 1 AND 200),
    body_hash   bytea NOT NULL CHECK (octet_length(body_hash) = 32),
    status      smallint NOT NULL,
    answer      jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, batch_id)
);

-- All rewards ever accepted here; what the chain has debited of them follows from the batches.
CREATE TABLE task_budget (
    task_id  bigint PRIMARY KEY CHECK (task_id > 0),
    reserved numeric(39, 0) NOT NULL CHECK (reserved >= 0)
);
