-- Parts what follows from the chain from what is the operator's own, so that `tidemark-indexer rebuild` can make the first anew:
-- public and mirror follow from the chain, local is the operator's own and in no other place, types is what the columns of all
-- of them are made of. Nothing in local refers to a table of public or mirror other than by name, and nothing the other way round:
-- else a rebuild, which swaps schemas by their names, would leave it pointing at the tables from before.

CREATE SCHEMA types;
ALTER DOMAIN address SET SCHEMA types;
ALTER DOMAIN hash SET SCHEMA types;
ALTER DOMAIN u64 SET SCHEMA types;
ALTER DOMAIN u128 SET SCHEMA types;
ALTER DOMAIN u256 SET SCHEMA types;
ALTER DOMAIN trace_term SET SCHEMA types;

-- What this indexer knows of its work on chain and content store: it follows from them, and is another indexer's in another order.
CREATE SCHEMA mirror;
ALTER TABLE local.cursor SET SCHEMA mirror;
ALTER TABLE local.block SET SCHEMA mirror;
ALTER TABLE local.fetch SET SCHEMA mirror;
-- "fetch" is a word of SQL, and these names stand without a schema in front
ALTER TABLE mirror.fetch RENAME TO missing_file;
ALTER TABLE local.mined_event SET SCHEMA mirror;
ALTER TABLE local.trace_fill SET SCHEMA mirror;
ALTER TABLE local.batch_tree SET SCHEMA mirror;
ALTER TABLE local.tree_wanted SET SCHEMA mirror;
ALTER VIEW local.wallet_reward SET SCHEMA mirror;

-- who may look into local, as a replica's role does, finds there what it found before
DO $$
DECLARE
    reader TEXT;
BEGIN
    FOR reader IN
        SELECT CASE WHEN acl.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS acl
        WHERE n.nspname = 'local' AND acl.privilege_type = 'USAGE' AND acl.grantee <> n.nspowner
    LOOP
        EXECUTE 'GRANT USAGE ON SCHEMA mirror TO ' || reader;
    END LOOP;
END $$;

-- A scoped group's items are of disclosed records, and go with what is disclosed: as the foreign key had it, by name.
ALTER TABLE local.scoped_item DROP CONSTRAINT scoped_item_provider_data_id_fkey;

CREATE FUNCTION local.scoped_item_is_disclosed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    lost BIGINT;
BEGIN
    -- held to the end of the transaction, so that who erases one meanwhile waits, and then finds its item
    SELECT (SELECT count(*) FROM added WHERE data_id IS NOT NULL) - count(*) INTO lost FROM (
        SELECT FROM added JOIN public.trace_record AS r USING (provider, data_id) FOR KEY SHARE OF r
    ) AS found;
    IF lost <> 0 THEN
        RAISE EXCEPTION '% items of a scoped group are of records that are not disclosed', lost
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'scoped_item_is_disclosed', TABLE = 'scoped_item';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER scoped_item_is_disclosed AFTER INSERT ON local.scoped_item
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION local.scoped_item_is_disclosed();

CREATE FUNCTION local.scoped_item_stays() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an item of a scoped group is of one record for ever';
END $$;
CREATE TRIGGER scoped_item_stays BEFORE UPDATE OF provider, data_id ON local.scoped_item
    FOR EACH STATEMENT EXECUTE FUNCTION local.scoped_item_stays();

CREATE FUNCTION trace_record_gone() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    -- tables that a rebuild is making are nobody's yet
    IF TG_TABLE_SCHEMA = 'public' THEN
        DELETE FROM local.scoped_item AS i USING gone WHERE (i.provider, i.data_id) = (gone.provider, gone.data_id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER trace_record_gone AFTER DELETE ON trace_record
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION trace_record_gone();
