-- What the attestor said, so that it never says two things.

CREATE TABLE verdict (
    data_id      uuid PRIMARY KEY,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    mime_type    text NOT NULL,
    outcome      text NOT NULL,
    verdict      jsonb NOT NULL,
    facts        jsonb NOT NULL,
    decided_at   timestamptz NOT NULL DEFAULT now()
);

-- The consents that a record was submitted under; a batch names one of them.
CREATE TABLE seen_consent (
    data_id     uuid NOT NULL REFERENCES verdict,
    consent_id  bytea NOT NULL CHECK (octet_length(consent_id) = 32),
    provider    bytea NOT NULL CHECK (octet_length(provider) = 20),
    contributor bytea NOT NULL CHECK (octet_length(contributor) = 20),
    purposes    bigint NOT NULL CHECK (purposes BETWEEN 0 AND 4294967295),
    PRIMARY KEY (data_id, consent_id)
);

-- The same bytes are accepted once.
CREATE TABLE accepted_content (
    content_hash bytea PRIMARY KEY CHECK (octet_length(content_hash) = 32),
    data_id      uuid NOT NULL UNIQUE
);

CREATE TABLE signed_batch (
    provider  bytea NOT NULL CHECK (octet_length(provider) = 20),
    number    bigint NOT NULL CHECK (number >= 0),
    digest    bytea NOT NULL CHECK (octet_length(digest) = 32),
    header    jsonb NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 65),
    signed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, number)
);

-- Newest signed event of each record: the next one must continue it.
CREATE TABLE chain_tip (
    data_id  uuid PRIMARY KEY,
    provider bytea NOT NULL CHECK (octet_length(provider) = 20),
    sequence integer NOT NULL CHECK (sequence >= 0),
    kind     smallint NOT NULL CHECK (kind BETWEEN 0 AND 5),
    leaf     bytea NOT NULL CHECK (octet_length(leaf) = 32),
    -- its consent was withdrawn, or it was erased: it can be in no new dataset version
    is_gone  boolean NOT NULL
);

-- Each acceptance is in one signed batch only.
CREATE TABLE signed_acceptance (
    data_id      uuid PRIMARY KEY REFERENCES verdict,
    provider     bytea NOT NULL,
    number       bigint NOT NULL,
    event_index  integer NOT NULL CHECK (event_index >= 0),
    contributor  bytea NOT NULL CHECK (octet_length(contributor) = 32),
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    consent_id   bytea NOT NULL CHECK (octet_length(consent_id) = 32),
    payee        bytea NOT NULL CHECK (octet_length(payee) = 20),
    reward       numeric(39, 0) NOT NULL CHECK (reward >= 0),
    FOREIGN KEY (provider, number) REFERENCES signed_batch
);

-- Where the bytes of a registered record are, as its signed registration says.
CREATE TABLE signed_delivery (
    data_id        uuid PRIMARY KEY,
    ciphertext_cid text NOT NULL,
    key_cid        text NOT NULL,
    purposes       bigint NOT NULL CHECK (purposes BETWEEN 0 AND 4294967295)
);

-- One version may be signed with several contents; the chain takes one.
CREATE TABLE signed_version (
    ip_id     bytea NOT NULL CHECK (octet_length(ip_id) = 32),
    version   bigint NOT NULL CHECK (version > 0),
    digest    bytea NOT NULL CHECK (octet_length(digest) = 32),
    content   jsonb NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 65),
    signed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (ip_id, version, digest)
);
