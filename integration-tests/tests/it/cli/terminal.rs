//! On a terminal: `script` makes one, bash is the shell with job control.

use tokio::{io::AsyncWriteExt as _, process::ChildStdin};

use super::*;

/// A shell on a terminal of its own, and the keyboard.
struct Shell {
    process: tokio::process::Child,
    keyboard: ChildStdin,
    screen: PathBuf,
}

impl Shell {
    /// Runs a script in bash, with job control. `$LOCKD` is the binary.
    fn run(scene: &Scene, script: &str) -> Self {
        let path = scene.path("session.sh");
        std::fs::write(&path, format!("set -m\n{script}\n")).unwrap();
        let screen = scene.path("screen");
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-f", "-c", "bash session.sh", "typescript"]);
        command.env("LOCKD_ADDR", scene.addrs()).env("LOCKD", lockd_binary());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        command.current_dir(scene.dir.path()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stderr(Stdio::null());
        command.stdout(std::fs::File::create(&screen).unwrap());
        let mut process = command.spawn().expect("`script` is installed");
        let keyboard = process.stdin.take().unwrap();
        Self { process, keyboard, screen }
    }

    async fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).await.unwrap();
        self.keyboard.flush().await.unwrap();
    }

    async fn shows(&self, what: &str) -> String {
        eventually(&format!("{what:?} is on the screen"), SOON, async || {
            let screen = read(&self.screen);
            if screen.contains(what) { Ok(screen) } else { Err(screen) }
        })
        .await
    }

    async fn ended(mut self) -> String {
        let ended = tokio::time::timeout(SOON, self.process.wait()).await;
        let screen = read(&self.screen);
        ended.unwrap_or_else(|_| panic!("it ends: {screen}")).unwrap();
        read(&self.screen)
    }
}

#[tokio::test]
async fn the_command_reads_the_terminal() {
    let scene = Scene::new().await;
    let script = "$LOCKD lock demo -- sh -c '[ -t 0 ] && [ -t 1 ] && echo ready; read x; echo got-$x'; echo end-$?";
    let mut shell = Shell::run(&scene, script);
    shell.shows("ready").await;
    shell.types("hello\n").await;
    let screen = shell.ended().await;
    assert!(screen.contains("got-hello") && screen.contains("end-0"), "{screen}");
}

#[tokio::test]
async fn control_c_ends_the_command_and_the_shell_has_its_terminal_back() {
    let scene = Scene::new().await;
    let script = "$LOCKD lock demo -- sh -c 'echo ready; exec sleep 1000'; echo end-$?; read x; echo shell-$x";
    let mut shell = Shell::run(&scene, script);
    shell.shows("ready").await;
    shell.types("\u{3}").await;
    shell.shows("end-130").await;
    shell.types("mine\n").await;
    let screen = shell.ended().await;
    assert!(screen.contains("shell-mine"), "{screen}");
    assert_eq!(scene.get("demo").await["holder"], Value::Null);
}

#[tokio::test]
async fn control_c_while_waiting_is_130() {
    let scene = Scene::new().await;
    let holder = scene.holding(&[], "demo", "touch up; exec sleep 1000").await;
    let mut shell = Shell::run(&scene, "$LOCKD lock demo -- true; echo end-$?");
    eventually("it waits", SOON, async || scene.waiters("demo").await == 1).await;
    shell.types("\u{3}").await;
    let screen = shell.ended().await;
    assert!(screen.contains("end-130"), "{screen}");
    drop(holder);
}

#[tokio::test]
async fn control_z_stops_both_and_fg_goes_on() {
    let scene = Scene::new().await;
    let script = "$LOCKD lock --ttl 60s demo -- sh -c 'echo ready; read x; echo got-$x; exit 3'\n\
                  echo stopped-$?; read x; fg >/dev/null; echo end-$?";
    let mut shell = Shell::run(&scene, script);
    shell.shows("ready").await;
    shell.types("\u{1a}").await;
    // 128 + SIGSTOP or SIGTSTP: the shell sees that the job has stopped.
    shell.shows("stopped-1").await;
    shell.types("go\nword\n").await;
    shell.shows("got-word").await;
    let screen = shell.ended().await;
    assert!(screen.contains("end-3"), "{screen}");
}

/// The lease has run out while the job was stopped: `fg` must not let the command go on.
#[tokio::test]
async fn a_job_that_was_stopped_for_too_long_does_not_go_on() {
    let scene = Scene::new().await;
    let script = "$LOCKD lock --ttl 1s demo -- sh -c 'echo ready; read x; touch went-on'\n\
                  echo stopped-$?; read x; fg >/dev/null; echo end-$?";
    let mut shell = Shell::run(&scene, script);
    shell.shows("ready").await;
    shell.types("\u{1a}").await;
    shell.shows("stopped-1").await;
    eventually("the lease has run out", SOON, async || scene.get("demo").await["holder"].is_null())
        .await;
    shell.types("go\nword\n").await;
    let screen = shell.ended().await;
    assert!(screen.contains("end-79"), "{screen}");
    assert!(!scene.path("went-on").exists());
}

/// The rest of a pipeline is in lockd's process group, and needs the terminal as well.
#[tokio::test]
async fn a_pipeline_keeps_the_terminal() {
    let scene = Scene::new().await;
    let script = "$LOCKD lock demo -- sh -c 'echo data; sleep 1' | \
                  sh -c 'read d; echo asks; read k </dev/tty; echo $d-$k'; echo end-$?";
    let mut shell = Shell::run(&scene, script);
    shell.shows("asks").await;
    shell.types("key\n").await;
    shell.shows("data-key").await;
    let screen = shell.ended().await;
    assert!(screen.contains("end-0"), "{screen}");
}

#[tokio::test]
async fn a_job_in_the_background_leaves_the_terminal_to_the_shell() {
    let scene = Scene::new().await;
    let script = "$LOCKD lock demo -- sh -c 'echo ready; while [ ! -e go ]; do sleep 0.05; done' &\n\
                  read x; echo shell-$x; wait; read y; echo again-$y";
    let mut shell = Shell::run(&scene, script);
    shell.shows("ready").await;
    shell.types("one\n").await;
    shell.shows("shell-one").await;
    std::fs::write(scene.path("go"), "").unwrap();
    shell.types("two\n").await;
    let screen = shell.ended().await;
    assert!(screen.contains("again-two"), "{screen}");
}

#[tokio::test]
async fn tables_are_for_terminals_and_no_color_is_honoured() {
    let scene = Scene::new().await;
    let holder = scene.holding(&[], "demo", "touch up; exec sleep 1000").await;
    let shell = Shell::run(&scene, "NO_COLOR=1 $LOCKD ls; NO_COLOR=1 $LOCKD get demo; echo end");
    let screen = shell.ended().await;
    assert!(screen.contains("HOLDER") && !screen.contains("\"version\""), "{screen}");
    assert!(!screen.contains('\u{1b}'), "{screen:?}");
    drop(holder);
}
