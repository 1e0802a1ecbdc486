-- Sending: which process works at what, why a lane pauses, what a transaction is for, what waits, and how it ended.

-- Work that one of several processes does at a time; another may take it over once its time is up.
CREATE TABLE lease (
    name   text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 200),
    holder uuid NOT NULL,
    until  timestamptz NOT NULL
);

-- none where the lane sends
ALTER TABLE nonce_lane ADD COLUMN paused text;

ALTER TABLE transaction
    ADD COLUMN purpose text,
    -- of one in a block
    ADD COLUMN succeeded boolean,
    -- the class of what a node said when it did not take it
    ADD COLUMN why text,
    -- what an L2 asks for its data beside gas
    ADD COLUMN data_fee_wei numeric(78, 0) NOT NULL DEFAULT 0 CHECK (data_fee_wei >= 0);
UPDATE transaction SET purpose = CASE WHEN consent_id IS NULL THEN 'anchor' ELSE 'withdraw' END,
    succeeded = CASE WHEN state IN ('mined', 'final') THEN true WHEN state = 'reverted' THEN false END;
ALTER TABLE transaction
    ALTER COLUMN purpose SET NOT NULL,
    DROP CONSTRAINT transaction_check,
    -- noop: takes a nonce that would be missing
    ADD CONSTRAINT transaction_purpose CHECK (
        purpose = 'anchor' AND num_nulls(provider, number) = 0 AND consent_id IS NULL
        OR purpose = 'withdraw' AND num_nulls(provider, number) = 2 AND consent_id IS NOT NULL
        OR purpose = 'noop' AND num_nulls(provider, number, consent_id) = 3),
    -- a failure that a reorg could undo is mined, not yet reverted
    ADD CONSTRAINT transaction_succeeded CHECK (
        (state IN ('mined', 'final', 'reverted')) = (succeeded IS NOT NULL)
        AND (state <> 'final' OR succeeded) AND (state <> 'reverted' OR NOT succeeded));
