//! Finds personal data in metadata that becomes public and can't be taken back: by the words of keys, and e-mail
//! addresses anywhere.
//!
//! Keys are cut into words (`firstName`, `first_name`, `first-name`, `FIRST NAME` are all `first name`), and whole words are
//! compared together with those of the key above, so that `{"bank": {"account": …}}` is found and `file_name`,
//! `platform_name` or `compass_heading` are not.

use std::net::IpAddr;

use serde_json::{Map, Value};

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
    (
        "a postal address",
        &["address", "street", "house number", "postal code", "postcode", "zip code", "zipcode", "주소"],
    ),
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

/// Degrees with more than one decimal say where somebody is to 5.6 km or better; CPRA draws the line at 1,850 feet, which
/// two decimals are just about.
const DEGREE_DECIMALS_MAX: usize = 1;

/// Refuses metadata with personal data in it; `path` is that of the metadata in the request.
pub fn check(metadata: &Value, path: &str) -> Result<(), Problem> {
    match find(metadata, path, &[]) {
        None => Ok(()),
        // the value is not repeated: a problem ends up in logs
        Some((field, what)) => Err(refusal(field, what)),
    }
}

/// Refuses text that becomes public with an e-mail address in it.
pub fn check_text(text: &str, field: &str) -> Result<(), Problem> {
    if has_email(text) { Err(refusal(field.to_owned(), "an e-mail address")) } else { Ok(()) }
}

fn refusal(field: String, what: &str) -> Problem {
    Problem::field(Kind::PersonalData, field, "nothing that tells who a person is: it becomes public for good", what)
}

/// The first place with personal data, and what it is. Recursion ends where the parser's did, at 128 levels.
fn find(value: &Value, path: &str, above: &[String]) -> Option<(String, &'static str)> {
    match value {
        Value::Object(fields) => find_in(fields, path, above),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| find(item, &format!("{path}[{at}]"), above))
        }
        Value::String(text) if has_email(text) => Some((path.to_owned(), "an e-mail address")),
        _ => None,
    }
}

fn find_in(fields: &Map<String, Value>, path: &str, above: &[String]) -> Option<(String, &'static str)> {
    fields.iter().find_map(|(key, value)| {
        let path = format!("{path}.{key}");
        if has_email(key) {
            return Some((path, "an e-mail address"));
        }
        let own = words(key);
        match named(above, &own, value) {
            Some(what) => Some((path, what)),
            None => find(value, &path, &own),
        }
    })
}

/// What a key names, where that is personal data and the value can hold it.
fn named(above: &[String], own: &[String], value: &Value) -> Option<&'static str> {
    // a boolean says whether there is one, not which
    if matches!(value, Value::Null | Value::Bool(_)) {
        return None;
    }
    let all: Vec<&str> = above.iter().chain(own).map(String::as_str).collect();
    let is_ip_word = own.iter().any(|word| matches!(word.as_str(), "ip" | "ipv4" | "ipv6"));
    if is_ip_word && value.as_str().is_some_and(|text| text.trim().parse::<IpAddr>().is_ok()) {
        return Some("an IP address");
    }
    let is_degree = matches!(own.last().map(String::as_str), Some("latitude" | "longitude" | "lat" | "lng" | "lon"));
    if is_degree && is_precise(value) {
        return Some("a place with more than one decimal of a degree");
    }
    TERMS.iter().find(|(_, terms)| terms.iter().any(|term| is_named(&all, above.len(), term))).map(|(what, _)| *what)
}

/// Whether `term` stands among the words, ending in those of the key itself and not followed by a word that turns it into
/// something else.
fn is_named(all: &[&str], own_from: usize, term: &str) -> bool {
    let count = term.split(' ').count();
    all.windows(count).enumerate().any(|(at, window)| {
        let end = at + count;
        let is_term = window.iter().copied().eq(term.split(' '));
        let is_other_address = term == "address" && at > 0 && OTHER_ADDRESSES.contains(&all[at - 1]);
        is_term && end > own_from && !is_other_address && !all.get(end).is_some_and(|next| ABOUT.contains(next))
    })
}

/// The words of a key in lower case; digits end a word and are dropped.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let characters: Vec<char> = key.chars().collect();
    for (at, &c) in characters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| characters.get(at));
        let after = characters.get(at + 1);
        // aB is two words, and of ABc the second begins at B
        let begins = c.is_uppercase()
            && (before.is_some_and(|before| before.is_lowercase())
                || (before.is_some_and(|before| before.is_uppercase())
                    && after.is_some_and(|after| after.is_lowercase())));
        if !c.is_alphabetic() || begins {
            words.push(String::new());
        }
        if c.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    // the version of an internet address is part of its name
    let mut words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.iter_mut().filter(|word| *word == "ipv").for_each(|word| *word = "ip".into());
    words
}

fn is_precise(value: &Value) -> bool {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.trim().parse::<f64>().is_ok() => text.trim().to_owned(),
        _ => return false,
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
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
        check(&metadata, "m").err().map(|problem| problem.0.field.unwrap())
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
            (json!({"phone": 821012345678u64}), "m.phone"),
            (json!({"list": [1, {"deep": [{"user": {"email": "x"}}]}]}), "m.list[1].deep[0].user.email"),
        ] {
            assert_eq!(found(metadata.clone()).as_deref(), Some(path), "{metadata}");
        }
    }

    #[test]
    fn an_e_mail_address_is_found_in_any_text_and_not_repeated() {
        for text in
            ["a@example.com", "by Kim <kim.lee+x@mail.example.co.kr>.", "mailto:a@b.io", "홍@예시.한국", "a@b.com,"]
        {
            assert_eq!(found(json!({"note": text})).as_deref(), Some("m.note"), "{text}");
        }
        assert_eq!(found(json!({"a@b.com": 1})).as_deref(), Some("m.a@b.com"));
        let problem = check(&json!({"note": ["x", "kim@example.com"]}), "[3].metadata_json").unwrap_err();
        assert_eq!((problem.slug(), problem.0.status), ("personal-data", 422));
        assert_eq!(problem.0.field.as_deref(), Some("[3].metadata_json.note[1]"));
        assert!(!format!("{:?}", problem.0).contains("kim"), "{problem:?}");
        assert!(check_text("rec-7", "source_record_id").is_ok());
        assert_eq!(check_text("kim@example.com", "f").unwrap_err().0.actual.as_deref(), Some("an e-mail address"));
    }
}
