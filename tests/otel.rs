//! Spans to OpenTelemetry: a collector gets what batches, fills and requests took, and no row; one that does not answer
//! costs the stream nothing. With the cargo feature `otel` only.

#![cfg(feature = "otel")]

#[path = "support/pipeline.rs"]
mod pipeline;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use pipeline::Pipeline;
use rusqlite::Connection;
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE t (id int PRIMARY KEY, name text);";
const ROW_VALUE: &str = "a value of a row";
const TOKEN: &str = "a-token-of-the-collector";

fn schema() -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "name": "TEXT"}}})
}

/// One request of the exporter.
struct Received {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// Takes what is exported, on a port of its own.
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let taken = received.clone();
        let take = move |uri: Uri, headers: HeaderMap, body: Bytes| {
            taken.lock().unwrap().push(Received { path: uri.path().to_owned(), headers, body });
            async { "{}" }
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().fallback(take)).await.unwrap();
        });
        Collector { address, received, _runtime: runtime }
    }

    /// The spans of every JSON request so far, each with its resource's attributes under `resource`.
    fn spans(&self) -> Vec<Value> {
        let received = self.received.lock().unwrap();
        let requests =
            received.iter().map(|received| serde_json::from_slice::<Value>(&received.body).unwrap());
        let mut spans = Vec::new();
        for request in requests {
            for of_resource in request["resourceSpans"].as_array().unwrap() {
                for of_scope in of_resource["scopeSpans"].as_array().unwrap() {
                    for span in of_scope["spans"].as_array().unwrap() {
                        let mut span = span.clone();
                        span["resource"] = of_resource["resource"].clone();
                        spans.push(span);
                    }
                }
            }
        }
        spans
    }
}

/// An attribute's value as text.
fn attribute(of: &Value, key: &str) -> Option<String> {
    let found = of["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == key)?;
    let value = found["value"].as_object()?.values().next()?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn exporting(pipeline: &mut Pipeline, address: SocketAddr) {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{TOKEN}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ] {
        pipeline.environment.push((name.to_owned(), value));
    }
}

#[test]
fn a_collector_gets_every_batch_fill_and_request_and_no_row() {
    let collector = Collector::start();
    let mut pipeline = Pipeline::builder().sink("eu", "").d1("weur", "").build(CREATE, &schema());
    exporting(&mut pipeline, collector.address);
    pipeline.environment.push(("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(), "http/json".to_owned()));
    pipeline.exec(&format!("INSERT INTO t SELECT i, '{ROW_VALUE}' FROM generate_series(1, 5) i"));
    pipeline.start();
    pipeline.filled("eu");
    pipeline.exec(&format!("INSERT INTO t SELECT i, '{ROW_VALUE}' FROM generate_series(11, 20) i"));
    pipeline.catch_up();
    let of_sink = |name: &str, sink: &str| -> Vec<Value> {
        let spans = collector.spans().into_iter();
        spans
            .filter(|span| span["name"] == name && attribute(span, "sink").as_deref() == Some(sink))
            .collect()
    };
    let sum = |name: &str, sink: &str, key: &str| -> u64 {
        let numbers = of_sink(name, sink);
        numbers.iter().filter_map(|span| attribute(span, key)?.parse::<u64>().ok()).sum()
    };
    for sink in ["eu", "weur"] {
        pipeline.eventually("the batch's span", || (sum("flush", sink, "changes") == 10).then_some(()));
        pipeline.eventually("the fill's span", || (sum("fill", sink, "rows") == 5).then_some(()));
    }
    // A request to D1 is a part of what it was sent for.
    let flushes = of_sink("flush", "weur");
    let is_of_flush = |span: &Value| flushes.iter().any(|flush| flush["spanId"] == span["parentSpanId"]);
    let requests: Vec<Value> =
        collector.spans().into_iter().filter(|span| span["name"] == "request").collect();
    let request = requests.iter().find(|span| is_of_flush(span)).expect("a request of a batch");
    assert_eq!(attribute(request, "http.response.status_code").as_deref(), Some("200"));
    assert_eq!(attribute(&request["resource"], "service.name").as_deref(), Some("walcast"));

    // What fails says so, and with what kind of an error.
    let held = Connection::open(pipeline.replica("eu").path).unwrap();
    held.busy_timeout(pipeline::LIMIT).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    pipeline.exec("INSERT INTO t VALUES (21, '')");
    let failed = pipeline.eventually("the failed attempt's span", || {
        of_sink("flush", "eu").into_iter().find(|span| span["status"]["code"] == 2)
    });
    assert_eq!(attribute(&failed, "error.kind").as_deref(), Some("transient"), "{failed}");
    drop(held);
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    for received in collector.received.lock().unwrap().iter() {
        assert_eq!(received.path, "/v1/traces");
        assert_eq!(received.headers["authorization"], format!("Bearer {TOKEN}"));
        assert!(!String::from_utf8_lossy(&received.body).contains(ROW_VALUE));
    }
    // The log is as without them.
    assert!(!pipeline.log().contains(TOKEN) && !pipeline.log().contains("flush{"));
}

#[test]
fn without_another_word_it_is_protobuf_and_what_is_left_is_sent_at_the_end() {
    let collector = Collector::start();
    let mut pipeline = Pipeline::builder().build(CREATE, &schema());
    exporting(&mut pipeline, collector.address);
    // Not before the engine ends.
    pipeline.environment.retain(|(name, _)| name != "OTEL_BSP_SCHEDULE_DELAY");
    pipeline.environment.push(("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "3600000".to_owned()));
    pipeline.start();
    pipeline.filled("eu");
    pipeline.exec("INSERT INTO t VALUES (1, '')");
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    let received = collector.received.lock().unwrap();
    assert!(received.iter().all(|received| received.headers["content-type"] == "application/x-protobuf"));
    assert!(received.iter().any(|received| received.body.windows(5).any(|bytes| bytes == b"flush")));
}

#[test]
fn a_collector_that_never_answers_costs_the_stream_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut pipeline = Pipeline::builder().build(CREATE, &schema());
    exporting(&mut pipeline, silent.local_addr().unwrap());
    pipeline.start();
    pipeline.filled("eu");
    pipeline.filled("na");
    for round in 0..20 {
        pipeline.exec(&format!("INSERT INTO t SELECT {round} * 100 + i, '' FROM generate_series(1, 100) i"));
    }
    pipeline.catch_up();
    pipeline.assert_equal("SELECT * FROM t ORDER BY id", "SELECT * FROM t ORDER BY id");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn an_environment_that_makes_no_sense_is_told_before_anything_starts() {
    let mut pipeline = Pipeline::builder().build(CREATE, &schema());
    pipeline.environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "no url".to_owned()));
    pipeline.start();
    assert_eq!(pipeline.exit_code(), Some(2));
    pipeline.assert_log(&["the export to OpenTelemetry cannot start", "OTEL_EXPORTER_OTLP_"]);
    assert_eq!(pipeline.confirmed_flush_lsn(), None);
}
