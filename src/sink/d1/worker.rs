//! A D1 database through the companion Worker (`worker/` in the repository), which applies batches next to it: no rate
//! limit of an API in between.
//!
//! Statements enter, a signed and compressed POST leaves. The signature is over time, method, path and body as sent, so
//! that the Worker looks into nothing that walcast did not write.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use ureq::http::Method;

use super::body::{Body, Bulk};
use super::http::{self, Http, StatementResult};
use super::transport::{Answer, Failure, Statement, Transport};
use crate::error::{Error, Result};

/// The protocol's version, in paths and signatures.
const PROTOCOL: &str = "v1";
/// The Worker refuses a shorter key, in bytes.
const KEY_BYTES_MIN: usize = 32;
/// Where a binding's name goes wrong before it is sent.
const BINDING_CHARS_MAX: usize = 64;

/// Which Worker, which of its databases, and by what right.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Where the Worker is, such as `https://walcast.example.workers.dev`.
    pub url: String,
    /// The name of the database's binding, such as `DB_EU`.
    pub binding: String,
    /// The key that the Worker has as `WALCAST_KEY`.
    pub key: SecretString,
    /// How long a request may take: [`http::TIMEOUT`] except in tests.
    pub timeout: Duration,
}

/// The way to one database through the Worker.
pub struct WorkerTransport {
    http: Http,
    binding: String,
    key: hmac::Key,
}

/// What a Worker has to offer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Offer {
    /// The version of the protocol that it speaks.
    pub protocol: String,
    /// The names of its databases' bindings.
    pub databases: Vec<String>,
}

impl WorkerTransport {
    /// A way to the database. Nothing is sent yet.
    ///
    /// # Errors
    /// Where the URL, the binding's name or the key cannot be used.
    pub fn new(options: WorkerOptions) -> Result<Self> {
        let WorkerOptions { url, binding, key, timeout } = options;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if binding.is_empty() || binding.len() > BINDING_CHARS_MAX || !binding.bytes().all(is_word) {
            return Err(Error::config(format!("{binding:?} is no name of a binding"))
                .hint("name one of worker/wrangler.jsonc, such as DB_EU"));
        }
        // A file that holds the key often ends in a newline, which wrangler leaves out too.
        let key = key.expose_secret().trim();
        if key.len() < KEY_BYTES_MIN {
            return Err(Error::config(format!("the Worker's key has less than {KEY_BYTES_MIN} bytes"))
                .hint("make one with `openssl rand -hex 32`, and give it to the Worker as WALCAST_KEY"));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        Ok(WorkerTransport { http: Http::new(&url, timeout)?, binding, key })
    }

    /// Asks which databases the Worker has.
    ///
    /// # Errors
    /// By the retry table, as for statements.
    pub fn offer(&self) -> Result<Offer, Failure> {
        let offers: Vec<Offer> =
            self.ask(Method::GET, &format!("/{PROTOCOL}/databases"), &[], &Body::empty())?;
        http::one(offers)
    }

    fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Body<'_>,
    ) -> Result<T, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let time = now.to_string();
        let signature = self.signature(&time, &method, path, body);
        let mut signed =
            vec![("walcast-timestamp", time.as_str()), ("walcast-signature", signature.as_str())];
        signed.extend_from_slice(headers);
        self.http.send(method, path, &signed, body)?.result()
    }

    fn signature(&self, time: &str, method: &Method, path: &str, body: &Body<'_>) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        let path = self.http.path(path);
        context.update(format!("{PROTOCOL}\n{time}\n{method}\n{path}\n").as_bytes());
        body.pieces().iter().for_each(|piece| context.update(piece));
        format!("{PROTOCOL}={}", hex::encode(context.sign()))
    }
}

impl Transport for WorkerTransport {
    fn call(&mut self, first: &[Statement], bulk: &Bulk) -> Result<Vec<Answer>, Failure> {
        let path = format!("/{PROTOCOL}/databases/{}/query", self.binding);
        let body = Body::new(first, bulk).compressed();
        let kind = if body.is_gzip { "application/gzip" } else { "application/json" };
        let results: Vec<StatementResult> =
            self.ask(Method::POST, &path, &[("content-type", kind)], &body)?;
        http::answers(results, first.len() + bulk.statements())
    }

    fn is_compressed(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for WorkerTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerTransport").field("http", &self.http).field("binding", &self.binding).finish()
    }
}
