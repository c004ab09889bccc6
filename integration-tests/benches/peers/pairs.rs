//! Pairs a second of every service under every load, in rounds: what slows the machine down for a
//! while slows all of them down.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    clients::{self, Sample},
    contenders::{Contender, PHASES, Servers},
    load::Load,
    machine,
    plan::Plan,
};

/// What each round gave.
#[derive(Default)]
pub(crate) struct Pairs {
    rounds: BTreeMap<(Contender, Load), Vec<Sample>>,
}

/// The middle of all rounds, and how far they lie apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Figure {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (min, max) = (values[0], values[values.len() - 1]);
        Self { median: values[values.len() / 2], min, max }
    }
}

impl Pairs {
    /// Pairs a second.
    pub(crate) fn rate(&self, contender: Contender, load: Load) -> Option<Figure> {
        self.figure(contender, load, |sample| Some(sample.rate))
    }

    /// Microseconds of the daemon's CPU for a pair.
    pub(crate) fn daemon_cpu(&self, contender: Contender, load: Load) -> Option<Figure> {
        self.figure(contender, load, |sample| sample.daemon_cpu.map(micros))
    }

    /// Microseconds of the client process's CPU for a pair.
    pub(crate) fn client_cpu(&self, contender: Contender, load: Load) -> Option<Figure> {
        self.figure(contender, load, |sample| Some(micros(sample.client_cpu)))
    }

    /// The loads and services that were measured.
    pub(crate) fn has(&self, contender: Contender, load: Load) -> bool {
        self.rounds.contains_key(&(contender, load))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    fn figure(
        &self,
        contender: Contender,
        load: Load,
        value: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Figure> {
        let samples = self.rounds.get(&(contender, load))?;
        let values: Vec<_> = samples.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| Figure::of(values))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Measures these services under these loads.
pub(crate) async fn measure(cells: &BTreeSet<(Load, Contender)>, plan: &Plan) -> Pairs {
    let mut pairs = Pairs::default();
    for phase in PHASES {
        let cells: Vec<_> = cells.iter().filter(|(_, it)| phase.contains(it)).copied().collect();
        if cells.is_empty() {
            continue;
        }
        let servers =
            Servers::start(&cells.iter().map(|(_, contender)| *contender).collect()).await;
        for round in 1..=plan.rounds {
            for (load, contender) in &cells {
                let sample = match servers.target(*contender) {
                    Some(target) => clients::measure(&target, *load, plan.time).await,
                    None => disk(plan.time).await,
                };
                let (title, load_title) = (contender.title(), load.title());
                let rate = sample.rate;
                eprintln!(
                    "round {round} of {}, {title}, {load_title}: {rate:.0} pairs/s",
                    plan.rounds
                );
                pairs.rounds.entry((*contender, *load)).or_default().push(sample);
            }
        }
    }
    pairs
}

/// What the disk does with one worker, where a pair is one write and one sync.
async fn disk(time: Duration) -> Sample {
    let rate = tokio::task::spawn_blocking(move || machine::syncs_a_second(time)).await.unwrap();
    Sample { rate, client_cpu: Duration::ZERO, daemon_cpu: None }
}
