-- Trace's read side: what its search, lists and counts are answered from. Schema public stays a pure function of chain and
-- content store: rows follow from what is disclosed, and go in the transaction that takes the disclosure away.

-- A text that can be searched for. Longer ones are kept with the record and found by its id alone: keys of an index have an end.
CREATE DOMAIN trace_term AS TEXT COLLATE "C" CHECK (octet_length(VALUE) BETWEEN 1 AND 512);

-- A record whose registration is disclosed and which is not erased, in its newest state. Letters are folded as search folds them.
CREATE TABLE trace_record (
    provider               address NOT NULL,
    data_id                UUID NOT NULL,
    -- batch of the registration
    number                 BIGINT NOT NULL,
    block_number           BIGINT NOT NULL,
    -- log_index * 2^32 + index: orders the registrations of a block
    place                  BIGINT NOT NULL CHECK (place >= 0),
    source_record_id       trace_term NOT NULL,
    content_hash           hash NOT NULL,
    mime_type              trace_term,
    media_category         trace_term,
    collection_id          trace_term,
    customer_id            trace_term,
    task_id                trace_term,
    anon_id                trace_term,
    kyc_status             trace_term,
    kyc_country            trace_term,
    geo_region             trace_term,
    tos_hash               trace_term,
    privacy_policy_hash    trace_term,
    -- counted, not searched
    tax_status             trace_term,
    account_verification   trace_term,
    tos_version            trace_term,
    privacy_policy_version trace_term,
    size_bytes             BIGINT CHECK (size_bytes > 0),
    -- 64 bits of SHA-256 over provider, column and value: an index of these takes half the room and half the time to keep of
    -- one of the texts; readers compare the text as well
    content_hash_key           BIGINT NOT NULL,
    mime_type_key              BIGINT,
    media_category_key         BIGINT,
    collection_id_key          BIGINT,
    customer_id_key            BIGINT,
    task_id_key                BIGINT,
    anon_id_key                BIGINT,
    kyc_status_key             BIGINT,
    kyc_country_key            BIGINT,
    geo_region_key             BIGINT,
    tos_hash_key               BIGINT,
    privacy_policy_hash_key    BIGINT,
    PRIMARY KEY (provider, data_id),
    UNIQUE (provider, block_number, place),
    FOREIGN KEY (provider, data_id) REFERENCES record,
    FOREIGN KEY (provider, number) REFERENCES batch,
    CHECK (((mime_type IS NULL) = (mime_type_key IS NULL))
        AND ((media_category IS NULL) = (media_category_key IS NULL))
        AND ((collection_id IS NULL) = (collection_id_key IS NULL))
        AND ((customer_id IS NULL) = (customer_id_key IS NULL))
        AND ((task_id IS NULL) = (task_id_key IS NULL))
        AND ((anon_id IS NULL) = (anon_id_key IS NULL))
        AND ((kyc_status IS NULL) = (kyc_status_key IS NULL))
        AND ((kyc_country IS NULL) = (kyc_country_key IS NULL))
        AND ((geo_region IS NULL) = (geo_region_key IS NULL))
        AND ((tos_hash IS NULL) = (tos_hash_key IS NULL))
        AND ((privacy_policy_hash IS NULL) = (privacy_policy_hash_key IS NULL)))
);
-- one for each field that search knows, in the order of its pages; a source record id gives its data id
CREATE INDEX trace_record_content_hash ON trace_record (content_hash_key, block_number, place);
CREATE INDEX trace_record_mime_type ON trace_record (mime_type_key, block_number, place)
    WHERE mime_type_key IS NOT NULL;
CREATE INDEX trace_record_media_category ON trace_record (media_category_key, block_number, place)
    WHERE media_category_key IS NOT NULL;
CREATE INDEX trace_record_collection_id ON trace_record (collection_id_key, block_number, place)
    WHERE collection_id_key IS NOT NULL;
CREATE INDEX trace_record_customer_id ON trace_record (customer_id_key, block_number, place)
    WHERE customer_id_key IS NOT NULL;
CREATE INDEX trace_record_task_id ON trace_record (task_id_key, block_number, place) WHERE task_id_key IS NOT NULL;
CREATE INDEX trace_record_anon_id ON trace_record (anon_id_key, block_number, place) WHERE anon_id_key IS NOT NULL;
CREATE INDEX trace_record_kyc_status ON trace_record (kyc_status_key, block_number, place)
    WHERE kyc_status_key IS NOT NULL;
CREATE INDEX trace_record_kyc_country ON trace_record (kyc_country_key, block_number, place)
    WHERE kyc_country_key IS NOT NULL;
CREATE INDEX trace_record_geo_region ON trace_record (geo_region_key, block_number, place)
    WHERE geo_region_key IS NOT NULL;
CREATE INDEX trace_record_tos_hash ON trace_record (tos_hash_key, block_number, place) WHERE tos_hash_key IS NOT NULL;
CREATE INDEX trace_record_privacy_policy_hash ON trace_record (privacy_policy_hash_key, block_number, place)
    WHERE privacy_policy_hash_key IS NOT NULL;

-- A disclosed update of such a record; the registration is the record's own row.
CREATE TABLE trace_update (
    provider     address NOT NULL,
    data_id      UUID NOT NULL,
    -- place in the record's chain of events
    sequence     BIGINT NOT NULL CHECK (sequence > 0),
    -- Trace's own, 1 to 100 where the provider keeps to it
    seq          BIGINT NOT NULL,
    number       BIGINT NOT NULL,
    block_number BIGINT NOT NULL,
    place        BIGINT NOT NULL CHECK (place >= 0),
    PRIMARY KEY (provider, data_id, sequence),
    UNIQUE (provider, block_number, place),
    FOREIGN KEY (provider, data_id) REFERENCES trace_record ON DELETE CASCADE
);

-- How many records of trace_record have a value, by provider; the zero address stands for all of them.
CREATE TABLE trace_count (
    provider address NOT NULL,
    field    TEXT NOT NULL CHECK (field IN ('anon_id', 'kyc_status', 'account_verification', 'tax_status', 'tos_version',
        'privacy_policy_version', 'media_category', 'mime_type', 'geo_region')),
    value    trace_term NOT NULL,
    records  BIGINT NOT NULL CHECK (records >= 0),
    PRIMARY KEY (provider, field, value)
);
CREATE INDEX trace_count_most ON trace_count (provider, field, records DESC, value) WHERE field <> 'anon_id';

-- Sums over trace_record; no row where a provider has none.
CREATE TABLE trace_total (
    provider     address PRIMARY KEY REFERENCES provider,
    records      BIGINT NOT NULL CHECK (records >= 0),
    -- different values of anon_id
    contributors BIGINT NOT NULL CHECK (contributors >= 0 AND contributors <= records),
    size_records BIGINT NOT NULL CHECK (size_records >= 0 AND size_records <= records),
    size_total   NUMERIC(39, 0) NOT NULL CHECK (size_total >= size_records)
);

-- Records from before these tables, until the indexer has taken them in.
CREATE TABLE local.trace_fill (
    provider address NOT NULL,
    data_id  UUID NOT NULL,
    PRIMARY KEY (provider, data_id)
);
INSERT INTO local.trace_fill (provider, data_id)
    SELECT provider, data_id FROM record WHERE source_record_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------
-- scoped groups: one operator's own
-- ---------------------------------------------------------------------------------------------------------------

-- A list that somebody may upload once to the address that he was given.
CREATE TABLE local.scoped_upload (
    upload_id  UUID PRIMARY KEY,
    -- SHA-256 of the token in the address
    token_hash hash NOT NULL,
    format     TEXT NOT NULL CHECK (format IN ('csv', 'txt')),
    -- NULL until it is uploaded
    body       BYTEA CHECK (octet_length(body) <= 5242880),
    expires_at TIMESTAMPTZ NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX scoped_upload_expires_at ON local.scoped_upload (expires_at);

CREATE TABLE local.scoped_group (
    group_id           TEXT PRIMARY KEY CHECK (group_id ~ '^sg_[0-9a-f]{32}$'),
    -- SHA-256 of the client's address and its Idempotency-Key
    idempotency        hash UNIQUE,
    -- SHA-256 of the request's body
    request            hash NOT NULL,
    title              TEXT,
    description        TEXT,
    manifest_kind      TEXT NOT NULL CHECK (manifest_kind IN ('source_record', 'hash')),
    status             TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'processing', 'complete', 'failed')),
    -- why it failed
    error              TEXT,
    -- what was asked for, until it is computed
    input              JSONB,
    submitted_items    BIGINT NOT NULL CHECK (submitted_items >= unique_items),
    unique_items       BIGINT NOT NULL CHECK (unique_items > 0),
    -- items with at least one record, and records, when it was computed
    matched_items      BIGINT,
    matched_receipts   BIGINT,
    attempts           BIGINT NOT NULL DEFAULT 0,
    created_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    computed_at        TIMESTAMPTZ,
    -- the block that it was computed at
    block_number       BIGINT,
    block_hash         BYTEA,
    CHECK ((status = 'failed') = (error IS NOT NULL)),
    CHECK ((status IN ('pending', 'processing')) = (input IS NOT NULL)),
    CHECK ((status = 'complete') = (computed_at IS NOT NULL AND matched_items IS NOT NULL AND matched_receipts IS NOT NULL
        AND block_number IS NOT NULL))
);
CREATE INDEX scoped_group_waiting ON local.scoped_group (created_at) WHERE status IN ('pending', 'processing');
CREATE INDEX scoped_group_created_at ON local.scoped_group (created_at);

-- A record of a group as it was when the group was computed; gone with what is disclosed of the record.
CREATE TABLE local.scoped_item (
    group_id               TEXT NOT NULL REFERENCES local.scoped_group ON DELETE CASCADE,
    position               BIGINT NOT NULL,
    -- the source record id or hash that was asked for
    input                  TEXT NOT NULL,
    -- NULL where nothing has that hash
    provider               address,
    data_id                UUID,
    source_record_id       TEXT,
    asset_hash             hash,
    lifecycle_status       TEXT,
    mime_type              TEXT,
    media_category         TEXT,
    kyc_status             TEXT,
    geo_region             TEXT,
    tos_version            TEXT,
    privacy_policy_version TEXT,
    size_bytes             BIGINT,
    tx_hash                hash,
    PRIMARY KEY (group_id, position),
    FOREIGN KEY (provider, data_id) REFERENCES trace_record ON DELETE CASCADE,
    CHECK ((provider IS NULL) = (data_id IS NULL) AND (provider IS NULL) = (tx_hash IS NULL))
);
CREATE INDEX scoped_item_record ON local.scoped_item (provider, data_id);
