//! The listening sockets, all bound before the first model is loaded.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{Address, ServeError, ServerConfig};

/// The bound sockets and their addresses.
pub(super) struct Listeners {
    /// gRPC.
    pub(super) grpc: Option<TcpListener>,
    /// HTTP.
    pub(super) http: Option<TcpListener>,
    /// Metrics.
    pub(super) metrics: Option<TcpListener>,
    /// Where they are.
    pub(super) bound: Bound,
}

/// Addresses at which the server listens, ports as they were given by the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Bound {
    /// gRPC.
    pub(in crate::cli) grpc: Option<SocketAddr>,
    /// HTTP.
    pub(in crate::cli) http: Option<SocketAddr>,
    /// Metrics.
    pub(in crate::cli) metrics: Option<SocketAddr>,
}

impl Listeners {
    /// Binds every socket that is asked for.
    ///
    /// # Errors
    /// [`ServeError::Bind`] for the first that cannot be bound.
    pub(super) async fn bind(config: &ServerConfig) -> Result<Self, ServeError> {
        let grpc = bind(config.grpc.as_ref().map(|grpc| &grpc.address)).await?;
        let http = bind(config.http.as_ref()).await?;
        let metrics = bind(config.metrics.as_ref()).await?;
        let address = |listener: &Option<TcpListener>| listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let bound = Bound { grpc: address(&grpc), http: address(&http), metrics: address(&metrics) };
        Ok(Self { grpc, http, metrics, bound })
    }
}

async fn bind(address: Option<&Address>) -> Result<Option<TcpListener>, ServeError> {
    let Some(Address { host, port, flag }) = address else {
        return Ok(None);
    };
    // Brackets are how an IPv6 address is written beside a port; the resolver wants it without.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    match TcpListener::bind((name, *port)).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => Err(ServeError::Bind { host: host.clone(), port: *port, flag, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, bind};

    #[tokio::test]
    async fn a_taken_port_names_address_and_flag() {
        let address = Address { host: "127.0.0.1".to_owned(), port: 0, flag: "--http-port" };
        let first = bind(Some(&address)).await.unwrap().unwrap();
        let port = first.local_addr().unwrap().port();
        assert_ne!(port, 0);
        let error = bind(Some(&Address { port, ..address })).await.unwrap_err().to_string();
        assert!(error.contains(&format!("unable to listen on 127.0.0.1:{port}")), "{error}");
        assert!(error.contains("--http-port"), "{error}");
    }
}
