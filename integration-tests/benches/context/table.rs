//! The table that the benchmark prints.

use std::time::Duration;

/// One line: what was measured, and what came out with propagation and without.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) to_reach: &'static str,
    pub(crate) with: String,
    /// The same with propagation or fencing off.
    pub(crate) without: String,
    pub(crate) reached: bool,
}

/// Prints rows as a Markdown table; whether all have reached what they are to.
pub(crate) fn print(rows: &[Row]) -> bool {
    println!("\n| what | to reach | lockd | without | reached |\n|---|---|---|---|---|");
    for Row { what, to_reach, with, without, reached } in rows {
        let reached = if *reached { "yes" } else { "**no**" };
        println!("| {what} | {to_reach} | {with} | {without} | {reached} |");
    }
    rows.iter().all(|row| row.reached)
}

/// Times, to be asked for their distribution.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    /// The time that so many of a thousand do not exceed.
    pub(crate) fn permille(&self, permille: usize) -> Duration {
        let last = self.0.len() - 1;
        self.0[(self.0.len() * permille).div_ceil(1000).saturating_sub(1).min(last)]
    }

    /// `p50 0.8 ms, p99 1.2 ms, max 3.1 ms of 500`.
    pub(crate) fn line(&self) -> String {
        let [p50, p99, max] =
            [500, 990, 1000].map(|permille| milliseconds(self.permille(permille)));
        format!("p50 {p50}, p99 {p99}, max {max} of {}", self.0.len())
    }
}

pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
