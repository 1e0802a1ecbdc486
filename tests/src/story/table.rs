//! The closing table: what happened, and whether it is true.

use std::fmt::Write as _;

/// One line of it.
#[derive(Clone, Debug)]
struct Line {
    what: String,
    value: String,
    holds: bool,
}

/// Sections of claims, each checked when it was made.
#[derive(Clone, Debug, Default)]
pub struct Table {
    sections: Vec<(String, Vec<Line>)>,
}

impl Table {
    /// The next claims belong to this.
    pub fn section(&mut self, title: &str) {
        self.sections.push((title.into(), Vec::new()));
    }

    /// Something that was read, true by itself.
    pub fn fact(&mut self, what: &str, value: impl Into<String>) {
        self.claim(what, value, true);
    }

    /// Something that was checked.
    pub fn claim(&mut self, what: &str, value: impl Into<String>, holds: bool) {
        if self.sections.is_empty() {
            self.section("");
        }
        if let Some((_, lines)) = self.sections.last_mut() {
            lines.push(Line { what: what.into(), value: value.into(), holds });
        }
    }

    /// Claims that do not hold.
    pub fn failures(&self) -> Vec<String> {
        let lines = self.sections.iter().flat_map(|(_, lines)| lines);
        lines.filter(|line| !line.holds).map(|line| format!("{}: {}", line.what, line.value)).collect()
    }

    /// As text.
    pub fn render(&self) -> String {
        let widest = self.sections.iter().flat_map(|(_, lines)| lines).map(|line| line.what.chars().count()).max();
        let width = widest.unwrap_or_default();
        let mut text = String::new();
        for (title, lines) in &self.sections {
            let _infallible = writeln!(text, "\n{title}");
            for line in lines {
                let mark = if line.holds { "✔" } else { "✘" };
                let mut parts = line.value.split('\n');
                let first = parts.next().unwrap_or_default();
                let _infallible = writeln!(text, "  {mark} {:<width$}  {first}", line.what);
                for more in parts {
                    let _infallible = writeln!(text, "    {:<width$}  {more}", "");
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_does_not_hold_is_named() {
        let mut table = Table::default();
        table.section("money");
        table.fact("price", "1");
        table.claim("sum", "2 is not 3", false);
        assert_eq!(table.failures(), ["sum: 2 is not 3"]);
        assert!(table.render().contains("✘ sum    2 is not 3"));
    }
}
