-- Who may write and read until when, what a provider's metadata is checked against, and answers kept for retries.

-- How far a provider's own words count: its signatures under metadata, the policies that metadata names, and whether an
-- API key alone may speak for it.
ALTER TABLE provider
    ADD COLUMN attestation text NOT NULL DEFAULT 'none' CHECK (attestation IN ('none', 'record', 'enforce')),
    ADD COLUMN key_url     text CHECK (octet_length(key_url) BETWEEN 1 AND 2048),
    ADD COLUMN policies    text NOT NULL DEFAULT 'record' CHECK (policies IN ('record', 'enforce')),
    ADD COLUMN signed_requests boolean NOT NULL DEFAULT false,
    ADD CHECK ((attestation = 'none' AND NOT signed_requests) OR key_url IS NOT NULL);

-- Keys from before may do what they could: everything, without an end.
ALTER TABLE api_key
    ADD COLUMN name         text CHECK (octet_length(name) BETWEEN 1 AND 64),
    ADD COLUMN scopes       text[] NOT NULL DEFAULT '{records,uploads,withdrawals,read}'
        CHECK (cardinality(scopes) > 0 AND scopes <@ '{records,uploads,withdrawals,read}'),
    ADD COLUMN expires_at   timestamptz,
    -- to the minute: a write for every request would cost more than the request
    ADD COLUMN last_used_at timestamptz;
UPDATE api_key SET name = 'key-' || left(encode(key_hash, 'hex'), 8);
ALTER TABLE api_key ALTER COLUMN name SET NOT NULL, ALTER COLUMN scopes DROP DEFAULT;
CREATE UNIQUE INDEX api_key_name ON api_key (provider, name) WHERE revoked_at IS NULL;

-- Terms of service and privacy policies as the provider registered them, each one it ever had.
CREATE TABLE provider_policy (
    position     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider     bytea NOT NULL REFERENCES provider,
    kind         text NOT NULL CHECK (kind IN ('tos', 'privacy_policy')),
    version      text NOT NULL CHECK (octet_length(version) BETWEEN 1 AND 64),
    hash         bytea NOT NULL CHECK (octet_length(hash) = 32),
    uri          text NOT NULL CHECK (octet_length(uri) BETWEEN 1 AND 2048),
    -- Unix seconds
    effective_at bigint CHECK (effective_at >= 0),
    received_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX provider_policy_newest ON provider_policy (provider, kind, position DESC);
CREATE INDEX provider_policy_hash ON provider_policy (provider, hash);

-- Keys that providers sign metadata with, as they were when first seen: the same key_id never stands for another key.
CREATE TABLE attestation_key (
    provider      bytea NOT NULL REFERENCES provider,
    key_id        text NOT NULL CHECK (octet_length(key_id) BETWEEN 1 AND 256),
    algorithm     text NOT NULL CHECK (algorithm IN ('EdDSA', 'ES256', 'ES256K')),
    public_key    bytea NOT NULL CHECK (octet_length(public_key) = CASE algorithm WHEN 'EdDSA' THEN 32 ELSE 33 END),
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, key_id)
);

-- What was found of a state of metadata: seq 0 is the registration, as in Trace. An update may be here before its
-- record.
CREATE TABLE metadata_check (
    provider    bytea NOT NULL REFERENCES provider,
    data_id     uuid NOT NULL,
    seq         integer NOT NULL CHECK (seq BETWEEN 0 AND 100),
    -- null: the provider's attestations were not looked at
    attestation text CHECK (attestation IN ('verified', 'absent', 'refused')),
    key_id      text CHECK ((key_id IS NOT NULL) = (attestation IS NOT DISTINCT FROM 'verified')),
    reason      text CHECK ((reason IS NOT NULL) = (attestation IS NOT DISTINCT FROM 'refused')),
    -- whether the policies that it names are the provider's; null: it names none
    policies    boolean,
    checked_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, data_id, seq),
    CHECK (num_nonnulls(attestation, policies) > 0)
);

-- Answers by Idempotency-Key; without a status the first request is still under way, or was broken off.
CREATE TABLE idempotency (
    provider    bytea NOT NULL REFERENCES provider,
    key         text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    -- which request holds the key: one that was thought dead must not answer for its successor
    holder      uuid NOT NULL,
    status      smallint CHECK (status BETWEEN 200 AND 299),
    answer      text CHECK ((answer IS NULL) = (status IS NULL)),
    started_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, key)
);
CREATE INDEX idempotency_age ON idempotency (started_at);
