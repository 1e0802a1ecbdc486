//! How requests are read and answers written: typed parameters, the block, an ETag over what was asked.

use alloy::primitives::{Address, B256, U256};
use axum::{
    Json,
    body::Bytes,
    extract::{
        FromRequestParts, Path, Query,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Postgres, Transaction};
use tidemark::ids::{DataId, sha256};

use super::App;
use crate::{
    problem::Problem,
    read::{self, Answer, At, Fixed, FixedAt},
};

const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Query parameters; a wrong one is a problem document.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(unreadable(&rejection, parts.uri.query().unwrap_or_default())),
        }
    }
}

/// Segments of the path; ones that are no text are a problem document.
pub struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Self(segments)),
            Err(rejection) => Err(Problem::invalid("path", "segments of UTF-8 text", rejection.body_text())),
        }
    }
}

/// A body within its bound; a larger one is a problem document.
pub fn body(read: Result<Bytes, BytesRejection>, bytes_max: usize) -> Result<Bytes, Problem> {
    read.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("expected at most {bytes_max} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large", detail).at("body")
        }
        _ => Problem::invalid("body", "a body that arrives whole", rejection.body_text()),
    })
}

fn unreadable(rejection: &QueryRejection, query: &str) -> Problem {
    // serde names the parameter first: "Failed to deserialize query string: limit: invalid digit found in string"
    let text = rejection.body_text();
    let reason = text.rsplit_once("string: ").map_or(text.as_str(), |(_, reason)| reason);
    let parts = text.strip_prefix("Failed to deserialize query string: ").and_then(|text| text.split_once(": "));
    match parts {
        Some((field, reason)) => {
            let prefix = format!("{field}=");
            let actual = query.split('&').find_map(|pair| pair.strip_prefix(&prefix)).unwrap_or(query);
            Problem::invalid(field, format!("a value as in /docs ({reason})"), actual)
        }
        None => Problem::invalid("query", format!("the parameters in /docs ({reason})"), query),
    }
}

/// One snapshot with its block.
pub async fn snapshot(app: &App) -> Result<(Transaction<'static, Postgres>, At), Problem> {
    let mut transaction = read::snapshot(&app.pool).await?;
    let at = read::at(&mut transaction).await?;
    Ok((transaction, at))
}

/// Data with its block, or 304 where the reader has it. The tag is over the data alone: blocks come and go.
pub fn answer<T: Serialize>(headers: &HeaderMap, at: At, data: T) -> Result<Response, Problem> {
    let bytes = serde_json::to_vec(&data).map_err(|error| Problem::internal(&error))?;
    let digest = sha256(&[&bytes]);
    let tag = format!("W/\"{}\"", hex::encode(&digest[..16]));
    let tag_header = HeaderValue::from_str(&tag).map_err(|error| Problem::internal(&error))?;
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = match known.is_some_and(|known| known.split(',').any(|known| known.trim() == tag)) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Json(Answer { at, data }).into_response(),
    };
    response.headers_mut().insert(header::ETAG, tag_header);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// What can never change any more, so that every cache may keep it: the same bytes for ever, under a strong tag.
pub fn fixed<T: Serialize>(headers: &HeaderMap, at: FixedAt, data: T) -> Result<Response, Problem> {
    let bytes = serde_json::to_vec(&Fixed { at, data }).map_err(|error| Problem::internal(&error))?;
    let digest = sha256(&[&bytes]);
    let tag = format!("\"{}\"", hex::encode(&digest[..16]));
    let tag_header = HeaderValue::from_str(&tag).map_err(|error| Problem::internal(&error))?;
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    // If-None-Match compares weakly (RFC 9110, 13.1.2)
    let is_known = |known: &str| known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag);
    let mut response = match known.is_some_and(is_known) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
    };
    response.headers_mut().insert(header::ETAG, tag_header);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(FOR_EVER));
    Ok(response)
}

/// A record's id.
pub fn data_id(text: &str) -> Result<DataId, Problem> {
    text.parse().map_err(|_| Problem::invalid("data_id", "a UUID", text))
}

/// 32 bytes as hex.
pub fn hash(field: &str, text: &str) -> Result<B256, Problem> {
    text.parse().map_err(|_| Problem::invalid(field, "32 bytes as hex", text))
}

/// An account: 20 bytes as hex, in any case.
pub fn address(field: &str, text: &str) -> Result<Address, Problem> {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    let bytes = hex::decode(digits).ok().and_then(|bytes| Address::try_from(bytes.as_slice()).ok());
    bytes.ok_or_else(|| Problem::invalid(field, "0x and 20 bytes as hex", text))
}

/// A token id in decimal.
pub fn token_id(field: &str, text: &str) -> Result<U256, Problem> {
    let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = is_decimal.then(|| U256::from_str_radix(text, 10).ok()).flatten();
    parsed.ok_or_else(|| Problem::invalid(field, "a decimal number below 2^256", text))
}

/// A sequential number in decimal.
pub fn number<T: std::str::FromStr>(field: &str, text: &str) -> Result<T, Problem> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = is_decimal.then(|| text.parse().ok()).flatten();
    parsed.ok_or_else(|| Problem::invalid(field, "a decimal number", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_parameter_is_named() {
        assert_eq!(data_id("x").unwrap_err().field.as_deref(), Some("data_id"));
        assert_eq!(hash("pseudonym", "0x12").unwrap_err().field.as_deref(), Some("pseudonym"));
        let too_large = format!("1{}", "0".repeat(78));
        for wrong in ["", "0x1", "-1", "1.0", too_large.as_str()] {
            assert!(token_id("license_id", wrong).is_err(), "{wrong}");
        }
        assert_eq!(token_id("license_id", "12").unwrap(), U256::from(12));
        assert!(number::<u64>("number", "+1").is_err());
        assert!(number::<u64>("number", "18446744073709551616").is_err());
    }
}
