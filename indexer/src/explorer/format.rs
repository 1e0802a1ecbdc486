//! Exact values in words: amounts, times, durations. Nothing is rounded.

use maud::{Markup, html};
use tidemark::verdict::Outcome;

/// Decimal places of the payment token: 1 point = 1 token = 10^6 units.
const DECIMALS: usize = 6;

/// What an amount counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Owed by the provider.
    Points,
    /// On chain.
    Tokens,
}

impl Unit {
    /// By who is paid: without a payee it is points.
    pub fn of(payee: Option<&String>) -> Self {
        if payee.is_some() { Self::Tokens } else { Self::Points }
    }

    fn name(self, is_one: bool) -> &'static str {
        match (self, is_one) {
            (Self::Points, true) => "point",
            (Self::Points, false) => "points",
            (Self::Tokens, true) => "token",
            (Self::Tokens, false) => "tokens",
        }
    }
}

/// Payment-token units as points or tokens; the element's value and its title hold the units.
pub fn amount(units: &str, unit: Unit) -> Markup {
    let text = decimal(units);
    html! {
        data class="amount" value=(units) title={ (group(units)) " units" } { (text) " " (unit.name(text == "1")) }
    }
}

/// The same as plain text.
pub fn amount_text(units: &str, unit: Unit) -> String {
    let text = decimal(units);
    format!("{text} {}", unit.name(text == "1"))
}

/// Units with the decimal point put in and thousands apart, to the last unit.
fn decimal(units: &str) -> String {
    let (sign, digits) = match units.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", units),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return units.to_owned();
    }
    let padded = format!("{digits:0>width$}", width = DECIMALS + 1);
    let (whole, fraction) = padded.split_at(padded.len() - DECIMALS);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0".to_owned() } else { group(whole) };
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

/// Digits in groups of three.
pub fn group(number: &str) -> String {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", number),
    };
    let mut grouped = String::with_capacity(number.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}

/// "1 event", "2,000 events".
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", group(&number.to_string()), if number == 1 { one } else { many })
}

/// An RFC 3339 time in UTC for people; what is none stands as it is.
pub fn time(rfc3339: &str) -> Markup {
    match rfc3339.strip_suffix('Z').and_then(|time| time.split_once('T')) {
        Some((day, clock)) => html! { time datetime=(rfc3339) { (day) " " (clock) " UTC" } },
        None => html! { (rfc3339) },
    }
}

/// Seconds in the largest units that say them exactly, at most two.
pub fn duration(seconds: &str) -> String {
    let Ok(total) = seconds.parse::<u64>() else { return format!("{seconds} seconds") };
    if total == u64::MAX {
        return "without end".into();
    }
    let mut parts = Vec::new();
    let mut rest = total;
    for (size, one, many) in [(86_400, "day", "days"), (3_600, "hour", "hours"), (60, "minute", "minutes")] {
        if rest >= size {
            parts.push(count(rest / size, one, many));
            rest %= size;
        }
    }
    if rest > 0 || parts.is_empty() {
        parts.push(count(rest, "second", "seconds"));
    }
    parts.join(" ")
}

/// Basis points as per cent.
pub fn per_cent(basis_points: i32) -> String {
    let (whole, rest) = (basis_points / 100, basis_points % 100);
    match rest {
        0 => format!("{whole} %"),
        rest if rest % 10 == 0 => format!("{whole}.{} %", rest / 10),
        rest => format!("{whole}.{rest:02} %"),
    }
}

/// A rejection's outcome in words.
pub fn reason(outcome: &str) -> String {
    let words = [
        (Outcome::Empty, "it holds no bytes"),
        (Outcome::TypeMismatch, "it is of another type than it claims"),
        (Outcome::Undecodable, "it can't be decoded to its end"),
        (Outcome::Duplicate, "the same bytes were accepted before"),
        (Outcome::TooShort, "it is too short"),
        (Outcome::TooLong, "it is too long"),
        (Outcome::TooSmall, "it is too small"),
        (Outcome::TooLarge, "it is too large"),
    ];
    words.iter().find(|(known, _)| known.name() == outcome).map_or(outcome, |(_, words)| words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_to_the_last_unit() {
        for (units, expected) in [
            ("300000000", "300 points"),
            ("1000000", "1 point"),
            ("0", "0 points"),
            ("1", "0.000001 points"),
            ("1500000", "1.5 points"),
            ("1234567890123", "1,234,567.890123 points"),
            ("-2500000", "-2.5 points"),
            ("340282366920938463463374607431768211455", "340,282,366,920,938,463,463,374,607,431,768.211455 points"),
            ("x", "x points"),
        ] {
            assert_eq!(amount_text(units, Unit::Points), expected);
        }
        let markup = amount("1000000", Unit::Tokens).into_string();
        assert_eq!(markup, r#"<data class="amount" value="1000000" title="1,000,000 units">1 token</data>"#);
    }

    #[test]
    fn thousands_stand_apart() {
        for (number, expected) in [("", ""), ("1", "1"), ("999", "999"), ("1000", "1,000"), ("-1234567", "-1,234,567")]
        {
            assert_eq!(group(number), expected);
        }
        assert_eq!(
            (count(1, "event", "events"), count(2_000, "event", "events")),
            ("1 event".into(), "2,000 events".into())
        );
    }

    #[test]
    fn durations_and_shares_are_exact() {
        for (seconds, expected) in [
            ("0", "0 seconds"),
            ("31536000", "365 days"),
            ("86400", "1 day"),
            ("5401", "1 hour 30 minutes 1 second"),
            ("18446744073709551615", "without end"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
        for (points, expected) in [(7_000, "70 %"), (1_250, "12.5 %"), (5, "0.05 %"), (10_000, "100 %")] {
            assert_eq!(per_cent(points), expected);
        }
    }

    #[test]
    fn times_keep_their_machine_form() {
        let markup = time("2026-11-21T08:00:01Z").into_string();
        assert_eq!(markup, r#"<time datetime="2026-11-21T08:00:01Z">2026-11-21 08:00:01 UTC</time>"#);
        assert_eq!(time("18446744073709551615").into_string(), "18446744073709551615");
    }

    #[test]
    fn every_rejection_has_words_and_an_unknown_one_its_name() {
        assert_eq!(reason(Outcome::Duplicate.name()), "the same bytes were accepted before");
        assert_eq!(reason("new_reason"), "new_reason");
    }
}
