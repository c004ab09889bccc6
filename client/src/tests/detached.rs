//! Detached locks: a session by single calls.

use std::time::Duration;

use super::{TTL, client, fake::Net};

#[tokio::test(start_paused = true)]
async fn an_open_that_is_made_again_names_the_same_session() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    client.acquire_detached("deploy", TTL, Duration::ZERO).await.unwrap_err();
    let opens = net.at("a").opens();
    assert!(opens.len() > 1, "no answer came, and the call was made again");
    let session = opens[0].session.clone().unwrap();
    assert_eq!((session.session_id.len(), session.secret.len()), (32, 64));
    assert!(opens.iter().all(|open| open.session.as_ref() == Some(&session)));
}
