//! What a configuration changes in one that is in force, as far as it decides how the change is made.

use secrecy::{ExposeSecret, SecretString};

use super::{Admin, Config, Log, Source};

/// What is different, by how it comes into force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Settings that only a new process takes, as `walcast.toml` names them.
    pub fixed: Vec<&'static str>,
    /// Settings of the whole pipeline, which begins anew with them.
    pub pipeline: Vec<&'static str>,
    /// Whether sinks come, go, or change.
    pub sinks: bool,
    /// Whether anything else is different, which whoever uses it looks up each time.
    pub rest: bool,
}

impl Config {
    /// What `next` changes.
    pub fn difference(&self, next: &Config) -> Difference {
        // Taken apart, so that a new section is not forgotten.
        let Config {
            schema,
            schema_changes,
            source,
            sinks,
            batch,
            queue,
            catch_up,
            backfill,
            transaction,
            retry,
            shutdown,
            schedule,
            heartbeat,
            d1,
            log,
            admin,
        } = self;
        let mut fixed = Vec::new();
        admin.fixed(&next.admin, &mut fixed);
        log.fixed(&next.log, &mut fixed);
        if source.slot != next.source.slot {
            fixed.push("source.slot");
        }
        let sections = [
            ("schema", *schema != next.schema),
            ("schema_changes", *schema_changes != next.schema_changes),
            ("source", !source.is_same_but_slot(&next.source)),
            ("batch", *batch != next.batch),
            ("queue", *queue != next.queue),
            ("catch_up", *catch_up != next.catch_up),
            ("backfill", *backfill != next.backfill),
            ("transaction", *transaction != next.transaction),
            ("retry", *retry != next.retry),
            ("shutdown", *shutdown != next.shutdown),
            ("schedule", *schedule != next.schedule),
            ("heartbeat", *heartbeat != next.heartbeat),
            ("d1", *d1 != next.d1),
        ];
        let pipeline = sections.into_iter().filter(|(_, is_other)| *is_other).map(|(name, _)| name).collect();
        let Admin { listen: _, secret: _, secret_file: _, protect_reads: _, hosts: _, .. } = admin;
        let rest = admin.stall_timeout != next.admin.stall_timeout
            || admin.max_dead_letters != next.admin.max_dead_letters;
        Difference { fixed, pipeline, sinks: *sinks != next.sinks, rest }
    }
}

impl Difference {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Difference::default()
    }
}

impl Admin {
    /// Who may ask, and where, is settled when the process starts.
    fn fixed(&self, next: &Admin, fixed: &mut Vec<&'static str>) {
        let Admin {
            listen,
            secret,
            secret_file: _,
            protect_reads,
            hosts,
            stall_timeout: _,
            max_dead_letters: _,
        } = self;
        let settings = [
            ("admin.listen", *listen != next.listen),
            ("admin.secret", !is_same(secret.as_ref(), next.secret.as_ref())),
            ("admin.protect_reads", *protect_reads != next.protect_reads),
            ("admin.hosts", *hosts != next.hosts),
        ];
        fixed.extend(settings.into_iter().filter(|(_, is_other)| *is_other).map(|(name, _)| name));
    }
}

impl Log {
    fn fixed(&self, next: &Log, fixed: &mut Vec<&'static str>) {
        let Log { level, format, sync_file, retention, max_entries, max_key_bytes } = self;
        let settings = [
            ("log.level", *level != next.level),
            ("log.format", *format != next.format),
            ("log.sync_file", *sync_file != next.sync_file),
            ("log.retention", *retention != next.retention),
            ("log.max_entries", *max_entries != next.max_entries),
            ("log.max_key_bytes", *max_key_bytes != next.max_key_bytes),
        ];
        fixed.extend(settings.into_iter().filter(|(_, is_other)| *is_other).map(|(name, _)| name));
    }
}

impl Source {
    fn is_same_but_slot(&self, next: &Source) -> bool {
        let Source {
            url,
            url_file: _,
            slot: _,
            publication,
            slot_create_timeout,
            status_interval,
            idle_checkpoint_interval,
            backfill_url,
            max_message_bytes,
        } = self;
        is_same(url.as_ref(), next.url.as_ref())
            && is_same(backfill_url.as_ref(), next.backfill_url.as_ref())
            && *publication == next.publication
            && *slot_create_timeout == next.slot_create_timeout
            && *status_interval == next.status_interval
            && *idle_checkpoint_interval == next.idle_checkpoint_interval
            && *max_message_bytes == next.max_message_bytes
    }
}

fn is_same(one: Option<&SecretString>, other: Option<&SecretString>) -> bool {
    one.map(ExposeSecret::expose_secret) == other.map(ExposeSecret::expose_secret)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Environment, Requires};
    use super::*;

    const BEFORE: &str = "[source]\nurl = \"postgres://u:one@host/d\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
                          [[sink]]\nname = \"eu\"\ntype = \"sqlite\"\npath = \"eu.db\"\n";

    fn difference(from: &str, to: &str) -> Difference {
        assert!(BEFORE.contains(from));
        let read = |text: &str| {
            let environment = Environment::default();
            Config::read(Some((Path::new("walcast.toml"), text)), &environment, Requires::Everything).unwrap()
        };
        read(BEFORE).difference(&read(&BEFORE.replace(from, to)))
    }

    #[test]
    fn each_setting_says_how_it_comes_into_force() {
        assert!(difference("eu", "eu").is_none());
        let fixed = |names: &[&'static str]| Difference { fixed: names.to_vec(), ..Difference::default() };
        assert_eq!(difference("127.0.0.1:0", "127.0.0.1:1"), fixed(&["admin.listen"]));
        assert_eq!(difference("[admin]", "[log]\nlevel = \"debug\"\n[admin]"), fixed(&["log.level"]));
        assert_eq!(difference("[source]", "[source]\nslot = \"other\""), fixed(&["source.slot"]));
        let pipeline =
            |names: &[&'static str]| Difference { pipeline: names.to_vec(), ..Difference::default() };
        assert_eq!(difference(":one@", ":two@"), pipeline(&["source"]));
        assert_eq!(difference("[admin]", "[batch]\nmax_rows = 7\n[admin]"), pipeline(&["batch"]));
        let sinks = Difference { sinks: true, ..Difference::default() };
        assert_eq!(difference("eu.db", "ap.db"), sinks);
        let rest = Difference { rest: true, ..Difference::default() };
        assert_eq!(difference("[admin]", "[admin]\nmax_dead_letters = 3"), rest);
    }
}
