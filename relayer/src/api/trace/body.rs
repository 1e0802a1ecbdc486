//! Bodies of batches in Trace's four forms, inflated in bounds and cut into items that know where they stand.

use std::{fmt, io::Read};

use axum::http::HeaderMap;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::{
    Deserializer as _,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::{BATCH_BYTES_MAX, RECORD_BYTES_MAX, item::Item};
use crate::{
    http,
    problem::{Kind, Problem},
};

/// How a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON array.
    Json,
    /// A JSON object a line, compressed.
    Ndjson,
    /// RFC 4180 with a line of column names; `*_json` and `consent` hold JSON.
    Csv,
    /// A JSON object a line. Trace publishes no text form; this one is ours.
    Txt,
}

impl Format {
    /// As in the answer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Txt => "txt",
        }
    }

    fn mime(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
            Self::Txt => "text/plain",
        }
    }

    /// Checks what the headers say of the body; tells whether it is compressed.
    pub fn check(self, headers: &HeaderMap) -> Result<bool, Problem> {
        let unsupported = |name: &str, expected: &str, actual: &str| {
            Err(Problem::field(Kind::MediaTypeUnsupported, name, expected, actual))
        };
        match http::header_text(headers, "content-type")? {
            Some(mime) if !is_utf8(mime) => return unsupported("Content-Type", "UTF-8", mime),
            Some(mime) if essence(mime).eq_ignore_ascii_case(self.mime()) => {}
            Some(mime) => return unsupported("Content-Type", self.mime(), mime),
            None if self == Self::Json => {}
            None => return unsupported("Content-Type", self.mime(), "none"),
        }
        match http::header_text(headers, "content-encoding")? {
            Some(encoding) if encoding.eq_ignore_ascii_case("gzip") => Ok(true),
            other if self == Self::Ndjson => unsupported("Content-Encoding", "gzip", other.unwrap_or("none")),
            None | Some("identity") => Ok(false),
            Some(encoding) => unsupported("Content-Encoding", "gzip, or none", encoding),
        }
    }
}

fn essence(mime: &str) -> &str {
    mime.split(';').next().unwrap_or_default().trim()
}

fn is_utf8(mime: &str) -> bool {
    mime.split(';').skip(1).all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    })
}

/// Undoes gzip (RFC 1952), in bounds: what is larger is not inflated to its end.
pub fn inflate(body: &Bytes) -> Result<Bytes, Problem> {
    let mut inflated = Vec::new();
    let mut bounded = MultiGzDecoder::new(body.as_ref()).take(BATCH_BYTES_MAX as u64 + 1);
    bounded
        .read_to_end(&mut inflated)
        .map_err(|error| Problem::new(Kind::BodyInvalid, format!("expected gzip (RFC 1952): {error}")))?;
    if inflated.len() > BATCH_BYTES_MAX {
        let expected = format!("at most {BATCH_BYTES_MAX} bytes when inflated");
        return Err(Problem::field(Kind::BodyTooLarge, "body", expected, "more"));
    }
    Ok(inflated.into())
}

/// Items of a batch: more do not fit into its bytes, each being valid; empty ones would take up memory without end.
const ITEMS_MAX: usize = 100_000;

/// Where an item stands: the start of the path of whatever is wrong in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From 0, in a JSON array.
    Index(usize),
    /// From 1, in a file of lines.
    Line(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(at) => write!(f, "[{at}]"),
            Self::Line(line) => write!(f, "line {line}"),
        }
    }
}

/// Columns of a CSV file.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// Must be there, in whatever order.
    pub needed: &'static [&'static str],
    /// May be there.
    pub optional: &'static [&'static str],
}

/// The items of a body, each an object, read one after another: as JSON in memory they take many times their bytes.
pub fn items<T>(
    format: Format,
    columns: Columns,
    body: &[u8],
    mut read: impl FnMut(Item) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let items = match format {
        Format::Json => array(body, &mut read)?,
        Format::Ndjson | Format::Txt => lines(body, &mut read)?,
        Format::Csv => table(columns, body, &mut read)?,
    };
    if items.is_empty() {
        return Err(Problem::field(Kind::BodyInvalid, "body", "at least one item", "none"));
    }
    Ok(items)
}

fn array<T>(body: &[u8], read: impl FnMut(Item) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    let mut refused = None;
    let mut json = serde_json::Deserializer::from_slice(body);
    let items = json.deserialize_seq(Array { read, refused: &mut refused });
    let items = items.and_then(|items| json.end().map(|()| items));
    items.map_err(|error| {
        let unread = || Problem::new(Kind::BodyInvalid, format!("expected a JSON array of objects: {error}"));
        refused.unwrap_or_else(unread)
    })
}

/// Reads an array item by item, so that what is refused is never in memory as a whole.
struct Array<'a, F> {
    read: F,
    /// Why it stopped, where it was not the JSON.
    refused: &'a mut Option<Problem>,
}

impl<'de, T, F: FnMut(Item) -> Result<T, Problem>> Visitor<'de> for Array<'_, F> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut done = Vec::new();
        while let Some(raw) = items.next_element::<&RawValue>()? {
            let item = in_bounds(done.len()).and_then(|()| object(Place::Index(done.len()), raw.get().as_bytes()));
            match item.and_then(&mut self.read) {
                Ok(item) => done.push(item),
                Err(problem) => {
                    *self.refused = Some(problem);
                    return Err(A::Error::custom("refused"));
                }
            }
        }
        Ok(done)
    }
}

/// Whether another item may follow so many.
fn in_bounds(count: usize) -> Result<(), Problem> {
    if count < ITEMS_MAX {
        return Ok(());
    }
    Err(Problem::field(Kind::BodyInvalid, "body", format!("at most {ITEMS_MAX} items"), "more"))
}

fn lines<T>(body: &[u8], read: impl FnMut(Item) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    let lines = (1..).zip(body.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
    bounded(lines.map(|(number, line)| object(Place::Line(number), line)), read)
}

fn bounded<T>(
    items: impl Iterator<Item = Result<Item, Problem>>,
    mut read: impl FnMut(Item) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let mut done = Vec::new();
    for item in items {
        in_bounds(done.len())?;
        done.push(read(item?)?);
    }
    Ok(done)
}

fn object(place: Place, text: &[u8]) -> Result<Item, Problem> {
    check_length(place, text.len())?;
    match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => Ok(Item { place, fields }),
        Ok(other) => {
            Err(Problem::field(Kind::FieldInvalid, place.to_string(), "an object", super::item::kind_of(&other)))
        }
        Err(error) => {
            Err(Problem::new(Kind::BodyInvalid, format!("{place}: expected a JSON object: {}", without_line(&error))))
        }
    }
}

/// What is wrong and in which column: the line within one item says nothing about the body's.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("column {}: {what}", error.column())
}

fn check_length(place: Place, length: usize) -> Result<(), Problem> {
    if length > RECORD_BYTES_MAX {
        let expected = format!("at most {RECORD_BYTES_MAX} bytes");
        return Err(Problem::field(Kind::RecordTooLarge, place.to_string(), expected, format!("{length} bytes")));
    }
    Ok(())
}

/// Lines of a CSV file by the positions of its records, which have to ascend. The reader's own count is one behind
/// after CRLF, as it takes the LF for the beginning of the next record.
struct Lines<'a> {
    body: &'a [u8],
    counted: usize,
    line: u64,
}

impl Lines<'_> {
    fn at(&mut self, position: Option<&csv::Position>) -> Place {
        let begins = position.and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or_default();
        let rest = self.body.get(begins..).unwrap_or_default();
        let begins = begins + rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let passed = self.body.get(self.counted..begins).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.counted = self.counted.max(begins);
        Place::Line(self.line)
    }
}

fn broken(place: Place, error: &csv::Error) -> Problem {
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!("{expected_len} cells, got {len}"),
        _ => "CSV in UTF-8 (RFC 4180)".to_owned(),
    };
    Problem::new(Kind::BodyInvalid, format!("{place}: expected {what}"))
}

fn table<T>(columns: Columns, body: &[u8], read: impl FnMut(Item) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    // a byte order mark, which spreadsheets write, would shift positions
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut lines = Lines { body, counted: 0, line: 1 };
    let mut reader = csv::Reader::from_reader(body);
    let names = reader.headers().map_err(|error| broken(Place::Line(1), &error))?.clone();
    let names: Vec<&str> = names.iter().map(str::trim).collect();
    let expected = || format!("the columns {}", [columns.needed, columns.optional].concat().join(", "));
    let header = Place::Line(1).to_string();
    for (at, name) in names.iter().enumerate() {
        let is_known = columns.needed.contains(name) || columns.optional.contains(name);
        if !is_known || names.iter().take(at).any(|before| before == name) {
            let actual = format!("{name:?}{}", if is_known { " twice" } else { "" });
            return Err(Problem::field(Kind::FieldInvalid, header, expected(), actual));
        }
    }
    if let Some(missing) = columns.needed.iter().find(|name| !names.contains(name)) {
        return Err(Problem::field(Kind::FieldMissing, format!("{header}.{missing}"), expected(), "none"));
    }
    let items = reader.records().map(|record| {
        let record = record.map_err(|error| broken(lines.at(error.position()), &error))?;
        let place = lines.at(record.position());
        check_length(place, record.as_slice().len())?;
        let mut fields = Map::new();
        for (name, cell) in names.iter().zip(&record).filter(|(_, cell)| !cell.is_empty()) {
            fields.insert((*name).to_owned(), value(place, name, cell)?);
        }
        Ok(Item { place, fields })
    });
    bounded(items, read)
}

/// A cell by its column: JSON, a number, or text.
fn value(place: Place, column: &str, cell: &str) -> Result<Value, Problem> {
    if column == "seq" {
        return Ok(cell.parse::<u64>().map_or_else(|_| Value::from(cell), Value::from));
    }
    if column.ends_with("_json") || column == "consent" {
        return serde_json::from_str(cell).map_err(|error| {
            Problem::field(Kind::FieldInvalid, format!("{place}.{column}"), "JSON", without_line(&error))
        });
    }
    Ok(Value::from(cell))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use axum::http::HeaderValue;
    use flate2::{Compression, write::GzEncoder};
    use serde_json::json;

    use super::*;

    const COLUMNS: Columns = Columns { needed: &["id", "seq", "metadata_json"], optional: &["consent"] };

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    fn read(format: Format, body: &str) -> Result<Vec<(String, Value)>, Problem> {
        items(format, COLUMNS, body.as_bytes(), |item| Ok((item.place.to_string(), Value::Object(item.fields))))
    }

    fn refused(format: Format, body: &str, slug: &str, detail: &str) {
        let problem = read(format, body).unwrap_err();
        assert_eq!(problem.slug(), slug, "{problem:?}");
        assert!(problem.0.detail.starts_with(detail), "{problem:?}");
    }

    #[test]
    fn an_array_is_read_item_by_item_and_ends_at_the_first_that_is_refused() {
        // were all of it read first, what is wrong behind the item would be told
        refused(Format::Json, "[5, {", "field-invalid", "[0]");
        refused(Format::Json, "[{}, {", "body-invalid", "expected a JSON array of objects");
        refused(Format::Json, "[{}] []", "body-invalid", "expected a JSON array of objects");
        let many = format!("[{}{{", "{},".repeat(ITEMS_MAX));
        refused(Format::Json, &many, "body-invalid", "expected a JSON array of objects");
        refused(Format::Json, &format!("{many}}}, {{"), "body-invalid", "body: expected at most 100000 items");
    }

    #[test]
    fn gzip_is_undone_and_a_bomb_or_rubbish_is_refused() {
        assert_eq!(inflate(&gzip(b"hello")).unwrap(), "hello");
        let two = [gzip(b"hel"), gzip(b"lo")].concat();
        assert_eq!(inflate(&two.into()).unwrap(), "hello", "members in a row are one file");
        let bomb = gzip(&vec![0; BATCH_BYTES_MAX + 1]);
        assert!(bomb.len() < 64 << 10);
        let problem = inflate(&bomb).unwrap_err();
        assert_eq!((problem.slug(), problem.0.status), ("body-too-large", 413));
        assert_eq!(inflate(&gzip(&vec![0; BATCH_BYTES_MAX])).unwrap().len(), BATCH_BYTES_MAX);
        let mut cut = gzip(b"hello").to_vec();
        cut.truncate(cut.len() - 2);
        let mut wrong = gzip(b"hello").to_vec();
        *wrong.last_mut().unwrap() ^= 1;
        for bad in [cut, wrong, b"hello".to_vec(), [&gzip(b"hello")[..], b"x"].concat()] {
            assert_eq!(inflate(&bad.into()).unwrap_err().slug(), "body-invalid");
        }
    }

    #[test]
    fn lines_are_objects_and_named_by_their_number_past_empty_ones() {
        for format in [Format::Ndjson, Format::Txt] {
            let items = read(format, "{\"id\":1}\r\n\n  \n{\"id\":2}").unwrap();
            assert_eq!(items, [("line 1".into(), json!({"id": 1})), ("line 4".into(), json!({"id": 2}))]);
            refused(format, "{}\n{\"a\":}\n", "body-invalid", "line 2: expected a JSON object: column 6: ");
            refused(format, "{}\n[1]", "field-invalid", "line 2: expected an object");
            refused(format, "\n\n", "body-invalid", "body: expected at least one item");
            refused(format, &"{}\n".repeat(ITEMS_MAX + 1), "body-invalid", "body: expected at most 100000 items");
            refused(format, &format!("{{}}\n\"{}\"", "x".repeat(RECORD_BYTES_MAX)), "record-too-large", "line 2");
        }
    }

    #[test]
    fn a_table_has_the_columns_in_any_order_and_rows_are_named_by_the_line_they_begin_in() {
        let body = "seq,id,metadata_json\n7,a,\"{\"\"k\"\":\n1}\"\nx,\"b,c\",\n";
        let items = read(Format::Csv, body).unwrap();
        assert_eq!(items[0], ("line 2".into(), json!({"seq": 7, "id": "a", "metadata_json": {"k": 1}})));
        assert_eq!(items[1], ("line 4".into(), json!({"seq": "x", "id": "b,c"})));
        let crlf = read(Format::Csv, &body.replace("}\"\n", "}\"\r\n\r\n")).unwrap();
        assert_eq!(crlf.iter().map(|(place, _)| place.as_str()).collect::<Vec<_>>(), ["line 2", "line 5"]);
        let bom = read(Format::Csv, "\u{feff}id,seq,metadata_json\na,1,{}").unwrap();
        assert_eq!(bom[0].1, json!({"id": "a", "seq": 1, "metadata_json": {}}));

        refused(Format::Csv, "id,seq\na,1", "field-missing", "line 1.metadata_json: expected the columns id, seq");
        refused(Format::Csv, "id,seq,metadata_json,more\n", "field-invalid", "line 1: expected the columns");
        refused(Format::Csv, "id,seq,id,metadata_json\n", "field-invalid", "line 1: expected the columns");
        refused(Format::Csv, "id,seq,metadata_json\n", "body-invalid", "body: expected at least one item");
        refused(Format::Csv, "id,seq,metadata_json\na,1,{}\na,1\n", "body-invalid", "line 3: expected 3 cells, got 2");
        refused(
            Format::Csv,
            "id,seq,metadata_json\na,1,{}\na,1,{x\n",
            "field-invalid",
            "line 3.metadata_json: expected JSON",
        );
        refused(Format::Csv, "", "field-missing", "line 1");
        let long = format!("id,seq,metadata_json\na,1,{}\n", "x".repeat(RECORD_BYTES_MAX));
        refused(Format::Csv, &long, "record-too-large", "line 2");
        let no_utf8 = super::items(Format::Csv, COLUMNS, b"id,seq,metadata_json\n\xff,1,{}\n", Ok).unwrap_err();
        assert_eq!(no_utf8.0.detail, "line 2: expected CSV in UTF-8 (RFC 4180)");
    }

    #[test]
    fn headers_say_what_the_body_is() {
        let check = |format: Format, mime: Option<&str>, encoding: Option<&str>| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("content-type", mime), ("content-encoding", encoding)] {
                value.map(|value| headers.insert(name, HeaderValue::from_str(value).unwrap()));
            }
            format.check(&headers).map_err(|problem| problem.0.field.unwrap())
        };
        let (kind, encoding) = (Err("Content-Type".to_owned()), Err("Content-Encoding".to_owned()));
        assert_eq!(check(Format::Json, None, None), Ok(false));
        assert_eq!(check(Format::Json, Some("Application/JSON; charset=\"UTF-8\""), Some("gzip")), Ok(true));
        assert_eq!(check(Format::Json, Some("text/csv"), None), kind);
        assert_eq!(check(Format::Json, Some("application/json; charset=latin1"), None), kind);
        assert_eq!(check(Format::Json, None, Some("br")), encoding);
        assert_eq!(check(Format::Ndjson, Some("application/x-ndjson"), Some("gzip")), Ok(true));
        assert_eq!(check(Format::Ndjson, Some("application/x-ndjson"), None), encoding);
        assert_eq!(check(Format::Ndjson, Some("application/json"), Some("gzip")), kind);
        assert_eq!(check(Format::Csv, Some("text/csv; header=present"), None), Ok(false));
        assert_eq!(check(Format::Csv, None, None), kind);
        assert_eq!(check(Format::Txt, Some("text/plain;charset=utf-8"), Some("identity")), Ok(false));
    }
}
