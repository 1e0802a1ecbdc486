-- What the read API needs beyond Trace: near-duplicates by perceptual hash, what a wallet earned, licences in order, and logins.

-- A 64-bit perceptual hash that a record's newest disclosed metadata names (trace-v1.0, file.hashes); gone once it is erased.
CREATE TABLE perceptual_hash (
    provider address NOT NULL,
    data_id  UUID NOT NULL,
    -- 0 phash64, 1 dhash64, 2 ahash64, 3 keyframe_phashes
    kind     SMALLINT NOT NULL CHECK (kind BETWEEN 0 AND 3),
    -- place among the keyframes, else 0
    position SMALLINT NOT NULL CHECK (position >= 0 AND (position = 0 OR kind = 3)),
    hash     BIGINT NOT NULL,
    PRIMARY KEY (provider, data_id, kind, position),
    FOREIGN KEY (provider, data_id) REFERENCES record
);
-- Multi-index hashing: of four bands of 16 bits, one differs in at most a quarter of the bits that the whole differs in.
CREATE INDEX perceptual_hash_band_0 ON perceptual_hash (kind, ((hash >> 48) & 65535));
CREATE INDEX perceptual_hash_band_1 ON perceptual_hash (kind, ((hash >> 32) & 65535));
CREATE INDEX perceptual_hash_band_2 ON perceptual_hash (kind, ((hash >> 16) & 65535));
CREATE INDEX perceptual_hash_band_3 ON perceptual_hash (kind, (hash & 65535));

-- Records that are here already, as manifest::perceptual reads them. Postgres does not take JSON apart that holds U+0000.
INSERT INTO perceptual_hash (provider, data_id, kind, position, hash)
    SELECT provider, data_id, kind, position, ('x' || hash)::bit(64)::bigint
    FROM (SELECT provider, data_id, metadata #> '{file,hashes}' AS hashes FROM record
        WHERE CASE WHEN strpos(metadata::text, '\u0000') = 0 THEN json_typeof(metadata #> '{file,hashes}') = 'object' END) AS named
    CROSS JOIN LATERAL (
        SELECT kind, 0 AS position, hashes ->> name AS hash
        FROM (VALUES (0, 'phash64'), (1, 'dhash64'), (2, 'ahash64')) AS single (kind, name)
        WHERE json_typeof(hashes -> name) = 'string'
        UNION ALL
        SELECT 3, (place - 1)::int, frame #>> '{}'
        FROM json_array_elements(
                CASE WHEN json_typeof(hashes -> 'keyframe_phashes') = 'array' THEN hashes -> 'keyframe_phashes' ELSE '[]' END
            ) WITH ORDINALITY AS frames (frame, place)
        WHERE place <= 64 AND json_typeof(frame) = 'string'
    ) AS found
    WHERE hash ~ '^[0-9a-fA-F]{16}$';

-- What may not be used any more, and what a wallet earned.
CREATE INDEX record_gone ON record (provider, data_id) WHERE status IN ('withdrawn', 'erased');
-- no hash index: one consent of a million members would be one bucket of a million
CREATE INDEX dataset_member_consent_id ON dataset_member (consent_id, ip_id, version);
CREATE INDEX record_payee ON record (payee, number, data_id) WHERE payee <> '\x0000000000000000000000000000000000000000';
CREATE INDEX dataset_member_payee ON dataset_member (payee, ip_id, version, position)
    WHERE payee <> '\x0000000000000000000000000000000000000000';
CREATE INDEX reward_claim_payee ON reward_claim (payee, block_number DESC);
CREATE INDEX royalty_claim_payee ON royalty_claim (payee, block_number DESC);
CREATE INDEX credit_payment_account ON credit_payment (account, block_number DESC);
CREATE INDEX license_place ON license (block_number DESC, license_id DESC);

-- A nonce that was given out for a login and not used yet.
CREATE TABLE local.login_nonce (
    nonce      TEXT PRIMARY KEY CHECK (nonce ~ '^[0-9a-f]{32}$'),
    expires_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX login_nonce_expires_at ON local.login_nonce (expires_at);

-- A wallet that is logged in. The token itself is nowhere.
CREATE TABLE local.session (
    token_hash hash PRIMARY KEY,
    account    address NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL CHECK (expires_at > created_at)
);
CREATE INDEX session_account ON local.session (account, created_at);
CREATE INDEX session_expires_at ON local.session (expires_at);
