-- A sale is one transfer, however many members its version has, as on chain: from the issuer to the provider's royalties. What a
-- member gets of it follows from the sale and the member alone (docs/decisions/0026-sales-post-once.md), and what was posted for
-- each member until now becomes that, to the last unit.

-- What the parts of one posted sale are made of. Written by a trigger on the transfer, never changed.
CREATE TABLE royalty_split (
    license_id       types.u256 PRIMARY KEY REFERENCES sale,
    -- of the dataset: who owes the points
    provider         types.address NOT NULL,
    ip_id            types.u256 NOT NULL,
    version          BIGINT NOT NULL,
    -- what is split: the amount of the transfer
    points_share     types.u128 NOT NULL CHECK (points_share > 0),
    -- by which sum of weights: of the members without a payee
    points_weight    types.u128 NOT NULL CHECK (points_weight > 0),
    -- Hamilton's method gives one unit beyond the floor to the members whose remainder of points_share × weight by points_weight is
    -- above this one, or the same at this place or an earlier one; points_weight at place 0 where nobody gets one
    cutoff_remainder types.u128 NOT NULL CHECK (cutoff_remainder BETWEEN 1 AND points_weight),
    cutoff_position  BIGINT NOT NULL CHECK (cutoff_position >= 0)
);
CREATE INDEX royalty_split_version ON royalty_split (ip_id, version);

-- An account finds its memberships; wallets have dataset_member_payee.
CREATE INDEX dataset_member_account ON dataset_member (contributor, ip_id, version)
    WHERE payee = '\x0000000000000000000000000000000000000000';

-- Each member's part of each posted sale, where it is not nothing. The sale stands outside, so that sums do not look for it.
CREATE VIEW royalty_part AS
    SELECT s.provider, m.contributor AS account, s.license_id, s.ip_id, s.version, m.position, m.data_id, part.amount,
        sale.block_number, sale.block_time, sale.tx_hash
    FROM royalty_split AS s
    JOIN dataset_member AS m ON (m.ip_id, m.version) = (s.ip_id, s.version)
    CROSS JOIN LATERAL (
        SELECT div(s.points_share::numeric * m.weight, s.points_weight)
            + CASE WHEN mod(s.points_share::numeric * m.weight, s.points_weight) > s.cutoff_remainder
                OR (mod(s.points_share::numeric * m.weight, s.points_weight) = s.cutoff_remainder AND m.position <= s.cutoff_position)
                THEN 1 ELSE 0 END AS amount
    ) AS part
    LEFT JOIN sale ON sale.license_id = s.license_id
    WHERE m.payee = '\x0000000000000000000000000000000000000000' AND part.amount > 0;

-- The ledger as contributors see it: their own transfers, and their parts of sales under ids as if each were one.
CREATE VIEW ledger_statement AS
    SELECT provider, account, id, cause, amount, data_id, block_number, block_time, tx_hash
    FROM ledger_transfer WHERE cause <> 'royalty'
    UNION ALL
    SELECT provider, account, 'royalty/' || license_id || '/' || data_id, 'royalty', amount, data_id, block_number, block_time, tx_hash
    FROM royalty_part;

-- Where the units that floors leave over end: at the last of the members that get one, by remainder, then by place. Members are
-- counted by remainder in 1000 ranges first, so that only those of one range are sorted.
CREATE FUNCTION royalty_cutoff(of_ip_id NUMERIC, of_version BIGINT, share NUMERIC, total NUMERIC,
    OUT cutoff_remainder NUMERIC, OUT cutoff_position BIGINT) LANGUAGE plpgsql STABLE AS $$
DECLARE
    units NUMERIC;
    summed NUMERIC;
    cut_in NUMERIC;
    place BIGINT;
BEGIN
    WITH ranges AS (
        SELECT div(mod(share * weight, total) * 1000, total) AS range, count(*) AS members, sum(div(share * weight, total)) AS floors,
            sum(weight) AS weight
        FROM dataset_member
        WHERE ip_id = of_ip_id AND version = of_version AND payee = '\x0000000000000000000000000000000000000000'
        GROUP BY 1
    ), over AS (
        SELECT share - sum(floors) AS units, sum(weight) AS weight FROM ranges
    ), ranked AS (
        SELECT range, members, sum(members) OVER (ORDER BY range DESC) AS reached FROM ranges
    )
    SELECT over.units, over.weight, ranked.range, over.units - (ranked.reached - ranked.members)
    INTO units, summed, cut_in, place
    FROM over LEFT JOIN ranked
        ON over.units > 0 AND ranked.reached >= over.units AND ranked.reached - ranked.members < over.units;
    IF summed IS DISTINCT FROM total THEN
        RAISE EXCEPTION 'version % of dataset % has members of weight % that are paid in points, expected %',
            of_version, of_ip_id, coalesce(summed, 0), total;
    END IF;
    IF units = 0 THEN
        cutoff_remainder := total;
        cutoff_position := 0;
        RETURN;
    END IF;
    SELECT mod(share * weight, total), position INTO cutoff_remainder, cutoff_position FROM dataset_member
    WHERE ip_id = of_ip_id AND version = of_version AND payee = '\x0000000000000000000000000000000000000000'
        AND div(mod(share * weight, total) * 1000, total) = cut_in
    ORDER BY 1 DESC, 2 OFFSET place - 1 LIMIT 1;
END $$;

-- ---------------------------------------------------------------------------------------------------------------
-- what the tables refuse
-- ---------------------------------------------------------------------------------------------------------------

-- royalties: what sales brought a provider's members, one account a provider. What a contributor has is its own balance, which goes
-- below zero by what it took out of that, and its parts.
ALTER TABLE ledger_account
    DROP CONSTRAINT ledger_account_kind_check,
    ADD CONSTRAINT ledger_account_kind_check CHECK (kind IN ('issuer', 'contributor', 'royalties', 'redeemed')),
    DROP CONSTRAINT balance_is_not_negative,
    -- of contributors: the trigger ledger_royalty, since a part is in another table
    ADD CONSTRAINT balance_is_not_negative CHECK (kind IN ('issuer', 'contributor') OR balance >= 0);
ALTER TABLE ledger_transfer DROP CONSTRAINT each_cause_has_its_two_accounts;

-- ---------------------------------------------------------------------------------------------------------------
-- what is there: from a transfer a member to a transfer a sale
-- ---------------------------------------------------------------------------------------------------------------

INSERT INTO royalty_split
    SELECT sold.*, c.cutoff_remainder, c.cutoff_position
    FROM (
        SELECT s.license_id, d.provider, s.ip_id, s.version, s.points_share, v.points_weight
        FROM sale AS s JOIN dataset AS d USING (ip_id) JOIN dataset_version AS v USING (ip_id, version)
        WHERE s.points_state = 'posted' AND s.points_share > 0
        -- or the function is asked of what the join leaves out, too
        OFFSET 0
    ) AS sold
    CROSS JOIN LATERAL royalty_cutoff(sold.ip_id, sold.version, sold.points_share, sold.points_weight) AS c;

DO $$
DECLARE
    differs TEXT;
BEGIN
    SELECT id INTO differs
    FROM (SELECT id, provider, account, amount, data_id, block_number, block_time, tx_hash FROM ledger_transfer
        WHERE cause = 'royalty') AS was
    FULL JOIN (SELECT id, provider, account, amount, data_id, block_number, block_time, tx_hash FROM ledger_statement
        WHERE cause = 'royalty') AS now USING (id)
    WHERE (was.provider, was.account, was.amount, was.data_id, was.block_number, was.block_time, was.tx_hash)
        IS DISTINCT FROM (now.provider, now.account, now.amount, now.data_id, now.block_number, now.block_time, now.tx_hash)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the ledger''s transfer % is not what its sale and the members of its version give', differs
            USING HINT = 'the version before this one names all such rows (ledger verify) and makes them anew (rebuild)';
    END IF;
END $$;

CREATE TEMPORARY TABLE gained AS
    SELECT provider, account, sum(amount) AS amount FROM ledger_transfer WHERE cause = 'royalty' GROUP BY 1, 2;
ALTER TABLE ledger_transfer DISABLE TRIGGER USER;
ALTER TABLE ledger_account DISABLE TRIGGER USER;
ALTER TABLE ledger_lane DISABLE TRIGGER USER;
DELETE FROM ledger_transfer WHERE cause = 'royalty';
UPDATE ledger_account AS a SET balance = a.balance - gained.amount FROM gained
    WHERE (a.provider, a.kind, a.key) = (gained.provider, 'contributor', gained.account);
-- an account is there where a transfer is from it or to it
DELETE FROM ledger_account AS a USING gained
    WHERE (a.provider, a.kind, a.key) = (gained.provider, 'contributor', gained.account)
        AND NOT EXISTS (SELECT FROM ledger_transfer AS t WHERE (t.provider, t.account) = (a.provider, a.key));
INSERT INTO ledger_account (provider, kind, key, balance)
    SELECT provider, 'royalties', decode(repeat('00', 32), 'hex'), sum(points_share) FROM royalty_split GROUP BY provider;
INSERT INTO ledger_transfer (id, cause, provider, debit_kind, debit_key, credit_kind, credit_key, amount, account, data_id,
        block_number, block_time, tx_hash, position, link)
    SELECT t.id, 'royalty', t.provider, 'issuer', t.zero, 'royalties', t.zero, t.amount, t.zero, NULL, t.block_number, t.block_time,
        t.tx_hash, 1, sha256(t.zero || ledger_field(t.id) || ledger_field('1') || ledger_field(t.id) || ledger_field('royalty')
            || ledger_field(t.provider) || ledger_field('issuer') || ledger_field(t.zero) || ledger_field('royalties')
            || ledger_field(t.zero) || ledger_field(t.amount::text) || ledger_field(t.zero) || ledger_field(''::bytea)
            || ledger_field(t.block_number::text) || ledger_field(t.block_time::text) || ledger_field(t.tx_hash))
    FROM (
        -- the id is the lane, too
        SELECT 'royalty/' || s.license_id AS id, s.provider::bytea, s.points_share AS amount, sale.block_number, sale.block_time,
            sale.tx_hash::bytea, decode(repeat('00', 32), 'hex') AS zero
        FROM royalty_split AS s JOIN sale USING (license_id)
    ) AS t;
-- a rebuild drops the domains that its columns are of in this very transaction
DROP TABLE gained;
DELETE FROM ledger_lane WHERE starts_with(lane, 'royalty/');
INSERT INTO ledger_lane (lane, transfers, head) SELECT id, position, link FROM ledger_transfer WHERE cause = 'royalty';
ALTER TABLE ledger_transfer ENABLE TRIGGER USER;
ALTER TABLE ledger_account ENABLE TRIGGER USER;
ALTER TABLE ledger_lane ENABLE TRIGGER USER;

-- ---------------------------------------------------------------------------------------------------------------
-- what the tables refuse from here on
-- ---------------------------------------------------------------------------------------------------------------

ALTER TABLE ledger_transfer ADD CONSTRAINT each_cause_has_its_two_accounts CHECK (
    CASE cause
        WHEN 'redeem' THEN debit_kind = 'contributor' AND credit_kind = 'redeemed' AND account = debit_key
        WHEN 'royalty' THEN debit_kind = 'issuer' AND credit_kind = 'royalties' AND account = credit_key AND data_id IS NULL
        ELSE debit_kind = 'issuer' AND credit_kind = 'contributor' AND account = credit_key AND data_id IS NOT NULL
    END
);

-- After ledger_post, by its name: a royalty is the points share of a posted sale and is split by what the members' tables hold then,
-- whoever inserts it; and nobody takes out more than rewards and parts have brought.
CREATE FUNCTION ledger_royalty() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    added BIGINT;
    split BIGINT;
    over RECORD;
BEGIN
    SELECT count(*) INTO added FROM posted WHERE cause = 'royalty';
    IF added > 0 THEN
        INSERT INTO royalty_split
            SELECT sold.*, c.cutoff_remainder, c.cutoff_position
            FROM (
                SELECT s.license_id, d.provider, s.ip_id, s.version, s.points_share, v.points_weight
                FROM posted AS t
                JOIN sale AS s ON s.license_id = CASE WHEN t.id ~ '^royalty/[0-9]{1,78}$' THEN substr(t.id, 9)::numeric END
                    AND t.id = 'royalty/' || s.license_id
                JOIN dataset AS d USING (ip_id) JOIN dataset_version AS v USING (ip_id, version)
                WHERE t.cause = 'royalty' AND s.points_state = 'posted' AND v.state = 'valid'
                    AND (t.provider, t.amount, t.block_number, t.block_time, t.tx_hash)
                        = (d.provider, s.points_share, s.block_number, s.block_time, s.tx_hash)
                OFFSET 0
            ) AS sold
            CROSS JOIN LATERAL royalty_cutoff(sold.ip_id, sold.version, sold.points_share, sold.points_weight) AS c;
        GET DIAGNOSTICS split = ROW_COUNT;
        IF split <> added THEN
            RAISE EXCEPTION 'a royalty is the points share of a posted sale over known members: % of % are not', added - split, added;
        END IF;
    END IF;
    SELECT a.provider, a.key, a.balance INTO over
    FROM (SELECT DISTINCT provider, debit_key FROM posted WHERE debit_kind = 'contributor') AS gives
    JOIN ledger_account AS a ON (a.provider, a.kind, a.key) = (gives.provider, 'contributor', gives.debit_key)
    WHERE a.balance < 0 AND a.balance + (
        SELECT coalesce(sum(r.amount), 0) FROM royalty_part AS r WHERE (r.provider, r.account) = (a.provider, a.key)
    ) < 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'balance_is_not_negative: account 0x% would have % and less than that in royalties',
            encode(over.key, 'hex'), over.balance
            USING ERRCODE = 'check_violation', CONSTRAINT = 'balance_is_not_negative', TABLE = 'ledger_account';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_royalty AFTER INSERT ON ledger_transfer
    REFERENCING NEW TABLE AS posted FOR EACH STATEMENT EXECUTE FUNCTION ledger_royalty();

-- A split is of a transfer, as a balance is.
CREATE FUNCTION royalty_split_guard() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' OR pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'a split comes only with a ledger transfer, and is never changed';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER royalty_split_comes_with_a_transfer BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON royalty_split
    FOR EACH STATEMENT EXECUTE FUNCTION royalty_split_guard();

-- Members are what parts are made of: they stay as they are, and none comes to a version whose sales are split.
DROP TRIGGER dataset_member_still_refers_to_version ON dataset_member;
CREATE TRIGGER dataset_member_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON dataset_member
    FOR EACH STATEMENT EXECUTE FUNCTION is_referred_to();
CREATE FUNCTION dataset_member_in_time() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM (SELECT DISTINCT ip_id, version FROM added) AS of_version JOIN royalty_split USING (ip_id, version)) THEN
        RAISE EXCEPTION 'no member comes to a version whose sales are split';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER dataset_member_in_time AFTER INSERT ON dataset_member
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION dataset_member_in_time();

-- Issued = outstanding + redeemed, as ever: what is outstanding is with contributors, or in royalties for them.
CREATE OR REPLACE VIEW ledger_proof AS
    SELECT
        p.address AS provider,
        coalesce(-sum(a.balance) FILTER (WHERE a.kind = 'issuer'), 0) AS issued,
        coalesce(sum(a.balance) FILTER (WHERE a.kind IN ('contributor', 'royalties')), 0) AS outstanding,
        coalesce(sum(a.balance) FILTER (WHERE a.kind = 'redeemed'), 0) AS redeemed,
        -- 0, or the ledger is broken
        coalesce(sum(a.balance), 0) AS difference
    FROM provider AS p LEFT JOIN ledger_account AS a ON a.provider = p.address
    GROUP BY p.address;

-- who may read the ledger, as a replica's role may, reads the parts as well
DO $$
DECLARE
    reader TEXT;
BEGIN
    FOR reader IN
        SELECT CASE WHEN acl.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
        WHERE c.oid = 'ledger_transfer'::regclass AND acl.privilege_type = 'SELECT' AND acl.grantee <> c.relowner
    LOOP
        EXECUTE 'GRANT SELECT ON royalty_split, royalty_part, ledger_statement TO ' || reader;
    END LOOP;
END $$;

-- ---------------------------------------------------------------------------------------------------------------
-- local: no payout over what its accounts have, by name as before
-- ---------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION local.payout_room(of_provider BYTEA, accounts BYTEA[])
    RETURNS TABLE (account BYTEA, balance NUMERIC, held NUMERIC, waiting NUMERIC, on_hold NUMERIC) LANGUAGE sql STABLE AS $$
    SELECT asked.key, coalesce(a.balance, 0) + royalties.amount, open.held, redeemed.waiting, young.on_hold
    FROM unnest(accounts) AS asked (key)
    LEFT JOIN public.ledger_account AS a ON a.provider = of_provider AND a.kind = 'contributor' AND a.key = asked.key
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(part.amount), 0) AS amount FROM public.royalty_part AS part
        WHERE part.provider = of_provider AND part.account = asked.key
    ) AS royalties
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(entry.amount), 0) AS held
        FROM local.payout_entry AS entry JOIN local.payout AS p USING (payout_id)
        WHERE p.provider = of_provider AND entry.account = asked.key AND p.state <> 'voided'
            AND NOT EXISTS (
                SELECT FROM public.points_redeemed AS mirrored
                WHERE mirrored.provider = p.provider AND mirrored.payout_id = entry.debit_id
            )
    ) AS open
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(r.amount), 0) AS waiting FROM public.points_redeemed AS r
        WHERE r.provider = of_provider AND r.account = asked.key AND r.state = 'waiting'
    ) AS redeemed
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(s.amount), 0) AS on_hold
        FROM public.ledger_statement AS s JOIN local.payout_hold AS h ON h.provider = s.provider
        WHERE s.provider = of_provider AND s.account = asked.key AND s.cause <> 'redeem'
            AND s.block_time + h.seconds > extract(epoch FROM now())
    ) AS young
$$;
