-- Erasure: the private parts of a record go, what was anchored stays.

ALTER TABLE record
    -- asked: waits until the batches of its events are signed; erasing: gone from the tables, its files are being deleted
    ADD COLUMN erasure text CHECK (erasure IN ('asked', 'erasing', 'erased')),
    ADD COLUMN erasure_asked_at timestamptz,
    ADD COLUMN erased_at timestamptz,
    ALTER COLUMN contributor_reference DROP NOT NULL,
    ADD CHECK (contributor_reference IS NOT NULL OR erasure IN ('erasing', 'erased')),
    ADD CHECK ((erasure IS NULL) = (erasure_asked_at IS NULL)),
    ADD CHECK ((erasure IS NOT DISTINCT FROM 'erased') = (erased_at IS NOT NULL));
CREATE INDEX record_to_erase ON record (provider, erasure_asked_at) WHERE erasure IN ('asked', 'erasing');

-- Nothing follows an Erased event: a batch with such an event would be invalid, and hold up all after it.
CREATE FUNCTION record_goes_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'record % was erased: no event can follow', OLD.data_id;
END $$;
CREATE TRIGGER record_ends BEFORE UPDATE OF next_sequence ON record FOR EACH ROW
    WHEN (OLD.erasure IN ('erasing', 'erased') AND OLD.next_sequence <> NEW.next_sequence)
    EXECUTE FUNCTION record_goes_on();

ALTER TABLE event
    ALTER COLUMN salt DROP NOT NULL,
    ALTER COLUMN payload DROP NOT NULL,
    -- a batch is built out of salts and payloads: they can only go after it was sealed (and signed)
    ADD CHECK (num_nulls(salt, payload) = 0 OR num_nulls(salt, payload) = 2 AND batch_number IS NOT NULL);
CREATE UNIQUE INDEX event_one_erasure ON event (data_id) WHERE kind = 5;

-- Files that have to go from the content store before a record counts as erased; or, while a batch's disclosures are
-- written anew, files that no batch points to yet, so that a crash leaves none behind.
CREATE TABLE store_removal (
    data_id  uuid NOT NULL REFERENCES record,
    cid      text NOT NULL,
    provider bytea NOT NULL REFERENCES provider,
    -- of disclosures: the blocks that the batch's present file has too stay
    number   bigint CHECK (number >= 0),
    error    text,
    PRIMARY KEY (data_id, cid)
);
CREATE INDEX store_removal_of_provider ON store_removal (provider, cid);
