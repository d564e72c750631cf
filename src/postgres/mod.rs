//! The two kinds of session that walcast keeps with a Postgres server: SQL sessions ([`session`]) and replication
//! sessions ([`wire`]). Both resolve their server as libpq does ([`conninfo`]), reach it through the same sockets
//! and TLS ([`socket`], [`tls`]) and pin the same settings, so that a value has the same text wherever it is read.
//!
//! Nothing here knows slots, publications or tables; nothing here retries.

mod binding;
pub mod conninfo;
mod handshake;
mod keywords;
mod passfile;
mod resolve;
pub mod session;
pub mod socket;
pub mod sqlstate;
pub mod tls;
pub mod wire;

/// The settings every session starts with, as libpq `options` text. They decide how values look as text, so the
/// stream and a backfill only agree while both use exactly these. And a row that row security hides would look as if it
/// were not there; switched off, the server says so instead.
pub const PINNED_OPTIONS: &str = "-c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=3 \
    -c timezone=UTC -c bytea_output=hex -c client_encoding=UTF8 -c row_security=off";

/// The name as an SQL identifier, always in double quotes.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The text as an SQL string literal. A backslash makes it an `E''` literal, which reads the same whatever
/// `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_doubles_quotes_and_escapes_backslashes() {
        assert_eq!(quote_identifier("plain"), r#""plain""#);
        assert_eq!(quote_identifier(r#"we"ird"#), r#""we""ird""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\b'c"), r"E'a\\b''c'");
        assert_eq!(quote_literal(""), "''");
    }
}
