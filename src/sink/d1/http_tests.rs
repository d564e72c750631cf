//! Headers, envelopes and URLs. What goes over the wire is in `tests/d1_transports.rs`.

use ureq::http::{HeaderName, HeaderValue};

use super::*;

fn headers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
}

fn reply(status: u16, body: &str) -> Reply<Vec<StatementResult>> {
    Reply {
        status,
        envelope: envelope(body.as_bytes()),
        notice: Notice::default(),
        retry_after: None,
        ray: Some("8c0".to_owned()),
    }
}

#[test]
fn the_least_of_several_limits_counts() {
    let both = headers("ratelimit", "\"burst\";r=50;t=30, \"default\";r=3;t=120");
    assert_eq!(left(&both), Some((3, Duration::from_secs(120))));
    assert_eq!(left(&headers("ratelimit", "default; r = 4; t=1")), None, "no spaces inside a parameter");
    assert_eq!(left(&headers("ratelimit", "garbage")), None);
    let both = headers("ratelimit-policy", "\"burst\";q=100;w=10,\"default\";q=1200;w=300");
    assert_eq!(policy(&both), Some(Limit::default()));
    assert_eq!(policy(&headers("ratelimit-policy", "\"default\";q=1200;w=0")), None);
}

#[test]
fn an_answer_has_rows_and_what_they_cost() {
    let body = r#"{"result":[{"results":[{"n":"9223372036854775807"}],"success":true,
        "meta":{"rows_written":3,"size_after":4096,"duration":0.2}},{"success":true,"meta":{}}],
        "success":true,"errors":[],"messages":[]}"#;
    let found = answers(reply(200, body).result().unwrap(), 2).unwrap();
    assert_eq!(found[0].rows[0]["n"], "9223372036854775807");
    assert_eq!((found[0].rows_written, found[0].size_after), (3, Some(4096)));
    assert_eq!(found[1], Answer::default());
}

#[test]
fn fewer_answers_than_statements_leave_it_unknown() {
    assert_eq!(answers(Vec::new(), 1).unwrap_err().verdict, Verdict::Unknown);
}

#[test]
fn a_failure_says_what_the_other_side_said() {
    let body = r#"{"result":[],"success":false,"errors":[{"code":7500,"message":"no such table: t"}]}"#;
    let failure = reply(400, body).result().unwrap_err();
    assert_eq!(failure.verdict, Verdict::SchemaMissing);
    assert_eq!(failure.message, "no such table: t [code 7500, HTTP 400] (cf-ray 8c0)");
    // Production has a null there in places, and an explorer answers 500 for SQL.
    let null = r#"{"result":null,"success":false,"errors":[{"code":10001,"message":"UNIQUE constraint failed: t.id"}]}"#;
    assert_eq!(reply(500, null).result().unwrap_err().verdict, Verdict::Rejected);
    let object =
        r#"{"result":{},"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}"#;
    assert_eq!(reply(400, object).result().unwrap_err().verdict, Verdict::Refused);
    let long = format!(r#"{{"success":false,"errors":[{{"code":7500,"message":"{}"}}]}}"#, "x".repeat(5000));
    assert!(reply(500, &long).result().unwrap_err().message.len() < 400);
}

#[test]
fn what_is_no_envelope_is_unknown_and_its_text_is_not_repeated() {
    for body in ["<html>secret</html>", "[]", "{}", "null", r#"{"success":true}"#] {
        let failure = reply(200, body).result().unwrap_err();
        assert_eq!(failure.verdict, Verdict::Unknown, "{body}");
        assert!(!failure.message.contains("secret"));
    }
    assert!(reply(429, "error code: 1015").is_throttled());
}

#[test]
fn a_secret_travels_encrypted_or_not_beyond_this_machine() {
    for url in [
        "https://api.cloudflare.com/client/v4/",
        "http://127.0.0.1:80",
        "http://[::1]:80/x",
        "http://localhost",
    ] {
        assert!(Http::new(url, TIMEOUT).is_ok(), "{url}");
    }
    for url in
        ["http://api.cloudflare.com", "http://127.0.0.1.example", "api.cloudflare.com", "", "https://h?q=1"]
    {
        assert!(Http::new(url, TIMEOUT).is_err(), "{url}");
    }
    let error = Http::new("https://me:sesame@host", TIMEOUT).unwrap_err();
    assert!(!format!("{error:?}").contains("sesame"));
}

#[test]
fn a_path_lies_below_the_base() {
    let http = Http::new("http://localhost:8080/client/v4/", TIMEOUT).unwrap();
    assert_eq!(http.path("/accounts"), "/client/v4/accounts");
    assert_eq!(Http::new("https://walcast.example", TIMEOUT).unwrap().path("/v1/databases"), "/v1/databases");
}
