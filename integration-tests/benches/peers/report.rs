//! The tables, for a terminal and for `docs/benchmarks.md`.

use std::{
    any::Any,
    fmt::{self, Write as _},
    path::Path,
    time::Duration,
};

use crate::{
    contenders::{Contender, PHASES},
    load::Load,
    machine,
    pairs::{Figure, Pairs},
    picture,
    subject::{Store, Subject},
};

/// All that was measured.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) pairs: Pairs,
    pub(crate) rows: Vec<Row>,
    /// How often what has a median was measured.
    pub(crate) rounds: u32,
}

/// Something to reach, and what was found.
pub(crate) struct Row {
    what: String,
    store: Store,
    to_reach: String,
    found: String,
    is_reached: bool,
}

impl Row {
    /// A row on a store, with the texts of what is to be reached and what was found.
    pub(crate) fn of(
        what: impl Into<String>,
        store: Store,
        (to_reach, found): (String, String),
        is_reached: bool,
    ) -> Self {
        Self { what: what.into(), store, to_reach, found, is_reached }
    }

    /// The same of a lockd.
    pub(crate) fn new(
        what: impl Into<String>,
        subject: &Subject,
        texts: (String, String),
        is_reached: bool,
    ) -> Self {
        Self::of(what, subject.store, texts, is_reached)
    }

    /// Something that could not be measured, and the panic that says why.
    pub(crate) fn failed(what: &str, store: Store, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("see what was printed").replace('\n', " ").replace('|', "\\|");
        Self::of(what, store, ("–".to_owned(), format!("failed: {text}")), false)
    }

    /// By which it is chosen to be measured.
    pub(crate) fn name(&self) -> String {
        format!("{}, {}", self.what, self.store.title())
    }
}

impl fmt::Display for Row {
    /// A line of the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, store, to_reach, found, is_reached } = self;
        let reached = if *is_reached { "yes" } else { "**no**" };
        write!(f, "| {what} | {} | {to_reach} | {found} | {reached} |", store.title())
    }
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.pairs.is_empty() {
            table_of_pairs(&mut text, &self.pairs);
            text.push('\n');
        }
        if self.rows.is_empty() {
            return text;
        }
        text.push_str("| what | store | to reach | found | reached |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            writeln!(text, "{row}").unwrap();
        }
        text
    }

    /// Writes the document and its picture.
    pub(crate) fn write(&self, tables: &str) -> std::io::Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        std::fs::write(docs.join("benchmarks.svg"), picture::svg(&self.pairs))?;
        let head = include_str!("head.md").replace("{machine}", &machine::described());
        let head = head.replace("{rounds}", &self.rounds.to_string());
        std::fs::write(docs.join("benchmarks.md"), format!("{head}\n{tables}"))
    }
}

fn table_of_pairs(text: &mut String, pairs: &Pairs) {
    let titles: Vec<_> = Load::ALL.iter().map(|load| load.title()).collect();
    writeln!(text, "| pairs/s | {} |", titles.join(" | ")).unwrap();
    writeln!(text, "|---|{}", "---|".repeat(titles.len())).unwrap();
    for contender in PHASES.concat() {
        if Load::ALL.iter().any(|load| pairs.has(contender, *load)) {
            let cells: Vec<_> =
                Load::ALL.iter().map(|load| cell(pairs, contender, *load)).collect();
            writeln!(text, "| {} | {} |", contender.title(), cells.join(" | ")).unwrap();
        }
    }
}

/// The figure of a service under a load, and how it compares with lockd's.
fn cell(pairs: &Pairs, contender: Contender, load: Load) -> String {
    let Some(Figure { median, min, max }) = pairs.rate(contender, load) else {
        return "–".to_owned();
    };
    let lockd = Some(contender.lockd()).filter(|lockd| *lockd != contender);
    let lockd = lockd.and_then(|lockd| pairs.rate(lockd, load));
    let ratio = lockd.map_or(String::new(), |lockd| format!(", {:.2} ×", median / lockd.median));
    format!("**{median:.0}** ({min:.0}–{max:.0}){ratio}")
}

/// `0.43 ms`.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
