//! Very many locks that are held at once.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lockd_client::{Client, Context, Guard};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    Subject, machine,
    report::{Row, ms},
};

const SESSIONS: usize = 10_000;
const LOCKS_EACH: usize = 100;

/// How many sessions are at it at a time.
const AT_A_TIME: usize = 64;

pub(crate) async fn many(subject: &Subject) -> Vec<Row> {
    let url = subject.daemon.url();
    let client = Client::connect(&url).await.unwrap();
    let few = hold(std::slice::from_ref(&client), 1000).await;
    let before = machine::acquires(&client, "few/").await;
    let clients = connect(&url).await;
    // Each has its session before memory is looked at.
    let mut held = hold(&clients, 1).await;
    let (empty, _) = machine::used(subject.daemon.pid());
    held.extend(hold(&clients, LOCKS_EACH).await);
    let (full, _) = machine::used(subject.daemon.pid());
    let after = machine::acquires(&client, "many/").await;
    let count = held.len() + few.len();
    let each = (full - empty) as f64 / (SESSIONS * LOCKS_EACH) as f64;
    let what = |of: &str| format!("{count} locks of {SESSIONS} sessions, {of}");
    let limit = before.p99.mul_f64(1.5);
    let found = format!("{}, with 1,000 locks {}", ms(after.p99), ms(before.p99));
    vec![
        Row::new(
            what("memory"),
            subject,
            "≤ 1 KiB a lock",
            format!("{each:.0} bytes"),
            each <= 1024.0,
        ),
        Row::new(
            what("acquire p99"),
            subject,
            format!("≤ {}", ms(limit)),
            found,
            after.p99 <= limit,
        ),
    ]
}

async fn connect(url: &str) -> Vec<Client> {
    let connect = |_| Client::connect(url);
    stream::iter(0..SESSIONS).map(connect).buffer_unordered(AT_A_TIME).try_collect().await.unwrap()
}

/// Has each client hold so many more locks.
async fn hold(clients: &[Client], each: usize) -> Vec<Guard> {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut holding = JoinSet::new();
    for client in clients {
        let (client, place) = (client.clone(), places.clone().acquire_owned().await.unwrap());
        holding.spawn(async move {
            let mut guards = Vec::with_capacity(each);
            for _ in 0..each {
                let name = format!("held/{}", uuid::Uuid::new_v4().simple());
                guards.push(client.lock(name).acquire(&Context::background()).await.unwrap());
            }
            drop(place);
            guards
        });
    }
    holding.join_all().await.into_iter().flatten().collect()
}
