//! `tidemark-indexer ledger verify`: recomputes the ledger from its own rows and from what caused them, and names what differs.
//!
//! Triggers refuse changes, but not those of a superuser. So each row is hashed again, balances are summed again, sales are split
//! again over members that are held against the root on chain, and transfers are held against the events, sales and redemptions
//! they are of, all in one snapshot.

use std::collections::HashMap;

use alloy::primitives::{Address, B256};
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::{PgConnection, PgPool, Row, postgres::PgRow};

use tidemark::{
    dataset::Member,
    ids::{ConsentId, DataId},
    merkle::Tree,
};

use super::{
    chain::{FieldHash, Fields},
    split::{Recount, Split},
};
use crate::{
    manifest::stored::{self, digits},
    read::{self, ReadError, hex0x},
};

/// Differences that are kept; more are only counted.
const FINDINGS_MAX: usize = 100;
/// Sales of one version that are split in one walk over its members.
const SPLITS_PER_WALK: i64 = 1_000;
/// Rows between two words on progress.
const ROWS_PER_WORD: u64 = 10_000;

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which promise: chain, lane, id, entry, balance, cause, total, split, member or payout.
    pub check: &'static str,
    /// The row: a transfer's id, which a split has, too, a lane, an account, a batch, a provider, a version, a member or a payout.
    pub row: String,
    /// What was expected there, and what is there.
    pub what: String,
}

/// What was found in the ledger at one block.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Height up to which chain and ledger are the same.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: Option<String>,
    /// Rows of the ledger.
    pub transfers: u64,
    /// Lanes they stand in.
    pub lanes: u64,
    /// Sales that were split again over the members of their versions.
    pub splits: u64,
    /// Steps of this operator's payouts.
    pub payout_steps: u64,
    /// Commits to all lanes: the same at every indexer that has the same files at this block.
    pub root: String,
    /// How many things do not hold, at most 101 counted of each of the checks that are a statement.
    pub broken: u64,
    /// The first of them, in the order they were found.
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, check: &'static str, row: impl Into<String>, what: impl Into<String>) {
        self.broken = self.broken.saturating_add(1);
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { check, row: row.into(), what: what.into() });
        }
    }
}

/// Hears how far it is: the check, rows done, rows in all.
pub type Progress<'a> = &'a mut (dyn FnMut(&'static str, u64, u64) + Send);

/// Checks the whole ledger, and this operator's payouts.
pub async fn verify(pool: &PgPool, progress: Progress<'_>) -> Result<Report, ReadError> {
    let mut snapshot = read::snapshot(pool).await?;
    let mut report = Report::default();
    // none before the first block was applied
    if let Some(at) = read::at_if_any(&mut snapshot).await? {
        (report.block_number, report.block_hash) = (at.block_number, at.block_hash);
    }
    let ends = transfers(&mut snapshot, &mut report, progress).await?;
    lanes(&mut snapshot, &mut report, ends).await?;
    report.root = root(&mut snapshot).await?.to_string();
    let total = u64::try_from(STATEMENTS.len()).unwrap_or_default();
    for (done, (check, sql)) in (1u64..).zip(STATEMENTS) {
        let rows = sqlx::query(*sql).fetch_all(&mut *snapshot).await?;
        for row in &rows {
            report.add(check, row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?);
        }
        progress("sums and causes", done, total);
    }
    splits(&mut snapshot, &mut report, progress).await?;
    payouts(&mut snapshot, &mut report, progress).await?;
    Ok(report)
}

/// Hash over all lanes by name, each with its transfers and its head.
pub async fn root(connection: &mut PgConnection) -> Result<B256, sqlx::Error> {
    let mut hash = FieldHash::default();
    let mut rows =
        sqlx::query("SELECT lane, transfers, head FROM ledger_lane ORDER BY lane COLLATE \"C\"").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        hash.field(row.try_get::<&str, _>(0)?).number(row.try_get(1)?).field(row.try_get::<&[u8], _>(2)?);
    }
    Ok(hash.finish())
}

/// Where the walk through a lane stands.
#[derive(Clone, Copy, Debug)]
struct End {
    position: i64,
    link: B256,
}

/// Walks all transfers lane by lane and hashes each again; gives the end of each lane.
async fn transfers(
    connection: &mut PgConnection,
    report: &mut Report,
    progress: Progress<'_>,
) -> Result<HashMap<String, End>, sqlx::Error> {
    let total: i64 = sqlx::query_scalar("SELECT count(*) FROM ledger_transfer").fetch_one(&mut *connection).await?;
    let total = u64::try_from(total).unwrap_or_default();
    let mut ends = HashMap::new();
    let mut rows = sqlx::query(
        "SELECT ledger_lane_of(cause, id, account), position, link, id, cause, provider, debit_kind, debit_key, credit_kind,
             credit_key, amount::text, account, data_id, block_number, block_time, tx_hash
         FROM ledger_transfer
         ORDER BY ledger_lane_of(cause, id, account) COLLATE \"C\", position NULLS LAST, id",
    )
    .fetch(connection);
    progress("chain", 0, total);
    while let Some(row) = rows.try_next().await? {
        let lane: &str = row.try_get(0)?;
        let before = ends.get(lane).copied().unwrap_or(End { position: 0, link: B256::ZERO });
        let end = check_link(&row, lane, before, report)?;
        match ends.get_mut(lane) {
            Some(known) => *known = end,
            None => {
                ends.insert(lane.to_owned(), end);
            }
        }
        report.transfers = report.transfers.saturating_add(1);
        if report.transfers.is_multiple_of(ROWS_PER_WORD) || report.transfers == total {
            progress("chain", report.transfers, total);
        }
    }
    report.lanes = u64::try_from(ends.len()).unwrap_or_default();
    Ok(ends)
}

fn check_link(row: &PgRow, lane: &str, before: End, report: &mut Report) -> Result<End, sqlx::Error> {
    let (position, link): (Option<i64>, Option<&[u8]>) = (row.try_get(1)?, row.try_get(2)?);
    let (id, cause): (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
    let next = before.position.saturating_add(1);
    let (Some(position), Some(stored)) = (position, link.and_then(|link| B256::try_from(link).ok())) else {
        report.add("chain", id, format!("expected position {next} of lane {lane} and a link, got a row without"));
        return Ok(before);
    };
    let end = End { position, link: stored };
    if position != next {
        let what = if position < next { "a second row at" } else { "rows are missing before" };
        report.add("chain", id, format!("expected position {next} of lane {lane}, got {position}: {what} this place"));
        return Ok(end);
    }
    let data_id: Option<uuid::Uuid> = row.try_get(12)?;
    let fields = Fields {
        lane,
        position,
        id,
        cause,
        provider: row.try_get(5)?,
        debit: (row.try_get(6)?, row.try_get(7)?),
        credit: (row.try_get(8)?, row.try_get(9)?),
        amount: row.try_get(10)?,
        account: row.try_get(11)?,
        data_id: data_id.as_ref().map_or(&[][..], |id| id.as_bytes().as_slice()),
        block_number: row.try_get(13)?,
        block_time: row.try_get(14)?,
        tx_hash: row.try_get(15)?,
    };
    let computed = fields.link(before.link);
    if computed != stored {
        let what = format!(
            "position {position} of lane {lane}: expected link {computed} by its columns and the row before, got {stored}"
        );
        report.add("chain", id, what);
    }
    Ok(end)
}

/// Holds the ends of the walk against the heads that the triggers wrote: finds what is missing at the end of a lane.
async fn lanes(
    connection: &mut PgConnection,
    report: &mut Report,
    mut ends: HashMap<String, End>,
) -> Result<(), sqlx::Error> {
    let mut rows =
        sqlx::query("SELECT lane, transfers, head FROM ledger_lane ORDER BY lane COLLATE \"C\"").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (lane, transfers, head): (&str, i64, &[u8]) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        match ends.remove(lane) {
            Some(end) if end.position == transfers && end.link.as_slice() == head => {}
            Some(end) => {
                let head = hex0x(head);
                let what = format!(
                    "expected {transfers} transfers that end with {head}, got {} that end with {}",
                    end.position, end.link
                );
                report.add("lane", lane, what);
            }
            None => report.add("lane", lane, format!("expected {transfers} transfers, got none")),
        }
    }
    let mut unknown: Vec<String> = ends.into_keys().collect();
    unknown.sort_unstable();
    for lane in unknown {
        report.add("lane", lane, "expected no transfers, since no trigger has written its head");
    }
    Ok(())
}

/// Checks as statements of (row, what), empty where all holds. A reward, royalty or redemption is held against its cause
/// column by column, a split against its sale.
const STATEMENTS: &[(&str, &str)] = &[
    (
        "id",
        "SELECT id, 'expected one transfer of this cause, got ' || count(*) FROM ledger_transfer
         GROUP BY id HAVING count(*) > 1 ORDER BY id LIMIT 101",
    ),
    (
        "entry",
        "SELECT id, 'expected two accounts and an amount above 0 as the cause ' || cause || ' has them, got ' || amount
             || ' from ' || debit_kind || ' to ' || credit_kind
         FROM ledger_transfer
         WHERE (amount > 0 AND starts_with(id, cause || '/') AND CASE cause
             WHEN 'redeem' THEN debit_kind = 'contributor' AND credit_kind = 'redeemed' AND account = debit_key
             WHEN 'reward' THEN debit_kind = 'issuer' AND credit_kind = 'contributor' AND account = credit_key
             WHEN 'royalty' THEN debit_kind = 'issuer' AND credit_kind = 'royalties' AND account = credit_key
             ELSE FALSE
         END) IS NOT TRUE ORDER BY id LIMIT 101",
    ),
    (
        "balance",
        "SELECT kind || ' 0x' || encode(key, 'hex') || ' of 0x' || encode(provider, 'hex'),
             'expected ' || coalesce(summed.balance, 0) || ' by its transfers, got ' || coalesce(a.balance::text, 'no account')
         FROM ledger_account AS a FULL JOIN (
             SELECT provider, kind, key, sum(amount) AS balance FROM (
                 SELECT provider, debit_kind AS kind, debit_key AS key, -amount AS amount FROM ledger_transfer
                 UNION ALL SELECT provider, credit_kind, credit_key, amount FROM ledger_transfer
             ) AS sides GROUP BY 1, 2, 3
         ) AS summed USING (provider, kind, key)
         WHERE a.balance IS DISTINCT FROM coalesce(summed.balance, 0) ORDER BY 1 LIMIT 101",
    ),
    (
        "balance",
        "SELECT kind || ' 0x' || encode(key, 'hex') || ' of 0x' || encode(provider, 'hex'),
             'expected ' || CASE kind WHEN 'issuer' THEN 'at most 0, got ' || balance WHEN 'contributor' THEN 'at least 0, got '
                 || balance || ' and royalties of ' || royalties.amount ELSE 'at least 0, got ' || balance END
         FROM ledger_account AS a CROSS JOIN LATERAL (
             SELECT CASE WHEN a.kind = 'contributor' AND a.balance < 0 THEN (
                 SELECT coalesce(sum(r.amount), 0) FROM royalty_part AS r WHERE (r.provider, r.account) = (a.provider, a.key)
             ) ELSE 0 END AS amount
         ) AS royalties
         WHERE CASE kind WHEN 'issuer' THEN balance > 0 ELSE balance + royalties.amount < 0 END ORDER BY 1 LIMIT 101",
    ),
    (
        "total",
        "SELECT '0x' || encode(provider, 'hex'), 'expected ' || coalesce(s::text, 'none') || ' by its rows, got '
             || coalesce(t::text, 'none')
         FROM provider_total AS t FULL JOIN provider_sum AS s USING (provider)
         WHERE ROW(t.*) IS DISTINCT FROM ROW(s.*) ORDER BY 1 LIMIT 101",
    ),
    (
        "total",
        "SELECT 'version ' || v.version || ' of dataset ' || v.ip_id, 'expected ' || coalesce(s.purposes_differ, 0)
             || ' members whose row differs from their registration, got ' || v.purposes_differ
         FROM dataset_version AS v LEFT JOIN version_sum AS s USING (ip_id, version)
         WHERE v.purposes_differ <> coalesce(s.purposes_differ, 0) ORDER BY 1 LIMIT 101",
    ),
    (
        "cause",
        "SELECT coalesce(t.id, e.id), CASE
             WHEN t.id IS NULL THEN 'expected a transfer of ' || e.amount || ' for this event, got none'
             WHEN e.id IS NULL THEN 'expected an accepted event of a valid batch that is paid in points, got none'
             ELSE concat_ws('; ',
                 CASE WHEN t.amount <> e.amount THEN format('amount: expected %s, got %s', e.amount, t.amount) END,
                 CASE WHEN t.provider <> e.provider THEN 'provider differs' END,
                 CASE WHEN t.account <> e.account THEN 'account differs from the event''s contributor' END,
                 CASE WHEN t.data_id IS DISTINCT FROM e.data_id THEN 'data_id differs from the event''s' END,
                 CASE WHEN t.block_number <> e.block_number THEN 'block_number differs from the batch''s' END,
                 CASE WHEN t.block_time <> e.block_time THEN 'block_time differs from the batch''s' END,
                 CASE WHEN t.tx_hash <> e.tx_hash THEN 'tx_hash differs from the batch''s' END) END
         FROM (SELECT * FROM ledger_transfer WHERE cause = 'reward') AS t
         FULL JOIN (
             SELECT 'reward/0x' || encode(e.provider, 'hex') || '/' || e.number || '/' || e.index AS id, e.reward AS amount,
                 e.provider, e.contributor AS account, e.data_id, b.block_number, b.block_time, b.tx_hash
             FROM event AS e JOIN batch AS b USING (provider, number)
             WHERE e.reward > 0 AND e.payee = decode(repeat('00', 20), 'hex') AND b.state = 'valid'
         ) AS e ON e.id = t.id
         WHERE (t.amount, t.provider, t.account, t.data_id, t.block_number, t.block_time, t.tx_hash)
             IS DISTINCT FROM (e.amount, e.provider, e.account, e.data_id, e.block_number, e.block_time, e.tx_hash)
         ORDER BY 1 LIMIT 101",
    ),
    (
        "cause",
        "SELECT coalesce(t.id, s.id), CASE
             WHEN t.id IS NULL THEN 'expected a transfer of ' || s.amount || ' for this sale, got none'
             WHEN s.id IS NULL THEN 'expected a posted sale with points, got none'
             ELSE concat_ws('; ',
                 CASE WHEN t.amount <> s.amount THEN format('amount: expected %s, got %s', s.amount, t.amount) END,
                 CASE WHEN t.provider <> s.provider THEN 'provider differs from the dataset''s' END,
                 CASE WHEN t.block_number <> s.block_number THEN 'block_number differs from the sale''s' END,
                 CASE WHEN t.block_time <> s.block_time THEN 'block_time differs from the sale''s' END,
                 CASE WHEN t.tx_hash <> s.tx_hash THEN 'tx_hash differs from the sale''s' END) END
         FROM (SELECT * FROM ledger_transfer WHERE cause = 'royalty') AS t
         FULL JOIN (
             SELECT 'royalty/' || license_id AS id, points_share AS amount, d.provider, s.block_number, s.block_time, s.tx_hash
             FROM sale AS s JOIN dataset AS d USING (ip_id) WHERE points_state = 'posted' AND points_share > 0
         ) AS s ON s.id = t.id
         WHERE (t.amount, t.provider, t.block_number, t.block_time, t.tx_hash)
             IS DISTINCT FROM (s.amount, s.provider, s.block_number, s.block_time, s.tx_hash)
         ORDER BY 1 LIMIT 101",
    ),
    (
        "split",
        "SELECT 'royalty/' || coalesce(r.license_id, s.license_id), CASE
             WHEN r.license_id IS NULL THEN 'expected a split of ' || s.points_share || ' for this sale, got none'
             WHEN s.license_id IS NULL THEN 'expected a posted sale with points, got none'
             ELSE concat_ws('; ',
                 CASE WHEN r.provider <> s.provider THEN 'provider differs from the dataset''s' END,
                 CASE WHEN r.ip_id <> s.ip_id THEN format('ip_id: expected %s, got %s', s.ip_id, r.ip_id) END,
                 CASE WHEN r.version <> s.version THEN format('version: expected %s, got %s', s.version, r.version) END,
                 CASE WHEN r.points_share <> s.points_share
                     THEN format('points_share: expected %s, got %s', s.points_share, r.points_share) END,
                 CASE WHEN r.points_weight <> s.points_weight
                     THEN format('points_weight: expected %s, got %s', s.points_weight, r.points_weight) END) END
         FROM royalty_split AS r
         FULL JOIN (
             SELECT s.license_id, d.provider, s.ip_id, s.version, s.points_share, v.points_weight FROM sale AS s
             JOIN dataset AS d USING (ip_id) JOIN dataset_version AS v USING (ip_id, version)
             WHERE s.points_state = 'posted' AND s.points_share > 0
         ) AS s ON s.license_id = r.license_id
         WHERE (r.provider, r.ip_id, r.version, r.points_share, r.points_weight)
             IS DISTINCT FROM (s.provider, s.ip_id, s.version, s.points_share, s.points_weight)
         ORDER BY 1 LIMIT 101",
    ),
    (
        "id",
        "SELECT 'royalty/' || license_id, 'expected one split of this sale, got ' || count(*) FROM royalty_split
         GROUP BY license_id HAVING count(*) > 1 ORDER BY 1 LIMIT 101",
    ),
    (
        "cause",
        "SELECT coalesce(t.id, r.id), CASE
             WHEN t.id IS NULL THEN 'expected a transfer of ' || r.amount || ' for this redemption, got none'
             WHEN r.id IS NULL THEN 'expected a redemption on chain, got none'
             ELSE concat_ws('; ',
                 CASE WHEN t.amount <> r.amount THEN format('amount: expected %s, got %s', r.amount, t.amount) END,
                 CASE WHEN t.provider <> r.provider THEN 'provider differs' END,
                 CASE WHEN t.account <> r.account THEN 'account differs from the redemption''s' END,
                 CASE WHEN t.block_number <> r.block_number THEN 'block_number differs from the redemption''s' END,
                 CASE WHEN t.block_time <> r.block_time THEN 'block_time differs from the redemption''s' END,
                 CASE WHEN t.tx_hash <> r.tx_hash THEN 'tx_hash differs from the redemption''s' END) END
         FROM (SELECT * FROM ledger_transfer WHERE cause = 'redeem') AS t
         FULL JOIN (
             SELECT 'redeem/0x' || encode(provider, 'hex') || '/0x' || encode(payout_id, 'hex') AS id, amount, provider,
                 account, block_number, block_time, tx_hash
             FROM points_redeemed WHERE state = 'posted'
         ) AS r ON r.id = t.id
         WHERE (t.amount, t.provider, t.account, t.block_number, t.block_time, t.tx_hash)
             IS DISTINCT FROM (r.amount, r.provider, r.account, r.block_number, r.block_time, r.tx_hash)
         ORDER BY 1 LIMIT 101",
    ),
    (
        "payout",
        "SELECT p.payout_id::text, CASE
             WHEN j.payout_id IS NULL THEN 'expected a step in the journal, got none'
             ELSE concat_ws('; ',
                 CASE WHEN j.state <> p.state THEN format('state: expected %s by the journal, got %s', j.state, p.state) END,
                 CASE WHEN j.amount <> p.amount THEN format('amount: expected %s by the journal, got %s', j.amount, p.amount)
                     END,
                 CASE WHEN held.amount <> p.amount THEN format('expected entries of %s, got %s', p.amount, held.amount) END,
                 CASE WHEN j.entries <> local.payout_entries_digest(p.payout_id) THEN 'its entries were changed' END) END
         FROM local.payout AS p
         LEFT JOIN LATERAL (SELECT * FROM local.payout_journal AS j WHERE j.payout_id = p.payout_id
             ORDER BY position DESC LIMIT 1) AS j ON TRUE
         CROSS JOIN LATERAL (SELECT coalesce(sum(amount), 0) AS amount FROM local.payout_entry AS e
             WHERE e.payout_id = p.payout_id) AS held
         WHERE (j.state, j.amount, held.amount, j.entries)
             IS DISTINCT FROM (p.state, p.amount, p.amount, local.payout_entries_digest(p.payout_id))
         ORDER BY 1 LIMIT 101",
    ),
];

/// Splits each posted sale again, from its version's members alone, and holds those against the version's root.
async fn splits(connection: &mut PgConnection, report: &mut Report, progress: Progress<'_>) -> Result<(), ReadError> {
    let total: i64 = sqlx::query_scalar("SELECT count(*) FROM royalty_split").fetch_one(&mut *connection).await?;
    let total = u64::try_from(total).unwrap_or_default();
    progress("splits", 0, total);
    let mut last: Option<(String, i64, String)> = None;
    loop {
        // those of the next version, or the next of the same
        let rows = sqlx::query(
            "WITH next AS (
                 SELECT ip_id, version FROM royalty_split
                 WHERE $1::text IS NULL OR (ip_id, version, license_id) > ($1::text::numeric, $2, $3::text::numeric)
                 ORDER BY ip_id, version LIMIT 1
             )
             SELECT s.ip_id::text, s.version, s.license_id::text, s.points_share::text, s.points_weight::text,
                 s.cutoff_remainder::text, s.cutoff_position
             FROM next JOIN royalty_split AS s USING (ip_id, version)
             WHERE $1::text IS NULL OR (s.ip_id, s.version, s.license_id) > ($1::text::numeric, $2, $3::text::numeric)
             ORDER BY s.license_id LIMIT $4",
        )
        .bind(last.as_ref().map(|last| last.0.as_str()))
        .bind(last.as_ref().map(|last| last.1))
        .bind(last.as_ref().map(|last| last.2.as_str()))
        .bind(SPLITS_PER_WALK)
        .fetch_all(&mut *connection)
        .await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (ip_id, version): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let is_new = last.as_ref().is_none_or(|last| (&last.0, last.1) != (&ip_id, version));
        let mut recounts = Vec::with_capacity(rows.len());
        for row in &rows {
            let split = Split {
                share: digits(row, 3)?,
                weight: digits(row, 4)?,
                cutoff_remainder: digits(row, 5)?,
                cutoff_position: row.try_get(6)?,
            };
            recounts.push((row.try_get::<String, _>(2)?, Recount::new(split)));
        }
        walk(connection, report, (&ip_id, version, is_new), &mut recounts).await?;
        last = recounts.last().map(|(license_id, _)| (ip_id, version, license_id.clone()));
        report.splits = report.splits.saturating_add(u64::try_from(recounts.len()).unwrap_or_default());
        for (license_id, recount) in recounts {
            if let Err(what) = recount.finish() {
                report.add("split", format!("royalty/{license_id}"), what);
            }
        }
        progress("splits", report.splits, total);
    }
}

/// Goes through the members of a version once, for some of its sales.
async fn walk(
    connection: &mut PgConnection,
    report: &mut Report,
    (ip_id, version, is_new): (&str, i64, bool),
    recounts: &mut [(String, Recount)],
) -> Result<(), ReadError> {
    let mut leaves = Vec::new();
    let mut rows = sqlx::query(
        "SELECT position, data_id, contributor, consent_id, payee, weight::text, leaf FROM dataset_member
         WHERE ip_id = $1::text::numeric AND version = $2 ORDER BY position",
    )
    .bind(ip_id)
    .bind(version)
    .fetch(&mut *connection);
    while let Some(row) = rows.try_next().await? {
        let position: i64 = row.try_get(0)?;
        let member = Member {
            data_id: DataId(row.try_get(1)?),
            contributor: stored::hash(&row, 2)?,
            consent_id: ConsentId(stored::hash(&row, 3)?),
            payee: stored::address(&row, 4)?,
            weight: digits(&row, 5)?,
        };
        if member.payee == Address::ZERO {
            recounts.iter_mut().for_each(|(_, recount)| recount.take(member.weight, position));
        }
        if !is_new {
            continue;
        }
        let leaf = member.leaf();
        if leaf != stored::hash(&row, 6)? {
            let row = format!("{} of version {version} of dataset {ip_id}", member.data_id);
            report.add("member", row, format!("expected leaf {leaf} by its columns, got another"));
        }
        if usize::try_from(position).ok() != Some(leaves.len()) {
            let row = format!("{} of version {version} of dataset {ip_id}", member.data_id);
            report.add("member", row, format!("expected position {}, got {position}", leaves.len()));
        }
        leaves.push(leaf);
    }
    drop(rows);
    if is_new {
        let found = tokio::task::spawn_blocking(move || Tree::new(&leaves).map(|tree| tree.root())).await?;
        let root: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT root FROM dataset_version WHERE ip_id = $1::text::numeric AND version = $2")
                .bind(ip_id)
                .bind(version)
                .fetch_optional(connection)
                .await?;
        if found.as_ref().map(|root| root.as_slice()) != root.as_deref() {
            let (expected, got) = (root.map(|root| hex0x(&root)), found.map(|root| root.to_string()));
            let text = |root: Option<String>| root.unwrap_or_else(|| "none".into());
            let what = format!("expected members with the registered root {}, got {}", text(expected), text(got));
            report.add("member", format!("version {version} of dataset {ip_id}"), what);
        }
    }
    Ok(())
}

/// Hashes each step of this operator's payouts again.
async fn payouts(
    connection: &mut PgConnection,
    report: &mut Report,
    progress: Progress<'_>,
) -> Result<(), sqlx::Error> {
    let total: i64 =
        sqlx::query_scalar("SELECT count(*) FROM local.payout_journal").fetch_one(&mut *connection).await?;
    let total = u64::try_from(total).unwrap_or_default();
    let mut rows = sqlx::query(
        "SELECT position, payout_id, state, amount::text, entries, link FROM local.payout_journal ORDER BY position",
    )
    .fetch(connection);
    let mut before = End { position: 0, link: B256::ZERO };
    while let Some(row) = rows.try_next().await? {
        let (position, payout_id): (i64, uuid::Uuid) = (row.try_get(0)?, row.try_get(1)?);
        let stored = stored::hash(&row, 5)?;
        let next = before.position.saturating_add(1);
        let mut hash = FieldHash::after(before.link);
        hash.number(position).field(payout_id.as_bytes()).field(row.try_get::<&str, _>(2)?);
        hash.field(row.try_get::<&str, _>(3)?).field(row.try_get::<&[u8], _>(4)?);
        let computed = hash.finish();
        if position != next {
            report.add("payout", payout_id.to_string(), format!("expected step {next} of the journal, got {position}"));
        } else if computed != stored {
            let what = format!("step {position} of the journal: expected link {computed} by its columns, got {stored}");
            report.add("payout", payout_id.to_string(), what);
        }
        before = End { position, link: stored };
        report.payout_steps = report.payout_steps.saturating_add(1);
        if report.payout_steps.is_multiple_of(ROWS_PER_WORD) || report.payout_steps == total {
            progress("payouts", report.payout_steps, total);
        }
    }
    Ok(())
}
