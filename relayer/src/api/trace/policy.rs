//! `provider-policy`: the terms of service and the privacy policy that a provider has from now on.

use std::sync::Arc;

use axum::{Extension, Json, body::Body, extract::State, http::HeaderMap};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark::ids::ContentHash;
use utoipa::ToSchema;

use super::item::kind_of;
use crate::{
    api::{gate::allowed, unix_of},
    app::App,
    http,
    intake::{
        Provider,
        key::Scope,
        policy::{self, Policy, PolicyKind},
        provider::Caller,
    },
    problem::{Kind, Problem},
};

const BODY_BYTES_MAX: usize = 1 << 20;
const VERSION_BYTES_MAX: usize = 64;
const URI_BYTES_MAX: usize = 2048;

/// Both policies; members that Trace does not name are passed over.
#[derive(Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "the shape for the OpenAPI document; it is read field by field, to name the one that is wrong"
)]
pub struct PolicyBody {
    /// Terms of service.
    tos: PolicyPart,
    /// Privacy policy.
    privacy_policy: PolicyPart,
}

/// One of them.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "as above")]
pub struct PolicyPart {
    /// 1 to 64 bytes.
    version: String,
    /// SHA-256 of the text, `sha256:<64 hex digits>`: one that the provider published on chain.
    hash: String,
    /// Where the text is: https, http or ipfs.
    uri: String,
    /// RFC 3339.
    #[schema(format = DateTime)]
    effective_at: Option<String>,
}

/// What holds now.
#[derive(Serialize, ToSchema)]
pub struct PolicyAnswer {
    /// `X-Provider`.
    provider: String,
    tos: Policy,
    privacy_policy: Policy,
    /// false where both were the current ones already.
    changed: bool,
}

/// Set the active terms of service and privacy policy. Earlier ones are kept, and metadata may still name them.
///
/// Each hash must be one that the provider published in the ConsentRegistry. The same again changes nothing.
#[utoipa::path(put, path = "/webhook/v1/data-audit/provider-policy",
    params(("X-API-Key" = String, Header, description = "issued to the provider, with the scope `records`"),
           ("X-Provider" = String, Header, description = "the provider's name")),
    request_body(content = PolicyBody, description = "at most 1 MiB"),
    responses((status = 200, description = "they are the active ones", body = PolicyAnswer),
              (status = "default", description = "field-missing, field-invalid, policy-unpublished", body = tidemark::service::Problem)))]
pub async fn put_policy(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PolicyAnswer>, Problem> {
    let provider = allowed(&app, &caller, &headers, Scope::Records, true).await?;
    if super::body::Format::Json.check(&headers)? {
        return Err(Problem::field(Kind::MediaTypeUnsupported, "Content-Encoding", "none", "gzip"));
    }
    let (tos, privacy_policy) = read(&http::read_body(body, BODY_BYTES_MAX).await?)?;
    for (kind, policy) in [(PolicyKind::Tos, &tos), (PolicyKind::PrivacyPolicy, &privacy_policy)] {
        check_published(&app, provider, kind, policy).await?;
    }
    let both = [(PolicyKind::Tos, &tos), (PolicyKind::PrivacyPolicy, &privacy_policy)];
    let changed = policy::put(&app.db, provider.account, both).await?;
    Ok(Json(PolicyAnswer { provider: provider.name.clone(), tos, privacy_policy, changed }))
}

async fn check_published(app: &App, provider: &Provider, kind: PolicyKind, policy: &Policy) -> Result<(), Problem> {
    let published = app.chain.policy_published(provider.account, policy.hash).await;
    if published.map_err(|error| Problem::unavailable("the chain", error))? {
        return Ok(());
    }
    let expected = format!("a policy that {} published on chain", provider.account);
    let actual = policy.hash.to_string();
    Err(Problem::field(Kind::PolicyUnpublished, format!("{}.hash", kind.name()), expected, actual))
}

/// Terms of service and privacy policy of a body, before the chain is asked for them.
pub fn read(body: &[u8]) -> Result<(Policy, Policy), Problem> {
    let fields: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| Problem::new(Kind::BodyInvalid, format!("expected {{tos, privacy_policy}}: {error}")))?;
    Ok((part(&fields, PolicyKind::Tos)?, part(&fields, PolicyKind::PrivacyPolicy)?))
}

fn part(fields: &Map<String, Value>, kind: PolicyKind) -> Result<Policy, Problem> {
    let name = kind.name();
    let expected = "an object {version, hash, uri, effective_at}";
    let part = match fields.get(name) {
        Some(Value::Object(part)) => part,
        None | Some(Value::Null) => return Err(Problem::field(Kind::FieldMissing, name, expected, "none")),
        Some(other) => return Err(Problem::field(Kind::FieldInvalid, name, expected, kind_of(other))),
    };
    let text = |member: &str, expected: &str| match part.get(member) {
        Some(Value::String(text)) => Ok(text.clone()),
        None | Some(Value::Null) => {
            Err(Problem::field(Kind::FieldMissing, format!("{name}.{member}"), expected, "none"))
        }
        Some(other) => Err(Problem::field(Kind::FieldInvalid, format!("{name}.{member}"), expected, kind_of(other))),
    };
    let invalid = |member: &str, expected: &str, actual: String| {
        Problem::field(Kind::FieldInvalid, format!("{name}.{member}"), expected, actual)
    };
    let expected = "1 to 64 bytes without control characters";
    let version = text("version", expected)?;
    if !(1..=VERSION_BYTES_MAX).contains(&version.len()) || version.chars().any(char::is_control) {
        return Err(invalid("version", expected, version));
    }
    let expected = "sha256:<64 hex digits>, not all zero";
    let hash = text("hash", expected)?;
    let hash = match ContentHash::parse(&hash) {
        Ok(parsed) if !parsed.is_zero() => parsed.0,
        _ => return Err(invalid("hash", expected, hash)),
    };
    let expected = "an https, http or ipfs address of at most 2,048 bytes";
    let uri = text("uri", expected)?;
    let is_address = Url::parse(&uri).is_ok_and(|url| matches!(url.scheme(), "https" | "http" | "ipfs"));
    if !is_address || uri.len() > URI_BYTES_MAX || uri.chars().any(char::is_control) {
        return Err(invalid("uri", expected, uri));
    }
    let expected = "an RFC 3339 time from 1970 on";
    let effective_at = match part.get("effective_at").filter(|value| !value.is_null()) {
        None => None,
        Some(_) => {
            let at = text("effective_at", expected)?;
            Some(unix_of(&at).ok_or_else(|| invalid("effective_at", expected, at))?)
        }
    };
    Ok(Policy { version, hash, uri, effective_at })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        let part = json!({"version": "2026-11", "hash": format!("sha256:{}", "a".repeat(64)), "uri": "https://numo.example/tos"});
        json!({"tos": part, "privacy_policy": part, "more": 1})
    }

    #[test]
    fn both_objects_are_read_and_a_time_is_optional() {
        let mut body = good();
        body["privacy_policy"]["effective_at"] = json!("2026-11-21T00:00:00Z");
        let (tos, privacy_policy) = read(body.to_string().as_bytes()).unwrap();
        assert_eq!((tos.effective_at, privacy_policy.effective_at), (None, Some(1_795_219_200)));
        assert_eq!((tos.version.as_str(), tos.uri.as_str()), ("2026-11", "https://numo.example/tos"));
        assert_eq!(tos.hash, alloy::primitives::B256::repeat_byte(0xaa));
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let refused = |pointer: &str, value: Value| {
            let mut body = good();
            *body.pointer_mut(pointer).unwrap() = value;
            let problem = read(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(problem.0.field.as_deref(), Some(pointer[1..].replace('/', ".").as_str()));
            problem.slug().to_owned()
        };
        for pointer in ["/tos", "/privacy_policy", "/tos/version", "/tos/hash", "/privacy_policy/uri"] {
            assert_eq!(refused(pointer, Value::Null), "field-missing");
            assert_eq!(refused(pointer, json!(5)), "field-invalid");
        }
        assert_eq!(refused("/tos/version", json!("x".repeat(65))), "field-invalid");
        assert_eq!(refused("/tos/version", json!("")), "field-invalid");
        assert_eq!(refused("/tos/hash", json!(format!("sha256:{}", "0".repeat(64)))), "field-invalid");
        assert_eq!(refused("/tos/uri", json!("javascript:alert(1)")), "field-invalid");
        assert_eq!(refused("/tos/uri", json!(format!("https://a.example/{}", "x".repeat(2048)))), "field-invalid");
        assert_eq!(refused("/tos/uri", json!("https://a.example/\0")), "field-invalid", "no database takes it");
        let mut body = good();
        body["tos"]["effective_at"] = json!("tomorrow");
        assert_eq!(read(body.to_string().as_bytes()).unwrap_err().0.field.as_deref(), Some("tos.effective_at"));
        for body in ["", "[]", "5", "{"] {
            assert_eq!(read(body.as_bytes()).unwrap_err().slug(), "body-invalid");
        }
    }
}
