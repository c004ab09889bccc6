//! Bad input gets a clear error, and changes nothing.

use std::{os::unix::fs::PermissionsExt as _, process::Command, time::Duration};

use integration_tests::{daemon::lockd_binary, eventually};
use lockd_proto::v1;
use tokio::{io::AsyncWriteExt as _, time::Instant};

use crate::world::{Raw, SOON, World, acquire_of, both_stores, reason, soon};

both_stores!(
    malformed_requests_are_refused_by_name,
    sessions_are_proved_by_their_secret,
    garbage_on_the_port_hurts_nobody,
);

async fn refused(raw: &mut Raw, session: &v1::SessionCredential, acquire: v1::Acquire) -> String {
    reason(&raw.acquire(session, acquire).await.unwrap_err())
}

async fn malformed_requests_are_refused_by_name(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let long = "x".repeat(513);
    for name in ["", "a\0b", "a//b", "..", "a/./b", "/a", "a\nb", long.as_str()] {
        assert_eq!(refused(&mut raw, &session, acquire_of(name, 1)).await, "NAME_INVALID");
    }
    let namespace = v1::Acquire { namespace: "a\0b".to_owned(), ..acquire_of("n", 1) };
    assert_eq!(refused(&mut raw, &session, namespace).await, "NAME_INVALID");
    let metadata = [("k".to_owned(), "v".repeat(4096))].into();
    let large = v1::Acquire { metadata, ..acquire_of("n", 1) };
    assert_eq!(refused(&mut raw, &session, large).await, "METADATA_TOO_LARGE");
    let short = v1::Acquire { request_id: vec![1; 15], ..acquire_of("n", 1) };
    assert_eq!(refused(&mut raw, &session, short).await, "REQUEST_INVALID");
    for ttl in [Duration::from_millis(100), Duration::from_secs(3601)] {
        let ttl = Some(ttl.try_into().unwrap());
        let request = v1::OpenSessionRequest { ttl, client: None, session: None };
        let status = raw.sessions.open_session(request).await.unwrap_err();
        assert_eq!(reason(&status), "TTL_OUT_OF_RANGE");
        assert!(status.message().contains("3600s"), "it names the range: {status}");
    }
    let huge = v1::Acquire { trace_id: "x".repeat(300_000), ..acquire_of("n", 1) };
    let status = raw.acquire(&session, huge).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    let listed = world.client().await.list("").await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
}

async fn sessions_are_proved_by_their_secret(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let unknown = v1::SessionCredential { session_id: "0".repeat(32), ..session.clone() };
    assert_eq!(refused(&mut raw, &unknown, acquire_of("s", 1)).await, "SESSION_NOT_FOUND");
    let wrong = v1::SessionCredential { secret: "guess".to_owned(), ..session.clone() };
    assert_eq!(refused(&mut raw, &wrong, acquire_of("s", 1)).await, "SECRET_MISMATCH");
    let malformed = v1::SessionCredential { session_id: "x".to_owned(), ..session.clone() };
    assert_eq!(refused(&mut raw, &malformed, acquire_of("s", 1)).await, "REQUEST_INVALID");
    let close = v1::CloseSessionRequest { session: Some(wrong) };
    assert!(raw.sessions.close_session(close).await.is_err());
    let alive = v1::KeepAliveRequest { session: Some(session) };
    raw.sessions.keep_alive(alive).await.unwrap();
}

async fn garbage_on_the_port_hurts_nobody(mut world: World) {
    let at = world.first().grpc_addr();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxx"]
    {
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        // It may hang up before it has read all of it.
        drop(stream.write_all(garbage).await);
    }
    let fine = world.client().await.lock("fine").acquire(&soon()).await.unwrap();
    fine.release().await.unwrap();
    assert!(!world.first().stderr().contains("panic"));
}

#[tokio::test]
async fn a_data_folder_belongs_to_one_daemon() {
    let mut world = World::embedded().await;
    let pid = world.first().pid().to_string();
    let folder = world.data_dir();
    let second = Command::new(lockd_binary())
        .args(["serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(78), "{text}");
    assert!(text.contains(&format!("pid {pid}")) && text.contains("--data-dir"), "{text}");
    eventually("the first one serves on", SOON, async || {
        world.client().await.status().await.is_ok_and(|status| status.ready)
    })
    .await;
}

#[test]
fn a_data_folder_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
    let refused = Command::new(lockd_binary())
        .args(["serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{text}");
    assert!(text.contains(file.to_str().unwrap()) && text.contains("--data-dir"), "{text}");
}

/// One that asked the system again and again for a connection that it can't have would do nothing else.
#[tokio::test]
async fn a_daemon_without_file_descriptors_waits_for_them() {
    use rustix::process::{Pid, Resource, getrlimit, prlimit};
    let world = World::embedded().await;
    let (client, daemon) = (world.client().await, world.daemons.first().unwrap());
    let guard = client.lock("held").acquire(&soon()).await.unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as u64;
    let limit = |current| rustix::process::Rlimit { current, ..getrlimit(Resource::Nofile) };
    let process = Pid::from_raw(daemon.pid().try_into().unwrap());
    let before = prlimit(process, Resource::Nofile, limit(Some(open + 2))).unwrap();
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(tokio::net::TcpStream::connect(daemon.grpc_addr()).await.unwrap());
    }
    let refused = async |times| {
        let said = daemon.stderr().matches("a connection can't be accepted").count();
        (said >= times).then_some(said).ok_or_else(|| format!("{said} of {times} times"))
    };
    let first = eventually("it has none left", SOON, async || refused(1).await).await;
    let start = Instant::now();
    // Who is connected is served all the while.
    client.lock("other").acquire(&soon()).await.unwrap().release().await.unwrap();
    eventually("it asks again", SOON, async || refused(first + 4).await).await;
    // Without a pause it asks thousands of times in this time.
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    guard.release().await.unwrap();
    drop(connections);
    prlimit(process, Resource::Nofile, before).unwrap();
    world.client().await.lock("after").acquire(&soon()).await.unwrap().release().await.unwrap();
}
