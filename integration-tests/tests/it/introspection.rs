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
