-- The audit list: one row for every key released, written before the answer leaves, and never changed.
CREATE TABLE releases (
    -- the order of the list, and its cursor
    number         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id             UUID NOT NULL UNIQUE,
    -- uint256
    license_id     NUMERIC(78, 0) NOT NULL CHECK (license_id >= 0),
    data_id        UUID NOT NULL,
    holder         BYTEA NOT NULL CHECK (octet_length(holder) = 20),
    -- EIP-712 digest of the request: asking twice is one release
    request_digest BYTEA NOT NULL CHECK (octet_length(request_digest) = 32),
    -- where the chain allowed it
    block_number   BIGINT NOT NULL CHECK (block_number >= 0),
    block_hash     BYTEA NOT NULL CHECK (octet_length(block_hash) = 32),
    released_at    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (request_digest, holder)
);

CREATE INDEX releases_of_record ON releases (data_id, number);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'releases is append-only: % refused', TG_OP;
END
$$;

CREATE TRIGGER releases_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON releases
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
