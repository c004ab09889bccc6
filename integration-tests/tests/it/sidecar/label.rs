//! The label of the sidecar's pod, at an API server that is a fake but for what it checks.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::patch,
};
use integration_tests::eventually;
use serde_json::{Value, json};

use super::Sidecar;
use crate::world::{SOON, World};

/// Kubernetes' API server, as far as a pod's labels go.
#[derive(Clone, Default)]
struct ApiServer {
    /// Which pod got which label, one after the other.
    labels: Arc<Mutex<Vec<(String, String)>>>,
    /// How many requests are refused first.
    refuses: Arc<Mutex<u32>>,
}

impl ApiServer {
    /// Starts it, and writes a kubeconfig by which it is found.
    async fn start(&self, kubeconfig: &std::path::Path) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", listener.local_addr().unwrap()) } }],
            "users": [{ "name": "test", "user": { "token": "secret" } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": "locks" } }],
        });
        std::fs::write(kubeconfig, config.to_string()).unwrap();
        let route = "/api/v1/namespaces/{namespace}/pods/{name}";
        let routes = Router::new().route(route, patch(Self::patch)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
    }

    async fn patch(
        State(server): State<Self>,
        Path((namespace, name)): Path<(String, String)>,
        headers: HeaderMap,
        body: String,
    ) -> (StatusCode, String) {
        assert_eq!(
            (namespace.as_str(), &headers["authorization"]),
            ("locks", &"Bearer secret".parse().unwrap())
        );
        assert_eq!(headers["content-type"], "application/merge-patch+json");
        let refuses = &mut *server.refuses.lock().unwrap();
        if *refuses > 0 {
            *refuses -= 1;
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "not yet" });
            return (StatusCode::FORBIDDEN, status.to_string());
        }
        let change: Value = serde_json::from_str(&body).unwrap();
        // Nothing else of the pod is touched.
        assert_eq!(change.as_object().unwrap().len(), 1, "{change}");
        let labels = change["metadata"]["labels"].as_object().unwrap();
        assert_eq!(
            (change["metadata"].as_object().unwrap().len(), labels.len()),
            (1, 1),
            "{change}"
        );
        server
            .labels
            .lock()
            .unwrap()
            .push((name.clone(), labels["role"].as_str().unwrap().to_owned()));
        let pod = json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": name, "namespace": namespace, "labels": labels } });
        (StatusCode::OK, pod.to_string())
    }

    async fn has_heard(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(pod, role)| ((*pod).to_owned(), (*role).to_owned())).collect();
        eventually("the labels are set", SOON, async || {
            let heard = self.labels.lock().unwrap().clone();
            if heard == expected { Ok(()) } else { Err(heard) }
        })
        .await;
    }
}

async fn pod(world: &World, name: &str, kubeconfig: &std::path::Path) -> Sidecar {
    let label = ["--election", "e", "--ttl", "3s", "--pod-label", "role=leader,standby"];
    let env = [("POD_NAME", name), ("KUBECONFIG", kubeconfig.to_str().unwrap())];
    Sidecar::start_with(world, &label, &env).await
}

#[tokio::test]
async fn the_label_is_off_before_another_pod_has_it() {
    let world = World::embedded().await;
    let dir = tempfile::tempdir().unwrap();
    let (server, kubeconfig) = (ApiServer::default(), dir.path().join("config"));
    server.start(&kubeconfig).await;
    // The first requests are refused: the label is set all the same, and the election is not late.
    *server.refuses.lock().unwrap() = 2;
    let first = pod(&world, "first", &kubeconfig).await;
    first.leads().await;
    eventually("the label is set", SOON, async || {
        let heard = server.labels.lock().unwrap().clone();
        if heard.last().is_some_and(|last| last.1 == "leader") { Ok(()) } else { Err(heard) }
    })
    .await;
    server.labels.lock().unwrap().clear();
    let second = pod(&world, "second", &kubeconfig).await;
    second.answers("/standby", 200).await;
    server.has_heard(&[("second", "standby")]).await;
    assert_eq!(first.post("/v1/elections/e:resign").await.code, 200);
    second.leads().await;
    server.has_heard(&[("second", "standby"), ("first", "standby"), ("second", "leader")]).await;
}

#[tokio::test]
async fn without_a_pod_the_error_says_what_is_missing() {
    let world = World::embedded().await;
    let said = Sidecar::refused(&world, 78, &["--election", "e", "--pod-label", "role=a,b"]).await;
    assert!(said.contains("POD_NAME"), "{said}");
}
