//! The body of a payout request, checked field by field before anything is read from the database.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{pain, rails::RailName};
use crate::problem::Problem;

/// Entries of one payout.
pub const ENTRIES_MAX: usize = 200;
/// Characters of a destination.
const DESTINATION_CHARS_MAX: usize = 128;
const KEY_CHARS_MAX: usize = 255;

/// What a provider asks for.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PayoutRequest {
    /// The recipient as the rail knows it, 1 to 128 visible ASCII characters: the partner's name for it, an IBAN without
    /// spaces, or an address on the chain. Forgotten when the payout has ended.
    #[schema(example = "user-7f3a", min_length = 1, max_length = 128)]
    pub destination: String,
    /// Who pays; needed where this indexer has several rails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rail: Option<RailName>,
    /// The recipient's name, for a bank: 1 to 70 of `a-z A-Z 0-9 / - ? : ( ) . , ' +` and spaces. Forgotten, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Kim Minji", min_length = 1, max_length = 70)]
    pub name: Option<String>,
    /// BIC of the recipient's bank, for a bank, where it is needed. Forgotten, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "MARKDEF1100")]
    pub bic: Option<String>,
    /// Whose points; whole points in sum, each account once.
    #[schema(min_items = 1, max_items = 200)]
    pub entries: Vec<EntryRequest>,
}

/// One points account's part.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryRequest {
    /// The points account: 32 bytes as hex, the per-record pseudonym.
    #[schema(example = "0x6c31e2b5f1f6d2c6d6f0b6c8f6a1f3c9b0d2a7e4c5f8091a2b3c4d5e6f708192")]
    pub account: String,
    /// Payment-token units, decimal.
    #[schema(example = "300000000")]
    pub amount: String,
}

/// A request that can be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The recipient.
    pub destination: String,
    /// Who is asked to pay.
    pub rail: Option<RailName>,
    /// The recipient's name.
    pub name: Option<String>,
    /// The recipient's bank.
    pub bic: Option<String>,
    /// Account and units, in the order of the request.
    pub entries: Vec<(B256, u128)>,
    /// Units in sum.
    pub amount: u128,
    /// The same in whole points.
    pub points: u64,
}

impl PayoutRequest {
    /// Reads a JSON body.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(|error| {
            // its text names the place and the field, and may repeat a value; a destination is never a field's name
            let place = format!("line {}, column {}", error.line(), error.column());
            Problem::invalid("body", "JSON as in /openapi.json, PayoutRequest", place)
        })
    }

    /// Checks everything that the request alone can tell.
    pub fn check(self, units_per_point: u64) -> Result<Wanted, Problem> {
        let chars = self.destination.len();
        if chars == 0 || chars > DESTINATION_CHARS_MAX || !self.destination.bytes().all(|b| b.is_ascii_graphic()) {
            let expected = format!("1 to {DESTINATION_CHARS_MAX} visible ASCII characters");
            return Err(Problem::invalid("destination", expected, format!("{chars} bytes")));
        }
        if self.entries.is_empty() || self.entries.len() > ENTRIES_MAX {
            let actual = self.entries.len().to_string();
            return Err(Problem::invalid("entries", format!("1 to {ENTRIES_MAX} entries"), actual));
        }
        let mut seen = BTreeSet::new();
        let mut entries = Vec::with_capacity(self.entries.len());
        let mut amount = 0u128;
        for (at, entry) in self.entries.iter().enumerate() {
            let account: B256 = entry
                .account
                .parse()
                .map_err(|_| Problem::invalid(&format!("entries[{at}].account"), "32 bytes as hex", &entry.account))?;
            if !seen.insert(account) {
                return Err(Problem::invalid(&format!("entries[{at}].account"), "each account once", &entry.account));
            }
            let units = read_units(&entry.amount).ok_or_else(|| {
                Problem::invalid(
                    &format!("entries[{at}].amount"),
                    "payment-token units, decimal, above 0",
                    &entry.amount,
                )
            })?;
            amount = amount.checked_add(units).ok_or_else(|| too_much(amount))?;
            entries.push((account, units));
        }
        let per_point = u128::from(units_per_point);
        if !amount.is_multiple_of(per_point) {
            let expected = format!("whole points in sum: a multiple of {units_per_point} units");
            return Err(Problem::invalid("entries", expected, amount.to_string()));
        }
        let points = u64::try_from(amount / per_point).ok().filter(|points| i64::try_from(*points).is_ok());
        let points = points.ok_or_else(|| too_much(amount))?;
        let Self { destination, rail, name, bic, .. } = self;
        Ok(Wanted { destination, rail, name, bic, entries, amount, points })
    }
}

impl Wanted {
    /// The rail that is to pay, out of those that are on, where the recipient is one that it can pay.
    pub fn rail(&self, on: &[RailName]) -> Result<RailName, Problem> {
        let names = || on.iter().map(|name| name.text()).collect::<Vec<_>>().join(" or ");
        let rail = match (self.rail, on) {
            (Some(rail), _) if on.contains(&rail) => rail,
            (Some(rail), _) => return Err(Problem::invalid("rail", names(), rail.text())),
            (None, [rail]) => *rail,
            (None, _) => return Err(Problem::invalid("rail", names(), "none")),
        };
        // nothing of the recipient goes into the answer, which is kept
        let of_bytes = |value: &str| format!("{} bytes that are none", value.len());
        match rail {
            RailName::Partner => {}
            RailName::Bank => {
                if pain::read_iban(&self.destination).is_none() {
                    let expected = "an IBAN without spaces whose check digits are right";
                    return Err(Problem::invalid("destination", expected, of_bytes(&self.destination)));
                }
                if !self.name.as_deref().is_some_and(pain::is_name) {
                    let expected =
                        "the recipient's name: 1 to 70 of a-z A-Z 0-9 / - ? : ( ) . , ' + and spaces between them";
                    let actual = self.name.as_deref().map_or_else(|| "none".to_owned(), of_bytes);
                    return Err(Problem::invalid("name", expected, actual));
                }
                if let Some(bic) = self.bic.as_deref().filter(|bic| !pain::is_bic(bic)) {
                    return Err(Problem::invalid("bic", "a BIC of 8 or 11 characters", of_bytes(bic)));
                }
                return Ok(rail);
            }
            RailName::Token => {
                let address = self.destination.starts_with("0x").then(|| self.destination.parse::<Address>());
                if !matches!(address, Some(Ok(address)) if !address.is_zero()) {
                    let expected = "an address: 0x and 40 hex digits, not zero";
                    return Err(Problem::invalid("destination", expected, of_bytes(&self.destination)));
                }
            }
        }
        for (field, value) in [("name", &self.name), ("bic", &self.bic)] {
            if value.is_some() {
                return Err(Problem::invalid(field, format!("none on the rail {:?}", rail.text()), "one"));
            }
        }
        Ok(rail)
    }
}

fn too_much(amount: u128) -> Problem {
    Problem::invalid("entries", "fewer than 2^63 points in sum", amount.to_string())
}

fn read_units(text: &str) -> Option<u128> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|units| plain && *units > 0)
}

/// The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): a quoted string, or the same without quotes.
pub fn idempotency_key(headers: &HeaderMap) -> Result<String, Problem> {
    let problem = |detail: &str| {
        Problem::new(StatusCode::BAD_REQUEST, "idempotency-key-missing", "Idempotency-Key is missing", detail)
            .at("Idempotency-Key")
    };
    let mut values = headers.get_all("idempotency-key").iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().unwrap_or_default().trim(),
        (None, _) => return Err(problem("send an Idempotency-Key header, a fresh UUID for each payout")),
        _ => return Err(problem("send one Idempotency-Key header, not several")),
    };
    let key = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let plain = key.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if key.is_empty() || key.len() > KEY_CHARS_MAX || !plain {
        return Err(problem("expected 1 to 255 visible ASCII characters without quotes in them, such as a UUID"));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(entries: &[(&str, &str)]) -> Result<Wanted, Problem> {
        let entries =
            entries.iter().map(|(a, b)| EntryRequest { account: a.repeat(32), amount: (*b).into() }).collect();
        PayoutRequest { destination: "user".into(), rail: None, name: None, bic: None, entries }.check(1_000_000)
    }

    #[test]
    fn a_rail_pays_only_recipients_that_it_can() {
        let asked = |rail: Option<RailName>, destination: &str, name: Option<&str>, bic: Option<&str>| {
            let one = wanted(&[("11", "1000000")]).ok().unwrap();
            Wanted {
                destination: destination.into(),
                rail,
                name: name.map(Into::into),
                bic: bic.map(Into::into),
                ..one
            }
        };
        let (iban, address) = ("DE89370400440532013000", format!("0x{}", "5e".repeat(20)));
        let all = [RailName::Partner, RailName::Bank, RailName::Token];
        let field = |wanted: Wanted, on: &[RailName]| wanted.rail(on).err().and_then(|problem| problem.field.clone());
        assert_eq!(asked(None, "user", None, None).rail(&[RailName::Partner]).ok(), Some(RailName::Partner));
        assert_eq!(field(asked(None, "user", None, None), &all).as_deref(), Some("rail"), "it has to say which");
        assert_eq!(field(asked(Some(RailName::Bank), iban, Some("A"), None), &all[..1]).as_deref(), Some("rail"));
        let bank = |destination, name, bic| field(asked(Some(RailName::Bank), destination, name, bic), &all);
        assert_eq!(bank(iban, Some("Kim Minji"), Some("MARKDEF1100")), None);
        assert_eq!(bank("DE88370400440532013000", Some("Kim"), None).as_deref(), Some("destination"));
        assert_eq!(bank(iban, None, None).as_deref(), Some("name"));
        assert_eq!(bank(iban, Some("K\u{fc}m"), None).as_deref(), Some("name"));
        assert_eq!(bank(iban, Some("Kim"), Some("MARKDEF110")).as_deref(), Some("bic"));
        let token = |destination: &str, name| field(asked(Some(RailName::Token), destination, name, None), &all);
        assert_eq!(token(&address, None), None);
        assert_eq!(token(&address[2..], None).as_deref(), Some("destination"));
        assert_eq!(token(&format!("0x{}", "00".repeat(20)), None).as_deref(), Some("destination"));
        assert_eq!(token(&address, Some("Kim")).as_deref(), Some("name"));
    }

    #[test]
    fn parts_need_not_be_whole_points_but_their_sum_must() {
        let read = wanted(&[("11", "1500000"), ("22", "500000")]).ok().unwrap();
        assert_eq!((read.amount, read.points, read.entries.len()), (2_000_000, 2, 2));
        assert!(wanted(&[("11", "1500000")]).is_err());
    }

    #[test]
    fn what_is_no_amount_or_no_account_is_named() {
        for amount in ["0", "-1", "1.0", "", " 1", "1e6", "+1", "01000000"] {
            let problem = wanted(&[("22", "1000000"), ("11", amount)]).err().unwrap();
            assert_eq!(problem.field.as_deref(), Some("entries[1].amount"), "{amount}");
        }
        assert_eq!(wanted(&[("1", "1000000")]).err().unwrap().field.as_deref(), Some("entries[0].account"));
        let twice = wanted(&[("11", "1000000"), ("11", "1000000")]).err().unwrap();
        assert_eq!(twice.field.as_deref(), Some("entries[1].account"));
        let most = u128::MAX.to_string();
        assert!(wanted(&[("11", &most), ("22", &most)]).is_err());
        assert!(wanted(&[]).is_err());
    }

    #[test]
    fn an_idempotency_key_comes_quoted_or_bare_and_once() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("idempotency-key", value.parse().unwrap());
            }
            idempotency_key(&headers).ok()
        };
        assert_eq!(read(&["\"a-1\""]).as_deref(), Some("a-1"));
        assert_eq!(read(&["a-1"]).as_deref(), Some("a-1"));
        assert_eq!(
            (read(&[]), read(&[""]), read(&["\"\""]), read(&["a", "a"]), read(&["a b"])),
            (None, None, None, None, None)
        );
        assert_eq!(read(&[&"x".repeat(256)]), None);
    }
}
