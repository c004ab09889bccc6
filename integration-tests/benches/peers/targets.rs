//! What lockd's pairs are to reach: beside those of others, and in CPU time.

use std::collections::BTreeSet;

use crate::{
    contenders::{Contender, PHASES},
    load::Load,
    pairs::{Figure, Pairs},
    plan::Plan,
    report::Row,
};

/// lockd, under a load, makes at least so many times as many pairs as another.
struct Ratio(Contender, Load, f64, Contender);

const RATIOS: [Ratio; 16] = [
    Ratio(Contender::Journal, Load::Own(1), 1.3, Contender::Redis),
    Ratio(Contender::Journal, Load::Own(16), 2.0, Contender::Redis),
    Ratio(Contender::Journal, Load::Own(64), 3.0, Contender::Redis),
    Ratio(Contender::Journal, Load::Spread, 3.0, Contender::Redis),
    Ratio(Contender::Journal, Load::Hot(8), 3.0, Contender::ZooKeeper),
    Ratio(Contender::Journal, Load::Hot(64), 3.0, Contender::ZooKeeper),
    Ratio(Contender::Journal, Load::Hot(8), 1.3, Contender::Redis),
    Ratio(Contender::Journal, Load::Hot(64), 1.3, Contender::Redis),
    Ratio(Contender::OnEtcd, Load::Own(1), 0.8, Contender::EtcdTxn),
    Ratio(Contender::OnEtcd, Load::Own(64), 2.5, Contender::EtcdLock),
    Ratio(Contender::OnEtcd, Load::Spread, 5.0, Contender::EtcdLock),
    Ratio(Contender::OnEtcd, Load::Hot(8), 12.0, Contender::EtcdLock),
    Ratio(Contender::OnEtcd, Load::Hot(8), 1.2, Contender::ZooKeeper),
    Ratio(Contender::OnEtcd, Load::Hot(64), 1.2, Contender::ZooKeeper),
    Ratio(Contender::OnEtcd3, Load::Own(64), 3.0, Contender::EtcdLock3),
    Ratio(Contender::OnEtcd3, Load::Spread, 6.0, Contender::EtcdLock3),
];

/// The most microseconds of CPU that a pair may take of a process, under [`CPU_LOAD`].
struct Cpu(Contender, f64, Consumer);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consumer {
    Daemon,
    Client,
}

const CPU_LOAD: Load = Load::Own(64);

const CPU: [Cpu; 4] = [
    Cpu(Contender::Journal, 8.0, Consumer::Daemon),
    Cpu(Contender::Journal, 6.0, Consumer::Client),
    Cpu(Contender::OnEtcd, 12.0, Consumer::Daemon),
    Cpu(Contender::OnEtcd, 6.0, Consumer::Client),
];

impl Ratio {
    fn what(&self) -> String {
        format!("{}, beside {}", self.1.title(), self.3.title())
    }

    fn row(&self, pairs: &Pairs) -> Option<Row> {
        let Self(ours, load, at_least, theirs) = self;
        let median = |contender| pairs.rate(contender, *load).map(|figure| figure.median);
        let ratio = median(*ours)? / median(*theirs)?;
        let (limit, found) = (format!("≥ {at_least} ×"), format!("{ratio:.2} ×"));
        Some(Row::of(self.what(), ours.store()?, (limit, found), ratio >= *at_least))
    }
}

impl Cpu {
    fn what(&self) -> String {
        let of = match self.2 {
            Consumer::Daemon => "daemon",
            Consumer::Client => "client process",
        };
        format!("CPU a pair, {}, {of}", CPU_LOAD.title())
    }

    fn row(&self, pairs: &Pairs) -> Option<Row> {
        let Self(contender, at_most, consumer) = self;
        let Figure { median, min, max } = match consumer {
            Consumer::Daemon => pairs.daemon_cpu(*contender, CPU_LOAD),
            Consumer::Client => pairs.client_cpu(*contender, CPU_LOAD),
        }?;
        let texts = (format!("≤ {at_most} µs"), format!("{median:.1} µs ({min:.1}–{max:.1})"));
        Some(Row::of(self.what(), contender.store()?, texts, median <= *at_most))
    }
}

/// The name of a row, as [`Row::name`] gives it.
fn name(what: &str, of: Contender) -> String {
    let store = of.store().map_or("", |store| store.title());
    format!("{what}, {store}")
}

/// Which services have to be measured under which loads for the rows that are wanted.
pub(crate) fn cells(plan: &Plan) -> BTreeSet<(Load, Contender)> {
    let all = PHASES.concat().into_iter().flat_map(|contender| {
        let loads = Load::ALL.into_iter().filter(move |load| contender.bears(*load));
        loads.map(move |load| (load, contender))
    });
    let wanted = |(load, contender): &(Load, Contender)| {
        plan.wants(&format!("{}, {}", load.title(), contender.title()))
    };
    let mut cells: BTreeSet<_> = all.filter(wanted).collect();
    for ratio in RATIOS.iter().filter(|ratio| plan.wants(&name(&ratio.what(), ratio.0))) {
        cells.extend([(ratio.1, ratio.0), (ratio.1, ratio.3)]);
    }
    for cpu in CPU.iter().filter(|cpu| plan.wants(&name(&cpu.what(), cpu.0))) {
        cells.insert((CPU_LOAD, cpu.0));
    }
    cells
}

/// The rows for what was measured.
pub(crate) fn rows(pairs: &Pairs) -> Vec<Row> {
    let ratios = RATIOS.iter().filter_map(|ratio| ratio.row(pairs));
    ratios.chain(CPU.iter().filter_map(|cpu| cpu.row(pairs))).collect()
}
