-- What readers ask for all the time is kept beside the rows that it follows from: sums over a provider's records, batches and accounts,
-- and the members of a version whose row differs from their registration. Counting them anew took as long as there are rows.
-- `ledger verify` holds all of it against the rows.

-- Without bounds: a sum that somebody's repair has put out is for `ledger verify` to find, and must not hold up the next batch.
CREATE TABLE provider_total (
    provider        types.address PRIMARY KEY REFERENCES provider,
    records         BIGINT NOT NULL DEFAULT 0,
    -- with the verdict accepted
    accepted        BIGINT NOT NULL DEFAULT 0,
    batches         BIGINT NOT NULL DEFAULT 0,
    invalid_batches BIGINT NOT NULL DEFAULT 0,
    -- points totals of its batches, and of those that are valid
    points          NUMERIC(78, 0) NOT NULL DEFAULT 0,
    valid_points    NUMERIC(78, 0) NOT NULL DEFAULT 0,
    -- rewards that wallets have claimed
    claimed         NUMERIC(78, 0) NOT NULL DEFAULT 0,
    -- balances of its contributors' own accounts; each may be below zero by what was taken out of its royalties
    contributors    NUMERIC(78, 0) NOT NULL DEFAULT 0
);

-- ---------------------------------------------------------------------------------------------------------------
-- what is there
-- ---------------------------------------------------------------------------------------------------------------

-- The same sums out of the rows: what the table starts with, and what it is held against.
CREATE VIEW provider_sum AS
    SELECT p.address AS provider, coalesce(r.records, 0) AS records, coalesce(r.accepted, 0) AS accepted,
        coalesce(b.batches, 0) AS batches, coalesce(b.invalid_batches, 0) AS invalid_batches, coalesce(b.points, 0) AS points,
        coalesce(b.valid_points, 0) AS valid_points, coalesce(c.claimed, 0) AS claimed, coalesce(a.contributors, 0) AS contributors
    FROM provider AS p
    LEFT JOIN (SELECT provider, count(*) AS records, count(*) FILTER (WHERE verdict = 'accepted') AS accepted
        FROM record GROUP BY provider) AS r ON r.provider = p.address
    LEFT JOIN (SELECT provider, count(*) AS batches, count(*) FILTER (WHERE state = 'invalid') AS invalid_batches,
            sum(points_total) AS points, sum(points_total) FILTER (WHERE state = 'valid') AS valid_points
        FROM batch GROUP BY provider) AS b ON b.provider = p.address
    LEFT JOIN (SELECT provider, sum(amount) AS claimed FROM reward_claim GROUP BY provider) AS c ON c.provider = p.address
    LEFT JOIN (SELECT provider, sum(balance) AS contributors FROM ledger_account WHERE kind = 'contributor' GROUP BY provider) AS a
        ON a.provider = p.address;

INSERT INTO provider_total SELECT * FROM provider_sum;

CREATE VIEW version_sum AS
    SELECT m.ip_id, m.version, count(*) AS purposes_differ
    FROM dataset_member AS m JOIN dataset AS d USING (ip_id) JOIN record AS r ON (r.provider, r.data_id) = (d.provider, m.data_id)
    WHERE r.purposes <> m.purposes GROUP BY m.ip_id, m.version;

-- ---------------------------------------------------------------------------------------------------------------
-- what keeps it so; names of tables stand for those beside the one that changes
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION provider_begins() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %I.provider_total (provider) VALUES ($1)', TG_TABLE_SCHEMA) USING NEW.address;
    RETURN NULL;
END $$;
CREATE TRIGGER provider_has_totals AFTER INSERT ON provider FOR EACH ROW EXECUTE FUNCTION provider_begins();

CREATE FUNCTION batch_is_counted() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    is_new BOOLEAN := TG_OP = 'INSERT';
BEGIN
    EXECUTE format(
        'UPDATE %I.provider_total SET batches = batches + $2, invalid_batches = invalid_batches + $3, points = points + $4,
             valid_points = valid_points + $5
         WHERE provider = $1', TG_TABLE_SCHEMA)
    USING NEW.provider, is_new::int,
        (NEW.state = 'invalid')::int - CASE WHEN is_new THEN 0 ELSE (OLD.state = 'invalid')::int END,
        NEW.points_total - CASE WHEN is_new THEN 0 ELSE OLD.points_total END,
        CASE WHEN NEW.state = 'valid' THEN NEW.points_total ELSE 0 END
            - CASE WHEN is_new THEN 0 WHEN OLD.state = 'valid' THEN OLD.points_total ELSE 0 END;
    RETURN NULL;
END $$;
CREATE TRIGGER batch_is_counted AFTER INSERT OR UPDATE OF state, points_total ON batch
    FOR EACH ROW EXECUTE FUNCTION batch_is_counted();

CREATE FUNCTION claim_is_counted() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE %I.provider_total SET claimed = claimed + $2 WHERE provider = $1', TG_TABLE_SCHEMA)
    USING NEW.provider, NEW.amount;
    RETURN NULL;
END $$;
CREATE TRIGGER claim_is_counted AFTER INSERT ON reward_claim FOR EACH ROW EXECUTE FUNCTION claim_is_counted();

-- Records are never deleted. What a row was before counts against what it is now.
CREATE FUNCTION record_is_counted() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    changed TEXT := 'SELECT provider, data_id, verdict, purposes, 1 AS by FROM added';
    has_members BOOLEAN;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        changed := changed || ' UNION ALL SELECT provider, data_id, verdict, purposes, -1 FROM removed';
    END IF;
    EXECUTE format(
        'UPDATE %1$I.provider_total AS t SET records = t.records + c.records, accepted = t.accepted + c.accepted
         FROM (SELECT provider, sum(by) AS records, coalesce(sum(by) FILTER (WHERE verdict = ''accepted''), 0) AS accepted
             FROM (%2$s) AS changed GROUP BY provider) AS c
         WHERE t.provider = c.provider AND (c.records, c.accepted) <> (0, 0)', TG_TABLE_SCHEMA, changed);
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.dataset_member)', TG_TABLE_SCHEMA) INTO has_members;
    IF has_members THEN
        EXECUTE format(
            'UPDATE %1$I.dataset_version AS v SET purposes_differ = v.purposes_differ + c.members
             FROM (
                 SELECT m.ip_id, m.version, sum(r.by) AS members
                 FROM (SELECT provider, data_id, purposes, sum(by) AS by FROM (%2$s) AS changed
                     WHERE purposes IS NOT NULL GROUP BY 1, 2, 3 HAVING sum(by) <> 0) AS r
                 -- each is looked up: not all members are read for a few records
                 CROSS JOIN LATERAL (SELECT ip_id, version, purposes FROM %1$I.dataset_member WHERE data_id = r.data_id OFFSET 0) AS m
                 JOIN %1$I.dataset AS d ON d.ip_id = m.ip_id AND d.provider = r.provider
                 WHERE m.purposes <> r.purposes GROUP BY 1, 2
             ) AS c
             WHERE (v.ip_id, v.version) = (c.ip_id, c.version)', TG_TABLE_SCHEMA, changed);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER record_is_counted AFTER INSERT ON record
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION record_is_counted();
CREATE TRIGGER record_is_counted_anew AFTER UPDATE ON record
    REFERENCING NEW TABLE AS added OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION record_is_counted();

-- Sums what the accounts themselves moved by, not what a transfer said.
CREATE FUNCTION account_is_summed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    moved TEXT := CASE TG_OP
        WHEN 'INSERT' THEN 'SELECT provider, kind, balance AS amount FROM added'
        WHEN 'DELETE' THEN 'SELECT provider, kind, -balance AS amount FROM removed'
        ELSE 'SELECT provider, kind, balance AS amount FROM added UNION ALL SELECT provider, kind, -balance FROM removed'
    END;
BEGIN
    EXECUTE format(
        'UPDATE %I.provider_total AS t SET contributors = t.contributors + c.amount
         FROM (SELECT provider, sum(amount) AS amount FROM (%s) AS moved WHERE kind = ''contributor'' GROUP BY provider) AS c
         WHERE t.provider = c.provider', TG_TABLE_SCHEMA, moved);
    RETURN NULL;
END $$;
CREATE TRIGGER account_is_summed AFTER INSERT ON ledger_account
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION account_is_summed();
CREATE TRIGGER account_is_summed_anew AFTER UPDATE ON ledger_account
    REFERENCING NEW TABLE AS added OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION account_is_summed();
CREATE TRIGGER account_is_summed_no_more AFTER DELETE ON ledger_account
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION account_is_summed();

CREATE FUNCTION provider_total_guard() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'a total moves only with the rows that it is of';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER provider_total_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON provider_total
    FOR EACH STATEMENT EXECUTE FUNCTION provider_total_guard();

-- ---------------------------------------------------------------------------------------------------------------
-- what is read out of it
-- ---------------------------------------------------------------------------------------------------------------

-- Issued = outstanding + redeemed, as ever: what is outstanding is with contributors, or in royalties for them.
CREATE OR REPLACE VIEW ledger_proof AS
    SELECT
        p.address AS provider,
        coalesce(-issuer.balance, 0) AS issued,
        coalesce(t.contributors, 0) + coalesce(royalties.balance, 0) AS outstanding,
        coalesce(redeemed.balance, 0) AS redeemed,
        -- 0, or the ledger is broken
        coalesce(issuer.balance, 0) + coalesce(t.contributors, 0) + coalesce(royalties.balance, 0) + coalesce(redeemed.balance, 0)
            AS difference
    FROM provider AS p
    LEFT JOIN provider_total AS t ON t.provider = p.address
    LEFT JOIN ledger_account AS issuer ON (issuer.provider, issuer.kind) = (p.address, 'issuer')
        AND issuer.key = '\x0000000000000000000000000000000000000000000000000000000000000000'
    LEFT JOIN ledger_account AS royalties ON (royalties.provider, royalties.kind) = (p.address, 'royalties')
        AND royalties.key = '\x0000000000000000000000000000000000000000000000000000000000000000'
    LEFT JOIN ledger_account AS redeemed ON (redeemed.provider, redeemed.kind) = (p.address, 'redeemed')
        AND redeemed.key = '\x0000000000000000000000000000000000000000000000000000000000000000';

-- Every answer reads this table: what takes long comes before it is locked.
CREATE TEMPORARY TABLE differ AS SELECT ip_id::numeric, version, purposes_differ FROM version_sum;
ALTER TABLE dataset_version ADD COLUMN purposes_differ BIGINT NOT NULL DEFAULT 0;
UPDATE dataset_version AS v SET purposes_differ = d.purposes_differ FROM differ AS d WHERE (v.ip_id, v.version) = (d.ip_id, d.version);
DROP TABLE differ;

-- who may read the ledger, as a replica's role may, reads its totals as well
DO $$
DECLARE
    reader TEXT;
BEGIN
    FOR reader IN
        SELECT CASE WHEN acl.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
        WHERE c.oid = 'ledger_transfer'::regclass AND acl.privilege_type = 'SELECT' AND acl.grantee <> c.relowner
    LOOP
        EXECUTE 'GRANT SELECT ON provider_total, provider_sum, version_sum TO ' || reader;
    END LOOP;
END $$;
