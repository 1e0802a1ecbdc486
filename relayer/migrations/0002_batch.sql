-- Batches: one gapless sequence a provider.

CREATE TABLE batch_lane (
    provider    bytea PRIMARY KEY REFERENCES provider,
    next_number bigint NOT NULL CHECK (next_number >= 0)
);

CREATE TABLE batch (
    provider        bytea NOT NULL REFERENCES provider,
    number          bigint NOT NULL CHECK (number >= 0),
    state           text NOT NULL CHECK (state IN ('sealed', 'signed', 'submitted', 'mined', 'final')),
    event_count     integer NOT NULL CHECK (event_count > 0),
    disclosures_cid text,
    header          jsonb,
    signature       bytea,
    -- why the last step failed; it is tried again
    error           text,
    sealed_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, number),
    CHECK (state = 'sealed' OR num_nulls(disclosures_cid, header, signature) = 0)
);
CREATE INDEX batch_open ON batch (provider, number) WHERE state <> 'final';

-- What a provider's batches up to and including this one debit a task with, all together.
CREATE TABLE task_debit (
    provider   bytea NOT NULL,
    task_id    bigint NOT NULL CHECK (task_id > 0),
    number     bigint NOT NULL,
    cumulative numeric(39, 0) NOT NULL CHECK (cumulative > 0),
    PRIMARY KEY (provider, task_id, number),
    FOREIGN KEY (provider, number) REFERENCES batch
);
