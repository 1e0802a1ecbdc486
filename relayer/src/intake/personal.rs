//! Finds personal data in metadata that becomes public and can't be taken back: by the words of keys, and e-mail
//! addresses anywhere.
//!
//! Keys are cut into words (`firstName`, `first_name`, `first-name`, `FIRST NAME` are all `first name`), and whole
//! words are compared together with those of the key above, so that `{"bank": {"account": …}}` is found and
//! `file_name`, `platform_name` or `compass_heading` are not.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use serde_json::Value;

use crate::problem::{Kind, Problem};

/// Words that name a person's data, each list one meaning.
const TERMS: &[(&str, &[&str])] = &[
    ("an e-mail address", &["email", "emails", "e mail", "mail address", "이메일"]),
    (
        "a telephone number",
        &[
            "phone",
            "phones",
            "telephone",
            "cellphone",
            "msisdn",
            "mobile number",
            "phonenumber",
            "전화번호",
            "휴대폰번호",
        ],
    ),
    (
        "a person's name",
        &[
            "first name",
            "last name",
            "full name",
            "given name",
            "family name",
            "middle name",
            "maiden name",
            "real name",
            "legal name",
            "surname",
            "firstname",
            "lastname",
            "fullname",
            "user name",
            "username",
            "contributor name",
            "person name",
            "customer name",
            "speaker name",
            "owner name",
            "author name",
            "creator name",
            "성명",
        ],
    ),
    (
        "an identity number",
        &[
            "national id",
            "national identity",
            "national number",
            "identity number",
            "identity card",
            "id card",
            "passport",
            "ssn",
            "social security",
            "drivers license",
            "driver license",
            "driver licence",
            "driving licence",
            "tax id",
            "tax number",
            "aadhaar",
            "nric",
            "여권번호",
        ],
    ),
    (
        "a Korean resident registration number",
        &["rrn", "resident registration", "resident number", "jumin", "주민등록번호", "주민번호"],
    ),
    ("an address", &["address", "street", "house number", "postal code", "postcode", "zip code", "zipcode", "주소"]),
    ("a date of birth", &["birth date", "date of birth", "birthdate", "birthday", "birth day", "dob", "생년월일"]),
    ("an IP address", &["ip address", "ip addr", "ipaddress", "client ip", "remote ip", "user ip"]),
    (
        "a bank account or card",
        &["bank account", "account number", "iban", "card number", "credit card", "routing number", "계좌번호"],
    ),
];

/// Before `address`: what is no place where somebody lives.
const OTHER_ADDRESSES: &[&str] =
    &["wallet", "contract", "token", "chain", "evm", "eth", "ethereum", "content", "ipfs", "cid", "memory"];

/// After a term: what is a fact about it, and not the thing itself (`phone_model`, `email_verification_status`).
const ABOUT: &[&str] =
    &["brand", "country", "kind", "model", "os", "policy", "status", "type", "verification", "verified", "version"];

/// Degrees with more than one decimal say where somebody is to 5.6 km or better; CPRA draws the line at 1,850 feet,
/// which two decimals are just about.
const DEGREE_DECIMALS_MAX: usize = 1;

/// A term, word by word.
struct Term {
    words: Vec<&'static str>,
    what: &'static str,
}

/// The terms by their first word: a key costs as many look-ups as it has words, however long a sender makes it.
static TERMS_BY_WORD: LazyLock<HashMap<&'static str, Vec<Term>>> = LazyLock::new(|| {
    let mut by_word: HashMap<_, Vec<Term>> = HashMap::new();
    for (what, terms) in TERMS {
        for words in terms.iter().map(|term| term.split(' ').collect::<Vec<_>>()) {
            if let Some(first) = words.first() {
                by_word.entry(*first).or_default().push(Term { words, what });
            }
        }
    }
    by_word
});

/// Words of the key above that are looked at: no term has more than one more.
const WORDS_ABOVE_MAX: usize = 2;

/// Keys that are remembered, and how long they may be: a batch's records have the same short ones.
const KEYS_MAX: usize = 1_024;
const KEY_BYTES_MAX: usize = 64;

/// What one key says, whatever is under it.
#[derive(Debug)]
struct Key {
    words: Vec<String>,
    /// A term may begin in its words, or they are looked at by themselves.
    matters: bool,
    has_email: bool,
}

impl Key {
    fn new(key: &str) -> Self {
        let words = words(key);
        let matters =
            words.iter().any(|word| TERMS_BY_WORD.contains_key(word.as_str()) || is_ip(word) || is_place(word));
        Self { words, matters, has_email: has_email(key) }
    }

    /// Those that a term can begin with that ends in the key below.
    fn last_words(&self) -> &[String] {
        self.words.get(self.words.len().saturating_sub(WORDS_ABOVE_MAX)..).unwrap_or_default()
    }
}

/// Looks for personal data in one record after the other, and remembers what their keys say.
#[derive(Debug, Default)]
pub struct Search {
    keys: HashMap<String, Arc<Key>>,
}

impl Search {
    /// Refuses metadata with personal data in it; `path` is that of the metadata in the request.
    pub fn check(&mut self, metadata: &Value, path: &str) -> Result<(), Problem> {
        match self.find(metadata, None) {
            None => Ok(()),
            // the value is not repeated: a problem may end up in somebody's logs
            Some((below, what)) => Err(refusal(format!("{path}{below}"), what)),
        }
    }

    fn key(&mut self, text: &str) -> Arc<Key> {
        if let Some(key) = self.keys.get(text) {
            return Arc::clone(key);
        }
        let key = Arc::new(Key::new(text));
        if text.len() <= KEY_BYTES_MAX && self.keys.len() < KEYS_MAX {
            self.keys.insert(text.to_owned(), Arc::clone(&key));
        }
        key
    }

    /// The first place with personal data below this one, and what it is; paths are made only where there is something
    /// to say. Recursion ends where the parser's did, at 128 levels.
    fn find(&mut self, value: &Value, above: Option<&Key>) -> Option<(String, &'static str)> {
        match value {
            Value::Object(fields) => fields.iter().find_map(|(text, value)| {
                let key = self.key(text);
                if key.has_email {
                    return Some((String::new(), "an e-mail address as a key"));
                }
                let can_name = key.matters || above.is_some_and(|above| above.matters);
                let words_above = above.map_or(&[][..], Key::last_words);
                let found = match can_name.then(|| named(words_above, &key.words, value)).flatten() {
                    Some(what) => Some((String::new(), what)),
                    None => self.find(value, Some(&key)),
                };
                found.map(|(below, what)| (format!(".{text}{below}"), what))
            }),
            Value::Array(items) => items.iter().enumerate().find_map(|(at, item)| {
                let (below, what) = self.find(item, above)?;
                Some((format!("[{at}]{below}"), what))
            }),
            Value::String(text) if has_email(text) => Some((String::new(), "an e-mail address")),
            _ => None,
        }
    }
}

/// Refuses text that becomes public with an e-mail address in it.
pub fn check_text(text: &str, field: &str) -> Result<(), Problem> {
    if has_email(text) { Err(refusal(field.to_owned(), "an e-mail address")) } else { Ok(()) }
}

fn refusal(field: String, what: &str) -> Problem {
    Problem::field(Kind::PersonalData, field, "nothing that tells who a person is: it becomes public for good", what)
}

fn is_ip(word: &str) -> bool {
    matches!(word, "ip" | "ipv")
}

fn is_degrees(word: &str) -> bool {
    matches!(word, "latitude" | "longitude" | "lat" | "lng" | "lon")
}

fn is_position(word: &str) -> bool {
    matches!(word, "gps" | "geolocation" | "latlng" | "latlon")
}

fn is_place(word: &str) -> bool {
    is_degrees(word) || is_position(word)
}

/// What a key names, where that is personal data and the value can hold it.
fn named(above: &[String], own: &[String], value: &Value) -> Option<&'static str> {
    // a boolean says whether there is one, not which
    if matches!(value, Value::Null | Value::Bool(_)) {
        return None;
    }
    if own.iter().any(|word| is_ip(word)) && value.as_str().is_some_and(|text| text.trim().parse::<IpAddr>().is_ok()) {
        return Some("an IP address");
    }
    let last = own.last().map_or("", String::as_str);
    let is_precise_place = match value {
        _ if is_degrees(last) => is_precise(value),
        Value::Array(numbers) if is_position(last) => numbers.iter().any(is_precise),
        Value::String(text) if is_position(last) => text.split([',', ' ']).any(is_precise_text),
        _ => false,
    };
    if is_precise_place {
        return Some("a place with more than one decimal of a degree");
    }
    let all: Vec<&str> = above.iter().chain(own).map(String::as_str).collect();
    (0..all.len()).find_map(|at| named_at(&all, at, above.len()))
}

/// What a term that begins at this word names, where it ends in the words of the key itself and is not turned into
/// something else by the word before or after.
fn named_at(all: &[&str], at: usize, own_from: usize) -> Option<&'static str> {
    TERMS_BY_WORD.get(all.get(at)?)?.iter().find_map(|term| {
        let end = at + term.words.len();
        let is_other_address =
            term.words == ["address"] && at.checked_sub(1).is_some_and(|before| OTHER_ADDRESSES.contains(&all[before]));
        let is_about = all.get(end).is_some_and(|next| ABOUT.contains(next));
        let is_term = end > own_from && all.get(at..end)? == term.words && !is_other_address && !is_about;
        is_term.then_some(term.what)
    })
}

/// The words of a key in lower case; what is no letter ends a word and is dropped.
fn words(key: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut characters = key.chars().peekable();
    let mut before = ' ';
    while let Some(c) = characters.next() {
        if c.is_alphabetic() {
            // aB is two words, and of ABc the second begins at B
            let is_new = !before.is_alphabetic()
                || (c.is_uppercase()
                    && (before.is_lowercase() || characters.peek().is_some_and(|after| after.is_lowercase())));
            match words.last_mut() {
                Some(word) if !is_new => word.extend(c.to_lowercase()),
                _ => words.push(c.to_lowercase().collect()),
            }
        }
        before = c;
    }
    words
}

fn is_precise(value: &Value) -> bool {
    match value {
        Value::Number(number) => is_precise_text(&number.to_string()),
        Value::String(text) => is_precise_text(text),
        _ => false,
    }
}

/// Whether a text is a number, maybe with a unit behind it, of more decimals than [`DEGREE_DECIMALS_MAX`].
fn is_precise_text(text: &str) -> bool {
    let text = text.trim().trim_end_matches(|c: char| !c.is_ascii_digit());
    if text.parse::<f64>().is_err() {
        return false;
    }
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let decimals = mantissa.split_once('.').map_or("", |(_, decimals)| decimals).trim_end_matches('0').len();
    decimals > DEGREE_DECIMALS_MAX || exponent.starts_with('-')
}

/// Whether there is something@domain.tld in a text.
fn has_email(text: &str) -> bool {
    text.match_indices('@').any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + 1..]);
        let has_local = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_%+-".contains(c));
        let end = after.find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '.')).unwrap_or(after.len());
        let domain = after[..end].trim_end_matches(['.', '-']);
        let Some((host, tld)) = domain.rsplit_once('.') else { return false };
        // icon@2x.png is a file for a dense screen
        let is_density = matches!(host, "1x" | "2x" | "3x" | "4x");
        let is_host = !host.is_empty() && host.split('.').all(|label| !label.is_empty());
        has_local && is_host && !is_density && tld.chars().count() >= 2 && tld.chars().all(char::is_alphabetic)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(metadata: Value) -> Option<String> {
        Search::default().check(&metadata, "m").err().map(|problem| problem.0.field.unwrap())
    }

    #[test]
    fn every_field_of_trace_v1_0_is_no_personal_data() {
        let table = json!({
            "schema_version": "trace-v1.0",
            "file": {
                "content_sha256": format!("sha256:{}", "a".repeat(64)), "mime_type": "video/mp4", "mimetype": "video/mp4",
                "media_category": "video", "size_bytes": 5, "content_md5": "d41d8cd98f00b204e9800998ecf8427e",
                "hashes": {"phash64": "00ff00ff00ff00ff", "dhash64": "00ff00ff00ff00ff", "ahash64": "00ff00ff00ff00ff",
                           "keyframe_phashes": ["00ff00ff00ff00ff"], "sha256": "aa", "md5": "bb"},
                "behavior": {"captured_at_utc": "2026-05-13", "uploaded_at_utc": "2026-05-13",
                             "capture_to_upload_seconds": 421, "capture_to_upload_bucket": "5-60min",
                             "upload_session_size": 3, "upload_session_kind": "gallery_pick",
                             "captured_via": "ios_native_camera", "uploaded_via": "ios_app", "client_version": "ios-1.42.0"}
            },
            "mime_type": "video/mp4", "content_hash": "aa",
            "file_specific": {"base": {"motion": {"compass_heading": 247.3, "compass_heading_reference": "true_north",
                                                  "speed_bucket": "stationary"}},
                              "video": {"duration_ms": 1, "width": 2, "height": 3}, "image": {}, "document": {}, "audio": {}},
            "asset": {"hash": "aa", "collection_id": "c", "customer_id": "u", "task_id": "t"},
            "contributor": {"anon_id": "anon-7", "kyc_status": "verified", "kyc_country": "KR", "geo_region": "US",
                            "tax_status": "submitted", "account_verification_status": "verified",
                            "consent": {"tos_version": "1", "tos_hash": "sha256:aa", "tos_uri": "https://example.invalid/tos",
                                        "privacy_policy_version": "1", "privacy_policy_hash": "sha256:bb",
                                        "privacy_policy_uri": "https://example.invalid/privacy"}},
            "user": {"source_user_id": "u", "kyc_status": "verified", "tos_accepted": {"version": "1", "accepted_at": "2026"}},
            "app": {"platform_name": "kled", "legal_entity": "Nitrility Inc. (Delaware, USA)"},
            "timestamps": {"originated_at": "2026-11-21T00:00:00Z", "occurred_at": "2026-11-21T00:00:00Z",
                           "uploaded_at": "2026-11-21T00:00:00Z", "captured_at": "2026-11-21T00:00:00Z",
                           "payment_credited_at": "2026-11-21T00:00:00Z"},
            "attestation": {"payload_hash": "sha256:aa", "signature": "c2ln", "key_id": "k1",
                            "key_url": "/.well-known/verification-keys.json", "signed_at_utc": "2026-11-21T00:00:00Z"},
            "provider_payload": {"media_id_public": "m-1", "source_record_id": "r-1"}
        });
        assert_eq!(found(table), None);
    }

    #[test]
    fn words_that_only_look_like_it_are_no_hits() {
        for key in [
            "file_name",
            "platform_name",
            "fileName",
            "collection-name",
            "nameserver",
            "phonetic",
            "microphone",
            "microphone_model",
            "phone_model",
            "phoneModel",
            "phoneOs",
            "emailVerificationStatus",
            "wallet_address",
            "contractAddress",
            "content_address",
            "ip_id",
            "ipAsset",
            "zipfile",
            "recipe",
            "description",
            "ship_date",
            "address_type",
            "shipment",
            "addressable",
            "template",
            "flat",
            "lat_ms",
            "longest",
            "belongs",
            "relation",
            "account_verification_status",
            "card_count",
            "identity",
            "national_anthem",
            "streetwear",
            "birthmark_visible",
        ] {
            assert_eq!(found(json!({ key: "247.3156" })), None, "{key}");
        }
        assert_eq!(found(json!({"email_verified": true, "has_phone": false, "passport": null})), None);
        assert_eq!(found(json!({"ip": "story-ip-7", "latitude": 37.5, "lon": 127, "lat": "37.0"})), None);
        assert_eq!(found(json!({"gps": [37.5, 127], "box": [0.123, 0.456], "geolocation": "Seoul, Gangnam"})), None);
        for text in ["@handle", "icon@2x.png", "pkg@1.2.3", "a @ b.com", "5 kg @ 3.50", "x@y", "@scope/pkg", "a@b."] {
            assert_eq!(found(json!({"note": text})), None, "{text}");
        }
    }

    #[test]
    fn personal_data_is_found_under_its_names_in_every_spelling() {
        for key in [
            "email",
            "Email",
            "userEmail",
            "user-email",
            "E-Mail",
            "EMAIL_ADDRESS",
            "contact email",
            "phone",
            "phoneNumber",
            "PHONE2",
            "home_phone_number",
            "phone_hash",
            "first_name",
            "firstName",
            "FirstName",
            "lastname",
            "FULL_NAME",
            "legalName",
            "surname",
            "national_id",
            "nationalID",
            "passport",
            "passportNumber",
            "ssn",
            "userSSN",
            "social_security_number",
            "address",
            "homeAddress",
            "address1",
            "address_line_2",
            "street",
            "zip_code",
            "birth_date",
            "dateOfBirth",
            "DOB",
            "birthday",
            "ip_address",
            "ipAddress",
            "IPAddress",
            "client-ip",
            "bank_account",
            "bankAccountNumber",
            "iban",
            "cardNumber",
            "rrn",
            "resident_registration_number",
            "주민등록번호",
            "이메일",
            "주소",
            "taxId",
        ] {
            assert_eq!(found(json!({ key: "x" })).as_deref(), Some(format!("m.{key}").as_str()), "{key}");
        }
        for (metadata, path) in [
            (json!({"bank": {"account": "1"}}), "m.bank.account"),
            (json!({"user": {"name": "x"}}), "m.user.name"),
            (json!({"birth": {"date": "x"}}), "m.birth.date"),
            (json!({"ip": "203.0.113.7"}), "m.ip"),
            (json!({"source": {"ipv6": "2001:db8::1"}}), "m.source.ipv6"),
            (json!({"gps": {"latitude": 37.5665}}), "m.gps.latitude"),
            (json!({"gps": {"lng": "126.9780"}}), "m.gps.lng"),
            (json!({"lat": 1e-7}), "m.lat"),
            (json!({"latitude": "37.5665° N"}), "m.latitude"),
            (json!({"gps": [37.5665, 126.9780]}), "m.gps"),
            (json!({"geolocation": "37.5665, 126.9780"}), "m.geolocation"),
            (json!({"phone": 821012345678u64}), "m.phone"),
            (json!({"list": [1, {"deep": [{"user": {"email": "x"}}]}]}), "m.list[1].deep[0].user.email"),
        ] {
            assert_eq!(found(metadata.clone()).as_deref(), Some(path), "{metadata}");
        }
    }

    #[test]
    fn long_keys_and_many_of_them_cost_no_more_than_their_length() {
        let long = "a_".repeat(100_000);
        let below: serde_json::Map<String, Value> = (0..20_000).map(|at| (format!("k{at}"), json!(at))).collect();
        let started = std::time::Instant::now();
        assert_eq!(found(json!({ long.as_str(): below, "at": "@a.".repeat(100_000) })), None);
        // a fraction of a second; a product of both lengths would be hours
        assert!(started.elapsed() < std::time::Duration::from_secs(20));
        assert!(found(json!({ format!("{long}bank"): {"account": 1} })).unwrap().ends_with("_bank.account"));
    }

    #[test]
    fn an_e_mail_address_is_found_in_any_text_and_not_repeated() {
        for text in
            ["a@example.com", "by Kim <kim.lee+x@mail.example.co.kr>.", "mailto:a@b.io", "홍@예시.한국", "a@b.com,"]
        {
            assert_eq!(found(json!({"note": text})).as_deref(), Some("m.note"), "{text}");
        }
        assert_eq!(found(json!({"x": {"a@b.com": 1}})).as_deref(), Some("m.x"), "nor in a path");
        let problem =
            Search::default().check(&json!({"note": ["x", "kim@example.com"]}), "[3].metadata_json").unwrap_err();
        assert_eq!((problem.slug(), problem.0.status), ("personal-data", 422));
        assert_eq!(problem.0.field.as_deref(), Some("[3].metadata_json.note[1]"));
        assert!(!format!("{:?}", problem.0).contains("kim"), "{problem:?}");
        assert!(check_text("rec-7", "source_record_id").is_ok());
        assert_eq!(check_text("kim@example.com", "f").unwrap_err().0.actual.as_deref(), Some("an e-mail address"));
    }
}
