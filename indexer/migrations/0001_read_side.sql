-- Tables of the read side. Schema public is a pure function of chain and content store: no clock, no serial number, no
-- order of arrival, so that a second indexer reaches the same rows. Schema local is what only this indexer knows.

CREATE DOMAIN address AS BYTEA CHECK (octet_length(VALUE) = 20);
CREATE DOMAIN hash AS BYTEA CHECK (octet_length(VALUE) = 32);
CREATE DOMAIN u64 AS NUMERIC(20, 0) CHECK (VALUE >= 0 AND VALUE < 18446744073709551616);
CREATE DOMAIN u128 AS NUMERIC(39, 0) CHECK (VALUE >= 0 AND VALUE < 340282366920938463463374607431768211456);
CREATE DOMAIN u256 AS NUMERIC(78, 0) CHECK (VALUE >= 0);

-- ---------------------------------------------------------------------------------------------------------------
-- sync: the chain as it came
-- ---------------------------------------------------------------------------------------------------------------

-- Every log of our contracts on the chain of `local.cursor`; rows above the applied block may still go in a reorg.
CREATE TABLE chain_log (
    block_hash   hash NOT NULL,
    log_index    BIGINT NOT NULL CHECK (log_index >= 0),
    block_number BIGINT NOT NULL CHECK (block_number >= 0),
    -- Unix seconds
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    address      address NOT NULL,
    topics       BYTEA[] NOT NULL,
    data         BYTEA NOT NULL,
    PRIMARY KEY (block_hash, log_index),
    -- one block a height: a reorg deletes before it writes
    UNIQUE (block_number, log_index)
);

-- ---------------------------------------------------------------------------------------------------------------
-- project: what finalised logs say
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE provider (
    address          address PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    -- the newest; provider_attestor has them all
    attestor         address NOT NULL,
    points_treasury  address NOT NULL,
    token            address NOT NULL,
    -- seconds in which the verdicts of its next batches may be challenged; each batch has its own end of it
    challenge_window BIGINT NOT NULL DEFAULT 0 CHECK (challenge_window >= 0),
    block_number     BIGINT NOT NULL,
    block_time       BIGINT NOT NULL,
    tx_hash          hash NOT NULL
);
CREATE INDEX provider_treasury ON provider (points_treasury);

CREATE TABLE provider_attestor (
    provider     address NOT NULL REFERENCES provider,
    block_number BIGINT NOT NULL,
    log_index    BIGINT NOT NULL,
    attestor     address NOT NULL,
    PRIMARY KEY (provider, block_number, log_index)
);

CREATE TABLE task (
    task_id      BIGINT PRIMARY KEY CHECK (task_id >= 0),
    provider     address NOT NULL,
    sponsor      address NOT NULL,
    -- payment-token units for each accepted submission
    price        u128 NOT NULL,
    closes_at    u64 NOT NULL,
    terms_hash   hash NOT NULL,
    uri          TEXT NOT NULL,
    -- sums over the task's life, which may pass what fits into 128 bits
    funded       u256 NOT NULL DEFAULT 0,
    debited      u256 NOT NULL DEFAULT 0,
    refunded     u256 NOT NULL DEFAULT 0,
    block_number BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    CONSTRAINT escrow_is_not_negative CHECK (debited + refunded <= funded)
);

CREATE TABLE policy (
    provider     address NOT NULL,
    policy_hash  hash NOT NULL,
    version      TEXT NOT NULL,
    uri          TEXT NOT NULL,
    block_number BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    PRIMARY KEY (provider, policy_hash)
);

-- A batch whose anchoring is final.
CREATE TABLE batch (
    provider        address NOT NULL REFERENCES provider,
    number          BIGINT NOT NULL CHECK (number >= 0),
    root            hash NOT NULL,
    event_count     BIGINT NOT NULL,
    points_total    u128 NOT NULL,
    wallet_total    u128 NOT NULL,
    -- [{"task_id": 1, "amount": "1000"}], ascending by task
    debits          JSONB NOT NULL,
    -- binary, as it stands on chain
    manifest_cid    BYTEA NOT NULL,
    -- who signed the header
    attestor        address NOT NULL,
    -- Unix seconds: until then verdicts may be challenged, from then on wallet rewards may be claimed
    challenge_until BIGINT NOT NULL,
    -- waiting: the manifest is not here yet, or an earlier batch of the provider waits
    state           TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'valid', 'invalid')),
    -- what differs, where invalid
    reason          TEXT,
    -- text form, from the manifest
    disclosures_cid TEXT,
    block_number    BIGINT NOT NULL,
    block_hash      hash NOT NULL,
    block_time      BIGINT NOT NULL,
    log_index       BIGINT NOT NULL,
    tx_hash         hash NOT NULL,
    PRIMARY KEY (provider, number),
    CHECK ((state = 'invalid') = (reason IS NOT NULL))
);
CREATE INDEX batch_waiting ON batch (provider, number) WHERE state = 'waiting';
CREATE INDEX batch_block ON batch (block_number DESC, log_index DESC);

-- ---------------------------------------------------------------------------------------------------------------
-- manifest: what content-addressed files say, verified against the chain
-- ---------------------------------------------------------------------------------------------------------------

-- One leaf of a valid batch.
CREATE TABLE event (
    provider     address NOT NULL,
    number       BIGINT NOT NULL,
    index        BIGINT NOT NULL CHECK (index >= 0),
    data_id      UUID NOT NULL,
    sequence     BIGINT NOT NULL CHECK (sequence >= 0),
    -- 0 registered, 1 accepted, 2 rejected, 3 metadata_updated, 4 consent_withdrawn, 5 erased
    kind         SMALLINT NOT NULL CHECK (kind BETWEEN 0 AND 5),
    contributor  hash NOT NULL,
    content_hash hash NOT NULL,
    consent_id   hash NOT NULL,
    commitment   hash NOT NULL,
    previous     hash NOT NULL,
    -- Unix seconds
    occurred_at  u64 NOT NULL,
    task_id      u64 NOT NULL,
    reward       u128 NOT NULL,
    payee        address NOT NULL,
    leaf         hash NOT NULL,
    PRIMARY KEY (provider, number, index),
    FOREIGN KEY (provider, number) REFERENCES batch,
    -- a provider can't spoil another one's record by using its id
    CONSTRAINT one_event_a_place_in_the_chain UNIQUE (provider, data_id, sequence),
    CHECK (reward = 0 OR kind = 1),
    CHECK ((sequence = 0) = (kind = 0))
);
CREATE UNIQUE INDEX event_one_verdict ON event (provider, data_id) WHERE kind IN (1, 2);
CREATE INDEX event_data_id ON event (data_id);
CREATE INDEX event_consent_id ON event (consent_id) WHERE sequence = 0;

-- The payload behind an event's commitment; gone once the record is erased.
CREATE TABLE disclosure (
    provider address NOT NULL,
    number   BIGINT NOT NULL,
    index    BIGINT NOT NULL,
    -- 32 bytes: SHA-256(salt ‖ payload) is the event's commitment
    salt     hash NOT NULL,
    -- canonical JSON to the byte, NULL where it does not fit the commitment
    payload  JSON,
    -- what is wrong with it: another payload than committed to, or a verdict that no attestor of the provider signed
    fault    TEXT,
    PRIMARY KEY (provider, number, index),
    FOREIGN KEY (provider, number, index) REFERENCES event,
    CHECK (payload IS NOT NULL OR fault IS NOT NULL)
);

-- The newest state of a record, from its events and disclosures.
CREATE TABLE record (
    provider         address NOT NULL,
    data_id          UUID NOT NULL,
    -- NULL while undisclosed or erased
    source_record_id TEXT,
    -- what its consent allows, bits of Consent.purposes; NULL as the id
    purposes         BIGINT,
    -- the disclosed source record id gives this data id for this provider's name
    proven           BOOLEAN NOT NULL,
    metadata         JSON,
    metadata_root    hash,
    content_hash     hash NOT NULL,
    contributor      hash NOT NULL,
    consent_id       hash NOT NULL,
    payee            address NOT NULL,
    task_id          u64 NOT NULL,
    reward           u128 NOT NULL,
    status           TEXT NOT NULL CHECK (status IN ('registered', 'accepted', 'rejected', 'withdrawn', 'erased')),
    -- the verdict alone, whatever came later
    verdict          TEXT CHECK (verdict IN ('accepted', 'rejected')),
    -- why it was rejected: the outcome's name, and the gate's sentence
    reason           TEXT,
    reason_detail    TEXT,
    -- where the sealed bytes are
    ciphertext_cid   TEXT,
    key_cid          TEXT,
    size_bytes       u64,
    registered_at    u64 NOT NULL,
    -- of the newest event
    sequence         BIGINT NOT NULL,
    number           BIGINT NOT NULL,
    PRIMARY KEY (provider, data_id),
    FOREIGN KEY (provider, data_id, sequence) REFERENCES event (provider, data_id, sequence)
);
CREATE INDEX record_data_id ON record (data_id);
CREATE INDEX record_content_hash ON record (content_hash);
CREATE INDEX record_contributor ON record (contributor);

-- ---------------------------------------------------------------------------------------------------------------
-- project, again: money and rights on chain
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE reward_claim (
    provider     address NOT NULL,
    number       BIGINT NOT NULL,
    index        BIGINT NOT NULL,
    payee        address NOT NULL,
    data_id      UUID NOT NULL,
    amount       u128 NOT NULL,
    block_number BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    PRIMARY KEY (provider, number, index)
);
CREATE INDEX reward_claim_data_id ON reward_claim (data_id);

-- Points of batches that went from the log to the provider's treasury.
CREATE TABLE points_swept (
    provider     address NOT NULL REFERENCES provider,
    block_number BIGINT NOT NULL,
    log_index    BIGINT NOT NULL,
    amount       u128 NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    PRIMARY KEY (provider, block_number, log_index)
);

-- The bond that stands behind a provider's attestor.
CREATE TABLE bond (
    provider          address PRIMARY KEY REFERENCES provider,
    -- sums over its life, which may pass what fits into 128 bits
    deposited         u256 NOT NULL DEFAULT 0,
    -- bonds of challengers who failed against a verdict that paid no wallet
    gained            u256 NOT NULL DEFAULT 0,
    -- refunds of sponsors and bounties of challengers who were right
    slashed           u256 NOT NULL DEFAULT 0,
    withdrawn         u256 NOT NULL DEFAULT 0,
    -- announced, and not taken out; slashing may leave less of it
    withdrawal_amount u128,
    -- Unix seconds
    withdrawable_at   u64,
    CONSTRAINT bond_is_not_negative CHECK (slashed + withdrawn <= deposited + gained),
    CHECK ((withdrawal_amount IS NULL) = (withdrawable_at IS NULL))
);

-- A challenge of one verdict.
CREATE TABLE dispute (
    dispute_id      u256 PRIMARY KEY,
    provider        address NOT NULL REFERENCES provider,
    number          BIGINT NOT NULL,
    index           BIGINT NOT NULL,
    data_id         UUID NOT NULL,
    ground          TEXT NOT NULL CHECK (ground IN ('duplicate', 'not_the_contributors', 'wrong_verdict')),
    state           TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'upheld', 'rejected', 'lapsed')),
    challenger      address NOT NULL,
    -- the challenger's
    bond            u128 NOT NULL,
    -- the wallet reward that waits for the end; 0 where the verdict paid points or nothing
    held            u128 NOT NULL,
    -- Unix seconds: nobody rules from then on
    rule_before     u64 NOT NULL,
    -- SHA-256 of what the URI serves
    evidence_hash   hash NOT NULL,
    evidence_uri    TEXT NOT NULL,
    -- out of the attestor's bond, where upheld: to the sponsor, and to the challenger
    refunded        u128 NOT NULL DEFAULT 0,
    bounty          u128 NOT NULL DEFAULT 0,
    -- who was paid back, where upheld
    sponsor         address,
    -- of the ruling
    reason          TEXT,
    block_number    BIGINT NOT NULL,
    block_time      BIGINT NOT NULL,
    tx_hash         hash NOT NULL,
    ended_block     BIGINT,
    ended_log_index BIGINT,
    ended_time      BIGINT,
    ended_tx_hash   hash,
    FOREIGN KEY (provider, number) REFERENCES batch,
    CONSTRAINT ended_or_open CHECK (
        CASE state WHEN 'open' THEN num_nonnulls(ended_block, ended_log_index, ended_time, ended_tx_hash, reason) = 0
            ELSE num_nulls(ended_block, ended_log_index, ended_time, ended_tx_hash, reason) = 0 END
    ),
    CHECK (state = 'upheld' OR (refunded = 0 AND bounty = 0)),
    CHECK ((state = 'upheld') = (sponsor IS NOT NULL))
);
-- one a leaf: events of one index may both be disputed in a batch that lies, which has no rows in event then
CREATE INDEX dispute_event ON dispute (provider, number, index);
CREATE INDEX dispute_data_id ON dispute (data_id);
CREATE INDEX dispute_state ON dispute (state, block_number DESC, dispute_id DESC);

-- Wallet rewards that a dispute took out of their batch.
CREATE TABLE reward_hold (
    provider     address NOT NULL,
    number       BIGINT NOT NULL,
    index        BIGINT NOT NULL,
    amount       u128 NOT NULL,
    block_number BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    PRIMARY KEY (provider, number, index)
);

-- What disputes had credited to an account and was paid out to it: always all of it.
CREATE TABLE credit_payment (
    token        address NOT NULL,
    account      address NOT NULL,
    block_number BIGINT NOT NULL,
    log_index    BIGINT NOT NULL,
    amount       u256 NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    PRIMARY KEY (token, account, block_number, log_index)
);

-- Withdrawals on chain; those that come as an event are events.
CREATE TABLE consent_withdrawal (
    consent_id   hash PRIMARY KEY,
    provider     address NOT NULL,
    by           address NOT NULL,
    block_number BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL
);

CREATE TABLE dataset (
    ip_id        u256 PRIMARY KEY,
    provider     address NOT NULL,
    name         TEXT NOT NULL,
    -- of the ERC-721
    holder       address NOT NULL,
    block_number BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL
);

CREATE TABLE dataset_version (
    ip_id              u256 NOT NULL REFERENCES dataset,
    version            BIGINT NOT NULL CHECK (version > 0),
    root               hash NOT NULL,
    member_count       BIGINT NOT NULL,
    total_weight       u128 NOT NULL,
    points_weight      u128 NOT NULL,
    -- what every member's consent allows: nothing else is sold
    purposes           BIGINT NOT NULL,
    manifest_cid       BYTEA NOT NULL,
    attestor           address NOT NULL,
    -- as batch.state, for the members' manifest
    state              TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'valid', 'invalid')),
    reason             TEXT,
    -- the member whose withdrawn consent took the version off sale
    withdrawn_data_id  UUID,
    block_number       BIGINT NOT NULL,
    block_time         BIGINT NOT NULL,
    tx_hash            hash NOT NULL,
    PRIMARY KEY (ip_id, version),
    CHECK ((state = 'invalid') = (reason IS NOT NULL))
);
CREATE INDEX dataset_version_waiting ON dataset_version (ip_id, version) WHERE state = 'waiting';

CREATE TABLE dataset_member (
    ip_id          u256 NOT NULL,
    version        BIGINT NOT NULL,
    -- place in the members' manifest, from 0
    position       BIGINT NOT NULL,
    data_id        UUID NOT NULL,
    contributor    hash NOT NULL,
    consent_id     hash NOT NULL,
    payee          address NOT NULL,
    weight         u128 NOT NULL,
    content_hash   hash NOT NULL,
    ciphertext_cid TEXT NOT NULL,
    key_cid        TEXT NOT NULL,
    batch_number   u64 NOT NULL,
    event_index    BIGINT NOT NULL,
    -- what its consent allows, as the manifest says; record.purposes is what was committed to at registration
    purposes       BIGINT NOT NULL,
    leaf           hash NOT NULL,
    PRIMARY KEY (ip_id, version, position),
    UNIQUE (ip_id, version, data_id),
    FOREIGN KEY (ip_id, version) REFERENCES dataset_version
);
CREATE INDEX dataset_member_data_id ON dataset_member (data_id);

-- A single contribution registered as an IP asset of its own.
CREATE TABLE contribution (
    ip_id        u256 PRIMARY KEY,
    provider     address NOT NULL,
    number       BIGINT NOT NULL,
    data_id      UUID NOT NULL,
    holder       address NOT NULL,
    block_number BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL
);
CREATE INDEX contribution_data_id ON contribution (data_id);

CREATE TABLE offer (
    offer_id        BIGINT PRIMARY KEY,
    ip_id           u256 NOT NULL REFERENCES dataset,
    price           u128 NOT NULL,
    -- seconds
    duration        u64 NOT NULL,
    purposes        BIGINT NOT NULL,
    seats           BIGINT NOT NULL,
    contributor_bps INTEGER NOT NULL CHECK (contributor_bps BETWEEN 0 AND 10000),
    transferable    BOOLEAN NOT NULL,
    ai_training     BOOLEAN NOT NULL,
    -- the provider's part of a resale
    resale_bps      INTEGER NOT NULL CHECK (resale_bps BETWEEN 0 AND 10000),
    legal_hash      hash NOT NULL,
    legal_uri       TEXT NOT NULL,
    open            BOOLEAN NOT NULL DEFAULT TRUE,
    block_number    BIGINT NOT NULL,
    block_time      BIGINT NOT NULL,
    tx_hash         hash NOT NULL
);
CREATE INDEX offer_ip_id ON offer (ip_id);

CREATE TABLE license (
    license_id       u256 PRIMARY KEY,
    ip_id            u256 NOT NULL,
    version          BIGINT NOT NULL,
    offer_id         BIGINT NOT NULL REFERENCES offer,
    -- newest entry of license_transfer; the buyer until its first
    holder           address NOT NULL,
    starts_at        u64 NOT NULL,
    ends_at          u64 NOT NULL,
    revocation_cause TEXT,
    revoked_at       BIGINT,
    block_number     BIGINT NOT NULL,
    block_time       BIGINT NOT NULL,
    tx_hash          hash NOT NULL,
    FOREIGN KEY (ip_id, version) REFERENCES dataset_version,
    CHECK ((revocation_cause IS NULL) = (revoked_at IS NULL))
);
CREATE INDEX license_version ON license (ip_id, version);
CREATE INDEX license_holder ON license (holder);

CREATE TABLE license_transfer (
    license_id   u256 NOT NULL REFERENCES license,
    block_number BIGINT NOT NULL,
    log_index    BIGINT NOT NULL,
    -- zero when it was minted
    sender       address NOT NULL,
    recipient    address NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    PRIMARY KEY (license_id, block_number, log_index)
);

-- The money of one sold licence.
CREATE TABLE sale (
    license_id     u256 PRIMARY KEY REFERENCES license,
    ip_id          u256 NOT NULL,
    version        BIGINT NOT NULL,
    buyer          address NOT NULL,
    price          u128 NOT NULL,
    provider_share u128 NOT NULL,
    points_share   u128 NOT NULL,
    wallet_share   u128 NOT NULL,
    -- of the points share: waiting for the members' manifest, posted to the ledger, or invalid as that is
    points_state   TEXT NOT NULL CHECK (points_state IN ('waiting', 'posted', 'invalid')),
    block_number   BIGINT NOT NULL,
    log_index      BIGINT NOT NULL,
    block_time     BIGINT NOT NULL,
    tx_hash        hash NOT NULL,
    CHECK (provider_share + points_share + wallet_share = price)
);
CREATE INDEX sale_version ON sale (ip_id, version);
CREATE INDEX sale_waiting ON sale (ip_id, version) WHERE points_state = 'waiting';

CREATE TABLE royalty_claim (
    ip_id        u256 NOT NULL,
    version      BIGINT NOT NULL,
    data_id      UUID NOT NULL,
    block_number BIGINT NOT NULL,
    log_index    BIGINT NOT NULL,
    payee        address NOT NULL,
    amount       u128 NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    PRIMARY KEY (ip_id, version, data_id, block_number, log_index)
);
CREATE INDEX royalty_claim_data_id ON royalty_claim (data_id);

-- What a points treasury let out, debit by debit, for each provider that has named it as its own.
CREATE TABLE points_redeemed (
    treasury     address NOT NULL,
    payout_id    hash NOT NULL,
    provider     address NOT NULL REFERENCES provider,
    -- key of the points account: the per-record pseudonym
    account      hash NOT NULL,
    amount       u128 NOT NULL,
    recipient    address NOT NULL,
    -- waiting: the account has no such balance; later debits of the account wait behind it
    state        TEXT NOT NULL CHECK (state IN ('waiting', 'posted')),
    block_number BIGINT NOT NULL,
    log_index    BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    -- a provider has one treasury
    PRIMARY KEY (provider, payout_id)
);
CREATE INDEX points_redeemed_account ON points_redeemed (provider, account, block_number, log_index);
CREATE INDEX points_redeemed_waiting ON points_redeemed (provider, account) WHERE state = 'waiting';

-- ---------------------------------------------------------------------------------------------------------------
-- ledger: points, double entry; one unit is one unit of the provider's payment token
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE ledger_account (
    provider address NOT NULL REFERENCES provider,
    -- issuer: where points come from, below zero by what was issued; redeemed: where they end
    kind     TEXT NOT NULL CHECK (kind IN ('issuer', 'contributor', 'redeemed')),
    -- the per-record pseudonym; zero for issuer and redeemed
    key      hash NOT NULL,
    balance  NUMERIC(78, 0) NOT NULL DEFAULT 0,
    PRIMARY KEY (provider, kind, key),
    CONSTRAINT balance_is_not_negative CHECK (kind = 'issuer' OR balance >= 0),
    CONSTRAINT issuer_never_owes_less_than_nothing CHECK (kind <> 'issuer' OR balance <= 0),
    CHECK (kind = 'contributor' OR key = '\x0000000000000000000000000000000000000000000000000000000000000000')
);
CREATE INDEX ledger_account_key ON ledger_account (key) WHERE kind = 'contributor';

CREATE TABLE ledger_transfer (
    -- names the cause: reward/<provider>/<number>/<index>, royalty/<license id>/<data id>, redeem/<provider>/<payout id>
    id           TEXT PRIMARY KEY,
    cause        TEXT NOT NULL CHECK (cause IN ('reward', 'royalty', 'redeem')),
    provider     address NOT NULL,
    debit_kind   TEXT NOT NULL,
    debit_key    hash NOT NULL,
    credit_kind  TEXT NOT NULL,
    credit_key   hash NOT NULL,
    amount       u128 NOT NULL CHECK (amount > 0),
    -- the contributor's side, for its statement
    account      hash NOT NULL,
    -- whose reward or royalty
    data_id      UUID,
    -- of the transaction that caused it
    block_number BIGINT NOT NULL,
    block_time   BIGINT NOT NULL,
    tx_hash      hash NOT NULL,
    FOREIGN KEY (provider, debit_kind, debit_key) REFERENCES ledger_account DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (provider, credit_kind, credit_key) REFERENCES ledger_account DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT each_cause_has_its_two_accounts CHECK (
        CASE cause
            WHEN 'redeem' THEN debit_kind = 'contributor' AND credit_kind = 'redeemed' AND account = debit_key
            ELSE debit_kind = 'issuer' AND credit_kind = 'contributor' AND account = credit_key AND data_id IS NOT NULL
        END
    ),
    CHECK (starts_with(id, cause || '/'))
);
CREATE INDEX ledger_transfer_account ON ledger_transfer (provider, account, block_number DESC, id DESC);
CREATE INDEX ledger_transfer_data_id ON ledger_transfer (data_id);

CREATE FUNCTION ledger_post() RETURNS TRIGGER LANGUAGE plpgsql AS $$
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
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_post AFTER INSERT ON ledger_transfer
    REFERENCING NEW TABLE AS posted FOR EACH STATEMENT EXECUTE FUNCTION ledger_post();

CREATE FUNCTION ledger_refuse() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ledger transfers are never changed: post one that undoes it';
END $$;
CREATE TRIGGER ledger_transfer_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();

-- A balance moves only through a transfer.
CREATE FUNCTION ledger_account_guard() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'a balance moves only through a ledger transfer';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_account_guard AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger_account
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_account_guard();

-- The proof: per provider, issued = outstanding + redeemed, and every balance is the sum of its transfers.
CREATE VIEW ledger_proof AS
    SELECT
        p.address AS provider,
        coalesce(-sum(a.balance) FILTER (WHERE a.kind = 'issuer'), 0) AS issued,
        coalesce(sum(a.balance) FILTER (WHERE a.kind = 'contributor'), 0) AS outstanding,
        coalesce(sum(a.balance) FILTER (WHERE a.kind = 'redeemed'), 0) AS redeemed,
        -- 0, or the ledger is broken
        coalesce(sum(a.balance), 0) AS difference
    FROM provider AS p LEFT JOIN ledger_account AS a ON a.provider = p.address
    GROUP BY p.address;

-- ---------------------------------------------------------------------------------------------------------------
-- local: what only this indexer knows
-- ---------------------------------------------------------------------------------------------------------------

CREATE SCHEMA local;

-- Which deployment this database mirrors, and how far.
CREATE TABLE local.cursor (
    one             BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    chain_id        BIGINT NOT NULL,
    provenance_log  address NOT NULL,
    -- newest block whose logs are in chain_log
    mirrored_number BIGINT NOT NULL,
    mirrored_hash   hash,
    mirrored_time   BIGINT NOT NULL DEFAULT 0,
    -- newest finalised block that is in the tables
    applied_number  BIGINT NOT NULL,
    applied_hash    hash,
    applied_time    BIGINT NOT NULL DEFAULT 0,
    CHECK (applied_number <= mirrored_number)
);

-- Headers above the applied block, to find where a reorg begins.
CREATE TABLE local.block (
    number      BIGINT PRIMARY KEY,
    hash        hash NOT NULL,
    parent_hash hash NOT NULL,
    time        BIGINT NOT NULL
);

-- Files that could not be fetched yet.
CREATE TABLE local.fetch (
    -- batch/<provider>/<number>, disclosures/<provider>/<number> or members/<ip id>/<version>
    what            TEXT PRIMARY KEY,
    cid             TEXT NOT NULL,
    attempts        BIGINT NOT NULL,
    last_error      TEXT NOT NULL,
    first_failed_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    next_attempt_at TIMESTAMPTZ NOT NULL
);

-- Events of batches that are anchored but not final, for readers only; goes with its block.
CREATE TABLE local.mined_event (
    block_hash  BYTEA NOT NULL,
    log_index   BIGINT NOT NULL,
    provider    address NOT NULL,
    number      BIGINT NOT NULL,
    index       BIGINT NOT NULL,
    data_id     UUID NOT NULL,
    sequence    BIGINT NOT NULL,
    -- the whole event as tidemark::event::Event
    event       JSONB NOT NULL,
    PRIMARY KEY (block_hash, log_index, index),
    FOREIGN KEY (block_hash, log_index) REFERENCES chain_log ON DELETE CASCADE
);
CREATE INDEX mined_event_data_id ON local.mined_event (data_id);

-- Where each wallet reward of a valid batch is at the applied block.
-- waiting: the challenge window is open · claimable · claimed · held: disputed · refunded: the dispute was upheld, the sponsor
-- has it · credited: the dispute failed, and anyone may have it paid out to the payee · paid_as_credit: that was done
CREATE VIEW local.wallet_reward AS
    SELECT e.provider, e.number, e.index, e.data_id, e.payee, e.reward AS amount, d.dispute_id,
        CASE
            WHEN claimed.index IS NOT NULL THEN 'claimed'
            WHEN held.index IS NULL AND b.challenge_until > c.applied_time THEN 'waiting'
            WHEN held.index IS NULL THEN 'claimable'
            WHEN d.state = 'open' THEN 'held'
            WHEN d.state = 'upheld' THEN 'refunded'
            WHEN EXISTS (
                SELECT FROM credit_payment AS paid WHERE paid.token = p.token AND paid.account = e.payee
                    AND (paid.block_number, paid.log_index) > (d.ended_block, d.ended_log_index)
            ) THEN 'paid_as_credit'
            ELSE 'credited'
        END AS state
    FROM event AS e
    JOIN batch AS b USING (provider, number)
    JOIN provider AS p ON p.address = e.provider
    CROSS JOIN local.cursor AS c
    LEFT JOIN reward_claim AS claimed USING (provider, number, index)
    LEFT JOIN reward_hold AS held USING (provider, number, index)
    LEFT JOIN dispute AS d USING (provider, number, index)
    WHERE e.reward > 0 AND e.payee <> decode(repeat('00', 20), 'hex');
