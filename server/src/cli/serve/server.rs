//! The parts of a running server, from bound sockets to the last answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use super::listen::{Bound, Listeners};
use super::signals::{Signal, Signals};
use super::{ServeError, ServerConfig, Watching};
use crate::clock;
use crate::grpc::{self, FrontEnd, GrpcOptions, Lifecycle};
use crate::http;
use crate::instance::device::{ChosenDevice, DeviceChoice};
use crate::instance::{choose_device, start_tokenizer_threads};
use crate::observe::host::HostProbe;
use crate::observe::monitor::Monitor;
use crate::repository::{Repository, StartupError};
use crate::shared_memory::Regions;

/// Variable of the environment that delays every gRPC reply that is no inference by so many seconds: Triton's,
/// for tests of clients.
const REPLY_DELAY: &str = "TRITONSERVER_SERVER_DELAY_GRPC_RESPONSE_SEC";

fn reply_delay() -> Option<Duration> {
    let text = std::env::var(REPLY_DELAY).ok()?;
    let delay = text.parse().ok().map(Duration::from_secs).filter(|delay| *delay <= MAX_REPLY_DELAY);
    if delay.is_none() {
        let most = MAX_REPLY_DELAY.as_secs();
        tracing::warn!("{REPLY_DELAY} must be a whole number of seconds of at most {most}, got '{text}'; no reply is delayed");
    }
    delay
}

/// Longest such delay; more would only be a mistake.
const MAX_REPLY_DELAY: Duration = Duration::from_secs(3600);

/// How long gRPC connections on which nothing is under way may stay open at the end: time for last answers to
/// arrive. A client that is there closes at once; one that is gone, or never said a word, never does.
const GRPC_GRACE: Duration = Duration::from_secs(5);

/// The same for HTTP, whose answers are small.
const HTTP_GRACE: Duration = Duration::from_secs(2);

/// Which listener a task serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    Grpc,
    Http,
    Metrics,
}

impl Listener {
    fn failed(self, reason: impl fmt::Display) -> ServeError {
        let what = match self {
            Self::Grpc => "gRPC",
            Self::Http => "HTTP",
            Self::Metrics => "metrics",
        };
        ServeError::FrontEnd { what, reason: reason.to_string() }
    }
}

/// A server whose sockets listen.
pub(in crate::cli) struct Server {
    front_end: FrontEnd,
    bound: Bound,
    /// One task per listener; each ends when the server has stopped.
    listeners: JoinSet<Result<Listener, ServeError>>,
    /// Ends the task that serves gRPC.
    grpc: Option<AbortHandle>,
    /// Looks at the machine and the models, where metrics are served.
    _monitor: Option<Monitor>,
    exit_on_error: bool,
    drain_delay: Duration,
    exit_timeout: Duration,
}

impl Server {
    /// Binds all sockets and serves them; no model is loaded yet.
    ///
    /// # Errors
    /// [`ServeError::Bind`], [`ServeError::Monitor`], [`ServeError::TokenizerThreads`], [`ServeError::Device`].
    pub(in crate::cli) async fn start(config: ServerConfig) -> Result<Self, ServeError> {
        start_tokenizer_threads(config.tokenizer_threads).map_err(|error| ServeError::TokenizerThreads(error.to_string()))?;
        // Before anything listens: a server without its device is of no use to anybody.
        let mut repository = config.repository.clone();
        repository.devices.chosen = look_for_device(config.device).await?;
        let Listeners { grpc, http, metrics, bound } = Listeners::bind(&config).await?;
        let front_end = FrontEnd::new(Repository::new(repository), Lifecycle::default(), config.name);
        let regions = Regions::new(config.shared_memory);
        let front_end = FrontEnd { forwarding: config.forwarding, regions, ..front_end };
        let mut listeners = JoinSet::new();
        let mut grpc_task = None;
        if let (Some(listener), Some(grpc)) = (grpc, config.grpc) {
            let options = GrpcOptions {
                max_message_bytes: grpc.max_message_bytes,
                keepalive_time: grpc.keepalive_time,
                keepalive_timeout: grpc.keepalive_timeout,
                reply_delay: reply_delay(),
                ..GrpcOptions::default()
            };
            grpc_task = Some(listeners.spawn(ended(Listener::Grpc, grpc::serve(front_end.clone(), listener, options))));
        }
        if let Some(listener) = http {
            listeners.spawn(ended(Listener::Http, http::serve(front_end.clone(), listener)));
        }
        let mut monitor = None;
        if let Some(listener) = metrics {
            monitor = Some(watch(&front_end, config.watching)?);
            listeners.spawn(ended(Listener::Metrics, http::serve_metrics(front_end.clone(), listener)));
        }
        for (what, address) in [("grpc", bound.grpc), ("http", bound.http), ("metrics", bound.metrics)] {
            if let Some(address) = address {
                tracing::info!(%address, "{what} listens");
            }
        }
        let (exit_on_error, drain_delay, exit_timeout) = (config.exit_on_error, config.drain_delay, config.exit_timeout);
        Ok(Self { front_end, bound, listeners, grpc: grpc_task, _monitor: monitor, exit_on_error, drain_delay, exit_timeout })
    }

    /// Where it listens.
    pub(in crate::cli) fn bound(&self) -> Bound {
        self.bound
    }

    /// Loads the start-up models.
    ///
    /// # Errors
    /// [`StartupError`] with every model that failed.
    pub(in crate::cli) fn load(&self) -> impl Future<Output = Result<(), StartupError>> + use<> {
        let repository = Arc::clone(&self.front_end.repository);
        // On a task of its own, so that a signal that comes first leaves no load half undone.
        let loading = tokio::spawn(async move { repository.load_startup().await });
        async move {
            match loading.await {
                Ok(result) => result,
                Err(error) => Err(StartupError { failures: vec![("start-up".to_owned(), error.to_string())] }),
            }
        }
    }

    /// Loads the start-up models and serves until a signal.
    ///
    /// # Errors
    /// [`ServeError`]: a start-up model failed and that is not to be borne, a listener failed, or work was cut off.
    pub(in crate::cli) async fn serve(mut self, signals: &mut Signals) -> Result<(), ServeError> {
        let begun = clock::now();
        let loaded = tokio::select! {
            loaded = self.load() => loaded,
            signal = signals.next() => return self.end_by(signal, signals).await,
            failure = Self::failure(&mut self.listeners) => return Err(failure),
        };
        let seconds = clock::now().since(begun).as_secs_f64();
        match loaded {
            Ok(()) => tracing::info!(seconds, "ready"),
            Err(error) if self.exit_on_error => {
                self.stop(signals).await?;
                return Err(error.into());
            }
            Err(error) => tracing::error!("{error}"),
        }
        self.serve_loaded(signals).await
    }

    /// Serves until a signal what has been loaded.
    ///
    /// # Errors
    /// [`ServeError`]: a listener failed, or work was cut off.
    pub(in crate::cli) async fn serve_loaded(mut self, signals: &mut Signals) -> Result<(), ServeError> {
        tokio::select! {
            signal = signals.next() => self.end_by(signal, signals).await,
            failure = Self::failure(&mut self.listeners) => Err(failure),
        }
    }

    /// Waits for a listener to end, which none does by itself.
    async fn failure(listeners: &mut JoinSet<Result<Listener, ServeError>>) -> ServeError {
        match listeners.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(listener))) => listener.failed("it ended by itself"),
            Some(Err(error)) => ServeError::Panicked(error.to_string()),
            None => ServeError::NothingServed,
        }
    }

    async fn end_by(self, signal: Signal, signals: &mut Signals) -> Result<(), ServeError> {
        self.front_end.lifecycle.drain();
        let delay = if signal == Signal::Terminate { self.drain_delay } else { Duration::ZERO };
        tracing::info!(signal = signal.name(), delay_seconds = delay.as_secs_f64(), "draining: not ready from now on");
        tokio::select! {
            () = tokio::time::sleep(delay) => self.stop(signals).await,
            _ = signals.next() => Err(ServeError::Interrupted),
        }
    }

    /// Refuses new work, and waits until what runs has been answered.
    ///
    /// # Errors
    /// [`ServeError::CutOff`] after the exit timeout, [`ServeError::Interrupted`] by another signal.
    pub(in crate::cli) async fn stop(self, signals: &mut Signals) -> Result<(), ServeError> {
        let Self { front_end, mut listeners, grpc, exit_timeout, .. } = self;
        let running = front_end.lifecycle.under_way();
        tracing::info!(requests = running, timeout_seconds = exit_timeout.as_secs_f64(), "stopping: finishing what runs");
        front_end.lifecycle.stop();
        front_end.repository.release();
        let finished = async {
            // Requests that were taken still need their models, so gRPC ends first.
            if let Some(grpc) = grpc {
                Self::finish_grpc(&front_end.lifecycle, &mut listeners, &grpc).await;
            }
            front_end.repository.shutdown().await;
            // Probes of orchestrators come over HTTP: they are answered to the end.
            front_end.lifecycle.close();
            let closed = async { while listeners.join_next().await.is_some() {} };
            if tokio::time::timeout(HTTP_GRACE, closed).await.is_err() {
                tracing::info!("closing HTTP connections that stay open");
            }
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(exit_timeout, finished) => ended,
            _ = signals.next() => return Err(ServeError::Interrupted),
        };
        let requests = front_end.lifecycle.under_way();
        match ended {
            Err(_) if requests > 0 => Err(ServeError::CutOff { requests }),
            // Only a model's farewell was left: nobody's answer is missing.
            _ => {
                tracing::info!("stopped");
                Ok(())
            }
        }
    }

    /// Waits until gRPC has ended. Connections that stay open when nothing has been under way for a while are cut.
    async fn finish_grpc(lifecycle: &Lifecycle, listeners: &mut JoinSet<Result<Listener, ServeError>>, grpc: &AbortHandle) {
        let ended = async { while !grpc.is_finished() && listeners.join_next().await.is_some() {} };
        let abandoned = async {
            lifecycle.idle().await;
            tokio::time::sleep(GRPC_GRACE).await;
        };
        tokio::select! {
            () = ended => {}
            () = abandoned => {
                tracing::info!("closing gRPC connections that stay open with nothing under way");
                grpc.abort();
            }
        }
    }
}

/// Looks for the device of models whose configuration leaves it open; a driver may take its time to start.
async fn look_for_device(choice: DeviceChoice) -> Result<ChosenDevice, ServeError> {
    let looked = tokio::task::spawn_blocking(move || choose_device(choice)).await;
    let chosen = looked.map_err(|error| ServeError::Panicked(error.to_string()))?.map_err(ServeError::Device)?;
    tracing::info!(device = %chosen, because = %chosen.because, "device of models whose configuration leaves it open");
    Ok(chosen)
}

/// Looks at the machine and at the load of the models every so often, on a thread of its own: a driver may take its time.
fn watch(front_end: &FrontEnd, watching: Watching) -> Result<Monitor, ServeError> {
    let (host, repository) = (front_end.host.clone(), Arc::downgrade(&front_end.repository));
    let mut probe = None;
    let look = move || {
        let probe = probe.get_or_insert_with(|| HostProbe::new(watching.host));
        host.update(probe.look());
        if let Some(repository) = repository.upgrade() {
            repository.measure_load();
        }
    };
    Monitor::start(watching.interval, look).map_err(|error| ServeError::Monitor(error.to_string()))
}

/// Names a listener's end.
async fn ended<E: fmt::Display>(listener: Listener, served: impl Future<Output = Result<(), E>>) -> Result<Listener, ServeError> {
    served.await.map(|()| listener).map_err(|error| listener.failed(&error))
}
