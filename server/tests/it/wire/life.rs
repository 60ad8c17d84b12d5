//! From the first moment to the last: health, readiness, drain and stop.

use proto::inference::{ModelReadyRequest, ServerLiveRequest, ServerReadyRequest};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.to_owned() }
}

async fn health(served: &Served, name: &str) -> Result<ServingStatus, tonic::Status> {
    let reply = HealthClient::new(served.channel().await).check(service(name)).await?;
    Ok(reply.into_inner().status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_alive_before_it_is_ready() {
    let served = Served::unloaded(&[("floats", &[1], identity("FP32", ""))]).await;
    let mut client = served.client().await;
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let asked = ModelReadyRequest { name: "floats".to_owned(), version: String::new() };
    assert!(!client.model_ready(asked).await.unwrap().into_inner().ready);
    assert_refused(client.model_infer(one("floats", "", 1.0)).await, Code::Unavailable, "Server not ready");
    assert_eq!(health(&served, "").await.unwrap(), ServingStatus::NotServing);
    assert_eq!(health(&served, "liveness").await.unwrap(), ServingStatus::Serving);
    served.front_end.repository.load_startup().await.unwrap();
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    client.model_infer(one("floats", "", 1.0)).await.unwrap();
    for name in ["", "inference.GRPCInferenceService", "floats"] {
        assert_eq!(health(&served, name).await.unwrap(), ServingStatus::Serving, "{name:?}");
    }
    assert_refused(health(&served, "nobody").await, Code::NotFound, "'nobody'");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_each_change_and_ends_with_the_server() {
    let served = Served::unloaded(&[("floats", &[1], identity("FP32", ""))]).await;
    let mut client = HealthClient::new(served.channel().await);
    let mut server = client.watch(service("")).await.unwrap().into_inner();
    let mut model = client.watch(service("floats")).await.unwrap().into_inner();
    assert_eq!(patient(server.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(patient(model.message()).await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    served.front_end.repository.load_startup().await.unwrap();
    assert_eq!(patient(server.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut status = ServingStatus::ServiceUnknown;
    while status != ServingStatus::Serving {
        status = patient(model.message()).await.unwrap().unwrap().status();
    }
    served.front_end.lifecycle.drain();
    assert_eq!(patient(server.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    served.front_end.lifecycle.stop();
    assert_refused(patient(server.message()).await, Code::Unavailable, "Server exiting");
    patient(served.grpc_task).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_serves_and_a_stopping_one_finishes() {
    let served = Served::start(&[("floats", &[1], identity("FP32", "")), ("sleep", &[1], sleep())]).await;
    let mut client = served.client().await;
    served.front_end.lifecycle.drain();
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let asked = ModelReadyRequest { name: "floats".to_owned(), version: String::new() };
    assert!(!client.model_ready(asked).await.unwrap().into_inner().ready);
    client.model_infer(one("floats", "", 1.0)).await.unwrap();
    let mut running = client.clone();
    let call = tokio::spawn(async move { running.model_infer(one("sleep", "runs", 0.2)).await });
    served.wait_under_way(1).await;
    served.front_end.lifecycle.stop();
    assert_eq!(patient(call).await.unwrap().unwrap().into_inner().id, "runs");
    patient(served.grpc_task).await.unwrap().unwrap();
    // Nobody answers any more; what this client calls it depends on how far its connection has got in closing.
    let code = patient(client.model_infer(one("floats", "", 1.0))).await.unwrap_err().code();
    assert!(matches!(code, Code::Unavailable | Code::Cancelled), "{code:?}");
}
