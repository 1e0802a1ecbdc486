//! Scoped groups over HTTP: anyone may ask for one, so often a minute; whoever knows its id may read it.

use std::{num::NonZeroU32, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority},
    response::{IntoResponse, Response},
};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{SEARCH_LIMIT, limit, place};
use crate::{
    api::{
        App,
        answer::{Params, Segments, answer, body as whole, snapshot},
        rates::{Client, Rates},
    },
    groups::{self, BODY_BYTES_MAX, GroupItems, GroupProfile, GroupView},
    problem::Problem,
    read::Answer,
};

/// What a replica tells who wants to leave something here.
const AT_THE_WRITER: &str = "make groups and upload lists at the indexer that writes; they are read here, too";
/// Requests of an address that make something, each minute and at once.
const REQUESTS_PER_MINUTE: NonZeroU32 = match NonZeroU32::new(60) {
    Some(requests) => requests,
    None => NonZeroU32::MIN,
};
const LISTS_AT_ONCE: usize = 2;
const KEY_BYTES_MAX: usize = 255;

/// The group endpoints.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(offer))
        .routes(routes!(upload))
        .routes(routes!(group))
        .routes(routes!(items))
        .routes(routes!(export))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(Extension(Turns(Arc::new(Semaphore::new(LISTS_AT_ONCE)))))
        .layer(Extension(Rates::per_minute(REQUESTS_PER_MINUTE)))
}

/// Lists that are read at once: one of 5 MiB takes many times that while it is JSON.
#[derive(Clone)]
struct Turns(Arc<Semaphore>);

/// A group to ask for: one of the five lists, and words for people.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "read member by member, to name the one that is wrong; this says so to readers of the API")]
pub struct GroupRequest {
    /// At most 200 bytes.
    title: Option<String>,
    /// At most 2000 bytes.
    description: Option<String>,
    /// Whose source record ids these are, by name or account; needed where several providers have the same.
    provider: Option<String>,
    /// At most 10,000, each once.
    source_record_ids: Option<Vec<String>>,
    /// The same, one a line.
    source_record_ids_text: Option<String>,
    /// At most 10,000 SHA-256, in any of their forms.
    hashes: Option<Vec<String>>,
    /// The same, apart by lines, blanks or commas.
    hashes_text: Option<String>,
    /// Of a file that was uploaded before.
    upload_id: Option<String>,
    /// With `upload_id`: source_record or hash. Left out, a file of nothing but hashes is one of hashes.
    manifest_kind: Option<String>,
}

/// An upload to ask for.
#[derive(Debug, Deserialize, ToSchema)]
pub struct UploadRequest {
    /// csv, with a column `source_record_id` (and `provider`) or `hash`; or txt, an item a line.
    #[schema(example = "csv")]
    format: String,
}

/// Where to upload.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadTicket {
    /// What a group is asked for with.
    upload_id: String,
    /// PUT the file there. Whoever knows the address may.
    upload_url: String,
    /// PUT.
    method: &'static str,
    /// As asked for.
    format: String,
    /// RFC 3339: later the address is gone, and so is the file.
    expires_at: String,
    /// Bytes of the file.
    max_bytes: usize,
}

/// What came of an upload.
#[derive(Debug, Serialize, ToSchema)]
pub struct Uploaded {
    /// What a group is asked for with.
    upload_id: String,
    /// source_record or hash, as the file looks.
    manifest_kind: &'static str,
    /// Items in it.
    items: usize,
}

/// `?token=`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// As in the upload's address.
    #[param(required = true)]
    token: Option<String>,
}

/// `?limit=&cursor=`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ItemsQuery {
    /// Rows, from 1; 100 where left out, and never more than 1000.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The header's text, quoted or not.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let fits = (1..=KEY_BYTES_MAX).contains(&bare.len()) && bare.bytes().all(|byte| byte.is_ascii_graphic());
    match fits {
        true => Ok(Some(bare)),
        false => {
            Err(Problem::invalid("Idempotency-Key", format!("1 to {KEY_BYTES_MAX} visible ASCII characters"), text))
        }
    }
}

fn no_group() -> Problem {
    Problem::unknown("group_id", "there is no such group, or its time is over")
}

/// Holds a list of records or hashes against what is here.
///
/// Records are checked at once, all or none: one twice is a 400, one that is not here a 404, one of another provider a 409,
/// one that is not disclosed a 422. The group itself is computed afterwards: ask for it until it is complete.
#[utoipa::path(post, path = "/api/v1/data-audit/scoped-groups", tag = "trace", request_body = GroupRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body from the same address get the same group")),
    responses((status = 202, body = Answer<GroupView>), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 421, body = Problem), (status = 422, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
async fn create(
    State(app): State<App>,
    Client(client): Client,
    Extension(turns): Extension<Turns>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    app.writes(AT_THE_WRITER)?;
    let body = whole(body, BODY_BYTES_MAX)?;
    let turn = turns.0.acquire().await.map_err(|error| Problem::internal(&error))?;
    let created = groups::create(&app.pool, client, idempotency_key(&headers)?, &body).await?;
    drop(turn);
    let (mut snapshot, at) = snapshot(&app).await?;
    let view = groups::group(&mut snapshot, &created.group_id).await?.ok_or_else(no_group)?;
    let location = format!("/api/v1/data-audit/scoped-groups/{}", created.group_id);
    let mut response = (StatusCode::ACCEPTED, axum::Json(Answer { at, data: view })).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_str(&location).map_err(|error| Problem::internal(&error))?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if created.replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Where this service is, as the client reached it.
fn origin(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else { return String::new() };
    let is_https = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    format!("{}://{authority}", if is_https { "https" } else { "http" })
}

/// An address to upload a list to, for a list that is a file.
#[utoipa::path(post, path = "/api/v1/data-audit/scoped-groups/uploads", tag = "trace", request_body = UploadRequest,
    responses((status = 201, body = UploadTicket), (status = 400, body = Problem), (status = 421, body = Problem), (status = 429, body = Problem),
        (status = 503, body = Problem)))]
async fn offer(
    State(app): State<App>,
    Client(_client): Client,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    app.writes(AT_THE_WRITER)?;
    let body = whole(body, BODY_BYTES_MAX)?;
    let asked: Result<UploadRequest, _> = serde_json::from_slice(&body);
    let format = asked.map_err(|error| Problem::invalid("format", "csv or txt", error.to_string()))?.format;
    if !["csv", "txt"].contains(&format.as_str()) {
        return Err(Problem::invalid("format", "csv or txt", format));
    }
    let ticket = groups::offer_upload(&app.pool, &format).await?;
    let (id, token) = (ticket.upload_id, &ticket.token);
    let body = UploadTicket {
        upload_id: id.to_string(),
        upload_url: format!("{}/api/v1/data-audit/scoped-groups/uploads/{id}?token={token}", origin(&headers)),
        method: "PUT",
        format,
        expires_at: crate::read::rfc3339(ticket.expires_at),
        max_bytes: BODY_BYTES_MAX,
    };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response())
}

/// Takes a file at the address that was given out for it.
#[utoipa::path(put, path = "/api/v1/data-audit/scoped-groups/uploads/{upload_id}", tag = "trace",
    params(("upload_id" = String, Path, description = "as in the address"), UploadQuery),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 200, body = Uploaded), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 421, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
async fn upload(
    State(app): State<App>,
    Client(_client): Client,
    Extension(turns): Extension<Turns>,
    Segments(id): Segments<String>,
    Params(query): Params<UploadQuery>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    app.writes(AT_THE_WRITER)?;
    let upload_id: Uuid = id.parse().map_err(|_| Problem::invalid("upload_id", "a UUID", &id))?;
    let body = whole(body, BODY_BYTES_MAX)?;
    let token = query.token.as_deref().unwrap_or_default();
    let _turn = turns.0.acquire().await.map_err(|error| Problem::internal(&error))?;
    let (kind, items) = groups::receive_upload(&app.pool, upload_id, token, &body).await?;
    let body = Uploaded { upload_id: upload_id.to_string(), manifest_kind: kind.name(), items };
    Ok((StatusCode::OK, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response())
}

/// A group, and its counts once it is complete.
#[utoipa::path(get, path = "/api/v1/data-audit/scoped-groups/{group_id}", tag = "trace",
    params(("group_id" = String, Path, description = "`sg_…`")),
    responses((status = 200, body = Answer<GroupView>), (status = 304), (status = 404, body = Problem)))]
async fn group(
    State(app): State<App>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    known(&id)?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let view = groups::group(&mut snapshot, &id).await?.ok_or_else(no_group)?;
    answer(&headers, at, view)
}

/// Whether a text can be a group's id.
fn known(id: &str) -> Result<(), Problem> {
    let is_id = id.strip_prefix("sg_").is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if is_id { Ok(()) } else { Err(no_group()) }
}

fn complete(profile: Option<GroupProfile>) -> Result<GroupProfile, Problem> {
    let profile = profile.ok_or_else(no_group)?;
    let detail = match profile.status.as_str() {
        "complete" => return Ok(profile),
        "failed" => format!("it failed: {}", profile.error.as_deref().unwrap_or("nobody knows why")),
        status => format!("it is {status}; ask again"),
    };
    let title = "The group is not complete";
    Err(Problem::new(StatusCode::CONFLICT, "group-not-complete", title, detail).at("group_id"))
}

/// A group's rows, in the order of the request.
#[utoipa::path(get, path = "/api/v1/data-audit/scoped-groups/{group_id}/items", tag = "trace",
    params(("group_id" = String, Path, description = "`sg_…`"), ItemsQuery),
    responses((status = 200, body = Answer<GroupItems>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn items(
    State(app): State<App>,
    Segments(id): Segments<String>,
    Params(query): Params<ItemsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    known(&id)?;
    let limit = limit(query.limit.as_deref(), SEARCH_LIMIT)?;
    let after = query.cursor.as_deref().map(place).transpose()?.map_or(-1, |(position, _)| position);
    let (mut snapshot, at) = snapshot(&app).await?;
    let profile = complete(groups::profile(&mut snapshot, &id).await?)?;
    let (items, next_cursor) = groups::items(&mut snapshot, &id, after, limit).await?;
    let computed_at_block = profile.computed_at_block;
    answer(&headers, at, GroupItems { group_id: id, computed_at_block, count: items.len(), items, next_cursor })
}

/// All of a group's rows as CSV (RFC 4180), with the columns that Trace gives them.
///
/// A cell that a spreadsheet would take for a formula has an apostrophe in front.
#[utoipa::path(get, path = "/api/v1/data-audit/scoped-groups/{group_id}/export.csv", tag = "trace",
    params(("group_id" = String, Path, description = "`sg_…`")),
    responses((status = 200, body = String, content_type = "text/csv",
            headers(("Tidemark-Block-Number" = u64, description = "the final block that the rows are true at"),
                ("Tidemark-Block-Hash" = String, description = "its hash"))),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn export(State(app): State<App>, Segments(id): Segments<String>) -> Result<Response, Problem> {
    known(&id)?;
    let (mut snapshot, _) = snapshot(&app).await?;
    let profile = complete(groups::profile(&mut snapshot, &id).await?)?;
    drop(snapshot);
    let name = format!("attachment; filename=\"{id}.csv\"");
    let (pool, group_id) = (app.pool.clone(), id);
    let lines = stream::try_unfold(Some(-1i64), move |after| {
        let (pool, group_id) = (pool.clone(), group_id.clone());
        async move {
            let Some(after) = after else { return Ok::<_, groups::ExportError>(None) };
            let (lines, next) = groups::csv_rows(&pool, &group_id, after).await?;
            Ok(Some((Bytes::from(lines), next)))
        }
    });
    let mut response = Body::from_stream(lines).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
    headers
        .insert(header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).map_err(|error| Problem::internal(&error))?);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("tidemark-block-final", HeaderValue::from_static("true"));
    if let Some(block) = profile.computed_at_block {
        headers.insert("tidemark-block-number", HeaderValue::from(block));
    }
    if let Some(Ok(hash)) = profile.computed_at_block_hash.as_deref().map(HeaderValue::from_str) {
        headers.insert("tidemark-block-hash", hash);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_quoted_or_not_and_never_odd() {
        let read = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", HeaderValue::from_bytes(value).unwrap());
            idempotency_key(&headers).map(|key| key.unwrap().to_owned())
        };
        assert_eq!(read(b"a-1").unwrap(), "a-1");
        assert_eq!(read(b"\"a-1\"").unwrap(), "a-1");
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        for odd in [&b""[..], b"a b", b"\xff", &[b'a'; 256]] {
            assert_eq!(read(odd).unwrap_err().field.as_deref(), Some("Idempotency-Key"));
        }
    }

    #[test]
    fn an_upload_s_address_is_on_the_host_that_was_asked() {
        let origin = |host: &'static str, proto: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(proto) = proto {
                headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
            }
            origin(&headers)
        };
        assert_eq!(origin("api.example:8082", None), "http://api.example:8082");
        assert_eq!(origin("api.example", Some("https")), "https://api.example");
        assert_eq!(origin("a b<script>", Some("x")), "");
    }
}
