//! The command: its environment, its streams, its process group and its signals.

use std::{os::unix::process::CommandExt as _, process::Stdio};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test]
async fn the_command_is_told_what_it_holds() {
    let scene = Scene::new().await;
    let script = "echo $LOCKD_LOCK_NAME; echo $LOCKD_NAMESPACE; echo $LOCKD_FENCING_TOKEN; \
                  echo $LOCKD_SESSION_ID; lockd() { \"$0\" \"$@\"; }; \
                  lockd get jobs/1 -N team -o json > seen";
    let binary = lockd_binary();
    let args = ["lock", "-N", "team", "jobs/1", "--", "sh", "-c", script, binary.to_str().unwrap()];
    let ended = scene.run(&args).await.exits(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let seen: Value = serde_json::from_str(&scene.read("seen")).unwrap();
    let (token, session) = (&seen["holder"]["token"], &seen["holder"]["sessionId"]);
    let expected = ["jobs/1", "team", token.as_str().unwrap(), session.as_str().unwrap()];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn tokens_grow_and_the_lock_is_free_afterwards() {
    let scene = Scene::new().await;
    let mut last = 0;
    for _ in 0..3 {
        let ended = scene.run(&["lock", "demo", "-c", "echo $LOCKD_FENCING_TOKEN"]).await.exits(0);
        let token: u64 = ended.stdout.trim().parse().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
    }
    assert_eq!(scene.get("demo").await["holder"], Value::Null);
}

#[tokio::test]
async fn its_streams_are_passed_through_byte_by_byte() {
    let scene = Scene::new().await;
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut command = scene.lockd(["lock", "demo", "--", "sh", "-c", "cat; echo oops >&2"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (to_send, mut received) = (sent.clone(), vec![]);
    let send = async move { stdin.write_all(&to_send).await.unwrap() };
    let (_, read) = tokio::join!(send, stdout.read_to_end(&mut received));
    read.unwrap();
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    assert_eq!(Running(child).ended().await.exits(0).stderr, "oops\n");
}

#[tokio::test]
async fn it_leads_a_process_group_of_its_own() {
    let scene = Scene::new().await;
    let script = "echo $$; cut -d' ' -f5 /proc/$$/stat";
    let ended = scene.run(&["lock", "demo", "-c", script]).await.exits(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[0], lines[1]);
}

#[tokio::test]
async fn every_signal_is_passed_on() {
    let scene = Scene::new().await;
    let named = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("ALRM", Signal::ALARM),
        ("WINCH", Signal::WINCH),
        ("CONT", Signal::CONT),
        ("ABRT", Signal::ABORT),
        ("URG", Signal::URG),
        ("IO", Signal::IO),
        ("PWR", Signal::POWER),
        ("XCPU", Signal::XCPU),
        ("XFSZ", Signal::XFSZ),
        ("VTALRM", Signal::VTALARM),
        ("PROF", Signal::PROF),
        ("SYS", Signal::SYS),
    ];
    let traps: String =
        named.iter().map(|(name, _)| format!("trap 'echo {name} >> got' {name}; ")).collect();
    let script = format!("{traps} trap 'exit 7' TERM; touch up; while :; do sleep 0.05; done");
    let args = ["lock", "demo", "--", "bash", "-c", &script];
    let holder = Running(scene.lockd(args).spawn().unwrap());
    scene.appears("up").await;
    for (name, signal) in named {
        holder.signal(signal);
        eventually(&format!("{name} arrives"), SOON, async || {
            scene.read("got").lines().any(|got| got == name)
        })
        .await;
    }
    holder.signal(Signal::TERM);
    holder.ended().await.exits(7);
}

#[tokio::test]
async fn a_signal_reaches_what_the_command_has_started() {
    let scene = Scene::new().await;
    let script = "sleep 1000 & echo $! > pid; touch up; wait";
    let holder = scene.holding(&[], "demo", script).await;
    holder.signal(Signal::TERM);
    holder.ended().await.exits(143);
    let pid = scene.read("pid");
    eventually("the grandchild is gone", SOON, async || !runs(&pid)).await;
}

/// As under nohup: what is ignored when lockd starts stays ignored, by it and by its command.
#[tokio::test]
async fn an_ignored_signal_stays_ignored() {
    let scene = Scene::new().await;
    let script = "trap '' HUP; exec \"$0\" lock demo -c 'touch up; while [ ! -e go ]; do sleep 0.05; done; exit 5'";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(lockd_binary());
    command.env("LOCKD_ADDR", scene.addrs()).current_dir(scene.dir.path());
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.as_std_mut().process_group(0);
    let holder = Running(command.spawn().unwrap());
    scene.appears("up").await;
    holder.signal(Signal::HUP);
    std::fs::write(scene.path("go"), "").unwrap();
    holder.ended().await.exits(5);
}

#[tokio::test]
async fn a_lock_is_given_back_when_the_command_cannot_run() {
    let scene = Scene::new().await;
    scene.run(&["lock", "demo", "--", "./nothing-here"]).await.exits(127);
    assert_eq!(scene.get("demo").await["holder"], Value::Null);
}

fn is_stopped(pid: &str) -> bool {
    let stat = read(Path::new(&format!("/proc/{}/stat", pid.trim())));
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// While lockd is stopped, the lease is not watched, so nothing of the command may run.
#[tokio::test]
async fn sigtstp_stops_both_and_sigcont_goes_on() {
    let scene = Scene::new().await;
    let script = "sh -c 'trap \"\" TSTP; echo $$ > pid; touch up; while [ ! -e go ]; do sleep 0.05; done' & \
                  wait $!; exit 6";
    let holder = scene.holding(&["--ttl", "60s"], "demo", script).await;
    let (lockd, stubborn) = (holder.0.id().unwrap().to_string(), scene.read("pid"));
    holder.signal(Signal::TSTP);
    eventually("both are stopped", SOON, async || is_stopped(&lockd) && is_stopped(&stubborn))
        .await;
    std::fs::write(scene.path("go"), "").unwrap();
    holder.signal(Signal::CONT);
    holder.ended().await.exits(6);
}

/// A command that refuses to stop keeps its supervisor.
#[tokio::test]
async fn lockd_does_not_stop_without_its_command() {
    let scene = Scene::new().await;
    // What it ran beside itself would be stopped, so it runs nothing.
    let script = "trap 'touch seen' TSTP; touch up; while [ ! -e go ]; do :; done; exit 6";
    let holder = scene.holding(&["--ttl", "60s"], "demo", script).await;
    holder.signal(Signal::TSTP);
    eventually("it has refused", SOON, async || scene.path("seen").exists()).await;
    // lockd receives no SIGCONT: had it stopped, it would not see the end.
    std::fs::write(scene.path("go"), "").unwrap();
    holder.ended().await.exits(6);
}
