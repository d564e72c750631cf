//! Starts processes that end with this one. A command enters, its child leaves.
//!
//! The kernel sends a parent-death signal when the *thread* that forked ends (`PR_SET_PDEATHSIG`, prctl(2)), and the
//! threads of tests end early. So one thread that lives as long as the process does all the forking.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};

type Request = (Command, SyncSender<io::Result<Child>>);

/// Spawns the command. On Linux its process gets SIGQUIT, Postgres's immediate shutdown, when this process ends in
/// whatever way; elsewhere only an orderly end stops it.
pub(in crate::app::demo) fn spawn(mut command: Command) -> io::Result<Child> {
    end_with_parent(&mut command);
    let gone = || io::Error::other("the spawning thread has ended");
    let (tx, rx) = sync_channel(1);
    spawner().send((command, tx)).map_err(|_| gone())?;
    rx.recv().map_err(|_| gone())?
}

fn spawner() -> &'static Sender<Request> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (tx, rx) = channel::<Request>();
        let run = move || {
            for (mut command, tx) in rx {
                // Whoever asked is waiting; where not, `Cluster` is gone and the child has nobody to serve.
                let _ = tx.send(command.spawn());
            }
        };
        // Without the thread the receiver is dropped, and every send reports it.
        let _ = std::thread::Builder::new().name("walcast-spawn".into()).spawn(run);
        tx
    })
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "only between fork and exec can a child ask for the signal itself")]
fn end_with_parent(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt;

    let parent = getpid();
    let ask = move || {
        set_parent_process_death_signal(Some(Signal::QUIT))?;
        // Had the parent ended just before, the signal would never come.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes two system calls and
    // neither allocates nor locks. It runs after the change of user, which would reset the signal.
    unsafe {
        command.pre_exec(ask);
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut Command) {}
