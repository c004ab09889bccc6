//! `--report`: what happened, for programs.

use super::*;

async fn report(scene: &Scene, args: &[&str], code: i32) -> Value {
    let file = scene.path("report.json");
    let args = [&["lock", "--report", file.to_str().unwrap()], args].concat();
    scene.run(&args).await.exits(code);
    serde_json::from_str(&read(&file)).unwrap()
}

#[tokio::test]
async fn it_says_how_it_ended() {
    let scene = Scene::new().await;
    let done =
        report(&scene, &["demo", "-c", "echo $LOCKD_FENCING_TOKEN > token; exit 3"], 3).await;
    assert_eq!((&done["lock"], &done["outcome"]), (&"demo".into(), &"completed".into()));
    assert_eq!((&done["exitCode"], &done["version"]), (&3.into(), &1.into()));
    assert_eq!(done["token"].as_str().unwrap(), scene.read("token").trim());
    for duration in ["waitedMs", "heldMs"] {
        let text = done[duration].as_str().unwrap_or_else(|| panic!("{duration} in {done}"));
        text.parse::<u64>().unwrap();
    }
    let absent = report(&scene, &["demo", "--", "./absent"], 127).await;
    assert_eq!(absent["outcome"], "not-started");

    let holder = scene.holding(&[], "demo", "touch up; exec sleep 1000").await;
    let busy = report(&scene, &["-n", "demo", "--", "true"], 75).await;
    assert_eq!((&busy["outcome"], &busy["token"]), (&"not-acquired".into(), &Value::Null));
    drop(holder);
}

#[tokio::test]
async fn it_says_that_the_lock_was_lost() {
    let scene = Scene::new().await;
    let script = "exec \"$0\" force-release demo --token $LOCKD_FENCING_TOKEN --reason test";
    let binary = lockd_binary();
    let args = ["demo", "--", "sh", "-c", script, binary.to_str().unwrap()];
    assert_eq!(report(&scene, &args, 79).await["outcome"], "lost");
}

/// The command's own code is worth more than the report.
#[tokio::test]
async fn a_report_that_cannot_be_written_is_a_message() {
    let scene = Scene::new().await;
    let args = ["lock", "--report", "/nonexistent/report", "demo", "-c", "exit 3"];
    let ended = scene.run(&args).await.exits(3);
    assert!(ended.stderr.contains("/nonexistent/report"), "{ended:?}");
}
