//! A streaming standby of a throwaway [`Cluster`], for tests: its own directory and postmaster, both gone with it.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::Client;
use walcast::app::demo::cluster::Cluster;
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;

const LIMIT: Duration = Duration::from_secs(60);

pub struct Standby {
    postmaster: Child,
    directory: TempDir,
    pub info: ConnectionInfo,
}

impl Standby {
    /// A copy of `primary` that streams from it as `name` and takes read-only sessions.
    pub async fn start(primary: &Cluster, name: &str) -> Standby {
        let owner = fs::metadata(primary.directory()).unwrap();
        let directory = TempDir::with_prefix("walcast-standby-").unwrap();
        chown(directory.path(), Some(owner.uid()), Some(owner.gid())).unwrap();
        let data = directory.path().join("data");
        let command = |program: &str| {
            let mut command = Command::new(primary.program(program));
            command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
            command.uid(owner.uid()).gid(owner.gid()).process_group(0);
            command
        };
        let from = format!(
            "host={} port={} user=postgres application_name={name}",
            primary.socket_directory().display(),
            primary.port()
        );
        let mut copy = command("pg_basebackup");
        copy.args(["--no-sync", "-X", "stream", "-c", "fast", "-R", "-d", &from, "-D"]);
        let output = copy.arg(&data).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let mut conf = OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        let socket = directory.path().display();
        // It listens nowhere but in its own directory, so its port collides with nobody's.
        writeln!(
            conf,
            "listen_addresses = ''\nunix_socket_directories = '{socket}'\nsynchronous_standby_names = ''"
        )
        .unwrap();
        let log = OpenOptions::new().create(true).append(true).open(directory.path().join("log")).unwrap();
        let postmaster =
            command("postgres").arg("-D").arg(&data).arg("-p").arg("5432").stderr(log).spawn().unwrap();
        let host = utf8_percent_encode(&directory.path().to_string_lossy(), NON_ALPHANUMERIC).to_string();
        let info =
            ConnectionInfo::resolve(&format!("postgres://postgres@/postgres?host={host}&port=5432")).unwrap();
        let standby = Standby { postmaster, directory, info };
        let deadline = Instant::now() + LIMIT;
        while let Err(error) = session::connect(&standby.info, "walcast test").await {
            assert!(Instant::now() < deadline, "the standby does not start: {error:?}\n{}", standby.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        standby
    }

    /// Where its socket is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub async fn client(&self) -> Client {
        session::connect(&self.info, "walcast test").await.unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(Path::join(self.directory.path(), "log")).unwrap_or_default()
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.postmaster), Signal::QUIT);
        let _ = self.postmaster.wait();
    }
}
