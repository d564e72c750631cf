//! What the running engine says of its regions, in all the ways in which it does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::Agent;

/// How long anything may take that has to come about.
pub const TIMEOUT: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at `/livez`.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(200);

/// The HTTP API.
pub struct Api {
    address: String,
    agent: Agent,
}

impl Api {
    pub fn new(address: &str) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .proxy(None)
            .build();
        Api { address: address.to_owned(), agent: agent.into() }
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut answer = self.agent.get(format!("http://{}{path}", self.address)).call().expect("an answer");
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"))
    }

    fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path);
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    fn eventually(&self, what: &str, look: impl Fn() -> bool) {
        let started = Instant::now();
        while !look() {
            assert!(started.elapsed() < TIMEOUT, "waited too long for {what}: {:?}", self.get("/readyz"));
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until all regions are right and all tables live.
    pub fn await_ready(&self) {
        self.eventually("readiness", || self.get("/readyz").0 == 200);
    }

    /// Waits until something is wrong with this region, and with no other.
    pub fn await_problem(&self, region: &str) {
        self.eventually(&format!("{region} to be named"), || self.problems() == [format!("sink {region}")]);
    }

    /// The subjects of what `/readyz` finds, each once.
    fn problems(&self) -> Vec<String> {
        let (status, body) = self.json("/readyz");
        let findings = body["problems"].as_array().expect("problems");
        assert_eq!(status == 200, findings.is_empty(), "{body}");
        let mut subjects: Vec<String> = findings
            .iter()
            .map(|finding| finding["subject"].as_str().unwrap_or_default().to_owned())
            .collect();
        subjects.dedup();
        subjects
    }

    /// Waits until everything that is not asked anew each time says that this region fails.
    pub fn await_failing(&self, region: &str) {
        let sample = format!("walcast_sink_state{{sink=\"{region}\",state=\"failing\"}} 1\n");
        self.eventually(&format!("{region} to be failing"), || self.get("/metrics").1.contains(&sample));
        self.eventually("the page to say so", || state(&self.page()["status"], region) == "failing");
    }

    /// Asserts that all say that this one fails, and that the others are attached.
    pub fn assert_all_name(&self, failing: &str, all: &[&str]) {
        assert_eq!(self.problems(), [format!("sink {failing}")]);
        let (status, page, metrics) = (self.json("/status").1, self.page(), self.get("/metrics").1);
        for region in all {
            let expected = if *region == failing { "failing" } else { "attached" };
            assert_eq!(state(&status, region), expected, "{region} in /status");
            assert_eq!(state(&page["status"], region), expected, "{region} on the page");
            let sample = format!("walcast_sink_state{{sink=\"{region}\",state=\"{expected}\"}} 1\n");
            assert!(metrics.contains(&sample), "{region} in /metrics");
        }
        assert_eq!(page["readiness"]["problems"][0]["subject"], format!("sink {failing}"), "on the page");
        assert_eq!(page["liveness"]["is_live"], true, "on the page");
    }

    /// Waits until the region takes the main stream.
    pub fn await_attached(&self, region: &str) {
        self.eventually(&format!("{region} to be attached"), || {
            state(&self.json("/status").1, region) == "attached"
        });
    }

    /// What a page that is opened now shows first.
    fn page(&self) -> Value {
        let answer = self.agent.get(format!("http://{}/events", self.address)).call().expect("an answer");
        let mut lines = BufReader::new(answer.into_body().into_reader()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "event: state"), "no state comes");
        let data = lines.next().expect("its data");
        serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON")
    }

    /// How many rows each region was filled with since the engine started.
    pub fn filled(&self) -> BTreeMap<String, f64> {
        let metrics = self.get("/metrics").1;
        let counter = |line: &str| {
            let (region, value) =
                line.strip_prefix("walcast_sink_filled_total{sink=\"")?.split_once("\"} ")?;
            Some((region.to_owned(), value.parse().ok()?))
        };
        metrics.lines().filter_map(counter).collect()
    }

    /// Asserts that `/livez` is 200 whenever it is asked; how often that was.
    pub fn watch_liveness(&self, is_over: &AtomicBool) -> u64 {
        let mut asked = 0;
        while !is_over.load(Ordering::Relaxed) {
            let (status, body) = self.get("/livez");
            assert_eq!(status, 200, "{body}");
            asked += 1;
            std::thread::sleep(LIVENESS_INTERVAL);
        }
        asked
    }
}

fn state<'a>(status: &'a Value, region: &str) -> &'a str {
    let sinks = status["sinks"].as_array().map_or(&[][..], Vec::as_slice);
    let found = sinks.iter().find(|sink| sink["name"] == region);
    found.and_then(|sink| sink["state"].as_str()).unwrap_or("missing")
}
