//! The gRPC server: services, limits and the end of its life.

use std::time::Duration;

use proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::codec::CompressionEncoding;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server as reflection;

use super::deadline;
use super::front_end::FrontEnd;
use super::health::HealthService;
use super::lifecycle::Phase;
use super::service::InferenceService;

/// Limits of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcOptions {
    /// Largest message, both ways, in bytes.
    pub max_message_bytes: usize,
    /// A connection on which nothing came for this long is probed.
    pub keepalive_time: Duration,
    /// A probed connection that does not answer for this long is closed.
    pub keepalive_timeout: Duration,
    /// Most RPCs at a time on one connection; clients queue the others.
    pub max_concurrent_streams: u32,
    /// What a client may send on one RPC ahead of its being read, in bytes.
    pub stream_window_bytes: u32,
    /// What a client may send on one connection ahead of its being read, in bytes.
    pub connection_window_bytes: u32,
    /// How late every reply is that is no inference, for tests of clients.
    pub reply_delay: Option<Duration>,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self {
            // 2 GiB - 1, the most that gRPC clients can be told to send.
            max_message_bytes: 0x7fff_ffff,
            keepalive_time: Duration::from_secs(7200),
            keepalive_timeout: Duration::from_secs(20),
            max_concurrent_streams: 4096,
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 16 << 20,
            reply_delay: None,
        }
    }
}

/// RPCs that a client may cancel in a burst before the server has seen them; more of them close its connection.
/// The transport's own limit of 20 is met by any client whose deadline passes with many calls under way.
const MAX_PENDING_RESETS: usize = 1024;

/// How long accepting pauses after it failed: most failures are a lack of descriptors, and trying again at
/// once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the gRPC server ended.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GrpcError {
    #[error("the descriptors of the protocol cannot be served by reflection: {0}")]
    Reflection(#[from] reflection::Error),
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves gRPC on `listener` until the server is stopped and the last RPC has ended: the inference service,
/// health and reflection.
///
/// It answers from the first moment; until models are there, it says that it is not ready.
///
/// # Errors
/// [`GrpcError`]; a failing connection or RPC is none.
pub async fn serve(front_end: FrontEnd, listener: TcpListener, options: GrpcOptions) -> Result<(), GrpcError> {
    let lifecycle = front_end.lifecycle.clone();
    let inference = GrpcInferenceServiceServer::new(InferenceService::new(front_end.clone(), options.reply_delay))
        .max_decoding_message_size(options.max_message_bytes)
        .max_encoding_message_size(options.max_message_bytes)
        // The limit holds for what comes out. Replies are not compressed: tensors gain little by it.
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate);
    let inference = InterceptedService::new(inference, deadline::stamp);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).then(|accepted| async {
        if let Err(error) = &accepted {
            tracing::warn!("unable to accept a gRPC connection: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        accepted
    });
    Server::builder()
        .http2_keepalive_interval(Some(options.keepalive_time))
        .http2_keepalive_timeout(Some(options.keepalive_timeout))
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(options.stream_window_bytes)
        .initial_connection_window_size(options.connection_window_bytes)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .add_service(inference)
        .add_service(HealthServer::new(HealthService::new(front_end)))
        .add_service(reflected().build_v1()?)
        .add_service(reflected().build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming, async move { lifecycle.reached(Phase::Stopping).await })
        .await?;
    Ok(())
}

fn reflected<'a>() -> reflection::Builder<'a> {
    reflection::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
