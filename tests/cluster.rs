//! The throwaway cluster against real server binaries: it answers, keeps what was committed over restarts and
//! crashes, and leaves nothing behind however its owner ends.

#[path = "support/holder.rs"]
mod holder;

use holder::runs;
use tokio_postgres::NoTls;
use walcast::app::demo::Cluster;

/// Runs statements in one session and returns the first column of the last row.
fn query(url: &str, sql: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let messages = client.simple_query(sql).await.unwrap();
        messages.iter().rev().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    })
}

#[test]
fn answers_over_the_socket_and_over_tcp() {
    let cluster = Cluster::builder().start().unwrap();
    assert_eq!(query(&cluster.url(), "select 1").as_deref(), Some("1"));
    assert_eq!(query(&cluster.tcp_url(), "select 2").as_deref(), Some("2"));
    assert_eq!(query(&cluster.url(), "show wal_level").as_deref(), Some("logical"));
    assert_eq!(query(&cluster.url(), "show fsync").as_deref(), Some("off"));
    assert_eq!(query(&cluster.url(), "show synchronous_commit").as_deref(), Some("on"));
    assert_eq!(query(&cluster.url(), "show server_encoding").as_deref(), Some("UTF8"));
    assert!(cluster.log().contains("ready to accept connections"));
}

#[test]
fn settings_and_hba_lines_come_before_the_defaults() {
    let cluster = Cluster::builder()
        .setting("max_replication_slots", "7")
        .setting("cluster_name", r"it's a \ name")
        .hba("host all nobody_in 127.0.0.1/32 reject")
        .start()
        .unwrap();
    assert_eq!(query(&cluster.url(), "show max_replication_slots").as_deref(), Some("7"));
    assert_eq!(query(&cluster.url(), "show cluster_name").as_deref(), Some(r"it's a \ name"));
    let first = "select auth_method from pg_hba_file_rules order by line_number limit 1";
    assert_eq!(query(&cluster.url(), first).as_deref(), Some("reject"));
}

#[test]
fn a_wrong_setting_is_reported_with_the_servers_own_words() {
    let error = Cluster::builder().setting("wal_level", "psychological").start().unwrap_err();
    assert!(error.to_string().contains("psychological"), "{error:?}");
}

#[test]
fn a_restart_keeps_data_and_port() {
    let mut cluster = Cluster::builder().start().unwrap();
    let (url, port, pid) = (cluster.url(), cluster.port(), cluster.pid());
    query(&url, "create table t as select 7 as n");
    cluster.restart().unwrap();
    assert_eq!(query(&url, "select n from t").as_deref(), Some("7"));
    assert_eq!(cluster.port(), port);
    assert_ne!(cluster.pid(), pid);
    assert!(!cluster.log().contains("automatic recovery in progress"), "{}", cluster.log());
}

#[test]
fn a_crash_keeps_what_was_committed() {
    for is_durable in [false, true] {
        let mut cluster = Cluster::builder().durable(is_durable).start().unwrap();
        let fsync = if is_durable { "on" } else { "off" };
        assert_eq!(query(&cluster.url(), "show fsync").as_deref(), Some(fsync));
        query(&cluster.url(), "create table t as select generate_series(1, 1000) as n");
        cluster.crash().unwrap();
        assert_eq!(query(&cluster.url(), "select count(*) from t").as_deref(), Some("1000"));
        assert!(cluster.log().contains("automatic recovery in progress"), "{}", cluster.log());
    }
}

#[test]
fn a_stopped_cluster_can_be_started_again() {
    let mut cluster = Cluster::builder().start().unwrap();
    let pid = cluster.pid().unwrap();
    cluster.stop().unwrap();
    cluster.stop().unwrap();
    assert_eq!(cluster.pid(), None);
    assert!(!runs(pid));
    cluster.start().unwrap();
    cluster.start().unwrap();
    assert_eq!(query(&cluster.url(), "select 1").as_deref(), Some("1"));
}

#[test]
fn drop_ends_the_server_and_removes_its_directory() {
    let cluster = Cluster::builder().start().unwrap();
    let (pid, directory) = (cluster.pid().unwrap(), cluster.directory().to_owned());
    assert!(runs(pid) && directory.exists());
    drop(cluster);
    assert!(!runs(pid) && !directory.exists());
}

#[test]
fn a_panic_ends_the_server_and_removes_its_directory() {
    let (tx, rx) = std::sync::mpsc::channel();
    let result = std::panic::catch_unwind(move || {
        let cluster = Cluster::builder().start().unwrap();
        tx.send((cluster.pid().unwrap(), cluster.directory().to_owned())).unwrap();
        panic!("while the cluster runs");
    });
    assert!(result.is_err());
    let (pid, directory) = rx.recv().unwrap();
    assert!(!runs(pid) && !directory.exists());
}

#[test]
fn two_at_once_are_two_systems() {
    let start = || Cluster::builder().start().unwrap();
    let (one, two) = std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(start), scope.spawn(start));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_ne!(one.port(), two.port());
    let identifier = "select system_identifier from pg_control_system()";
    assert_ne!(query(&one.url(), identifier), query(&two.url(), identifier));
}

#[test]
fn the_server_outlives_the_thread_that_started_it() {
    let cluster = std::thread::spawn(|| Cluster::builder().start().unwrap()).join().unwrap();
    assert_eq!(query(&cluster.url(), "select 1").as_deref(), Some("1"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_owner_leaves_no_server_and_the_next_start_removes_the_directory() {
    let directory = holder::killed("holds_a_cluster_for_another_test");
    let cluster = Cluster::builder().start().unwrap();
    assert!(!directory.exists());
    assert!(cluster.directory().exists());
}

/// No test of its own: it is run in a second process, which holds a cluster until it is killed.
#[test]
fn holds_a_cluster_for_another_test() {
    if holder::is_meant() {
        let cluster = Cluster::builder().start().unwrap();
        holder::hold(cluster.pid().unwrap(), cluster.directory());
    }
}
