//! Members of dataset versions, and what sales owe to those of them that are paid in points.

use alloy::primitives::{B256, U256};
use sqlx::{PgConnection, Row};
use tidemark::{
    dataset::{MEMBERS_BYTES_MAX, MemberRow, decode_members, summarise},
    merkle::Tree,
    service::causes,
};

use super::{
    Files, SettleError,
    fetch::{Fetched, fetch, forget},
    lock_tables,
    stored::{self, ROWS_PER_STATEMENT, count, digits},
    tree::{self, Of},
};
use crate::ledger::{self, Cause, Kind};

const VERSIONS_PER_STEP: i64 = 64;
/// Members that change what Postgres has to know of their table.
const MANY_MEMBERS: usize = 50_000;

/// What the chain says of a version.
#[derive(Clone, Debug)]
struct Promised {
    ip_id: U256,
    version: i64,
    root: B256,
    member_count: u64,
    total_weight: u128,
    points_weight: u128,
    purposes: u32,
}

/// The tree over the rows, where they are what was promised.
fn check(promised: &Promised, rows: &[MemberRow]) -> Result<Tree, String> {
    let summary = summarise(rows).map_err(|error| error.to_string())?;
    let differs = |what: &str, expected: String, actual: String| match expected == actual {
        true => Ok(()),
        false => Err(format!("{what}: expected {expected} as registered, got {actual}")),
    };
    differs("member count", promised.member_count.to_string(), rows.len().to_string())?;
    differs("root", promised.root.to_string(), summary.tree.root().to_string())?;
    differs("total weight", promised.total_weight.to_string(), summary.total_weight.to_string())?;
    differs("points weight", promised.points_weight.to_string(), summary.points_weight.to_string())?;
    differs("purposes", format!("{:#b}", promised.purposes), format!("{:#b}", summary.purposes))?;
    Ok(summary.tree)
}

/// A version that waits for its members manifest.
pub struct Next {
    promised: Promised,
    manifest_cid: Vec<u8>,
    /// The manifest was asked for before.
    pub(super) is_retry: bool,
}

impl Next {
    pub(super) fn what(&self) -> String {
        Of::Version(self.promised.ip_id, self.promised.version).to_string()
    }
}

/// Waiting versions whose members manifest is due.
pub async fn due(files: &Files) -> Result<Vec<Next>, SettleError> {
    let rows = sqlx::query(
        "SELECT v.ip_id::text, v.version, v.root, v.member_count, v.total_weight::text, v.points_weight::text,
             v.purposes, v.manifest_cid, f.attempts IS NOT NULL
         FROM dataset_version AS v LEFT JOIN missing_file AS f ON f.what = 'members/' || v.ip_id || '/' || v.version
         WHERE v.state = 'waiting' AND (f.next_attempt_at IS NULL OR f.next_attempt_at <= now())
         ORDER BY f.attempts NULLS FIRST, v.block_number, v.ip_id, v.version LIMIT $1",
    )
    .bind(VERSIONS_PER_STEP)
    .fetch_all(&files.pool)
    .await?;
    let next = rows.iter().map(|row| {
        let promised = Promised {
            ip_id: digits(row, 0)?,
            version: row.try_get(1)?,
            root: stored::hash(row, 2)?,
            member_count: count(row, 3)?,
            total_weight: digits(row, 4)?,
            points_weight: digits(row, 5)?,
            purposes: count(row, 6)?,
        };
        Ok(Next { promised, manifest_cid: row.try_get(7)?, is_retry: row.try_get(8)? })
    });
    Ok(next.collect::<Result<_, sqlx::Error>>()?)
}

/// Lets a version's members in, and posts the sales that waited for them; true where it waits no more.
pub async fn settle(files: &Files, next: Next) -> Result<bool, SettleError> {
    let what = next.what();
    let Next { promised, manifest_cid: cid, .. } = next;
    let verified = match fetch(&files.pool, &files.store, &what, &cid, MEMBERS_BYTES_MAX).await? {
        Fetched::Later => return Ok(false),
        Fetched::Never(reason) => Err(reason),
        Fetched::File(bytes) => {
            let promised = promised.clone();
            tokio::task::spawn_blocking(move || {
                let rows = decode_members(bytes).map_err(|error| causes(&error))?;
                let tree = check(&promised, &rows)?;
                Ok::<_, String>((rows, tree))
            })
            .await?
        }
    };
    let (state, reason, rows, tree) = match verified {
        Ok((rows, tree)) => ("valid", None, rows, Some(tree)),
        Err(reason) => ("invalid", Some(reason.replace('\0', "\u{fffd}")), Vec::new(), None),
    };
    let mut transaction = files.pool.begin().await?;
    lock_tables(&mut transaction).await?;
    let settled = sqlx::query(
        "UPDATE dataset_version SET state = $3, reason = $4
         WHERE ip_id = $1::text::numeric AND version = $2 AND state = 'waiting'",
    )
    .bind(promised.ip_id.to_string())
    .bind(promised.version)
    .bind(state)
    .bind(&reason)
    .execute(&mut *transaction)
    .await?;
    if settled.rows_affected() == 0 {
        return Ok(false);
    }
    insert_members(&mut transaction, &promised, &rows).await?;
    if let Some(tree) = tree {
        tree::insert(&mut transaction, Of::Version(promised.ip_id, promised.version), &tree).await?;
    }
    // from here on records that change keep it so
    sqlx::query(
        "UPDATE dataset_version AS v SET purposes_differ = s.purposes_differ FROM version_sum AS s
         WHERE (v.ip_id, v.version) = ($1::text::numeric, $2) AND (s.ip_id, s.version) = ($1::text::numeric, $2)",
    )
    .bind(promised.ip_id.to_string())
    .bind(promised.version)
    .execute(&mut *transaction)
    .await?;
    forget(&mut *transaction, &what).await?;
    settle_sales(&mut transaction).await?;
    transaction.commit().await?;
    if rows.len() >= MANY_MEMBERS
        // or parts of sales are looked for by version instead of by account until Postgres comes to it itself
        && let Err(error) = sqlx::query("ANALYZE dataset_member").execute(&files.pool).await
    {
        tracing::warn!(%error, "no new statistics of dataset_member: reads of accounts may take longer for a while");
    }
    match reason {
        None => {
            tracing::info!(ip_id = %promised.ip_id, version = promised.version, members = rows.len(), "dataset version is valid")
        }
        Some(reason) => {
            tracing::error!(ip_id = %promised.ip_id, version = promised.version, reason, "dataset version is invalid");
        }
    }
    Ok(true)
}

async fn insert_members(
    connection: &mut PgConnection,
    promised: &Promised,
    rows: &[MemberRow],
) -> Result<(), sqlx::Error> {
    let positions: Vec<i64> = (0i64..).take(rows.len()).collect();
    for (rows, positions) in rows.chunks(ROWS_PER_STATEMENT).zip(positions.chunks(ROWS_PER_STATEMENT)) {
        sqlx::query(
            "INSERT INTO dataset_member
                 (ip_id, version, position, data_id, contributor, consent_id, payee, weight, content_hash,
                  ciphertext_cid, key_cid, batch_number, event_index, purposes, leaf)
             SELECT $1::text::numeric, $2, position, data_id, contributor, consent_id, payee, weight::numeric,
                  content_hash, ciphertext_cid, key_cid, batch_number::numeric, event_index, purposes, leaf
             FROM unnest($3::bigint[], $4::uuid[], $5::bytea[], $6::bytea[], $7::bytea[], $8::text[], $9::bytea[],
                  $10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bytea[])
                 AS row (position, data_id, contributor, consent_id, payee, weight, content_hash, ciphertext_cid,
                  key_cid, batch_number, event_index, purposes, leaf)",
        )
        .bind(promised.ip_id.to_string())
        .bind(promised.version)
        .bind(positions)
        .bind(rows.iter().map(|row| row.member.data_id.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.member.contributor.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.member.consent_id.0.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.member.payee.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.member.weight.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.content_hash.0.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.ciphertext_cid.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.key_cid.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.batch_number.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.event_index)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.purposes)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.member.leaf().to_vec()).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Posts the points share of final sales whose version is settled, in the order of the chain: one transfer a sale.
pub async fn settle_sales(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(
        "SELECT s.license_id::text, s.ip_id::text, s.version, s.points_share::text, s.block_number, s.block_time,
             s.tx_hash, v.state = 'valid' AND v.points_weight > 0, d.provider
         FROM sale AS s JOIN dataset_version AS v USING (ip_id, version) JOIN dataset AS d USING (ip_id)
         WHERE s.points_state = 'waiting' AND v.state <> 'waiting' ORDER BY s.block_number, s.log_index",
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in &rows {
        let (license_id, ip_id): (U256, U256) = (digits(row, 0)?, digits(row, 1)?);
        let (version, points_share): (i64, u128) = (row.try_get(2)?, digits(row, 3)?);
        let cause = Cause { block_number: row.try_get(4)?, block_time: row.try_get(5)?, tx_hash: row.try_get(6)? };
        let provider = stored::address(row, 8)?;
        // where nobody is paid in points, nobody can take it
        let is_posted: bool = row.try_get(7)?;
        sqlx::query("UPDATE sale SET points_state = $2 WHERE license_id = $1::text::numeric")
            .bind(license_id.to_string())
            .bind(if is_posted { "posted" } else { "invalid" })
            .execute(&mut *connection)
            .await?;
        if is_posted && points_share > 0 {
            let posting = ledger::royalty(license_id, points_share);
            ledger::post(connection, provider, Kind::Royalty, &cause, &[posting]).await?;
            ledger::settle_redemptions_of_members(connection, provider, ip_id, version).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;
    use tidemark::{
        consent::purpose,
        dataset::Member,
        ids::{ConsentId, ContentHash, DataId},
    };

    use super::*;

    fn row(id: u8, payee: Address, purposes: u32) -> MemberRow {
        let member = Member {
            data_id: DataId::from_bytes([id; 16]),
            contributor: B256::repeat_byte(id),
            consent_id: ConsentId(B256::repeat_byte(9)),
            payee,
            weight: 2,
        };
        let cid: cid::Cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap();
        MemberRow {
            member,
            content_hash: ContentHash::of(&[id]),
            ciphertext_cid: cid,
            key_cid: cid,
            batch_number: 0,
            event_index: 0,
            purposes,
        }
    }

    #[test]
    fn a_version_is_what_was_registered_to_the_last_purpose() {
        let rows = [
            row(1, Address::ZERO, purpose::TRAIN | purpose::EVALUATE),
            row(2, Address::repeat_byte(1), purpose::TRAIN | purpose::COMMERCIAL),
        ];
        let right = Promised {
            ip_id: U256::from(1),
            version: 1,
            root: summarise(&rows).unwrap().tree.root(),
            member_count: 2,
            total_weight: 4,
            points_weight: 2,
            purposes: purpose::TRAIN,
        };
        assert_eq!(check(&right, &rows).map(|tree| tree.root()), Ok(right.root));
        let wider = purpose::TRAIN | purpose::EVALUATE;
        for (what, promised) in [
            ("member count", Promised { member_count: 3, ..right.clone() }),
            ("root", Promised { root: B256::ZERO, ..right.clone() }),
            ("total weight", Promised { total_weight: 5, ..right.clone() }),
            ("points weight", Promised { points_weight: 3, ..right.clone() }),
            ("purposes", Promised { purposes: wider, ..right.clone() }),
            ("purposes", Promised { purposes: 0, ..right }),
        ] {
            assert!(check(&promised, &rows).unwrap_err().starts_with(what), "{what}");
        }
    }
}
