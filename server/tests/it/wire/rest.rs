//! The HTTP routes and the metrics page.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Sends one request without a body and reads status, headers and body.
async fn send(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    patient(connection.read_to_string(&mut reply)).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

async fn get(served: &Served, path: &str) -> (u16, Value) {
    let (code, _, body) = send(served.http_address, "GET", path).await;
    (code, if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_follow_the_servers_life() {
    let served = Served::unloaded(&[("a model.v1", &[1], identity("FP32", ""))]).await;
    assert_eq!(get(&served, "/v2/health/live").await, (200, Value::Null));
    assert_eq!(get(&served, "/v2/health/ready").await, (400, Value::Null));
    served.front_end.repository.load_startup().await.unwrap();
    assert_eq!(get(&served, "/v2/health/ready").await, (200, Value::Null));
    assert_eq!(get(&served, "/v2/models/a%20model.v1/ready").await, (200, Value::Null));
    assert_eq!(get(&served, "/v2/models/a%20model.v1/versions/1/ready").await, (200, Value::Null));
    let not_ready = json!({ "error": "Model version not ready" });
    assert_eq!(get(&served, "/v2/models/a%20model.v1/versions/9/ready").await, (400, not_ready.clone()));
    assert_eq!(get(&served, "/v2/models/nobody/ready").await, (400, not_ready));
    served.front_end.lifecycle.drain();
    assert_eq!(get(&served, "/v2/health/ready").await, (400, Value::Null));
    served.front_end.lifecycle.stop();
    for path in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(get(&served, path).await, (503, Value::Null));
    }
    assert_eq!(get(&served, "/v2").await, (503, json!({ "error": "Server exiting" })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_served_as_json() {
    let served = Served::start(&[("add_sub", &[1], add_sub("max_batch_size: 4"))]).await;
    let (code, about) = get(&served, "/v2").await;
    assert_eq!((code, &about["name"]), (200, &json!("the server")));
    let (code, model) = get(&served, "/v2/models/add_sub/versions/1").await;
    assert_eq!(code, 200);
    let tensor = |name| json!({ "name": name, "datatype": "INT32", "shape": [-1, 4] });
    let expected = json!({
        "name": "add_sub",
        "versions": ["1"],
        "platform": "builtin",
        "inputs": [tensor("INPUT0"), tensor("INPUT1")],
        "outputs": [tensor("OUTPUT0"), tensor("OUTPUT1")],
    });
    assert_eq!(model, expected);
    assert_eq!(get(&served, "/v2/models/add_sub").await, (200, expected));
    let unknown = json!({ "error": "Request for unknown model: 'nobody' is not found" });
    assert_eq!(get(&served, "/v2/models/nobody").await, (400, unknown));
    let (code, _) = get(&served, "/v2/models/add_sub/versions/9").await;
    assert_eq!(code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_routes_say_what_they_are_not() {
    let served = Served::start(&[("floats", &[1], identity("FP32", ""))]).await;
    for (method, path, expected) in [
        ("POST", "/v2/models/floats/infer", 501),
        ("GET", "/v2/models/stats", 501),
        ("POST", "/v2/repository/models/floats/load", 501),
        ("POST", "/v2/repository/index", 501),
        ("GET", "/v2/cudasharedmemory/status", 501),
        ("GET", "/v2/logging", 501),
        ("POST", "/v2/models/floats", 405),
        ("GET", "/v2/models/floats/infer", 405),
        ("GET", "/v2/nothing", 404),
        ("GET", "/", 404),
    ] {
        let (code, head, body) = send(served.http_address, method, path).await;
        assert_eq!(code, expected, "{method} {path}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["error"].as_str().unwrap().contains(path), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_their_own_listener() {
    let served = Served::start(&[("floats", &[1], identity("FP32", ""))]).await;
    served.client().await.model_infer(one("floats", "", 1.0)).await.unwrap();
    let (code, head, body) = send(served.metrics_address, "GET", "/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("nv_inference_request_success{model=\"floats\",version=\"1\"} 1"), "{body}");
    let (code, ..) = send(served.metrics_address, "GET", "/v2").await;
    assert_eq!(code, 404);
}
