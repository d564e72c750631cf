//! Findings about the server, the way to it, and the role.

use std::time::Duration;

use bytesize::ByteSize;

use super::{Facts, Finding, Request, Role};
use crate::capture::catalog::{OLDEST_VERSION, Server};

/// A walsender that hears nothing from us for this long ends the session; below it, a pause is enough for that.
const SENDER_TIMEOUT_MIN: Duration = Duration::from_secs(10);
/// Clocks further apart than this make lag in seconds meaningless.
const CLOCK_SKEW_MAX_US: u64 = 1_000_000;

pub(super) fn evaluate(request: &Request, facts: &Facts, findings: &mut Vec<Finding>) {
    let server = &facts.server;
    findings.push(version(server));
    findings.extend(pooler(&request.host, request.port));
    findings.push(wal_level(server));
    let wanted = wanted(request, facts);
    findings.push(slots(server, wanted));
    findings.push(senders(server, wanted));
    findings.push(keep_size(server));
    findings.push(sender_timeout(server));
    findings.extend(idle_timeout(server));
    findings.extend(recovery(server));
    findings.extend(encoding(server));
    findings.push(clock(server));
    findings.push(role(&facts.role));
}

fn version(server: &Server) -> Finding {
    let version = server.version;
    if version < OLDEST_VERSION {
        return Finding::problem("server", format!("Postgres {version} is older than 14"))
            .remedy("upgrade the server to 14 or newer");
    }
    Finding::ok("server", format!("Postgres {version}"))
}

/// A pooler cannot carry a replication session. Only names and ports that providers and poolers are known by count.
fn pooler(host: &str, port: u16) -> Option<Finding> {
    let by_name = host.contains(".pooler.") || host.contains("-pooler.");
    let by_port = matches!(port, 6432 | 6543);
    let remedy = match (host.contains("supabase."), by_name, by_port) {
        (_, false, false) => return None,
        (true, _, _) => {
            "use the direct connection, db.<project>.supabase.co:5432 (IPv6 only without the add-on)"
        }
        (false, true, _) => "use the host name without the pooler part",
        (false, false, true) => "use the server's own port, usually 5432",
    };
    let message = format!("{host}:{port} looks like a connection pooler, which cannot replicate");
    let finding = if by_name {
        Finding::problem("connection", message)
    } else {
        Finding::warning("connection", message)
    };
    Some(finding.remedy(remedy))
}

fn wal_level(server: &Server) -> Finding {
    if server.wal_level == "logical" {
        return Finding::ok("server", "wal_level is logical");
    }
    Finding::problem("server", format!("wal_level is {}, not logical", server.wal_level)).remedy(
        "ALTER SYSTEM SET wal_level = 'logical'; then restart the server (Amazon RDS: rds.logical_replication = 1)",
    )
}

/// What walcast needs more than is in use now.
#[derive(Clone, Copy)]
struct Wanted {
    /// For the main stream: one, or none where it is there already.
    now: u32,
    /// For regions that fall behind the others, all at once at worst. One alone has no others.
    later: u32,
}

fn wanted(request: &Request, facts: &Facts) -> Wanted {
    let later = if request.sinks > 1 { request.sinks.saturating_sub(facts.copies) } else { 0 };
    Wanted { now: u32::from(facts.slot.is_none()), later: later as u32 }
}

fn slots(server: &Server, wanted: Wanted) -> Finding {
    room("replication slots", "max_replication_slots", server.slots_used, server.slots_max, wanted)
}

fn senders(server: &Server, wanted: Wanted) -> Finding {
    // An engine that runs has one, and is not asked; that this asks for one more is no harm.
    let wanted = Wanted { now: 1, ..wanted };
    room("WAL senders", "max_wal_senders", server.senders_used, server.senders_max, wanted)
}

fn room(what: &str, setting: &str, used: u32, max: u32, wanted: Wanted) -> Finding {
    let free = max.saturating_sub(used);
    let message = format!("{used} of {max} {what} are in use");
    let enough = max.max(used + wanted.now + wanted.later);
    let remedy = format!("ALTER SYSTEM SET {setting} = {enough}; then restart the server");
    if free < wanted.now {
        return Finding::problem("server", format!("{message}, and walcast needs one")).remedy(remedy);
    }
    if free < wanted.now + wanted.later {
        let why = format!(
            "each of the {} regions needs one more while it catches up; without, it waits, and the slot keeps WAL for it",
            wanted.later
        );
        return Finding::warning("server", format!("{message}: {why}")).remedy(remedy);
    }
    Finding::ok("server", message)
}

fn keep_size(server: &Server) -> Finding {
    match server.max_slot_wal_keep_bytes {
        Some(bytes) => Finding::ok(
            "server",
            format!("max_slot_wal_keep_size is {}: a slot further behind is invalidated", ByteSize(bytes)),
        ),
        None => Finding::warning(
            "server",
            "max_slot_wal_keep_size is unlimited: while walcast is stopped, WAL grows until the disk is full",
        )
        .remedy("ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();"),
    }
}

fn sender_timeout(server: &Server) -> Finding {
    let remedy = "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();";
    match server.wal_sender_timeout {
        None => {
            Finding::warning("server", "wal_sender_timeout is off: a dead connection keeps the slot in use")
                .remedy(remedy)
        }
        Some(timeout) if timeout < SENDER_TIMEOUT_MIN => Finding::warning(
            "server",
            format!("wal_sender_timeout is {} ms: a short pause ends the stream", timeout.as_millis()),
        )
        .remedy(remedy),
        Some(timeout) => Finding::ok("server", format!("wal_sender_timeout is {} s", timeout.as_secs())),
    }
}

fn idle_timeout(server: &Server) -> Option<Finding> {
    let timeout = server.idle_replication_slot_timeout?;
    Some(
        Finding::warning(
            "server",
            format!(
                "idle_replication_slot_timeout is {} s: a slot unused for longer is invalidated",
                timeout.as_secs()
            ),
        )
        .remedy("ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"),
    )
}

fn recovery(server: &Server) -> Option<Finding> {
    server.is_in_recovery.then(|| {
        Finding::problem("server", "it is a standby, and walcast streams from a primary")
            .remedy("connect to the primary")
    })
}

fn encoding(server: &Server) -> Option<Finding> {
    (server.server_encoding == "SQL_ASCII").then(|| {
        Finding::warning(
            "server",
            "the database's encoding is SQL_ASCII: text that is not UTF-8 cannot be replicated",
        )
    })
}

fn clock(server: &Server) -> Finding {
    let apart = server.clock_ahead_us.unsigned_abs();
    if apart <= CLOCK_SKEW_MAX_US {
        return Finding::ok("clock", format!("{} ms apart from the server's", apart / 1_000));
    }
    let direction = if server.clock_ahead_us > 0 { "behind" } else { "ahead of" };
    Finding::warning(
        "clock",
        format!(
            "this machine is {} ms {direction} the server: lag in seconds is wrong by as much",
            apart / 1_000
        ),
    )
    .remedy("run NTP on both machines")
}

fn role(role: &Role) -> Finding {
    if role.is_superuser || role.has_replication || role.has_provider_replication {
        return Finding::ok(format!("role {}", role.name), "it may replicate");
    }
    let quoted = crate::postgres::quote_identifier(&role.name);
    Finding::problem(format!("role {}", role.name), "it lacks REPLICATION")
        .remedy(format!("ALTER ROLE {quoted} REPLICATION; (Amazon RDS: GRANT rds_replication TO {quoted};)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::check::Severity;
    use crate::capture::catalog::ServerVersion;

    fn facts() -> Facts {
        let server = Server {
            version: ServerVersion(180_001),
            system_identifier: 1,
            timeline: 1,
            database: "app".into(),
            is_in_recovery: false,
            current_wal_lsn: pgwire_replication::Lsn(1),
            wal_level: "logical".into(),
            slots_max: 10,
            slots_used: 1,
            senders_max: 10,
            senders_used: 1,
            max_slot_wal_keep_bytes: Some(1 << 30),
            wal_keep_bytes: 0,
            wal_sender_timeout: Some(Duration::from_secs(60)),
            idle_replication_slot_timeout: None,
            server_encoding: "UTF8".into(),
            clock_ahead_us: -2_000,
        };
        let role = Role { name: "walcast".into(), has_provider_replication: true, ..Role::default() };
        Facts { server, role, tables: vec![], publication: None, slot: None, copies: 0 }
    }

    /// The severities and messages that a change to good facts brings.
    fn found(change: impl Fn(&mut Facts)) -> Vec<String> {
        let mut facts = facts();
        change(&mut facts);
        let mut findings = Vec::new();
        evaluate(
            &Request { host: "db.example.com".into(), port: 5432, sinks: 6, ..Request::default() },
            &facts,
            &mut findings,
        );
        let bad = findings.iter().filter(|finding| finding.severity > Severity::Ok);
        assert!(bad.clone().all(|finding| finding.remedy.is_some() || finding.message.contains("SQL_ASCII")));
        bad.map(|finding| format!("{} {}", finding.severity.as_str(), finding.message)).collect()
    }

    #[test]
    fn a_server_as_it_should_be_has_nothing_to_report() {
        assert_eq!(found(|_| ()), [""; 0]);
    }

    #[test]
    fn every_setting_that_hurts_is_reported() {
        type Change = fn(&mut Facts);
        let cases: [(Change, &str); 15] = [
            (|facts| facts.server.version = ServerVersion(130_002), "problem Postgres 13.2 is older"),
            (|facts| facts.server.wal_level = "replica".into(), "problem wal_level is replica"),
            (|facts| facts.server.slots_used = 10, "problem 10 of 10 replication slots"),
            (|facts| facts.server.slots_used = 9, "warning 9 of 10 replication slots"),
            (|facts| facts.server.slots_used = 4, "warning 4 of 10 replication slots"),
            (|facts| facts.server.senders_used = 8, "warning 8 of 10 WAL senders"),
            (|facts| facts.server.senders_used = 10, "problem 10 of 10 WAL senders"),
            (
                |facts| facts.server.max_slot_wal_keep_bytes = None,
                "warning max_slot_wal_keep_size is unlimited",
            ),
            (|facts| facts.server.wal_sender_timeout = None, "warning wal_sender_timeout is off"),
            (
                |facts| facts.server.wal_sender_timeout = Some(Duration::from_secs(1)),
                "warning wal_sender_timeout is 1000 ms",
            ),
            (
                |facts| facts.server.idle_replication_slot_timeout = Some(Duration::from_secs(3_600)),
                "warning idle_replication_slot_timeout is 3600 s",
            ),
            (|facts| facts.server.is_in_recovery = true, "problem it is a standby"),
            (|facts| facts.server.server_encoding = "SQL_ASCII".into(), "warning the database's encoding"),
            (|facts| facts.server.clock_ahead_us = 90_000_000, "warning this machine is 90000 ms behind"),
            (|facts| facts.role.has_provider_replication = false, "problem it lacks REPLICATION"),
        ];
        for (change, expected) in cases {
            let found = found(change);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn poolers_are_known_by_name_and_port_and_nothing_else_is_taken_for_one() {
        for (host, port, severity) in [
            ("aws-0-eu-central-1.pooler.supabase.com", 6543, Some(Severity::Problem)),
            ("aws-0-eu-central-1.pooler.supabase.com", 5432, Some(Severity::Problem)),
            ("db.abc.supabase.co", 6543, Some(Severity::Warning)),
            ("ep-cool-1-pooler.eu.aws.neon.tech", 5432, Some(Severity::Problem)),
            ("pgbouncer", 6432, Some(Severity::Warning)),
            ("db.abc.supabase.co", 5432, None),
            ("pool-records.example.com", 5433, None),
        ] {
            assert_eq!(pooler(host, port).map(|finding| finding.severity), severity, "{host}:{port}");
        }
    }
}
