//! The Docker commands that testcontainers has no call for, and the removal of what a run leaves.
//!
//! Rust drops no statics, and a test process may be killed: so a child of ours waits for the end of a
//! pipe that this process holds, and then removes everything that bears the run's label.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The label that the containers and networks of this process bear.
pub(crate) const RUN_LABEL: &str = "lockd.test.run";

/// Ignores the signals of a terminal's Ctrl-C, since it has to outlive the tests.
const REAP: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
docker ps -aq --filter "label=$1" | xargs -r docker rm -fv
docker network ls -q --filter "label=$1" | xargs -r docker network rm
"#;

struct Run {
    name: String,
    /// Held for its standard input, which the kernel closes when this process ends, however it ends.
    _reaper: Child,
}

/// The name of this process's run, unique on the machine.
pub(crate) fn run_name() -> &'static str {
    static RUN: OnceLock<Run> = OnceLock::new();
    &RUN.get_or_init(Run::start).name
}

impl Run {
    fn start() -> Self {
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let name = format!("{}-{}", std::process::id(), since_epoch.as_micros());
        let reaper = Command::new("sh")
            .args(["-c", REAP, "reaper", &format!("{RUN_LABEL}={name}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh runs");
        Self { name, _reaper: reaper }
    }
}

/// Runs `docker ARGS` and gives back what it printed.
pub(crate) async fn docker(args: &[&str]) -> Result<String, String> {
    run("docker", args).await
}

/// Runs a command in the network of a container, as root: sudo is asked when we are not.
pub(crate) async fn in_network_of(container: &str, command: &[&str]) -> Result<String, String> {
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", container]).await?;
    let enter = ["nsenter", "-t", &pid, "-n"];
    let as_root: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["sudo", "-n"] };
    let words = [as_root, &enter, command].concat();
    run(words[0], &words[1..]).await.map_err(|error| {
        format!("{error}\ncutting off a member needs nsenter, iptables and root (or sudo without a password)")
    })
}

/// Runs `docker ARGS` where nothing can be awaited; a failure changes nothing, since the reaper follows.
pub(crate) fn docker_now(args: &[&str]) {
    let ended =
        Command::new("docker").args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(error) = ended {
        eprintln!("docker {}: {error}", args.join(" "));
    }
}

async fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let line = format!("{program} {}", args.join(" "));
    let output = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!(
            "{line}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}
