//! A label of the sidecar's own pod that says whether it leads: for Services that select by it.

use std::str::FromStr;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use lockd_proto::retry::{Policy, Retry};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::SidecarError;
use crate::telemetry::tasks::Tasks;

/// A label's key, and its value for a leader and for all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    key: String,
    leader: String,
    standby: String,
}

/// The label as it is to be, and as it is.
#[derive(Debug)]
pub(super) struct PodLabel {
    wanted: watch::Sender<bool>,
    is: watch::Receiver<Option<bool>>,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(key, values)| {
            let (leader, standby) = values.split_once(',')?;
            Some([key, leader, standby].map(str::to_owned))
        });
        match parts {
            Some([key, leader, standby]) if !key.is_empty() && leader != standby => {
                Ok(Self { key, leader, standby })
            }
            _ => Err("write KEY=LEADER,STANDBY, such as role=leader,standby".to_owned()),
        }
    }
}

impl Label {
    fn value(&self, leads: bool) -> &str {
        if leads { &self.leader } else { &self.standby }
    }

    /// Keeps the label of the pod that `POD_NAME` names, by the API server that the pod, or a
    /// kubeconfig, knows. It begins as one of all others.
    pub(super) async fn keep(
        self,
        tasks: &Tasks,
        end: CancellationToken,
    ) -> Result<PodLabel, SidecarError> {
        let pod = std::env::var("POD_NAME").map_err(|_| SidecarError::UnknownPod)?;
        let client = Client::try_default().await.map_err(SidecarError::NoApiServer)?;
        let namespace = std::env::var("POD_NAMESPACE");
        let namespace = namespace.unwrap_or_else(|_| client.default_namespace().to_owned());
        let pods = Api::<Pod>::namespaced(client, &namespace);
        let (wanted, wants) = watch::channel(false);
        let (became, is) = watch::channel(None);
        let keeping = async move {
            end.run_until_cancelled(self.follow(&pods, &pod, wants, became)).await;
        };
        tasks.spawn("pod label", keeping);
        Ok(PodLabel { wanted, is })
    }

    async fn follow(
        &self,
        pods: &Api<Pod>,
        pod: &str,
        mut wanted: watch::Receiver<bool>,
        became: watch::Sender<Option<bool>>,
    ) {
        let mut retry = Retry::new(Policy::default());
        loop {
            let leads = *wanted.borrow_and_update();
            let label = json!({ "metadata": { "labels": { &self.key: self.value(leads) } } });
            let patched = pods.patch(pod, &PatchParams::default(), &Patch::Merge(label)).await;
            let pause = match patched {
                Ok(_) => {
                    became.send_replace(Some(leads));
                    retry.reset();
                    None
                }
                Err(error) => {
                    // What it is by now is not known.
                    became.send_replace(None);
                    let hint = "may its service account patch pods?";
                    tracing::warn!(%error, hint, "the pod's label can't be set yet");
                    Some(retry.next_delay().unwrap_or_default())
                }
            };
            let again = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = again => {}
                // The sender goes with the sidecar.
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl PodLabel {
    /// Has it say this, as soon as the API server takes it.
    pub(super) fn want(&self, leads: bool) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, leads) != leads);
    }

    /// Waits until it says this. Cancel safe.
    pub(super) async fn says(&self, leads: bool) {
        // The sender goes with the sidecar.
        drop(self.is.clone().wait_for(|is| *is == Some(leads)).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_key_and_two_values() {
        let label: Label = "lockd.dev/role=leader,standby".parse().unwrap();
        assert_eq!((label.value(true), label.value(false)), ("leader", "standby"));
        for wrong in ["", "role", "role=leader", "=a,b", "role=a,a"] {
            assert!(wrong.parse::<Label>().is_err(), "{wrong}");
        }
    }
}
