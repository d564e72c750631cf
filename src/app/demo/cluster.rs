//! A throwaway Postgres cluster: the server binaries of this machine, a temporary directory, one postmaster. It goes
//! away with its [`Cluster`], and with this process however that ends.
//!
//! Every cluster runs its own `initdb` (about half a second). Copying a template directory would be quicker, and
//! wrong: copies share one system identifier, by which walcast tells one source from another.
//!
//! It never touches a server, a directory or a process that it did not make.

pub(super) mod host;
pub(super) mod spawn;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::launch::{Launch, until_ready};
use crate::error::{Error, Result};
use host::{Account, Binaries};

/// How long a server may take until it accepts connections, crash recovery included.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a fast shutdown may take. A walsender whose client does not confirm holds it up, so this ends often.
const FAST_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an immediate shutdown may take. The postmaster itself kills what is left of its children after 5 s.
const IMMEDIATE_STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// How often the postmaster's state is looked at; neither readiness nor exit can be awaited with a limit.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long to leave a busy port or a dying backend alone before the next try.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// How many ports a first start tries.
const PORT_ATTEMPTS_MAX: usize = 10;
/// How much of the server's log is quoted in messages.
const LOG_TAIL_BYTES: u64 = 4096;

/// A running Postgres cluster with `wal_level = logical`. The superuser is `postgres`; local connections and those
/// from 127.0.0.1 are trusted. Dropping it stops the server and removes its directory.
///
/// Every method that starts or stops the server blocks until that is done: in async code, either the pause does not
/// matter or it belongs into `spawn_blocking`.
pub struct Cluster {
    /// The running postmaster; `None` while stopped.
    postmaster: Option<Child>,
    port: u16,
    binaries: Binaries,
    account: Option<Account>,
    /// Held locked for the cluster's life, so that nobody takes the directory for a dead process's.
    _lock: File,
    directory: TempDir,
}

/// What to start. Made by [`Cluster::builder`].
#[derive(Debug, Clone, Default)]
pub struct Builder {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    is_durable: bool,
}

impl Builder {
    /// Sets a server setting in `postgresql.conf`. A later one of the same name wins, also over the defaults.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Adds a line to `pg_hba.conf`, before the lines that trust everybody.
    #[must_use]
    pub fn hba(mut self, line: impl Into<String>) -> Self {
        self.hba.push(line.into());
        self
    }

    /// Whether the cluster would survive a power cut. Without it (the default) `fsync` and `full_page_writes` are
    /// off; that still survives the death of the server, because the operating system keeps what was written.
    #[must_use]
    pub fn durable(mut self, is_durable: bool) -> Self {
        self.is_durable = is_durable;
        self
    }

    /// Makes the cluster and starts it; returns when it accepts connections.
    ///
    /// # Errors
    ///
    /// Where there are no server binaries, no account to run them as, or where they fail; the message then holds
    /// the end of their output.
    pub fn start(self) -> Result<Cluster> {
        let binaries = Binaries::find()?;
        let account = Account::for_server()?;
        host::remove_stale_directories();
        let (directory, lock) = host::make_directory("pg", account.as_ref())?;
        let mut cluster = Cluster { postmaster: None, port: 0, binaries, account, _lock: lock, directory };
        cluster.initialize()?;
        cluster.configure(&self).map_err(|error| {
            Error::halt(format!("cannot configure the cluster in {}", cluster.directory().display()))
                .because(error)
        })?;
        for _ in 0..PORT_ATTEMPTS_MAX {
            cluster.port = host::free_port()?;
            match cluster.launch()? {
                Launch::Ready => return Ok(cluster),
                Launch::Busy => {}
            }
        }
        Err(cluster.failure("found no free TCP port"))
    }
}

impl Cluster {
    /// A builder with the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The connection URL over the Unix socket, as superuser, to the database `postgres`.
    pub fn url(&self) -> String {
        let host = self.socket_directory().to_string_lossy();
        let host = utf8_percent_encode(&host, NON_ALPHANUMERIC);
        format!("postgres://postgres@/postgres?host={host}&port={}", self.port)
    }

    /// The connection URL over TCP, as superuser, to the database `postgres`.
    pub fn tcp_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The port, the same for TCP and in the socket's name. It stays over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket.
    pub fn socket_directory(&self) -> &Path {
        self.directory()
    }

    /// The directory that holds everything of this cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Child::id)
    }

    /// The path of a program that came with the server, such as `psql`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.binaries.path(name)
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        self.log_from(0)
    }

    /// Starts the server again after [`stop`](Self::stop), on the same port. Nothing happens where it runs.
    ///
    /// # Errors
    ///
    /// Where it does not accept connections within 30 seconds; the message then holds the end of its log.
    pub fn start(&mut self) -> Result<()> {
        if self.postmaster.is_some() {
            return Ok(());
        }
        match until_ready(START_TIMEOUT, BUSY_PAUSE, || self.launch())? {
            true => Ok(()),
            false => Err(self.failure("cannot start again")),
        }
    }

    /// Stops the server as `pg_ctl stop -m fast` does: sessions end, walsenders are given some seconds to send what
    /// they have. Nothing happens where it is stopped.
    ///
    /// # Errors
    ///
    /// Where the process cannot be signalled or outlives even SIGKILL.
    pub fn stop(&mut self) -> Result<()> {
        self.end(&[
            (Signal::INT, FAST_STOP_TIMEOUT),
            (Signal::QUIT, IMMEDIATE_STOP_TIMEOUT),
            (Signal::KILL, IMMEDIATE_STOP_TIMEOUT),
        ])
    }

    /// Stops and starts the server in an orderly way.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Ends the server without a checkpoint, as a crash would, and starts it again: it comes back through recovery.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub fn crash(&mut self) -> Result<()> {
        self.kill()?;
        self.start()
    }

    /// Ends the server without a checkpoint. An immediate shutdown rather than SIGKILL to the postmaster, since it
    /// returns only when the backends are gone too.
    fn kill(&mut self) -> Result<()> {
        self.end(&[(Signal::QUIT, IMMEDIATE_STOP_TIMEOUT), (Signal::KILL, IMMEDIATE_STOP_TIMEOUT)])
    }

    /// Sends one signal after the other until the postmaster has ended.
    fn end(&mut self, signals: &[(Signal, Duration)]) -> Result<()> {
        let Some(postmaster) = &mut self.postmaster else { return Ok(()) };
        let pid = postmaster.id();
        let failed = |error| Error::halt(format!("cannot stop postmaster {pid}")).because(error);
        for &(signal, timeout) in signals {
            // Until `try_wait` has reaped it, the child's pid cannot belong to another process.
            if postmaster.try_wait().map_err(failed)?.is_none() {
                kill_process(Pid::from_child(postmaster), signal).map_err(|error| failed(error.into()))?;
            }
            let deadline = Instant::now() + timeout;
            while Instant::now() < deadline {
                if postmaster.try_wait().map_err(failed)?.is_some() {
                    self.postmaster = None;
                    return Ok(());
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        Err(self.failure("the postmaster does not stop"))
    }

    /// Runs `initdb`.
    fn initialize(&self) -> Result<()> {
        let mut initdb = self.command("initdb");
        initdb.args(["--no-sync", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "-U", "postgres", "-D"]);
        let output = initdb.arg(self.data_directory()).output().map_err(|error| {
            Error::halt(format!("cannot run {}", display(initdb.get_program()))).because(error)
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::halt(format!("initdb ended with {}: {}", output.status, said.trim()))
            .hint("set TMPDIR to a directory that every user may enter and that has 100 MB to spare"))
    }

    /// Writes `postgresql.conf` and `pg_hba.conf`.
    fn configure(&self, builder: &Builder) -> std::io::Result<()> {
        let socket_directory = self.socket_directory().to_string_lossy().into_owned();
        let durability = if builder.is_durable { "on" } else { "off" };
        let defaults = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &socket_directory),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_wal_size", "4GB"),
            ("shared_buffers", "64MB"),
            ("fsync", durability),
            ("full_page_writes", durability),
            // The machine's zone must not decide what a test sees.
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        let chosen = builder.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut conf = OpenOptions::new().append(true).open(self.data_directory().join("postgresql.conf"))?;
        for (name, value) in defaults.into_iter().chain(chosen) {
            writeln!(conf, "{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"))?;
        }

        let trust = [
            "local all all trust",
            "host all all 127.0.0.1/32 trust",
            "local replication all trust",
            "host replication all 127.0.0.1/32 trust",
        ];
        let lines: Vec<&str> = builder.hba.iter().map(String::as_str).chain(trust).collect();
        fs::write(self.data_directory().join("pg_hba.conf"), lines.join("\n") + "\n")
    }

    /// Starts a postmaster and waits until it accepts connections.
    fn launch(&mut self) -> Result<Launch> {
        let cannot = |error| Error::halt("cannot start the server").because(error);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).map_err(cannot)?;
        let log_start = log.metadata().map_err(cannot)?.len();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data_directory()).arg("-p").arg(self.port.to_string());
        command.stdout(log.try_clone().map_err(cannot)?).stderr(log);
        self.postmaster = Some(spawn::spawn(command).map_err(cannot)?);

        let data_directory = self.data_directory();
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            let Some(postmaster) = &mut self.postmaster else { break };
            if let Some(status) = postmaster.try_wait().map_err(cannot)? {
                self.postmaster = None;
                let said = self.log_from(log_start);
                // English, because `initdb --locale` also sets `lc_messages`.
                if said.contains("could not bind") || said.contains("pre-existing shared memory block") {
                    return Ok(Launch::Busy);
                }
                return Err(Error::halt(format!("the server ended with {status}: {}", said.trim())));
            }
            if is_ready(&data_directory, postmaster.id()) {
                return Ok(Launch::Ready);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let error = self.failure("does not accept connections after 30 s");
        self.kill()?;
        Err(error)
    }

    /// A command from the server's binaries: as the server's account, in the cluster's directory, in a process group
    /// of its own so that a Ctrl-C at the terminal reaches only this process, and free of libpq's variables.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.path(program));
        command.current_dir(self.directory()).stdin(Stdio::null()).process_group(0).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    fn failure(&self, what: &str) -> Error {
        Error::halt(format!("Postgres in {}: {what}: {}", self.directory().display(), self.log().trim()))
    }

    fn data_directory(&self) -> PathBuf {
        self.directory().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory().join("log")
    }

    /// What the log holds from a byte on, or only its end where that is long. Empty where it cannot be read.
    fn log_from(&self, start: u64) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.log_path())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing is worth a checkpoint: the directory goes next. What a `Drop` cannot report, the next start mends.
        let _ = self.kill();
        let _ = fs::remove_dir_all(self.directory());
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("directory", &self.directory()).field("port", &self.port).finish()
    }
}

/// Whether the postmaster says in `postmaster.pid` that it accepts connections. `pg_ctl start -w` waits in the same
/// way (`wait_for_postmaster_start`): line 1 is the pid, which tells a crashed predecessor's file, line 8 the status.
fn is_ready(data_directory: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(data_directory.join("postmaster.pid")) else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first().is_some_and(|line| *line == pid.to_string()) && lines.get(7) == Some(&"ready")
}

fn display(program: &OsStr) -> impl std::fmt::Display + '_ {
    Path::new(program).display()
}
