//! Requests for groups and uploads as rows: an idempotency key has one group, an upload is filled once.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use alloy::primitives::{Address, B256};
use axum::http::StatusCode;
use serde_json::json;
use sqlx::{PgPool, Row};
use subtle::ConstantTimeEq;
use tidemark::ids::{DataId, sha256};
use uuid::Uuid;

use super::{
    BODY_BYTES_MAX, GROUPS_MAX, Kind, PROVIDERS_MAX, UPLOAD_MINUTES_MAX, UPLOADS_BYTES_MAX, UPLOADS_MAX, WAITING_MAX,
    input::{self, Asked, Item, Source},
};
use crate::{
    manifest::stored,
    problem::Problem,
    read::{self, trace::provider_names},
};

/// Different providers that one request may name.
const NAMED_MAX: usize = 100;
/// Records of one query.
const CHUNK: usize = 5_000;

/// A group that was asked for.
pub struct Created {
    /// Its id.
    pub group_id: String,
    /// It was there before, by its idempotency key.
    pub replayed: bool,
}

/// A place for an upload.
pub struct Ticket {
    /// Its id.
    pub upload_id: Uuid,
    /// What the address has to say; nobody else knows it.
    pub token: String,
    /// Unix seconds.
    pub expires_at: i64,
}

/// Takes a request in, once it is known that the group can be computed.
pub async fn create(pool: &PgPool, client: IpAddr, key: Option<&str>, body: &[u8]) -> Result<Created, Problem> {
    let request_hash = sha256(&[body]);
    let idempotency = key.map(|key| sha256(&[client.to_string().as_bytes(), b"\0", key.as_bytes()]));
    if let Some(created) = replayed(pool, idempotency, request_hash).await? {
        return Ok(created);
    }
    let request = input::request(body)?;
    let asked = match &request.source {
        Source::Here(asked) => asked.clone(),
        Source::Upload(id, kind) => {
            let (format, file) = uploaded(pool, *id).await?;
            input::file(&format, &file, *kind, request.provider.as_deref())?
        }
    };
    let (kind, input, submitted, unique) = match &asked {
        Asked::Records(items) => {
            let places = places(pool, items).await?;
            let rows = items.iter().zip(places);
            let rows = rows.map(|(item, (provider, id))| json!([provider, id, item.source_record_id]));
            (Kind::SourceRecord, rows.collect::<Vec<_>>(), items.len(), items.len())
        }
        Asked::Hashes { unique, submitted } => {
            (Kind::Hash, unique.iter().map(|hash| json!(hash)).collect(), *submitted, unique.len())
        }
    };
    let mut transaction = pool.begin().await?;
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(*) FROM local.scoped_group WHERE status IN ('pending', 'processing')")
            .fetch_one(&mut *transaction)
            .await?;
    let all: i64 = sqlx::query_scalar("SELECT count(*) FROM local.scoped_group").fetch_one(&mut *transaction).await?;
    // a tenth more than are kept: what is over goes within a minute
    if waiting >= WAITING_MAX || all >= GROUPS_MAX + GROUPS_MAX / 10 {
        return Err(Problem::unavailable("too many groups wait here; try again later"));
    }
    let group_id = format!("sg_{}", Uuid::new_v4().simple());
    let inserted = sqlx::query(
        "INSERT INTO local.scoped_group
             (group_id, idempotency, request, title, description, manifest_kind, input, submitted_items, unique_items)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (idempotency) DO NOTHING",
    )
    .bind(&group_id)
    .bind(idempotency.as_ref().map(|hash| hash.as_slice()))
    .bind(request_hash.as_slice())
    .bind(&request.title)
    .bind(&request.description)
    .bind(kind.name())
    .bind(serde_json::Value::Array(input))
    .bind(i64::try_from(submitted).unwrap_or(i64::MAX))
    .bind(i64::try_from(unique).unwrap_or(i64::MAX))
    .execute(&mut *transaction)
    .await?;
    if inserted.rows_affected() == 0 {
        drop(transaction);
        let missing = || Problem::unavailable("the first request with this Idempotency-Key is under way; try again");
        return replayed(pool, idempotency, request_hash).await?.ok_or_else(missing);
    }
    if let Source::Upload(id, _) = request.source {
        sqlx::query("DELETE FROM local.scoped_upload WHERE upload_id = $1").bind(id).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(Created { group_id, replayed: false })
}

async fn replayed(pool: &PgPool, idempotency: Option<B256>, request_hash: B256) -> Result<Option<Created>, Problem> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    let row = sqlx::query("SELECT group_id, request FROM local.scoped_group WHERE idempotency = $1")
        .bind(idempotency.as_slice())
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    if stored::hash(&row, 1)? != request_hash {
        let detail = "send a fresh key with another body";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let title = "The Idempotency-Key was used with another body";
        return Err(Problem::new(status, "idempotency-key-reused", title, detail).at("Idempotency-Key"));
    }
    Ok(Some(Created { group_id: row.try_get(0)?, replayed: true }))
}

/// Where the records of a request may be.
struct Candidates {
    /// By name as asked for.
    named: HashMap<String, (Address, String)>,
    /// All that have records; none where they are too many to try each.
    all: Option<Vec<(Address, String)>>,
}

/// The place of each record: all of them, or the problem of the first that has none.
async fn places(pool: &PgPool, items: &[Item]) -> Result<Vec<(Address, Uuid)>, Problem> {
    let mut snapshot = read::snapshot(pool).await?;
    let block = read::at(&mut snapshot).await?.block_number;
    let mut candidates = Candidates { named: HashMap::new(), all: None };
    for item in items {
        let Some(name) = &item.provider else { continue };
        if candidates.named.contains_key(name) {
            continue;
        }
        if candidates.named.len() >= NAMED_MAX {
            return Err(Problem::invalid(&item.field, format!("at most {NAMED_MAX} providers"), "more"));
        }
        let found = read::find_provider(&mut snapshot, name).await?;
        let unknown =
            || Problem::unknown("provider", format!("{name} is no provider up to block {block}")).at(&item.field);
        let address = found.ok_or_else(unknown)?;
        let on_chain: String = sqlx::query_scalar("SELECT name FROM provider WHERE address = $1")
            .bind(address.as_slice())
            .fetch_one(&mut *snapshot)
            .await?;
        candidates.named.insert(name.clone(), (address, on_chain));
    }
    let all = provider_names(&mut snapshot, None).await?;
    candidates.all = (all.len() <= PROVIDERS_MAX).then_some(all);
    if candidates.all.is_none()
        && let Some(item) = items.iter().find(|item| item.provider.is_none())
    {
        let expected = "its provider's name: too many providers are here to try each";
        return Err(Problem::invalid("provider", expected, format!("none for {}", item.field)));
    }

    let mut tried = Vec::new();
    for item in items {
        tried.extend(candidates.of(item, false));
    }
    let mut known = disclosed(&mut snapshot, &tried).await?;
    // only to say what is wrong: whether another provider has what the named one has not
    let lost = |item: &&Item| !candidates.of(item, false).iter().any(|place| known.contains_key(place));
    let elsewhere: Vec<_> =
        items.iter().filter(lost).take(NAMED_MAX).flat_map(|item| candidates.of(item, true)).collect();
    known.extend(disclosed(&mut snapshot, &elsewhere).await?);
    // a provider has a name and an account, so two texts may be one record
    let mut taken = HashSet::new();
    let place = |item: &Item| {
        let place = placed(item, &candidates, &known, block)?;
        match taken.insert(place) {
            true => Ok(place),
            false => Err(Problem::invalid(&item.field, "each record once", format!("{} again", item.source_record_id))),
        }
    };
    items.iter().map(place).collect()
}

impl Candidates {
    fn of(&self, item: &Item, anywhere: bool) -> Vec<(Address, Uuid)> {
        let named = item.provider.as_ref().and_then(|name| self.named.get(name));
        let all = self.all.as_deref().unwrap_or_default();
        let providers: Vec<_> = match named {
            Some(named) if !anywhere => vec![named],
            _ => all.iter().collect(),
        };
        let id = |name: &str| DataId::new(name, &item.source_record_id).ok();
        providers.into_iter().filter_map(|(address, name)| Some((*address, id(name)?.0))).collect()
    }
}

fn placed(
    item: &Item,
    candidates: &Candidates,
    known: &HashMap<(Address, Uuid), bool>,
    block: u64,
) -> Result<(Address, Uuid), Problem> {
    let of = |anywhere| candidates.of(item, anywhere).into_iter().filter(|place| known.contains_key(place));
    let found: Vec<_> = of(false).collect();
    let conflict = |detail: &str| {
        let title = "The record is not the one that was asked for";
        Problem::new(StatusCode::CONFLICT, "record-mismatch", title, detail).at(&item.field)
    };
    match found.as_slice() {
        [place] if known.get(place) == Some(&true) => Ok(*place),
        [_] => {
            let detail = "its metadata is not disclosed, or erased: there is no asset to review";
            let (status, title) = (StatusCode::UNPROCESSABLE_ENTITY, "The record has no asset");
            Err(Problem::new(status, "record-without-asset", title, detail).at(&item.field))
        }
        [] if of(true).next().is_some() => Err(conflict("the record is another provider's than the one that is named")),
        [] => {
            let id: String = item.source_record_id.chars().take(80).collect();
            let detail = format!("no final record up to block {block} has the source record id {id}");
            Err(Problem::unknown(&item.field, detail))
        }
        _ => Err(conflict("several providers have a record with this id: name the provider")),
    }
}

/// Which of these records are here, and whether they are disclosed.
async fn disclosed(
    connection: &mut sqlx::PgConnection,
    places: &[(Address, Uuid)],
) -> Result<HashMap<(Address, Uuid), bool>, Problem> {
    let mut known = HashMap::new();
    for chunk in places.chunks(CHUNK) {
        let rows = sqlx::query(
            "SELECT r.provider, r.data_id, t.data_id IS NOT NULL
             FROM unnest($1::bytea[], $2::uuid[]) AS asked (provider, data_id)
             JOIN record AS r ON r.provider = asked.provider AND r.data_id = asked.data_id
             LEFT JOIN trace_record AS t ON t.provider = r.provider AND t.data_id = r.data_id",
        )
        .bind(chunk.iter().map(|(provider, _)| provider.as_slice()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|(_, id)| *id).collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
        for row in &rows {
            known.insert((stored::address(row, 0)?, row.try_get(1)?), row.try_get(2)?);
        }
    }
    Ok(known)
}

/// A fresh place for an upload.
pub async fn offer_upload(pool: &PgPool, format: &str) -> Result<Ticket, Problem> {
    // 244 random bits
    let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let upload_id = Uuid::new_v4();
    let row = sqlx::query(
        "INSERT INTO local.scoped_upload (upload_id, token_hash, format, expires_at)
         SELECT $1, $2, $3, now() + make_interval(mins => $4)
         WHERE (SELECT count(*) FROM local.scoped_upload) < $5
         RETURNING extract(epoch FROM expires_at)::bigint",
    )
    .bind(upload_id)
    .bind(sha256(&[token.as_bytes()]).as_slice())
    .bind(format)
    .bind(UPLOAD_MINUTES_MAX)
    .bind(UPLOADS_MAX)
    .fetch_optional(pool)
    .await?;
    let row = row.ok_or_else(|| Problem::unavailable("too many uploads are open here; try again later"))?;
    Ok(Ticket { upload_id, token, expires_at: row.try_get(0)? })
}

/// The same answer for an id that never was, one that is over, and a wrong token.
fn no_upload() -> Problem {
    Problem::unknown("upload_id", "there is no such upload with this token, or its time is over")
}

/// Fills an upload; gives its kind and how many items are in it. The same file again changes nothing.
pub async fn receive_upload(
    pool: &PgPool,
    upload_id: Uuid,
    token: &str,
    body: &[u8],
) -> Result<(Kind, usize), Problem> {
    let row = sqlx::query(
        "SELECT token_hash, format, body FROM local.scoped_upload WHERE upload_id = $1 AND expires_at > now()",
    )
    .bind(upload_id)
    .fetch_optional(pool)
    .await?;
    let row = row.ok_or_else(no_upload)?;
    let expected = stored::hash(&row, 0)?;
    if !bool::from(sha256(&[token.as_bytes()]).as_slice().ct_eq(expected.as_slice())) {
        return Err(no_upload());
    }
    let format: String = row.try_get(1)?;
    let (kind, items) = match input::file(&format, body, None, None)? {
        Asked::Records(items) => (Kind::SourceRecord, items.len()),
        Asked::Hashes { submitted, .. } => (Kind::Hash, submitted),
    };
    let filled = || {
        let title = "The upload was filled before";
        Problem::new(StatusCode::CONFLICT, "upload-filled", title, "with another file; ask for a new upload").at("body")
    };
    match row.try_get::<Option<Vec<u8>>, _>(2)? {
        Some(before) if before == body => return Ok((kind, items)),
        Some(_) => return Err(filled()),
        None => {}
    }
    let held: i64 = sqlx::query_scalar("SELECT coalesce(sum(octet_length(body)), 0)::bigint FROM local.scoped_upload")
        .fetch_one(pool)
        .await?;
    if held.saturating_add(i64::try_from(body.len()).unwrap_or(i64::MAX)) > UPLOADS_BYTES_MAX {
        return Err(Problem::unavailable("too much is uploaded here now; try again later"));
    }
    let done = sqlx::query("UPDATE local.scoped_upload SET body = $2 WHERE upload_id = $1 AND body IS NULL")
        .bind(upload_id)
        .bind(body)
        .execute(pool)
        .await?;
    match done.rows_affected() {
        1 => Ok((kind, items)),
        _ => Err(filled()),
    }
}

/// Format and bytes of an upload that was filled.
pub async fn uploaded(pool: &PgPool, upload_id: Uuid) -> Result<(String, Vec<u8>), Problem> {
    let row = sqlx::query("SELECT format, body FROM local.scoped_upload WHERE upload_id = $1 AND expires_at > now()")
        .bind(upload_id)
        .fetch_optional(pool)
        .await?;
    let row = row.ok_or_else(no_upload)?;
    let body: Option<Vec<u8>> = row.try_get(1)?;
    let empty = || {
        let (status, title) = (StatusCode::CONFLICT, "The upload is empty");
        Problem::new(
            status,
            "upload-empty",
            title,
            format!("PUT at most {BODY_BYTES_MAX} bytes to its upload_url first"),
        )
        .at("upload_id")
    };
    Ok((row.try_get(0)?, body.ok_or_else(empty)?))
}
