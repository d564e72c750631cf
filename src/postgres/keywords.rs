//! Connection strings, split into keywords and values as libpq splits them: `postgres://` URLs and `key=value`
//! text. What the values mean is [`super::conninfo`]'s business.
//!
//! A connection string may hold a password, and a malformed one may hold it anywhere: no error here repeats more of
//! the text than a keyword.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// A keyword that walcast honours, and the environment variable libpq reads for it.
pub(super) const SUPPORTED: &[(&str, Option<&str>)] = &[
    ("application_name", Some("PGAPPNAME")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("dbname", Some("PGDATABASE")),
    ("fallback_application_name", None),
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("keepalives", None),
    ("keepalives_count", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("options", Some("PGOPTIONS")),
    ("passfile", Some("PGPASSFILE")),
    ("password", Some("PGPASSWORD")),
    ("port", Some("PGPORT")),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslsni", Some("PGSSLSNI")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("tcp_user_timeout", None),
    ("user", Some("PGUSER")),
];

/// Keywords that change nothing here: no GSSAPI and no TLS compression exist, and the encoding is pinned.
const WITHOUT_EFFECT: &[&str] = &[
    "client_encoding",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "max_protocol_version",
    "min_protocol_version",
    "sslcompression",
];

/// Keywords of libpq that walcast does not honour. To ignore one could mean a weaker or another connection than
/// was asked for, so they are errors, from the environment too.
pub(super) const REFUSED: &[(&str, Option<&str>)] = &[
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    ("replication", None),
    ("require_auth", Some("PGREQUIREAUTH")),
    ("requirepeer", Some("PGREQUIREPEER")),
    ("service", Some("PGSERVICE")),
    ("sslcertmode", Some("PGSSLCERTMODE")),
    ("sslcrl", Some("PGSSLCRL")),
    ("sslcrldir", Some("PGSSLCRLDIR")),
    ("sslpassword", None),
];

/// The keywords and values of a connection string, checked against the known keywords. Where a keyword comes
/// twice, the last one counts.
///
/// # Errors
///
/// `Config` for text that libpq would not parse and for keywords that walcast does not honour.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let rest = ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let mut pairs = match rest {
        Some(rest) => parse_url(rest)?,
        None => parse_pairs(text)?,
    };
    for (keyword, _) in &pairs {
        check(keyword)?;
    }
    pairs.retain(|(keyword, _)| !WITHOUT_EFFECT.contains(&keyword.as_str()));
    Ok(pairs)
}

fn check(keyword: &str) -> Result<()> {
    if WITHOUT_EFFECT.contains(&keyword) || SUPPORTED.iter().any(|(known, _)| *known == keyword) {
        return Ok(());
    }
    if REFUSED.iter().any(|(known, _)| *known == keyword) {
        return Err(refused(keyword));
    }
    Err(Error::config(format!("unknown keyword \"{keyword}\" in the connection string")).hint(
        "remove it; parameters of other drivers and poolers are not part of a Postgres connection string",
    ))
}

/// The error for a keyword or variable that libpq knows and walcast does not honour.
pub(super) fn refused(name: &str) -> Error {
    Error::config(format!("the connection parameter {name} is not supported")).hint(format!("remove {name}"))
}

fn parse_url(rest: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    // As libpq looks ahead: only an "@" before the first "/" ends credentials.
    let rest = match rest.find(['@', '/']).filter(|at| rest[*at..].starts_with('@')) {
        Some(at) => {
            let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
            push(&mut pairs, "user", user)?;
            push(&mut pairs, "password", password)?;
            &rest[at + 1..]
        }
        None => rest,
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    if hosts.contains('@') {
        return Err(Error::config("the connection URL has more than one \"@\" before its host")
            .hint("write %40 for an @ in the user name or password"));
    }
    let (names, ports) = split_hosts(hosts)?;
    push(&mut pairs, "host", &names)?;
    push(&mut pairs, "port", &ports)?;
    push(&mut pairs, "dbname", database)?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (keyword, value) =
            parameter.split_once('=').filter(|(_, value)| !value.contains('=')).ok_or_else(|| {
                Error::config("a parameter of the connection URL is not of the form keyword=value")
            })?;
        match (decode(keyword)?, decode(value)?) {
            // JDBC's spelling, which libpq takes as well.
            (keyword, value) if keyword == "ssl" && value == "true" => {
                pairs.push(("sslmode".to_owned(), "require".to_owned()));
            }
            pair => pairs.push(pair),
        }
    }
    Ok(pairs)
}

/// `host1:port1,[::1]:port2` as two lists. Both are empty where nothing was given.
fn split_hosts(text: &str) -> Result<(String, String)> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for element in text.split(',') {
        let (host, port) = match element.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed
                    .split_once(']')
                    .filter(|(host, _)| !host.is_empty())
                    .ok_or_else(|| Error::config("an IPv6 address in the connection URL lacks its \"]\""))?;
                match after.strip_prefix(':') {
                    Some(port) => (host, port),
                    None if after.is_empty() => (host, ""),
                    None => {
                        return Err(Error::config("only a port may follow \"]\" in the connection URL"));
                    }
                }
            }
            None => element.split_once(':').unwrap_or((element, "")),
        };
        hosts.push(host);
        ports.push(port);
    }
    let is_given = |list: &[&str]| list.iter().any(|item| !item.is_empty());
    Ok((
        if is_given(&hosts) { hosts.join(",") } else { String::new() },
        if is_given(&ports) { ports.join(",") } else { String::new() },
    ))
}

fn push(pairs: &mut Vec<(String, String)>, keyword: &str, encoded: &str) -> Result<()> {
    if !encoded.is_empty() {
        pairs.push((keyword.to_owned(), decode(encoded)?));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String> {
    let invalid = || {
        Error::config("invalid percent-encoding in the connection URL")
            .hint("write %25 for a literal % in the user name or password")
    };
    let mut parts = text.split('%');
    parts.next();
    for part in parts {
        let digits = part.as_bytes().get(..2).ok_or_else(invalid)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) || digits == b"00" {
            return Err(invalid());
        }
    }
    Ok(percent_decode_str(text).decode_utf8().map_err(|_| invalid())?.into_owned())
}

fn parse_pairs(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let missing = || {
            Error::config("the connection string has a word without \"=\"")
                .hint("quote values that contain spaces: password='two words'")
        };
        let (keyword, after) = rest.split_once('=').ok_or_else(missing)?;
        let keyword = keyword.trim_end();
        if keyword.is_empty() || keyword.contains(char::is_whitespace) {
            return Err(missing());
        }
        let (value, after) = parse_value(after.trim_start())?;
        pairs.push((keyword.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// One value and what follows it. A backslash takes the next character as it is, inside quotes and outside.
fn parse_value(text: &str) -> Result<(String, &str)> {
    let (is_quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if is_quoted => return Ok((value, &body[index + 1..])),
            _ if !is_quoted && character.is_whitespace() => return Ok((value, &body[index..])),
            _ => value.push(character),
        }
    }
    if is_quoted {
        return Err(Error::config("a quoted value in the connection string lacks its closing quote"));
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(keyword, value)| (keyword.to_string(), value.to_string())).collect()
    }

    #[test]
    fn urls_split_as_libpq_splits_them() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("postgres://", &[]),
            ("postgresql://localhost", &[("host", "localhost")]),
            ("postgres://u@h/d", &[("user", "u"), ("host", "h"), ("dbname", "d")]),
            (
                "postgres://u%40x:p%2F%25@h:1/d%20b",
                &[("user", "u@x"), ("password", "p/%"), ("host", "h"), ("port", "1"), ("dbname", "d b")],
            ),
            ("postgres://[2001:db8::1]:7/d", &[("host", "2001:db8::1"), ("port", "7"), ("dbname", "d")]),
            ("postgres://a,b:2,[::1]:3/", &[("host", "a,b,::1"), ("port", ",2,3")]),
            ("postgres:///d?host=/var/run/postgresql", &[("dbname", "d"), ("host", "/var/run/postgresql")]),
            ("postgres://%2Frun%2Fpg/d", &[("host", "/run/pg"), ("dbname", "d")]),
            ("postgres://h?ssl=true", &[("host", "h"), ("sslmode", "require")]),
            ("postgres://h/d?options=-c%20a%3Db", &[("host", "h"), ("dbname", "d"), ("options", "-c a=b")]),
        ];
        for (text, expected) in table {
            assert_eq!(parsed(text), pairs(expected), "{text}");
        }
    }

    #[test]
    fn key_value_text_takes_quotes_and_backslashes() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("  host = a  port=5 ", &[("host", "a"), ("port", "5")]),
            (r"password='it\'s \\ here' user=u", &[("password", r"it's \ here"), ("user", "u")]),
            (r"password=a\ b user=''", &[("password", "a b"), ("user", "")]),
            ("user=é dbname='ü'", &[("user", "é"), ("dbname", "ü")]),
        ];
        for (text, expected) in table {
            assert_eq!(parsed(text), pairs(expected), "{text}");
        }
    }

    #[test]
    fn malformed_text_is_refused_without_repeating_it() {
        for text in [
            "postgres://u:s3cret%zz@h",
            "postgres://u:s3cret%@h",
            "postgres://u:s3cret%00@h",
            "postgres://u:s3cret@b@h/",
            "postgres://[::1/s3cret",
            "postgres://[::1]s3cret/",
            "postgres://h?s3cret",
            "postgres://h?user=s3cret=x",
            "password=two s3cret",
            "password='s3cret",
            "=s3cret",
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.kind(), crate::error::Kind::Config, "{text}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn unknown_and_unsupported_keywords_are_named() {
        for keyword in ["pgbouncer", "schema", "sslcrl", "service", "replication"] {
            let error = parse(&format!("postgres://h/d?{keyword}=true")).unwrap_err();
            assert!(error.to_string().contains(keyword), "{error}");
        }
        assert_eq!(parsed("gssencmode=prefer host=h"), pairs(&[("host", "h")]));
    }
}
