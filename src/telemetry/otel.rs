//! Spans to an OpenTelemetry collector: OTLP over HTTP. Only with the cargo feature `otel`, and only where the
//! environment says where to: the variables are OpenTelemetry's own.
//!
//! Enters: the spans of [`span`](super::span). Leaves: requests, from a thread of its own. Who makes a span never waits
//! for the collector: the queue between them is bounded (`OTEL_BSP_MAX_QUEUE_SIZE`), and what finds it full is dropped.
//! No row value leaves, and no header is logged, because it may hold a token.

use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::{Layer, Registry};

use super::span;
use crate::error::{Error, Result};
use crate::https;

/// Where the collector is: one of them switches the export on.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// In which form it is spoken to: `http/protobuf`, which it is without a word, or `http/json`.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"];
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// How long sending what is left may take at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The running export. Dropping it sends what is left, and ends it.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts the export, if the environment names a collector and does not switch it off (`OTEL_SDK_DISABLED`).
    ///
    /// # Errors
    /// What the environment says makes no sense.
    pub fn from_environment() -> Result<Option<Traces>> {
        let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_disabled =
            said("OTEL_SDK_DISABLED").is_some_and(|disabled| disabled.eq_ignore_ascii_case("true"));
        if is_disabled || !ENDPOINTS.iter().any(|name| said(name).is_some()) {
            return Ok(None);
        }
        let mut exporter = SpanExporter::builder().with_http().with_http_client(Client::new()?);
        if !PROTOCOLS.iter().any(|name| said(name).is_some()) {
            exporter = exporter.with_protocol(Protocol::HttpBinary);
        }
        let exporter = exporter.build().map_err(|error| {
            Error::config("the export to OpenTelemetry cannot start")
                .because(error)
                .hint("check the OTEL_EXPORTER_OTLP_* variables; gRPC is not among what walcast speaks")
        })?;
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let has_name = said("OTEL_SERVICE_NAME").is_some()
            || said("OTEL_RESOURCE_ATTRIBUTES")
                .is_some_and(|attributes| attributes.contains("service.name="));
        if !has_name {
            resource = resource.with_service_name("walcast");
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
        Ok(Some(Traces(provider.with_resource(resource.build()).build())))
    }

    /// What takes the spans; nothing else comes through.
    pub fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        let ours = filter_fn(|metadata| metadata.target() == span::TARGET);
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("walcast"))
            // Where in the code a span is made says nothing to who reads it.
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::INFO))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!("the last spans were not sent: {error}");
        }
    }
}

/// Sends the exporter's requests, on the exporter's own thread.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn new() -> Result<Client> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("walcast/", env!("CARGO_PKG_VERSION")))
            .tls_config(https::tls()?);
        Ok(Client(config.build().into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let answer = self.0.run(Request::from_parts(parts, &*body))?;
        let (parts, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }
}
