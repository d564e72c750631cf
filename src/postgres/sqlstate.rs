//! What a server's or a socket's error means to walcast: SQLSTATE classes and I/O failures become [`Kind`]s with a
//! hint. The only place that decides this, for SQL and replication sessions alike.
//!
//! The server's text goes into the message, except where Postgres puts row values into it (classes 22 and 23).

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::error::{Error, Kind};

/// An error the server reported. It is the `source()` of every error made from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The five characters of the SQLSTATE.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// The detail, if there is one.
    pub detail: Option<String>,
    /// The server's own hint.
    pub hint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "invalid input syntax for type integer: "…"", "Key (id)=(…) already exists", "Failing row contains (…)".
        let (message, detail) = match self.sqlstate.get(..2) {
            Some("22") => (self.message.split(": \"").next().unwrap_or_default(), None),
            Some("23") => (self.message.as_str(), None),
            _ => (self.message.as_str(), self.detail.as_deref()),
        };
        write!(f, "{message} (SQLSTATE {}", self.sqlstate)?;
        match detail {
            Some(detail) => write!(f, "; {})", detail.replace('\n', " ")),
            None => f.write_str(")"),
        }
    }
}

impl StdError for ServerError {}

impl ServerError {
    /// The error for walcast, saying what was being done.
    pub fn into_error(self, doing: &str) -> Error {
        let kind = self.kind();
        let error = Error::new(kind, format!("{doing}: {self}"));
        let error = match self.advice().map(str::to_owned).or_else(|| self.hint.clone()) {
            Some(hint) => error.hint(hint),
            None => error,
        };
        error.because(self)
    }

    fn kind(&self) -> Kind {
        match self.sqlstate.as_str() {
            // The database was dropped; waiting does not bring it back.
            "57P04" => Kind::Halt,
            // 40P01 deadlock, 55006 object in use, 55P03 lock not available, 57014 cancelled, 57P01 to 57P05 the
            // server goes down or comes up.
            "40001" | "40P01" | "55006" | "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "57P05" => {
                Kind::Transient
            }
            code if code.starts_with("08") || code.starts_with("53") => Kind::Transient,
            "42704" if self.message.starts_with("replication slot") => Kind::NeedsBackfill,
            "55000" if self.is_invalidated_slot() => Kind::NeedsBackfill,
            _ => Kind::Halt,
        }
    }

    /// The texts of 15 to 18; a server that speaks another language falls through to `Halt`, which is safe.
    fn is_invalidated_slot(&self) -> bool {
        let detail = self.detail.as_deref().unwrap_or_default();
        self.message.starts_with("can no longer") || detail.contains("slot has been invalidated")
    }

    /// The operator's next step where walcast knows a better one than the server.
    fn advice(&self) -> Option<&'static str> {
        match self.sqlstate.as_str() {
            "28P01" => Some("check the user's password: PGPASSWORD, ~/.pgpass or the connection string"),
            "28000" => Some(
                "check that the role exists and may log in, and pg_hba.conf on the server: \
                 select * from pg_hba_file_rules",
            ),
            "3D000" => Some("check the database's name: psql -l"),
            "42501" if self.message.contains("replication") => {
                Some("as a superuser: alter role … replication; on RDS: grant rds_replication to …")
            }
            "42501" if self.message.contains("row-level security") => {
                Some("as a superuser: ALTER ROLE … BYPASSRLS, for the role that walcast connects as")
            }
            "42501" => Some("grant the role what the message names, or connect as another role"),
            "42704" if self.kind() == Kind::NeedsBackfill => {
                Some("see what slots are left: select * from pg_replication_slots; then backfill every sink")
            }
            "55000" if self.kind() == Kind::NeedsBackfill => {
                Some("drop the slot, raise max_slot_wal_keep_size, and backfill every sink")
            }
            "55000" if self.message.contains("wal_level") => {
                Some("alter system set wal_level = logical; then restart the server")
            }
            _ => None,
        }
    }
}

/// The SQLSTATE behind an error, if a server reported it.
pub fn sqlstate(error: &Error) -> Option<&str> {
    let server_error = StdError::source(error)?.downcast_ref::<ServerError>()?;
    Some(&server_error.sqlstate)
}

/// The error for a failure of the socket or of TLS on it. A refused certificate halts; all else may pass.
pub(super) fn from_io(error: io::Error, doing: &str) -> Error {
    if let Some(tls) = tls_error(&error) {
        let hint = tls_hint(tls);
        return Error::halt(format!("{doing}: TLS failed: {tls}")).hint(hint).because(error);
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => Error::halt(format!("{doing}: {error}"))
            .hint("let the user that runs walcast open the server's unix socket")
            .because(error),
        io::ErrorKind::UnexpectedEof => {
            Error::transient(format!("{doing}: the server closed the connection")).because(error)
        }
        _ => Error::transient(format!("{doing}: {error}")).because(error),
    }
}

/// The TLS failure behind an error, at any depth.
pub(super) fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An `io::Error` gives its inner error's source, not the inner error itself.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn tls_hint(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            "connect with a name or address that the server's certificate has as subjectAltName (a common name \
             alone does not count), or set sslmode=verify-ca"
        }
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            "name the file with the server's root certificate: sslrootcert=…"
        }
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "renew the server's certificate"
        }
        rustls::Error::InvalidCertificate(_) => "check the server's certificate: openssl x509 -text",
        rustls::Error::AlertReceived(_) => {
            "the server refused the handshake: check sslcert and sslkey, and the server's log"
        }
        _ => "check ssl_min_protocol_version, ssl_ciphers and the certificate on the server",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_error(sqlstate: &str, message: &str, detail: Option<&str>) -> ServerError {
        ServerError {
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
            detail: detail.map(str::to_owned),
            hint: Some("the server's hint".to_owned()),
        }
    }

    #[test]
    fn sqlstates_say_what_to_do() {
        let table = [
            ("08006", Kind::Transient),
            ("57P01", Kind::Transient),
            ("57P03", Kind::Transient),
            ("57P04", Kind::Halt),
            ("53300", Kind::Transient),
            ("40001", Kind::Transient),
            ("55006", Kind::Transient),
            ("42501", Kind::Halt),
            ("28P01", Kind::Halt),
            ("3D000", Kind::Halt),
            ("42P01", Kind::Halt),
            ("", Kind::Halt),
        ];
        for (sqlstate, kind) in table {
            assert_eq!(server_error(sqlstate, "m", None).into_error("x").kind(), kind, "{sqlstate}");
        }
    }

    #[test]
    fn a_missing_or_invalidated_slot_needs_a_backfill() {
        let missing = server_error("42704", "replication slot \"walcast\" does not exist", None);
        assert_eq!(missing.into_error("x").kind(), Kind::NeedsBackfill);
        assert_eq!(server_error("42704", "type \"t\" does not exist", None).kind(), Kind::Halt);
        let invalidated =
            server_error("55000", "cannot read from …", Some("This slot has been invalidated because …"));
        assert_eq!(invalidated.kind(), Kind::NeedsBackfill);
        assert_eq!(
            server_error("55000", "can no longer get changes from …", None).kind(),
            Kind::NeedsBackfill
        );
        assert_eq!(
            server_error("55000", "logical decoding requires wal_level >= logical", None).kind(),
            Kind::Halt
        );
    }

    #[test]
    fn the_message_keeps_the_servers_words_and_the_hint_its_advice() {
        let error = server_error("55006", "replication slot \"s\" is active for PID 7", Some("two\nlines"))
            .into_error("starting");
        assert_eq!(
            error.to_string(),
            "starting: replication slot \"s\" is active for PID 7 (SQLSTATE 55006; two lines)"
        );
        assert_eq!(error.chain(), error.to_string());
        assert_eq!(error.hint_text(), Some("the server's hint"));
        assert_eq!(sqlstate(&error), Some("55006"));
        assert_eq!(sqlstate(&Error::bug("none")), None);
    }

    #[test]
    fn row_values_never_enter_the_message() {
        let duplicate = server_error("23505", "duplicate key value violates …", Some("Key (id)=(secret)"));
        let invalid = server_error("22P02", "invalid input syntax for type integer: \"secret\"", None);
        for error in [duplicate, invalid] {
            let error = error.into_error("writing");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn a_refused_certificate_is_found_behind_an_io_error_and_halts() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = from_io(io::Error::new(io::ErrorKind::InvalidData, tls), "connecting");
        assert_eq!(error.kind(), Kind::Halt);
        assert!(error.hint_text().unwrap().contains("sslrootcert"));
        let refused = from_io(io::ErrorKind::ConnectionRefused.into(), "connecting");
        assert_eq!(refused.kind(), Kind::Transient);
    }
}
