//! What a run has given, for people and for programs.

use std::time::Duration;

use clap::ValueEnum as _;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{
    super::output::{self, Format},
    CommandError, Work,
    recorder::{TimeKind, Times, rate},
};

/// Which times are shown: those that this part of all does not exceed.
const QUANTILES: [(&str, f64); 3] = [("p50Ns", 0.5), ("p99Ns", 0.99), ("p999Ns", 0.999)];

pub(super) struct Report {
    pub(super) work: Work,
    pub(super) workers: usize,
    pub(super) conns: usize,
    pub(super) took: Duration,
    pub(super) times: Times,
}

impl Report {
    pub(super) fn print(&self, asked: Option<Format>) -> Result<(), CommandError> {
        match Format::or_default(asked, Format::Json) {
            Format::Table | Format::Wide => {
                let summary = output::table(&["KEY", "VALUE"], self.summary());
                let header = ["TIME", "COUNT", "P50", "P99", "P99.9", "MAX"];
                let rows = self.times.iter().map(|(kind, times)| row(*kind, times));
                output::print(&format!("{summary}\n{}", output::table(&header, rows)))
            }
            Format::Name => {
                output::print(&self.rate().map_or(String::new(), |(_, rate)| format!("{rate:.0}")))
            }
            format @ (Format::Json | Format::Jsonl) => {
                output::print_json(format, &output::document("Bench", self.to_json()))
            }
        }
    }

    fn rate(&self) -> Option<(&'static str, f64)> {
        rate(&self.times, self.took)
    }

    fn work(&self) -> String {
        let value = self.work.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn summary(&self) -> Vec<Vec<String>> {
        let mut summary = vec![
            vec!["work".to_owned(), self.work()],
            vec!["workers".to_owned(), self.workers.to_string()],
            vec!["connections".to_owned(), self.conns.to_string()],
            vec!["measured".to_owned(), format!("{:.1} s", self.took.as_secs_f64())],
        ];
        summary.extend(self.rate().map(|(unit, rate)| vec![unit.to_owned(), format!("{rate:.0}")]));
        summary
    }

    fn to_json(&self) -> Value {
        let times = self.times.iter().map(|(kind, times)| {
            let quantiles = QUANTILES.map(|(name, quantile)| {
                (name.to_owned(), json!(times.value_at_quantile(quantile)))
            });
            let mut fields = serde_json::Map::from_iter(quantiles);
            fields.insert("count".to_owned(), json!(times.len()));
            fields.insert("maxNs".to_owned(), json!(times.max()));
            (kind.name().replace(' ', "_"), Value::Object(fields))
        });
        json!({
            "work": self.work(),
            "workers": self.workers,
            "connections": self.conns,
            "seconds": self.took.as_secs_f64(),
            "rate": self.rate().map(|(_, rate)| rate),
            "unit": self.rate().map(|(unit, _)| unit),
            "times": times.collect::<serde_json::Map<_, _>>(),
        })
    }
}

fn row(kind: TimeKind, times: &Histogram<u64>) -> Vec<String> {
    let mut row = vec![kind.name().to_owned(), times.len().to_string()];
    row.extend(QUANTILES.map(|(_, quantile)| shown(times.value_at_quantile(quantile))));
    row.push(shown(times.max()));
    row
}

/// `640.00µs`, `1.28ms`.
fn shown(nanoseconds: u64) -> String {
    format!("{:.2?}", Duration::from_nanos(nanoseconds))
}
