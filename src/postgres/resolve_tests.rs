//! How connection strings, environments, files and defaults come together.

use std::os::unix::fs::PermissionsExt;

use secrecy::ExposeSecret;

use super::*;
use crate::error::Kind;

fn resolve(text: &str, environment: &[(&str, &str)]) -> Result<ConnectionInfo> {
    ConnectionInfo::resolve_with(text, &|wanted| {
        environment.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_string())
    })
}

fn shown(text: &str, environment: &[(&str, &str)]) -> String {
    resolve(text, environment).unwrap().to_string()
}

fn password(info: &ConnectionInfo) -> Option<&str> {
    info.servers[0].password.as_ref().map(|password| password.expose_secret())
}

#[test]
fn the_string_goes_before_the_environment_and_that_before_the_defaults() {
    let environment = [
        ("USER", "os"),
        ("PGUSER", "env"),
        ("PGHOST", "env.host"),
        ("PGPORT", "1111"),
        ("PGDATABASE", "envdb"),
        ("PGPASSWORD", "envpass"),
    ];
    assert_eq!(shown("", &environment), "env@env.host:1111/envdb");
    assert_eq!(shown("host=h dbname=d", &environment), "env@h:1111/d");
    assert_eq!(shown("postgres://u:p@h:2/d", &environment), "u@h:2/d");
    assert_eq!(password(&resolve("", &environment).unwrap()), Some("envpass"));
    assert_eq!(password(&resolve("password=own", &environment).unwrap()), Some("own"));
    assert_eq!(shown("host=h", &[("USER", "os")]), "os@h:5432/os");
    assert_eq!(shown("host=h", &[("LOGNAME", "log")]), "log@h:5432/log");
    assert_eq!(shown("host=h user=u", &[]), "u@h:5432/u", "the database is named like the user");
    let error = resolve("host=h", &[]).unwrap_err();
    assert!(error.to_string().contains("no user"), "{error:?}");
}

#[test]
fn hosts_addresses_and_ports_form_one_list() {
    let user = [("USER", "u")];
    let table = [
        ("postgres://a:1,b,[::1]:3/d", "u@a:1,b:5432,[::1]:3/d"),
        ("host=a,b port=7 dbname=d", "u@a:7,b:7/d"),
        ("host=/run/pg port=6 dbname=d", "u@/run/pg:6/d"),
        ("postgres:///d?host=/run/pg", "u@/run/pg:5432/d"),
        ("hostaddr=10.0.0.1 dbname=d", "u@10.0.0.1:5432/d"),
        ("host=a hostaddr=10.0.0.1 dbname=d", "u@a:5432/d"),
    ];
    for (text, expected) in table {
        assert_eq!(shown(text, &user), expected, "{text}");
    }
    let info = resolve("host=a hostaddr=10.0.0.1", &user).unwrap();
    let address = Some("10.0.0.1".parse().unwrap());
    assert_eq!(info.servers[0].host, Host::Tcp { name: "a".to_owned(), address });
    for text in ["host=a,b port=1,2,3", "host=a,b hostaddr=10.0.0.1", "host=a hostaddr=nowhere"] {
        assert_eq!(resolve(text, &user).unwrap_err().kind(), Kind::Config, "{text}");
    }
}

#[test]
fn without_a_host_the_default_socket_or_localhost_is_meant() {
    let info = resolve("", &[("USER", "u")]).unwrap();
    match &info.servers[0].host {
        Host::Unix(path) => assert_eq!(path, Path::new(SOCKET_DIRECTORY)),
        Host::Tcp { name, .. } => assert_eq!(name, "localhost"),
    }
}

#[test]
fn values_out_of_range_are_refused_without_repeating_them() {
    for text in [
        "port=s3cret",
        "port=0",
        "port=65536",
        "sslmode=s3cret",
        "connect_timeout=s3cret",
        "channel_binding=s3cret",
        "target_session_attrs=prefer-standby",
        "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
        "sslnegotiation=direct",
        "sslrootcert=system sslmode=require",
        "host=@abstract",
    ] {
        let error = resolve(&format!("user=u {text}"), &[]).expect_err(text);
        assert_eq!(error.kind(), Kind::Config, "{text}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
    let error = resolve("user=u", &[("PGSERVICE", "x")]).unwrap_err();
    assert!(error.to_string().contains("PGSERVICE"), "{error:?}");
}

#[test]
fn the_environment_sets_tls_timeouts_and_options() {
    let info = resolve(
        "user=u host=h",
        &[
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/root.crt"),
            ("PGSSLCERT", "/c.crt"),
            ("PGSSLKEY", "/c.key"),
            ("PGCONNECT_TIMEOUT", "3"),
            ("PGAPPNAME", "app"),
            ("PGOPTIONS", "-c datestyle=german -c work_mem=1MB"),
            ("PGCHANNELBINDING", "require"),
            ("PGTARGETSESSIONATTRS", "read-write"),
        ],
    )
    .unwrap();
    assert_eq!(info.ssl_mode, SslMode::VerifyFull);
    assert_eq!(info.root_certificates, RootCertificates::File("/root.crt".into()));
    assert_eq!(info.client_certificate, Some(("/c.crt".into(), "/c.key".into())));
    assert_eq!(info.connect_timeout, Duration::from_secs(3));
    assert_eq!(info.application_name.as_deref(), Some("app"));
    assert!(
        info.options.starts_with("-c datestyle=german -c work_mem=1MB -c datestyle=ISO"),
        "the last wins"
    );
    assert_eq!(info.channel_binding, ChannelBinding::Require);
    assert_eq!(info.target_session_attrs, TargetSessionAttrs::ReadWrite);
}

#[test]
fn the_defaults_are_those_of_libpq_and_a_timeout() {
    let info = resolve("user=u host=h", &[]).unwrap();
    assert_eq!(info.ssl_mode, SslMode::Prefer);
    assert_eq!(info.root_certificates, RootCertificates::None);
    assert_eq!(info.client_certificate, None);
    assert_eq!(info.connect_timeout, CONNECT_TIMEOUT_DEFAULT);
    assert_eq!(info.options, PINNED_OPTIONS);
    assert!(info.keepalive.is_enabled && info.has_sni && !info.is_tls_direct);
    let info = resolve("user=u connect_timeout=0 keepalives=0 sslrootcert=system", &[]).unwrap();
    assert_eq!(info.connect_timeout, CONNECT_TIMEOUT_DEFAULT, "no limit is no option");
    assert!(!info.keepalive.is_enabled);
    assert_eq!(info.ssl_mode, SslMode::VerifyFull);
}

#[test]
fn personal_files_are_used_where_they_exist() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_str().unwrap();
    let environment = [("HOME", path), ("USER", "u")];
    std::fs::create_dir(home.path().join(".postgresql")).unwrap();
    assert_eq!(resolve("host=h", &environment).unwrap().root_certificates, RootCertificates::None);
    for name in ["root.crt", "postgresql.crt"] {
        std::fs::write(home.path().join(".postgresql").join(name), "").unwrap();
    }
    let pgpass = home.path().join(".pgpass");
    std::fs::write(&pgpass, "a:1:d:u:first\nb:1:d:u:second\n").unwrap();
    std::fs::set_permissions(&pgpass, std::fs::Permissions::from_mode(0o600)).unwrap();

    let info = resolve("host=a,b port=1 dbname=d", &environment).unwrap();
    let file = |name: &str| home.path().join(".postgresql").join(name);
    assert_eq!(info.root_certificates, RootCertificates::File(file("root.crt")));
    assert_eq!(info.client_certificate, Some((file("postgresql.crt"), file("postgresql.key"))));
    let passwords: Vec<_> =
        info.servers.iter().map(|server| server.password.as_ref().unwrap().expose_secret()).collect();
    assert_eq!(passwords, ["first", "second"]);
    let other = resolve("host=a port=1 dbname=d user=other", &environment).unwrap();
    assert_eq!(password(&other), None);
}

#[test]
fn the_default_socket_is_localhost_in_the_password_file() {
    let server = |host| Server { host, port: 1, password: None };
    assert_eq!(server(Host::Unix(SOCKET_DIRECTORY.into())).passfile_host(), "localhost");
    assert_eq!(server(Host::Unix("/run/other".into())).passfile_host(), "/run/other");
}

#[test]
fn no_text_form_shows_the_password() {
    let info = resolve("postgres://u:s3cret@h/d", &[]).unwrap();
    assert_eq!(password(&info), Some("s3cret"));
    assert!(!format!("{info:?} {info:#?} {info}").contains("s3cret"));
}

#[test]
fn poolers_are_recognised_by_port_and_name() {
    let is_pooler = |text: &str| resolve(text, &[("USER", "u")]).unwrap().is_pooler_like();
    assert!(is_pooler("postgres://h:6543/d"));
    assert!(is_pooler("postgres://aws-0-eu.pooler.supabase.com:5432/d"));
    assert!(is_pooler("postgres://ep-x-Pooler.eu.aws.neon.tech/d"));
    assert!(!is_pooler("postgres://db.example.com:5432/d"));
    assert!(!is_pooler("host=/run/pooler"));
}
