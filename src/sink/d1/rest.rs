//! A D1 database through Cloudflare's REST API: needs a token and nothing else, at the price of the API's rate limit.
//!
//! Statements enter, a POST to `/query` with the token's next place in its [`Budget`] leaves.

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use ureq::http::Method;

use super::body::{Body, Bulk};
use super::budget::{Budget, Held};
use super::http::{self, Http, Reply, StatementResult};
use super::transport::{Answer, Bookmark, Failure, Statement, Transport};
use super::verdict::Verdict;
use crate::error::{Error, Result};

/// Where Cloudflare's API is.
pub const BASE_URL: &str = "https://api.cloudflare.com/client/v4";
/// The pause that is named to a sink that is told to end.
const CLOSED_WAIT: Duration = Duration::from_secs(1);

/// Which database, and by what right.
#[derive(Debug, Clone)]
pub struct RestOptions {
    /// The API; [`BASE_URL`] except in tests.
    pub base_url: String,
    /// The account's id.
    pub account: String,
    /// The database's name or id.
    pub database: String,
    /// A token with the permission to edit D1.
    pub token: SecretString,
    /// How long a request may take: [`http::TIMEOUT`] except in tests.
    pub timeout: Duration,
}

/// The way to one database through the API.
#[derive(Debug)]
pub struct RestTransport {
    http: Http,
    account: String,
    database: String,
    authorization: SecretString,
    budget: Arc<Budget>,
    /// The database's id, once it is known.
    id: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    uuid: String,
    name: String,
}

/// What Time Travel answers (<https://developers.cloudflare.com/api/resources/d1/subresources/database/subresources/time_travel/>).
#[derive(Deserialize)]
struct Moment {
    bookmark: Option<String>,
}

impl RestTransport {
    /// A way to the database. Nothing is sent yet. All transports of one token share one `budget`.
    ///
    /// # Errors
    /// Where the URL, the account or the token cannot be used.
    pub fn new(options: RestOptions, budget: Arc<Budget>) -> Result<Self> {
        let RestOptions { base_url, account, database, token, timeout } = options;
        if account.is_empty() || !account.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::config(format!("{account:?} is no account id"))
                .hint("npx wrangler whoami shows the id of each account"));
        }
        let token = token.expose_secret().trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::config("the API token is empty or has characters that no token has")
                .hint("set CLOUDFLARE_API_TOKEN to a token with the permission Account > D1 > Edit"));
        }
        let id = is_uuid(&database).then(|| database.to_ascii_lowercase());
        Ok(RestTransport {
            http: Http::new(&base_url, timeout)?,
            account,
            database,
            authorization: format!("Bearer {token}").into(),
            budget,
            id,
        })
    }

    /// The database's id, asked for by name the first time.
    fn id(&mut self) -> Result<String, Failure> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let name = utf8_percent_encode(&self.database, NON_ALPHANUMERIC);
        // It finds every name that has this one in it.
        let path = format!("/accounts/{}/d1/database?name={name}&per_page=100", self.account);
        let listed: Vec<Listed> = self.ask(Method::GET, &path, &Body::empty())?;
        let found = listed.into_iter().find(|listed| listed.name == self.database);
        let id = found.map(|listed| listed.uuid).ok_or_else(|| Failure {
            verdict: Verdict::Gone,
            message: format!("account {} has no D1 database {}", self.account, self.database),
        })?;
        self.id = Some(id.clone());
        Ok(id)
    }

    fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        body: &Body<'_>,
    ) -> Result<T, Failure> {
        self.send(method, path, body)?.result()
    }

    fn send<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        body: &Body<'_>,
    ) -> Result<Reply<T>, Failure> {
        self.budget.take(body.len()).map_err(held)?;
        let headers =
            [("authorization", self.authorization.expose_secret()), ("content-type", "application/json")];
        let mut reply = self.http.send(method, path, &headers, body)?;
        self.budget.learn(reply.notice);
        if reply.is_throttled() {
            reply.retry_after = Some(self.budget.throttled(reply.retry_after));
        } else {
            self.budget.served();
        }
        Ok(reply)
    }
}

impl Transport for RestTransport {
    fn call(&mut self, first: &[Statement], bulk: &Bulk) -> Result<Vec<Answer>, Failure> {
        let id = self.id()?;
        let path = format!("/accounts/{}/d1/database/{id}/query", self.account);
        let results: Vec<StatementResult> = self.ask(Method::POST, &path, &Body::new(first, bulk))?;
        http::answers(results, first.len() + bulk.statements())
    }

    fn bookmark(&mut self) -> Result<Option<Bookmark>, Failure> {
        let id = self.id()?;
        let path = format!("/accounts/{}/d1/database/{id}", self.account);
        let reply: Reply<Moment> =
            self.send(Method::GET, &format!("{path}/time_travel/bookmark"), &Body::empty())?;
        // A database of a local wrangler has no past.
        if reply.is_without_route() {
            return Ok(None);
        }
        let Some(bookmark) = reply.result()?.bookmark else { return Ok(None) };
        let database = match is_uuid(&self.database) {
            true => self.ask::<Listed>(Method::GET, &path, &Body::empty())?.name,
            false => self.database.clone(),
        };
        Ok(Some(Bookmark { database, bookmark }))
    }
}

fn held(held: Held) -> Failure {
    match held {
        Held::Paused(retry_after) => Failure {
            verdict: Verdict::Throttled { retry_after },
            message: format!(
                "not sent: the API token is over its rate limit for another {} s",
                retry_after.as_secs() + 1
            ),
        },
        Held::Closed => Failure {
            verdict: Verdict::Throttled { retry_after: CLOSED_WAIT },
            message: "not sent: walcast is shutting down".to_owned(),
        },
    }
}

/// Whether the text has the form of an id rather than of a name.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let is_hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::d1::budget::Limit;

    fn options(account: &str, token: &str) -> RestOptions {
        RestOptions {
            base_url: BASE_URL.to_owned(),
            account: account.to_owned(),
            database: "walcast-eu".to_owned(),
            token: token.to_owned().into(),
            timeout: http::TIMEOUT,
        }
    }

    #[test]
    fn an_id_is_told_from_a_name() {
        assert!(is_uuid("45b3c07f-030a-423a-8602-1966a3696564"));
        for name in
            ["walcast-eu", "45b3c07f-030a-423a-8602-1966a369656", "45b3c07f-030a-423a-8602-1966a369656g", ""]
        {
            assert!(!is_uuid(name), "{name}");
        }
    }

    #[test]
    fn a_token_is_checked_and_never_shown() {
        let budget = || Arc::new(Budget::new(Limit::default()));
        let transport = RestTransport::new(options("0123abc", " sesame-open\n"), budget()).unwrap();
        assert!(!format!("{transport:?}").contains("sesame"), "{transport:?}");
        for (account, token) in [("0123abc", ""), ("0123abc", "two words"), ("", "sesame"), ("a/b", "sesame")]
        {
            let error = RestTransport::new(options(account, token), budget()).unwrap_err();
            assert!(!format!("{error:?}").contains("sesame"));
        }
    }
}
