//! Connections, and sessions that hold a lock each and do nothing.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lockd_client::{Client, Group};
use tokio::time::Instant;

use super::{Bench, CommandError, Globals, Spoilt, recorder::TimeKind};

/// How many connect, open and close at a time.
const AT_A_TIME: usize = 64;

/// So many clients, each with a connection of its own.
pub(super) async fn connect(globals: &Globals, count: usize) -> Result<Vec<Client>, CommandError> {
    let connect = |_| globals.target.connect_as("lockd bench".to_owned());
    stream::iter(0..count).map(connect).buffer_unordered(AT_A_TIME).try_collect().await
}

/// Releases all that is still held.
pub(super) async fn shut_down(clients: &[Client]) {
    stream::iter(clients).for_each_concurrent(AT_A_TIME, Client::shutdown).await;
}

/// Starts a worker for each client.
pub(super) async fn spawn(group: &mut Group<Spoilt>, bench: &Bench) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_A_TIME));
    for (worker, client) in bench.clients.iter().cloned().enumerate() {
        let (bench, places) = (bench.clone(), places.clone());
        let held = async move |_| {
            let place = places.acquire().await;
            let start = Instant::now();
            let lock = client.lock(format!("{}{worker}", bench.prefix));
            let Some(guard) = bench.unless_over(lock.acquire(&bench.ctx).await)? else {
                return Ok(());
            };
            bench.recorder.record_always(&[(TimeKind::Opened, start.elapsed())]);
            drop(place);
            bench.recorder.is_at_it();
            // It fails if the lock is lost before.
            guard.run(bench.ctx.cancelled()).await?;
            guard.release().await?;
            Ok(())
        };
        if group.spawn(held).await.is_err() {
            return;
        }
    }
}
