-- Intake at the speed of COPY: no key or index says what another one says, and sealing moves no payload.

-- a data id is the UUIDv5 of provider and source record id (docs/protocol.md): its key is this one's too
ALTER TABLE record DROP CONSTRAINT record_provider_source_record_id_key;
-- the contributor's key names the provider, and the record's key names the record's provider
ALTER TABLE record DROP CONSTRAINT record_provider_fkey;
ALTER TABLE event DROP CONSTRAINT event_provider_fkey;
-- an identity column is unique by itself, and is looked up among the pending only
ALTER TABLE event DROP CONSTRAINT event_position_key;
ALTER TABLE event DROP CONSTRAINT event_provider_batch_number_batch_index_key;
CREATE UNIQUE INDEX event_of_batch ON event (provider, batch_number, batch_index) WHERE batch_number IS NOT NULL;

-- A payload is written once and read once: sealing, which rewrites the row, must not write a long one again.
ALTER TABLE event ALTER COLUMN payload SET STORAGE EXTERNAL, SET (toast_tuple_target = 512);
