-- The outbox: every change of a batch's state, told to its provider's webhook, at least once and in order. And when a batch
-- got how far, for the histograms.

CREATE TABLE outbox_endpoint (
    provider      bytea PRIMARY KEY REFERENCES provider,
    url           text NOT NULL CHECK (octet_length(url) BETWEEN 1 AND 2000),
    -- signs the messages; sealed under the storage key
    sealed_secret bytea NOT NULL CHECK (octet_length(sealed_secret) = 72),
    -- signs beside it until then, so that the receiver can change secrets without a gap
    former_secret bytea CHECK (octet_length(former_secret) = 72),
    former_until  timestamptz,
    -- one process at a time sends to an endpoint, for as long as its lease lasts
    claim         uuid,
    claimed_until timestamptz NOT NULL DEFAULT now(),
    set_at        timestamptz NOT NULL DEFAULT now(),
    CHECK ((former_secret IS NULL) = (former_until IS NULL))
);

CREATE TABLE outbox_message (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- what the receiver knows it by
    message_id      uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    provider        bytea NOT NULL REFERENCES outbox_endpoint ON DELETE CASCADE,
    number          bigint NOT NULL CHECK (number >= 0),
    batch_state     text NOT NULL CHECK (batch_state IN ('sealed', 'signed', 'submitted', 'mined', 'final')),
    state_before    text,
    -- the bytes that are signed; the same at every attempt
    body            text,
    state           text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
    attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    last_status     smallint,
    last_error      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    CHECK ((state = 'waiting') = (ended_at IS NULL)),
    CHECK (state <> 'delivered' OR body IS NOT NULL)
);
CREATE INDEX outbox_message_waiting ON outbox_message (provider, id) WHERE state = 'waiting';
CREATE INDEX outbox_message_of_provider ON outbox_message (provider, id);
CREATE INDEX outbox_message_bare ON outbox_message (id) WHERE body IS NULL AND state = 'waiting';
CREATE INDEX outbox_message_dead ON outbox_message (provider, id) WHERE state = 'dead';
CREATE INDEX outbox_message_ended ON outbox_message (ended_at) WHERE state <> 'waiting';

-- A trigger, so that no code that moves a batch can forget it, and the message is as durable as the move.
CREATE FUNCTION outbox_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_message (provider, number, batch_state, state_before)
    SELECT NEW.provider, NEW.number, NEW.state, CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END
    FROM outbox_endpoint e WHERE e.provider = NEW.provider;
    RETURN NULL;
END $$;
CREATE TRIGGER outbox_note_new AFTER INSERT ON batch FOR EACH ROW EXECUTE FUNCTION outbox_note();
CREATE TRIGGER outbox_note_moved AFTER UPDATE OF state ON batch FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION outbox_note();

ALTER TABLE batch
    ADD COLUMN signed_at  timestamptz,
    ADD COLUMN mined_at   timestamptz,
    ADD COLUMN final_at   timestamptz,
    ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX batch_changed ON batch (changed_at);

-- clock_timestamp: a transaction that seals a million events began long before it ends.
CREATE FUNCTION batch_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_at := clock_timestamp();
    IF TG_OP = 'INSERT' THEN
        NEW.sealed_at := NEW.changed_at;
    ELSIF NEW.state = 'signed' AND OLD.state = 'sealed' THEN
        NEW.signed_at := NEW.changed_at;
    ELSIF NEW.state = 'mined' THEN
        NEW.mined_at := NEW.changed_at;
    ELSIF NEW.state = 'final' THEN
        NEW.final_at := NEW.changed_at;
        NEW.mined_at := coalesce(NEW.mined_at, NEW.changed_at);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER batch_stamp_new BEFORE INSERT ON batch FOR EACH ROW EXECUTE FUNCTION batch_stamp();
CREATE TRIGGER batch_stamp_moved BEFORE UPDATE OF state ON batch FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION batch_stamp();
