//! `GET /`: the web page for browsers, the health in a few lines for everything else.
//!
//! The page is one document, put together here from the files beside this one. It holds no data: what it shows, it asks
//! for. Its policy lets it run nothing but its own script, load nothing, and talk to nobody but this API.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};

use super::problem::Problem;
use super::{Shared, guard, health};

const DOCUMENT: &str = include_str!("index.html");
const STYLE: &str = include_str!("style.css");
/// One script, cut into files by what they show; the last one starts it.
const SCRIPTS: [&str; 14] = [
    include_str!("js/dom.js"),
    include_str!("js/format.js"),
    include_str!("js/secret.js"),
    include_str!("js/stream.js"),
    include_str!("js/verdict.js"),
    include_str!("js/sparkline.js"),
    include_str!("js/regions.js"),
    include_str!("js/source.js"),
    include_str!("js/tables.js"),
    include_str!("js/row.js"),
    include_str!("js/letters.js"),
    include_str!("js/log.js"),
    include_str!("js/actions.js"),
    include_str!("js/main.js"),
];

static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

struct Page {
    html: String,
    policy: HeaderValue,
}

impl Page {
    fn new() -> Self {
        let script = format!("\"use strict\";\n(() => {{\n{}}})();\n", SCRIPTS.concat());
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
             require-trusted-types-for 'script'; trusted-types 'none'; \
             frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            source(&script),
            source(STYLE)
        );
        Page {
            html: DOCUMENT.replace("/*style.css*/", STYLE).replace("/*script*/", &script),
            policy: HeaderValue::try_from(policy).expect("the policy is ASCII"),
        }
    }
}

/// The content as a policy names it.
fn source(content: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(digest(&SHA256, content.as_bytes())))
}

/// Whether a page is what the client asks for first of all: browsers name it, curl and probes take anything.
fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    accepted.is_some_and(|accepted| {
        let mut kinds = accepted.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
        kinds.any(|kind| kind.eq_ignore_ascii_case("text/html"))
    })
}

/// The page, or the health in a few lines of text
///
/// A browser (`Accept: text/html`) gets the page, which holds no data by itself and so needs no secret; anything else the
/// text.
#[utoipa::path(
    get,
    path = "/",
    tag = "health",
    responses(
        (status = 200, description = "The page or the text", content((String = "text/plain"), (String = "text/html"))),
    )
)]
pub(super) async fn root(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let vary = (header::VARY, HeaderValue::from_static("accept"));
    if wants_page(&headers) {
        let policy = (header::CONTENT_SECURITY_POLICY, PAGE.policy.clone());
        return Ok(([vary, policy], Html(PAGE.html.as_str())).into_response());
    }
    guard::may_read(&shared, peer, &headers)?;
    Ok(([vary], health::text(&shared).await).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_the_page_and_others_the_text() {
        let asks = |accepted: &str| {
            wants_page(&[(header::ACCEPT, accepted.parse().unwrap())].into_iter().collect::<HeaderMap>())
        };
        assert!(asks("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(asks("application/json, TEXT/HTML;q=0.5"));
        assert!(!asks("*/*") && !asks("text/plain") && !asks("text/html5") && !asks(""));
        assert!(!wants_page(&HeaderMap::new()));
    }

    #[test]
    fn the_page_is_one_document_that_asks_for_nothing_elsewhere_and_never_parses_markup() {
        let Page { html, policy } = Page::new();
        assert!(html.contains(STYLE) && SCRIPTS.iter().all(|script| html.contains(script)));
        assert_eq!((html.matches("<script").count(), html.matches("</script").count()), (1, 1));
        assert_eq!((html.matches("<style").count(), html.matches("</style").count()), (1, 1));
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        for elsewhere in ["src=\"", "https://", "@import", "url("] {
            assert!(!html.contains(elsewhere), "{elsewhere}");
        }
        for inline in [" onclick", " onsubmit", " style=\""] {
            assert!(!DOCUMENT.contains(inline), "{inline}");
        }
        let policy = policy.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"));
    }
}
