//! The password file (`~/.pgpass`): one `host:port:database:user:password` per line, read as libpq reads it. The
//! first line that matches gives the password.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::SecretString;

/// The password for a server from the password file. `None` where the file does not exist, has no such line, or may
/// not be used; the last is logged, because it looks like a wrong password otherwise.
pub(super) fn look_up(
    path: &Path,
    host: &str,
    port: u16,
    database: &str,
    user: &str,
) -> Option<SecretString> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() {
        tracing::warn!(file = %path.display(), "the password file is not a plain file and is ignored");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            file = %path.display(),
            "the password file is readable by group or world and is ignored; run chmod 0600 on it",
        );
        return None;
    }
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the password file cannot be read and is ignored");
            return None;
        }
    };
    find(&text, [host, &port.to_string(), database, user])
}

fn find(text: &str, wanted: [&str; 4]) -> Option<SecretString> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for value in wanted {
            let (field, after) = split_field(rest)?;
            if field != "*" && unescape(field) != value {
                return None;
            }
            rest = after;
        }
        let password = split_field(rest).map_or(rest, |(password, _)| password);
        (!password.is_empty()).then(|| SecretString::from(unescape(password)))
    })
}

/// The text before the next colon that no backslash escapes, and the text after it.
fn split_field(text: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b':' => return Some((&text[..index], &text[index + 1..])),
            _ => {}
        }
    }
    None
}

fn unescape(field: &str) -> String {
    let mut plain = String::with_capacity(field.len());
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next()),
            _ => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    fn found(text: &str) -> Option<String> {
        find(text, ["db.local", "5432", "app", "me"]).map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn the_first_matching_line_gives_the_password() {
        assert_eq!(found("db.local:5432:app:me:one\n*:*:*:*:two").as_deref(), Some("one"));
        assert_eq!(found("other:5432:app:me:one\n*:*:*:*:two").as_deref(), Some("two"));
        assert_eq!(found("#db.local:5432:app:me:one\n\nshort:line\n"), None);
        assert_eq!(found(r"db.local:*:app:me:a\:b\\c").as_deref(), Some(r"a:b\c"));
        assert_eq!(found(r"db\.local:5432:app:me:x").as_deref(), Some("x"));
        assert_eq!(found(r"\*:5432:app:me:x"), None);
        assert_eq!(found("*:*:*:*:"), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:word\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(look_up(&path, "h", 1, "d", "u").is_none());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(look_up(&path, "h", 1, "d", "u").is_some());
        assert!(look_up(directory.path(), "h", 1, "d", "u").is_none());
        assert!(look_up(&directory.path().join("absent"), "h", 1, "d", "u").is_none());
    }
}
