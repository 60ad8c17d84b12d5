//! Flags of `alcedo serve`, named as Triton names them where it has them, and what they mean together.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use super::ServeError;
use super::metrics_args::{MetricsArgs, Watching};
use crate::cli::infer::parse_seconds;
use crate::cli::log::LogArgs;
use crate::grpc::{GrpcOptions, HeaderForwarding};
use crate::instance::default_tokenizer_threads;
use crate::instance::device::resources::{ResourceLimit, ResourceLimits};
use crate::instance::device::{DeviceChoice, DeviceOptions};
use crate::repository::{ControlMode, RepositoryOptions};
use crate::shared_memory::Allowed;

/// Largest message that HTTP/2 and protobuf agree on: 2 GiB - 1.
const MAX_MESSAGE_BYTES: u32 = i32::MAX as u32;

/// Flags of `alcedo serve`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ServeArgs {
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    life: LifeArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Models")]
struct ModelArgs {
    /// Model repository, repeatable: a directory with one directory per model. A Hugging Face directory
    /// (config.json, model.safetensors, tokenizer.json) is served as it is.
    #[arg(long, visible_alias = "model-store", required = true, value_name = "DIR")]
    model_repository: Vec<PathBuf>,
    /// none: load every model at start-up; explicit: load those named by --load-model, and more on request.
    #[arg(long, value_enum, default_value_t = Mode::None, value_name = "MODE", hide_possible_values = true)]
    model_control_mode: Mode,
    /// Model to load at start-up in mode explicit, repeatable; * stands for all.
    #[arg(long, value_name = "NAME")]
    load_model: Vec<String>,
    /// Most model versions that are loaded side by side.
    #[arg(long, default_value = "4", value_name = "COUNT")]
    model_load_thread_count: NonZeroUsize,
    /// Whether a start-up model that failed keeps the server from being ready.
    #[arg(long, action = ArgAction::Set, default_value_t = true, value_name = "true|false", hide_possible_values = true)]
    strict_readiness: bool,
    /// Use configs/NAME.pbtxt of a model in place of its config.pbtxt, where there is one.
    #[arg(long, value_name = "NAME")]
    model_config_name: Option<String>,
    /// execution_count: an instance runs only while the resources of its rate limiter are free.
    #[arg(long, value_enum, default_value_t = RateLimit::Off, value_name = "off|execution_count", hide_possible_values = true)]
    rate_limit: RateLimit,
    /// How much there is of a rate limiter's resource, on one device or on each; repeatable
    /// [default: what any one instance needs].
    #[arg(long, value_name = "NAME:COUNT[:DEVICE]", value_parser = parse_resource)]
    rate_limit_resource: Vec<ResourceLimit>,
    /// Device of models whose configuration leaves it open (KIND_AUTO): auto is the first GPU where that can be used,
    /// else the CPU; cuda:N must be usable; with cpu no model may run on a GPU.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda:N", value_parser = DeviceChoice::from_str)]
    device: DeviceChoice,
    /// Load more models on a GPU than fit: weights of idle models make room, and come back from pinned memory of the host.
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false", hide_possible_values = true)]
    gpu_memory_overcommit: bool,
    /// Slots of a device: a batch takes one for each thread that computes it; repeatable [default: cpu=<cores>, cuda:N=4, others 1].
    #[arg(long, value_name = "DEVICE=COUNT", value_parser = parse_slots)]
    device_slots: Vec<(String, NonZeroUsize)>,
    /// Threads on which the texts of all tokenizer models are encoded [default: a quarter of the cores, at least 1].
    #[arg(long, value_name = "COUNT")]
    tokenizer_threads: Option<NonZeroUsize>,
    /// Response cache of the models that ask for one: local,size=BYTES; the only cache is local.
    #[arg(long, value_name = "CACHE,SETTING=VALUE", value_parser = parse_cache)]
    cache_config: Vec<NonZeroU64>,
    /// Older form of --cache-config local,size=BYTES; 0 is none.
    #[arg(long, value_name = "BYTES", hide = true)]
    response_cache_byte_size: Option<u64>,
    /// Where Triton looks for caches; the cache of this server is part of it, so that a warning is all that comes of it.
    #[arg(long, value_name = "DIR", hide = true)]
    cache_directory: Option<PathBuf>,
    /// Fill in nothing that a configuration leaves out from the model's files.
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false", hide_possible_values = true)]
    disable_auto_complete_config: bool,
    /// Name of the server in its metadata.
    #[arg(long, default_value = "triton", value_name = "NAME")]
    id: String,
}

/// How models come to be loaded, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    None,
    Explicit,
    /// Known only to be refused with a reason.
    Poll,
}

/// Whether rate limiters count, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RateLimit {
    Off,
    #[value(name = "execution_count")]
    ExecutionCount,
}

/// Parses `local,size=BYTES`.
fn parse_cache(text: &str) -> Result<NonZeroU64, String> {
    const EXPECTED: &str = "expected local,size=BYTES";
    let (cache, setting) = text.split_once(',').unwrap_or((text, ""));
    match cache {
        "local" => {}
        "redis" => return Err(format!("the cache 'redis' is not supported by this server; {EXPECTED}")),
        other => return Err(format!("there is no cache '{other}'; {EXPECTED}")),
    }
    match setting.split_once('=') {
        Some(("size", bytes)) => bytes.parse().map_err(|_| format!("{EXPECTED}, with a size of at least 1, got '{bytes}'")),
        Some((other, _)) => Err(format!("the cache 'local' has no setting '{other}'; {EXPECTED}")),
        None => Err(EXPECTED.to_owned()),
    }
}

/// Parses `NAME:COUNT` or `NAME:COUNT:DEVICE`.
fn parse_resource(text: &str) -> Result<ResourceLimit, String> {
    let mut parts = text.splitn(3, ':');
    let (name, count, device) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let count = count.and_then(|count| count.parse().ok());
    match (name, count, device) {
        ("", ..) | (_, None, _) | (.., Some("")) => {
            Err("expected NAME:COUNT or NAME:COUNT:DEVICE, with a count between 0 and 4294967295".to_owned())
        }
        (name, Some(count), device) => Ok(ResourceLimit { name: name.to_owned(), count, device: device.map(str::to_owned) }),
    }
}

/// Parses `DEVICE=COUNT`.
fn parse_slots(text: &str) -> Result<(String, NonZeroUsize), String> {
    let parsed = text.rsplit_once('=').and_then(|(device, count)| Some((device, count.parse().ok()?)));
    match parsed {
        Some((device, count)) if !device.is_empty() => Ok((device.to_owned(), count)),
        _ => Err("expected DEVICE=COUNT, with a count of at least 1".to_owned()),
    }
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Listeners")]
struct ListenArgs {
    /// Whether to serve gRPC.
    #[arg(long, action = ArgAction::Set, default_value_t = true, value_name = "true|false", hide_possible_values = true)]
    allow_grpc: bool,
    /// Address of the gRPC port.
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    grpc_address: String,
    /// gRPC port; 0 takes any free one, which the log names.
    #[arg(long, default_value_t = 8001, value_name = "PORT")]
    grpc_port: u16,
    /// Largest gRPC message, sent or received [default: 2 GiB - 1].
    #[arg(long, default_value_t = MAX_MESSAGE_BYTES, hide_default_value = true, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MESSAGE_BYTES)))]
    grpc_max_message_bytes: u32,
    /// Milliseconds of silence on a gRPC connection after which it is probed.
    #[arg(long, default_value_t = 7_200_000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    grpc_keepalive_time: u64,
    /// Milliseconds that a probed gRPC connection has to answer.
    #[arg(long, default_value_t = 20_000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    grpc_keepalive_timeout: u64,
    /// Regular expression: request headers whose names match it somewhere reach the models as parameters.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PATTERN", value_parser = HeaderForwarding::parse)]
    grpc_header_forward_pattern: HeaderForwarding,
    /// Shared memory that clients may register and name in requests: none, all, or that of one kind. Whoever reaches the
    /// gRPC port can then read and write whatever shared objects this server's user can.
    #[arg(long, value_enum, default_value_t = ClientShm::False, value_name = "false|true|system|cuda", hide_possible_values = true)]
    allow_client_shm: ClientShm,
    /// Whether to serve HTTP: health, and metadata of server and models.
    #[arg(long, action = ArgAction::Set, default_value_t = true, value_name = "true|false", hide_possible_values = true)]
    allow_http: bool,
    /// Address of the HTTP port.
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    http_address: String,
    /// HTTP port; 0 takes any free one.
    #[arg(long, default_value_t = 8000, value_name = "PORT")]
    http_port: u16,
    /// Whether to serve metrics.
    #[arg(long, action = ArgAction::Set, default_value_t = true, value_name = "true|false", hide_possible_values = true)]
    allow_metrics: bool,
    /// Address of the metrics port [default: that of HTTP].
    #[arg(long, value_name = "ADDRESS")]
    metrics_address: Option<String>,
    /// Metrics port; 0 takes any free one.
    #[arg(long, default_value_t = 8002, value_name = "PORT")]
    metrics_port: u16,
    /// Threads that serve connections; models have their own [default: one per core].
    #[arg(long, value_name = "COUNT")]
    worker_threads: Option<NonZeroUsize>,
}

/// Shared memory that clients may use, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClientShm {
    False,
    True,
    System,
    Cuda,
}

impl ClientShm {
    fn allowed(self) -> Allowed {
        Allowed { system: matches!(self, Self::True | Self::System), cuda: matches!(self, Self::True | Self::Cuda) }
    }
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Start and end")]
struct LifeArgs {
    /// End with exit code 1 when a start-up model fails to load.
    #[arg(long, action = ArgAction::Set, default_value_t = true, value_name = "true|false", hide_possible_values = true)]
    exit_on_error: bool,
    /// Seconds after SIGTERM for which the server is not ready but still serves, so that load balancers turn away.
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = parse_seconds)]
    drain_delay_secs: Duration,
    /// Seconds that running requests have to finish once new ones are refused.
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = parse_seconds)]
    exit_timeout_secs: Duration,
}

/// What the server is started with.
#[derive(Clone, Debug)]
pub(in crate::cli) struct ServerConfig {
    /// Models.
    pub(in crate::cli) repository: RepositoryOptions,
    /// Name in the server's metadata.
    pub(in crate::cli) name: String,
    /// Which gRPC headers reach the models.
    pub(in crate::cli) forwarding: HeaderForwarding,
    /// Shared memory that clients may use.
    pub(in crate::cli) shared_memory: Allowed,
    /// gRPC, where it is served.
    pub(in crate::cli) grpc: Option<GrpcConfig>,
    /// HTTP, where it is served.
    pub(in crate::cli) http: Option<Address>,
    /// Metrics, where they are served.
    pub(in crate::cli) metrics: Option<Address>,
    /// How metrics come about.
    pub(in crate::cli) watching: Watching,
    /// Which device models run on whose configuration leaves it open.
    pub(in crate::cli) device: DeviceChoice,
    /// Threads that serve connections.
    pub(in crate::cli) threads: Option<NonZeroUsize>,
    /// Threads that encode texts.
    pub(in crate::cli) tokenizer_threads: NonZeroUsize,
    /// End when a start-up model fails.
    pub(in crate::cli) exit_on_error: bool,
    /// How long to serve while not being ready.
    pub(in crate::cli) drain_delay: Duration,
    /// How long running requests have to finish.
    pub(in crate::cli) exit_timeout: Duration,
}

/// Where to listen, and which flags said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Address {
    /// Name or number of the host's address.
    pub(in crate::cli) host: String,
    /// Port; 0 for any free one.
    pub(in crate::cli) port: u16,
    /// The flag to change where the port is taken.
    pub(in crate::cli) flag: &'static str,
}

/// How gRPC is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct GrpcConfig {
    /// Where.
    pub(in crate::cli) address: Address,
    /// Largest message.
    pub(in crate::cli) max_message_bytes: usize,
    /// Silence after which a connection is probed.
    pub(in crate::cli) keepalive_time: Duration,
    /// How long a probed connection has to answer.
    pub(in crate::cli) keepalive_timeout: Duration,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        let options = GrpcOptions::default();
        Self {
            address: Address { host: "0.0.0.0".to_owned(), port: 8001, flag: "--grpc-port" },
            max_message_bytes: options.max_message_bytes,
            keepalive_time: options.keepalive_time,
            keepalive_timeout: options.keepalive_timeout,
        }
    }
}

impl ModelArgs {
    /// The size of the response cache, if there is to be one.
    ///
    /// # Errors
    /// [`ServeError::CacheTwice`].
    fn response_cache_bytes(&self) -> Result<Option<NonZeroU64>, ServeError> {
        match (self.cache_config.as_slice(), self.response_cache_byte_size) {
            ([], None) => Ok(None),
            ([], Some(bytes)) => Ok(NonZeroU64::new(bytes)),
            ([bytes], None) => Ok(Some(*bytes)),
            _ => Err(ServeError::CacheTwice),
        }
    }

    fn device_options(&self) -> DeviceOptions {
        DeviceOptions {
            slots: self.device_slots.iter().cloned().collect(),
            limits_rates: self.rate_limit == RateLimit::ExecutionCount,
            resources: ResourceLimits::new(self.rate_limit_resource.clone()),
            overcommits_gpus: self.gpu_memory_overcommit,
            // What is there is looked for when the server starts.
            ..DeviceOptions::default()
        }
    }
}

impl ServeArgs {
    /// Names the flags that were accepted and do nothing.
    pub(super) fn warn_unused(&self) {
        if self.models.cache_directory.is_some() {
            tracing::warn!("--cache-directory does nothing: the response cache is part of this server");
        }
    }

    /// What the flags mean together.
    ///
    /// # Errors
    /// [`ServeError::Poll`], [`ServeError::LoadModelWithoutExplicit`], [`ServeError::NothingServed`],
    /// [`ServeError::CacheTwice`], [`ServeError::Metrics`].
    pub(super) fn server_config(&self) -> Result<ServerConfig, ServeError> {
        let (models, listen, life) = (&self.models, &self.listen, &self.life);
        let control_mode = match models.model_control_mode {
            Mode::None => ControlMode::None,
            Mode::Explicit => ControlMode::Explicit,
            Mode::Poll => return Err(ServeError::Poll),
        };
        if control_mode == ControlMode::None && !models.load_model.is_empty() {
            return Err(ServeError::LoadModelWithoutExplicit);
        }
        if !(listen.allow_grpc || listen.allow_http) {
            return Err(ServeError::NothingServed);
        }
        let repository = RepositoryOptions {
            control_mode,
            startup_models: models.load_model.clone(),
            load_threads: models.model_load_thread_count,
            strict_readiness: models.strict_readiness,
            config_name: models.model_config_name.clone(),
            auto_complete: !models.disable_auto_complete_config,
            metrics: self.metrics.options()?,
            devices: models.device_options(),
            response_cache_bytes: models.response_cache_bytes()?,
            ..RepositoryOptions::new(models.model_repository.clone())
        };
        let address = |host: &str, port, flag| Address { host: host.to_owned(), port, flag };
        let metrics_host = listen.metrics_address.as_deref().unwrap_or(&listen.http_address);
        Ok(ServerConfig {
            repository,
            name: models.id.clone(),
            forwarding: listen.grpc_header_forward_pattern.clone(),
            shared_memory: listen.allow_client_shm.allowed(),
            grpc: listen.allow_grpc.then(|| GrpcConfig {
                address: address(&listen.grpc_address, listen.grpc_port, "--grpc-port"),
                max_message_bytes: usize::try_from(listen.grpc_max_message_bytes).unwrap_or(usize::MAX),
                keepalive_time: Duration::from_millis(listen.grpc_keepalive_time),
                keepalive_timeout: Duration::from_millis(listen.grpc_keepalive_timeout),
            }),
            http: listen.allow_http.then(|| address(&listen.http_address, listen.http_port, "--http-port")),
            metrics: listen.allow_metrics.then(|| address(metrics_host, listen.metrics_port, "--metrics-port")),
            watching: self.metrics.watching(),
            device: models.device,
            threads: listen.worker_threads,
            tokenizer_threads: models.tokenizer_threads.unwrap_or_else(default_tokenizer_threads),
            exit_on_error: life.exit_on_error,
            drain_delay: life.drain_delay_secs,
            exit_timeout: life.exit_timeout_secs,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::observe::host::HostOptions;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn config(flags: &str) -> Result<ServerConfig, String> {
        let line = ["serve"].into_iter().chain(flags.split_whitespace());
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        line.serve.server_config().map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_triton() {
        let config = config("--model-repository a --model-store=b").unwrap();
        assert_eq!(config.repository.roots, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!((config.repository.control_mode, config.repository.load_threads.get()), (ControlMode::None, 4));
        assert!(config.repository.strict_readiness && config.repository.auto_complete && config.exit_on_error);
        let grpc = config.grpc.unwrap();
        assert_eq!((grpc.address.host.as_str(), grpc.address.port), ("0.0.0.0", 8001));
        assert_eq!(grpc.max_message_bytes, 2_147_483_647);
        assert_eq!((grpc.keepalive_time.as_secs(), grpc.keepalive_timeout.as_secs()), (7200, 20));
        assert_eq!((config.http.unwrap().port, config.metrics.unwrap().port), (8000, 8002));
        assert_eq!((config.exit_timeout.as_secs(), config.drain_delay.as_secs()), (30, 5));
        let metrics = config.repository.metrics;
        assert!(metrics.counter_latencies && metrics.detailed && !metrics.histogram_latencies && !metrics.summary_latencies);
        assert_eq!((config.watching.interval.as_millis(), config.watching.host), (2000, HostOptions { cpu: true, gpu: true }));
    }

    #[test]
    fn shared_memory_is_off_unless_it_is_asked_for() {
        let allowed = |flags: &str| config(&format!("--model-repository a {flags}")).map(|config| config.shared_memory);
        assert_eq!(allowed(""), Ok(Allowed { system: false, cuda: false }));
        assert_eq!(allowed("--allow-client-shm=false"), Ok(Allowed { system: false, cuda: false }));
        assert_eq!(allowed("--allow-client-shm true"), Ok(Allowed { system: true, cuda: true }));
        assert_eq!(allowed("--allow-client-shm=system"), Ok(Allowed { system: true, cuda: false }));
        assert_eq!(allowed("--allow-client-shm=cuda"), Ok(Allowed { system: false, cuda: true }));
        let error = allowed("--allow-client-shm=maybe").unwrap_err();
        assert!(error.contains("invalid value 'maybe'"), "{error}");
    }

    #[test]
    fn metrics_are_configured_setting_by_setting() {
        let flags = "--model-repository a --metrics-config summary_latencies=true --metrics-config=summary_quantiles=0.5:0.05 \
                     --metrics-interval-ms 500 --allow-gpu-metrics=false";
        let config = config(flags).unwrap();
        assert!(config.repository.metrics.summary_latencies);
        assert_eq!(config.repository.metrics.quantiles, [0.5]);
        assert_eq!((config.watching.interval.as_millis(), config.watching.host), (500, HostOptions { cpu: true, gpu: false }));
    }

    #[test]
    fn flags_reach_the_configuration() {
        let flags = "--model-repository a --model-control-mode explicit --load-model x --load-model=* --strict-readiness false \
                     --exit-on-error=false --disable-auto-complete-config --http-address ::1 --metrics-port 0 --allow-grpc=false \
                     --exit-timeout-secs 0.5 --worker-threads 3 --id me";
        let config = config(flags).unwrap();
        assert_eq!(config.repository.startup_models, ["x", "*"]);
        assert!(!config.repository.strict_readiness && !config.repository.auto_complete && !config.exit_on_error);
        assert_eq!(config.grpc, None);
        assert_eq!(config.metrics, Some(Address { host: "::1".to_owned(), port: 0, flag: "--metrics-port" }));
        assert_eq!((config.exit_timeout.as_millis(), config.threads.unwrap().get(), config.name.as_str()), (500, 3, "me"));
    }

    #[test]
    fn devices_and_resources_reach_the_repository() {
        let none = config("--model-repository a").unwrap().repository.devices;
        assert_eq!(none, DeviceOptions::default());
        let flags = "--model-repository a --rate-limit=execution_count --rate-limit-resource R1:4 --rate-limit-resource=R2:5:0 \
                     --device-slots cpu=2 --device-slots gpu=0=3";
        let devices = config(flags).unwrap().repository.devices;
        let limit = |name: &str, count, device: Option<&str>| {
            let (name, device) = (name.to_owned(), device.map(str::to_owned));
            ResourceLimit { name, count, device }
        };
        let limits = ResourceLimits::new(vec![limit("R1", 4, None), limit("R2", 5, Some("0"))]);
        assert!(devices.limits_rates);
        assert_eq!(devices.resources, limits);
        let slots: Vec<(&str, usize)> = devices.slots.iter().map(|(name, slots)| (name.as_str(), slots.get())).collect();
        assert_eq!(slots, [("cpu", 2), ("gpu=0", 3)]);
        assert_eq!(config("--model-repository a").unwrap().device, DeviceChoice::Auto);
        assert_eq!(config("--model-repository a --device=cuda:1").unwrap().device, DeviceChoice::Cuda(1));
        let unlimited = config("--model-repository a --rate-limit off").unwrap().repository.devices;
        assert_eq!(unlimited, DeviceOptions::default());
    }

    #[test]
    fn the_cache_has_a_size_in_either_form() {
        let size = |flags: &str| {
            config(&format!("--model-repository a {flags}"))
                .map(|config| config.repository.response_cache_bytes.map(NonZeroU64::get))
        };
        assert_eq!(size(""), Ok(None));
        assert_eq!(size("--cache-config local,size=1048576"), Ok(Some(1_048_576)));
        assert_eq!(size("--cache-config=local,size=7 --cache-directory /x"), Ok(Some(7)));
        assert_eq!(size("--response-cache-byte-size=9"), Ok(Some(9)));
        assert_eq!(size("--response-cache-byte-size 0"), Ok(None));
        let refused = [
            ("--cache-config redis,host=h", "the cache 'redis' is not supported by this server"),
            ("--cache-config disk,size=1", "there is no cache 'disk'"),
            ("--cache-config local", "expected local,size=BYTES"),
            ("--cache-config local,size=0", "at least 1, got '0'"),
            ("--cache-config local,size=1M", "at least 1, got '1M'"),
            ("--cache-config local,ttl=3", "the cache 'local' has no setting 'ttl'"),
            ("--cache-config local,size=1 --cache-config local,size=2", "more than once"),
            ("--cache-config local,size=1 --response-cache-byte-size=1", "more than once"),
            ("--response-cache-byte-size=-1", "-1"),
        ];
        for (flags, text) in refused {
            let error = size(flags).unwrap_err();
            assert!(error.contains(text), "{flags}: {error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases = [
            ("", "--model-repository <DIR>"),
            ("--model-repository a --model-control-mode poll", "use --model-control-mode explicit"),
            ("--model-repository a --model-control-mode sometimes", "invalid value 'sometimes'"),
            ("--model-repository a --load-model x", "needs --model-control-mode explicit"),
            ("--model-repository a --allow-grpc=false --allow-http=false", "nothing to serve"),
            ("--model-repository a --rate-limit sometimes", "invalid value 'sometimes'"),
            ("--model-repository a --rate-limit execution_count --rate-limit-resource r", "expected NAME:COUNT"),
            ("--model-repository a --rate-limit execution_count --rate-limit-resource r:-1", "expected NAME:COUNT"),
            ("--model-repository a --rate-limit execution_count --rate-limit-resource :1", "expected NAME:COUNT"),
            ("--model-repository a --rate-limit execution_count --rate-limit-resource r:1:", "expected NAME:COUNT"),
            ("--model-repository a --device gpu", "expected auto, cpu or cuda:N"),
            ("--model-repository a --device-slots cpu=0", "expected DEVICE=COUNT"),
            ("--model-repository a --device-slots cpu", "expected DEVICE=COUNT"),
            ("--model-repository a --device-slots =2", "expected DEVICE=COUNT"),
            ("--model-repository a --allow-grpc=maybe", "invalid value 'maybe'"),
            ("--model-repository a --grpc-port 70000", "70000"),
            ("--model-repository a --grpc-max-message-bytes 0", "0 is not in 1.."),
            ("--model-repository a --model-load-thread-count 0", "invalid value '0'"),
            ("--model-repository a --exit-timeout-secs -1", "-1"),
            ("--model-repository a --metrics-config detaild=false", "there is no setting 'detaild'"),
            ("--model-repository a --metrics-interval-ms 1", "1 is not in 10.."),
            ("--model-repository a --grpc-prot 1", "similar argument exists: '--grpc-port'"),
        ];
        for (flags, text) in cases {
            let error = config(flags).unwrap_err();
            assert!(error.contains(text), "{flags}: {error}");
        }
    }
}
