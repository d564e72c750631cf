//! What no route should see: requests for a name that is not ours (DNS rebinding), and writes that another site's page
//! sends. What is let through gets the headers that keep a browser from doing more with an answer than showing it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::problem::Problem;
use super::secret::Shown;
use crate::config::Admin;

/// How long a route may take, unless it says otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Knows our names.
pub(super) struct Guard {
    hosts: Vec<String>,
}

impl Guard {
    pub(super) fn new(config: &Admin) -> Self {
        Guard { hosts: config.hosts.clone() }
    }

    /// Refuses a request that is not meant for us.
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let host = authority(uri, headers)?;
        let name = host.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        // A page reaches us under a name of its own only by a name; an address cannot be made to point elsewhere.
        let is_ours = name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || self.hosts.iter().any(|host| host == name);
        if !is_ours {
            return Err(Problem::forbidden("the Host header names a host that this API is not known by")
                .hint("add the name to [admin] hosts in walcast.toml"));
        }
        if !method.is_safe() && is_from_elsewhere(&host, headers) {
            return Err(Problem::forbidden("a page of another site may not write here"));
        }
        Ok(())
    }
}

/// Whom the request is for.
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<Authority, Problem> {
    let mut named = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), named.next(), named.next()) {
        (_, _, Some(_)) => None,
        (Some(authority), _, None) => Some(authority.clone()),
        (None, Some(host), None) => Authority::try_from(host.as_bytes()).ok(),
        (None, None, None) => None,
    };
    host.ok_or_else(|| Problem::bad_request("a request needs one valid Host header"))
}

/// Whether a browser says that the request comes from a page of another origin. What is no browser says nothing.
fn is_from_elsewhere(host: &Authority, headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = text(&HeaderName::from_static("sec-fetch-site"))
        && !matches!(site, "same-origin" | "none")
    {
        return true;
    }
    // The scheme is left out: what ends TLS before us speaks plain HTTP to us.
    text(&header::ORIGIN).is_some_and(|origin| {
        let authority = origin.split_once("://").and_then(|(_, rest)| rest.parse::<Authority>().ok());
        authority.is_none_or(|authority| {
            !authority.host().eq_ignore_ascii_case(host.host()) || authority.port_u16() != host.port_u16()
        })
    })
}

/// The outermost layer.
pub(super) async fn outermost(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    // Not the path itself: it may hold a row's key.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut response = match shared.guard.check(&method, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    for (name, value) in HEADERS {
        // The page says itself what it may do.
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    tracing::debug!(%method, route, status = response.status().as_u16(), "answered");
    response
}

/// A route that shows rows or changes something: needs the secret, whatever `protect_reads` says.
pub(super) async fn closed(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    need_secret(&shared, peer, request.headers())?;
    Ok(next.run(request).await)
}

/// Refuses who shows no secret.
pub(super) fn need_secret(shared: &Shared, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Problem> {
    match shared.gate.look(peer.ip(), headers)? {
        Shown::Secret => Ok(()),
        Shown::Nothing if shared.gate.has_secret() => {
            Err(Problem::unauthorized("this route needs the secret")
                .hint("send it in the header x-webhook-signature, or as Authorization: Bearer"))
        }
        Shown::Nothing => Err(Problem::unauthorized("this route needs a secret, and none is configured")
            .hint("set WALCAST_ADMIN_SECRET, or [admin] secret in walcast.toml")),
    }
}

/// A route that reads: needs the secret where `protect_reads` says so.
pub(super) async fn readable(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    may_read(&shared, peer, request.headers())?;
    Ok(next.run(request).await)
}

/// Refuses who shows no secret where `protect_reads` asks for it.
pub(super) fn may_read(shared: &Shared, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Problem> {
    match shared.config().admin.protect_reads {
        true => need_secret(shared, peer, headers),
        false => Ok(()),
    }
}

/// Ends what takes too long.
pub(super) async fn in_time(request: Request, next: Next) -> Result<Response, Problem> {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => Ok(response),
        Err(_) => Err(Problem::timeout(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, headers: &[(&str, &str)]) -> Result<(), &'static str> {
        let guard = Guard { hosts: vec!["walcast.internal".to_owned()] };
        let headers =
            headers.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        guard.check(&method, &Uri::from_static("/"), &headers.collect()).map_err(|problem| problem.kind)
    }

    #[test]
    fn only_our_names_and_addresses_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "127.0.0.1:8080",
            "[::1]:8080",
            "10.2.3.4",
            "walcast.internal:80",
        ] {
            assert_eq!(check(Method::GET, &[("host", host)]), Ok(()), "{host}");
        }
        for host in
            ["example.com", "127.0.0.1.example.com:8080", "localhost.example.com", "walcast.internal.x"]
        {
            assert_eq!(check(Method::GET, &[("host", host)]), Err("forbidden"), "{host}");
        }
        for host in ["", "a b", "host/path"] {
            assert_eq!(check(Method::GET, &[("host", host)]), Err("bad-request"), "{host}");
        }
        assert_eq!(check(Method::GET, &[]), Err("bad-request"));
    }

    #[test]
    fn two_hosts_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert_eq!(authority(&Uri::from_static("/"), &headers).unwrap_err().kind, "bad-request");
    }

    #[test]
    fn another_sites_page_may_not_write() {
        let host = ("host", "127.0.0.1:8080");
        let from = |headers: &[(&str, &str)]| check(Method::POST, &[&[host], headers].concat());
        assert_eq!(from(&[]), Ok(()));
        assert_eq!(from(&[("origin", "http://127.0.0.1:8080")]), Ok(()));
        assert_eq!(from(&[("origin", "https://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]), Ok(()));
        assert_eq!(from(&[("sec-fetch-site", "none")]), Ok(()));
        for origin in
            ["http://127.0.0.1", "http://127.0.0.1:8081", "http://localhost:8080", "null", "http://evil.test"]
        {
            assert_eq!(from(&[("origin", origin)]), Err("forbidden"), "{origin}");
        }
        for site in ["cross-site", "same-site", "?"] {
            assert_eq!(from(&[("sec-fetch-site", site)]), Err("forbidden"), "{site}");
        }
        let elsewhere = [host, ("origin", "http://evil.test")];
        assert_eq!(check(Method::GET, &elsewhere), Ok(()));
        assert_eq!(check(Method::DELETE, &elsewhere), Err("forbidden"));
    }
}
