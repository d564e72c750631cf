//! Both kinds of session against a real server: every authentication and encryption that a deployment is likely to
//! use, and the refusals an operator is likely to meet.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use walcast::app::demo::cluster::Cluster;
use walcast::error::{Error, Kind, Result};
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;
use walcast::postgres::sqlstate::sqlstate;
use walcast::postgres::wire::{ReplicationSession, Socket};

/// The name in the server's certificate, beside the address 127.0.0.1.
const SERVER_NAME: &str = "db.test";

struct Server {
    cluster: Cluster,
    files: tempfile::TempDir,
}

impl Server {
    /// A server with TLS, a role for each way to log in, and the certificates for both sides.
    fn start() -> Server {
        let mut builder =
            Cluster::builder().setting("wal_level", "logical").setting("max_replication_slots", "5");
        for line in [
            "host    all scram  127.0.0.1/32 scram-sha-256",
            "host    all md5    127.0.0.1/32 md5",
            "host    all clear  127.0.0.1/32 password",
            "hostssl all secret 127.0.0.1/32 scram-sha-256",
            "hostnossl all open 127.0.0.1/32 scram-sha-256",
            "hostssl all cert   127.0.0.1/32 trust clientcert=verify-full",
            "host    all cert   127.0.0.1/32 reject",
            "host    all open   127.0.0.1/32 reject",
            "host    all secret 127.0.0.1/32 reject",
        ] {
            builder = builder.hba(line);
        }
        let server = Server { cluster: builder.start().unwrap(), files: tempfile::tempdir().unwrap() };
        server.make_certificates();
        server
    }

    /// Certificates where the server, which may run as another user, reads its own.
    fn make_certificates(&self) {
        fs::set_permissions(self.files.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let authority = authority("walcast test authority");
        self.write("root.crt", &authority.0.pem());
        self.write("other-root.crt", &self::authority("another authority").0.pem());
        let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
        self.issue("server", CertificateParams::new(names).unwrap(), &authority.1);
        let mut client = CertificateParams::new(Vec::new()).unwrap();
        client.distinguished_name.push(DnType::CommonName, "cert");
        self.issue("client", client, &authority.1);
    }

    fn issue(&self, name: &str, mut params: CertificateParams, issuer: &Issuer<'_, KeyPair>) {
        if name == "server" {
            params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        }
        let key = KeyPair::generate().unwrap();
        self.write(&format!("{name}.crt"), &params.signed_by(&key, issuer).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        fs::write(&path, text).unwrap();
        if name.ends_with(".key") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let owner = fs::metadata(self.cluster.directory()).unwrap();
        if name.starts_with("server") && owner.uid() != fs::metadata(&path).unwrap().uid() {
            chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Creates the roles and turns TLS on.
    async fn prepare(&self) {
        let admin = session::connect(&self.superuser(), "test").await.unwrap();
        let tls =
            [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key"), ("ssl_ca_file", "root.crt")];
        for (setting, file) in tls {
            let file = self.file(file);
            admin.simple_query(&format!("alter system set {setting} = '{}'", file.display())).await.unwrap();
        }
        for role in ["scram", "secret", "open", "clear", "cert"] {
            admin
                .simple_query(&format!("create role {role} login replication password 'word'"))
                .await
                .unwrap();
        }
        admin
            .batch_execute(
                "set password_encryption = 'md5'; create role md5 login replication password 'word'; \
                 reset password_encryption; create role plain login password 'word';",
            )
            .await
            .unwrap();
        admin.simple_query("alter system set ssl = on").await.unwrap();
        admin.simple_query("select pg_reload_conf()").await.unwrap();
        // The postmaster takes the new settings up in its own time; only connections show that it has.
        let info = self.tcp("scram", "sslmode=require");
        let reloaded = async {
            while let Err(error) = session::connect(&info, "test").await {
                assert!(error.to_string().contains("does not offer TLS"), "{error:?}");
            }
        };
        within(reloaded).await;
    }

    fn superuser(&self) -> ConnectionInfo {
        info(&self.cluster.url())
    }

    /// Over TCP to the name in the certificate.
    fn tcp(&self, user: &str, more: &str) -> ConnectionInfo {
        let port = self.cluster.port();
        info(&format!(
            "host={SERVER_NAME} hostaddr=127.0.0.1 port={port} user={user} password=word dbname=postgres {more}"
        ))
    }

    fn tls(&self, user: &str, mode: &str, more: &str) -> ConnectionInfo {
        let root = self.file("root.crt");
        self.tcp(user, &format!("sslmode={mode} sslrootcert={} {more}", root.display()))
    }
}

fn authority(name: &str) -> (Certificate, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), Issuer::new(params, key))
}

/// Nothing of this machine's environment but the text.
fn info(text: &str) -> ConnectionInfo {
    ConnectionInfo::resolve_with(text, &|_| None).unwrap()
}

/// Bounds what asks the server again until it is so.
async fn within<T>(done: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), done).await.expect("it should be done within 20 s")
}

/// Connects both kinds of session, and says whether they are encrypted, which must be the same for both.
async fn is_encrypted(info: &ConnectionInfo) -> Result<bool> {
    const QUERY: &str = "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()";
    let client = session::connect(info, "test").await?;
    let sql: String = client.query_one(QUERY, &[]).await.unwrap().get(0);
    let mut replication = ReplicationSession::connect(info, "test").await?;
    let rows = replication.simple_query(QUERY).await?;
    assert_eq!(rows, [[Some(sql.clone())]]);
    replication.close().await;
    Ok(sql == "true")
}

/// The error of connecting, of which both kinds of session must make the same.
async fn refusal(info: &ConnectionInfo) -> Error {
    let sql = session::connect(info, "test").await.expect_err("should be refused");
    let replication = ReplicationSession::connect(info, "test").await.expect_err("should be refused");
    assert_eq!(sql.kind(), replication.kind(), "{sql:?} and {replication:?}");
    assert_eq!(sqlstate(&sql), sqlstate(&replication));
    sql
}

#[tokio::test]
async fn both_kinds_of_session_log_in_in_every_usual_way() {
    let server = Server::start();
    server.prepare().await;

    assert!(!is_encrypted(&server.superuser()).await.unwrap(), "unix socket");
    for user in ["scram", "md5", "clear"] {
        assert!(!is_encrypted(&server.tcp(user, "sslmode=disable")).await.unwrap(), "{user}");
        assert!(is_encrypted(&server.tcp(user, "sslmode=require")).await.unwrap(), "{user}");
        let error = refusal(&server.tcp(user, "password=wrong")).await;
        assert_eq!((error.kind(), sqlstate(&error)), (Kind::Halt, Some("28P01")), "{error:?}");
        let mut without = server.tcp(user, "");
        without.servers[0].password = None;
        let error = refusal(&without).await;
        assert!(error.hint_text().unwrap().contains("PGPASSWORD"), "{error:?}");
    }

    // SCRAM-SHA-256-PLUS, which TLS alone makes possible.
    for mode in ["require", "verify-ca", "verify-full"] {
        assert!(is_encrypted(&server.tls("scram", mode, "channel_binding=require")).await.unwrap(), "{mode}");
    }
    assert!(is_encrypted(&server.tls("scram", "require", "channel_binding=disable")).await.unwrap());
    let tls12 = "channel_binding=require ssl_max_protocol_version=TLSv1.2";
    assert!(is_encrypted(&server.tls("scram", "verify-full", tls12)).await.unwrap());
    for (user, more) in [("scram", "sslmode=disable"), ("md5", "sslmode=require")] {
        let error = refusal(&server.tcp(user, &format!("{more} channel_binding=require"))).await;
        assert_eq!(error.kind(), Kind::Halt);
        assert!(error.hint_text().unwrap().contains("channel_binding=prefer"), "{error:?}");
    }

    // prefer and allow take the other encryption where pg_hba.conf refuses the first.
    assert!(is_encrypted(&server.tcp("scram", "sslmode=prefer")).await.unwrap());
    assert!(!is_encrypted(&server.tcp("open", "sslmode=prefer")).await.unwrap());
    assert!(!is_encrypted(&server.tcp("scram", "sslmode=allow")).await.unwrap());
    assert!(is_encrypted(&server.tcp("secret", "sslmode=allow")).await.unwrap());
    let error = refusal(&server.tcp("secret", "sslmode=disable")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (Kind::Halt, Some("28000")), "{error:?}");
    assert!(error.hint_text().unwrap().contains("pg_hba"), "{error:?}");
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides_as_sslmode_says() {
    let server = Server::start();
    server.prepare().await;
    let port = server.cluster.port();
    let root = server.file("root.crt");
    let to = |host: &str, mode: &str, root: &Path| {
        info(&format!(
            "host={host} hostaddr=127.0.0.1 port={port} user=scram password=word dbname=postgres \
             sslmode={mode} sslrootcert={}",
            root.display()
        ))
    };

    assert!(is_encrypted(&to(SERVER_NAME, "verify-full", &root)).await.unwrap());
    assert!(is_encrypted(&to("127.0.0.1", "verify-full", &root)).await.unwrap(), "an address, too");
    assert!(is_encrypted(&to("other.test", "verify-ca", &root)).await.unwrap());
    let error = refusal(&to("other.test", "verify-full", &root)).await;
    assert_eq!(error.kind(), Kind::Halt);
    assert!(error.hint_text().unwrap().contains("subjectAltName"), "{error:?}");

    let other = server.file("other-root.crt");
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refusal(&to(SERVER_NAME, mode, &other)).await;
        assert_eq!(error.kind(), Kind::Halt, "{mode}");
        assert!(error.hint_text().unwrap().contains("sslrootcert"), "{error:?}");
    }
    assert!(!is_encrypted(&to(SERVER_NAME, "prefer", &other)).await.unwrap(), "as libpq: plain, then");

    let (certificate, key) = (server.file("client.crt"), server.file("client.key"));
    let pair = format!("sslcert={} sslkey={}", certificate.display(), key.display());
    assert!(is_encrypted(&server.tls("cert", "verify-full", &pair)).await.unwrap());
    let error = refusal(&server.tls("cert", "verify-full", "")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (Kind::Halt, Some("28000")), "{error:?}");
    let unfit = format!("sslcert={} sslkey={}", certificate.display(), server.file("server.key").display());
    assert_eq!(refusal(&server.tls("cert", "verify-full", &unfit)).await.kind(), Kind::Config);
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_its_own_root() {
    let server = Server::start();
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    server.write("server.crt", &params.self_signed(&key).unwrap().pem());
    server.write("server.key", &key.serialize_pem());
    server.prepare().await;

    let root = server.file("server.crt");
    let with = |host: &str, mode: &str| {
        let port = server.cluster.port();
        info(&format!(
            "host={host} hostaddr=127.0.0.1 port={port} user=scram password=word dbname=postgres \
             sslmode={mode} sslrootcert={} channel_binding=require",
            root.display()
        ))
    };
    assert!(is_encrypted(&with(SERVER_NAME, "verify-full")).await.unwrap());
    assert!(is_encrypted(&with("other.test", "verify-ca")).await.unwrap());
    assert_eq!(refusal(&with("other.test", "verify-full")).await.kind(), Kind::Halt);
    assert_eq!(refusal(&server.tls("scram", "verify-ca", "")).await.kind(), Kind::Halt, "another root");
}

#[tokio::test]
async fn a_server_without_tls_gets_plain_sessions_only_from_modes_that_allow_them() {
    let cluster = Cluster::builder().start().unwrap();
    let to = |mode: &str| info(&format!("{}?sslmode={mode}", cluster.tcp_url()));
    for mode in ["disable", "allow", "prefer"] {
        assert!(!is_encrypted(&to(mode)).await.unwrap(), "{mode}");
    }
    let error = refusal(&to("require")).await;
    assert_eq!(error.kind(), Kind::Halt);
    assert!(error.to_string().contains("does not offer TLS"), "{error:?}");
}

#[tokio::test]
async fn what_is_refused_and_what_may_pass_are_told_apart() {
    let cluster = Cluster::builder().start().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = cluster.port();
    let base = "user=postgres dbname=postgres connect_timeout=1";

    let error = refusal(&info(&format!("host=127.0.0.1 port={closed} {base}"))).await;
    assert_eq!(error.kind(), Kind::Transient, "{error:?}");
    let silent_port = silent.local_addr().unwrap().port();
    let error = refusal(&info(&format!("host=127.0.0.1 port={silent_port} {base}"))).await;
    assert_eq!(error.kind(), Kind::Transient, "{error:?}");
    assert!(error.to_string().contains("no answer within 1 s"), "{error:?}");
    let error = refusal(&info("host=/nonexistent user=u")).await;
    assert_eq!(error.kind(), Kind::Transient, "{error:?}");

    let error = refusal(&info(&format!("host=127.0.0.1 port={port} user=postgres dbname=absent"))).await;
    assert_eq!((error.kind(), sqlstate(&error)), (Kind::Halt, Some("3D000")), "{error:?}");
    let error =
        refusal(&info(&format!("host=127.0.0.1 port={port} {base} target_session_attrs=standby"))).await;
    assert_eq!(error.kind(), Kind::Transient, "a failover may make it one: {error:?}");
    for attrs in ["primary", "read-write"] {
        let hosts = format!("host=127.0.0.1,127.0.0.1 port={closed},{port} target_session_attrs={attrs}");
        assert!(!is_encrypted(&info(&format!("{hosts} {base}"))).await.unwrap(), "the second host is taken");
    }
}

#[tokio::test]
async fn the_same_settings_are_pinned_in_both_kinds_of_session() {
    let cluster = Cluster::builder().start().unwrap();
    let url = format!("{}&options=-c%20datestyle%3Dgerman%20-c%20work_mem%3D123kB", cluster.url());
    let admin = session::connect(&info(&url), "test").await.unwrap();
    admin.batch_execute("alter role postgres set timezone = 'Asia/Tokyo'").await.unwrap();
    let client = session::connect(&info(&url), "an application").await.unwrap();
    let mut replication = ReplicationSession::connect(&info(&url), "an application").await.unwrap();
    for (setting, expected) in [
        ("datestyle", "ISO, DMY"),
        ("intervalstyle", "iso_8601"),
        ("extra_float_digits", "3"),
        ("timezone", "UTC"),
        ("bytea_output", "hex"),
        ("client_encoding", "UTF8"),
        ("work_mem", "123kB"),
        ("application_name", "an application"),
    ] {
        let show = format!("show {setting}");
        let sql: String = client.query_one(&show, &[]).await.unwrap().get(0);
        assert_eq!(sql, expected, "{setting}");
        assert_eq!(replication.simple_query(&show).await.unwrap(), [[Some(sql)]], "{setting}");
    }
}

#[tokio::test]
async fn a_replication_session_creates_a_slot_and_gives_its_socket_to_the_stream() {
    let server = Server::start();
    server.prepare().await;
    let admin = session::connect(&server.superuser(), "test").await.unwrap();
    admin
        .batch_execute("create table t (id int primary key); create publication p for table t")
        .await
        .unwrap();
    let start = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')";
    let connections = [
        ("TLS", server.tls("secret", "verify-full", "channel_binding=require")),
        ("TCP", server.tcp("scram", "sslmode=disable")),
        ("unix", server.superuser()),
    ];
    for (expected, connection) in &connections {
        let mut session = ReplicationSession::connect(connection, "test").await.unwrap();
        let system = session.simple_query("IDENTIFY_SYSTEM").await.unwrap();
        assert_eq!((system.len(), system[0][3].as_deref()), (1, Some("postgres")));
        let slot = session.simple_query("CREATE_REPLICATION_SLOT s LOGICAL pgoutput NOEXPORT_SNAPSHOT").await;
        assert_eq!(slot.unwrap()[0][0].as_deref(), Some("s"));
        let error = session.simple_query("CREATE_REPLICATION_SLOT s LOGICAL pgoutput").await.unwrap_err();
        assert_eq!((error.kind(), sqlstate(&error)), (Kind::Halt, Some("42710")), "{error:?}");

        let pid = session.backend_pid();
        let (socket, rest) = session.start_copy_both(start).await.unwrap();
        let transport = match &socket {
            Socket::Tcp(_) => "TCP",
            Socket::Tls(_) => "TLS",
            Socket::Unix(_) => "unix",
        };
        assert_eq!(transport, *expected);
        let other = ReplicationSession::connect(connection, "test").await.unwrap();
        let error = other.start_copy_both(start).await.unwrap_err();
        assert_eq!((error.kind(), sqlstate(&error)), (Kind::Transient, Some("55006")), "{error:?}");
        assert!(error.to_string().contains(&format!("is active for PID {pid}")), "{error:?}");

        admin.batch_execute("truncate t; insert into t values (42)").await.unwrap();
        let stream = read_until(socket, rest.to_vec(), b"42").await;
        assert_eq!(stream[0], b'd', "the stream is made of CopyData messages");
        // The walsender lets go of the slot when it sees that its client is gone.
        let dropped = async {
            while let Err(error) = admin.batch_execute("select pg_drop_replication_slot('s')").await {
                assert_eq!(error.code().map(|code| code.code()), Some("55006"));
            }
        };
        within(dropped).await;
        let session = ReplicationSession::connect(connection, "test").await.unwrap();
        let error = session.start_copy_both(start).await.unwrap_err();
        assert_eq!((error.kind(), sqlstate(&error)), (Kind::NeedsBackfill, Some("42704")), "{error:?}");
        assert!(error.hint_text().unwrap().contains("pg_replication_slots"));
    }
}

async fn read_until(mut socket: Socket, mut bytes: Vec<u8>, wanted: &[u8]) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let read = async {
        while !bytes.windows(wanted.len()).any(|window| window == wanted) {
            assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0, "the stream ended");
        }
    };
    within(read).await;
    bytes
}

#[tokio::test]
async fn a_blocked_slot_creation_can_be_cancelled_and_the_session_goes_on() {
    let server = Server::start();
    server.prepare().await;
    let blocker = session::connect(&server.superuser(), "test").await.unwrap();
    blocker.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    for connection in [server.superuser(), server.tls("secret", "verify-full", "")] {
        let mut session = ReplicationSession::connect(&connection, "test").await.unwrap();
        let key = session.cancel_key();
        let cancel = async {
            let query = format!(
                "select count(*) from pg_replication_slots where slot_name = 's' and active_pid = {}",
                key.backend_pid()
            );
            while blocker.query_one(&query, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
            key.cancel(&connection).await.unwrap();
        };
        let create = session.simple_query("CREATE_REPLICATION_SLOT s LOGICAL pgoutput");
        let (created, ()) = within(async { tokio::join!(create, cancel) }).await;
        let error = created.unwrap_err();
        assert_eq!((error.kind(), sqlstate(&error)), (Kind::Transient, Some("57014")), "{error:?}");
        assert_eq!(session.simple_query("IDENTIFY_SYSTEM").await.unwrap().len(), 1);
    }
    let left = blocker.query_one("select count(*) from pg_replication_slots", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_role_without_the_replication_attribute_is_told_so() {
    let server = Server::start();
    server.prepare().await;
    let error = ReplicationSession::connect(&server.tcp("plain", ""), "test").await.unwrap_err();
    assert_eq!((error.kind(), sqlstate(&error)), (Kind::Halt, Some("42501")), "{error:?}");
    assert!(error.hint_text().unwrap().contains("replication"), "{error:?}");
}

#[tokio::test]
async fn sessions_can_be_opened_from_spawned_tasks() {
    let cluster = Cluster::builder().start().unwrap();
    let (sql, replication) = (info(&cluster.url()), info(&cluster.url()));
    let sql = tokio::spawn(async move { session::connect(&sql, "test").await.map(drop) });
    let replication = tokio::spawn(async move {
        let mut session = ReplicationSession::connect(&replication, "test").await?;
        session.cancel_key().cancel(&replication).await?;
        session.simple_query("IDENTIFY_SYSTEM").await.map(drop)
    });
    sql.await.unwrap().unwrap();
    replication.await.unwrap().unwrap();
}
