//! The connection of the client commands to a server.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use clap::Args;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::error::CliError;

/// Largest message that is sent or received: 2 GiB - 1, the protocol's own limit.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;
/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 flow-control windows: the default of 64 KiB makes large tensors slow.
const WINDOW_BYTES: u32 = 4 << 20;

/// A client of the inference service.
pub(super) type Client = GrpcInferenceServiceClient<Channel>;

/// Which server a client command talks to.
#[derive(Args, Clone, Debug)]
pub(super) struct ServerAddress {
    /// Address of the server's gRPC port.
    #[arg(long, global = true, default_value = "localhost:8001", env = "ALCEDO_URL", value_name = "HOST:PORT")]
    pub(super) url: String,
}

impl ServerAddress {
    /// Connects.
    ///
    /// # Errors
    /// [`CliError::Url`] or [`CliError::Connect`].
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        connect(&self.url).await
    }
}

/// Connects to the server at `url` (`HOST:PORT`, with or without `http://`).
///
/// # Errors
/// [`CliError::Url`] or [`CliError::Connect`].
pub(super) async fn connect(url: &str) -> Result<Client, CliError> {
    let channel =
        endpoint(url)?.connect().await.map_err(|error| CliError::Connect { url: url.to_owned(), reason: innermost(&error) })?;
    Ok(GrpcInferenceServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

fn endpoint(url: &str) -> Result<Endpoint, CliError> {
    let refuse = |reason: &str| CliError::Url { url: url.to_owned(), reason: reason.to_owned() };
    let address = match url.split_once("://") {
        Some(("http" | "grpc", address)) => address,
        Some((scheme, _)) => return Err(refuse(&format!("scheme '{scheme}' is not supported, only plain gRPC is"))),
        None => url,
    };
    let address = address.trim_end_matches('/');
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(refuse("it has no port"));
    };
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(refuse("it is no HOST:PORT"));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| refuse(&error.to_string()))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

/// The text at the bottom of a chain of errors: what the operating system said.
fn innermost(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Runs a client command to its end on this thread.
///
/// # Errors
/// The command's own, or [`CliError::Runtime`].
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn addresses_need_host_and_port() {
        for url in ["localhost:8001", "http://127.0.0.1:1", "grpc://host:65535/", "[::1]:8001"] {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for (url, text) in [
            ("localhost", "no port"),
            ("localhost:http", "no HOST:PORT"),
            (":8001", "no HOST:PORT"),
            ("https://localhost:8001", "scheme 'https' is not supported"),
            ("localhost:70000", "no HOST:PORT"),
        ] {
            let error = endpoint(url).unwrap_err().to_string();
            assert!(error.contains(text), "{url}: {error}");
        }
    }
}
