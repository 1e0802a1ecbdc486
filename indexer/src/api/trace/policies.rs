//! What a provider's policies are, as far as chain and records say.

use axum::{extract::State, http::HeaderMap, response::Response};
use tidemark::ids::ContentHash;

use super::provider;
use crate::{
    api::{
        App,
        answer::{Segments, answer, snapshot},
    },
    problem::Problem,
    read::{
        Answer,
        trace::{self, PolicyDocument, PolicyList, PolicyRole},
    },
};

fn unknown(block: u64) -> Problem {
    Problem::unknown("provider", format!("no such provider is registered up to block {block}"))
}

/// The policies that a provider's newest records name, and all that it published.
#[utoipa::path(get, path = "/api/v1/data-audit/providers/{provider}/policy", tag = "trace",
    params(("provider" = String, Path, description = "name or account")),
    responses((status = 200, body = Answer<PolicyList>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn current(
    State(app): State<App>,
    Segments(asked): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (mut snapshot, at) = snapshot(&app).await?;
    let found = provider(&mut snapshot, Some(&asked), at.block_number).await?;
    let (address, name) = found.ok_or_else(|| unknown(at.block_number))?;
    let policies = trace::policies(&mut snapshot, address, name).await?;
    answer(&headers, at, policies)
}

async fn one(app: &App, headers: &HeaderMap, asked: &str, hash: &str, role: PolicyRole) -> Result<Response, Problem> {
    let expected = "a SHA-256: sha256:<64 hex digits>, the digits alone or 0x<digits>";
    let hash = ContentHash::parse(hash).map_err(|_| Problem::invalid("hash", expected, hash))?;
    let (mut snapshot, at) = snapshot(app).await?;
    let found = provider(&mut snapshot, Some(asked), at.block_number).await?;
    let (address, name) = found.ok_or_else(|| unknown(at.block_number))?;
    let Some(policy) = trace::policy(&mut snapshot, address, hash.0).await? else {
        let detail = format!("{name} has published no policy {} up to block {}", hash.prefixed(), at.block_number);
        return Err(Problem::unknown("hash", detail));
    };
    if !policy.kinds.contains(&role.name()) {
        let detail =
            format!("{name} has published {}, and none of its records names it as {}", policy.hash, role.name());
        return Err(Problem::unknown("hash", detail));
    }
    answer(headers, at, policy)
}

/// A provider's terms of service, now or before.
#[utoipa::path(get, path = "/api/v1/data-audit/providers/{provider}/policies/tos/{hash}", tag = "trace",
    params(("provider" = String, Path, description = "name or account"),
        ("hash" = String, Path, description = "SHA-256 of the text")),
    responses((status = 200, body = Answer<PolicyDocument>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn tos(
    State(app): State<App>,
    Segments((asked, hash)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    one(&app, &headers, &asked, &hash, PolicyRole::Tos).await
}

/// A provider's privacy policy, now or before.
#[utoipa::path(get, path = "/api/v1/data-audit/providers/{provider}/policies/privacy_policy/{hash}", tag = "trace",
    params(("provider" = String, Path, description = "name or account"),
        ("hash" = String, Path, description = "SHA-256 of the text")),
    responses((status = 200, body = Answer<PolicyDocument>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn privacy_policy(
    State(app): State<App>,
    Segments((asked, hash)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    one(&app, &headers, &asked, &hash, PolicyRole::PrivacyPolicy).await
}
