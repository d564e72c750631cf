//! HTTP for both transports: a request goes out, an answer in the form of Cloudflare's API comes back.
//!
//! What enters is bounded and timed, what leaves in an error is what the other side said of the statements, shortened.
//! It never retries, never follows a redirect, and never sends a secret unencrypted to another machine.

use std::io::Read as _;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use ureq::SendBody;
use ureq::http::{HeaderMap, Method, Uri};

use super::body::Body;
use super::budget::{Limit, Notice};
use super::transport::{Answer, Failure};
use super::verdict::{ApiError, Response, Verdict, verdict};
use crate::error::{Error, Result};
use crate::https;
use crate::telemetry::span;

/// How long a request may take in all. D1 gives a batch 30 seconds; the rest is for the way.
pub const TIMEOUT: Duration = Duration::from_secs(45);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How much of what the other side says is passed on.
const MESSAGE_CHARS_MAX: usize = 300;
/// How long an idle connection is used again. Servers close theirs later.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// A client of one server.
#[derive(Debug)]
pub(super) struct Http {
    agent: ureq::Agent,
    /// Scheme, host, port and path prefix, without a slash at the end.
    base: String,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply<T> {
    status: u16,
    envelope: Option<Envelope<T>>,
    /// What it says of the rate limit.
    pub(super) notice: Notice,
    /// How long it asks to wait.
    pub(super) retry_after: Option<Duration>,
    /// What Cloudflare calls the request, for its support.
    ray: Option<String>,
}

/// The form of every answer of the API.
#[derive(Debug, Deserialize)]
struct Envelope<T> {
    success: bool,
    result: Option<T>,
    #[serde(default)]
    errors: Vec<EnvelopeError>,
}

#[derive(Debug, Deserialize)]
struct EnvelopeError {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    message: String,
}

/// What one statement answered, as the API writes it.
#[derive(Debug, Deserialize)]
pub(super) struct StatementResult {
    #[serde(default)]
    results: Vec<Map<String, Value>>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Debug, Default, Deserialize)]
struct Meta {
    #[serde(default)]
    rows_written: u64,
    size_after: Option<u64>,
}

impl Http {
    /// A client for what lies below `base_url`.
    pub(super) fn new(base_url: &str, timeout: Duration) -> Result<Self> {
        let base = base_url.trim_end_matches('/');
        let uri: Uri =
            base.parse().map_err(|error| Error::config(format!("{base_url} is not a URL")).because(error))?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(Error::config(format!("{base_url} is not a URL"))
                .hint("it begins with https:// and a host, such as https://api.cloudflare.com/client/v4"));
        };
        // The authority is not repeated in messages: it may hold a password.
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) || uri.query().is_some()
        {
            return Err(Error::config(format!("the URL of {host} has a user or a query")));
        }
        if scheme != "https" && !is_loopback(host) {
            return Err(Error::config(format!(
                "{base_url} is not encrypted, and the requests carry a secret"
            ))
            .hint("begin it with https://"));
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .max_idle_connections(1)
            .max_idle_age(IDLE_MAX)
            .user_agent(concat!("walcast/", env!("CARGO_PKG_VERSION")));
        let config = match scheme {
            "https" => config.tls_config(https::tls()?),
            _ => config.proxy(None),
        };
        Ok(Http { agent: config.build().into(), base: base.to_owned() })
    }

    /// The URL's path below which requests go, and the path of one of them.
    pub(super) fn path(&self, path: &str) -> String {
        let from_host = self.base.split_once("://").map_or("", |(_, rest)| rest);
        let prefix = from_host.split_once('/').map_or(String::new(), |(_, prefix)| format!("/{prefix}"));
        format!("{prefix}{path}")
    }

    /// Sends a request and reads what comes back, whatever its status.
    ///
    /// # Errors
    /// Where no answer comes, or not all of it: the request may have had its effect.
    pub(super) fn send<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Body<'_>,
    ) -> Result<Reply<T>, Failure> {
        let span = span::request(method.as_str(), body.len());
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let refused = |_| Failure {
            verdict: Verdict::Refused,
            message:
                "the request cannot be written: a name, token or key has characters that no header takes"
                    .into(),
        };
        let sent = if body.is_empty() {
            self.agent.run(request.body(()).map_err(refused)?)
        } else {
            // Said, since nobody could know it of what is read piece by piece.
            let request = request.header("content-length", body.len());
            let [head, bulk, tail] = body.pieces();
            let mut pieces = head.chain(bulk).chain(tail);
            self.agent.run(request.body(SendBody::from_reader(&mut pieces)).map_err(refused)?)
        };
        span::answered(&span, sent.as_ref().ok().map(|response| response.status().as_u16()));
        let mut response = sent.map_err(|error| lost(&error))?;
        let status = response.status().as_u16();
        let headers = response.headers();
        let notice = Notice { left: left(headers), policy: policy(headers) };
        let retry_after = text(headers, "retry-after").and_then(seconds);
        let ray = text(headers, "cf-ray").map(str::to_owned);
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| lost(&error))?;
        Ok(Reply { status, envelope: envelope(&body), notice, retry_after, ray })
    }
}

impl<T> Reply<T> {
    /// Whether the other side asks to be left alone.
    pub(super) fn is_throttled(&self) -> bool {
        matches!(verdict(&self.response()), Verdict::Throttled { .. })
    }

    /// Whether the other side does not have what the path names.
    pub(super) fn is_without_route(&self) -> bool {
        let is_database = matches!(verdict(&self.response()), Verdict::Gone);
        self.status == 404 && !is_database
    }

    /// What was asked for.
    ///
    /// # Errors
    /// By the retry table.
    pub(super) fn result(self) -> Result<T, Failure> {
        let response = self.response();
        match self.envelope {
            Some(Envelope { success: true, result: Some(result), .. }) if self.status < 300 => Ok(result),
            _ => Err(Failure { verdict: verdict(&response), message: said(&response, self.ray.as_deref()) }),
        }
    }

    fn response(&self) -> Response {
        // An envelope without an error, or a success without a result, says nothing.
        let error = self.envelope.as_ref().filter(|envelope| !envelope.success);
        let error = error.and_then(|envelope| envelope.errors.first());
        let error = error.map(|error| ApiError { code: error.code, message: error.message.clone() });
        Response { status: Some(self.status), error, retry_after: self.retry_after }
    }
}

/// The envelope, if the body is one. Where the result has another form than what was asked for, as beside an error it
/// may, it is left out.
fn envelope<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Option<Envelope<T>> {
    serde_json::from_slice(body).ok().or_else(|| {
        let Envelope::<IgnoredAny> { success, errors, .. } = serde_json::from_slice(body).ok()?;
        Some(Envelope { success, result: None, errors })
    })
}

/// One answer per statement.
pub(super) fn answers(results: Vec<StatementResult>, asked: usize) -> Result<Vec<Answer>, Failure> {
    if results.len() != asked {
        let message = format!("{asked} statements were sent, and {} answers came", results.len());
        return Err(Failure { verdict: Verdict::Unknown, message });
    }
    let answer = |StatementResult { results, meta }: StatementResult| Answer {
        rows: results,
        rows_written: meta.rows_written,
        size_after: meta.size_after,
    };
    Ok(results.into_iter().map(answer).collect())
}

/// The only element of a result.
pub(super) fn one<T>(results: Vec<T>) -> Result<T, Failure> {
    let message = || format!("one result was expected, and {} came", results.len());
    let unknown = Failure { verdict: Verdict::Unknown, message: message() };
    results.into_iter().next().ok_or(unknown)
}

fn lost(error: &ureq::Error) -> Failure {
    Failure { verdict: Verdict::Unknown, message: format!("no answer: {error}") }
}

/// What to say of a failure: the other side's words, or else the status.
fn said(response: &Response, ray: Option<&str>) -> String {
    let status = response.status.unwrap_or_default();
    let mut text = match &response.error {
        Some(ApiError { code, message }) => {
            let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
            format!("{message} [code {code}, HTTP {status}]")
        }
        None => format!("HTTP {status} with an answer of another form"),
    };
    if let Some(ray) = ray {
        text.push_str(&format!(" (cf-ray {ray})"));
    }
    text
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

/// The item of `Ratelimit: "default";r=50;t=30, …` that leaves least.
fn left(headers: &HeaderMap) -> Option<(u32, Duration)> {
    let items = text(headers, "ratelimit")?.split(',');
    items.filter_map(|item| Some((parameter(item, "r")?, seconds(&parameter(item, "t")?.to_string())?))).min()
}

/// The item of `Ratelimit-Policy: "default";q=1200;w=300, …` that allows least per second.
fn policy(headers: &HeaderMap) -> Option<Limit> {
    let items = text(headers, "ratelimit-policy")?.split(',');
    items
        .filter_map(|item| {
            let window = Duration::from_secs(parameter(item, "w")?.into());
            Some(Limit { requests: parameter(item, "q")?, window }).filter(|_| !window.is_zero())
        })
        .min_by_key(|limit| u64::from(limit.requests) * 1_000_000 / limit.window.as_secs())
}

fn parameter(item: &str, name: &str) -> Option<u32> {
    item.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')?.trim().parse().ok())
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
