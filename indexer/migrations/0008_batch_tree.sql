-- The Merkle tree of each valid batch, so that a proof is a few small reads however large the batch is. It follows from the
-- leaves in `event`, and what comes out of it is held against the batch's root before it is given to anybody.

CREATE TABLE local.batch_tree (
    provider BYTEA NOT NULL CHECK (octet_length(provider) = 20),
    number BIGINT NOT NULL CHECK (number >= 0),
    -- 2n − 1 hashes, root first, as OpenZeppelin lays a tree out
    nodes BYTEA NOT NULL,
    -- which of them is an event's leaf: 4 bytes for each event, most significant first
    places BYTEA NOT NULL,
    PRIMARY KEY (provider, number),
    CHECK (octet_length(places) > 0 AND octet_length(nodes) + 32 = 16 * octet_length(places))
);
-- not compressed, so that a part is read without the rest
ALTER TABLE local.batch_tree ALTER nodes SET STORAGE EXTERNAL, ALTER places SET STORAGE EXTERNAL;

-- batches that were valid before there was such a table: their trees are made one after another
CREATE TABLE local.tree_wanted (
    provider BYTEA NOT NULL,
    number BIGINT NOT NULL,
    PRIMARY KEY (provider, number)
);
INSERT INTO local.tree_wanted SELECT provider, number FROM batch WHERE state = 'valid';
