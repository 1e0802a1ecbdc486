//! `/search?q=`: from whatever a person holds in hand to the page it means.

use alloy::primitives::{B256, U256};
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;
use sqlx::{PgConnection, Row};
use tidemark::ids::{ContentHash, DataId};

use super::{Failure, Query, layout::Page, open};
use crate::{
    api::App,
    manifest::stored,
    read::{self, ReadError},
};

const FOUND_MAX: i64 = 50;
const TEXT_CHARS_MAX: usize = 200;

#[derive(Deserialize)]
pub(super) struct Params {
    #[serde(default)]
    q: String,
}

/// What a text may stand for, by its form alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// A data id.
    Record(DataId),
    /// Provider and number.
    Batch(String, u64),
    /// A licence's or a dataset's token id.
    Token(U256),
    /// A content hash, a pseudonym, a batch's root or a transaction.
    Hash(B256),
    /// A provider's or a dataset's name, or an account.
    Name(String),
}

impl Asked {
    /// Reads what was typed; `None` for nothing, or too much.
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > TEXT_CHARS_MAX {
            return None;
        }
        // 32 hex digits without hyphens are a UUID, too
        if let Ok(data_id) = text.parse::<DataId>() {
            return Some(Self::Record(data_id));
        }
        if let Ok(hash) = ContentHash::parse(text) {
            return Some(Self::Hash(hash.0));
        }
        let bare = text.trim_start_matches('#');
        if !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit()) {
            return U256::from_str_radix(bare, 10).ok().map(Self::Token);
        }
        let parts: Vec<&str> = text.split(|c: char| c == '/' || c == '#' || c.is_whitespace()).collect();
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if let [provider, number] = parts.as_slice()
            && let Ok(number) = number.parse()
        {
            return Some(Self::Batch((*provider).to_owned(), number));
        }
        Some(Self::Name(text.replace('\0', "")))
    }
}

/// A page that was found.
struct Found {
    what: &'static str,
    name: String,
    path: String,
}

/// The search box.
pub(super) fn form(text: &str) -> Markup {
    html! {
        form class="search" role="search" action="/search" method="get" {
            label for="q" { "Search" }
            p class="hint" id="q-hint" {
                "A data id, a content hash, a batch (numo/3), a licence’s number, a dataset’s or provider’s name, a transaction"
            }
            input id="q" name="q" type="search" value=(text) maxlength=(TEXT_CHARS_MAX) autocomplete="off" spellcheck="false"
                aria-describedby="q-hint" required;
            button type="submit" { "Search" }
        }
    }
}

pub(super) async fn page(State(app): State<App>, Query(params): Query<Params>) -> Result<Response, Failure> {
    let (mut snapshot, at) = open(&app).await?;
    let shown: String = params.q.chars().take(TEXT_CHARS_MAX).collect();
    let found = match Asked::read(&params.q) {
        Some(asked) => find(&mut snapshot, &app, asked).await?,
        None => Vec::new(),
    };
    if let [only] = found.as_slice() {
        return Ok(Redirect::to(&only.path).into_response());
    }
    let body = html! {
        (form(&shown))
        @if found.is_empty() {
            p class="notice" {
                "Nothing final or anchored answers to “" (shown) "” up to this block. What was submitted a moment ago is "
                "anchored with its provider’s next batch, and appears here then."
            }
        } @else {
            ul { @for found in &found { li { (found.what) ": " a href=(found.path) { (found.name) } } } }
        }
    };
    Ok(Page::new("Search", at, body).into_response())
}

async fn find(connection: &mut PgConnection, app: &App, asked: Asked) -> Result<Vec<Found>, ReadError> {
    match asked {
        Asked::Record(data_id) => {
            let known = read::record(connection, data_id).await?.is_some();
            Ok(known.then(|| record(data_id)).into_iter().collect())
        }
        Asked::Batch(name, number) => {
            let Some(provider) = read::find_provider(connection, &name).await? else { return Ok(Vec::new()) };
            let known = read::batch(connection, &app.chain.deployment, provider, number).await?.is_some();
            Ok(known.then(|| batch(&name, number)).into_iter().collect())
        }
        Asked::Token(id) => tokens(connection, id).await,
        Asked::Hash(hash) => {
            let mut found = hashes(connection, hash).await?;
            // a dataset's token id is a hash as well
            found.extend(tokens(connection, U256::from_be_bytes(hash.0)).await?);
            Ok(found)
        }
        Asked::Name(name) => names(connection, &name).await,
    }
}

fn record(data_id: DataId) -> Found {
    Found { what: "Record", name: data_id.to_string(), path: format!("/data/{data_id}") }
}

fn batch(provider: &str, number: u64) -> Found {
    Found { what: "Batch", name: format!("{provider} / {number}"), path: format!("/batches/{provider}/{number}") }
}

async fn tokens(connection: &mut PgConnection, id: U256) -> Result<Vec<Found>, ReadError> {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT FROM license WHERE license_id = $1::text::numeric),
             (SELECT name FROM dataset WHERE ip_id = $1::text::numeric)",
    )
    .bind(id.to_string())
    .fetch_one(connection)
    .await?;
    let mut found = Vec::new();
    if row.try_get(0)? {
        found.push(Found { what: "Licence", name: id.to_string(), path: format!("/licenses/{id}") });
    }
    if let Some(name) = row.try_get::<Option<String>, _>(1)? {
        found.push(Found { what: "Dataset", name, path: format!("/datasets/{id}") });
    }
    Ok(found)
}

async fn hashes(connection: &mut PgConnection, hash: B256) -> Result<Vec<Found>, ReadError> {
    let records: Vec<uuid::Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT data_id FROM (
             SELECT data_id FROM record WHERE content_hash = $1 UNION ALL SELECT data_id FROM record WHERE contributor = $1
         ) AS found ORDER BY data_id LIMIT $2",
    )
    .bind(hash.as_slice())
    .bind(FOUND_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let mut found: Vec<Found> = records.into_iter().map(|id| record(DataId(id))).collect();
    let batches = sqlx::query(
        "SELECT p.name, b.number FROM batch AS b JOIN provider AS p ON p.address = b.provider
         WHERE b.root = $1 OR b.tx_hash = $1 ORDER BY b.block_number, b.log_index LIMIT $2",
    )
    .bind(hash.as_slice())
    .bind(FOUND_MAX)
    .fetch_all(&mut *connection)
    .await?;
    for row in &batches {
        found.push(batch(&row.try_get::<String, _>(0)?, stored::count(row, 1)?));
    }
    let licenses: Vec<String> =
        sqlx::query_scalar("SELECT license_id::text FROM license WHERE tx_hash = $1 ORDER BY license_id LIMIT $2")
            .bind(hash.as_slice())
            .bind(FOUND_MAX)
            .fetch_all(connection)
            .await?;
    found.extend(licenses.into_iter().map(|id| Found { what: "Licence", path: format!("/licenses/{id}"), name: id }));
    Ok(found)
}

async fn names(connection: &mut PgConnection, name: &str) -> Result<Vec<Found>, ReadError> {
    let mut found = Vec::new();
    if read::find_provider(connection, name).await?.is_some() {
        // it is a name of a–z, 0–9 and "-", or an address
        found.push(Found { what: "Provider", name: name.to_owned(), path: format!("/providers/{name}") });
    }
    let datasets = sqlx::query(
        "SELECT d.ip_id::text, d.name, p.name FROM dataset AS d JOIN provider AS p ON p.address = d.provider
         WHERE d.name = $1 ORDER BY p.name LIMIT $2",
    )
    .bind(name)
    .bind(FOUND_MAX)
    .fetch_all(connection)
    .await?;
    for row in &datasets {
        let (id, name, provider): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        found.push(Found { what: "Dataset", name: format!("{name} of {provider}"), path: format!("/datasets/{id}") });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_by_its_form() {
        let id = "2f1d6a0e-0000-5000-8000-000000000001";
        assert_eq!(Asked::read(&format!(" {id} ")), Some(Asked::Record(id.parse().unwrap())));
        let hex = "ab".repeat(32);
        for hash in [format!("sha256:{hex}"), format!("0x{hex}"), hex.clone(), hex.to_uppercase()] {
            assert_eq!(Asked::read(&hash), Some(Asked::Hash(B256::repeat_byte(0xab))), "{hash}");
        }
        for batch in ["numo/3", "numo 3", "numo#3", "numo / 3"] {
            assert_eq!(Asked::read(batch), Some(Asked::Batch("numo".into(), 3)), "{batch}");
        }
        for token in ["1", "#1"] {
            assert_eq!(Asked::read(token), Some(Asked::Token(U256::from(1))), "{token}");
        }
        assert_eq!(Asked::read("korean speech 2"), Some(Asked::Name("korean speech 2".into())));
        assert_eq!(Asked::read("numo"), Some(Asked::Name("numo".into())));
        assert_eq!((Asked::read(" "), Asked::read(&"x".repeat(201))), (None, None));
        // a number beyond 2^256 is nothing
        assert_eq!(Asked::read(&"9".repeat(80)), None);
    }

    #[test]
    fn what_was_searched_is_escaped() {
        let markup = form("\"><script>alert(1)</script>").into_string();
        assert!(!markup.contains("<script>") && markup.contains("&lt;script&gt;"), "{markup}");
    }
}
