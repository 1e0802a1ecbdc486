//! Messages of EIP-4361 (Sign-In with Ethereum): read line by line as its grammar has them, nothing beside.

use alloy::primitives::{Address, B256, eip191_hash_message};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Longer ones are not read.
pub const MESSAGE_BYTES_MAX: usize = 4096;
const NONCE_CHARS_MIN: usize = 8;
const PREAMBLE: &str = " wants you to sign in with your Ethereum account:";

/// A message as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `https` where it says so.
    pub scheme: Option<String>,
    /// RFC 3986 authority of who asks.
    pub domain: String,
    /// Who signs.
    pub account: Address,
    /// What it is for: a URI.
    pub uri: String,
    /// EIP-155.
    pub chain_id: u64,
    /// Of the server.
    pub nonce: String,
    /// When it was made.
    pub issued_at: OffsetDateTime,
    /// From then on it counts no more.
    pub expires_at: Option<OffsetDateTime>,
    /// Before, it does not count yet.
    pub not_before: Option<OffsetDateTime>,
}

/// What can't be read: the field, and what should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Of the message.
    pub field: &'static str,
    /// What the grammar has there.
    pub expected: &'static str,
    /// What is there.
    pub actual: String,
}

fn malformed(field: &'static str, expected: &'static str, actual: &str) -> Malformed {
    Malformed { field, expected, actual: actual.to_owned() }
}

struct Lines<'a>(std::iter::Peekable<std::str::Split<'a, char>>);

impl<'a> Lines<'a> {
    fn line(&mut self, field: &'static str, expected: &'static str) -> Result<&'a str, Malformed> {
        self.0.next().ok_or_else(|| malformed(field, expected, "the end"))
    }

    fn empty(&mut self, field: &'static str) -> Result<(), Malformed> {
        match self.line(field, "an empty line")? {
            "" => Ok(()),
            line => Err(malformed(field, "an empty line", line)),
        }
    }

    fn field(&mut self, field: &'static str, prefix: &'static str) -> Result<&'a str, Malformed> {
        let line = self.line(field, prefix)?;
        line.strip_prefix(prefix).ok_or_else(|| malformed(field, prefix, line))
    }

    fn optional(&mut self, prefix: &str) -> Option<&'a str> {
        let value = self.0.peek()?.strip_prefix(prefix)?;
        self.0.next();
        Some(value)
    }
}

fn time(field: &'static str, text: &str) -> Result<OffsetDateTime, Malformed> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| malformed(field, "an RFC 3339 time", text))
}

impl Message {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(malformed("message", "at most 4096 bytes", &format!("{} bytes", text.len())));
        }
        if let Some(odd) = text.chars().find(|char| char.is_control() && *char != '\n') {
            return Err(malformed("message", "no control characters but LF", &odd.escape_default().to_string()));
        }
        let mut lines = Lines(text.split('\n').peekable());
        let first = lines.line("message.domain", "a domain")?;
        let origin = first.strip_suffix(PREAMBLE);
        let origin = origin.ok_or_else(|| malformed("message.domain", "… wants you to sign in …", first))?;
        let (scheme, domain) = match origin.split_once("://") {
            Some((scheme, domain)) => (Some(scheme.to_owned()), domain),
            None => (None, origin),
        };
        let line = lines.line("message.address", "an account")?;
        let account = Address::parse_checksummed(line, None)
            .map_err(|_| malformed("message.address", "an account with its EIP-55 checksum", line))?;
        lines.empty("message.statement")?;
        if lines.0.peek().is_some_and(|line| !line.is_empty()) {
            lines.0.next();
        }
        lines.empty("message.statement")?;
        let uri = lines.field("message.uri", "URI: ")?.to_owned();
        match lines.field("message.version", "Version: ")? {
            "1" => {}
            other => return Err(malformed("message.version", "1", other)),
        }
        let chain = lines.field("message.chain_id", "Chain ID: ")?;
        let is_decimal = !chain.is_empty() && chain.bytes().all(|byte| byte.is_ascii_digit());
        let chain_id = is_decimal.then(|| chain.parse().ok()).flatten();
        let nonce = lines.field("message.nonce", "Nonce: ")?;
        if nonce.len() < NONCE_CHARS_MIN || !nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(malformed("message.nonce", "8 or more letters and digits", nonce));
        }
        let issued_at = time("message.issued_at", lines.field("message.issued_at", "Issued At: ")?)?;
        let expires_at = lines.optional("Expiration Time: ").map(|text| time("message.expiration_time", text));
        let not_before = lines.optional("Not Before: ").map(|text| time("message.not_before", text));
        let _request_id = lines.optional("Request ID: ");
        if lines.0.peek() == Some(&"Resources:") {
            lines.0.next();
            while lines.optional("- ").is_some() {}
        }
        if let Some(rest) = lines.0.next() {
            return Err(malformed("message", "the end", rest));
        }
        Ok(Self {
            scheme,
            domain: domain.to_owned(),
            account,
            uri,
            chain_id: chain_id.ok_or_else(|| malformed("message.chain_id", "a decimal number", chain))?,
            nonce: nonce.to_owned(),
            issued_at,
            expires_at: expires_at.transpose()?,
            not_before: not_before.transpose()?,
        })
    }
}

/// What a wallet signs: EIP-191, version 0x45.
pub fn digest(text: &str) -> B256 {
    eip191_hash_message(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

    fn text() -> String {
        format!(
            "https://app.example wants you to sign in with your Ethereum account:\n{ACCOUNT}\n\nSee what you earned.\n\n\
             URI: https://app.example/login\nVersion: 1\nChain ID: 31337\nNonce: 0123456789abcdef\n\
             Issued At: 2026-11-22T01:00:00Z\nExpiration Time: 2026-11-22T02:00:00+09:00\nNot Before: 2026-11-22T01:00:00Z\n\
             Request ID: 7\nResources:\n- https://app.example/a\n- ipfs://b"
        )
    }

    #[test]
    fn a_message_with_everything_and_one_with_the_least_are_read() {
        let message = Message::parse(&text()).unwrap();
        assert_eq!((message.scheme.as_deref(), message.domain.as_str()), (Some("https"), "app.example"));
        assert_eq!((message.account.to_checksum(None).as_str(), message.chain_id), (ACCOUNT, 31337));
        assert_eq!(message.expires_at.unwrap().unix_timestamp(), 1_795_280_400);
        let least = format!(
            "localhost:8082 wants you to sign in with your Ethereum account:\n{ACCOUNT}\n\n\nURI: http://localhost:8082\n\
             Version: 1\nChain ID: 1\nNonce: abcdefgh\nIssued At: 2026-11-22T01:00:00.123Z"
        );
        let message = Message::parse(&least).unwrap();
        assert_eq!((message.scheme, message.expires_at, message.nonce.as_str()), (None, None, "abcdefgh"));
    }

    #[test]
    fn whatever_is_not_as_the_grammar_has_it_is_named() {
        let right = text();
        for (from, to, field) in [
            ("wants you to sign in", "wants you to log in", "message.domain"),
            ("0x5aAeb", "0x5aaeb", "message.address"),
            ("See what you earned.", "See what\nyou earned.", "message.statement"),
            ("Version: 1", "Version: 2", "message.version"),
            ("Chain ID: 31337", "Chain ID: 0x1", "message.chain_id"),
            ("Chain ID: 31337", "Chain ID: 99999999999999999999", "message.chain_id"),
            ("0123456789abcdef", "0123456", "message.nonce"),
            ("0123456789abcdef", "0123-567", "message.nonce"),
            ("Issued At: 2026-11-22T01:00:00Z", "Issued At: yesterday", "message.issued_at"),
            ("Issued At: ", "Issued at: ", "message.issued_at"),
            ("Expiration Time: 2026-11-22T02:00:00+09:00", "Expiration Time: never", "message.expiration_time"),
            ("- ipfs://b", "- ipfs://b\nAnd more", "message"),
            ("\nURI", "\r\nURI", "message"),
        ] {
            let wrong = right.replacen(from, to, 1);
            assert_ne!(wrong, right, "{from}");
            assert_eq!(Message::parse(&wrong).unwrap_err().field, field, "{to}");
        }
        assert_eq!(Message::parse("").unwrap_err().field, "message.domain");
        assert_eq!(Message::parse(&"x".repeat(5000)).unwrap_err().field, "message");
        for cut in 0..right.len() - 40 {
            // never a panic, and never a message that lacks its middle
            if let Ok(message) = Message::parse(&right[..cut]) {
                assert!(!message.nonce.is_empty() && cut >= right.find("\nExpiration").unwrap(), "{cut}");
            }
        }
    }
}
