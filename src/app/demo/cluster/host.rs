//! What a throwaway cluster needs from its machine: server binaries, an account that may run them, a directory, a
//! free port; and the removal of what dead processes left.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, geteuid, test_kill_process};
use tempfile::TempDir;

use crate::error::{Error, Result};

/// Names the directory of the server binaries to use instead of the newest ones found.
const BINARIES_VARIABLE: &str = "WALCAST_PG_BIN";
/// Where Debian and Ubuntu put server binaries, per major version, outside the PATH.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";
/// Every directory of a throwaway server is called this, what serves from it, a dash, the creator's pid, a dash and
/// something random.
const DIRECTORY_PREFIX: &str = "walcast-";
/// What serves from such directories: Postgres and workerd.
const KINDS: [&str; 2] = ["pg", "d1"];
/// `sun_path` takes 108 bytes (104 on BSD), of which `/.s.PGSQL.65535` and its `.lock` file's suffix need 20.
const DIRECTORY_LENGTH_MAX: usize = 80;
/// Below the ports that the kernel gives to outgoing connections, so that a restart finds its port free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How many ports are tried; only a very busy machine needs a second one.
const PORT_PROBES_MAX: usize = 100;

/// A directory with `initdb` and `postgres` in it.
#[derive(Debug)]
pub(super) struct Binaries(PathBuf);

impl Binaries {
    /// The binaries in `WALCAST_PG_BIN`, else the newest of Debian's, else those in the PATH.
    pub(super) fn find() -> Result<Self> {
        if let Some(directory) = std::env::var_os(BINARIES_VARIABLE) {
            let directory = PathBuf::from(directory);
            return Self::at(&directory).ok_or_else(|| {
                let place = directory.display();
                Error::config(format!("{BINARIES_VARIABLE} is {place}, which lacks initdb or postgres"))
                    .hint("unset it, or name a directory such as /usr/lib/postgresql/17/bin")
            });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        newest_of(Path::new(DEBIAN_VERSIONS))
            .or_else(|| std::env::split_paths(&path).find_map(|directory| Self::at(&directory)))
            .ok_or_else(|| {
                Error::config("found no Postgres server binaries").hint("apt-get install postgresql")
            })
    }

    /// The path of one program.
    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }

    fn at(directory: &Path) -> Option<Self> {
        // A link in the PATH may stand alone; the programs it belongs to are where it leads.
        let initdb = fs::canonicalize(directory.join("initdb")).ok()?;
        let directory = initdb.parent()?;
        directory.join("postgres").is_file().then(|| Binaries(directory.to_path_buf()))
    }
}

/// The binaries in the `<version>/bin` with the highest version, compared as numbers: 9.6 < 10 < 17.
fn newest_of(versions: &Path) -> Option<Binaries> {
    let version = |path: &Path| -> Option<Vec<u32>> {
        path.file_name()?.to_str()?.split('.').map(|part| part.parse().ok()).collect()
    };
    let mut found: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(versions)
        .ok()?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter_map(|path| Some((version(&path)?, path)))
        .collect();
    found.sort();
    found.into_iter().rev().find_map(|(_, path)| Binaries::at(&path.join("bin")))
}

/// Whom the server runs as.
#[derive(Debug)]
pub(in crate::app::demo) struct Account {
    /// The user id.
    pub(super) uid: u32,
    /// The group id.
    pub(super) gid: u32,
}

impl Account {
    /// The account to change to: none for an ordinary user, and for root, whom Postgres refuses to run as, that of
    /// `postgres` or else `nobody`.
    pub(super) fn for_server() -> Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd")
            .map_err(|error| Error::halt("cannot read /etc/passwd").because(error))?;
        ["postgres", "nobody"].iter().find_map(|name| Self::in_passwd(&passwd, name)).map(Some).ok_or_else(
            || {
                Error::halt("Postgres does not run as root, and there is no user postgres or nobody")
                    .hint("run this as an ordinary user")
            },
        )
    }

    fn in_passwd(passwd: &str, name: &str) -> Option<Self> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2).map(str::parse);
        Some(Account { uid: ids.next()?.ok()?, gid: ids.next()?.ok()? })
    }
}

/// Makes a directory for a server of one of the kinds, which only the server's account may enter, and locks it for as
/// long as the returned file is open.
pub(in crate::app::demo) fn make_directory(kind: &str, account: Option<&Account>) -> Result<(TempDir, File)> {
    debug_assert!(KINDS.contains(&kind), "{kind} would never be removed");
    let make = || -> std::io::Result<(TempDir, File)> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{DIRECTORY_PREFIX}{kind}-{}-", std::process::id()))
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent_directory())?;
        let lock = File::open(directory.path())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        if let Some(account) = account {
            chown(directory.path(), Some(account.uid), Some(account.gid))?;
        }
        Ok((directory, lock))
    };
    make().map_err(|error| {
        Error::halt(format!("cannot make a directory in {}", parent_directory().display())).because(error)
    })
}

/// Removes the directories of processes that did not come to it themselves. A directory is left where its creator's
/// pid is in use, or where somebody holds its lock: a pid says nothing about a process in another container. A
/// Postgres that still ran there ends by itself when it misses its `postmaster.pid`.
pub(in crate::app::demo) fn remove_stale_directories() {
    let Ok(entries) = fs::read_dir(parent_directory()) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let is_dead =
            creator(&path).is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
        if is_dead && !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            let Ok(lock) = File::open(&path) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // It may be another user's, or go at this moment through another process: either is no loss.
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

/// The pid in the name of a throwaway server's directory.
fn creator(path: &Path) -> Option<Pid> {
    let name = path.file_name()?.to_str()?.strip_prefix(DIRECTORY_PREFIX)?;
    let mut parts = name.splitn(3, '-');
    KINDS.contains(&parts.next()?).then_some(())?;
    let (pid, _random) = (parts.next()?, parts.next()?);
    pid.parse().ok().and_then(Pid::from_raw)
}

/// Where directories are made: the usual place, unless the path of a socket in it would be too long.
fn parent_directory() -> PathBuf {
    let usual = std::env::temp_dir();
    let name_length = DIRECTORY_PREFIX.len() + "/pg-4194304-abcdef".len();
    if usual.as_os_str().len() + name_length <= DIRECTORY_LENGTH_MAX { usual } else { PathBuf::from("/tmp") }
}

/// A TCP port that was free on 127.0.0.1 at the time of asking.
pub(in crate::app::demo) fn free_port() -> Result<u16> {
    (0..PORT_PROBES_MAX)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| Error::transient(format!("found no free TCP port in {PORTS:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_chosen_by_number() {
        let versions = tempfile::tempdir().unwrap();
        for version in ["9.6", "10", "17", "18", "notes"] {
            fs::create_dir_all(versions.path().join(version).join("bin")).unwrap();
        }
        // 18 has no server: only a client package is installed.
        for version in ["9.6", "10", "17"] {
            for program in ["initdb", "postgres"] {
                fs::write(versions.path().join(version).join("bin").join(program), "").unwrap();
            }
        }
        let binaries = newest_of(versions.path()).unwrap();
        assert_eq!(
            binaries.path("initdb").parent(),
            Some(&*versions.path().join("17/bin").canonicalize().unwrap())
        );
    }

    #[test]
    fn an_account_is_read_by_its_whole_name() {
        let passwd = "postgresql:x:7:8::/:/bin/sh\npostgres:x:101:104:a,,,:/var/lib:/bin/bash\n";
        let account = Account::in_passwd(passwd, "postgres").unwrap();
        assert_eq!((account.uid, account.gid), (101, 104));
        assert!(Account::in_passwd(passwd, "nobody").is_none());
    }

    #[test]
    fn only_a_throwaway_servers_directory_names_its_creator() {
        assert_eq!(creator(Path::new("/tmp/walcast-pg-42-Ab3dEf")), Pid::from_raw(42));
        assert_eq!(creator(Path::new("/tmp/walcast-d1-42-Ab3dEf")), Pid::from_raw(42));
        assert_eq!(creator(Path::new("/tmp/walcast-pg-notes")), None);
        assert_eq!(creator(Path::new("/tmp/walcast-demo-42-Ab3dEf")), None);
        assert_eq!(creator(Path::new("/tmp/other-42-Ab3dEf")), None);
        assert_eq!(creator(Path::new("/tmp/walcast-pg-0-Ab3dEf")), None);
    }
}
