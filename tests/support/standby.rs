//! A streaming standby of a throwaway [`Cluster`], for tests: its own directory and postmaster, both gone with it. Its
//! data directory is copied between the server's own two calls for that, since not every installation brings
//! `pg_basebackup`: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP

#![allow(dead_code, reason = "every test file uses its own part")]

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
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
/// What the running server leaves in these is its own, and a standby makes it anew; the directories must be there.
const EMPTY: [&str; 9] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
    "pgsql_tmp",
];
const LEFT_OUT: [&str; 2] = ["postmaster.pid", "postmaster.opts"];

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
        copy_running(primary, &data, (owner.uid(), owner.gid())).await;

        let mut conf = OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        let socket = directory.path().display();
        // It listens nowhere but in its own directory, so its port collides with nobody's.
        writeln!(
            conf,
            "listen_addresses = ''\nunix_socket_directories = '{socket}'\nsynchronous_standby_names = ''\n\
             primary_conninfo = '{from}'"
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

/// Copies the data directory of a running server as what a standby starts from. The WAL comes by streaming.
async fn copy_running(primary: &Cluster, to: &Path, owner: (u32, u32)) {
    let info = ConnectionInfo::resolve(&primary.url()).unwrap();
    // The backup belongs to this session, and ends with it.
    let client = session::connect(&info, "walcast test").await.unwrap();
    let version = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap();
    let (begin, end) = match version.get::<_, i32>(0) {
        150_000.. => ("pg_backup_start('standby', true)", "pg_backup_stop(false)"),
        _ => ("pg_start_backup('standby', true, false)", "pg_stop_backup(false, false)"),
    };
    client.batch_execute(&format!("SELECT {begin}")).await.unwrap();
    copy(&primary.directory().join("data"), to, owner).unwrap();
    let label = client.query_one(&format!("SELECT labelfile FROM {end}"), &[]).await.unwrap();
    fs::write(to.join("backup_label"), label.get::<_, &str>(0)).unwrap();
    fs::write(to.join("standby.signal"), "").unwrap();
    for file in ["backup_label", "standby.signal"] {
        chown(to.join(file), Some(owner.0), Some(owner.1)).unwrap();
    }
}

/// Copies a directory for another owner. A file that the server removes meanwhile is none of the copy.
fn copy(from: &Path, to: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    chown(to, Some(uid), Some(gid))?;
    if from.file_name().is_some_and(|name| EMPTY.iter().any(|empty| name == *empty)) {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        let copied = match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to, (uid, gid)),
            false if LEFT_OUT.iter().any(|name| entry.file_name() == *name) => Ok(()),
            false => fs::copy(entry.path(), &to).and_then(|_| chown(&to, Some(uid), Some(gid))),
        };
        match copied {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}
