//! Pages: bounded, ordered by what never changes, with a cursor that is opaque to the reader.

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Rows of a page where none is asked for.
pub const LIMIT_DEFAULT: u32 = 100;
/// The most rows of one page.
pub const LIMIT_MAX: u32 = 1_000;

/// `?limit=&cursor=`.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Rows, 1 to 1000; 100 where left out.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A place in an ordered list: the key of the last row of the page before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place(pub i64, pub String);

/// A page as queries take it.
#[derive(Clone, Debug)]
pub struct Page {
    /// Rows.
    pub limit: u32,
    /// Rows after this one.
    pub after: Option<Place>,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: LIMIT_DEFAULT, after: None }
    }
}

impl Place {
    /// The text that the reader sends back.
    pub fn encode(&self) -> String {
        hex::encode(format!("{}:{}", self.0, self.1))
    }

    /// Reads what [`Place::encode`] wrote.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes = hex::decode(text).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (number, rest) = text.split_once(':')?;
        let is_plain = rest.bytes().all(|byte| byte.is_ascii_graphic());
        is_plain.then_some(Self(number.parse().ok()?, rest.to_owned()))
    }
}

impl PageQuery {
    /// Checks limit and cursor.
    pub fn page(&self) -> Result<Page, Problem> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Problem::invalid("limit", format!("1 to {LIMIT_MAX}"), limit.to_string()));
        }
        let after = match &self.cursor {
            None => None,
            Some(text) => Some(
                Place::decode(text)
                    .ok_or_else(|| Problem::invalid("cursor", "the next_cursor of a page before", text))?,
            ),
        };
        Ok(Page { limit, after })
    }
}

/// Cuts one row too many off, and gives the cursor of the page after.
pub fn cut<T>(rows: &mut Vec<T>, limit: u32, place: impl Fn(&T) -> Place) -> Option<String> {
    let limit = limit as usize;
    if rows.len() <= limit {
        return None;
    }
    rows.truncate(limit);
    rows.last().map(|row| place(row).encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nonsense_is_refused() {
        let place = Place(12, "reward/0xab/3/7".into());
        assert_eq!(Place::decode(&place.encode()), Some(place));
        for nonsense in ["", "zz", "00", &hex::encode("x:y"), &hex::encode("1"), &hex::encode("1:a\u{0}b")] {
            assert_eq!(Place::decode(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn pages_are_bounded_and_name_the_wrong_parameter() {
        let query = |limit, cursor: Option<&str>| PageQuery { limit, cursor: cursor.map(Into::into) };
        assert_eq!(query(None, None).page().unwrap().limit, LIMIT_DEFAULT);
        assert_eq!(query(Some(0), None).page().unwrap_err().field.as_deref(), Some("limit"));
        assert_eq!(query(Some(1001), None).page().unwrap_err().field.as_deref(), Some("limit"));
        assert_eq!(query(Some(5), Some("x")).page().unwrap_err().field.as_deref(), Some("cursor"));
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let mut rows = vec![1, 2, 3];
        let place = |row: &i64| Place(*row, String::new());
        assert_eq!(cut(&mut rows, 3, place), None);
        assert_eq!(cut(&mut rows, 2, place), Some(Place(2, String::new()).encode()));
        assert_eq!(rows, [1, 2]);
    }
}
