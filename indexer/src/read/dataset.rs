//! Datasets: versions, offers, licences sold, and a member's proof.

use alloy::primitives::{Address, U256};
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use tidemark::{consent::purpose, ids::DataId};
use utoipa::ToSchema;

use super::{
    ProviderRef, ReadError, TermsView, address_text, cid_text, hash_text, hex0x,
    license::terms,
    number,
    page::{Page, Place, cut},
    proof_text, rfc3339,
};
use crate::manifest::{
    stored,
    tree::{self, Of},
};

const ROWS_MAX: i64 = 1_000;

/// ABI types of a member's fields.
const MEMBER_TYPES: [&str; 5] = ["bytes16", "bytes32", "bytes32", "address", "uint96"];

/// One version of a dataset.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// From 1.
    pub version: u64,
    /// `waiting`, `valid` or `invalid`: whether the members are what was registered.
    pub state: String,
    /// What differs, where invalid.
    pub reason: Option<String>,
    /// Root over the members' leaves.
    pub root: String,
    /// How many.
    pub member_count: u64,
    /// Sum of all weights.
    pub total_weight: String,
    /// Sum of the weights of members without a payee.
    pub points_weight: String,
    /// What every member's consent allows, bits of Consent.purposes: nothing else is sold.
    pub purposes: u32,
    /// The same by name.
    pub purpose_names: Vec<&'static str>,
    /// Members whose row allows something else than their registration, where that is disclosed: 0, or the attestor lied.
    pub purposes_differ: u64,
    /// The members manifest.
    pub manifest_cid: String,
    /// Who signed.
    pub attestor: String,
    /// The member whose withdrawn consent took the version off sale.
    pub withdrawn_data_id: Option<String>,
    /// RFC 3339.
    pub registered_at: String,
    /// Height.
    pub block_number: u64,
    /// The registration.
    pub tx_hash: String,
    /// Licences sold.
    pub license_ids: Vec<String>,
}

/// An offer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OfferView {
    /// Its id.
    pub offer_id: u64,
    /// Its provider has not closed it.
    pub open: bool,
    /// It allows purposes that not every member of the newest version consented to: the chain refuses to sell it.
    pub exceeds_consent: bool,
    /// Its terms.
    pub terms: TermsView,
    /// Its publication.
    pub tx_hash: String,
}

/// A dataset.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DatasetView {
    /// The ERC-721 token id.
    pub ip_id: String,
    /// Its name.
    pub name: String,
    /// Who registered it.
    pub provider: ProviderRef,
    /// Who holds the token.
    pub holder: String,
    /// RFC 3339.
    pub registered_at: String,
    /// The registration.
    pub tx_hash: String,
    /// Oldest first; in a list only the newest.
    pub versions: Vec<VersionView>,
    /// Oldest first; only where one dataset is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offers: Vec<OfferView>,
    /// Payment-token units paid for all licences.
    pub sales_total: String,
    /// What it is sold in; only in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Payment-token units of the cheapest open offer that the chain sells; only in a list, and only where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_min: Option<String>,
}

/// Datasets, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DatasetList {
    /// Newest first.
    pub datasets: Vec<DatasetView>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// A member with its inclusion proof.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MemberProof {
    /// Dataset.
    pub ip_id: String,
    /// Version.
    pub version: u64,
    /// Which record.
    pub data_id: String,
    /// Its pseudonym.
    pub contributor: String,
    /// Its consent.
    pub consent_id: String,
    /// Zero address: its royalties are points.
    pub payee: String,
    /// Its weight.
    pub weight: String,
    /// What its consent allows, as the members manifest says: bits of Consent.purposes.
    pub purposes: u32,
    /// The same as its registration committed to; none while undisclosed or erased.
    pub registered_purposes: Option<u32>,
    /// SHA-256 of the plaintext, `sha256:…`.
    pub content_hash: String,
    /// Encrypted bytes.
    pub ciphertext_cid: String,
    /// The sealed key.
    pub key_cid: String,
    /// Batch of its Accepted event.
    pub batch_number: String,
    /// Index of its Accepted event.
    pub event_index: u64,
    /// ABI types of `value`.
    pub types: Vec<&'static str>,
    /// Leaf fields, as StandardMerkleTree takes them.
    pub value: Vec<String>,
    /// Its leaf.
    pub leaf: String,
    /// Siblings up to the root.
    pub proof: Vec<String>,
    /// The version's root.
    pub root: String,
}

fn dataset_view(row: &PgRow) -> Result<DatasetView, sqlx::Error> {
    Ok(DatasetView {
        ip_id: row.try_get(0)?,
        name: row.try_get(1)?,
        provider: ProviderRef { address: address_text(row, 2)?, name: row.try_get(3)? },
        holder: address_text(row, 4)?,
        registered_at: rfc3339(row.try_get(5)?),
        tx_hash: hash_text(row, 6)?,
        sales_total: row.try_get(7)?,
        versions: Vec::new(),
        offers: Vec::new(),
        token: None,
        price_min: None,
    })
}

/// One dataset with versions and offers.
pub async fn dataset(connection: &mut PgConnection, ip_id: U256) -> Result<Option<DatasetView>, ReadError> {
    let row = sqlx::query(
        "SELECT d.ip_id::text, d.name, d.provider, p.name, d.holder, d.block_time, d.tx_hash,
             coalesce((SELECT sum(s.price) FROM sale AS s WHERE s.ip_id = d.ip_id), 0)::text
         FROM dataset AS d JOIN provider AS p ON p.address = d.provider WHERE d.ip_id = $1::text::numeric",
    )
    .bind(ip_id.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut dataset = dataset_view(&row)?;
    dataset.versions = versions(connection, &dataset.ip_id, false).await?;
    let offers = sqlx::query(
        "SELECT price::text, duration::text, purposes, seats, contributor_bps, transferable, ai_training, resale_bps,
             legal_hash, legal_uri, offer_id, open, tx_hash
         FROM offer WHERE ip_id = $1::text::numeric ORDER BY offer_id LIMIT $2",
    )
    .bind(ip_id.to_string())
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    let consented = dataset.versions.last().map_or(0, |version| version.purposes);
    for row in &offers {
        let terms = terms(row, 0)?;
        dataset.offers.push(OfferView {
            offer_id: number(row, 10)?,
            open: row.try_get(11)?,
            exceeds_consent: terms.purposes & !consented != 0,
            terms,
            tx_hash: hash_text(row, 12)?,
        });
    }
    Ok(Some(dataset))
}

async fn versions(
    connection: &mut PgConnection,
    ip_id: &str,
    only_newest: bool,
) -> Result<Vec<VersionView>, ReadError> {
    let rows = sqlx::query(
        "SELECT v.version, v.state, v.reason, v.root, v.member_count, v.total_weight::text, v.points_weight::text,
             v.manifest_cid, v.attestor, v.withdrawn_data_id, v.block_time, v.block_number, v.tx_hash,
             ARRAY(SELECT l.license_id::text FROM license AS l WHERE (l.ip_id, l.version) = (v.ip_id, v.version)
                 ORDER BY l.license_id LIMIT 1000),
             v.purposes, v.purposes_differ
         FROM dataset_version AS v WHERE v.ip_id = $1::text::numeric ORDER BY v.version DESC LIMIT $2",
    )
    .bind(ip_id)
    .bind(if only_newest { 1 } else { ROWS_MAX })
    .fetch_all(connection)
    .await?;
    let versions = rows.iter().rev().map(|row| {
        let purposes: u32 = stored::count(row, 14)?;
        Ok(VersionView {
            version: number(row, 0)?,
            state: row.try_get(1)?,
            reason: row.try_get(2)?,
            root: hash_text(row, 3)?,
            member_count: number(row, 4)?,
            total_weight: row.try_get(5)?,
            points_weight: row.try_get(6)?,
            manifest_cid: cid_text(&row.try_get::<Vec<u8>, _>(7)?),
            attestor: address_text(row, 8)?,
            withdrawn_data_id: row.try_get::<Option<uuid::Uuid>, _>(9)?.map(|id| id.to_string()),
            registered_at: rfc3339(row.try_get(10)?),
            block_number: number(row, 11)?,
            tx_hash: hash_text(row, 12)?,
            license_ids: row.try_get(13)?,
            purposes,
            purpose_names: purpose::names(purposes),
            purposes_differ: number(row, 15)?,
        })
    });
    Ok(versions.collect::<Result<_, sqlx::Error>>()?)
}

/// Which datasets; what is said of versions is held against the newest.
#[derive(Clone, Debug, Default)]
pub struct DatasetFilter {
    /// Of one provider.
    pub provider: Option<Address>,
    /// Bits of Consent.purposes that every member consented to.
    pub purposes: u32,
    /// Sold in this token.
    pub token: Option<Address>,
    /// At least so many members.
    pub members_min: Option<u64>,
    /// There is an open offer that the chain sells, for these purposes…
    pub for_sale: bool,
    /// … at no more than so many payment-token units.
    pub price_max: Option<u128>,
    /// `file.media_category` of its first members' metadata, where that is disclosed.
    pub modality: Option<String>,
}

/// Members whose metadata is looked into for a dataset's modality.
const MODALITY_MEMBERS: i64 = 100;

/// Datasets, newest first, each with its newest version.
pub async fn datasets(
    connection: &mut PgConnection,
    filter: &DatasetFilter,
    page: &Page,
) -> Result<DatasetList, ReadError> {
    // the text of JSON with U+0000 can't be taken apart by Postgres
    let rows = sqlx::query(
        "SELECT d.ip_id::text, d.name, d.provider, p.name, d.holder, d.block_time, d.tx_hash,
             coalesce((SELECT sum(s.price) FROM sale AS s WHERE s.ip_id = d.ip_id), 0)::text, d.block_number,
             p.token, (SELECT min(o.price) FROM offer AS o WHERE o.ip_id = d.ip_id AND o.open
                 AND v.withdrawn_data_id IS NULL AND o.purposes & ~v.purposes = 0)::text
         FROM dataset AS d JOIN provider AS p ON p.address = d.provider
         LEFT JOIN LATERAL (SELECT * FROM dataset_version AS v WHERE v.ip_id = d.ip_id ORDER BY v.version DESC LIMIT 1)
             AS v ON TRUE
         WHERE ($1::bigint IS NULL OR (d.block_number, d.ip_id) < ($1, $2::text::numeric))
             AND ($4::bytea IS NULL OR d.provider = $4) AND ($5::bytea IS NULL OR p.token = $5)
             AND ($6::bigint = 0 OR v.purposes & $6 = $6) AND ($7::bigint IS NULL OR v.member_count >= $7)
             AND (NOT $8 OR EXISTS (SELECT FROM offer AS o WHERE o.ip_id = d.ip_id AND o.open
                 AND v.withdrawn_data_id IS NULL AND o.purposes & ~v.purposes = 0 AND o.purposes & $6 = $6
                 AND ($9::text IS NULL OR o.price <= $9::text::numeric)))
             AND ($10::text IS NULL OR EXISTS (
                 SELECT FROM (SELECT m.data_id FROM dataset_member AS m
                     WHERE (m.ip_id, m.version) = (v.ip_id, v.version) ORDER BY m.position LIMIT $11) AS first
                 CROSS JOIN LATERAL (SELECT s.payload FROM event AS e JOIN disclosure AS s USING (provider, number, index)
                     WHERE e.provider = d.provider AND e.data_id = first.data_id AND e.kind IN (0, 3) AND s.fault IS NULL
                     ORDER BY e.sequence DESC LIMIT 1) AS newest
                 WHERE CASE WHEN strpos(newest.payload::text, '\\u0000') = 0
                     THEN newest.payload #>> '{metadata,file,media_category}' END = $10))
         ORDER BY d.block_number DESC, d.ip_id DESC LIMIT $3",
    )
    .bind(page.after.as_ref().map(|place| place.0))
    .bind(page.after.as_ref().map(|place| place.1.parse::<U256>().unwrap_or_default().to_string()))
    .bind(i64::from(page.limit) + 1)
    .bind(filter.provider.as_ref().map(|provider| provider.as_slice()))
    .bind(filter.token.as_ref().map(|token| token.as_slice()))
    .bind(i64::from(filter.purposes))
    .bind(filter.members_min.map(|count| i64::try_from(count).unwrap_or(i64::MAX)))
    .bind(filter.for_sale || filter.price_max.is_some())
    .bind(filter.price_max.map(|price| price.to_string()))
    .bind(filter.modality.as_deref())
    .bind(MODALITY_MEMBERS)
    .fetch_all(&mut *connection)
    .await?;
    let mut placed = rows
        .iter()
        .map(|row| {
            let mut dataset = dataset_view(row)?;
            (dataset.token, dataset.price_min) = (Some(address_text(row, 9)?), row.try_get(10)?);
            Ok((row.try_get(8)?, dataset))
        })
        .collect::<Result<Vec<(i64, DatasetView)>, sqlx::Error>>()?;
    let next_cursor = cut(&mut placed, page.limit, |(block, dataset)| Place(*block, dataset.ip_id.clone()));
    let mut datasets = Vec::with_capacity(placed.len());
    for (_, mut dataset) in placed {
        dataset.versions = versions(connection, &dataset.ip_id, true).await?;
        datasets.push(dataset);
    }
    Ok(DatasetList { datasets, next_cursor })
}

/// A member of a valid version with its proof.
pub async fn member_proof(
    connection: &mut PgConnection,
    ip_id: U256,
    version: u32,
    data_id: DataId,
) -> Result<Option<MemberProof>, ReadError> {
    let row = sqlx::query(
        "SELECT m.position, m.contributor, m.consent_id, m.payee, m.weight::text, m.content_hash, m.ciphertext_cid,
             m.key_cid, m.batch_number::text, m.event_index, m.leaf, v.root, m.purposes, r.purposes
         FROM dataset_member AS m JOIN dataset_version AS v USING (ip_id, version) JOIN dataset AS d USING (ip_id)
         LEFT JOIN record AS r ON (r.provider, r.data_id) = (d.provider, m.data_id)
         WHERE m.ip_id = $1::text::numeric AND m.version = $2 AND m.data_id = $3",
    )
    .bind(ip_id.to_string())
    .bind(i64::from(version))
    .bind(data_id.0)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (root, leaf) = (stored::hash(&row, 11)?, stored::hash(&row, 10)?);
    let of = Of::Version(ip_id, version.into());
    let proofs = tree::proofs(connection, of, root, &[(stored::count(&row, 0)?, leaf)]).await?;
    let proof = proofs.and_then(|proofs| proofs.into_iter().next());
    let proof = proof.ok_or_else(|| ReadError::Root(format!("version {version} of dataset {ip_id}")))?;
    let (contributor, consent_id) = (hash_text(&row, 1)?, hash_text(&row, 2)?);
    let (payee, weight) = (address_text(&row, 3)?, row.try_get::<String, _>(4)?);
    let registered_purposes: Option<i64> = row.try_get(13)?;
    let data_id_word = hex0x(&data_id.bytes());
    Ok(Some(MemberProof {
        ip_id: ip_id.to_string(),
        version: u64::from(version),
        data_id: data_id.to_string(),
        types: MEMBER_TYPES.to_vec(),
        value: vec![data_id_word, contributor.clone(), consent_id.clone(), payee.clone(), weight.clone()],
        contributor,
        consent_id,
        payee,
        weight,
        purposes: stored::count(&row, 12)?,
        registered_purposes: registered_purposes
            .map(|bits| u32::try_from(bits).map_err(|_| stored::corrupt("record.purposes")))
            .transpose()?,
        content_hash: tidemark::ids::ContentHash(stored::hash(&row, 5)?).prefixed(),
        ciphertext_cid: row.try_get(6)?,
        key_cid: row.try_get(7)?,
        batch_number: row.try_get(8)?,
        event_index: number(&row, 9)?,
        leaf: leaf.to_string(),
        proof: proof_text(&proof),
        root: root.to_string(),
    }))
}
