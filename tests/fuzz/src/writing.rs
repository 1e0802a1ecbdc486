//! What the readers of the write side promise (the crate `tidemark-relayer`).

use std::{io::Write as _, net::IpAddr};

use alloy::rpc::json_rpc::{ErrorPayload, ResponsePacket};
use axum::{
    body::Body,
    extract::{FromRequest, Multipart},
    http::{HeaderMap, HeaderName, HeaderValue, Request, request::Parts},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};
use tidemark::{
    canonical::jcs,
    ids::{DataId, sha256},
    nodes::said::Said,
    verdict::Outcome,
};
use tidemark_relayer::{
    api::{
        idempotent,
        signature::Signed,
        submissions,
        trace::{
            BATCH_BYTES_MAX, BATCH_COLUMNS, UPDATE_COLUMNS,
            body::{self, Format, Place},
            item, policy,
        },
    },
    intake::{
        Provider,
        attestation::{KeySet, Statement},
        personal,
        provider::{Attestations, Policies, Settings},
    },
    outbox::address::{check_url, is_public},
    problem::Problem,
    quality::{Claim, Media, judge},
};

/// Where the provider of the corpus publishes its keys.
pub const KEY_URL: &str = "https://numo.example/.well-known/verification-keys.json";
/// When the requests of the corpus were signed, in Unix seconds.
pub const SIGNED_AT: u64 = 1_795_219_200;

/// A refusal is the sender's fault, and says what is wrong in a text that is not much longer than what was sent.
fn is_refusal(problem: &Problem, sent: &[u8]) {
    assert!((400..500).contains(&problem.0.status), "not the sender's fault: {problem:?}");
    assert!(!problem.0.detail.is_empty());
    let said = problem.0.detail.len() + problem.0.field.as_ref().map_or(0, String::len);
    assert!(said <= 16 * sent.len() + 4096, "{said} bytes said of {}", sent.len());
}

fn settings() -> Settings {
    Settings {
        attestation: Attestations::Record,
        key_url: Some(KEY_URL.into()),
        policies: Policies::Record,
        signed_requests: false,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

type Fields = Map<String, Value>;

fn objects(format: Format, is_update: bool, body: &[u8]) -> Result<Vec<(Place, Fields)>, Problem> {
    let columns = if is_update { UPDATE_COLUMNS } else { BATCH_COLUMNS };
    body::items(format, columns, body, |item| Ok((item.place, item.fields)))
}

fn fields(items: &[(Place, Fields)]) -> Vec<&Fields> {
    items.iter().map(|(_, fields)| fields).collect()
}

fn depth(body: &[u8]) -> usize {
    let mut open = 0usize;
    let mut most = 0;
    for byte in body {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// The same items as a file of lines, cut by another reader than the relayer's.
fn as_lines(items: &[&Fields]) -> Vec<u8> {
    items.iter().flat_map(|fields| [serde_json::to_vec(fields).expect("JSON"), b"\r\n \n".to_vec()].concat()).collect()
}

/// The same items as CSV, where they have no more than its columns.
fn as_csv(is_update: bool, items: &[&Fields]) -> Option<Vec<u8>> {
    let columns = if is_update { UPDATE_COLUMNS } else { BATCH_COLUMNS };
    let names = [columns.needed, columns.optional].concat();
    let mut file = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    file.write_record(&names).expect("memory");
    for fields in items {
        if fields.keys().any(|name| !names.contains(&name.as_str())) {
            return None;
        }
        let cell = |name: &&str| match fields.get(*name) {
            None => Some(String::new()),
            Some(value) if name.ends_with("_json") || *name == "consent" => Some(value.to_string()),
            Some(Value::Number(number)) if *name == "seq" && number.is_u64() => Some(number.to_string()),
            // a cell of digits is a number there, and an empty one is none
            Some(Value::String(text)) if !text.is_empty() && (*name != "seq" || text.parse::<u64>().is_err()) => {
                Some(text.clone())
            }
            Some(_) => None,
        };
        file.write_record(names.iter().map(cell).collect::<Option<Vec<String>>>()?).expect("memory");
    }
    Some(file.into_inner().expect("memory"))
}

/// A batch in any of Trace's forms is refused by name or read, and then says the same in every other form; what is taken of
/// it has the roots and ids that it says. The first byte says which form, door and coding.
pub fn trace(data: &[u8]) {
    let Some((how, sent)) = data.split_first() else { return };
    let format = [Format::Json, Format::Ndjson, Format::Csv, Format::Txt][usize::from(how & 3)];
    let (is_update, is_compressed, must_name_id) = (how & 4 != 0, how & 8 != 0, how & 16 != 0);
    let body = if is_compressed {
        match body::inflate(&Bytes::copy_from_slice(sent)) {
            Ok(body) => body,
            Err(problem) => return is_refusal(&problem, sent),
        }
    } else {
        Bytes::copy_from_slice(sent)
    };
    assert!(body.len() <= BATCH_BYTES_MAX, "inflated without end");
    // hundreds of megabytes a second are not what is looked for
    if body.len() > 1 << 20 {
        return;
    }
    if !is_compressed {
        let (first, second) = body.split_at(body.len() / 2);
        let members = [gzip(first), gzip(second)].concat();
        assert_eq!(body::inflate(&members.into()).expect("gzip"), body, "members in a row are one file");
    }

    let read = objects(format, is_update, &body);
    if format == Format::Json && depth(&body) < 100 {
        let whole: Result<Vec<Fields>, _> = serde_json::from_slice(&body);
        match (&read, &whole) {
            (Ok(items), Ok(whole)) => assert_eq!(fields(items), whole.iter().collect::<Vec<_>>()),
            (Ok(_), Err(error)) => panic!("read item by item, and not as a whole: {error}"),
            (Err(_), Ok(whole)) => assert!(whole.is_empty(), "read as a whole, and not item by item"),
            (Err(_), Err(_)) => {}
        }
    }
    match &read {
        Err(problem) => is_refusal(problem, &body),
        Ok(items) => {
            assert!(!items.is_empty() && items.len() <= body.len());
            let said = fields(items);
            let same = |other: Format, written: &[u8]| {
                let read = objects(other, is_update, written).expect("what was read, in another form");
                assert_eq!(fields(&read), said, "{} says another thing", other.name());
            };
            if depth(&body) < 100 {
                same(Format::Json, &serde_json::to_vec(&said).expect("JSON"));
                same(Format::Ndjson, &as_lines(&said));
                same(Format::Txt, &as_lines(&said));
                if let Some(table) = as_csv(is_update, &said) {
                    same(Format::Csv, &table);
                }
            }
            for pair in items.windows(2) {
                match (pair[0].0, pair[1].0) {
                    (Place::Index(a), Place::Index(b)) => assert_eq!(a + 1, b),
                    (Place::Line(a), Place::Line(b)) => assert!(a < b, "lines ascend"),
                    other => panic!("places of two kinds: {other:?}"),
                }
            }
        }
    }

    if is_update {
        match body::items(format, UPDATE_COLUMNS, &body, item::updates(&settings())) {
            Err(problem) => is_refusal(&problem, &body),
            Ok(updates) => {
                for update in updates.into_iter().map(|read| read.item) {
                    assert!((1..=100).contains(&update.seq));
                    is_canonical(&update.metadata, update.metadata_root);
                }
            }
        }
    } else {
        match body::items(format, BATCH_COLUMNS, &body, item::registrations("numo", &settings(), must_name_id)) {
            Err(problem) => is_refusal(&problem, &body),
            Ok(registrations) => {
                for registration in registrations.into_iter().map(|read| read.item) {
                    let id = DataId::new("numo", &registration.source_record_id);
                    assert_eq!(id, Ok(registration.data_id));
                    is_canonical(&registration.metadata, registration.metadata_root);
                }
            }
        }
    }
}

/// Metadata that was taken is canonical, has its root, and tells nobody who a person is.
fn is_canonical(metadata: &str, root: alloy::primitives::B256) {
    assert_eq!(sha256(&[metadata.as_bytes()]), root);
    let value: Value = serde_json::from_str(metadata).expect("JSON");
    assert_eq!(jcs(&value).expect("a form"), metadata.as_bytes());
    assert!(personal::Search::default().check(&value, "").is_ok(), "personal data was taken");
}

/// JSON documents of strangers: policies, key sets, attestations, the `meta` of an upload, what nodes answer; and addresses.
pub fn documents(data: &[u8]) {
    match policy::read(data) {
        Err(problem) => is_refusal(&problem, data),
        Ok((tos, privacy_policy)) => {
            for policy in [tos, privacy_policy] {
                assert!((1..=64).contains(&policy.version.len()) && !policy.hash.is_zero());
                assert!(policy.uri.len() <= 2048 && !policy.uri.contains('\0'));
            }
        }
    }
    match submissions::understood(data) {
        Err(problem) => is_refusal(&problem, data),
        Ok(meta) => {
            let provider = Provider { account: Default::default(), name: "numo".into() };
            match submissions::read(&provider, meta, Bytes::new()) {
                Err(problem) => is_refusal(&problem, data),
                Ok(submission) => {
                    let id = DataId::new("numo", &submission.source_record_id);
                    assert_eq!(id, Ok(submission.data_id));
                    let stored = [&submission.source_record_id, &submission.contributor, &submission.mime_type];
                    assert!(stored.iter().all(|text| !text.contains('\0')), "no database takes it");
                }
            }
        }
    }
    if let Ok(packet) = serde_json::from_slice::<ResponsePacket>(data)
        && let Some(error) = packet.as_error()
    {
        assert!(!Said::in_answer(error).name().is_empty());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let said = |text: String| Said::in_answer(&ErrorPayload { code: -32000, message: text.into(), data: None });
        assert_eq!(said(text.to_lowercase()), said(text.to_owned()), "case decides");
        if let Ok(url) = check_url(text, false) {
            assert_eq!(url.scheme(), "https");
            assert_eq!(check_url(url.as_str(), false).expect("its own text"), url);
            let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
            assert!(literal.is_none_or(is_public), "{url} is inside");
        }
        std::hint::black_box(Claim::parse(text));
        if let Ok(value) = HeaderValue::from_str(text) {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("idempotency-key"), value)]);
            match idempotent::key(&headers) {
                Err(problem) => is_refusal(&problem, data),
                Ok(key) => assert!(key.is_some_and(|key| (1..=255).contains(&key.len()) && !key.contains('"'))),
            }
        }
    }
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    attested(data, &value);
    let canonical: Value = serde_json::from_slice(&jcs(&value).expect("a form")).expect("JSON");
    let found = |value: &Value| personal::Search::default().check(value, "m").err();
    match (found(&value), found(&canonical)) {
        (None, None) => {}
        (Some(problem), Some(_)) => {
            assert_eq!(problem.0.status, 422);
            is_refusal(&problem, data);
        }
        // 37.50 is less precise than it is written
        (now, then) => panic!("the canonical form is judged otherwise: {now:?} {then:?}"),
    }
    // what is remembered of keys changes no answer
    let mut used = personal::Search::default();
    let field = |problem: Problem| problem.0.field;
    let first = used.check(&value, "m").err().map(field);
    assert_eq!(used.check(&value, "m").err().map(field), first, "the second time is judged otherwise");
    // an address is found wherever it stands
    let planted = json!([value, {"note": "kim@example.com"}]);
    assert!(found(&planted).is_some(), "an e-mail address behind it is not found");
    let problem = found(&json!({"note": ["kim@example.com", value]})).expect("a refusal");
    assert!(!format!("{problem:?}").contains("kim@"), "the refusal repeats what it refuses");
}

/// `{"keys": […], "metadata": {…}}`: a key set, and metadata that one of the keys may have signed.
fn attested(data: &[u8], value: &Value) {
    let keys = KeySet::parse(data);
    let metadata = value.get("metadata").unwrap_or(value);
    let Ok(Some(statement)) = Statement::read(metadata, KEY_URL) else { return };
    let Some(key) = keys.as_ref().ok().and_then(|keys| keys.get(&statement.key_id)) else { return };
    assert!(!key.verifies(b"nobody signed this", &[0; 64]), "a signature of nothing holds");
    if statement.check(key).is_ok() {
        let mut changed = metadata.clone();
        changed["fuzz"] = json!("changed");
        let holds = Statement::read(&changed, KEY_URL)
            .is_ok_and(|read| read.is_some_and(|statement| statement.check(key).is_ok()));
        assert!(!holds || metadata.get("fuzz") == Some(&json!("changed")), "a signature of other metadata holds");
    }
}

/// An upload's form comes out the same however it is cut on its way, and nothing comes out that did not go in. The first
/// byte says how many bytes come at once.
pub fn forms(data: &[u8]) {
    let Some((cut, sent)) = data.split_first() else { return };
    let read = |pieces: usize| {
        let pieces: Vec<Result<Bytes, std::io::Error>> =
            sent.chunks(pieces.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let request = Request::post("/").header("content-type", "multipart/form-data; boundary=tide");
        let request = request.body(Body::from_stream(futures::stream::iter(pieces))).expect("a request");
        futures::executor::block_on(async {
            let form = Multipart::from_request(request, &()).await.expect("a boundary");
            submissions::parts_of(form).await
        })
    };
    match (read(sent.len()), read(usize::from(*cut) + 1)) {
        (Ok(whole), Ok(cut)) => {
            assert_eq!(whole, cut, "it matters where it is cut");
            assert!(whole.0.len() + whole.1.len() <= sent.len());
        }
        (Err(whole), Err(cut)) => {
            is_refusal(&whole, sent);
            is_refusal(&cut, sent);
        }
        (whole, cut) => panic!("it matters where it is cut: {whole:?} {cut:?}"),
    }
}

/// A request as text: `METHOD path`, then a header a line.
pub fn request(text: &str) -> Option<Parts> {
    let mut lines = text.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(path);
    for line in lines.take(64) {
        let (name, value) = line.split_once(':')?;
        request = request.header(name, value.trim());
    }
    Some(request.body(()).ok()?.into_parts().0)
}

/// What is said to be signed is a line a component and nothing between them, covers what says what is asked, and is
/// another where that is changed.
pub fn signatures(data: &[u8]) {
    let Some(parts) = std::str::from_utf8(data).ok().and_then(request) else { return };
    let signed = match Signed::read(&parts, SIGNED_AT) {
        Err(problem) => {
            assert_eq!(problem.0.status, 401, "{problem:?}");
            return is_refusal(&problem, data);
        }
        Ok(signed) => signed,
    };
    let lines: Vec<&str> = signed.base.split('\n').collect();
    let (last, components) = lines.split_last().expect("a line");
    assert!(last.starts_with("\"@signature-params\": ("));
    assert!(components.len() <= 32);
    assert!(components.iter().all(|line| line.starts_with('"') && line.contains("\": ")));
    let covers = |line: &str| components.contains(&line);
    assert!(covers(&format!("\"@method\": {}", parts.method)) && covers(&format!("\"@path\": {}", parts.uri.path())));
    assert_eq!(signed.digest.is_some(), matches!(parts.method.as_str(), "POST" | "PUT"));
    for name in
        ["x-provider", "x-batch-id", "x-ingestion-source", "idempotency-key", "content-type", "content-encoding"]
    {
        let mut changed = parts.clone();
        changed.headers.append(name, HeaderValue::from_static("another"));
        if let Ok(other) = Signed::read(&changed, SIGNED_AT) {
            assert_ne!(other.base, signed.base, "{name} can be changed under the signature");
        }
    }
    let mut more = parts.clone();
    more.headers.append("x-unsigned", HeaderValue::from_static("1"));
    if !signed.base.contains("x-unsigned") {
        assert_eq!(Signed::read(&more, SIGNED_AT).expect("the same request").base, signed.base);
    }
    assert!(Signed::read(&parts, SIGNED_AT + 601).is_err(), "a signature for ever");
}

/// The types that the gate takes, by the first byte of an input.
pub const MIMES: [&str; 11] = [
    "audio/wav",
    "audio/flac",
    "audio/mpeg",
    "audio/ogg",
    "audio/mp4",
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "video/mp4",
    "video/quicktime",
];

/// Any file gets a verdict; an accepted one is within all bounds, and what is accepted as one thing is accepted as no other.
pub fn media(data: &[u8]) {
    let Some((mime, file)) = data.split_first() else { return };
    let at = usize::from(*mime) % MIMES.len();
    let claim = Claim::parse(MIMES[at]).expect("a type of the list");
    let judgement = judge(file, claim);
    assert!(!judgement.detail.is_empty() && judgement.detail.len() < 4096, "{judgement:?}");
    assert_ne!(judgement.outcome, Outcome::Duplicate, "the attestor's to say");
    assert_eq!(judgement.outcome == Outcome::Empty, file.is_empty());
    if judgement.outcome != Outcome::Accepted {
        return;
    }
    let facts = &judgement.facts;
    let sides = || facts.width.unwrap_or(0).min(facts.height.unwrap_or(0));
    match claim.media {
        Media::Voice => {
            assert!((500..=60_000).contains(&facts.duration_ms.unwrap_or(0)), "{facts:?}");
            assert!(facts.sample_rate_hz.unwrap_or(0) >= 16_000, "{facts:?}");
        }
        Media::Photo => {
            assert!(sides() >= 64 && facts.width.max(facts.height).unwrap_or(0) <= 8_192, "{facts:?}");
        }
        Media::Video => {
            assert!((1_000..=60_000).contains(&facts.duration_ms.unwrap_or(0)), "{facts:?}");
            assert!(sides() >= 64 && facts.frames.unwrap_or(0) > 0, "{facts:?}");
        }
    }
    let other = Claim::parse(MIMES[(at + 5) % MIMES.len()]).expect("a type of the list");
    assert_ne!(judge(file, other).outcome, Outcome::Accepted, "two kinds of media in one file");
}
