-- A mirrored log is found by its place on the chain; the hash of its block is a column like others. A key that begins with a hash
-- writes pages all over an index as large as the history, and cost a history's rows as much as everything else about them.

-- What was shown of mined batches is shown again when the indexer starts.
DELETE FROM mirror.mined_event;
ALTER TABLE mirror.mined_event DROP CONSTRAINT mined_event_block_hash_log_index_fkey;
ALTER TABLE mirror.mined_event DROP COLUMN block_hash;
ALTER TABLE mirror.mined_event ADD COLUMN block_number BIGINT NOT NULL;
ALTER TABLE chain_log DROP CONSTRAINT chain_log_pkey;
ALTER TABLE mirror.mined_event ADD PRIMARY KEY (block_number, log_index, index);
ALTER TABLE mirror.mined_event ADD FOREIGN KEY (block_number, log_index) REFERENCES chain_log (block_number, log_index)
    ON DELETE CASCADE;
