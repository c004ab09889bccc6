//! How the sidecar is doing, for Prometheus.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use super::{Sidecar, elections::ElectionState};

/// How long lockd may take to say who else campaigns.
const ASK: Duration = Duration::from_secs(1);

/// Gathers what is counted, for the whole process.
pub(super) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    describe_gauge!("lockd_sidecar_leader", "Whether it is proved that this one leads: 1 or 0");
    describe_gauge!(
        "leader_election_master_status",
        "The same by the name that client-go gives it"
    );
    describe_gauge!(
        "lockd_sidecar_lease_seconds",
        "How long it leads if nothing is renewed any more"
    );
    describe_gauge!("lockd_sidecar_candidates", "Who waits to lead, where lockd answers");
    describe_gauge!("lockd_sidecar_connected", "Whether lockd says who leads: 1 or 0");
    describe_gauge!("lockd_sidecar_locks", "Locks that the app holds by this sidecar");
    describe_gauge!("lockd_sidecar_app_lives", "Whether the app that is watched lives: 1 or 0");
    describe_counter!("lockd_sidecar_elected_total", "How often this one was elected");
    describe_counter!(
        "lockd_sidecar_leader_changes_total",
        "How often another one was seen to lead"
    );
    for name in ["lockd_sidecar_elected_total", "lockd_sidecar_leader_changes_total"] {
        counter!(name).absolute(0);
    }
    Ok(handle)
}

/// It leads from now on.
pub(super) fn elected() {
    counter!("lockd_sidecar_elected_total").increment(1);
}

/// Another one leads than did before.
pub(super) fn leader_changed() {
    counter!("lockd_sidecar_leader_changes_total").increment(1);
}

/// The app that is watched lives.
pub(super) fn app_lives() {
    gauge!("lockd_sidecar_app_lives").set(1.0);
}

/// It has died, or has not answered yet.
pub(super) fn app_is_silent() {
    gauge!("lockd_sidecar_app_lives").set(0.0);
}

/// Sets what is looked at rather than counted.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; these are small")]
pub(super) async fn look_at(sidecar: &Sidecar) {
    let yes = |yes: bool| if yes { 1.0 } else { 0.0 };
    gauge!("lockd_sidecar_locks").set(sidecar.locks.count() as f64);
    let Some(own) = &sidecar.own else { return };
    let (election, state) = (own.election.clone(), own.state());
    let (leads, left) = match &state {
        ElectionState::Me(_, _, left) => (1.0, left.as_secs_f64()),
        ElectionState::Another(_) | ElectionState::Nobody | ElectionState::Unknown => (0.0, 0.0),
    };
    gauge!("lockd_sidecar_leader", "election" => election.clone()).set(leads);
    gauge!("leader_election_master_status", "name" => election.clone()).set(leads);
    gauge!("lockd_sidecar_lease_seconds", "election" => election.clone()).set(left);
    gauge!("lockd_sidecar_connected").set(yes(state != ElectionState::Unknown));
    let Some(client) = sidecar.client.get() else { return };
    if let Ok(Ok(found)) = tokio::time::timeout(ASK, client.get(&election)).await {
        let waiting = found.map_or(0, |lock| lock.waiters.len());
        gauge!("lockd_sidecar_candidates", "election" => election).set(waiting as f64);
    }
}
