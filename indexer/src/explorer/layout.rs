//! The one frame of all pages, and the parts that several of them use.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::format::{count, time};
use crate::read::At;

const STYLE: &str = include_str!("style.css");
/// Pages load nothing and run nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// An address or a UUID stays on one line of a table.
const LINE_CHARS_MAX: usize = 44;

/// A whole page.
pub struct Page {
    /// Of the document, and of its first heading.
    pub title: String,
    /// The block that it is true at; none where nothing was read.
    pub at: Option<At>,
    /// What stands below the heading.
    pub body: Markup,
}

impl Page {
    /// A page that is true at a block.
    pub fn new(title: impl Into<String>, at: At, body: Markup) -> Self {
        Self { title: title.into(), at: Some(at), body }
    }

    fn markup(&self) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="referrer" content="no-referrer";
                    link rel="icon" href="data:,";
                    title { (self.title) " – Tidemark" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a class="skip" href="#main" { "Skip to content" }
                    header {
                        div {
                            a class="home" href="/" { "Tidemark" }
                            nav aria-label="Pages" {
                                a href="/" { "Explorer" }
                                a href="/receipt" { "Receipt" }
                                a href="/settlement" { "Settlement" }
                                a href="/docs" { "API" }
                            }
                        }
                    }
                    main id="main" { h1 { (self.title) } (self.body) }
                    footer { div { (footer(self.at.as_ref())) } }
                }
            }
        }
    }
}

fn footer(at: Option<&At>) -> Markup {
    html! {
        @if let Some(at) = at {
            p {
                "True at block " strong { (super::format::group(&at.block_number.to_string())) } " of chain " (at.chain_id)
                ", " (time(&at.block_time)) ", which is final. What is marked “not final yet” came after it."
            }
            @if let Some(hash) = &at.block_hash { p { "Block hash " (code(hash)) } }
            @if at.waiting_files > 0 {
                p { (count(at.waiting_files, "file has", "files have")) " not arrived from the content store yet." }
            }
        }
        p { "Everything here follows from the chain and the content store; anybody may run an indexer and must see the same." }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        with_status(StatusCode::OK, &self)
    }
}

/// A page under another status than 200.
pub fn with_status(status: StatusCode, page: &Page) -> Response {
    let mut response = (status, page.markup()).into_response();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A hash, an address or an identifier, whole; one click selects all of it.
pub fn code(text: &str) -> Markup {
    // in a table it breaks where an address does not
    html! { code class=[(text.len() > LINE_CHARS_MAX).then_some("long")] { (text) } }
}

/// A state in a word, coloured by what it means.
pub fn badge(state: &str) -> Markup {
    let (class, words) = match state {
        "valid" | "active" | "accepted" | "final" | "posted" | "open" => ("good", state),
        "invalid" | "rejected" | "revoked" | "erased" => ("bad", state),
        "withdrawn" => ("bad", "consent withdrawn"),
        "mined" => ("open", "not final yet"),
        "waiting" => ("open", "waiting"),
        _ => ("", state),
    };
    html! { strong class={ "badge " (class) } { (words) } }
}

/// Terms and what they are.
pub fn facts(rows: Vec<(&str, Markup)>) -> Markup {
    html! {
        dl { @for (term, description) in rows { div { dt { (term) } dd { (description) } } } }
    }
}

/// A table with a caption and column headings; `numbers` are the columns that align to the right. On a narrow screen each
/// row becomes a block with its headings beside the cells; the roles keep it a table for screen readers then.
pub fn table(caption: &str, columns: &[&str], numbers: &[usize], rows: Vec<Vec<Markup>>) -> Markup {
    let number = |at: usize| numbers.contains(&at).then_some("number");
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table role="table" {
                caption { (caption) }
                thead role="rowgroup" { tr role="row" { @for (at, column) in columns.iter().enumerate() {
                    th scope="col" role="columnheader" class=[number(at)] { (column) }
                } } }
                tbody role="rowgroup" { @for row in rows { tr role="row" {
                    @for (at, (cell, column)) in row.into_iter().zip(columns).enumerate() {
                        td role="cell" data-label=(column) class=[number(at)] { div { (cell) } }
                    }
                } } }
            }
        }
    }
}

/// The way to the next page, and back to the first.
pub fn pager(path: &str, next_cursor: Option<&str>, is_first: bool, words: &str) -> Markup {
    let glue = if path.contains('?') { '&' } else { '?' };
    html! {
        @if next_cursor.is_some() || !is_first {
            nav class="pager" aria-label=(words) {
                @if !is_first { a href=(path) { "First page" } }
                @if let Some(cursor) = next_cursor { a rel="next" href={ (path) (glue) "cursor=" (cursor) } { "Next page" } }
            }
        }
    }
}

/// The commands that check a page against the chain, without this indexer.
pub fn verify(command: &str) -> Markup {
    html! {
        section {
            h2 { "How to verify this yourself" }
            p { "The command line reads the chain and the content store only, never this indexer or its database:" }
            pre { (command) " \\\n  --rpc-url $RPC_URL --deployment deployment.json --store $STORE" }
            p {
                "Any node of the chain and any copy of the content store will do. It recomputes every hash, every proof and "
                "every sum, and ends with status 1 where one differs."
            }
        }
    }
}

/// A record's page.
pub fn record_link(data_id: &str) -> Markup {
    html! { a href={ "/data/" (data_id) } { code { (data_id) } } }
}

/// A provider's page.
pub fn provider_link(provider: &crate::read::ProviderRef) -> Markup {
    // one that is not final itself has no name yet
    let name = if provider.name.is_empty() { &provider.address } else { &provider.name };
    html! { a href={ "/providers/" (name) } { (name) } }
}

/// A batch's page.
pub fn batch_link(provider: &crate::read::ProviderRef, number: u64) -> Markup {
    let name = if provider.name.is_empty() { &provider.address } else { &provider.name };
    html! { a href={ "/batches/" (name) "/" (number) } { (name) " / " (number) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_escaped_and_says_its_language_and_block() {
        let at = At {
            block_number: 1_234,
            block_hash: Some("0xab".into()),
            block_time: "2026-11-21T08:00:00Z".into(),
            is_final: true,
            waiting_files: 1,
            chain_id: 31_337,
            unix_seconds: 0,
        };
        let page = Page::new("<script>", at, html! { p { "a & b" } }).markup().into_string();
        assert!(page.contains("<html lang=\"en\">") && page.contains("&lt;script&gt; – Tidemark"), "{page}");
        assert!(!page.contains("<script") && page.contains("a &amp; b"), "{page}");
        assert!(page.contains("block <strong>1,234</strong>") && page.contains("1 file has not arrived"), "{page}");
    }

    #[test]
    fn a_page_may_load_and_run_nothing() {
        let response = with_status(StatusCode::NOT_FOUND, &Page { title: String::new(), at: None, body: html! {} });
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("script-src"), "{policy}");
    }

    #[test]
    fn a_table_has_a_caption_headings_and_their_names_beside_each_cell() {
        let rows = vec![vec![html! { "1" }, html! { "x" }]];
        let table = table("Things", &["No", "Name"], &[0], rows).into_string();
        assert!(table.contains("<caption>Things</caption>") && table.contains(r#"<th scope="col""#), "{table}");
        assert!(table.contains(r#"data-label="Name""#), "{table}");
    }

    #[test]
    fn pages_link_on_with_the_query_they_have() {
        let pager = |path: &str| pager(path, Some("c1"), false, "Events").into_string();
        assert!(pager("/a").contains(r#"href="/a?cursor=c1""#));
        assert!(pager("/a?version=2").contains(r#"href="/a?version=2&amp;cursor=c1""#));
    }
}
