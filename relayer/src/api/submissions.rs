//! Uploads: a multipart form with `meta`, then `file`.

use std::sync::Arc;

use alloy::primitives::B256;
use axum::{
    Extension,
    body::Body,
    extract::{FromRequest, Multipart, Request, State, multipart::MultipartError},
    http::StatusCode,
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;
use tidemark::{
    consent::SignedConsent,
    ids::{DataId, sha256},
};
use utoipa::ToSchema;

use super::{gate::allowed, idempotent, trace::item::reference, unix_of};
use crate::{
    app::App,
    http,
    intake::{
        Provider,
        key::Scope,
        personal,
        provider::Caller,
        submit::{Answer, PayTo, Submission, Submitted, submit},
        unix_now,
    },
    problem::{Kind, Problem},
    quality::Claim,
};

/// The largest file.
pub const FILE_BYTES_MAX: usize = 32 << 20;
/// The form around it: boundaries, headers and `meta`.
const FORM_BYTES_MAX: usize = 256 << 10;
const META_BYTES_MAX: usize = 64 << 10;
/// A clock may be this far ahead of ours.
const AHEAD_SECONDS_MAX: u64 = 300;

/// The `meta` part.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The provider's own id: trimmed, 1 to 512 bytes, no control characters.
    source_record_id: String,
    /// Task on chain whose price an acceptance earns; 0 for none.
    task_id: u64,
    /// The provider's reference to its contributor: 1 to 512 bytes, no control characters.
    contributor_ref: String,
    /// `points`, or `wallet` for the account that signed the consent.
    pay_to: PayTo,
    /// What the file is said to be.
    #[schema(example = "audio/wav")]
    mime_type: String,
    /// RFC 3339; not in the future.
    #[schema(format = DateTime)]
    occurred_at: String,
    /// {contributor, provider, policy_hash, purposes, data_types, territory, valid_from, valid_until, nonce, signature}.
    #[schema(value_type = Object)]
    consent: SignedConsent,
}

/// The form.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the shape for the OpenAPI document")]
pub struct Form {
    /// JSON, before the file.
    meta: Meta,
    /// At most 32 MiB.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Submit a file. Answered once it is judged, encrypted, stored and durable; the plaintext rests nowhere.
///
/// The same file and meta again get the same answer (200); another file under the same source_record_id is a conflict.
#[utoipa::path(post, path = "/v1/submissions",
    params(("X-API-Key" = String, Header, description = "issued to the provider, with the scope `uploads`"),
           ("Idempotency-Key" = Option<String>, Header,
            description = "the same key, meta and file again get the same answer"),
           ("X-Provider" = Option<String>, Header, description = "the provider's name; must be that of the key")),
    request_body(content = Form, content_type = "multipart/form-data"),
    responses((status = 201, description = "judged: accepted or rejected", body = Submitted),
              (status = 200, description = "the answer to an earlier try", body = Submitted),
              (status = "default", description = "not taken, nothing changed", body = tidemark::service::Problem)))]
pub async fn post_submission(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Result<Response, Problem> {
    let provider = allowed(&app, &caller, request.headers(), Scope::Uploads, false).await?.clone();
    let key = idempotent::key(request.headers())?;
    let permit = Arc::clone(&app.bodies).acquire_owned().await.map_err(Problem::internal)?;
    let (parts, body) = request.into_parts();
    let body = http::read_body(body, FILE_BYTES_MAX + FORM_BYTES_MAX).await?;
    let form = Multipart::from_request(Request::from_parts(parts, Body::from(body)), &()).await;
    let form = form.map_err(|error| {
        Problem::new(Kind::MediaTypeUnsupported, format!("expected multipart/form-data: {}", error.body_text()))
    })?;
    let (meta, file) = parts_of(form).await?;
    let fingerprint = if key.is_some() { fingerprint(&meta, &file).await? } else { B256::ZERO };
    let submission = read(&provider, understood(&meta)?, file)?;
    let (account, shared) = (provider.account, Arc::clone(&app));
    let work = async move {
        // the file is in memory for as long as it is worked on
        let _permit = permit;
        Ok(match submit(&shared, &provider, submission).await? {
            Answer::New(submitted) => (StatusCode::CREATED, submitted),
            Answer::Again(submitted) => (StatusCode::OK, submitted),
        })
    };
    idempotent::once(&app, account, key, fingerprint, work).await
}

/// Of the parts and not of the form: a retry has other boundaries.
async fn fingerprint(meta: &Bytes, file: &Bytes) -> Result<B256, Problem> {
    let (meta, file) = (meta.clone(), file.clone());
    let hash = move || sha256(&[b"submission", &(meta.len() as u64).to_be_bytes(), &meta, &file]);
    tokio::task::spawn_blocking(hash).await.map_err(Problem::internal)
}

/// Reads the `meta` part.
pub fn understood(meta: &[u8]) -> Result<Meta, Problem> {
    serde_json::from_slice(meta).map_err(|error| {
        let kind = if error.is_data() { Kind::FieldInvalid } else { Kind::BodyInvalid };
        Problem::field(kind, "meta", "the documented JSON", error.to_string())
    })
}

/// `meta` and `file`, as they came.
pub async fn parts_of(mut form: Multipart) -> Result<(Bytes, Bytes), Problem> {
    let broken = |error: MultipartError| Problem::new(Kind::BodyInvalid, format!("form: {}", error.body_text()));
    let (mut meta, mut file) = (None, None);
    while let Some(part) = form.next_field().await.map_err(broken)? {
        let name = part.name().unwrap_or_default().to_owned();
        let bytes = part.bytes().await.map_err(broken)?;
        let expected = "the parts `meta` and `file`, each once";
        match name.as_str() {
            "meta" if meta.is_none() => {
                if bytes.len() > META_BYTES_MAX {
                    let actual = format!("{} bytes", bytes.len());
                    return Err(Problem::field(
                        Kind::BodyTooLarge,
                        "meta",
                        format!("at most {META_BYTES_MAX} bytes"),
                        actual,
                    ));
                }
                meta = Some(bytes);
            }
            "file" if file.is_none() => {
                if bytes.len() > FILE_BYTES_MAX {
                    let actual = format!("{} bytes", bytes.len());
                    return Err(Problem::field(
                        Kind::BodyTooLarge,
                        "file",
                        format!("at most {FILE_BYTES_MAX} bytes"),
                        actual,
                    ));
                }
                file = Some(bytes);
            }
            _ => return Err(Problem::field(Kind::FieldInvalid, "form", expected, format!("{name:?}"))),
        }
    }
    let missing = |field: &str| Problem::field(Kind::FieldMissing, field, format!("the part `{field}`"), "none");
    Ok((meta.ok_or_else(|| missing("meta"))?, file.ok_or_else(|| missing("file"))?))
}

/// Checks `meta` by itself, before anything is looked up.
pub fn read(provider: &Provider, meta: Meta, bytes: Bytes) -> Result<Submission, Problem> {
    let invalid = |field: &str, expected: &str, actual: &str| {
        Problem::field(Kind::FieldInvalid, format!("meta.{field}"), expected, actual)
    };
    let id = meta.source_record_id.trim().to_owned();
    let expected = "1 to 512 bytes without control characters";
    let data_id = DataId::new(&provider.name, &id).map_err(|_| invalid("source_record_id", expected, &id))?;
    // both are in the record's public metadata
    personal::check_text(&id, "meta.source_record_id")?;
    personal::check_text(&meta.mime_type, "meta.mime_type")?;
    let contributor =
        reference(&meta.contributor_ref).ok_or_else(|| invalid("contributor_ref", expected, &meta.contributor_ref))?;
    let claim = Claim::parse(&meta.mime_type).ok_or_else(|| {
        let expected = "audio/wav, audio/flac, audio/mpeg, audio/ogg, audio/mp4, image/jpeg, image/png, image/webp, \
                        image/gif, video/mp4 or video/quicktime";
        Problem::field(Kind::MediaTypeUnsupported, "meta.mime_type", expected, meta.mime_type.clone())
    })?;
    let occurred_at = unix_of(&meta.occurred_at)
        .ok_or_else(|| invalid("occurred_at", "an RFC 3339 time from 1970 on", &meta.occurred_at))?;
    if occurred_at > unix_now() + AHEAD_SECONDS_MAX {
        return Err(invalid("occurred_at", "a time that is not in the future", &meta.occurred_at));
    }
    if i64::try_from(meta.task_id).is_err() {
        return Err(invalid("task_id", "at most 2^63 - 1", &meta.task_id.to_string()));
    }
    Ok(Submission {
        source_record_id: id,
        data_id,
        task_id: meta.task_id,
        contributor,
        pay_to: meta.pay_to,
        mime_type: meta.mime_type.trim().to_owned(),
        claim,
        occurred_at,
        consent: meta.consent,
        bytes,
    })
}
