//! The HTTP API of a running engine, from the command line of the same configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::Value;

use crate::config::Admin;
use crate::error::{Error, Result};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A way to the engine.
pub struct Client {
    agent: ureq::Agent,
    base: String,
    bearer: String,
}

impl Client {
    /// The engine that this configuration describes; `None` where it has no API to be asked through.
    pub fn new(config: &Admin) -> Option<Client> {
        let (listen, secret) = (config.listen?, config.secret.as_ref()?);
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        let base = format!("http://{}", SocketAddr::new(ip, listen.port()));
        Some(Client { agent, base, bearer: format!("Bearer {}", secret.expose_secret()) })
    }

    /// Whether an engine listens.
    pub fn is_there(&self) -> bool {
        self.agent.get(format!("{}/livez", self.base)).call().is_ok()
    }

    /// Asks for something. Blocks.
    ///
    /// # Errors
    /// What the engine says against it; transient where it does not answer.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", &self.bearer);
        self.read(path, request.send(body.to_string()))
    }

    /// Reads something. Blocks.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub fn get(&self, path: &str) -> Result<Value> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.bearer);
        self.read(path, request.call())
    }

    fn read(
        &self,
        path: &str,
        answer: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value> {
        let asking =
            |error| Error::transient(format!("asking the engine at {}{path}", self.base)).because(error);
        let mut answer = answer.map_err(asking)?;
        let is_ok = answer.status().is_success();
        let text = answer.body_mut().read_to_string().map_err(asking)?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Error::transient(format!("{}{path} is no walcast", self.base)).because(error))?;
        if is_ok {
            return Ok(value);
        }
        let said = |field: &str| value[field].as_str().map(str::to_owned);
        let error = Error::halt(said("message").unwrap_or_else(|| "the engine refuses".to_owned()));
        Err(match said("hint") {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}
