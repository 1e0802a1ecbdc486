-- A mirrored log is found by its place on the chain; the hash of its block is a column like others. A key that begins with a hash
-- writes pages all over an index as large as the history, and cost a history's rows as much as everything else about them.
LOCK TABLE chain_log, mirror.mined_event IN ACCESS EXCLUSIVE MODE;
ALTER TABLE mirror.mined_event ADD COLUMN block_number BIGINT;
UPDATE mirror.mined_event AS m SET block_number = l.block_number FROM chain_log AS l
    WHERE (l.block_hash, l.log_index) = (m.block_hash, m.log_index);
ALTER TABLE mirror.mined_event DROP CONSTRAINT mined_event_block_hash_log_index_fkey;
ALTER TABLE mirror.mined_event DROP COLUMN block_hash;
ALTER TABLE mirror.mined_event ADD PRIMARY KEY (block_number, log_index, index);
ALTER TABLE chain_log DROP CONSTRAINT chain_log_pkey;
ALTER TABLE mirror.mined_event ADD FOREIGN KEY (block_number, log_index) REFERENCES chain_log (block_number, log_index)
    ON DELETE CASCADE;

-- What the explorer's search and the catalogue look for.
CREATE INDEX batch_root ON batch (root);
CREATE INDEX batch_tx_hash ON batch (tx_hash);
CREATE INDEX license_tx_hash ON license (tx_hash);
CREATE INDEX dataset_name ON dataset (name);
CREATE INDEX dataset_place ON dataset (block_number DESC, ip_id DESC);
