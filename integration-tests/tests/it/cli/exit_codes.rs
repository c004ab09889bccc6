//! The table of exit codes, row by row. 79 is in `loss`, 130 and 143 are in `waiting`; nothing
//! that the CLI can send is answered by "permission denied" yet, so 77 is a unit test.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[tokio::test]
async fn the_commands_own_code_is_ours() {
    let scene = Scene::new().await;
    for code in [0, 1, 3, 64, 79, 255] {
        let script = format!("exit {code}");
        scene.run(&["lock", "demo", "-c", &script]).await.exits(code);
    }
}

#[tokio::test]
async fn a_command_killed_by_a_signal_is_128_and_the_signal() {
    let scene = Scene::new().await;
    for (signal, code) in [("HUP", 129), ("KILL", 137), ("SEGV", 139), ("TERM", 143)] {
        let script = format!("kill -{signal} $$");
        scene.run(&["lock", "demo", "-c", &script]).await.exits(code);
    }
}

#[tokio::test]
async fn wrong_usage_is_64_and_says_why() {
    let scene = Scene::new().await;
    let large = format!("k={}", "v".repeat(5000));
    let cases: [(&[&str], &str); 12] = [
        (&["lock", "demo"], "command"),
        (&["lock", "--", "true"], "NAME"),
        (&["lock", "demo", "--bogus", "--", "true"], "--bogus"),
        (&["lock", "a//b", "--", "true"], "a//b"),
        (&["lock", "demo", "-n", "-w", "1s", "--", "true"], "--wait"),
        (&["lock", "demo", "-w", "soon", "--", "true"], "soon"),
        (&["lock", "demo", "--ttl", "1ms", "--", "true"], "out of range"),
        (&["lock", "demo", "--grace", "20s", "--", "true"], "grace"),
        (&["lock", "demo", "--meta", &large, "--", "true"], "metadata"),
        (&["lock", "demo", "--signal", "WHAT", "--", "true"], "WHAT"),
        (&["get", "a/../b"], "a/../b"),
        (&["frobnicate"], "frobnicate"),
    ];
    for (args, why) in cases {
        let ended = scene.run(args).await.exits(64);
        assert!(ended.stderr.contains(why), "{why} is not in {ended:?}");
        assert_eq!(ended.stdout, "");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_69() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let address = format!("http://{nobody}");
    for command in [
        &["lock", "demo", "--", "touch", "/nonexistent/ran"] as &[&str],
        &["lock", "demo", "-n", "--", "true"],
        &["ls"],
        &["get", "demo"],
        &["watch"],
        &["status"],
        &["force-release", "demo", "--token", "1", "--reason", "test"],
    ] {
        let mut lockd = lockd(command.iter().copied());
        lockd.env("LOCKD_ADDR", &address);
        let ended = Ended::of(lockd).await.exits(69);
        assert!(ended.stderr.contains(&nobody.port().to_string()), "{ended:?}");
    }
}

#[tokio::test]
async fn a_busy_lock_is_75_or_what_the_caller_chose() {
    let scene = Scene::new().await;
    let holder = scene.holding(&[], "demo", "touch up; exec sleep 1000").await;
    for how in [&["-n"] as &[&str], &["--nonblock"], &["-w", "200ms"], &["--wait", "0s"]] {
        let args = |more: &[&'static str]| [&["lock", "demo"], how, more].concat();
        scene.run(&args(&["--", "touch", "ran"])).await.exits(75);
        scene.run(&args(&["-E", "0", "--", "touch", "ran"])).await.exits(0);
        scene.run(&args(&["-E", "9", "--", "touch", "ran"])).await.exits(9);
    }
    assert!(!scene.path("ran").exists());
    assert_eq!(scene.waiters("demo").await, 0);
    drop(holder);
}

#[tokio::test]
async fn a_wrong_configuration_is_78() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lockd.toml");
    std::fs::write(&file, "data_dri = '/tmp'").unwrap();
    let file = file.to_str().unwrap();
    for (args, why) in [
        (&["serve", "--config", file] as &[&str], "data_dri"),
        (&["config", "--config", file], "data_dri"),
        (&["serve", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (&["serve", "--store", "etcd"], "etcd_endpoints"),
        (&["serve", "--store", "etcd", "--etcd-endpoints", "ht tp://a"], "ht tp://a"),
    ] {
        let ended = Ended::of(lockd(args.iter().copied())).await.exits(78);
        assert!(ended.stderr.contains(why), "{why} is not in {ended:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_executed_is_126_and_what_is_not_there_127() {
    let scene = Scene::new().await;
    let write = |name: &str, content: &str, mode| {
        std::fs::write(scene.path(name), content).unwrap();
        std::fs::set_permissions(scene.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("plain", "#!/bin/sh\n", 0o644);
    write("garbage", "\u{1}\u{2}", 0o755);
    for (command, code) in
        [("./plain", 126), ("./garbage", 126), ("/", 126), ("./absent", 127), ("no-such-tool", 127)]
    {
        let ended = scene.run(&["lock", "demo", "--", command]).await.exits(code);
        assert!(ended.stderr.contains(command), "{ended:?}");
    }
}

#[tokio::test]
async fn the_help_shows_the_table() {
    let help = Ended::of(lockd(["lock", "--help"])).await.exits(0);
    for code in ["64", "69", "75", "77", "78", "79", "125", "126", "127", "130", "143"] {
        assert!(help.stdout.contains(code), "{code}");
    }
}
