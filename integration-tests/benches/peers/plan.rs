//! Which rows are measured, and in which order.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::{FutureExt as _, future::LocalBoxFuture};

use crate::{
    command, elections, handoff, locks, pairs,
    report::{Report, Row},
    sessions,
    subject::{Store, Subject},
    targets,
};

/// What the environment asks for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// What the names of rows have to contain.
    only: Option<String>,
    /// How often each figure is measured that is a median.
    pub(crate) rounds: u32,
    /// How long a service is measured under one load.
    pub(crate) time: Duration,
}

/// Rows that come from one set-up, which is made for each store.
struct Part {
    /// The rows, without their store.
    rows: &'static [&'static str],
    measure: for<'a> fn(&'a mut Subject, &'a Plan) -> LocalBoxFuture<'a, Vec<Row>>,
}

const PARTS: [Part; 7] = [
    Part { rows: &handoff::ROWS, measure: |subject, plan| Box::pin(handoff::steps(subject, plan)) },
    Part {
        rows: &[handoff::QUEUE],
        measure: |subject, plan| Box::pin(handoff::queue(subject, plan)),
    },
    Part { rows: &locks::ROWS, measure: |subject, _| Box::pin(locks::many(subject)) },
    Part { rows: &sessions::APART, measure: |subject, _| Box::pin(sessions::apart(subject)) },
    Part { rows: &sessions::TOGETHER, measure: |subject, _| Box::pin(sessions::together(subject)) },
    Part { rows: &[elections::ROW], measure: |subject, _| Box::pin(elections::observe(subject)) },
    Part { rows: &[command::ROW], measure: |subject, _| Box::pin(command::whole(subject)) },
];

impl Plan {
    pub(crate) fn from_env() -> Self {
        let number = |name: &str, default: u32| {
            std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
        };
        Self {
            only: std::env::var("ONLY").ok().filter(|only| !only.is_empty()),
            rounds: number("ROUNDS", 5).max(1),
            time: Duration::from_secs(number("SECONDS", 2).into()),
        }
    }

    /// Whether everything is measured.
    pub(crate) fn is_full(&self) -> bool {
        self.only.is_none()
    }

    /// Whether a row of this name is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
    }

    /// Measures all that is wanted.
    pub(crate) async fn measure(&self) -> Report {
        let cells = targets::cells(self);
        let mut report = Report { rounds: self.rounds, ..Report::default() };
        if !cells.is_empty() {
            report.pairs = pairs::measure(&cells, self).await;
            report.rows = targets::rows(&report.pairs);
        }
        for part in PARTS {
            for store in [Store::Journal, Store::Etcd(1)] {
                report.rows.extend(part.measured(store, self).await);
            }
        }
        report.rows.retain(|row| self.wants(&row.name()));
        report
    }
}

impl Part {
    /// The rows of this part on one store. Those of a part that fails were not reached: others go on.
    async fn measured(&self, store: Store, plan: &Plan) -> Vec<Row> {
        if !self.rows.iter().any(|row| plan.wants(&format!("{row}, {}", store.title()))) {
            return vec![];
        }
        eprintln!("measuring {}, {} …", self.rows[0], store.title());
        let measuring = async {
            let mut subject = Subject::start(store).await;
            (self.measure)(&mut subject, plan).await
        };
        let rows = AssertUnwindSafe(measuring).catch_unwind().await;
        let rows = rows.unwrap_or_else(|panic| {
            self.rows.iter().map(|row| Row::failed(row, store, &*panic)).collect()
        });
        rows.iter().for_each(|row| eprintln!("{row}"));
        rows
    }
}
