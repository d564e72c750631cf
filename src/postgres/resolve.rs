//! From a connection string to a [`ConnectionInfo`]: each keyword from the string, else from its environment variable,
//! else libpq's default, and the password from the password file if nothing else has one. Other files are only looked
//! for here; [`super::tls`] reads them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use super::conninfo::{
    CONNECT_TIMEOUT_DEFAULT, ChannelBinding, ConnectionInfo, Host, Keepalive, RootCertificates,
    SOCKET_DIRECTORY, Server, SslMode, TargetSessionAttrs, TlsVersions,
};
use super::{PINNED_OPTIONS, keywords, passfile};
use crate::error::{Error, Result};

impl ConnectionInfo {
    /// The connection string, completed from the process's environment, its user's files and libpq's defaults.
    /// An empty string is fine: then all of it comes from there.
    ///
    /// # Errors
    ///
    /// `Config` for text libpq would not take, unknown or unsupported keywords, and values out of range.
    pub fn resolve(text: &str) -> Result<Self> {
        Self::resolve_with(text, &|name| std::env::var(name).ok())
    }

    /// The same with another environment.
    ///
    /// # Errors
    ///
    /// As [`ConnectionInfo::resolve`].
    pub fn resolve_with(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let settings = Settings::new(text, environment)?;
        let user = match settings.get("user") {
            Some(user) => user.to_owned(),
            None => (environment("USER").or_else(|| environment("LOGNAME")))
                .filter(|user| !user.is_empty())
                .ok_or_else(|| Error::config("no user is given to connect as").hint("set PGUSER"))?,
        };
        let database = settings.get("dbname").unwrap_or(&user).to_owned();
        let home = environment("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let (root_certificates, ssl_mode) = settings.trust(home.as_deref())?;
        let is_tls_direct = match settings.get("sslnegotiation") {
            None | Some("postgres") => false,
            Some("direct") if matches!(ssl_mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer) => {
                return Err(Error::config("sslnegotiation=direct needs sslmode=require or stronger"));
            }
            Some("direct") => true,
            Some(_) => return Err(invalid("sslnegotiation", "postgres, direct")),
        };
        let mut servers = settings.servers()?;
        let passfile = match settings.get("passfile") {
            Some(path) => Some(PathBuf::from(path)),
            None => home.as_deref().map(|home| home.join(".pgpass")),
        };
        for server in &mut servers {
            server.password = match (settings.get("password"), &passfile) {
                (Some(password), _) => Some(SecretString::from(password)),
                (None, Some(path)) => {
                    passfile::look_up(path, &server.passfile_host(), server.port, &database, &user)
                }
                (None, None) => None,
            };
        }
        let seconds = |keyword| settings.number::<u32>(keyword).map(|value| value.map(u64::from));
        let duration = |keyword| -> Result<Option<Duration>> {
            Ok(seconds(keyword)?.filter(|seconds| *seconds > 0).map(Duration::from_secs))
        };
        let timeout = settings.number::<i32>("connect_timeout")?.unwrap_or(0);
        Ok(ConnectionInfo {
            servers,
            database,
            application_name: (settings.get("application_name"))
                .or_else(|| settings.get("fallback_application_name"))
                .map(str::to_owned),
            options: match settings.get("options") {
                Some(options) => format!("{options} {PINNED_OPTIONS}"),
                None => PINNED_OPTIONS.to_owned(),
            },
            connect_timeout: match u64::try_from(timeout) {
                Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
                _ => CONNECT_TIMEOUT_DEFAULT,
            },
            keepalive: Keepalive {
                is_enabled: settings.number::<i32>("keepalives")? != Some(0),
                idle: duration("keepalives_idle")?,
                interval: duration("keepalives_interval")?,
                count: settings.number::<u32>("keepalives_count")?.filter(|count| *count > 0),
                user_timeout: seconds("tcp_user_timeout")?
                    .filter(|milliseconds| *milliseconds > 0)
                    .map(Duration::from_millis),
            },
            target_session_attrs: settings.target_session_attrs()?,
            channel_binding: settings.channel_binding()?,
            ssl_mode,
            is_tls_direct,
            has_sni: settings.get("sslsni") != Some("0"),
            tls_versions: settings.tls_versions()?,
            root_certificates,
            client_certificate: settings.client_certificate(home.as_deref()),
            user,
        })
    }
}

/// Keyword values from the string, then from the environment. An empty value counts as none, as in libpq.
struct Settings(HashMap<&'static str, String>);

impl Settings {
    fn new(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let given: HashMap<String, String> = keywords::parse(text)?.into_iter().collect();
        for variable in keywords::REFUSED.iter().filter_map(|(_, variable)| *variable) {
            if environment(variable).is_some_and(|value| !value.is_empty()) {
                return Err(keywords::refused(variable));
            }
        }
        let mut values = HashMap::new();
        for (keyword, variable) in keywords::SUPPORTED {
            let stated = given.get(*keyword).filter(|value| !value.is_empty()).cloned();
            let value = stated.or_else(|| environment((*variable)?).filter(|value| !value.is_empty()));
            if let Some(value) = value {
                values.insert(*keyword, value);
            }
        }
        Ok(Settings(values))
    }

    fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str)
    }

    fn number<T: FromStr>(&self, keyword: &str) -> Result<Option<T>> {
        let parse = |text: &str| text.trim().parse().map_err(|_| invalid(keyword, "a whole number"));
        self.get(keyword).map(parse).transpose()
    }

    /// `host`, `hostaddr` and `port` as one list. Lists must be of one length, except that one port serves all.
    fn servers(&self) -> Result<Vec<Server>> {
        let list = |keyword| -> Vec<&str> {
            self.get(keyword).map(|text| text.split(',').map(str::trim).collect()).unwrap_or_default()
        };
        let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = hosts.len().max(addresses.len()).max(1);
        let is_even = |list: &[&str]| list.is_empty() || list.len() == count;
        if !is_even(&hosts) || !is_even(&addresses) || !(is_even(&ports) || ports.len() == 1) {
            return Err(Error::config("host, hostaddr and port do not have the same number of entries"));
        }
        (0..count)
            .map(|index| {
                let at = |list: &[&str]| list.get(index).copied().unwrap_or_default().to_owned();
                let port = if ports.len() == 1 { ports[0].to_owned() } else { at(&ports) };
                Ok(Server {
                    host: host(&at(&hosts), &at(&addresses))?,
                    port: match port.as_str() {
                        "" => 5432,
                        text => text
                            .parse()
                            .ok()
                            .filter(|port| *port > 0)
                            .ok_or_else(|| invalid("port", "a number from 1 to 65535"))?,
                    },
                    password: None,
                })
            })
            .collect()
    }

    /// The root certificates and the `sslmode` that goes with them.
    fn trust(&self, home: Option<&Path>) -> Result<(RootCertificates, SslMode)> {
        let mode = match self.get("sslmode") {
            None => None,
            Some("disable") => Some(SslMode::Disable),
            Some("allow") => Some(SslMode::Allow),
            Some("prefer") => Some(SslMode::Prefer),
            Some("require") => Some(SslMode::Require),
            Some("verify-ca") => Some(SslMode::VerifyCa),
            Some("verify-full") => Some(SslMode::VerifyFull),
            Some(_) => {
                return Err(invalid("sslmode", "disable, allow, prefer, require, verify-ca, verify-full"));
            }
        };
        match self.get("sslrootcert") {
            // As in libpq: anybody can get a certificate from a public authority, so only the name proves anything.
            Some("system") => match mode {
                None | Some(SslMode::VerifyFull) => Ok((RootCertificates::System, SslMode::VerifyFull)),
                Some(_) => Err(Error::config("sslrootcert=system needs sslmode=verify-full")
                    .hint("set sslmode=verify-full, or name a file with sslrootcert")),
            },
            Some(path) => Ok((RootCertificates::File(path.into()), mode.unwrap_or(SslMode::Prefer))),
            None => {
                let found =
                    personal_file(home, "root.crt").map_or(RootCertificates::None, RootCertificates::File);
                Ok((found, mode.unwrap_or(SslMode::Prefer)))
            }
        }
    }

    fn client_certificate(&self, home: Option<&Path>) -> Option<(PathBuf, PathBuf)> {
        let named = self.get("sslcert").map(PathBuf::from);
        let certificate = named.or_else(|| personal_file(home, "postgresql.crt"))?;
        // Without a key's name the default one is meant; that it is missing shows when it is read.
        let key = self
            .get("sslkey")
            .map(PathBuf::from)
            .unwrap_or_else(|| home.unwrap_or(Path::new("/")).join(".postgresql").join("postgresql.key"));
        Some((certificate, key))
    }

    fn tls_versions(&self) -> Result<TlsVersions> {
        let known = "TLSv1.2, TLSv1.3";
        let is_13 = |keyword| match self.get(keyword) {
            None => Ok(None),
            Some("TLSv1" | "TLSv1.1") if keyword == "ssl_min_protocol_version" => Ok(None),
            Some("TLSv1.2") => Ok(Some(false)),
            Some("TLSv1.3") => Ok(Some(true)),
            Some(_) => Err(invalid(keyword, known)),
        };
        match (is_13("ssl_min_protocol_version")?, is_13("ssl_max_protocol_version")?) {
            (Some(true), Some(false)) => {
                Err(Error::config("ssl_min_protocol_version is above ssl_max_protocol_version"))
            }
            (Some(true), _) => Ok(TlsVersions::Only13),
            (_, Some(false)) => Ok(TlsVersions::Only12),
            _ => Ok(TlsVersions::Any),
        }
    }

    fn channel_binding(&self) -> Result<ChannelBinding> {
        match self.get("channel_binding") {
            Some("disable") => Ok(ChannelBinding::Disable),
            None | Some("prefer") => Ok(ChannelBinding::Prefer),
            Some("require") => Ok(ChannelBinding::Require),
            Some(_) => Err(invalid("channel_binding", "disable, prefer, require")),
        }
    }

    fn target_session_attrs(&self) -> Result<TargetSessionAttrs> {
        match self.get("target_session_attrs") {
            None | Some("any") => Ok(TargetSessionAttrs::Any),
            Some("read-write") => Ok(TargetSessionAttrs::ReadWrite),
            Some("read-only") => Ok(TargetSessionAttrs::ReadOnly),
            Some("primary") => Ok(TargetSessionAttrs::Primary),
            Some("standby") => Ok(TargetSessionAttrs::Standby),
            Some(_) => Err(invalid("target_session_attrs", "any, read-write, read-only, primary, standby")),
        }
    }
}

/// One entry of the list of servers; libpq's default place where neither name nor address is given.
fn host(name: &str, address: &str) -> Result<Host> {
    let address = match address {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| invalid("hostaddr", "an IP address"))?),
    };
    match (name, address) {
        (path, _) if path.starts_with('/') => Ok(Host::Unix(path.into())),
        (path, _) if path.starts_with('@') => {
            Err(Error::config("unix sockets in the abstract namespace are not supported"))
        }
        ("", Some(address)) => Ok(Host::Tcp { name: address.to_string(), address: Some(address) }),
        ("", None) if Path::new(SOCKET_DIRECTORY).is_dir() => Ok(Host::Unix(SOCKET_DIRECTORY.into())),
        ("", None) => Ok(Host::Tcp { name: "localhost".to_owned(), address: None }),
        (name, address) => Ok(Host::Tcp { name: name.to_owned(), address }),
    }
}

fn personal_file(home: Option<&Path>, name: &str) -> Option<PathBuf> {
    Some(home?.join(".postgresql").join(name)).filter(|path| path.exists())
}

/// The value itself stays out of the message: in a malformed string it may be part of a password.
fn invalid(keyword: &str, known: &str) -> Error {
    Error::config(format!("the connection parameter {keyword} has an invalid value; it takes {known}"))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
