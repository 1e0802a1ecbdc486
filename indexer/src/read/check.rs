//! Whether a licence may be used now, by the conditions that a custodian holds it against before it releases a key.

use alloy::primitives::{Address, B256, U256};
use serde::Serialize;
use sqlx::{PgConnection, Row};
use tidemark::{
    chain::Deployment,
    consent::purpose,
    contracts::{ConsentRegistry::ConsentRegistryEvents, LicenseRegistry::LicenseRegistryEvents},
};
use utoipa::ToSchema;

use super::{
    ProviderRef, ReadError, TermsView, address_text, hash_text,
    license::{status, terms},
    number,
    page::{Page, Place, cut},
    rfc3339, rfc3339_u64,
};
use crate::{
    manifest::stored::{self, digits},
    project::{Placed, Said},
};

/// Logs above the applied block that are looked at; a chain keeps far fewer blocks open.
const MINED_LOGS_MAX: i64 = 10_000;

/// Why a licence can't be used; the codes are the custodian's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reason {
    /// `license-inactive`, `not-holder`, `purpose-not-allowed`, `purposes-not-consented` or `members-invalid`.
    pub code: &'static str,
    /// The same in words.
    pub detail: String,
}

/// How many members of the licensed version may be used.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MemberCounts {
    /// As registered on chain.
    pub registered: u64,
    /// Whose rows are here: 0 while the members manifest waits.
    pub known: u64,
    /// Known ones that nothing stands against.
    pub usable: u64,
    /// Whose consent was withdrawn on chain, mined withdrawals included: the custodian refuses their keys.
    pub consent_withdrawn: u64,
    /// Whose withdrawal is anchored as an event.
    pub withdrawn: u64,
    /// That were erased: their sealed keys are deleted.
    pub erased: u64,
    /// That were given without a consent: the custodian refuses their keys.
    pub consent_missing: u64,
}

/// A member that may not be used.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ExcludedMember {
    /// Place in the members manifest.
    pub position: u64,
    /// Which record.
    pub data_id: String,
    /// `consent-withdrawn`, `withdrawn`, `erased` or `consent-missing`.
    pub reason: String,
    /// Its consent.
    pub consent_id: String,
    /// RFC 3339: when the consent was withdrawn on chain, where that is final.
    pub withdrawn_at: Option<String>,
}

/// Something that is mined and not final: a custodian, which reads the newest block, goes by it already.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NotFinal {
    /// `license-revoked`, `license-transferred` or `consent-withdrawn`.
    pub what: &'static str,
    /// The new holder, or the consent.
    pub subject: Option<String>,
    /// Height; a reorg may still take it.
    pub block_number: u64,
    /// The transaction.
    pub tx_hash: String,
}

/// A licence held against everything that a release depends on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LicenseCheck {
    /// The ERC-721 token id.
    pub license_id: String,
    /// Nothing stands against its use; single members may still be excluded.
    pub valid: bool,
    /// What stands against it.
    pub reasons: Vec<Reason>,
    /// RFC 3339: time of the newest mirrored block, which expiry is held against.
    pub checked_at: String,
    /// `active`, `expired` or `revoked` at that time.
    pub status: String,
    /// Who holds it, mined transfers included.
    pub holder: String,
    /// Dataset.
    pub ip_id: String,
    /// Its name.
    pub dataset_name: String,
    /// Its licensed version.
    pub version: u64,
    /// `waiting`, `valid` or `invalid`: whether the members are what was registered.
    pub version_state: String,
    /// Who sold it.
    pub provider: ProviderRef,
    /// RFC 3339.
    pub starts_at: String,
    /// RFC 3339; digits where it never ends.
    pub ends_at: String,
    /// Why it was revoked.
    pub revocation_cause: Option<String>,
    /// What it was sold under.
    pub terms: TermsView,
    /// What every member of the version consented to, bits of Consent.purposes.
    pub consented_purposes: u32,
    /// The same by name.
    pub consented_purpose_names: Vec<&'static str>,
    /// Of the licensed version.
    pub members: MemberCounts,
    /// A page of those that may not be used, in manifest order.
    pub excluded: Vec<ExcludedMember>,
    /// Mined changes that concern it, oldest first.
    pub not_final: Vec<NotFinal>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// What the reasons follow from.
struct Facts<'a> {
    status: &'static str,
    holder: Address,
    asked: Option<Address>,
    licensed: u32,
    consented: u32,
    version_state: &'a str,
}

/// The custodian's conditions (protocol, section 11), all that fail.
fn reasons(facts: &Facts<'_>) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut say = |code, detail| reasons.push(Reason { code, detail });
    if facts.status != "active" {
        say("license-inactive", format!("the licence is {}", facts.status));
    }
    if let Some(asked) = facts.asked.filter(|asked| *asked != facts.holder) {
        say("not-holder", format!("expected the holder {}, got {asked}", facts.holder));
    }
    let uses = purpose::NAMES.iter().fold(0, |all, (bit, _)| all | bit);
    if facts.licensed & uses == 0 {
        say("purpose-not-allowed", format!("no purpose needs the content (bits {:#b})", facts.licensed));
    }
    if facts.licensed & !facts.consented != 0 {
        let (licensed, consented) = (facts.licensed, facts.consented);
        let detail = format!("licensed for {licensed:#b}, members consented to {consented:#b} only");
        say("purposes-not-consented", detail);
    }
    if facts.version_state == "invalid" {
        say("members-invalid", "the members manifest is not what was registered: nobody can prove a member".into());
    }
    reasons
}

/// What blocks that are not final yet change.
#[derive(Default)]
struct Mined {
    revoked: bool,
    holder: Option<Address>,
    withdrawn: Vec<B256>,
    told: Vec<NotFinal>,
}

async fn mined(connection: &mut PgConnection, deployment: &Deployment, license_id: U256) -> Result<Mined, ReadError> {
    let rows = sqlx::query(
        // between two numbers: of one bound, or of a join, Postgres takes a third of all logs to be meant
        "SELECT l.block_number, l.block_hash, l.block_time, l.log_index, l.tx_hash, l.address, l.topics, l.data
         FROM chain_log AS l
         WHERE l.block_number > (SELECT applied_number FROM cursor)
           AND l.block_number <= (SELECT mirrored_number FROM cursor)
           AND (l.address = $1 OR l.address = $2)
         ORDER BY l.block_number, l.log_index LIMIT $3",
    )
    .bind(deployment.license_registry.as_slice())
    .bind(deployment.consent_registry.as_slice())
    .bind(MINED_LOGS_MAX)
    .fetch_all(connection)
    .await?;
    let mut mined = Mined::default();
    for row in &rows {
        let placed = Placed::from_row(row)?;
        let (what, subject) = match placed.said(deployment) {
            Some(Said::Licenses(LicenseRegistryEvents::LicenseRevoked(e))) if e.licenseId == license_id => {
                mined.revoked = true;
                ("license-revoked", None)
            }
            Some(Said::Licenses(LicenseRegistryEvents::Transfer(e))) if e.tokenId == license_id => {
                mined.holder = Some(e.to);
                ("license-transferred", Some(e.to.to_string()))
            }
            Some(Said::Consents(ConsentRegistryEvents::ConsentWithdrawn(e))) => {
                mined.withdrawn.push(e.consentId);
                ("consent-withdrawn", Some(e.consentId.to_string()))
            }
            _ => continue,
        };
        mined.told.push(NotFinal {
            what,
            subject,
            block_number: u64::try_from(placed.block_number).unwrap_or_default(),
            tx_hash: super::hex0x(&placed.tx_hash),
        });
    }
    Ok(mined)
}

/// Members of a version that may not be used, with why: $1 dataset, $2 version, $3 provider, $4 consents whose withdrawal is
/// mined. Found from what stands against them, so that a version of a million members is not read through.
const EXCLUDED: &str = "SELECT m.position, m.data_id, m.consent_id, w.block_time,
         CASE WHEN m.consent_id = decode(repeat('00', 32), 'hex') THEN 'consent-missing'
             WHEN w.consent_id IS NOT NULL OR m.consent_id = ANY($4) THEN 'consent-withdrawn'
             ELSE gone.status END AS reason
     FROM (
         SELECT m.position FROM record AS r JOIN dataset_member AS m
             ON m.ip_id = $1::text::numeric AND m.version = $2 AND m.data_id = r.data_id
         WHERE r.provider = $3 AND r.status IN ('withdrawn', 'erased')
         UNION
         SELECT m.position FROM consent_withdrawal AS w JOIN dataset_member AS m USING (consent_id)
         WHERE m.ip_id = $1::text::numeric AND m.version = $2
         UNION
         SELECT position FROM dataset_member
         WHERE ip_id = $1::text::numeric AND version = $2
             AND consent_id = ANY($4 || ARRAY[decode(repeat('00', 32), 'hex')])
     ) AS against
     JOIN dataset_member AS m ON m.ip_id = $1::text::numeric AND m.version = $2 AND m.position = against.position
     LEFT JOIN consent_withdrawal AS w ON w.consent_id = m.consent_id
     LEFT JOIN record AS gone ON gone.provider = $3 AND gone.data_id = m.data_id AND gone.status IN ('withdrawn', 'erased')";

/// Checks a licence; `asked` is who wants to use it.
pub async fn check(
    connection: &mut PgConnection,
    deployment: &Deployment,
    license_id: U256,
    asked: Option<Address>,
    page: &Page,
) -> Result<Option<LicenseCheck>, ReadError> {
    let row = sqlx::query(
        "SELECT o.price::text, o.duration::text, o.purposes, o.seats, o.contributor_bps, o.transferable, o.ai_training,
             o.resale_bps, o.legal_hash, o.legal_uri,
             l.holder, l.ip_id::text, d.name, l.version, d.provider, p.name, l.starts_at::text, l.ends_at::text,
             l.revocation_cause, v.state, v.purposes, v.member_count, c.mirrored_time
         FROM license AS l JOIN offer AS o USING (offer_id) JOIN dataset AS d ON d.ip_id = l.ip_id
         JOIN provider AS p ON p.address = d.provider
         JOIN dataset_version AS v ON (v.ip_id, v.version) = (l.ip_id, l.version) CROSS JOIN cursor AS c
         WHERE l.license_id = $1::text::numeric",
    )
    .bind(license_id.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut mined = mined(connection, deployment, license_id).await?;
    let (ip_id, version): (String, i64) = (row.try_get(11)?, row.try_get(13)?);
    let provider = stored::address(&row, 14)?;
    let (ends_at, now): (u64, i64) = (digits(&row, 17)?, row.try_get(22)?);
    let (revocation_cause, version_state): (Option<String>, String) = (row.try_get(18)?, row.try_get(19)?);
    let status = status(revocation_cause.is_some() || mined.revoked, ends_at, now);
    let holder = mined.holder.map_or_else(|| stored::address(&row, 10), Ok)?;
    let (terms, consented): (TermsView, u32) = (terms(&row, 0)?, stored::count(&row, 20)?);
    let facts = Facts { status, holder, asked, licensed: terms.purposes, consented, version_state: &version_state };
    let reasons = reasons(&facts);
    let version_key = Version { ip_id: &ip_id, version, provider, withdrawn: &mined.withdrawn };
    let members = counts(connection, &version_key, number(&row, 21)?, version_state == "valid").await?;
    let (excluded, next_cursor) = excluded(connection, &version_key, page).await?;
    // withdrawals of others' consents are nobody's business here
    let concerned = concerned(connection, &version_key).await?;
    mined.told.retain(|told| {
        told.what != "consent-withdrawn" || told.subject.as_ref().is_some_and(|subject| concerned.contains(subject))
    });
    Ok(Some(LicenseCheck {
        license_id: license_id.to_string(),
        valid: reasons.is_empty(),
        reasons,
        checked_at: rfc3339(now),
        status: status.to_owned(),
        holder: holder.to_string(),
        dataset_name: row.try_get(12)?,
        version: number(&row, 13)?,
        version_state,
        provider: ProviderRef { address: address_text(&row, 14)?, name: row.try_get(15)? },
        starts_at: rfc3339_u64(digits(&row, 16)?),
        ends_at: rfc3339_u64(ends_at),
        revocation_cause,
        terms,
        consented_purposes: consented,
        consented_purpose_names: purpose::names(consented),
        members,
        excluded,
        not_final: mined.told,
        ip_id,
        next_cursor,
    }))
}

struct Version<'a> {
    ip_id: &'a str,
    version: i64,
    provider: Address,
    withdrawn: &'a [B256],
}

impl Version<'_> {
    fn withdrawn(&self) -> Vec<&[u8]> {
        self.withdrawn.iter().map(|consent| consent.as_slice()).collect()
    }
}

async fn counts(
    connection: &mut PgConnection,
    version: &Version<'_>,
    registered: u64,
    is_known: bool,
) -> Result<MemberCounts, ReadError> {
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE reason = 'consent-withdrawn'), count(*) FILTER (WHERE reason = 'withdrawn'),
             count(*) FILTER (WHERE reason = 'erased'), count(*) FILTER (WHERE reason = 'consent-missing')
         FROM ({EXCLUDED}) AS excluded"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(version.ip_id)
        .bind(version.version)
        .bind(version.provider.as_slice())
        .bind(version.withdrawn())
        .fetch_one(connection)
        .await?;
    // a manifest is taken over only where it has as many rows as were registered
    let known = if is_known { registered } else { 0 };
    Ok(MemberCounts {
        registered,
        known,
        usable: known.saturating_sub(number(&row, 0)?),
        consent_withdrawn: number(&row, 1)?,
        withdrawn: number(&row, 2)?,
        erased: number(&row, 3)?,
        consent_missing: number(&row, 4)?,
    })
}

async fn excluded(
    connection: &mut PgConnection,
    version: &Version<'_>,
    page: &Page,
) -> Result<(Vec<ExcludedMember>, Option<String>), ReadError> {
    let sql = format!(
        "SELECT * FROM ({EXCLUDED}) AS excluded WHERE $5::bigint IS NULL OR position > $5 ORDER BY position LIMIT $6"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(version.ip_id)
        .bind(version.version)
        .bind(version.provider.as_slice())
        .bind(version.withdrawn())
        .bind(page.after.as_ref().map(|place| place.0))
        .bind(i64::from(page.limit) + 1)
        .fetch_all(connection)
        .await?;
    let rows = rows.iter().map(|row| {
        Ok(ExcludedMember {
            position: number(row, 0)?,
            data_id: row.try_get::<uuid::Uuid, _>(1)?.to_string(),
            consent_id: hash_text(row, 2)?,
            withdrawn_at: row.try_get::<Option<i64>, _>(3)?.map(rfc3339),
            reason: row.try_get(4)?,
        })
    });
    let mut rows = rows.collect::<Result<Vec<_>, sqlx::Error>>()?;
    let next =
        cut(&mut rows, page.limit, |member| Place(i64::try_from(member.position).unwrap_or(i64::MAX), String::new()));
    Ok((rows, next))
}

/// Which of the mined withdrawals are of consents of this version's members.
async fn concerned(connection: &mut PgConnection, version: &Version<'_>) -> Result<Vec<String>, ReadError> {
    if version.withdrawn.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "SELECT DISTINCT consent_id FROM dataset_member
         WHERE ip_id = $1::text::numeric AND version = $2 AND consent_id = ANY($3)",
    )
    .bind(version.ip_id)
    .bind(version.version)
    .bind(version.withdrawn())
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(|row| hash_text(row, 0)).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(facts: Facts<'_>) -> Vec<&'static str> {
        reasons(&facts).iter().map(|reason| reason.code).collect()
    }

    fn right() -> Facts<'static> {
        let holder = Address::repeat_byte(1);
        Facts {
            status: "active",
            holder,
            asked: Some(holder),
            licensed: purpose::TRAIN,
            consented: purpose::TRAIN | purpose::EVALUATE,
            version_state: "valid",
        }
    }

    #[test]
    fn each_condition_of_the_custodian_has_its_reason_and_all_that_fail_are_told() {
        assert!(codes(right()).is_empty());
        assert!(codes(Facts { asked: None, version_state: "waiting", ..right() }).is_empty());
        assert_eq!(codes(Facts { status: "expired", ..right() }), ["license-inactive"]);
        assert_eq!(codes(Facts { asked: Some(Address::ZERO), ..right() }), ["not-holder"]);
        assert_eq!(codes(Facts { licensed: 0, ..right() }), ["purpose-not-allowed"]);
        assert_eq!(codes(Facts { consented: purpose::EVALUATE, ..right() }), ["purposes-not-consented"]);
        assert_eq!(codes(Facts { licensed: 1 << 31, ..right() }), ["purpose-not-allowed", "purposes-not-consented"]);
        assert_eq!(codes(Facts { version_state: "invalid", ..right() }), ["members-invalid"]);
        assert_eq!(codes(Facts { status: "revoked", asked: None, licensed: 0, ..right() }).len(), 2);
    }
}
