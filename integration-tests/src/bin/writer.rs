//! Writes under a lock, again and again, for tests that stop it in the middle.
//!
//! `writer LOCKD POSTGRES REDIS NAME fenced|unfenced`: the name is that of the lock, of a table with a
//! column `token`, and of a list. Says `wrote` on its output when a guard has written for the first time,
//! and `lost`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what cannot be set up ends the test"
)]

use std::{io::Write as _, time::Duration};

use integration_tests::writer::{TTL, Writer};
use lockd_client::{Client, Context};

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [lockd, postgres, redis, name, fenced] = &args[..] else {
        panic!("writer LOCKD POSTGRES REDIS NAME fenced|unfenced")
    };
    let client = Client::builder().addrs(lockd).ttl(TTL).name("writer").connect().await.unwrap();
    let writer = Writer::new(postgres, redis, name, fenced == "fenced");
    loop {
        let guard = client.lock(name).acquire(&Context::background()).await.unwrap();
        let mut wrote = false;
        while guard.check().is_ok() {
            // What is read, decided and written takes a moment, in which much can happen.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if writer.write(&guard).await.is_ok() && !wrote {
                say("wrote");
                wrote = true;
            }
        }
        say("lost");
    }
}

fn say(word: &str) {
    println!("{word}");
    std::io::stdout().flush().unwrap();
}
