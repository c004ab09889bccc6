//! What tools ask any gRPC server: is it healthy, and what does it offer.

use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::world::{SOON, World};

async fn channel(world: &World) -> Channel {
    let url = world.daemons.first().unwrap().url();
    Channel::from_shared(url).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn its_health_is_that_of_its_readiness() {
    let world = World::embedded().await;
    let health = HealthClient::new(channel(&world).await);
    for service in ["", "lockd.v1.SessionService", "lockd.v1.LockService"] {
        integration_tests::eventually("it serves", SOON, async || {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = health.clone().check(request).await;
            answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
        })
        .await;
    }
}

#[tokio::test]
async fn it_describes_its_services() {
    let world = World::embedded().await;
    let mut reflection = ServerReflectionClient::new(channel(&world).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("a list of services");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["lockd.v1.AdminService", "lockd.v1.LockService", "lockd.v1.SessionService"] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
}

/// A request to the daemon's HTTP port.
async fn http(world: &World, method: reqwest::Method, path: &str, body: &str) -> (u16, String) {
    let url = format!("http://{}{path}", world.daemons[0].http_addr());
    let request = reqwest::Client::new().request(method, url).body(body.to_owned());
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn its_tasks_are_listed_by_kind_with_their_ages() {
    let world = World::embedded().await;
    let client = world.client().await;
    let held = client.lock("l").acquire(&crate::world::soon()).await.unwrap();
    let (code, tasks) = http(&world, reqwest::Method::GET, "/debug/tasks", "").await;
    let tasks: serde_json::Value = serde_json::from_str(&tasks).unwrap();
    assert_eq!((code, &tasks["stream"]["count"]), (200, &serde_json::json!(1)), "{tasks}");
    assert!(tasks["stream"]["ages_ms"][0].is_u64() && tasks["core"]["count"] == 1, "{tasks}");
    held.release().await.unwrap();
    client.shutdown().await;
    integration_tests::eventually("the stream's task is gone", SOON, async || {
        let (_, tasks) = http(&world, reqwest::Method::GET, "/debug/tasks", "").await;
        if tasks.contains("stream") { Err(tasks) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn what_it_logs_can_be_changed_while_it_runs() {
    let world = World::embedded().await;
    let (code, before) = http(&world, reqwest::Method::GET, "/debug/log", "").await;
    assert_eq!((code, before.as_str()), (200, "info\n"));
    let (code, why) = http(&world, reqwest::Method::PUT, "/debug/log", "lockd=loud").await;
    assert!(code == 400 && why.contains("lockd=loud"), "{code} {why}");
    let (code, now) = http(&world, reqwest::Method::PUT, "/debug/log", "lockd=trace\n").await;
    assert_eq!((code, now.as_str()), (200, "lockd=trace\n"));
    assert!(world.daemons[0].stderr().contains("the log's filter was changed"));
}
