//! Logins of wallets (EIP-4361): a nonce that is used once, a signature over what this service asked for, and a session whose
//! token is kept nowhere but with its holder.

pub mod message;

use std::time::Duration;

use alloy::{
    eips::BlockId,
    primitives::{Address, B256, Bytes, FixedBytes},
    providers::{DynProvider, Provider},
};
use sqlx::{PgPool, Row};
use subtle::ConstantTimeEq;
use tidemark::{consent::check_signature, ids::sha256, release::IERC1271};
use time::OffsetDateTime;

use crate::{payout::ProviderToken, problem::Problem};
use message::{Malformed, Message};

/// Nonces that are out at a time, and how long one is good for.
const NONCES_MAX: i64 = 10_000;
const NONCE_SECONDS: i64 = 300;
/// Sessions at a time, of all wallets and of one, and how long one lasts.
const SESSIONS_MAX: i64 = 100_000;
const SESSIONS_OF_ONE_MAX: i64 = 16;
const SESSION_SECONDS: i64 = 3_600;
/// How far `Issued At` may lie before and after this clock.
const ISSUED_BEFORE_SECONDS_MAX: i64 = 600;
const ISSUED_AFTER_SECONDS_MAX: i64 = 60;
/// Gas and time of a contract wallet's signature check.
const CHECK_GAS_MAX: u64 = 3_000_000;
const CHECK_TIME_MAX: Duration = Duration::from_secs(5);
/// `isValidSignature(bytes32,bytes)`, which is also the answer that means yes.
const SIGNATURE_VALID: FixedBytes<4> = FixedBytes([0x16, 0x26, 0xba, 0x7e]);

/// Who may log in where.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LoginArgs {
    /// Domain (with port, where it has one) of a site whose users may log in with their wallet; several, by repetition or with
    /// commas. Left out, nobody can.
    #[arg(long, env = "TIDEMARK_INDEXER_LOGIN_DOMAINS", value_delimiter = ',', value_name = "DOMAIN")]
    pub login_domain: Vec<String>,
    /// Who may look at its contributors' accounts together: provider name and SHA-256 (hex) of its bearer token; several, by
    /// repetition or with commas.
    #[arg(long, env = "TIDEMARK_INDEXER_PROVIDER_TOKENS", value_delimiter = ',', value_name = "NAME=SHA256")]
    pub provider_token: Vec<ProviderToken>,
}

impl LoginArgs {
    /// The provider that a bearer token is of.
    pub fn provider_of(&self, token: &str) -> Option<&str> {
        let digest = sha256(&[token.as_bytes()]);
        let mut found = None;
        // all are compared, so that time tells nothing
        for known in &self.provider_token {
            if bool::from(known.digest.as_slice().ct_eq(digest.as_slice())) {
                found = Some(known.name.as_str());
            }
        }
        found
    }
}

/// A nonce for one login.
#[derive(Debug)]
pub struct Nonce {
    /// 32 hex digits.
    pub nonce: String,
    /// Unix seconds.
    pub expires_at: i64,
}

/// A wallet that is logged in.
#[derive(Debug)]
pub struct Session {
    /// For `Authorization: Bearer`; kept nowhere here.
    pub token: String,
    /// Whose it is.
    pub account: Address,
    /// Unix seconds.
    pub expires_at: i64,
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], Problem> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Problem::internal(&error))?;
    Ok(bytes)
}

/// Gives a nonce out.
pub async fn nonce(pool: &PgPool) -> Result<Nonce, Problem> {
    let nonce = hex::encode(random::<16>()?);
    sqlx::query("DELETE FROM local.login_nonce WHERE expires_at <= now()").execute(pool).await?;
    let expires_at: Option<i64> = sqlx::query_scalar(
        "INSERT INTO local.login_nonce (nonce, expires_at)
         SELECT $1, now() + make_interval(secs => $2) WHERE (SELECT count(*) FROM local.login_nonce) < $3
         RETURNING extract(epoch FROM expires_at)::bigint",
    )
    .bind(&nonce)
    .bind(NONCE_SECONDS)
    .bind(NONCES_MAX)
    .fetch_optional(pool)
    .await?;
    let expires_at =
        expires_at.ok_or_else(|| Problem::unavailable("too many logins are under way; try again later"))?;
    Ok(Nonce { nonce, expires_at })
}

fn refused(field: &str, expected: impl Into<String>, actual: impl Into<String>) -> Problem {
    let status = axum::http::StatusCode::UNAUTHORIZED;
    Problem::new(status, "login-refused", "The login is refused", "ask for a nonce, and sign a message with it")
        .compared(field, expected, actual)
}

impl From<Malformed> for Problem {
    fn from(wrong: Malformed) -> Self {
        Self::invalid(wrong.field, wrong.expected, wrong.actual)
    }
}

/// Whether `uri` is of `domain`: over TLS, or on this machine.
fn is_of(uri: &str, scheme: Option<&str>, domain: &str) -> bool {
    let host = domain.rsplit_once(':').map_or(domain, |(host, _)| host);
    let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    let Some((its_scheme, rest)) = uri.split_once("://") else { return false };
    let is_safe = its_scheme == "https" || (its_scheme == "http" && is_local);
    let after = rest.strip_prefix(domain);
    is_safe
        && scheme.is_none_or(|scheme| scheme == its_scheme)
        && after.is_some_and(|after| after.is_empty() || after.starts_with(['/', '?', '#']))
}

/// What of a message can be said without nonce and signature.
fn check(message: &Message, domains: &[String], chain_id: u64, now: OffsetDateTime) -> Result<(), Problem> {
    if !domains.contains(&message.domain) {
        return Err(refused("message.domain", domains.join(" or "), &message.domain));
    }
    if !is_of(&message.uri, message.scheme.as_deref(), &message.domain) {
        return Err(refused("message.uri", format!("https://{}/…", message.domain), &message.uri));
    }
    if message.chain_id != chain_id {
        return Err(refused("message.chain_id", chain_id.to_string(), message.chain_id.to_string()));
    }
    let (oldest, newest) = (
        now - time::Duration::seconds(ISSUED_BEFORE_SECONDS_MAX),
        now + time::Duration::seconds(ISSUED_AFTER_SECONDS_MAX),
    );
    if message.issued_at < oldest || message.issued_at > newest {
        return Err(refused("message.issued_at", format!("{oldest} to {newest}"), message.issued_at.to_string()));
    }
    if let Some(expires_at) = message.expires_at.filter(|expires_at| *expires_at <= now) {
        return Err(refused("message.expiration_time", format!("after {now}"), expires_at.to_string()));
    }
    if let Some(not_before) = message.not_before.filter(|not_before| *not_before > now) {
        return Err(refused("message.not_before", format!("{now} or before"), not_before.to_string()));
    }
    Ok(())
}

/// Logs a wallet in, and spends the message's nonce.
pub async fn login(
    pool: &PgPool,
    rpc: &DynProvider,
    domains: &[String],
    chain_id: u64,
    text: &str,
    signature: &Bytes,
) -> Result<Session, Problem> {
    let (message, now) = (Message::parse(text)?, OffsetDateTime::now_utc());
    check(&message, domains, chain_id, now)?;
    let spent = || refused("message.nonce", "one that was given out here, is not used and not too old", &message.nonce);
    // first of all, so that nobody has a contract asked for nothing
    let known: Option<i32> =
        sqlx::query_scalar("SELECT 1 FROM local.login_nonce WHERE nonce = $1 AND expires_at > now()")
            .bind(&message.nonce)
            .fetch_optional(pool)
            .await?;
    known.ok_or_else(spent)?;
    if !signed(rpc, message.account, message::digest(text), signature).await? {
        return Err(refused("signature", format!("one by {} over the message", message.account), "another"));
    }
    let mut transaction = pool.begin().await?;
    // whoever deletes it has it
    let used = sqlx::query("DELETE FROM local.login_nonce WHERE nonce = $1 AND expires_at > now()")
        .bind(&message.nonce)
        .execute(&mut *transaction)
        .await?;
    if used.rows_affected() == 0 {
        return Err(spent());
    }
    let lasts = message.expires_at.map_or(SESSION_SECONDS, |expires_at| (expires_at - now).whole_seconds());
    let token = hex::encode(random::<32>()?);
    sqlx::query("DELETE FROM local.session WHERE expires_at <= now()").execute(&mut *transaction).await?;
    sqlx::query(
        "DELETE FROM local.session WHERE token_hash IN (
             SELECT token_hash FROM local.session WHERE account = $1 ORDER BY created_at DESC OFFSET $2)",
    )
    .bind(message.account.as_slice())
    .bind(SESSIONS_OF_ONE_MAX - 1)
    .execute(&mut *transaction)
    .await?;
    let expires_at: Option<i64> = sqlx::query_scalar(
        "INSERT INTO local.session (token_hash, account, expires_at)
         SELECT $1, $2, now() + make_interval(secs => $3) WHERE (SELECT count(*) FROM local.session) < $4
         RETURNING extract(epoch FROM expires_at)::bigint",
    )
    .bind(sha256(&[token.as_bytes()]).as_slice())
    .bind(message.account.as_slice())
    .bind(lasts.clamp(1, SESSION_SECONDS))
    .bind(SESSIONS_MAX)
    .fetch_optional(&mut *transaction)
    .await?;
    let expires_at = expires_at.ok_or_else(|| Problem::unavailable("too many are logged in; try again later"))?;
    transaction.commit().await?;
    Ok(Session { token, account: message.account, expires_at })
}

/// ECDSA, or ERC-1271 where the account is a contract.
async fn signed(rpc: &DynProvider, account: Address, digest: B256, signature: &Bytes) -> Result<bool, Problem> {
    if check_signature(account, digest, signature).is_ok() {
        return Ok(true);
    }
    let unknown = || Problem::unavailable("the node does not say whether the account's contract takes the signature");
    let asked = async {
        let code = rpc.get_code_at(account).block_id(BlockId::latest()).await.map_err(|_| unknown())?;
        if code.is_empty() {
            return Ok(false);
        }
        let wallet = IERC1271::new(account, rpc);
        let call = wallet.isValidSignature(digest, signature.clone()).gas(CHECK_GAS_MAX);
        match call.call().await {
            Ok(magic) => Ok(magic == SIGNATURE_VALID),
            // a contract that reverts, or has no such function, has not accepted it
            Err(alloy::contract::Error::TransportError(error)) if error.as_error_resp().is_none() => Err(unknown()),
            Err(_) => Ok(false),
        }
    };
    tokio::time::timeout(CHECK_TIME_MAX, asked).await.map_err(|_| unknown())?
}

/// The wallet behind a token, and until when.
pub async fn session(pool: &PgPool, token: &str) -> Result<Option<(Address, i64)>, Problem> {
    let row = sqlx::query(
        "SELECT account, extract(epoch FROM expires_at)::bigint FROM local.session
         WHERE token_hash = $1 AND expires_at > now()",
    )
    .bind(sha256(&[token.as_bytes()]).as_slice())
    .fetch_optional(pool)
    .await?;
    let session = row.map(|row| Ok::<_, sqlx::Error>((crate::manifest::stored::address(&row, 0)?, row.try_get(1)?)));
    Ok(session.transpose()?)
}

/// Ends a session; it is none any more where it was.
pub async fn logout(pool: &PgPool, token: &str) -> Result<(), Problem> {
    sqlx::query("DELETE FROM local.session WHERE token_hash = $1")
        .bind(sha256(&[token.as_bytes()]).as_slice())
        .execute(pool)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_of_the_domain_and_over_tls_unless_it_is_here() {
        assert!(is_of("https://app.example", None, "app.example"));
        assert!(is_of("https://app.example/login?x", Some("https"), "app.example"));
        assert!(is_of("http://localhost:3000/", None, "localhost:3000"));
        for wrong in ["http://app.example", "https://app.example.evil", "https://app.example@evil", "app.example", ""] {
            assert!(!is_of(wrong, None, "app.example"), "{wrong}");
        }
        assert!(!is_of("https://app.example", Some("http"), "app.example"));
    }

    #[test]
    fn domain_chain_and_times_are_held_against_this_service() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let second = time::Duration::seconds;
        let right = Message {
            scheme: None,
            domain: "app.example".into(),
            account: Address::repeat_byte(1),
            uri: "https://app.example".into(),
            chain_id: 5,
            nonce: "abcdefgh".into(),
            issued_at: now,
            expires_at: Some(now + second(1)),
            not_before: Some(now),
        };
        let domains = ["app.example".to_owned()];
        check(&right, &domains, 5, now).unwrap();
        let field = |message: Message| check(&message, &domains, 5, now).unwrap_err().field.clone().unwrap();
        assert_eq!(field(Message { domain: "evil".into(), ..right.clone() }), "message.domain");
        assert_eq!(field(Message { uri: "https://evil".into(), ..right.clone() }), "message.uri");
        assert_eq!(field(Message { chain_id: 1, ..right.clone() }), "message.chain_id");
        assert_eq!(field(Message { issued_at: now - second(601), ..right.clone() }), "message.issued_at");
        assert_eq!(field(Message { issued_at: now + second(61), ..right.clone() }), "message.issued_at");
        assert_eq!(field(Message { expires_at: Some(now), ..right.clone() }), "message.expiration_time");
        assert_eq!(field(Message { not_before: Some(now + second(1)), ..right.clone() }), "message.not_before");
        assert!(check(&right, &[], 5, now).is_err());
    }

    #[test]
    fn a_provider_is_known_by_its_token_alone() {
        let token = |name: &str, token: &str| ProviderToken { name: name.into(), digest: sha256(&[token.as_bytes()]) };
        let args = LoginArgs { provider_token: vec![token("numo", "a"), token("other", "b")], ..LoginArgs::default() };
        assert_eq!(
            (args.provider_of("a"), args.provider_of("b"), args.provider_of("c")),
            (Some("numo"), Some("other"), None)
        );
    }
}
