//! `lockd explain`: why a lock is held, and what to do about it.

use clap::Args as ClapArgs;
use lockd_client::{BlockedWait, Deadlock, EntryInfo, Explanation, Handoff, HandoffReason};
use serde_json::{Value, json};

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    render,
};

/// The flags of `lockd explain`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  lockd explain orders/42")]
pub(super) struct Args {
    /// The lock's name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let explained = globals.target.connect().await?.explain(&args.name).await?;
    match Format::or_default(globals.output, Format::Json) {
        Format::Table | Format::Wide => output::print(&describe(&args.name, &explained))?,
        Format::Name => output::print(&args.name)?,
        format @ (Format::Json | Format::Jsonl) => {
            let document = output::document("Explanation", to_json(&args.name, &explained));
            output::print_json(format, &document)?;
        }
    }
    Ok(Exit::Success)
}

fn describe(name: &str, explained: &Explanation) -> String {
    let mut lines = vec![headline(name, explained)];
    if let Some(lock) = &explained.lock {
        lines.extend(lock.holders.iter().flat_map(details));
        lines.extend(explained.last_handoff.as_ref().map(handoff));
        let columns = ["", "WHO", "MODE", "TOKEN", "OWNER", "WAITING", "GIVES UP IN"];
        let rows = lock.waiters.iter().zip(1..).map(|(waiter, place)| row(place, waiter));
        if !lock.waiters.is_empty() {
            lines.push(String::new());
            lines.push(output::table(&columns, rows));
        }
    }
    lines.extend(explained.deadlocks.iter().map(deadlock));
    if let Some(result) = &explained.result {
        lines.push(format!("done once, with a result of {} bytes", result.len()));
    }
    output::printable(&lines.join("\n"))
}

fn headline(name: &str, explained: &Explanation) -> String {
    let Some(lock) = &explained.lock else {
        return format!("{name} is free: nobody holds it or waits for it");
    };
    let Some(holder) = lock.holder() else {
        return format!("{name} is held by nobody yet: {} wait", lock.waiters.len());
    };
    let held = explained.held_for.unwrap_or(holder.age);
    let since = if explained.held_for.is_some() { "for" } else { "for at least" };
    let others = match lock.holders.len() {
        1 => String::new(),
        several => format!(" and {} more", several - 1),
    };
    format!("{name} is held by {}{others} {since} {}", render::who(holder), render::age(held))
}

/// What is known of a holder, a line each.
fn details(holder: &EntryInfo) -> Vec<String> {
    let lease = match (holder.lost, holder.lease_remaining) {
        (true, _) => {
            "its session has died: the entry stays for its lock-delay, or for its group".to_owned()
        }
        (false, Some(left)) => format!("lease ends in {} unless renewed", render::age(left)),
        (false, None) => "lease unknown".to_owned(),
    };
    let mut lines = vec![format!("  token {}, {}, {lease}", holder.token, holder.mode)];
    let mut say = |what: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("  {what}: {text}"));
        }
    };
    say("owner", holder.owner.clone());
    say("with", holder.names.join(", "));
    say("value", String::from_utf8_lossy(&holder.value).into_owned());
    say("metadata", render::metadata(holder));
    say("trace", holder.trace_id.clone());
    say("asked to yield", holder.yield_reason.clone());
    lines
}

fn handoff(handoff: &Handoff) -> String {
    let Handoff { from, age, detail, .. } = handoff;
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    let (reason, age) = (reason(handoff.reason), render::age(*age));
    format!("  came to it {age} ago: {} (token {}) {reason}{detail}", render::who(from), from.token)
}

fn reason(reason: HandoffReason) -> &'static str {
    match reason {
        HandoffReason::Released => "released it",
        HandoffReason::Yielded => "yielded it",
        HandoffReason::Expired => "lost it: its lease ran out",
        HandoffReason::Forced => "was made to release it",
        HandoffReason::Cancelled => "gave up waiting",
        HandoffReason::Closed => "closed its session",
        _ => "gave it up",
    }
}

fn row(place: usize, waiter: &EntryInfo) -> Vec<String> {
    vec![
        format!("{place}."),
        render::who(waiter),
        waiter.mode.to_string(),
        waiter.token.to_string(),
        if waiter.owner.is_empty() { "-".to_owned() } else { waiter.owner.clone() },
        render::age(waiter.age),
        waiter.wait_remaining.map_or("never".to_owned(), render::age),
    ]
}

fn deadlock(deadlock: &Deadlock) -> String {
    let state = match deadlock.ended {
        None => "deadlock".to_owned(),
        Some(ago) => format!("deadlock, ended {} ago", render::age(ago)),
    };
    let wait = |wait: &BlockedWait| {
        let victim = if wait.token != deadlock.victim {
            ""
        } else if deadlock.ended.is_some() {
            ", the youngest: this wait was ended"
        } else {
            ", the youngest: this wait is about to end"
        };
        let BlockedWait { owner, lock, token, blocked_by, .. } = wait;
        format!("\n  {owner} waits for {lock} (token {token}{victim}), behind {blocked_by}")
    };
    format!("{state}:{}", deadlock.cycle.iter().map(wait).collect::<String>())
}

fn to_json(name: &str, explained: &Explanation) -> Value {
    json!({
        "name": name,
        "lock": explained.lock.as_ref().map(render::to_json),
        "heldForMs": explained.held_for.map(|held| held.as_millis().to_string()),
        "lastHandoff": explained.last_handoff.as_ref().map(|handoff| json!({
            "reason": format!("{:?}", handoff.reason).to_lowercase(),
            "from": render::entry_to_json(&handoff.from),
            "ageMs": handoff.age.as_millis().to_string(),
            "detail": handoff.detail,
        })),
        "deadlocks": explained.deadlocks.iter().map(deadlock_to_json).collect::<Vec<_>>(),
        "doneOnce": explained.result.is_some(),
    })
}

fn deadlock_to_json(deadlock: &Deadlock) -> Value {
    let wait = |wait: &BlockedWait| {
        json!({
            "owner": wait.owner,
            "lock": wait.lock,
            "token": wait.token.to_string(),
            "blockedBy": wait.blocked_by,
        })
    };
    json!({
        "cycle": deadlock.cycle.iter().map(wait).collect::<Vec<_>>(),
        "victim": deadlock.victim.to_string(),
        "endedMs": deadlock.ended.map(|ago| ago.as_millis().to_string()),
    })
}
