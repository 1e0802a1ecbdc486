//! The Trace API's read side, for clients that know Trace: paths, parameters and members are Trace's, `at` is added.

mod groups;
mod lists;
mod policies;
mod record;

use alloy::primitives::Address;
use sqlx::PgConnection;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::App;
use crate::{
    problem::Problem,
    read::{
        self,
        page::{LIMIT_DEFAULT, LIMIT_MAX, Place},
        trace::TracePage,
    },
};

/// Longer cursors were never given out.
const CURSOR_BYTES_MAX: usize = 128;
const PROVIDER_BYTES_MAX: usize = 256;

/// All of it.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(record::profile))
        .routes(routes!(record::metadatas))
        .routes(routes!(lists::search))
        .routes(routes!(lists::stats))
        .routes(routes!(lists::feed))
        .routes(routes!(lists::recent))
        .routes(routes!(lists::assets))
        .routes(routes!(policies::current))
        .routes(routes!(policies::tos))
        .routes(routes!(policies::privacy_policy))
        .merge(groups::router())
}

/// `limit` as Trace takes it: more than the most is the most.
fn limit(text: Option<&str>, default: u32) -> Result<u32, Problem> {
    let Some(text) = text else { return Ok(default) };
    let wrong =
        || Problem::invalid("limit", format!("a decimal number from 1; more than {LIMIT_MAX} is taken as that"), text);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    // digits that no number holds are many
    match text.parse::<u32>().unwrap_or(LIMIT_MAX) {
        0 => Err(wrong()),
        limit => Ok(limit.min(LIMIT_MAX)),
    }
}

/// `limit` and `cursor` of a list.
fn page(limit_text: Option<&str>, default: u32, cursor: Option<&str>) -> Result<TracePage, Problem> {
    Ok(TracePage { limit: limit(limit_text, default)?, before: cursor.map(place).transpose()? })
}

/// What a cursor says.
fn place(cursor: &str) -> Result<(i64, i64), Problem> {
    let decoded = (cursor.len() <= CURSOR_BYTES_MAX).then(|| Place::decode(cursor)).flatten();
    let place = decoded.and_then(|Place(block, place)| Some((block, place.parse().ok()?)));
    place.ok_or_else(|| Problem::invalid("cursor", "the next_cursor of a page before", cursor))
}

/// A provider by name or account; none where none is asked for.
async fn provider(
    connection: &mut PgConnection,
    asked: Option<&str>,
    block: u64,
) -> Result<Option<(Address, String)>, Problem> {
    let Some(asked) = asked else { return Ok(None) };
    if asked.is_empty() || asked.len() > PROVIDER_BYTES_MAX || asked.contains('\0') {
        return Err(Problem::invalid("provider", "a provider's name, or its account", asked));
    }
    let unknown = || Problem::unknown("provider", format!("no such provider is registered up to block {block}"));
    let address = read::find_provider(connection, asked).await?.ok_or_else(unknown)?;
    let name: String = sqlx::query_scalar("SELECT name FROM provider WHERE address = $1")
        .bind(address.as_slice())
        .fetch_one(connection)
        .await?;
    Ok(Some((address, name)))
}

/// Where no limit is asked for in a search, or in the items of a group.
const SEARCH_LIMIT: u32 = LIMIT_DEFAULT;
/// The same of feed and recent.
const FEED_LIMIT: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_clamped_as_trace_does_and_none_is_refused() {
        for (text, taken) in [(None, 50), (Some("1"), 1), (Some("1000"), 1000), (Some("1001"), 1000)] {
            assert_eq!(limit(text, 50).unwrap(), taken);
        }
        assert_eq!(limit(Some(&"9".repeat(1000)), 50).unwrap(), 1000);
        for wrong in ["0", "", "-1", "+1", "1.0", "1; DROP TABLE record", "\0"] {
            assert_eq!(limit(Some(wrong), 50).unwrap_err().field.as_deref(), Some("limit"), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_is_one_that_was_given_out() {
        let cursor = Place(7, "4294967301".into()).encode();
        assert_eq!(place(&cursor).unwrap(), (7, 4_294_967_301));
        let other_list = Place(7, "reward/1".into()).encode();
        for wrong in ["", "zz", "'; DROP TABLE record; --", &other_list, &"30".repeat(500_000)] {
            let problem = place(wrong).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (400, Some("cursor")));
        }
    }
}
