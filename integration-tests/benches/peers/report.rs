//! The tables, for a terminal and for `docs/benchmarks.md`.

use std::{fmt::Write as _, path::Path, time::Duration};

use crate::{
    Subject,
    load::Load,
    machine,
    pairs::{
        EMBEDDED, Figure, LOCK, LOCK_3, ON_ETCD, ON_ETCD_3, Pairs, REDIS, SERVICES, TXN, ZOOKEEPER,
    },
    picture,
};

/// All that was measured.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) pairs: Option<Pairs>,
    pub(crate) rows: Vec<Row>,
}

/// Something to reach, and what was found.
pub(crate) struct Row {
    what: String,
    store: &'static str,
    to_reach: String,
    found: String,
    reached: bool,
}

impl Row {
    pub(crate) fn new(
        what: impl Into<String>,
        subject: &Subject,
        to_reach: impl Into<String>,
        found: String,
        reached: bool,
    ) -> Self {
        let (what, to_reach) = (what.into(), to_reach.into());
        Self { what, store: subject.store, to_reach, found, reached }
    }

    /// lockd's pairs beside those of another.
    fn ratio(
        pairs: &Pairs,
        load: Load,
        at_least: f64,
        (ours, theirs): (&'static str, &'static str),
    ) -> Self {
        let ratio = pairs.median(ours, load) / pairs.median(theirs, load);
        let store = match ours {
            EMBEDDED => "embedded",
            ON_ETCD => "etcd",
            _ => "etcd, 3 nodes",
        };
        Self {
            what: format!("{}, beside {theirs}", load.title()),
            store,
            to_reach: format!("≥ {at_least} ×"),
            found: format!("{ratio:.2} ×"),
            reached: ratio >= at_least,
        }
    }
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        if let Some(pairs) = &self.pairs {
            table_of_pairs(&mut text, pairs);
        }
        let ratios = self.pairs.iter().flat_map(ratios).collect::<Vec<_>>();
        text.push_str("\n| what | store | to reach | found | reached |\n|---|---|---|---|---|\n");
        for Row { what, store, to_reach, found, reached } in ratios.iter().chain(&self.rows) {
            let reached = if *reached { "yes" } else { "**no**" };
            writeln!(text, "| {what} | {store} | {to_reach} | {found} | {reached} |").unwrap();
        }
        text
    }

    /// Writes the document and its picture.
    pub(crate) fn write(&self, tables: &str) -> std::io::Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let Some(pairs) = &self.pairs else { return Ok(()) };
        std::fs::write(docs.join("benchmarks.svg"), picture::svg(pairs))?;
        let head = include_str!("head.md").replace("{machine}", &machine::described());
        let head = head.replace("{rounds}", &pairs.count().to_string());
        std::fs::write(docs.join("benchmarks.md"), format!("{head}\n{tables}"))
    }
}

fn table_of_pairs(text: &mut String, pairs: &Pairs) {
    let titles: Vec<_> = Load::ALL.iter().map(|load| load.title()).collect();
    writeln!(text, "| pairs/s | {} |", titles.join(" | ")).unwrap();
    writeln!(text, "|---|{}", "---|".repeat(titles.len())).unwrap();
    for (service, ours) in SERVICES {
        let cell = |load: &Load| match pairs.of(service, *load) {
            Some(Figure { median, min, max }) => {
                let ratio = median / pairs.median(ours, *load);
                let ratio =
                    if ours == service { String::new() } else { format!(", {ratio:.2} ×") };
                format!("**{median:.0}** ({min:.0}–{max:.0}){ratio}")
            }
            None => "–".to_owned(),
        };
        let cells: Vec<_> = Load::ALL.iter().map(cell).collect();
        writeln!(text, "| {service} | {} |", cells.join(" | ")).unwrap();
    }
}

fn ratios(pairs: &Pairs) -> Vec<Row> {
    let row = |load, at_least, ours, theirs| Row::ratio(pairs, load, at_least, (ours, theirs));
    vec![
        row(Load::Own(1), 1.2, EMBEDDED, REDIS),
        row(Load::Own(1), 0.95, ON_ETCD, TXN),
        row(Load::Own(64), 3.0, EMBEDDED, REDIS),
        row(Load::Own(64), 6.0, ON_ETCD, LOCK),
        row(Load::Hot(8), 3.0, EMBEDDED, ZOOKEEPER),
        row(Load::Hot(8), 10.0, ON_ETCD, LOCK),
        row(Load::Hot(8), 1.0, ON_ETCD, ZOOKEEPER),
        row(Load::Own(64), 8.0, ON_ETCD_3, LOCK_3),
    ]
}

/// `0.43 ms`.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
