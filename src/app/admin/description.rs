//! The API's description, `openapi.json`: made from the routes themselves, and kept beside them so that it can be read
//! without building anything.

use axum::Json;
use utoipa::openapi::OpenApi as Description;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::routes;
use super::secret::SIGNATURE_HEADER;

/// What no route says.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "walcast",
        description = "How an operator, a probe or a scraper sees a running walcast, and steers it. Every answer that is \
                       no success is {kind, message, hint}.",
        license(name = "MIT OR Apache-2.0")
    ),
    modifiers(&Secret),
    tags(
        (name = "health", description = "Whether it moves, and whether every region is right"),
        (name = "status", description = "Where everything is"),
        (name = "rows", description = "Single rows; needs the secret"),
        (name = "steering", description = "Changes something; needs the secret"),
    )
)]
pub(super) struct Frame;

/// The two ways to show the secret.
struct Secret;

impl Modify for Secret {
    fn modify(&self, description: &mut Description) {
        let components = description.components.get_or_insert_default();
        let header = ApiKey::Header(ApiKeyValue::new(SIGNATURE_HEADER));
        components.add_security_scheme("signature", SecurityScheme::ApiKey(header));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// The description of this API
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "status",
    responses((status = 200, description = "An OpenAPI 3.1 document", content_type = "application/json"))
)]
pub(super) async fn openapi() -> Json<Description> {
    Json(routes::description())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/app/admin/openapi.json");

    #[test]
    fn the_committed_description_is_that_of_the_routes() {
        let current = routes::description().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(COMMITTED, &current).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap();
        assert!(
            committed == current,
            "src/app/admin/openapi.json is not that of the routes: UPDATE_GOLDEN=1 cargo test --lib admin::description"
        );
    }

    #[test]
    fn a_route_that_needs_the_secret_says_so_and_what_it_answers_without() {
        let description = serde_json::to_value(routes::description()).unwrap();
        let mut closed = Vec::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, route) in methods.as_object().unwrap() {
                assert!(route["summary"].is_string(), "{path}");
                for (status, response) in route["responses"].as_object().unwrap() {
                    assert!(response["description"].is_string(), "{path}: {status}");
                }
                if method != "get" || route["security"].is_array() {
                    assert!(route["security"].is_array() && route["responses"]["401"].is_object(), "{path}");
                    closed.push(path.as_str());
                }
            }
        }
        assert_eq!(
            closed,
            [
                "/backfill",
                "/failed",
                "/nuke",
                "/reload",
                "/retry-failed",
                "/sinks/{name}/pause",
                "/sinks/{name}/resume",
                "/status/{table}/{key}",
                "/sync",
                "/webhook"
            ]
        );
    }
}
