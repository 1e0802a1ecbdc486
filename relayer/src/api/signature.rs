//! Requests that a provider signs (RFC 9421), so that an API key that leaks is of no use by itself.
//!
//! Signed are method, path, query, body (by its Content-Digest, RFC 9530) and the headers that say what is asked. Keys
//! are those of the provider's attestations. A request that is sent again within its time does what it did: writes here
//! are idempotent.

use std::{collections::BTreeSet, io};

use alloy::primitives::B256;
use axum::{
    body::Body,
    extract::Request,
    http::{Method, request::Parts},
};
use futures::StreamExt;
use sfv::{Dictionary, FieldType, InnerList, List, ListEntry, Parser};
use sha2::{Digest, Sha256};

use crate::{
    app::App,
    intake::{
        attestation::{Key, Refusal},
        provider::Caller,
        unix_now,
    },
    problem::{Kind, Problem},
};

/// Seconds around our clock in which a signature counts.
const WINDOW_SECONDS: u64 = 300;
const COMPONENTS_MAX: usize = 32;
const FIELD_BYTES_MAX: usize = 4096;
/// Headers that say what is asked: signed where they are there.
const HEADERS: [&str; 6] =
    ["x-provider", "x-batch-id", "x-ingestion-source", "idempotency-key", "content-type", "content-encoding"];

fn refused(field: &str, expected: impl Into<String>, actual: impl Into<String>) -> Problem {
    Problem::field(Kind::RequestSignatureInvalid, field, expected, actual)
}

/// Lets a request through that its provider signed, where the provider wants that of its requests.
pub async fn check(app: &App, caller: &Caller, request: Request) -> Result<Request, Problem> {
    if !caller.settings.signed_requests {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let signed = Signed::read(&parts, unix_now())?;
    let url = caller.settings.key_url.as_deref().unwrap_or_default();
    let ids = BTreeSet::from([signed.key_id.as_str()]);
    let Some(mut keys) = app.keys.find(&app.db, caller.provider.account, url, &ids).await? else {
        let error = anyhow::anyhow!("no JWK set of {}", caller.provider.name);
        return Err(Problem::unavailable("the JWK set at the provider's key_url", error));
    };
    let key = match keys.remove(&signed.key_id) {
        Some(Ok(key)) => key,
        Some(Err(Refusal { expected, actual, .. })) => {
            return Err(refused("Signature-Input", format!("keyid: {expected}"), actual));
        }
        None => return Err(Problem::internal(anyhow::anyhow!("a key was asked for and not answered"))),
    };
    signed.verify(&key)?;
    let body = match signed.digest {
        Some(digest) => digested(body, digest),
        None => body,
    };
    Ok(Request::from_parts(parts, body))
}

/// A signature that is well formed, covers what it has to, and is of our time.
pub struct Signed {
    /// Of the key that is said to have signed.
    pub key_id: String,
    algorithm: Option<String>,
    /// What was signed (RFC 9421, section 2.5).
    pub base: String,
    signature: [u8; 64],
    /// Of the body.
    pub digest: Option<B256>,
}

impl Signed {
    /// Reads the headers of a request at a time in Unix seconds; says nothing yet of the key.
    pub fn read(parts: &Parts, now: u64) -> Result<Self, Problem> {
        let inputs = dictionary(parts, "Signature-Input")?;
        let mut inputs = inputs.iter();
        let (Some((label, ListEntry::InnerList(input))), None) = (inputs.next(), inputs.next()) else {
            return Err(refused("Signature-Input", "one signature's list of components", "none, or more"));
        };
        let signatures = dictionary(parts, "Signature")?;
        let signature = match signatures.get(label.as_str()) {
            Some(ListEntry::Item(item)) => item.bare_item.as_byte_sequence(),
            _ => None,
        };
        let signature = signature
            .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok())
            .ok_or_else(|| refused("Signature", format!("{label}=:base64 of 64 bytes:"), "something else"))?;

        let text = |name: &str| input.params.get(name).and_then(|value| value.as_string()).map(|text| text.as_str());
        let number = |name: &str| input.params.get(name).and_then(|value| value.as_integer()).map(i64::from);
        let key_id =
            text("keyid").ok_or_else(|| refused("Signature-Input", "keyid, the id of a published key", "none"))?;
        let within = |at: &i64| u64::try_from(*at).is_ok_and(|at| at.abs_diff(now) <= WINDOW_SECONDS);
        if number("created").filter(within).is_none() {
            let actual = number("created").map_or("none".to_owned(), |at| at.to_string());
            let expected = format!("created within {WINDOW_SECONDS} s of {now} (Unix seconds)");
            return Err(refused("Signature-Input", expected, actual));
        }
        if let Some(expires) = number("expires").filter(|at| !u64::try_from(*at).is_ok_and(|at| at >= now)) {
            return Err(refused(
                "Signature-Input",
                format!("expires at {now} (Unix seconds) or later"),
                expires.to_string(),
            ));
        }
        let base = base(parts, input)?;
        let covered: BTreeSet<&str> =
            input.items.iter().filter_map(|item| Some(item.bare_item.as_string()?.as_str())).collect();
        if let Some(missing) = needed(parts).into_iter().find(|name| !covered.contains(name)) {
            return Err(refused("Signature-Input", format!("the component {missing:?} among the signed ones"), "none"));
        }
        let digest = if has_body(parts) { Some(digest(parts)?) } else { None };
        let algorithm = input.params.get("alg").map(|_| text("alg").unwrap_or_default().to_owned());
        Ok(Self { key_id: key_id.to_owned(), algorithm, base, signature, digest })
    }

    fn verify(&self, key: &Key) -> Result<(), Problem> {
        // RFC 9421 names no algorithm for secp256k1: a signature of such a key goes without alg
        let name = match key {
            Key::Ed25519(_) => "ed25519",
            Key::P256(_) => "ecdsa-p256-sha256",
            Key::K256(_) => "",
        };
        if let Some(algorithm) = self.algorithm.as_deref().filter(|algorithm| *algorithm != name) {
            let expected =
                if name.is_empty() { "no alg with this key".to_owned() } else { format!("alg {name:?}, or none") };
            return Err(refused("Signature-Input", expected, algorithm));
        }
        if !key.verifies(self.base.as_bytes(), &self.signature) {
            // the components are not repeated: one of them may be the API key
            let expected = format!("one by key {:?} over the components of Signature-Input", self.key_id);
            return Err(refused("Signature", expected, "one that does not fit"));
        }
        Ok(())
    }
}

fn has_body(parts: &Parts) -> bool {
    matches!(parts.method, Method::POST | Method::PUT)
}

/// What a signature has to cover.
fn needed(parts: &Parts) -> Vec<&'static str> {
    let mut needed = vec!["@method", "@path"];
    if parts.uri.query().is_some() {
        needed.push("@query");
    }
    if has_body(parts) {
        needed.push("content-digest");
    }
    needed.extend(HEADERS.into_iter().filter(|name| parts.headers.contains_key(*name)));
    needed
}

/// The signature base (RFC 9421, section 2.5).
fn base(parts: &Parts, input: &InnerList) -> Result<String, Problem> {
    if input.items.len() > COMPONENTS_MAX {
        let actual = input.items.len().to_string();
        return Err(refused("Signature-Input", format!("at most {COMPONENTS_MAX} components"), actual));
    }
    let mut base = String::new();
    let mut seen = BTreeSet::new();
    for item in &input.items {
        let name = item.bare_item.as_string().map(|name| name.as_str()).filter(|_| item.params.is_empty());
        let name =
            name.ok_or_else(|| refused("Signature-Input", "names of components, without parameters", "another"))?;
        if !seen.insert(name) {
            return Err(refused("Signature-Input", "each component once", format!("{name:?} twice")));
        }
        base.push_str(&format!("\"{name}\": {}\n", component(parts, name)?));
    }
    let list: List = vec![ListEntry::InnerList(input.clone())];
    base.push_str(&format!("\"@signature-params\": {}", list.serialize().unwrap_or_default()));
    Ok(base)
}

fn component(parts: &Parts, name: &str) -> Result<String, Problem> {
    match name {
        "@method" => Ok(parts.method.as_str().to_owned()),
        "@path" => Ok(parts.uri.path().to_owned()),
        "@query" => Ok(format!("?{}", parts.uri.query().unwrap_or_default())),
        "@authority" => Ok(field(parts, "host")?.to_ascii_lowercase()),
        derived if derived.starts_with('@') => {
            Err(refused("Signature-Input", "@method, @path, @query, @authority, or names of headers", derived))
        }
        header if header.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Err(refused("Signature-Input", "names of headers in lower case", header))
        }
        header => field(parts, header),
    }
}

/// A header's values in one, as RFC 9421, section 2.1, writes them.
fn field(parts: &Parts, name: &str) -> Result<String, Problem> {
    let values: Option<Vec<&str>> =
        parts.headers.get_all(name).iter().map(|value| value.to_str().ok().map(str::trim)).collect();
    match values {
        Some(values) if !values.is_empty() => Ok(values.join(", ")),
        Some(_) => Err(refused(name, "a header that is signed", "none")),
        None => Err(refused(name, "visible ASCII", "something else")),
    }
}

fn dictionary(parts: &Parts, name: &str) -> Result<Dictionary, Problem> {
    let text = field(parts, name)?;
    let parsed = (text.len() <= FIELD_BYTES_MAX).then(|| Parser::new(&text).parse::<Dictionary>().ok()).flatten();
    parsed.ok_or_else(|| {
        refused(name, format!("a dictionary (RFC 9651) of at most {FIELD_BYTES_MAX} bytes"), "something else")
    })
}

/// The body's SHA-256 by its header (RFC 9530).
fn digest(parts: &Parts) -> Result<B256, Problem> {
    let digests = dictionary(parts, "Content-Digest")?;
    let bytes = match digests.get("sha-256") {
        Some(ListEntry::Item(item)) => item.bare_item.as_byte_sequence(),
        _ => None,
    };
    let digest = bytes.and_then(|bytes| B256::try_from(bytes).ok());
    digest.ok_or_else(|| refused("Content-Digest", "sha-256=:base64 of 32 bytes:", "something else"))
}

/// A body that ends in an error where it is not the one that was signed: whoever reads it reads it to the end.
fn digested(body: Body, expected: B256) -> Body {
    let state = (body.into_data_stream(), Sha256::new());
    Body::from_stream(futures::stream::try_unfold(state, move |(mut stream, mut hasher)| async move {
        match stream.next().await {
            Some(chunk) => {
                let chunk = chunk.map_err(io::Error::other)?;
                hasher.update(&chunk);
                Ok(Some((chunk, (stream, hasher))))
            }
            None if hasher.finalize().as_slice() == expected.as_slice() => Ok(None),
            None => Err(io::Error::other("it is not the one that Content-Digest names")),
        }
    }))
}

#[cfg(test)]
mod tests {
    use axum::http::request;

    use super::*;
    use crate::intake::attestation::KeySet;

    const NOW: u64 = 1_618_884_473;
    const RFC_INPUT: &str = "(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\")\
                             ;created=1618884473;keyid=\"test-key-ed25519\"";

    /// The request of RFC 9421, appendix B.2.
    fn rfc_request() -> request::Builder {
        Request::post("/foo?param=Value&Pet=dog")
            .header("host", "example.com")
            .header("date", "Tue, 20 Apr 2021 02:07:55 GMT")
            .header("content-type", "application/json")
            .header("content-length", "18")
    }

    fn parts(builder: request::Builder) -> Parts {
        builder.body(()).unwrap().into_parts().0
    }

    fn list(text: &str) -> InnerList {
        match Parser::new(text).parse::<List>().unwrap().remove(0) {
            ListEntry::InnerList(list) => list,
            ListEntry::Item(_) => panic!("no list"),
        }
    }

    #[test]
    fn the_ed25519_example_of_rfc_9421_verifies() {
        // appendix B.1.4 and B.2.6
        let jwks = br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "test-key-ed25519",
                        "x": "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}]}"#;
        let key = KeySet::parse(jwks).unwrap().get("test-key-ed25519").unwrap().clone();
        let base = base(&parts(rfc_request()), &list(RFC_INPUT)).unwrap();
        assert_eq!(base.lines().nth(2), Some("\"@path\": /foo"));
        assert_eq!(base.lines().last().unwrap(), format!("\"@signature-params\": {RFC_INPUT}"));
        let item = ":wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:";
        let item = Parser::new(item).parse::<sfv::Item>().unwrap();
        let signature: [u8; 64] = item.bare_item.as_byte_sequence().unwrap().try_into().unwrap();
        assert!(key.verifies(base.as_bytes(), &signature));
        assert!(!key.verifies(base.replace("/foo", "/bar").as_bytes(), &signature));
    }

    fn signed(input: &str) -> request::Builder {
        let signature = format!("sig=:{}A==:", "A".repeat(85));
        Request::post("/v1/x")
            .header("x-provider", "numo")
            .header("content-digest", format!("sha-256=:{}=:", "A".repeat(43)))
            .header("signature-input", format!("sig={input}"))
            .header("signature", signature)
    }

    const ALL: &str = "(\"@method\" \"@path\" \"x-provider\" \"content-digest\")";

    fn problem(builder: request::Builder) -> (String, String) {
        let problem = Signed::read(&parts(builder), NOW).err().expect("a refusal");
        assert_eq!((problem.slug(), problem.0.status), ("request-signature-invalid", 401));
        (problem.0.field.unwrap(), problem.0.expected.unwrap())
    }

    #[test]
    fn a_signature_covers_what_is_asked_and_is_of_now() {
        let good = signed(&format!("{ALL};created={NOW};keyid=\"k\""));
        let read = Signed::read(&parts(good), NOW + WINDOW_SECONDS).unwrap();
        assert_eq!((read.key_id.as_str(), read.digest), ("k", Some(B256::ZERO)));
        let with = |input: String| problem(signed(&input));
        for component in ["@method", "@path", "x-provider", "content-digest"] {
            let less = ALL.replace(&format!("\"{component}\""), "\"host\"");
            let builder = signed(&format!("{less};created={NOW};keyid=\"k\"")).header("host", "a");
            assert_eq!(problem(builder).1, format!("the component {component:?} among the signed ones"));
        }
        for header in HEADERS.into_iter().filter(|header| *header != "x-provider") {
            let builder = signed(&format!("{ALL};created={NOW};keyid=\"k\"")).header(header, "x");
            assert_eq!(problem(builder).1, format!("the component {header:?} among the signed ones"));
        }
        let query = signed(&format!("{ALL};created={NOW};keyid=\"k\"")).uri("/v1/x?a=b");
        assert_eq!(problem(query).1, "the component \"@query\" among the signed ones");
        for time in
            [format!(";created={}", NOW - 301), format!(";created={}", NOW + 301), String::new(), ";created=-1".into()]
        {
            assert!(with(format!("{ALL}{time};keyid=\"k\"")).1.starts_with("created within 300 s"), "{time}");
        }
        for time in [NOW - 1, 0] {
            assert!(with(format!("{ALL};created={NOW};expires={time};keyid=\"k\"")).1.starts_with("expires at"));
        }
        assert!(with(format!("{ALL};created={NOW}")).1.starts_with("keyid"));
    }

    #[test]
    fn what_is_malformed_or_missing_is_named() {
        let end = format!(";created={NOW};keyid=\"k\"");
        let with = |input: &str| problem(signed(&format!("{input}{end}")));
        assert_eq!(with("(\"@method\" \"@method\")").1, "each component once");
        assert_eq!(with("(\"@status\")").1, "@method, @path, @query, @authority, or names of headers");
        assert_eq!(with("(\"X-Provider\")").1, "names of headers in lower case");
        assert_eq!(with("(\"x-provider\";sf)").1, "names of components, without parameters");
        assert_eq!(with("(\"x-absent\")"), ("x-absent".into(), "a header that is signed".into()));
        let many = (0..=COMPONENTS_MAX).map(|at| format!("\"h{at}\"")).collect::<Vec<_>>().join(" ");
        assert_eq!(with(&format!("({many})")).1, "at most 32 components");
        assert_eq!(problem(Request::post("/")).0, "Signature-Input");
        assert_eq!(problem(signed(&format!("{ALL}{end}, b=(){end}"))).1, "one signature's list of components");
        assert_eq!(
            problem(Request::post("/").header("signature-input", "sig=1")).1,
            "one signature's list of components"
        );
        assert_eq!(problem(Request::post("/").header("signature-input", "(")).0, "Signature-Input");
        let input = format!("sig={ALL}{end}");
        let bare = || Request::post("/").header("x-provider", "numo").header("signature-input", input.as_str());
        assert_eq!(problem(bare()).0, "Signature");
        assert_eq!(problem(bare().header("signature", "sig=:AA==:")).0, "Signature");
        assert_eq!(problem(bare().header("signature", "other=:AA==:")).0, "Signature");
        let digest = signed(&format!("{ALL}{end}")).header("content-digest", "sha-256=:AA==:");
        assert_eq!(problem(digest).0, "Content-Digest");
    }

    #[tokio::test]
    async fn a_body_that_is_not_the_signed_one_ends_in_an_error() {
        let digest = B256::from_slice(&Sha256::digest(b"hello"));
        let read = async |body: &'static str| axum::body::to_bytes(digested(Body::from(body), digest), 100).await;
        assert_eq!(read("hello").await.unwrap(), "hello");
        assert!(read("hellO").await.is_err());
        assert!(read("").await.is_err());
    }
}
