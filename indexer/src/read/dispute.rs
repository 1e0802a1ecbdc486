//! Disputes: challenges of verdicts, what they hold, and how they ended.

use alloy::primitives::{Address, U256};
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use tidemark::{event::EventKind, ids::DataId};
use utoipa::ToSchema;

use super::{
    ProviderRef, ReadError, address_text, hash_text, number,
    page::{Page, Place, cut},
    rfc3339, rfc3339_u64,
};
use crate::manifest::stored::{self, digits};

/// Disputes of one batch or record that are shown with it.
const ROWS_MAX: i64 = 500;

/// A challenge of one verdict.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DisputeView {
    /// Its id.
    pub dispute_id: String,
    /// `open` · `upheld`: the verdict was wrong · `rejected`: the challenge was · `lapsed`: nobody ruled in time.
    pub state: String,
    /// `duplicate`, `not_the_contributors` or `wrong_verdict`.
    pub ground: String,
    /// Whose attestor gave the verdict.
    pub provider: ProviderRef,
    /// Batch of the verdict.
    pub batch_number: u64,
    /// Its place in the batch.
    pub index: u64,
    /// Which record.
    pub data_id: String,
    /// `accepted` or `rejected`; none while the batch's manifest is not here.
    pub verdict: Option<String>,
    /// Who challenged it.
    pub challenger: String,
    /// The challenger's bond, payment-token units.
    pub bond: String,
    /// The wallet reward that waits for the end, payment-token units; 0 where the verdict paid points or nothing.
    pub held: String,
    /// Where that reward is: `held`, `refunded`, `credited` or `paid_as_credit`; none where nothing was held.
    pub reward_state: Option<String>,
    /// Who gets the held reward unless the challenge is upheld.
    pub payee: Option<String>,
    /// Who got the held reward and the refund, where upheld; before, the sponsor of the task that the event names, and none
    /// while the batch's manifest is not here.
    pub sponsor: Option<String>,
    /// Out of the attestor's bond to the sponsor, where upheld: a reward that was not held.
    pub refunded: String,
    /// Out of the attestor's bond to the challenger, where upheld.
    pub bounty: String,
    /// SHA-256 of the evidence.
    pub evidence_hash: String,
    /// Where the evidence is.
    pub evidence_uri: String,
    /// RFC 3339.
    pub opened_at: String,
    /// RFC 3339: a ruling must come before.
    pub rule_before: String,
    /// Height of the challenge.
    pub block_number: u64,
    /// The challenge.
    pub tx_hash: String,
    /// What the arbiter says; empty where it lapsed, none while it is open.
    pub reason: Option<String>,
    /// RFC 3339; none while it is open.
    pub ended_at: Option<String>,
    /// The ruling, or the transaction that let it lapse; none while it is open.
    pub ended_tx_hash: Option<String>,
}

/// Newest disputes first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DisputeList {
    /// Newest first; final ones only.
    pub disputes: Vec<DisputeView>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// Which disputes.
#[derive(Clone, Debug, Default)]
pub struct DisputeFilter {
    /// Of one provider.
    pub provider: Option<Address>,
    /// Of one batch; a number beyond what the tables hold finds nothing.
    pub batch: Option<u64>,
    /// In one state.
    pub state: Option<DisputeState>,
}

/// How a dispute stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisputeState {
    /// Nobody has ruled.
    Open,
    /// The verdict was wrong.
    Upheld,
    /// The challenge was.
    Rejected,
    /// Nobody ruled in time.
    Lapsed,
}

impl DisputeState {
    const ALL: [Self; 4] = [Self::Open, Self::Upheld, Self::Rejected, Self::Lapsed];

    /// As it stands in the tables and in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Upheld => "upheld",
            Self::Rejected => "rejected",
            Self::Lapsed => "lapsed",
        }
    }

    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

fn view(row: &PgRow) -> Result<DisputeView, sqlx::Error> {
    let kind: Option<i16> = row.try_get(8)?;
    let kind = kind.and_then(|kind| u8::try_from(kind).ok()).and_then(EventKind::from_u8);
    let optional_address = |at: usize| -> Result<Option<String>, sqlx::Error> {
        match row.try_get::<Option<Vec<u8>>, _>(at)? {
            Some(_) => Ok(super::some_address(stored::address(row, at)?)),
            None => Ok(None),
        }
    };
    let ended_at: Option<i64> = row.try_get(23)?;
    Ok(DisputeView {
        dispute_id: row.try_get(0)?,
        state: row.try_get(1)?,
        ground: row.try_get(2)?,
        provider: ProviderRef { address: address_text(row, 3)?, name: row.try_get(4)? },
        batch_number: number(row, 5)?,
        index: number(row, 6)?,
        data_id: row.try_get::<uuid::Uuid, _>(7)?.to_string(),
        verdict: kind.map(|kind| kind.name().to_owned()),
        challenger: address_text(row, 9)?,
        bond: row.try_get(10)?,
        held: row.try_get(11)?,
        reward_state: row.try_get(12)?,
        payee: optional_address(13)?,
        sponsor: optional_address(14)?,
        refunded: row.try_get(15)?,
        bounty: row.try_get(16)?,
        evidence_hash: hash_text(row, 17)?,
        evidence_uri: row.try_get(18)?,
        opened_at: rfc3339(row.try_get(19)?),
        rule_before: rfc3339_u64(digits(row, 20)?),
        block_number: number(row, 21)?,
        tx_hash: hash_text(row, 22)?,
        ended_at: ended_at.map(rfc3339),
        reason: row.try_get(24)?,
        ended_tx_hash: row.try_get::<Option<Vec<u8>>, _>(25)?.map(|hash| super::hex0x(&hash)),
    })
}

/// All disputes that pass the filter, newest first.
pub async fn disputes(
    connection: &mut PgConnection,
    filter: &DisputeFilter,
    page: &Page,
) -> Result<DisputeList, ReadError> {
    let mut disputes = select(connection, filter, None, None, page.after.as_ref(), i64::from(page.limit) + 1).await?;
    let next_cursor = cut(&mut disputes, page.limit, |dispute| {
        Place(i64::try_from(dispute.block_number).unwrap_or(i64::MAX), dispute.dispute_id.clone())
    });
    Ok(DisputeList { disputes, next_cursor })
}

/// One dispute.
pub async fn dispute(connection: &mut PgConnection, dispute_id: U256) -> Result<Option<DisputeView>, ReadError> {
    Ok(select(connection, &DisputeFilter::default(), Some(dispute_id), None, None, 1).await?.pop())
}

/// Disputes over a record's verdict: at most one a provider that used its id.
pub(super) async fn disputes_of_record(
    connection: &mut PgConnection,
    provider: Address,
    data_id: DataId,
) -> Result<Vec<DisputeView>, ReadError> {
    let filter = DisputeFilter { provider: Some(provider), ..DisputeFilter::default() };
    select(connection, &filter, None, Some(data_id), None, ROWS_MAX).await
}

async fn select(
    connection: &mut PgConnection,
    filter: &DisputeFilter,
    dispute_id: Option<U256>,
    data_id: Option<DataId>,
    after: Option<&Place>,
    limit: i64,
) -> Result<Vec<DisputeView>, ReadError> {
    let rows = sqlx::query(
        "SELECT d.dispute_id::text, d.state, d.ground, d.provider, p.name, d.number, d.index, d.data_id, e.kind,
             d.challenger, d.bond::text, d.held::text,
             (SELECT w.state FROM wallet_reward AS w
                 WHERE (w.provider, w.number, w.index) = (d.provider, d.number, d.index) AND d.held > 0),
             CASE WHEN d.held > 0 THEN e.payee END, coalesce(d.sponsor, t.sponsor), d.refunded::text, d.bounty::text,
             d.evidence_hash, d.evidence_uri, d.block_time, d.rule_before::text, d.block_number, d.tx_hash,
             d.ended_time, d.reason, d.ended_tx_hash
         FROM dispute AS d JOIN provider AS p ON p.address = d.provider
         LEFT JOIN event AS e ON (e.provider, e.number, e.index) = (d.provider, d.number, d.index)
         LEFT JOIN task AS t ON t.task_id = e.task_id
         WHERE ($1::bytea IS NULL OR d.provider = $1) AND ($2::bigint IS NULL OR d.number = $2)
           AND ($3::text IS NULL OR d.state = $3) AND ($4::text IS NULL OR d.dispute_id = $4::text::numeric)
           AND ($5::uuid IS NULL OR d.data_id = $5)
           AND ($6::bigint IS NULL OR (d.block_number, d.dispute_id) < ($6, $7::text::numeric))
         ORDER BY d.block_number DESC, d.dispute_id DESC LIMIT $8",
    )
    .bind(filter.provider.as_ref().map(|provider| provider.as_slice()))
    .bind(filter.batch.map(|batch| i64::try_from(batch).unwrap_or(i64::MAX)))
    .bind(filter.state.map(DisputeState::name))
    .bind(dispute_id.map(|id| id.to_string()))
    .bind(data_id.map(|id| id.0))
    .bind(after.map(|place| place.0))
    .bind(after.map(|place| place.1.parse::<U256>().unwrap_or_default().to_string()))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(view).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::DisputeState;

    #[test]
    fn a_state_is_read_by_its_name_alone() {
        for state in DisputeState::ALL {
            assert_eq!(DisputeState::parse(state.name()), Some(state));
        }
        assert_eq!((DisputeState::parse("Open"), DisputeState::parse("")), (None, None));
    }
}
