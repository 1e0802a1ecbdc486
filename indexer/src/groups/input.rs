//! What somebody asks a group of: JSON members, or a file of lines or columns; each item that is wrong is named.

use std::collections::HashSet;

use alloy::primitives::B256;
use serde_json::{Map, Value};
use tidemark::ids::{ContentHash, SOURCE_RECORD_ID_BYTES_MAX};
use uuid::Uuid;

use super::{ITEMS_MAX, Kind};
use crate::problem::Problem;

const TITLE_BYTES_MAX: usize = 200;
const DESCRIPTION_BYTES_MAX: usize = 2_000;
const PROVIDER_BYTES_MAX: usize = 256;
/// Members that say what the group is of; one of them has to be there, and no two.
const SOURCES: [&str; 5] = ["source_record_ids", "source_record_ids_text", "hashes", "hashes_text", "upload_id"];

/// A record that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it stands, for errors.
    pub field: String,
    /// Whose; none where the request does not say.
    pub provider: Option<String>,
    /// The provider's own id.
    pub source_record_id: String,
}

/// What a group is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Records, no two alike.
    Records(Vec<Item>),
    /// Hashes in the order of their first appearance, and how many were sent.
    Hashes {
        /// No two alike.
        unique: Vec<B256>,
        /// With repetitions.
        submitted: usize,
    },
}

/// Where the items are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the request.
    Here(Asked),
    /// In a file that was uploaded before, read as this kind where the request says so.
    Upload(Uuid, Option<Kind>),
}

/// A request for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// For people.
    pub title: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Whose records, where an item does not say.
    pub provider: Option<String>,
    /// Of what.
    pub source: Source,
}

/// A request's body.
pub fn request(body: &[u8]) -> Result<Request, Problem> {
    let parsed = serde_json::from_slice(body);
    let Value::Object(mut members) = parsed.map_err(|error| Problem::invalid("body", "JSON", error.to_string()))?
    else {
        return Err(Problem::invalid("body", "a JSON object", "another value"));
    };
    members.retain(|_, value| !value.is_null());
    let title = words(&members, "title", TITLE_BYTES_MAX)?;
    let description = words(&members, "description", DESCRIPTION_BYTES_MAX)?;
    let provider = words(&members, "provider", PROVIDER_BYTES_MAX)?;
    let given: Vec<&str> = SOURCES.into_iter().filter(|name| members.contains_key(*name)).collect();
    let expected = || format!("just one of {}", SOURCES.join(", "));
    let name = match given.as_slice() {
        [] => return Err(Problem::invalid("source_record_ids", expected(), "none of them")),
        [name] => *name,
        [_, second, ..] => return Err(Problem::invalid(second, expected(), given.join(", "))),
    };
    let source = match name {
        "upload_id" => {
            let text = members.get(name).and_then(Value::as_str).unwrap_or_default();
            let id = text.parse().map_err(|_| Problem::invalid(name, "the upload_id of an upload", text))?;
            Source::Upload(id, kind(&members)?)
        }
        "source_record_ids" => Source::Here(records(array(&members, name)?, provider.as_deref())?),
        "source_record_ids_text" => {
            let text = text(&members, name)?;
            Source::Here(records(numbered(name, text.lines()), provider.as_deref())?)
        }
        "hashes" => Source::Here(hashes(array(&members, name)?)?),
        _ => {
            let text = text(&members, name)?;
            Source::Here(hashes(numbered(name, text.split(|c: char| c == ',' || c.is_whitespace())))?)
        }
    };
    Ok(Request { title, description, provider, source })
}

fn kind(members: &Map<String, Value>) -> Result<Option<Kind>, Problem> {
    let Some(value) = members.get("manifest_kind") else { return Ok(None) };
    let kind = value.as_str().and_then(Kind::named);
    let wrong = || Problem::invalid("manifest_kind", "source_record or hash", value.to_string());
    kind.map(Some).ok_or_else(wrong)
}

fn words(members: &Map<String, Value>, name: &str, bytes_max: usize) -> Result<Option<String>, Problem> {
    let Some(value) = members.get(name) else { return Ok(None) };
    let fits = |text: &&str| !text.is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control);
    let wrong = || Problem::invalid(name, format!("1 to {bytes_max} bytes of text in one line"), value.to_string());
    value.as_str().filter(fits).map(|text| Some(text.to_owned())).ok_or_else(wrong)
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Result<&'a str, Problem> {
    let value = members.get(name).and_then(Value::as_str);
    value.ok_or_else(|| Problem::invalid(name, "text, an item a line", "another value"))
}

/// Items with the place of each.
type Placed<'a> = Vec<(String, &'a str)>;

fn array<'a>(members: &'a Map<String, Value>, name: &str) -> Result<Placed<'a>, Problem> {
    let Some(Value::Array(values)) = members.get(name) else {
        return Err(Problem::invalid(name, "an array of texts", "another value"));
    };
    let placed = values.iter().enumerate().map(|(at, value)| {
        let field = format!("{name}[{at}]");
        match value.as_str() {
            Some(text) => Ok((field, text)),
            None => Err(Problem::invalid(&field, "a text", value.to_string())),
        }
    });
    placed.take(ITEMS_MAX + 1).collect()
}

/// Items of a text, without empty ones.
fn numbered<'a>(name: &str, parts: impl Iterator<Item = &'a str>) -> Placed<'a> {
    let items = parts.map(str::trim).filter(|part| !part.is_empty());
    items.enumerate().map(|(at, item)| (format!("{name}[{at}]"), item)).take(ITEMS_MAX + 1).collect()
}

fn bounded<T>(items: &[T]) -> Result<(), Problem> {
    match items.len() {
        0 => Err(Problem::invalid("items", "at least one item", "none")),
        1..=ITEMS_MAX => Ok(()),
        _ => Err(Problem::invalid("items", format!("at most {ITEMS_MAX} items"), "more")),
    }
}

fn records(placed: Placed<'_>, provider: Option<&str>) -> Result<Asked, Problem> {
    let items = placed.into_iter().map(|(field, id)| (field, provider.map(str::to_owned), id.to_owned())).collect();
    checked(items)
}

fn checked(items: Vec<(String, Option<String>, String)>) -> Result<Asked, Problem> {
    bounded(&items)?;
    let mut seen = HashSet::new();
    let mut records = Vec::with_capacity(items.len());
    for (field, provider, id) in items {
        let id = id.trim();
        let fits = (1..=SOURCE_RECORD_ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
        if !fits {
            return Err(Problem::invalid(&field, "1 to 512 bytes without control characters", id));
        }
        if provider.as_ref().is_some_and(|name| name.len() > PROVIDER_BYTES_MAX || name.contains('\0')) {
            return Err(Problem::invalid(&field, "a provider's name, or its account", "another text"));
        }
        if !seen.insert((provider.clone(), id.to_owned())) {
            return Err(Problem::invalid(&field, "each record once", format!("{id} again")));
        }
        records.push(Item { field, provider, source_record_id: id.to_owned() });
    }
    Ok(Asked::Records(records))
}

fn hashes(placed: Placed<'_>) -> Result<Asked, Problem> {
    bounded(&placed)?;
    let submitted = placed.len();
    let mut seen = HashSet::new();
    let mut unique = Vec::with_capacity(submitted);
    for (field, text) in placed {
        let hash = ContentHash::parse(text).map_err(|_| {
            Problem::invalid(&field, "a SHA-256: sha256:<64 hex digits>, the digits alone or 0x<digits>", text)
        })?;
        if seen.insert(hash.0) {
            unique.push(hash.0);
        }
    }
    Ok(Asked::Hashes { unique, submitted })
}

/// An uploaded file. Where nobody says what it is of: of hashes where there is nothing else in it.
pub fn file(format: &str, body: &[u8], kind: Option<Kind>, provider: Option<&str>) -> Result<Asked, Problem> {
    let text = std::str::from_utf8(body);
    let text = text.map_err(|error| Problem::invalid("upload", "UTF-8 text", format!("{error}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        "csv" => table(text, kind, provider),
        _ => lines(text, kind, provider),
    }
}

fn lines(text: &str, kind: Option<Kind>, provider: Option<&str>) -> Result<Asked, Problem> {
    let placed = text.lines().enumerate().map(|(at, line)| (format!("upload line {}", at + 1), line.trim()));
    let placed: Placed<'_> = placed.filter(|(_, line)| !line.is_empty()).take(ITEMS_MAX + 1).collect();
    let all_hashes = || placed.iter().all(|(_, line)| ContentHash::parse(line).is_ok());
    match kind.unwrap_or_else(|| if all_hashes() { Kind::Hash } else { Kind::SourceRecord }) {
        Kind::Hash => hashes(placed),
        Kind::SourceRecord => records(placed, provider),
    }
}

fn table(text: &str, kind: Option<Kind>, provider: Option<&str>) -> Result<Asked, Problem> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let broken = |error: &csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        Problem::invalid(&format!("upload line {line}"), "CSV with a line of column names", error.to_string())
    };
    let names: Vec<String> = match reader.headers() {
        Ok(names) => names.iter().map(|name| name.trim().to_ascii_lowercase()).collect(),
        Err(error) => return Err(broken(&error)),
    };
    let column = |wanted: &[&str]| names.iter().position(|name| wanted.contains(&name.as_str()));
    let by_record = column(&["source_record_id", "media_id_public"]);
    let by_hash = column(&["hash", "asset_hash", "content_hash", "content_sha256"]);
    let whose = column(&["provider"]);
    let chosen = match (kind, by_record, by_hash) {
        (Some(Kind::Hash), _, Some(at)) | (None, None, Some(at)) => Some((Kind::Hash, at)),
        (Some(Kind::SourceRecord) | None, Some(at), _) => Some((Kind::SourceRecord, at)),
        _ => None,
    };
    let Some((kind, at)) = chosen else {
        return Err(Problem::invalid("upload line 1", "a column source_record_id, or hash", names.join(",")));
    };
    let mut rows = Vec::new();
    for row in reader.records().take(ITEMS_MAX + 1) {
        let row = row.map_err(|error| broken(&error))?;
        let cell = |at: usize| row.get(at).map(str::trim).unwrap_or_default().to_owned();
        let line = row.position().map_or(0, csv::Position::line);
        let own = whose.map(cell).filter(|name| !name.is_empty());
        rows.push((format!("upload line {line}"), own.or_else(|| provider.map(str::to_owned)), cell(at)));
    }
    match kind {
        Kind::SourceRecord => checked(rows),
        Kind::Hash => hashes(rows.iter().map(|(field, _, cell)| (field.clone(), cell.as_str())).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(body: Value) -> Result<Request, Problem> {
        request(body.to_string().as_bytes())
    }

    fn refused(body: Value) -> String {
        let problem = of(body).unwrap_err();
        assert_eq!(problem.status, 400);
        problem.field.clone().unwrap()
    }

    fn hash(byte: &str) -> String {
        byte.repeat(32)
    }

    #[test]
    fn each_form_of_the_same_list_is_the_same() {
        let request = of(json!({"provider": "numo", "source_record_ids": ["a", " b "]})).unwrap();
        let Source::Here(Asked::Records(items)) = &request.source else { panic!("{request:?}") };
        let ids: Vec<_> = items.iter().map(|item| (item.provider.as_deref(), item.source_record_id.as_str())).collect();
        assert_eq!(ids, [(Some("numo"), "a"), (Some("numo"), "b")]);
        let text = of(json!({"provider": "numo", "source_record_ids_text": "a\r\n\n b\n"})).unwrap();
        let Source::Here(Asked::Records(lines)) = &text.source else { panic!("{text:?}") };
        assert_eq!(lines.iter().map(|item| &item.source_record_id).collect::<Vec<_>>(), ["a", "b"]);
        let (one, two) = (hash("aa"), hash("bb"));
        let hashes = of(json!({"hashes": [one, format!("0x{one}"), format!("sha256:{two}")]})).unwrap();
        let text = of(json!({"hashes_text": format!("{one}, 0x{one}\n{two}")})).unwrap();
        assert_eq!(hashes.source, text.source);
        let expected = Asked::Hashes { unique: vec![B256::repeat_byte(0xaa), B256::repeat_byte(0xbb)], submitted: 3 };
        assert_eq!(hashes.source, Source::Here(expected));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many: Vec<String> = (0..=ITEMS_MAX).map(|at| at.to_string()).collect();
        for (body, field) in [
            (json!({}), "source_record_ids"),
            (json!({"source_record_ids": ["a"], "hashes": ["b"]}), "hashes"),
            (json!({"hashes": ["aa"], "upload_id": "x"}), "upload_id"),
            (json!({"source_record_ids": "a"}), "source_record_ids"),
            (json!({"source_record_ids": ["a", 1]}), "source_record_ids[1]"),
            (json!({"source_record_ids": ["a", "b", "a "]}), "source_record_ids[2]"),
            (json!({"source_record_ids": ["a\u{0}"]}), "source_record_ids[0]"),
            (json!({"source_record_ids": []}), "items"),
            (json!({"source_record_ids": many}), "items"),
            (json!({"hashes": ["sha256:12"]}), "hashes[0]"),
            (json!({"hashes_text": "'; DROP TABLE record; --"}), "hashes_text[0]"),
            (json!({"upload_id": "1"}), "upload_id"),
            (json!({"hashes": [hash("aa")], "title": "a\u{0}"}), "title"),
            (json!({"hashes": [hash("aa")], "title": "x".repeat(201)}), "title"),
            (json!({"upload_id": Uuid::nil(), "manifest_kind": "other"}), "manifest_kind"),
        ] {
            assert_eq!(refused(body.clone()), field, "{}", body.to_string().get(..60).unwrap_or("short"));
        }
        assert_eq!(request(b"[{").unwrap_err().field.as_deref(), Some("body"));
        assert_eq!(request(b"[]").unwrap_err().field.as_deref(), Some("body"));
        assert_eq!(request("[".repeat(100_000).as_bytes()).unwrap_err().status, 400);
    }

    #[test]
    fn a_file_is_of_records_or_of_hashes_and_a_row_may_name_its_provider() {
        let csv = "\u{feff}Provider,source_record_id,asset_hash\nnumo,a,x\n,\"b,c\",y\n";
        let Asked::Records(items) = file("csv", csv.as_bytes(), None, Some("oto")).unwrap() else { panic!("hashes") };
        let ids: Vec<_> = items.iter().map(|item| (item.provider.as_deref(), item.source_record_id.as_str())).collect();
        assert_eq!(ids, [(Some("numo"), "a"), (Some("oto"), "b,c")]);
        let (one, two) = (hash("aa"), hash("bb"));
        let table = format!("hash\n{one}\n{two}\n{one}\n");
        assert!(matches!(file("csv", table.as_bytes(), None, None), Ok(Asked::Hashes { submitted: 3, .. })));
        assert!(matches!(file("txt", format!("{one}\n").as_bytes(), None, None), Ok(Asked::Hashes { .. })));
        let kind = Some(Kind::SourceRecord);
        assert!(matches!(file("txt", format!("{one}\n").as_bytes(), kind, None), Ok(Asked::Records(_))));
        assert!(matches!(file("txt", b"a\nb\n", None, None), Ok(Asked::Records(_))));
        for (format, body, field) in [
            ("txt", &b"a\n\na\n"[..], "upload line 3"),
            ("txt", b"", "items"),
            ("txt", b"\xff\xfe", "upload"),
            ("csv", b"name\nx\n", "upload line 1"),
            ("csv", b"source_record_id,provider\na\n", "upload line 2"),
            ("csv", b"hash\nzz\n", "upload line 2"),
        ] {
            assert_eq!(file(format, body, None, None).unwrap_err().field.as_deref(), Some(field));
        }
    }
}
