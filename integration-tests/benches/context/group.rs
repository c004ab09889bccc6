//! A pool of workers against a task for each item.

use std::{
    alloc::System,
    hint::black_box,
    time::{Duration, Instant},
};

use lockd_client::{Context, Group, Worker};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use crate::table::Row;

/// Counts what is allocated.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ITEMS: u64 = 100_000;
const WORKERS: usize = 8;
const QUEUE: usize = 256;
const ROUNDS: usize = 5;

/// Renders an item into a buffer that it uses again.
#[derive(Default)]
struct Render {
    buffer: String,
}

impl Worker<u64> for Render {
    type Output = ();
    type Error = std::fmt::Error;

    async fn work(&mut self, item: u64) -> Result<(), std::fmt::Error> {
        self.buffer.clear();
        render(item, &mut self.buffer)
    }
}

/// A little work, with a buffer of a page.
fn render(item: u64, buffer: &mut String) -> Result<(), std::fmt::Error> {
    use std::fmt::Write as _;
    buffer.reserve(4096);
    for line in 0..8 {
        writeln!(buffer, "item {item}, line {line}")?;
    }
    black_box(buffer);
    Ok(())
}

async fn pooled() {
    let mut group = Group::new(&Context::background());
    let items = group.pool(QUEUE, (0..WORKERS).map(|_| Render::default()));
    for item in 0..ITEMS {
        items.send(item).await.unwrap();
    }
    drop(items);
    group.wait().await.unwrap();
}

async fn task_each() {
    let mut tasks = tokio::task::JoinSet::new();
    for item in 0..ITEMS {
        tasks.spawn(async move { render(item, &mut String::new()).unwrap() });
    }
    tasks.join_all().await;
}

/// The median time of several runs, and what one of them allocated.
async fn measured(work: impl AsyncFn()) -> (Duration, usize) {
    let mut times = Vec::new();
    let mut allocated = 0;
    for _ in 0..ROUNDS {
        let region = Region::new(ALLOCATOR);
        let start = Instant::now();
        work().await;
        times.push(start.elapsed());
        allocated = region.change().bytes_allocated;
    }
    times.sort();
    (times[ROUNDS / 2], allocated)
}

pub(crate) async fn rows() -> Vec<Row> {
    let (pool_time, pool_bytes) = measured(pooled).await;
    let (task_time, task_bytes) = measured(task_each).await;
    let line = |time: Duration, bytes: usize| {
        let rate = ITEMS as f64 / time.as_secs_f64() / 1e6;
        format!("{rate:.2} M items/s, {:.1} MiB allocated", bytes as f64 / 1_048_576.0)
    };
    vec![Row {
        what: "`Group` with 8 workers against a task each, 100,000 items".to_owned(),
        to_reach: "ahead in both",
        with: line(pool_time, pool_bytes),
        without: line(task_time, task_bytes),
        reached: pool_time < task_time && pool_bytes < task_bytes,
    }]
}
