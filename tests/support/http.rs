//! A client of the HTTP API, as curl would be one: every status is an answer, and headers are what the test says.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Request};

use crate::pipeline::{LIMIT, Pipeline};

/// The API of a pipeline's engine.
pub struct Api {
    pub address: String,
    agent: Agent,
}

/// What it answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Api {
    /// The API of the engine that was started last, once it listens.
    pub fn of(pipeline: &Pipeline) -> Api {
        let address = pipeline.eventually("the API to listen", || {
            let log = pipeline.log();
            let (_, address) = log.rsplit_once("the HTTP API listens address=")?;
            Some(address.split_whitespace().next()?.to_owned())
        });
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LIMIT + Duration::from_secs(10)))
            // The server closes a connection whose request it refused unread, maybe while the next one is on its way.
            .max_idle_connections(0)
            .build();
        Api { address, agent: config.into() }
    }

    /// Sends a request with these headers and this body.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().read_to_string().unwrap(),
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    /// With a secret, in the header of the Workers that came before.
    pub fn get_with(&self, secret: &str, path: &str) -> Answer {
        self.send("GET", path, &[("x-webhook-signature", secret)], "")
    }

    pub fn post_with(&self, secret: &str, path: &str) -> Answer {
        self.send("POST", path, &[("x-webhook-signature", secret)], "")
    }
}

impl Answer {
    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the status, and the kind that the body names.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, kind: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["kind"], kind, "{self:?}");
        assert!(body["message"].is_string() && body.get("hint").is_some(), "{self:?}");
    }
}
