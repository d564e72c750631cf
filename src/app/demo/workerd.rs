//! A throwaway Cloudflare: one workerd, the runtime that D1 is made of, with D1's REST API and the companion Worker in
//! front of databases that are files in a temporary directory. It goes away with its [`Workerd`], and with this process however that ends.
//!
//! What it serves is JavaScript in `tests/workerd`, which is part of this crate; the binary comes from npm. It keeps
//! D1's documented limits, counts requests that break them, and gives every fault that is ordered from it.
//!
//! It never touches a server, a directory or a process that it did not make.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::cluster::host;
use super::cluster::spawn;
use super::launch::{Launch, until_ready};
use crate::error::{Error, Result};

/// Names the binary to use instead of the one that npm installed.
const BINARY_VARIABLE: &str = "WALCAST_WORKERD";
/// Where npm puts it, below the repository.
const BINARIES: [&str; 2] = [
    "tests/workerd/node_modules/@cloudflare/workerd-linux-64/bin/workerd",
    "tests/workerd/node_modules/@cloudflare/workerd-linux-arm64/bin/workerd",
];
/// What workerd loads, and how the configuration names it.
const FILES: [(&str, &str); 13] = [
    ("rig.capnp", include_str!("../../../tests/workerd/rig.capnp")),
    ("rig.js", include_str!("../../../tests/workerd/rig.js")),
    ("rest.js", include_str!("../../../tests/workerd/rest.js")),
    ("control.js", include_str!("../../../tests/workerd/control.js")),
    ("databases.js", include_str!("../../../tests/workerd/databases.js")),
    ("database.js", include_str!("../../../tests/workerd/database.js")),
    ("registry.js", include_str!("../../../tests/workerd/registry.js")),
    ("limits.js", include_str!("../../../tests/workerd/limits.js")),
    ("faults.js", include_str!("../../../tests/workerd/faults.js")),
    ("gate.js", include_str!("../../../tests/workerd/gate.js")),
    ("binding.js", include_str!("../../../tests/workerd/binding.js")),
    ("worker.js", include_str!("../../../worker/src/worker.js")),
    ("ledger.js", include_str!("../../../tests/workerd/ledger.js")),
];
/// How many sockets the configuration has.
const SOCKETS: usize = 2;
/// How long it may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked at; neither readiness nor exit can be awaited with a limit.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long to leave a busy port alone before the next try.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How many ports a first start tries.
const PORT_ATTEMPTS_MAX: usize = 10;
/// How long an order to the rig may take.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(30);

/// A running workerd that answers as D1 does. Dropping it kills the process and removes its directory.
///
/// Every method blocks.
pub struct Workerd {
    /// The running process; `None` while it is killed.
    process: Option<Child>,
    rest_port: u16,
    worker_port: u16,
    /// What the Worker has as `WALCAST_KEY` and `WALCAST_KEY_PREVIOUS`.
    keys: [String; 2],
    binary: PathBuf,
    agent: ureq::Agent,
    /// Held locked for its life, so that nobody takes the directory for a dead process's.
    _lock: File,
    directory: TempDir,
}

impl Workerd {
    /// The only account there is.
    pub const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
    /// A token that may do everything. So is any other that begins like this; each has its own numbers and limit.
    pub const TOKEN: &str = "test-token";
    /// The token of an application that only reads: its requests are not counted, and get no fault.
    pub const READER_TOKEN: &str = "test-token-reader";

    /// The key that the companion Worker accepts.
    pub const KEY: &str = "0123456789abcdef0123456789abcdef";
    /// The bindings of the companion Worker, and the databases behind them, which are made when they are first used.
    pub const BINDINGS: [(&str, &str); 6] = [
        ("DB_NA", "walcast-na"),
        ("DB_EU", "walcast-eu"),
        ("DB_ASIA", "walcast-asia"),
        ("DB_SA", "walcast-sa"),
        ("DB_OC", "walcast-oc"),
        ("DB_AF", "walcast-af"),
    ];

    /// Starts one without databases, on free ports; returns when it accepts connections.
    ///
    /// # Errors
    /// Where there is no binary, or where it does not start; the message then holds what it said.
    pub fn start() -> Result<Self> {
        Self::start_with_keys([Self::KEY, ""])
    }

    /// The same with other keys for the companion Worker: the one in use and the one before it. An empty one is not
    /// set.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with_keys(keys: [&str; 2]) -> Result<Self> {
        let binary = find_binary()?;
        host::remove_stale_directories();
        let (directory, lock) = host::make_directory("d1", None)?;
        let cannot = |error| Error::halt("cannot write what workerd loads").because(error);
        fs::create_dir(directory.path().join("data")).map_err(cannot)?;
        for (name, text) in FILES {
            fs::write(directory.path().join(name), text).map_err(cannot)?;
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(CONTROL_TIMEOUT))
            .build()
            .into();
        let keys = keys.map(str::to_owned);
        let (rest_port, worker_port) = (0, 0);
        let mut workerd =
            Workerd { process: None, rest_port, worker_port, keys, binary, agent, _lock: lock, directory };
        for _ in 0..PORT_ATTEMPTS_MAX {
            (workerd.rest_port, workerd.worker_port) = (host::free_port()?, host::free_port()?);
            if let Launch::Ready = workerd.launch()? {
                return Ok(workerd);
            }
        }
        Err(workerd.failure("found no free TCP port"))
    }

    /// What to configure as `base_url` in place of Cloudflare's API.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/client/v4", self.rest_port)
    }

    /// Where the companion Worker is.
    pub fn worker_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.worker_port)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Where the databases' files are; `known.<name>.file` of the [numbers](Self::stats) is a path below it. They can
    /// be read with any SQLite while the process is killed.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Kills the process as a crash would (SIGKILL). Nothing happens where it is killed already.
    ///
    /// # Errors
    /// Where the process outlives that.
    pub fn kill(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let failed = |error| Error::halt("cannot kill workerd").because(error);
        // A process that has ended by itself is reaped by `try_wait`; until then its pid belongs to nobody else.
        process.kill().map_err(failed)?;
        let deadline = Instant::now() + KILL_TIMEOUT;
        while Instant::now() < deadline {
            if process.try_wait().map_err(failed)?.is_some() {
                self.process = None;
                return Ok(());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(self.failure("outlives SIGKILL"))
    }

    /// Starts it again after [`kill`](Self::kill), on the same ports and the same data. Faults, numbers and bookmarks
    /// are gone, violations are kept. Nothing happens where it runs.
    ///
    /// # Errors
    /// Where it does not accept connections within 30 seconds.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        match until_ready(START_TIMEOUT, BUSY_PAUSE, || self.launch())? {
            true => Ok(()),
            false => Err(self.failure("cannot start again")),
        }
    }

    /// Creates a database through the API and returns its id.
    ///
    /// # Errors
    /// Where the name is taken.
    pub fn create_database(&self, name: &str) -> Result<String> {
        let url = format!("{}/accounts/{}/d1/database", self.base_url(), Self::ACCOUNT);
        let request = self.agent.post(&url).header("authorization", format!("Bearer {}", Self::TOKEN));
        let answer = read(request.send(json!({ "name": name }).to_string()))?;
        let id = answer.pointer("/result/uuid").and_then(Value::as_str);
        id.map(str::to_owned).ok_or_else(|| Error::halt(format!("no database {name} was made: {answer}")))
    }

    /// Orders a fault: `{"db": name or id, "kind": …}` and, as wanted, `times` (a number or `"until cleared"`),
    /// `after` (how many requests go well before), `share` (of requests, with `seed`), `delay_ms`, `retry_after`
    /// (seconds), `applied` (the request takes effect, only its answer is lost), and `at`: `"front"`, before the API
    /// or the Worker, or `"binding"`, behind the Worker. `tests/workerd/faults.js` has the kinds.
    ///
    /// # Errors
    /// Where there is no such fault.
    pub fn order(&self, fault: &Value) -> Result<()> {
        self.post("__fault", fault).map(|_| ())
    }

    /// Forgets every fault that was ordered.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn clear_faults(&self) -> Result<()> {
        read(self.agent.delete(self.control_url("__fault")).call()).map(|_| ())
    }

    /// Limits every token to so many requests in a window of so many seconds, as the API does; 0 requests for none.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn limit(&self, requests: u32, window_seconds: u32) -> Result<()> {
        self.post("__limit", &json!({ "requests": requests, "window_s": window_seconds })).map(|_| ())
    }

    /// Lets every request have so many statements instead of D1's 100, until it is started again.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn allow_statements(&self, count: u32) -> Result<()> {
        self.post("__limit", &json!({ "statements": count })).map(|_| ())
    }

    /// Deletes a database through the API.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn delete_database(&self, name: &str) -> Result<()> {
        let stats = self.stats()?;
        let id = stats["known"][name]["id"].as_str();
        let id = id.ok_or_else(|| Error::halt(format!("there is no database {name}")))?;
        let url = format!("{}/accounts/{}/d1/database/{id}", self.base_url(), Self::ACCOUNT);
        let request = self.agent.delete(&url).header("authorization", format!("Bearer {}", Self::TOKEN));
        read(request.call()).map(|_| ())
    }

    /// Copies the database's content for [`restore`](Self::restore) and returns the copy's name.
    ///
    /// # Errors
    /// Where there is no such database.
    pub fn bookmark(&self, database: &str) -> Result<String> {
        let answer = self.post("__bookmark", &json!({ "db": database }))?;
        answer["bookmark"].as_str().map(str::to_owned).ok_or_else(|| Error::halt("no bookmark was made"))
    }

    /// Makes the database what it was at the bookmark, as Time Travel does.
    ///
    /// # Errors
    /// Where there is no such database or bookmark.
    pub fn restore(&self, database: &str, bookmark: &str) -> Result<()> {
        self.post("__restore", &json!({ "db": database, "bookmark": bookmark })).map(|_| ())
    }

    /// Drops everything in the database, as deleting and creating it would, under the same id.
    ///
    /// # Errors
    /// Where there is no such database.
    pub fn recreate(&self, database: &str) -> Result<()> {
        self.post("__recreate", &json!({ "db": database })).map(|_| ())
    }

    /// The numbers: `violations` of documented limits with the rules in `violated`, and what was asked per database
    /// (`databases.<name>`) and per token (`tokens.<token>`) since the process started.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn stats(&self) -> Result<Value> {
        read(self.agent.get(self.control_url("__stats")).call())
    }

    /// How often a request broke a documented limit of D1, over all restarts.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn violations(&self) -> Result<u64> {
        self.stats()?["violations"]
            .as_u64()
            .ok_or_else(|| Error::halt("the rig's numbers lack the violations"))
    }

    fn control_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.rest_port)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = read(self.agent.post(self.control_url(path)).send(body.to_string()))?;
        match answer.get("error") {
            Some(why) => Err(Error::halt(format!("{path}: {why}"))),
            None => Ok(answer),
        }
    }

    fn launch(&mut self) -> Result<Launch> {
        let cannot = |error| Error::halt("cannot start workerd").because(error);
        let create = |name: &str| File::create(self.directory.path().join(name)).map_err(cannot);
        let (announced, log) = (create("announced")?, create("log")?);
        let mut command = Command::new(&self.binary);
        // In a process group of its own, so that a Ctrl-C at the terminal reaches only this process.
        command.current_dir(self.directory.path()).process_group(0).env_clear();
        command.args(["serve", "rig.capnp", "--control-fd=1", "--directory-path=disk=data"]);
        command.arg(format!("--socket-addr=rest=127.0.0.1:{}", self.rest_port));
        command.arg(format!("--socket-addr=worker=127.0.0.1:{}", self.worker_port));
        let names = ["WALCAST_KEY", "WALCAST_KEY_PREVIOUS"];
        command.envs(names.into_iter().zip(&self.keys).filter(|(_, key)| !key.is_empty()));
        command.stdin(Stdio::null()).stdout(announced).stderr(log);
        self.process = Some(spawn::spawn(command).map_err(cannot)?);

        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            let Some(process) = &mut self.process else { break };
            if let Some(status) = process.try_wait().map_err(cannot)? {
                self.process = None;
                if self.said("log").contains("Address already in use") {
                    return Ok(Launch::Busy);
                }
                return Err(self.failure(&format!("ended with {status}")));
            }
            // A line for each socket, once it listens.
            if self.said("announced").lines().filter(|line| line.contains("\"listen\"")).count() == SOCKETS {
                return Ok(Launch::Ready);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let error = self.failure("does not accept connections after 30 s");
        self.kill()?;
        Err(error)
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn failure(&self, what: &str) -> Error {
        let directory = self.directory.path().display();
        // The frames of its stack are long and say nothing.
        let log = self.said("log");
        let said: Vec<&str> = log.lines().filter(|line| !line.starts_with("stack:")).take(10).collect();
        Error::halt(format!("workerd in {directory}: {what}: {}", said.join("\n")))
    }
}

impl Drop for Workerd {
    fn drop(&mut self) {
        // What a `Drop` cannot report, the next start mends.
        let _ = self.kill();
    }
}

impl std::fmt::Debug for Workerd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let directory = self.directory.path();
        f.debug_struct("Workerd").field("directory", &directory).field("rest_port", &self.rest_port).finish()
    }
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    let failed = || "the rig does not answer";
    let mut answer = answer.map_err(|error| Error::transient(failed()).because(error))?;
    let text =
        answer.body_mut().read_to_string().map_err(|error| Error::transient(failed()).because(error))?;
    serde_json::from_str(&text).map_err(|error| Error::halt("the rig's answer is no JSON").because(error))
}

/// The binary of the variable, else what npm installed in the repository that this process runs or was built in.
fn find_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from) {
        if path.is_file() {
            return Ok(std::path::absolute(&path).unwrap_or(path));
        }
        let place = path.display();
        return Err(Error::config(format!("{BINARY_VARIABLE} is {place}, which is no file"))
            .hint("unset it, or name the workerd binary"));
    }
    let places = [std::env::current_dir(), std::env::current_exe()];
    let above = places.iter().flatten().flat_map(|place| place.ancestors().map(Path::to_path_buf));
    above
        .flat_map(|directory| BINARIES.map(|binary| directory.join(binary)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::config("found no workerd binary").hint(format!(
                "in the repository, run: npm --prefix tests/workerd ci; elsewhere set {BINARY_VARIABLE}"
            ))
        })
}
