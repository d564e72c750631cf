//! The engine as a child process: `walcast run` of this same binary. It ends with its [`EngineProcess`], and with this
//! process however that ends.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::cluster::spawn;
use crate::error::{Error, Result};

/// How long an orderly end may take; `shutdown.timeout` is 10 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the child's state is looked at.
const POLL: Duration = Duration::from_millis(5);
/// How much of the engine's log is quoted in errors.
const LOG_TAIL_BYTES: usize = 2_000;

/// A running engine.
pub(super) struct EngineProcess {
    child: Child,
    log: PathBuf,
}

impl EngineProcess {
    /// Starts `walcast run` with the `walcast.toml` in the directory, where it also appends to `engine.log`.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let cannot = |error| Error::halt("cannot start the engine").because(error);
        let log = directory.join("engine.log");
        let output = OpenOptions::new().create(true).append(true).open(&log).map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.args(["run", "--config"]).arg(directory.join("walcast.toml"));
        // The user's environment is about the user's own database. A group of its own: Ctrl-C is for the demo alone,
        // which ends its child itself.
        command.env_clear().current_dir(directory).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(cannot)?).stderr(output);
        let child = spawn::spawn(command).map_err(cannot)?;
        Ok(EngineProcess { child, log })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has held so far, in bytes; `None` where the system does not say.
    pub(super) fn peak_memory_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// # Errors
    /// Where it has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(self.failure(format!("the engine has ended with {status}"))),
        }
    }

    /// Ends it with SIGKILL: it can neither finish nor write anything.
    pub(super) fn kill(mut self) -> Result<()> {
        let failed = |error| Error::halt("cannot kill the engine").because(error);
        self.child.kill().map_err(failed)?;
        self.child.wait().map_err(failed).map(drop)
    }

    /// Ends it with SIGTERM and waits until it is done.
    ///
    /// # Errors
    /// Where it takes too long or says that it failed.
    pub(super) fn stop(mut self) -> Result<()> {
        let failed = |error: rustix::io::Errno| Error::halt("cannot stop the engine").because(error);
        if self.ended()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM).map_err(failed)?;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.failure(format!("the engine has ended with {status}"))),
                None => std::thread::sleep(POLL),
            }
        }
        Err(self.failure(format!("the engine does not end within {STOP_TIMEOUT:?}")))
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|error| Error::halt("cannot look after the engine").because(error))
    }

    /// An error with the end of the engine's log.
    pub(super) fn failure(&self, what: impl std::fmt::Display) -> Error {
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned();
        Error::halt(format!("{what}; its log ends with:\n{}", tail.trim()))
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        // It has no state of its own, and where it has ended already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
