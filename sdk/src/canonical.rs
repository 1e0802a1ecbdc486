//! Canonical JSON (RFC 8785, JCS) and what is hashed over it.

use alloy::primitives::B256;
use serde::Serialize;
use serde_json::{Number, Value};

use crate::ids::sha256;

/// A value that can't be written canonically.
#[derive(Debug, thiserror::Error)]
#[error("JSON has no canonical form")]
pub struct CanonicalError(#[source] serde_json::Error);

/// The canonical bytes of a value (RFC 8785).
pub fn jcs<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    jcs_value(&serde_json::to_value(value).map_err(CanonicalError)?)
}

/// The same of a parsed value. Most are plain: what serde_json writes is their canonical form already, and it writes them
/// ten times as fast as it can be done where keys and numbers have to be looked at.
pub fn jcs_value(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    let written = if is_plain(value) { serde_json::to_vec(value) } else { serde_json_canonicalizer::to_vec(value) };
    written.map_err(CanonicalError)
}

/// Whether serde_json writes a value as RFC 8785 wants it; false where that is not certain. Strings always are: both
/// escape what JSON says must be escaped, shortest form first, and nothing else.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => is_plain_number(number),
        Value::Array(items) => items.iter().all(is_plain),
        Value::Object(fields) => {
            let in_order = fields.keys().zip(fields.keys().skip(1)).all(|(one, next)| one < next);
            // below U+E000 the order of UTF-8's bytes is that of UTF-16's units
            in_order && fields.iter().all(|(key, value)| key.bytes().all(|byte| byte < 0xee) && is_plain(value))
        }
    }
}

/// Integers that a double holds exactly, and decimals that need no exponent: both sides write the shortest digits.
fn is_plain_number(number: &Number) -> bool {
    const EXACT_MAX: u64 = (1 << 53) - 1;
    if let Some(integer) = number.as_i64() {
        return integer.unsigned_abs() <= EXACT_MAX;
    }
    if number.is_u64() {
        return false;
    }
    let text = number.to_string();
    match text.trim_start_matches('-').split_once('.') {
        Some((whole, decimals)) => {
            let only_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
            let is_tiny = whole == "0" && decimals.starts_with("0000");
            whole.len() <= 15 && only_digits(whole) && only_digits(decimals) && !decimals.ends_with('0') && !is_tiny
        }
        None => false,
    }
}

/// `metadata_root` of the Trace API: SHA-256 over the canonical metadata.
pub fn metadata_root(metadata: &Value) -> Result<B256, CanonicalError> {
    Ok(sha256(&[&jcs_value(metadata)?]))
}

/// An event's commitment: SHA-256(salt ‖ canonical payload). The salt hides the payload once it is erased.
pub fn commitment(salt: &[u8; 32], canonical_payload: &[u8]) -> B256 {
    sha256(&[salt, canonical_payload])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_the_fast_way_is_what_the_slow_way_writes() {
        let numbers = [
            "0",
            "-0",
            "-0.0",
            "1",
            "-1",
            "9007199254740991",
            "9007199254740992",
            "-9007199254740993",
            "18446744073709551615",
            "1.0",
            "1.5",
            "-29.97",
            "0.1",
            "0.0001",
            "0.00012",
            "0.000012",
            "1e-7",
            "1e21",
            "1e15",
            "123456789012345.6",
            "1234567890123456.7",
            "999999999999999.9",
            "5e-324",
            "1.7976931348623157e308",
            "4.35",
            "0.30000000000000004",
            "100000.5",
            "333333333.33333329",
            "2.2250738585072014e-308",
            "1e23",
            "0.5e1",
        ];
        let texts = [
            "\"\"",
            "\"a\\u0000\\u001f\\u007f\\u0080\"",
            "\"\\b\\f\\n\\r\\t\\\"\\\\/\"",
            "\"\\ud83d\\ude00\\ue000é\"",
            "\"</script>\"",
        ];
        let objects = [
            r#"{"b":1,"a":{"c":[1,2,{"z":0,"y":null}]}}"#,
            r#"{"\ue000":1,"\ud83d\ude00":2}"#,
            r#"{"é":1,"e":2,"":3,"\ud7ff":4}"#,
            r#"{"A":1,"a":2,"_":3,"1":4,"10":5,"9":6}"#,
        ];
        let mut plain = 0;
        for text in numbers.iter().chain(&texts).chain(&objects) {
            for text in [(*text).to_owned(), format!("[{text},{text}]"), format!("{{\"k\":{text}}}")] {
                let value: Value = serde_json::from_str(&text).unwrap();
                plain += usize::from(is_plain(&value));
                assert_eq!(jcs_value(&value).unwrap(), serde_json_canonicalizer::to_vec(&value).unwrap(), "{text}");
                assert_eq!(jcs(&value).unwrap(), jcs_value(&value).unwrap(), "{text}");
            }
        }
        assert!(plain > 60, "only {plain} were written the fast way");
    }

    /// The digits of both sides are the shortest, over numbers of every size.
    #[test]
    fn decimals_of_every_size_are_written_alike() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        let mut plain = 0;
        for _ in 0..200_000 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            // exponents around those that are written without one
            let exponent = 1023 - 20 + (bits >> 52) % 75;
            let Some(number) = Number::from_f64(f64::from_bits((exponent << 52) | (bits & ((1 << 52) - 1)))) else {
                continue;
            };
            let value = Value::Number(number);
            plain += usize::from(is_plain(&value));
            assert_eq!(jcs_value(&value).unwrap(), serde_json_canonicalizer::to_vec(&value).unwrap(), "{value}");
        }
        assert!(plain > 50_000, "only {plain} were written the fast way");
    }
}
