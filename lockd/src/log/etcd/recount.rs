//! Reads the log once more, beside what is delivered: for an owner whose state differs from that of another
//! replica.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::{item::Item, opening::Reader, replica::Replica};

/// Items that wait for the owner, who takes them while there is nothing else to do.
pub(super) const QUEUE: usize = 4;

/// Reads the log for each that asks, until it ends. What it is given up for closes the way to it.
pub(super) async fn run(replica: Arc<Replica>, mut asked: mpsc::Receiver<mpsc::Sender<Item>>) {
    while let Some(out) = asked.recv().await {
        let Some(known) = replica.known() else { continue };
        let view = Mutex::default();
        let reader = Reader { replica: &replica, known, view: &view, out: &out };
        if let Err(stop) = reader.read().await {
            tracing::warn!(?stop, "the log could not be read once more");
        }
    }
}
