//! What the readers of the read side promise (the crate `tidemark-indexer`).

use alloy::primitives::{B256, U256};
use axum::{
    extract::Query,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri},
};
use tidemark::ids::DataId;
use tidemark_indexer::{
    api::answer,
    explorer::{receipt::read_ids, search::Asked},
    payout::{
        Answer,
        pain::{Outcome, message_id, read_report},
        rail::read_answer,
        request::{PayoutRequest, idempotency_key},
    },
    problem::Problem,
    read::page::{LIMIT_MAX, PageQuery, Place},
};
use uuid::Uuid;

fn is_refusal(problem: &Problem) {
    assert!((400..500).contains(&problem.status), "not the sender's fault: {problem:?}");
    assert!(!problem.detail.is_empty());
}

/// Parameters, cursors, ids and amounts are refused by name or read without loss; a partner is believed only what it says of
/// this payout.
pub fn queries(data: &[u8]) {
    payouts(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(place) = Place::decode(text) {
        assert_eq!(Place::decode(&place.encode()), Some(place));
    }
    let uri = Uri::builder().path_and_query(format!("/?{text}")).build();
    if let Ok(Query(query)) = uri.map_err(drop).and_then(|uri| Query::<PageQuery>::try_from_uri(&uri).map_err(drop)) {
        match query.page() {
            Err(problem) => is_refusal(&problem),
            Ok(page) => {
                assert!((1..=LIMIT_MAX).contains(&page.limit));
                assert_eq!(page.after.is_some(), query.cursor.is_some());
            }
        }
    }
    let digits = text.trim_start_matches('0');
    let is_number = |written: String| assert_eq!(written.trim_start_matches('0'), digits, "read as another number");
    match answer::token_id("token", text) {
        Err(problem) => is_refusal(&problem),
        Ok(id) => is_number(id.to_string()),
    }
    match answer::number::<u64>("number", text) {
        Err(problem) => is_refusal(&problem),
        Ok(number) => is_number(number.to_string()),
    }
    match answer::hash("hash", text) {
        Err(problem) => is_refusal(&problem),
        Ok(hash) => assert_eq!(answer::hash("hash", &hash.to_string()).ok(), Some::<B256>(hash)),
    }
    match answer::data_id(text) {
        Err(problem) => is_refusal(&problem),
        Ok(id) => assert_eq!(answer::data_id(&id.to_string()).ok(), Some::<DataId>(id)),
    }
    match read_ids(text) {
        Err(problem) => is_refusal(&problem),
        Ok(ids) => {
            assert!(ids.len() <= 200);
            let again = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert_eq!(read_ids(&again).ok(), Some(ids));
        }
    }
    match Asked::read(text) {
        Some(Asked::Token(id)) => assert_eq!(Asked::read(&format!("#{id}")), Some(Asked::Token(id))),
        Some(Asked::Name(name)) => assert!(!name.contains('\0'), "no database takes it"),
        Some(Asked::Record(id)) => assert_eq!(Asked::read(&id.to_string()), Some(Asked::Record(id))),
        _ => {}
    }
}

fn payouts(data: &[u8]) {
    const UNITS_PER_POINT: u64 = 1_000_000;
    match PayoutRequest::read(data) {
        Err(problem) => is_refusal(&problem),
        Ok(request) => {
            let texts: Vec<String> = request.entries.iter().map(|entry| entry.amount.clone()).collect();
            match request.check(UNITS_PER_POINT) {
                Err(problem) => is_refusal(&problem),
                Ok(wanted) => {
                    let sum = wanted.entries.iter().fold(U256::ZERO, |sum, (_, units)| sum + U256::from(*units));
                    assert_eq!(sum, U256::from(wanted.amount));
                    assert_eq!(sum, U256::from(wanted.points) * U256::from(UNITS_PER_POINT), "points from nothing");
                    let read: Vec<String> = wanted.entries.iter().map(|(_, units)| units.to_string()).collect();
                    assert_eq!(read, texts, "an amount has one spelling");
                    assert!((1..=128).contains(&wanted.destination.len()));
                }
            }
        }
    }
    for status in read_report(data).unwrap_or_default() {
        let text = String::from_utf8_lossy(data);
        let split = ["&", "<!", "<?"].iter().any(|mark| text.contains(mark));
        let says = |code: &str| text.contains(code) || split;
        let paid = status.outcome == Outcome::Paid;
        // XML may spell any character by its number, and put comments between two
        assert!(!paid || says("ACSC") || says("ACCC"), "a bank paid for nothing that it says");
        assert!(says(&message_id(status.key)), "a status of a payout that is not named");
    }
    let key = Uuid::from_u128(7);
    for status in [StatusCode::OK, StatusCode::BAD_GATEWAY] {
        if let Answer::Paid(_) = read_answer(key, status, data) {
            let text = String::from_utf8_lossy(data);
            let names_key = status.is_success() && text.contains("00000000-0000-0000-0000-000000000007");
            // JSON may spell any character by its number
            assert!(names_key || text.contains("4113") || text.contains('\\'), "paid for nothing that it says");
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("idempotency-key"), value)]);
        match idempotency_key(&headers) {
            Err(problem) => is_refusal(&problem),
            Ok(key) => assert!((1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())),
        }
    }
}
