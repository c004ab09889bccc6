//! How many instructions the hot path takes: `make bench-check` counts them under valgrind, compares
//! them with `counts.txt` beside this file, and fails where one has grown by more than 5 %.
//! `make bench-check UPDATE=1` writes what it counts: a toolchain or a dependency may change it.
//!
//! Counts, unlike times, are the same on a machine that is busy. Those of another compiler are shown, and
//! fail nothing. What a scenario takes is the
//! difference between two runs of it, one twice as long as the other: start and end cancel out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "what cannot be set up ends the benchmark; figures are printed"
)]

mod scenarios;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, ExitCode},
};

/// How much more than what is stored is too much, in per cent.
const TOLERANCE: f64 = 5.0;

/// The machine's kind must not matter: its C library then copies and compares in the same way everywhere.
const SAME_EVERYWHERE: &str = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX,-ERMS,-FSRM";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.as_slice() {
        [scenario, rounds] => {
            scenarios::run(scenario, rounds.parse().expect("a number of rounds"));
            ExitCode::SUCCESS
        }
        _ => check(),
    }
}

fn check() -> ExitCode {
    let (compiler, text) = (compiler(), std::fs::read_to_string(path()).unwrap_or_default());
    let (stored, comparable) = (counts(&text), text.lines().next() == Some(&*compiler));
    let counted: BTreeMap<_, _> =
        scenarios::ALL.map(|(name, rounds)| (name, count(name, rounds))).into();
    let mut exit = ExitCode::SUCCESS;
    for (name, count) in &counted {
        let before = stored.get(*name).copied();
        let change = before.map(|before| 100.0 * (*count as f64 / before as f64 - 1.0));
        let verdict = match change {
            None => "new".to_owned(),
            Some(change) if change > TOLERANCE && comparable => {
                exit = ExitCode::FAILURE;
                format!("{change:+.1} %: TOO MUCH")
            }
            Some(change) => format!("{change:+.1} %"),
        };
        println!("{name:<40} {count:>9} instructions  {verdict}");
    }
    if std::env::var_os("UPDATE").is_some_and(|update| !update.is_empty()) {
        let lines = counted.iter().map(|(name, count)| format!("{name} {count}\n"));
        std::fs::write(path(), format!("{compiler}\n{}", lines.collect::<String>())).unwrap();
        return ExitCode::SUCCESS;
    }
    if !comparable {
        println!(
            "the stored counts are not of {compiler}: `make bench-check UPDATE=1` stores these"
        );
    }
    if exit == ExitCode::FAILURE {
        println!("find out why, or say why it is right with `make bench-check UPDATE=1`");
    }
    exit
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/counts.txt"))
}

/// The counts that are stored, after a line that names the compiler.
fn counts(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, count) = line.rsplit_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The compiler that makes the difference.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().expect("rustc runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Instructions of one round.
fn count(scenario: &str, rounds: u64) -> u64 {
    let [short, long] = [rounds, 2 * rounds].map(|rounds| instructions(scenario, rounds));
    (long - short) / rounds
}

fn instructions(scenario: &str, rounds: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([scenario, &rounds.to_string()])
        .env("GLIBC_TUNABLES", SAME_EVERYWHERE)
        .output()
        .expect("valgrind is installed: apt-get install valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {}\n{said}", output.status);
    // ==42== I   refs:      12,345
    let line = said.lines().find(|line| line.contains("refs:")).expect("valgrind counts");
    let digits: String =
        line.rsplit(':').next().unwrap().chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
