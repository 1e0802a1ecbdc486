//! What a point is worth and when, and how long new points are held back: policies of the operator, in rows of its own.

use alloy::primitives::Address;
use anyhow::{Context, bail, ensure};
use axum::http::StatusCode;
use sqlx::{PgConnection, PgPool, Row};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{config::read_currency, pain, rails::RailName, routes};
use crate::problem::Problem;

/// Postgres: a row that an exclusion constraint does not allow.
const EXCLUDED: &str = "23P01";

/// A rate to be.
#[derive(clap::Args, Clone, Debug)]
pub struct NewRate {
    /// Name of the provider whose points these are.
    #[arg(long, value_name = "NAME")]
    pub provider: String,
    /// An ISO 4217 code such as EUR, or the address of a token.
    #[arg(long, value_name = "CURRENCY", value_parser = currency)]
    pub currency: String,
    /// Minor units (cents, won, a token's base units) ...
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(u128))]
    pub minor: u128,
    /// ... for so many points.
    #[arg(long, default_value_t = 1, value_name = "POINTS", value_parser = clap::value_parser!(i64).range(1..))]
    pub points: i64,
    /// From when on, RFC 3339; from now on where left out.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<OffsetDateTime>,
    /// Until when, RFC 3339; until it is ended where left out.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<OffsetDateTime>,
}

/// The rate that is valid at a time.
#[derive(clap::Args, Clone, Debug)]
pub struct EndRate {
    /// Name of the provider whose points these are.
    #[arg(long, value_name = "NAME")]
    pub provider: String,
    /// An ISO 4217 code such as EUR, or the address of a token.
    #[arg(long, value_name = "CURRENCY", value_parser = currency)]
    pub currency: String,
    /// When it ends, RFC 3339; now where left out.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub at: Option<OffsetDateTime>,
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "expected a time such as 2026-12-01T00:00:00Z".into())
}

fn currency(text: &str) -> Result<String, String> {
    if let Some(Ok(address)) = text.starts_with("0x").then(|| text.parse::<Address>()) {
        return Ok(format!("{address:#x}"));
    }
    read_currency("currency", text).map_err(|_| "expected an ISO 4217 code such as EUR, or a token's address".into())
}

fn time_text(time: Option<OffsetDateTime>) -> anyhow::Result<Option<String>> {
    Ok(time.map(|time| time.format(&Rfc3339)).transpose()?)
}

async fn provider(connection: &mut PgConnection, name: &str) -> anyhow::Result<Address> {
    let row = sqlx::query("SELECT address FROM provider WHERE name = $1").bind(name).fetch_optional(connection).await?;
    let row =
        row.with_context(|| format!("expected the name of a provider on chain that this indexer knows, got {name:?}"))?;
    Ok(routes::address(&row, 0)?)
}

/// Sets a rate; its id. At one time a provider's points have one rate a currency.
pub async fn set(pool: &PgPool, rate: &NewRate) -> anyhow::Result<Uuid> {
    let mut connection = pool.acquire().await?;
    let provider = provider(&mut connection, &rate.provider).await?;
    ensure!(rate.minor > 0, "--minor: expected more than 0 minor units, got 0");
    let set = sqlx::query_scalar(
        "INSERT INTO local.payout_rate (provider, currency, minor, points, valid)
         VALUES ($1, $2, $3::text::numeric, $4, tstzrange(coalesce($5::text::timestamptz, now()), $6::text::timestamptz))
         RETURNING rate_id",
    )
    .bind(provider.as_slice())
    .bind(&rate.currency)
    .bind(rate.minor.to_string())
    .bind(rate.points)
    .bind(time_text(rate.from)?)
    .bind(time_text(rate.until)?)
    .fetch_one(&mut *connection)
    .await;
    match set {
        Ok(id) => Ok(id),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(EXCLUDED) => bail!(
            "{} points have a rate in {} in that time already: `rate list` shows it, `rate end` ends it",
            rate.provider,
            rate.currency
        ),
        Err(error) => Err(error).context("set the rate: is --until later than --from?"),
    }
}

/// Ends the rate that is valid at a time.
pub async fn end(pool: &PgPool, rate: &EndRate) -> anyhow::Result<Uuid> {
    let mut connection = pool.acquire().await?;
    let provider = provider(&mut connection, &rate.provider).await?;
    // one that begins at that time would have no time left
    let ended = sqlx::query_scalar(
        "UPDATE local.payout_rate SET valid = tstzrange(lower(valid), coalesce($3::text::timestamptz, now()))
         WHERE provider = $1 AND currency = $2 AND valid @> coalesce($3::text::timestamptz, now())
             AND lower(valid) < coalesce($3::text::timestamptz, now())
         RETURNING rate_id",
    )
    .bind(provider.as_slice())
    .bind(&rate.currency)
    .bind(time_text(rate.at)?)
    .fetch_optional(&mut *connection)
    .await
    .context("end the rate: --at may not be past")?;
    ended.with_context(|| format!("{} points have no rate in {} at that time", rate.provider, rate.currency))
}

/// All rates, the oldest first, one a line.
pub async fn list(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let rows = sqlx::query(
        "SELECT coalesce(p.name, '0x' || encode(r.provider, 'hex')), r.currency, r.minor::text, r.points,
             to_char(lower(r.valid) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
             to_char(upper(r.valid) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
         FROM local.payout_rate AS r LEFT JOIN provider AS p ON p.address = r.provider ORDER BY 1, 2, lower(r.valid)",
    )
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            let (name, currency, minor): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let (points, from): (i64, String) = (row.try_get(3)?, row.try_get(4)?);
            let until: Option<String> = row.try_get(5)?;
            let until = until.unwrap_or_else(|| "ended".into());
            Ok(format!("{name}: {minor} minor units of {currency} for {points} points, from {from} until {until}"))
        })
        .collect()
}

/// Sets for how many seconds after their block new points of a provider can't be asked for; 0 takes the hold away.
pub async fn hold(pool: &PgPool, provider_name: &str, seconds: u32) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?;
    let provider = provider(&mut connection, provider_name).await?;
    sqlx::query(
        "INSERT INTO local.payout_hold (provider, seconds) VALUES ($1, $2)
         ON CONFLICT (provider) DO UPDATE SET seconds = excluded.seconds",
    )
    .bind(provider.as_slice())
    .bind(i64::from(seconds))
    .execute(&mut *connection)
    .await
    .context("set the hold")?;
    Ok(())
}

/// What points are worth now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Worth {
    /// An ISO 4217 code, or a token's address.
    pub currency: String,
    /// Minor units.
    pub minor: u128,
    /// By which rate,
    pub rate_id: Uuid,
    /// so many minor units
    pub rate_minor: u128,
    /// for so many points.
    pub rate_points: i64,
}

/// What so many points are worth by the rate that is valid in this transaction's moment.
pub(super) async fn worth(
    connection: &mut PgConnection,
    provider: Address,
    rail: RailName,
    currency: &str,
    points: u64,
) -> Result<Worth, Problem> {
    let row = sqlx::query(
        "SELECT rate_id, minor::text, points FROM local.payout_rate
         WHERE provider = $1 AND currency = $2 AND valid @> now()",
    )
    .bind(provider.as_slice())
    .bind(currency)
    .fetch_optional(connection)
    .await?;
    let row = row.ok_or_else(|| {
        let detail = format!("the operator has set no rate for points in {currency} at this time; ask again later");
        Problem::new(StatusCode::CONFLICT, "rate-missing", "No rate is valid now", detail)
    })?;
    let rate_minor: u128 =
        row.try_get::<String, _>(1)?.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let rate_points: i64 = row.try_get(2)?;
    let minor = convert(points, rate_minor, rate_points.unsigned_abs()).map_err(|whole| {
        let expected = format!(
            "a multiple of {whole} points in sum, at {rate_minor} minor units of {currency} for {rate_points} points, and no \
             more than can be paid at once"
        );
        Problem::invalid("entries", expected, format!("{points} points"))
    })?;
    let fits = match rail {
        RailName::Partner => u64::try_from(minor).is_ok(),
        RailName::Bank => pain::amount(currency, minor).is_some(),
        RailName::Token => true,
    };
    if !fits {
        let expected = format!("no more {currency} than the rail {:?} can pay at once", rail.text());
        return Err(Problem::invalid("entries", expected, format!("{minor} minor units")));
    }
    Ok(Worth { currency: currency.to_owned(), minor, rate_id: row.try_get(0)?, rate_minor, rate_points })
}

/// Minor units for points, exactly: what would have to be rounded is refused with the smallest number of points that need not.
fn convert(points: u64, minor: u128, per_points: u64) -> Result<u128, u128> {
    let per_points = u128::from(per_points);
    let (mut a, mut b) = (minor, per_points);
    while b != 0 {
        (a, b) = (b, a.checked_rem(b).unwrap_or(0));
    }
    let whole = per_points.checked_div(a).unwrap_or(1).max(1);
    let (points, factor) = (u128::from(points), minor.checked_div(a).unwrap_or(0));
    if !points.is_multiple_of(whole) {
        return Err(whole);
    }
    (points / whole).checked_mul(factor).ok_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_worth_whole_minor_units_or_the_request_is_told_how_many_are() {
        assert_eq!(convert(300, 1, 1), Ok(300));
        assert_eq!(convert(300, 7, 10), Ok(210));
        assert_eq!(convert(300, 14, 20), Ok(210), "as 7 for 10");
        assert_eq!(convert(5, 7, 10), Err(10));
        assert_eq!(convert(3, 1_000_000, 4), Ok(750_000));
        assert_eq!(convert(u64::MAX, u128::MAX, 1), Err(1), "more than there is");
    }

    #[test]
    fn a_currency_is_one_that_exists_or_a_token() {
        assert_eq!(currency("EUR").as_deref(), Ok("EUR"));
        let address = "0x00000000000000000000000000000000000000Aa";
        assert_eq!(currency(address).as_deref(), Ok("0x00000000000000000000000000000000000000aa"));
        for wrong in ["eur", "EUX", "XAU", "0x12", ""] {
            assert!(currency(wrong).is_err(), "{wrong}");
        }
    }
}
