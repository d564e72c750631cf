//! Findings about the publication and the slot.

use bytesize::ByteSize;

use super::{Facts, Finding, Request, Severity};
use crate::capture::publication::{Publication, PublishedTable, difference};
use crate::capture::slot::{Slot, SourceIdentity, TimelineHistory, judge};
use crate::capture::table::ReplicaIdentity;

pub(super) fn evaluate(request: &Request, facts: &Facts, findings: &mut Vec<Finding>) {
    publication(request, facts, findings);
    slot(request, facts, findings);
}

fn publication(request: &Request, facts: &Facts, findings: &mut Vec<Finding>) {
    let subject = format!("publication {}", request.publication);
    let version = facts.server.version;
    let mut wanted = Vec::new();
    let mut can_add = true;
    for (mapped, found) in request.tables.iter().zip(&facts.tables) {
        if let Ok((table, access)) = found {
            wanted.push(PublishedTable::new(table, &mapped.columns, version));
            can_add &= access.is_owned;
        }
    }
    if let Some(publication) = &facts.publication {
        rejected_updates(&subject, publication, &wanted, findings);
    }
    if wanted.is_empty() {
        return;
    }
    let difference = difference(&request.publication, facts.publication.as_ref(), &wanted, version);
    findings.extend(difference.notes.iter().map(|note| Finding::warning(&subject, note.as_str())));
    let Some(first) = difference.reasons.first() else {
        findings.push(Finding::ok(subject, format!("it covers {} mapped tables", wanted.len())));
        return;
    };
    let others = match difference.reasons.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more of the kind"),
    };
    let is_missing = facts.publication.is_none();
    let can_do = difference.is_ours && can_add && (!is_missing || facts.role.can_create_publication);
    let (severity, who) = match (can_do, is_missing) {
        (true, true) => (Severity::Ok, "walcast creates it at its start"),
        (true, false) => (Severity::Warning, "walcast changes it at its start"),
        (false, _) => (Severity::Problem, "and this role may not change that"),
    };
    findings.push(Finding {
        severity,
        subject,
        message: format!("{first}{others}; {who}"),
        remedy: Some(difference.statements.join(" ")),
    });
}

/// Tables that are published without a usable identity: the application's own statements fail, now. The mapped ones
/// among them have a finding of their own.
fn rejected_updates(
    subject: &str,
    publication: &Publication,
    wanted: &[PublishedTable],
    findings: &mut Vec<Finding>,
) {
    if !publication.publishes_update && !publication.publishes_delete {
        return;
    }
    let is_wanted =
        |member: &&crate::capture::publication::Member| wanted.iter().any(|table| table.name == member.name);
    let lacking = publication.tables.iter().filter(|member| !member.has_identity && !is_wanted(member));
    findings.extend(lacking.map(|member| {
        let (what, identity) = match member.replica_identity {
            ReplicaIdentity::Full => {
                ("whose replica identity FULL has unpublished generated columns", "DEFAULT")
            }
            _ => ("which has no replica identity", "FULL"),
        };
        let plain = member.name.plain();
        Finding::problem(subject, format!("it publishes {plain}, {what}: its UPDATE and DELETE fail"))
            .remedy(format!("ALTER TABLE {} REPLICA IDENTITY {identity};", member.name))
    }));
}

fn slot(request: &Request, facts: &Facts, findings: &mut Vec<Finding>) {
    let subject = format!("slot {}", request.slot);
    let Some(slot) = &facts.slot else {
        findings.push(Finding::ok(subject, "it does not exist; walcast creates it at its start"));
        return;
    };
    let source = SourceIdentity::new(&facts.server, &request.slot);
    let history = TimelineHistory::default();
    let judgement = judge(&source, slot.current_wal_lsn, &history, Some(slot), &[]);
    if let Some(error) = judgement.slot.error(&source) {
        let finding = Finding::problem(subject, error.to_string());
        findings.push(match error.hint_text() {
            Some(hint) => finding.remedy(hint),
            None => finding,
        });
        return;
    }
    let retained = ByteSize(slot.retained_bytes.unwrap_or(0).max(0).unsigned_abs());
    findings.push(Finding::ok(&subject, format!("it holds back {retained} of WAL")));
    findings.extend(state(&subject, slot));
}

fn state(subject: &str, slot: &Slot) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(pid) = slot.active_pid {
        let message = format!("backend {pid} uses it: a walcast that runs already, or one that died");
        findings
            .push(Finding::warning(subject, message).remedy(format!("SELECT pg_terminate_backend({pid});")));
    }
    if slot.wal_status.as_deref() == Some("unreserved") {
        findings.push(
            Finding::problem(subject, "the server is about to invalidate it, because it is too far behind")
                .remedy("start walcast now, or raise max_slot_wal_keep_size"),
        );
    }
    if slot.two_phase {
        findings.push(Finding::warning(
            subject,
            "it was created with two_phase, which walcast does not use: transactions arrive at COMMIT PREPARED",
        ));
    }
    findings
}
