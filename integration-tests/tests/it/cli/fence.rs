//! `lockd fence`.

use integration_tests::{Postgres, unique_name};

use super::*;

/// How `lockd fence` with these arguments ends.
async fn fence(args: &[&str]) -> Ended {
    let mut command = lockd([&["fence"], args].concat());
    command.env_remove("DATABASE_URL");
    Ended::of(command).await
}

#[tokio::test]
async fn init_makes_the_table_once() {
    let postgres = Postgres::shared().await;
    let schema = unique_name("fence");
    postgres.sql(&format!("CREATE SCHEMA {schema}")).await;
    let url = format!("{}?options=-csearch_path%3D{schema}", postgres.url());
    for _ in 0..2 {
        let made = fence(&["init", "--postgres", &url]).await.exits(0);
        assert!(
            made.stderr.contains("the table lockd_fence is in postgres at 127.0.0.1"),
            "{made:?}"
        );
        assert!(!made.stderr.contains("only-for-tests"), "no password: {made:?}");
    }
    assert_eq!(postgres.sql(&format!("SELECT count(*) FROM {schema}.lockd_fence")).await, "0");
}

#[tokio::test]
async fn init_prints_the_migration() {
    let printed = fence(&["init", "--print"]).await.exits(0);
    assert!(printed.stdout.contains("CREATE TABLE IF NOT EXISTS lockd_fence"), "{printed:?}");
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    let postgres = Postgres::shared().await;
    let nobody = format!("postgres://postgres:wrong@{}/postgres", postgres.address());
    let elsewhere = postgres.url().trim_end_matches("postgres").to_owned() + "nowhere";
    let cases = [
        (vec!["init"], 64, "--postgres"),
        (vec!["init", "--postgres", "no url"], 64, "--postgres"),
        (vec!["init", "--postgres", "postgres://x@127.0.0.1:1/x"], 69, "refused"),
        (vec!["init", "--postgres", &nobody], 77, "password authentication failed"),
        (vec!["init", "--postgres", &elsewhere], 78, "does not exist"),
    ];
    for (args, code, words) in cases {
        let ended = fence(&args).await.exits(code);
        assert!(ended.stderr.contains(words), "{args:?}: {ended:?}");
        assert!(!ended.stderr.contains("wrong@"), "{ended:?}");
    }
}
